//! Which files belong to which split, by the rules of Python's `datasets` (its module `data_files`).
//!
//! Three looks, the first that finds anything wins: shards named `data/<split>-00000-of-00005...`, folders named
//! after a split, files named after a split. If none does, all files together are `train`.

use std::path::Path;

use crate::table::Format;

/// The files of one split, in the order to read them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitFiles {
    /// `train`, `validation`, `test`, or a name of the data set's own.
    pub split: String,
    /// Paths relative to the data set's root, with `/`.
    pub files: Vec<String>,
}

/// The words by which a folder or file is known to belong to a split.
const KEYWORDS: [(&str, &[&str]); 3] = [
    ("train", &["train", "training"]),
    ("validation", &["validation", "valid", "dev", "val"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];

/// A keyword counts only as a whole word: one of these, or an end, must stand on either side.
const SEPARATORS: &str = "[-._ 0-9]";

/// Files that describe a data set and hold no rows of it.
const DESCRIPTIONS: [&str; 5] =
    ["README.md", "config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json"];

/// The splits that the names of `files` (relative to the root, with `/`) tell of. Files that are hidden or no data are
/// passed over; of several formats the most frequent one is taken.
pub fn by_name(files: &[String]) -> Vec<SplitFiles> {
    let files = of_one_format(files.iter().filter(|name| is_data(name)).cloned().collect());
    if files.is_empty() {
        return Vec::new();
    }
    for found in [shards(&files), by_keyword(&files, &folder_patterns), by_keyword(&files, &file_patterns)] {
        if !found.is_empty() {
            return found;
        }
    }
    vec![SplitFiles { split: "train".to_string(), files }]
}

/// The files that any of `patterns` matches, sorted within each pattern, none twice.
pub fn matching(files: &[String], patterns: &[String]) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for pattern in patterns {
        let pattern = pattern.trim_start_matches("./");
        let mut matches: Vec<&String> = files.iter().filter(|name| glob(pattern, name)).collect();
        matches.sort();
        for name in matches {
            if !found.contains(name) {
                found.push(name.clone());
            }
        }
    }
    found
}

/// Whether a file can hold rows: a known extension, no description, and nothing hidden on its path.
pub(crate) fn is_data(name: &str) -> bool {
    let hidden = name.split('/').any(|part| part.starts_with('.') || part.starts_with("__"));
    let base = name.rsplit('/').next().unwrap_or(name);
    !hidden && !DESCRIPTIONS.contains(&base) && Format::of(Path::new(name)).is_some()
}

/// Keeps the format with the most files; on a tie Parquet goes before JSON and JSON before CSV.
pub(crate) fn of_one_format(mut files: Vec<String>) -> Vec<String> {
    let rank = |name: &str| match Format::of(Path::new(name)) {
        Some(Format::Parquet) => Some(2),
        Some(Format::Json) => Some(1),
        Some(Format::Csv | Format::Tsv) => Some(0),
        None => None,
    };
    let count = |wanted: usize| files.iter().filter(|name| rank(name) == Some(wanted)).count();
    let most = (0..3).max_by_key(|&wanted| (count(wanted), wanted));
    files.retain(|name| rank(name) == most);
    files.sort();
    files
}

/// `data/<split>-00000-of-00001<anything>.<anything>`, for splits of any name.
fn shards(files: &[String]) -> Vec<SplitFiles> {
    let digits = "[0-9]".repeat(5);
    let pattern = format!("data/*-{digits}-of-{digits}*.*");
    let mut found: Vec<SplitFiles> = Vec::new();
    for name in files.iter().filter(|name| glob(&pattern, name)) {
        let Some((split, _)) = name["data/".len()..].split_once('-') else { continue };
        if split.is_empty() || !split.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '.')) {
            continue;
        }
        match found.iter_mut().find(|known| known.split == split) {
            Some(known) => known.files.push(name.clone()),
            None => found.push(SplitFiles { split: split.to_string(), files: vec![name.clone()] }),
        }
    }
    let place = |split: &str| KEYWORDS.iter().position(|(name, _)| *name == split).unwrap_or(KEYWORDS.len());
    found.sort_by(|a, b| place(&a.split).cmp(&place(&b.split)).then_with(|| a.split.cmp(&b.split)));
    found
}

fn by_keyword(files: &[String], patterns: &dyn Fn(&str) -> Vec<String>) -> Vec<SplitFiles> {
    KEYWORDS
        .iter()
        .map(|(split, keywords)| {
            let patterns: Vec<String> = keywords.iter().flat_map(|keyword| patterns(keyword)).collect();
            SplitFiles { split: (*split).to_string(), files: matching(files, &patterns) }
        })
        .filter(|found| !found.files.is_empty())
        .collect()
}

fn folder_patterns(keyword: &str) -> Vec<String> {
    vec![
        format!("**/{keyword}/**"),
        format!("**/{keyword}{SEPARATORS}*/**"),
        format!("**/*{SEPARATORS}{keyword}/**"),
        format!("**/*{SEPARATORS}{keyword}{SEPARATORS}*/**"),
    ]
}

fn file_patterns(keyword: &str) -> Vec<String> {
    vec![format!("**/{keyword}{SEPARATORS}*"), format!("**/*{SEPARATORS}{keyword}{SEPARATORS}*")]
}

/// Whether a path matches a pattern: `*`, `?` and `[...]` stay inside a path part, `**` stands for any number of parts.
fn glob(pattern: &str, path: &str) -> bool {
    let pattern: Vec<&str> = pattern.split('/').collect();
    let path: Vec<&str> = path.split('/').collect();
    parts_match(&pattern, &path)
}

fn parts_match(pattern: &[&str], path: &[&str]) -> bool {
    match (pattern, path) {
        ([], []) => true,
        // At the end `**` needs something to stand for: `train/**` is not `train` itself.
        (["**"], path) => !path.is_empty(),
        (["**", rest @ ..], path) => (0..=path.len()).any(|skipped| parts_match(rest, &path[skipped..])),
        ([first, pattern @ ..], [part, path @ ..]) => {
            let (first, part): (Vec<char>, Vec<char>) = (first.chars().collect(), part.chars().collect());
            part_matches(&first, &part) && parts_match(pattern, path)
        }
        _ => false,
    }
}

fn part_matches(pattern: &[char], text: &[char]) -> bool {
    match (pattern, text) {
        ([], []) => true,
        (['*', rest @ ..], _) => (0..=text.len()).any(|skipped| part_matches(rest, &text[skipped..])),
        (['?', rest @ ..], [_, text @ ..]) => part_matches(rest, text),
        (['[', rest @ ..], [c, text @ ..]) => match rest.iter().position(|&end| end == ']') {
            Some(end) => in_set(&rest[..end], *c) && part_matches(&rest[end + 1..], text),
            None => *c == '[' && part_matches(rest, text),
        },
        ([p, rest @ ..], [c, text @ ..]) => p == c && part_matches(rest, text),
        _ => false,
    }
}

/// `a-z` is a range, a leading `!` or `^` negates.
fn in_set(set: &[char], c: char) -> bool {
    let (negated, mut set) = match set {
        ['!' | '^', rest @ ..] => (true, rest),
        _ => (false, set),
    };
    let mut found = false;
    while let [first, rest @ ..] = set {
        if let ['-', last, after @ ..] = rest {
            found |= (*first..=*last).contains(&c);
            set = after;
        } else {
            found |= *first == c;
            set = rest;
        }
    }
    found != negated
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[&str]) -> Vec<(String, Vec<String>)> {
        let files: Vec<String> = files.iter().map(|name| (*name).to_string()).collect();
        by_name(&files).into_iter().map(|found| (found.split, found.files)).collect()
    }

    fn splits(expected: &[(&str, &[&str])]) -> Vec<(String, Vec<String>)> {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_string()).collect();
        expected.iter().map(|(split, files)| ((*split).to_string(), owned(files))).collect()
    }

    #[test]
    fn words_in_file_names_make_splits() {
        assert_eq!(
            found(&["README.md", "my_dev.csv", "bench-train-2.csv", "bench-train-1.csv", "x/eval.csv"]),
            splits(&[
                ("train", &["bench-train-1.csv", "bench-train-2.csv"]),
                ("validation", &["my_dev.csv"]),
                ("test", &["x/eval.csv"]),
            ])
        );
    }

    #[test]
    fn a_word_inside_another_does_not_count() {
        assert_eq!(
            found(&["contest.csv", "trained.csv", "devices.csv"]),
            splits(&[("train", &["contest.csv", "devices.csv", "trained.csv"])])
        );
        assert_eq!(found(&["test1.csv"]), splits(&[("test", &["test1.csv"])]), "a digit ends a word");
    }

    #[test]
    fn folders_go_before_file_names_and_shards_before_both() {
        assert_eq!(
            found(&["train/a.jsonl", "test/train-like.jsonl", "train/sub/b.jsonl"]),
            splits(&[
                ("train", &["train/a.jsonl", "train/sub/b.jsonl"]),
                ("test", &["test/train-like.jsonl"])
            ])
        );
        assert_eq!(
            found(&[
                "data/holdout-00000-of-00001.parquet",
                "data/test-00000-of-00001-abc.parquet",
                "data/train-00001-of-00002.parquet",
                "data/train-00000-of-00002.parquet",
            ]),
            splits(&[
                ("train", &["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"]),
                ("test", &["data/test-00000-of-00001-abc.parquet"]),
                ("holdout", &["data/holdout-00000-of-00001.parquet"]),
            ])
        );
    }

    #[test]
    fn hidden_files_descriptions_and_rare_formats_are_passed_over() {
        assert_eq!(
            found(&[
                ".cache/train.csv",
                "__old/train.csv",
                "dataset_info.json",
                "a.parquet",
                "a.csv",
                "b.txt"
            ]),
            splits(&[("train", &["a.parquet"])])
        );
        assert!(found(&["README.md", "script.py"]).is_empty());
    }

    #[test]
    fn globs_follow_path_parts() {
        for (pattern, path, expected) in [
            ("data/*.csv", "data/a.csv", true),
            ("data/*.csv", "data/sub/a.csv", false),
            ("**/*.csv", "a.csv", true),
            ("**/*.csv", "x/y/a.csv", true),
            ("train/**", "train", false),
            ("a?c.[jt]sv", "abc.tsv", true),
            ("[!a-c]*", "b.csv", false),
            ("[!a-c]*", "d.csv", true),
            ("**/train[-._ 0-9]*", "x/train-1.csv", true),
            ("exact.csv", "exact.csv", true),
        ] {
            assert_eq!(glob(pattern, path), expected, "{pattern} on {path}");
        }
    }
}
