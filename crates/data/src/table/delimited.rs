//! CSV and TSV: a header line, then records; quoted fields may hold delimiters, quotes and newlines.

use std::io::Read;
use std::path::Path;

use csv::{ByteRecord, Reader, ReaderBuilder};

use super::{Cell, Visit, open};
use crate::DataError;

pub(super) fn columns(path: &Path, delimiter: u8) -> Result<Vec<String>, DataError> {
    header(path, &mut reader(delimiter, open(path)?))
}

pub(super) fn rows(
    path: &Path,
    delimiter: u8,
    wanted: &[String],
    visit: &mut Visit,
) -> Result<(), DataError> {
    // In memory, to count lines right: see `line_of`.
    let bytes = std::fs::read(path).map_err(|source| DataError::Io { path: path.to_path_buf(), source })?;
    let mut reader = reader(delimiter, bytes.as_slice());
    let header = header(path, &mut reader)?;
    let places: Vec<Option<usize>> =
        wanted.iter().map(|name| header.iter().position(|column| column == name)).collect();
    let mut record = ByteRecord::new();
    while reader.read_byte_record(&mut record).map_err(|error| malformed(path, &error))? {
        visit(line_of(&record, &bytes), cells(&record, header.len(), &places));
    }
    Ok(())
}

fn header<R: Read>(path: &Path, reader: &mut Reader<R>) -> Result<Vec<String>, DataError> {
    let header = reader.byte_headers().map_err(|error| malformed(path, &error))?;
    header
        .iter()
        .map(|name| match std::str::from_utf8(name) {
            Ok(name) => Ok(name.to_string()),
            Err(_) => Err(broken(path, "the header line is not UTF-8")),
        })
        .collect()
}

/// The line on which a record begins. The decoder's own position still lies before the line feed of a CRLF and before
/// blank lines, which it skips when it reads on.
fn line_of(record: &ByteRecord, bytes: &[u8]) -> u64 {
    let Some(position) = record.position() else { return 0 };
    let ahead = bytes.get(position.byte() as usize..).unwrap_or_default();
    let skipped = ahead.iter().take_while(|byte| matches!(byte, b'\r' | b'\n'));
    position.line() + skipped.filter(|&&byte| byte == b'\n').count() as u64
}

fn cells(record: &ByteRecord, columns: usize, places: &[Option<usize>]) -> super::Row {
    if record.len() != columns {
        return Err(format!("{} fields where the header has {columns}", record.len()));
    }
    let mut cells = Vec::with_capacity(places.len());
    for place in places {
        let Some(bytes) = place.and_then(|place| record.get(place)) else {
            cells.push(Cell::Missing);
            continue;
        };
        let text = std::str::from_utf8(bytes).map_err(|_| "not UTF-8".to_string())?;
        cells.push(Cell::Text(text.to_string()));
    }
    Ok(cells)
}

/// Flexible, because a record of the wrong length is one bad row and not the end of the file.
fn reader<R: Read>(delimiter: u8, source: R) -> Reader<R> {
    ReaderBuilder::new().delimiter(delimiter).flexible(true).from_reader(source)
}

fn malformed(path: &Path, error: &csv::Error) -> DataError {
    broken(path, &error.to_string())
}

fn broken(path: &Path, reason: &str) -> DataError {
    DataError::Malformed { path: path.to_path_buf(), format: "CSV", reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], wanted: &[&str]) -> Vec<(u64, super::super::Row)> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.csv");
        std::fs::write(&path, bytes).unwrap();
        let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_string()).collect();
        let mut seen = Vec::new();
        rows(&path, b',', &wanted, &mut |line, row| seen.push((line, row))).unwrap();
        seen
    }

    fn text(text: &str) -> Cell {
        Cell::Text(text.to_string())
    }

    #[test]
    fn byte_order_mark_quotes_and_newlines_inside_fields_are_understood() {
        let rows = read(
            b"\xef\xbb\xbfquestion,answer\r\n\"one, \"\"two\"\"\",\"first\nsecond\"\r\n\r\nplain,last\r\n",
            &["answer", "question"],
        );
        assert_eq!(rows[0], (2, Ok(vec![text("first\nsecond"), text("one, \"two\"")])));
        assert_eq!(rows[1], (5, Ok(vec![text("last"), text("plain")])));
        assert_eq!(rows.len(), 2);
    }

    #[test]
    fn a_record_of_the_wrong_length_or_bytes_is_one_bad_row() {
        let rows = read(b"a,b\n1,2,3\nonly\n\xff,x\n5,6\n", &["a"]);
        assert_eq!(rows[0], (2, Err("3 fields where the header has 2".to_string())));
        assert_eq!(rows[1], (3, Err("1 fields where the header has 2".to_string())));
        assert_eq!(rows[2], (4, Err("not UTF-8".to_string())));
        assert_eq!(rows[3], (5, Ok(vec![text("5")])));
    }
}
