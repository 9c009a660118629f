//! Each site's rows as a CSV file of its own, for carrying them to where they belong.

use std::path::Path;

use csv::Writer;

use crate::{DataError, Example, Shard};

/// Longest name of a site in a file's name, characters.
const LONGEST_NAME: usize = 64;

/// The columns, under names that [`read`](crate::read()) finds by itself.
const HEADER: [&str; 4] = ["id", "question", "answer", "category"];

/// A site's rows in the files that [`write_sites`] wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteFiles {
    /// The site.
    pub site: String,
    /// The file of its rows.
    pub file: String,
    /// Rows there.
    pub rows: usize,
    /// The file of its test rows, and how many; `None` where they are to be carved out of its rows.
    pub test: Option<(String, usize)>,
}

/// `site` as the beginning of a file's name: whatever is not an ASCII letter, digit, `.`, `_` or `-` becomes `_`.
///
/// # Errors
/// [`DataError::SiteName`] when the name is empty, longer than 64 characters, or begins with a dot.
pub fn file_name(site: &str) -> Result<String, DataError> {
    let refuse = |reason: String| Err(DataError::SiteName { site: site.to_owned(), reason });
    if site.is_empty() {
        return refuse("it is empty".into());
    }
    if site.chars().count() > LONGEST_NAME {
        return refuse(format!("it is longer than {LONGEST_NAME} characters"));
    }
    if site.starts_with('.') {
        return refuse("it begins with a dot".into());
    }
    let safe = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '_' };
    Ok(site.chars().map(safe).collect())
}

/// Writes the rows of each of `sites` to `<site>.csv` in `dir`, in their order, and those of the shard of `tests` at the
/// same place to `<site>.test.csv`. Read back, they are equal.
///
/// # Errors
/// [`DataError::SiteName`] for a site without a file name of its own (upper and lower case count as one), before
/// anything is written; [`DataError::Io`].
pub fn write_sites(
    dir: &Path,
    sites: &[Shard],
    tests: Option<&[Shard]>,
) -> Result<Vec<SiteFiles>, DataError> {
    let mut written = Vec::with_capacity(sites.len());
    let mut taken = std::collections::BTreeMap::new();
    for (place, shard) in sites.iter().enumerate() {
        let name = file_name(&shard.site)?;
        let test = tests.and_then(|tests| tests.get(place));
        let test = test.map(|test| (format!("{name}.test.csv"), test.examples.len()));
        let file = format!("{name}.csv");
        for file in std::iter::once(&file).chain(test.iter().map(|(file, _)| file)) {
            if let Some(other) = taken.insert(file.to_lowercase(), shard.site.clone()) {
                let reason = format!("its file {file} would be that of site `{other}`; rename one");
                return Err(DataError::SiteName { site: shard.site.clone(), reason });
            }
        }
        written.push(SiteFiles { site: shard.site.clone(), file, rows: shard.examples.len(), test });
    }
    for (place, (site, shard)) in written.iter().zip(sites).enumerate() {
        write_csv(&dir.join(&site.file), &shard.examples)?;
        if let (Some((file, _)), Some(test)) = (&site.test, tests.and_then(|tests| tests.get(place))) {
            write_csv(&dir.join(file), &test.examples)?;
        }
    }
    Ok(written)
}

/// Writes `rows` as CSV with the columns id, question, answer and category.
///
/// # Errors
/// [`DataError::Io`].
pub fn write_csv(path: &Path, rows: &[Example]) -> Result<(), DataError> {
    let io = |source| DataError::Io { path: path.to_path_buf(), source };
    let mut writer = Writer::from_writer(std::fs::File::create(path).map_err(io)?);
    let mut write = |record: [&str; 4]| writer.write_record(record).map_err(|e| io(e.into()));
    write(HEADER)?;
    for row in rows {
        write([&row.id, &row.question, &row.answer, &row.category])?;
    }
    writer.flush().map_err(io)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Hub, ReadOptions, read};

    fn row(id: &str, question: &str, answer: &str, category: &str) -> Example {
        Example { id: id.into(), question: question.into(), answer: answer.into(), category: category.into() }
    }

    fn shard(site: &str, examples: Vec<Example>) -> Shard {
        Shard { site: site.into(), examples }
    }

    #[test]
    fn rows_come_back_as_they_were() {
        let root = tempfile::tempdir().unwrap();
        let rows = vec![
            row("1", "one, \"two\"\r\nthree", " spaced ", "a/b"),
            row("row-2", "\u{feff}plain", "\"", ""),
            row("\"3\"", ",", "a\rb\tc", "Süd"),
            row("4", "\n\nx", "#no comment", "a/b"),
        ];
        let tests = vec![row("t", "q", "a", "c")];
        let sites = [shard("Süd / 1", rows.clone())];
        let written = write_sites(root.path(), &sites, Some(&[shard("Süd / 1", tests.clone())])).unwrap();
        let expected = SiteFiles {
            site: "Süd / 1".into(),
            file: "S_d___1.csv".into(),
            rows: 4,
            test: Some(("S_d___1.test.csv".into(), 1)),
        };
        assert_eq!(written, [expected]);
        let back = |file: &str| {
            let path = root.path().join(file).to_string_lossy().into_owned();
            read(&path, &ReadOptions::default(), &Hub::from_env()).unwrap().examples
        };
        assert_eq!(back("S_d___1.csv"), rows);
        assert_eq!(back("S_d___1.test.csv"), tests);
    }

    #[test]
    fn names_without_a_file_of_their_own_are_refused_and_nothing_is_written() {
        let root = tempfile::tempdir().unwrap();
        let refused = |names: &[&str], with_tests: bool| {
            let shards: Vec<Shard> =
                names.iter().map(|name| shard(name, vec![row("1", "q", "a", "")])).collect();
            let tests = with_tests.then_some(shards.as_slice());
            let error = write_sites(root.path(), &shards, tests).unwrap_err().to_string();
            assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0, "{names:?}");
            error
        };
        assert!(refused(&["a b", "a/b"], false).contains("that of site `a b`"));
        assert!(refused(&["North", "north"], false).contains("that of site `North`"));
        assert!(refused(&["a", "a.test"], true).contains("a.test.csv"));
        assert!(refused(&[".."], false).contains("begins with a dot"));
        assert!(refused(&[""], false).contains("is empty"));
        assert!(refused(&[&"x".repeat(65)], false).contains("longer than 64"));
        assert_eq!(file_name("SMR Gene/Disease").unwrap(), "SMR_Gene_Disease");
    }
}
