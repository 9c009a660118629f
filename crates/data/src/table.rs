//! One data file as rows of named cells, whatever its format.
//!
//! A file tells its columns first and then hands out one row at a time. A row that cannot be
//! decoded is handed out as its reason, so that the caller can count it; only a file that is broken as a whole is an
//! error.

mod columnar;
mod delimited;
mod json;

use std::path::Path;

use crate::DataError;

/// File formats, by extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Comma-separated with a header line (`.csv`).
    Csv,
    /// Tab-separated with a header line (`.tsv`).
    Tsv,
    /// One JSON object a line (`.jsonl`, `.ndjson`), or an array of objects (`.json`; lines are accepted there too).
    Json,
    /// Apache Parquet (`.parquet`).
    Parquet,
}

impl Format {
    /// The format that the extension of `path` names, ignoring case.
    pub fn of(path: &Path) -> Option<Format> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "csv" => Some(Format::Csv),
            "tsv" => Some(Format::Tsv),
            "jsonl" | "ndjson" | "json" => Some(Format::Json),
            "parquet" => Some(Format::Parquet),
            _ => None,
        }
    }
}

/// A value of a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// The row does not have the column, or has null there.
    Missing,
    /// Text.
    Text(String),
    /// A number or truth value, in JSON's spelling.
    Scalar(String),
    /// Anything else: `list`, `object`, `binary`.
    Other(&'static str),
}

impl Cell {
    /// The value as text where it has one: good enough to filter, group and name rows by.
    pub fn as_label(&self) -> Option<&str> {
        match self {
            Cell::Text(text) | Cell::Scalar(text) => Some(text),
            Cell::Missing | Cell::Other(_) => None,
        }
    }
}

/// What a reader hands out for a row: the cells of the wanted columns in the order asked, or why there are none.
pub type Row = Result<Vec<Cell>, String>;

/// Takes `(line, row)`; the line counts from 1 (in formats without lines, the row does).
pub type Visit<'a> = dyn FnMut(u64, Row) + 'a;

/// The columns of a file in their order there; of a JSON file, every key that any row has.
///
/// # Errors
/// When the file cannot be read or its head is broken.
pub fn columns(path: &Path) -> Result<Vec<String>, DataError> {
    match format(path)? {
        Format::Csv => delimited::columns(path, b','),
        Format::Tsv => delimited::columns(path, b'\t'),
        Format::Json => json::columns(path),
        Format::Parquet => columnar::columns(path),
    }
}

/// Reads every row of a file, keeping only `wanted` columns, which must be among [`columns`].
///
/// # Errors
/// When the file cannot be read or is broken beyond single rows.
pub fn rows(path: &Path, wanted: &[String], visit: &mut Visit) -> Result<(), DataError> {
    match format(path)? {
        Format::Csv => delimited::rows(path, b',', wanted, visit),
        Format::Tsv => delimited::rows(path, b'\t', wanted, visit),
        Format::Json => json::rows(path, wanted, visit),
        Format::Parquet => columnar::rows(path, wanted, visit),
    }
}

fn format(path: &Path) -> Result<Format, DataError> {
    Format::of(path).ok_or_else(|| DataError::UnknownFormat { path: path.to_path_buf() })
}

fn open(path: &Path) -> Result<std::fs::File, DataError> {
    std::fs::File::open(path).map_err(|source| DataError::Io { path: path.to_path_buf(), source })
}
