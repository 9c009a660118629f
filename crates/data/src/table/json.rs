//! JSON lines (one object a line), and a whole file that is one array of objects.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde_json::{Map, Value};

use super::{Cell, Visit, open};
use crate::DataError;

pub(super) fn columns(path: &Path) -> Result<Vec<String>, DataError> {
    let mut names: Vec<String> = Vec::new();
    objects(path, &mut |_, object| {
        for name in object.iter().flat_map(Map::keys) {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
    })?;
    Ok(names)
}

pub(super) fn rows(path: &Path, wanted: &[String], visit: &mut Visit) -> Result<(), DataError> {
    objects(path, &mut |line, object| visit(line, object.map(|mut object| cells(&mut object, wanted))))
}

fn cells(object: &mut Map<String, Value>, wanted: &[String]) -> Vec<Cell> {
    // Cloned and not taken: one column may serve two roles.
    wanted.iter().map(|name| object.get(name).cloned().map_or(Cell::Missing, cell)).collect()
}

fn cell(value: Value) -> Cell {
    match value {
        Value::Null => Cell::Missing,
        Value::String(text) => Cell::Text(text),
        Value::Bool(_) | Value::Number(_) => Cell::Scalar(value.to_string()),
        Value::Array(_) => Cell::Other("list"),
        Value::Object(_) => Cell::Other("object"),
    }
}

type VisitObject<'a> = dyn FnMut(u64, Result<Map<String, Value>, String>) + 'a;

fn objects(path: &Path, visit: &mut VisitObject) -> Result<(), DataError> {
    let io = |source| DataError::Io { path: path.to_path_buf(), source };
    let mut reader = BufReader::new(open(path)?);
    if reader.fill_buf().map_err(io)?.starts_with(b"\xef\xbb\xbf") {
        reader.consume(3);
    }
    let is_array = reader.fill_buf().map_err(io)?.trim_ascii_start().starts_with(b"[");
    if is_array { array(path, reader, visit) } else { lines(path, reader, visit) }
}

fn lines(path: &Path, mut reader: impl BufRead, visit: &mut VisitObject) -> Result<(), DataError> {
    let mut bytes = Vec::new();
    for line in 1.. {
        bytes.clear();
        let read = reader
            .read_until(b'\n', &mut bytes)
            .map_err(|source| DataError::Io { path: path.to_path_buf(), source })?;
        if read == 0 {
            break;
        }
        if bytes.trim_ascii().is_empty() {
            continue;
        }
        let parsed = serde_json::from_slice(&bytes).map_err(|error| format!("not JSON: {error}"));
        visit(line, parsed.and_then(object));
    }
    Ok(())
}

fn array(path: &Path, mut reader: impl Read, visit: &mut VisitObject) -> Result<(), DataError> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).map_err(|source| DataError::Io { path: path.to_path_buf(), source })?;
    let values: Vec<Value> = serde_json::from_slice(&bytes).map_err(|error| DataError::Malformed {
        path: path.to_path_buf(),
        format: "JSON",
        reason: error.to_string(),
    })?;
    for (row, value) in (1..).zip(values) {
        visit(row, object(value));
    }
    Ok(())
}

fn object(value: Value) -> Result<Map<String, Value>, String> {
    match value {
        Value::Object(object) => Ok(object),
        _ => Err("not a JSON object".to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Row;
    use super::*;

    fn read(text: &str, wanted: &[&str]) -> (Vec<String>, Vec<(u64, Row)>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.json");
        std::fs::write(&path, text).unwrap();
        let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_string()).collect();
        let mut seen = Vec::new();
        rows(&path, &wanted, &mut |line, row| seen.push((line, row))).unwrap();
        (columns(&path).unwrap(), seen)
    }

    #[test]
    fn lines_keep_their_numbers_and_types() {
        let (columns, rows) = read(
            "\u{feff}{\"q\":\"a\",\"n\":1.50}\n\n{\"q\":null,\"z\":[1]}\n{oops\n[1]\n",
            &["q", "n", "z"],
        );
        assert_eq!(columns, ["q", "n", "z"]);
        assert_eq!(rows[0], (1, Ok(vec![Cell::Text("a".into()), Cell::Scalar("1.5".into()), Cell::Missing])));
        assert_eq!(rows[1], (3, Ok(vec![Cell::Missing, Cell::Missing, Cell::Other("list")])));
        assert!(matches!(&rows[2], (4, Err(reason)) if reason.starts_with("not JSON")));
        assert_eq!(rows[3], (5, Err("not a JSON object".to_string())));
    }

    #[test]
    fn an_array_of_objects_counts_rows() {
        let (columns, rows) = read(" [\n {\"q\": \"a\"},\n {\"q\": true}, 7]", &["q"]);
        assert_eq!(columns, ["q"]);
        assert_eq!(rows[0], (1, Ok(vec![Cell::Text("a".into())])));
        assert_eq!(rows[1], (2, Ok(vec![Cell::Scalar("true".into())])));
        assert_eq!(rows[2], (3, Err("not a JSON object".to_string())));
    }
}
