//! Files to examples: columns are mapped, rows filtered, bad rows counted.

use std::fmt;
use std::path::{Path, PathBuf};

use consilium_core::hash::Hasher;
use serde::Serialize;

use crate::error::nearest;
use crate::example::{Columns, Example};
use crate::table::{self, Cell};
use crate::{DataError, Hub, source};

/// What to read and how strict to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// Which column holds what.
    pub columns: Columns,
    /// Keep only rows whose value in each of these columns is one of those listed.
    pub filter: Vec<(String, Vec<String>)>,
    /// Bad rows to put up with; one more is an error. Default 0.
    pub max_bad_rows: usize,
    /// The split of a folder or hub data set; `all` takes every one. Default: `train`, or the only one there is.
    pub split: Option<String>,
    /// The configuration (subset) of a folder or hub data set. Default: its default, or the only one there is.
    pub config: Option<String>,
}

/// A row that was not used, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BadRow {
    /// The file.
    pub file: String,
    /// Its line there, from 1 (a record's first line); in Parquet files and JSON arrays the row, from 1.
    pub line: u64,
    /// Why it was not used.
    pub reason: String,
}

impl fmt::Display for BadRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.reason)
    }
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReadReport {
    /// The usable rows, in the order of the files.
    #[serde(skip)]
    pub examples: Vec<Example>,
    /// The first bad rows, at most [`ReadReport::BAD_ROWS_KEPT`].
    pub bad_rows: Vec<BadRow>,
    /// All bad rows.
    pub bad_count: usize,
    /// Rows that the filter dropped.
    pub filtered: usize,
    /// Rows in the files: usable, dropped and bad.
    pub rows: usize,
    /// The files, in the order read.
    pub files: Vec<PathBuf>,
    /// The columns used: question, answer, and category and id if there are any.
    pub columns: ColumnsUsed,
    /// SHA-256 over the bytes of all files in order; for one file, its own.
    pub sha256: String,
}

impl ReadReport {
    /// How many bad rows are kept word for word; the rest is only counted.
    pub const BAD_ROWS_KEPT: usize = 100;
}

/// The columns that the mapping and its defaults led to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ColumnsUsed {
    /// Column of the question.
    pub question: String,
    /// Column of the answer.
    pub answer: String,
    /// Column of the category, if there is one.
    pub category: Option<String>,
    /// Column of the id, if there is one.
    pub id: Option<String>,
}

/// Reads a file, a folder of files, or a hub data set (`owner/name`, also `owner/name@revision`).
///
/// A folder's and a data set's files are found as Python's `datasets` finds them. Rows that the filter drops are not
/// looked at further; a row that stays and has no text question and answer is bad.
///
/// # Errors
/// When the source or a column is missing, a file is broken as a whole, there are more bad rows than allowed, or no
/// row is left.
pub fn read(given: &str, options: &ReadOptions, hub: &Hub) -> Result<ReadReport, DataError> {
    let files = source::files(given, options, hub)?;
    let mut reading = Reading::default();
    for file in &files {
        reading.file(file, options)?;
    }
    let Reading { examples, bad_rows, bad_count, filtered, rows, columns, hasher } = reading;
    if bad_count > options.max_bad_rows {
        let first = bad_rows.into_iter().take(5).collect();
        return Err(DataError::TooManyBadRows { count: bad_count, allowed: options.max_bad_rows, first });
    }
    if examples.is_empty() {
        return Err(DataError::Empty { given: given.to_string(), rows, filtered, bad: bad_count });
    }
    let sha256 = hasher.finish();
    Ok(ReadReport { examples, bad_rows, bad_count, filtered, rows, files, columns, sha256 })
}

#[derive(Default)]
struct Reading {
    examples: Vec<Example>,
    bad_rows: Vec<BadRow>,
    bad_count: usize,
    filtered: usize,
    rows: usize,
    columns: ColumnsUsed,
    hasher: Hasher,
}

impl Reading {
    fn file(&mut self, path: &Path, options: &ReadOptions) -> Result<(), DataError> {
        hash_file(path, &mut self.hasher)?;
        let plan = FilePlan::new(path, options)?;
        let file = path.display().to_string();
        table::rows(path, &plan.wanted, &mut |line, row| {
            self.rows += 1;
            match row.and_then(|cells| plan.example(&cells, self.rows)) {
                Ok(Some(example)) => self.examples.push(example),
                Ok(None) => self.filtered += 1,
                Err(reason) => {
                    self.bad_count += 1;
                    if self.bad_rows.len() < ReadReport::BAD_ROWS_KEPT {
                        self.bad_rows.push(BadRow { file: file.clone(), line, reason });
                    }
                }
            }
        })?;
        self.columns = plan.columns;
        Ok(())
    }
}

/// Which cells to ask a file for, and what they mean: question, answer, then category and id if there are any, then
/// the filter's.
struct FilePlan {
    columns: ColumnsUsed,
    wanted: Vec<String>,
    category: Option<usize>,
    id: Option<usize>,
    filters: Vec<(usize, Vec<String>)>,
}

impl FilePlan {
    fn new(path: &Path, options: &ReadOptions) -> Result<Self, DataError> {
        let there = table::columns(path)?;
        let must = |name: &str, role| must_have(path, &there, name, role);
        let chosen = |name: &Option<String>, defaults: &[&str], role| match name {
            Some(name) => must(name, role).map(Some),
            None => Ok(defaults.iter().map(|name| (*name).to_string()).find(|name| there.contains(name))),
        };
        let mapping = &options.columns;
        let columns = ColumnsUsed {
            question: must(&mapping.question, "question")?,
            answer: must(&mapping.answer, "answer")?,
            category: chosen(&mapping.category, &Columns::CATEGORY_DEFAULTS, "category")?,
            id: chosen(&mapping.id, &Columns::ID_DEFAULTS, "id")?,
        };
        let mut wanted = vec![columns.question.clone(), columns.answer.clone()];
        let mut want = |name: &String| {
            wanted.push(name.clone());
            wanted.len() - 1
        };
        let category = columns.category.as_ref().map(&mut want);
        let id = columns.id.as_ref().map(&mut want);
        let mut filters = Vec::new();
        for (column, allowed) in &options.filter {
            filters.push((want(&must(column, "filter")?), allowed.clone()));
        }
        Ok(Self { columns, wanted, category, id, filters })
    }

    /// The row as an example; `None` when the filter drops it; the reason when it is bad.
    fn example(&self, cells: &[Cell], row: usize) -> Result<Option<Example>, String> {
        for (place, allowed) in &self.filters {
            let value = cells[*place].as_label().unwrap_or("");
            if !allowed.iter().any(|allowed| allowed == value) {
                return Ok(None);
            }
        }
        let label =
            |place: Option<usize>| place.and_then(|place| cells[place].as_label()).unwrap_or("").to_string();
        let mut id = label(self.id);
        if id.is_empty() {
            id = format!("row-{row}");
        }
        Ok(Some(Example {
            question: text(&cells[0], &self.columns.question)?,
            answer: text(&cells[1], &self.columns.answer)?,
            category: label(self.category),
            id,
        }))
    }
}

fn text(cell: &Cell, column: &str) -> Result<String, String> {
    match cell {
        Cell::Text(text) if text.trim().is_empty() => Err(format!("`{column}` is empty")),
        Cell::Text(text) => Ok(text.clone()),
        Cell::Missing => Err(format!("`{column}` is missing")),
        Cell::Scalar(value) => Err(format!("`{column}` is {value}, not text")),
        Cell::Other(kind) => Err(format!("`{column}` is of type {kind}, not text")),
    }
}

fn must_have(path: &Path, there: &[String], name: &str, role: &'static str) -> Result<String, DataError> {
    if there.iter().any(|column| column == name) {
        return Ok(name.to_string());
    }
    Err(DataError::NoColumn {
        path: path.to_path_buf(),
        column: name.to_string(),
        role,
        columns: there.to_vec(),
        nearest: nearest(name, there.iter().map(String::as_str)),
    })
}

pub(crate) fn hash_file(path: &Path, hasher: &mut Hasher) -> Result<(), DataError> {
    use std::io::Read;
    let io = |source| DataError::Io { path: path.to_path_buf(), source };
    let mut file = std::fs::File::open(path).map_err(io)?;
    let mut buffer = vec![0u8; 1 << 16];
    loop {
        match file.read(&mut buffer).map_err(io)? {
            0 => return Ok(()),
            read => hasher.update(&buffer[..read]),
        }
    }
}
