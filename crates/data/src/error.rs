//! What can go wrong between a data source and a batch, with the facts that a user needs to mend it.

use std::path::PathBuf;

use crate::hub::HubError;
use crate::read::BadRow;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The file or folder does not exist.
    #[error("{path}: no such file or folder")]
    NotFound {
        /// As given.
        path: PathBuf,
    },
    /// Neither a path nor something that can be a hub id.
    #[error("`{given}` is neither a file or folder here nor a hub id of the form owner/name")]
    UnknownSource {
        /// As given.
        given: String,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file as a whole is not what its name says.
    #[error("{path}: not a readable {format} file: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// `CSV`, `JSON`, `JSONL`, `Parquet`.
        format: &'static str,
        /// What the decoder said.
        reason: String,
    },
    /// The extension says nothing that we can read.
    #[error("{path}: cannot tell the format; known are .csv, .tsv, .jsonl, .ndjson, .json and .parquet")]
    UnknownFormat {
        /// The file.
        path: PathBuf,
    },
    /// The hub, or its cache, does not give what was asked.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// A named column is not there.
    #[error("{path}: no column `{column}` for the {role}; columns: {}{}", columns.join(", "), hint(nearest.as_deref()))]
    NoColumn {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        column: String,
        /// `question`, `answer`, `category`, `id`, `filter`.
        role: &'static str,
        /// The columns that there are.
        columns: Vec<String>,
        /// The one whose name is closest, if any is close.
        nearest: Option<String>,
    },
    /// More bad rows than allowed.
    #[error("{count} bad rows, {allowed} allowed (max_bad_rows): {}", first_rows(first, *count))]
    TooManyBadRows {
        /// All of them.
        count: usize,
        /// The limit.
        allowed: usize,
        /// The first few.
        first: Vec<BadRow>,
    },
    /// Nothing is left after filters and bad rows.
    #[error("{given}: no usable row ({rows} read, {filtered} dropped by the filter, {bad} bad)")]
    Empty {
        /// The source as given.
        given: String,
        /// Rows in the files.
        rows: usize,
        /// Rows that the filter dropped.
        filtered: usize,
        /// Bad rows.
        bad: usize,
    },
    /// The asked split is not there.
    #[error("{given}: no split `{split}`; splits: {}", splits.join(", "))]
    NoSplit {
        /// The source as given.
        given: String,
        /// The split asked for.
        split: String,
        /// The splits that there are.
        splits: Vec<String>,
    },
    /// The data set has several configurations and none was chosen.
    #[error("{given}: {}; configurations: {}", asked_config(asked.as_deref()), configs.join(", "))]
    NoConfig {
        /// The source as given.
        given: String,
        /// The one asked for.
        asked: Option<String>,
        /// The ones that there are.
        configs: Vec<String>,
    },
    /// No data file was found.
    #[error("{given}: no csv, tsv, json, jsonl or parquet file found{reason}")]
    NoDataFiles {
        /// The source as given.
        given: String,
        /// More about it, beginning with a separator, or nothing.
        reason: String,
    },
    /// The YAML header of a data set card does not parse.
    #[error("{path}: the card's YAML header does not parse: {reason}")]
    Card {
        /// The card.
        path: PathBuf,
        /// What the parser said.
        reason: String,
    },
    /// A site name that no category has.
    #[error("no row has category `{site}`; categories: {}{}", categories.join(", "), hint(nearest.as_deref()))]
    NoSuchSite {
        /// The site asked for.
        site: String,
        /// The categories that there are.
        categories: Vec<String>,
        /// The one whose name is closest, if any is close.
        nearest: Option<String>,
    },
    /// A site whose name cannot be that of its files.
    #[error("site `{site}` cannot name a file: {reason}")]
    SiteName {
        /// The site.
        site: String,
        /// Why not.
        reason: String,
    },
    /// A partition that cannot be made.
    #[error("cannot partition {rows} rows: {reason}")]
    Partition {
        /// Rows to share out.
        rows: usize,
        /// Why not.
        reason: String,
    },
    /// A site has fewer rows than its split asks for.
    #[error(
        "site `{site}` has {rows} rows, but {train} training + {validation} validation + {test} test rows are asked for"
    )]
    NotEnoughRows {
        /// The site.
        site: String,
        /// Its rows.
        rows: usize,
        /// Training rows asked for (at least 1 when all the rest is asked for).
        train: usize,
        /// Validation rows asked for.
        validation: usize,
        /// Test rows asked for.
        test: usize,
    },
    /// A row number beyond the rows.
    #[error("there is no row {row}: the data has {rows}, counted from 0")]
    NoRow {
        /// The number asked for.
        row: usize,
        /// Rows that there are.
        rows: usize,
    },
    /// A template that cannot be used.
    #[error("template: {reason}")]
    Template {
        /// Why not.
        reason: String,
    },
    /// The tokenizer cannot be loaded or used.
    #[error("tokenizer {name}: {reason}")]
    Tokenizer {
        /// Its file, or `(bytes)`.
        name: String,
        /// Why not.
        reason: String,
    },
    /// The tokenizer has more tokens than the model.
    #[error(
        "the tokenizer has ids up to {largest_id}, but the model's vocabulary holds {vocab}: they do not belong together"
    )]
    TokenizerDoesNotFit {
        /// Largest id of the tokenizer.
        largest_id: u32,
        /// `vocab_size` of the model.
        vocab: usize,
    },
}

fn hint(nearest: Option<&str>) -> String {
    nearest.map(|name| format!(". Did you mean `{name}`?")).unwrap_or_default()
}

fn asked_config(asked: Option<&str>) -> String {
    match asked {
        Some(name) => format!("no configuration `{name}`"),
        None => "several configurations, choose one".to_string(),
    }
}

fn first_rows(rows: &[BadRow], count: usize) -> String {
    let shown: Vec<String> = rows.iter().map(BadRow::to_string).collect();
    let more = if count > rows.len() { "; ..." } else { "" };
    format!("{}{more}", shown.join("; "))
}

/// The candidate closest to `name`, when it is close enough to be a slip of the pen: at most two letters,
/// or a third of them, differ (edit distance, ignoring case and the difference between `-`, `_` and space).
pub(crate) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let plain = |text: &str| -> Vec<char> {
        text.chars()
            .flat_map(char::to_lowercase)
            .map(|c| if matches!(c, '-' | ' ') { '_' } else { c })
            .collect()
    };
    let wanted = plain(name);
    candidates
        .into_iter()
        .map(|candidate| (edit_distance(&wanted, &plain(candidate)), candidate))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| *distance <= (wanted.len() / 3).max(2) && *distance < wanted.len())
        .map(|(_, candidate)| candidate.to_string())
}

/// Levenshtein distance, one row of the table at a time.
fn edit_distance(a: &[char], b: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_offered_only_when_it_is_near() {
        let columns = ["question", "answer", "bio_category"];
        assert_eq!(nearest("Questions", columns).as_deref(), Some("question"));
        assert_eq!(nearest("bio category", columns).as_deref(), Some("bio_category"));
        assert_eq!(nearest("answr", columns).as_deref(), Some("answer"));
        assert_eq!(nearest("template", columns), None);
    }

    #[test]
    fn edit_distance_counts_single_letter_changes() {
        let distance =
            |a: &str, b: &str| edit_distance(&Vec::from_iter(a.chars()), &Vec::from_iter(b.chars()));
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", "abc"), 0);
    }
}
