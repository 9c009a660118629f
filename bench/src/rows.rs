//! The rows of a measurement: the same ones, in the same order, as the peer's scripts take.

use std::path::Path;

use anyhow::{Context, Result, bail};
use consilium_core::hash::sha256_hex;
use consilium_data::{DataError, Example, Hub, ReadOptions, read};

/// `wanted` rows of a table. A row's place is the SHA-256 of its question, a line feed and its answer: a shuffle that
/// other languages can repeat. Where the table has a column `status`, only rows that say `template` count: in
/// CARDBiomedBench those are the ones made from a template.
pub fn rows(path: &Path, wanted: usize) -> Result<Vec<Example>> {
    let given = path.display().to_string();
    let hub = Hub::from_env();
    let templates =
        ReadOptions { filter: vec![("status".into(), vec!["template".into()])], ..Default::default() };
    let report = match read(&given, &templates, &hub) {
        Err(DataError::NoColumn { role: "filter", .. }) => read(&given, &ReadOptions::default(), &hub),
        other => other,
    };
    let rows = report.with_context(|| format!("reading rows from {given}"))?.examples;
    let there = rows.len();
    if there < wanted {
        bail!("{given} has {there} usable rows; {wanted} are needed");
    }
    Ok(in_order(rows).into_iter().take(wanted).collect())
}

fn in_order(mut rows: Vec<Example>) -> Vec<Example> {
    rows.sort_by_cached_key(|row| sha256_hex(format!("{}\n{}", row.question, row.answer).as_bytes()));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_are_no_templates_are_left_out_and_the_order_is_the_hashes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.csv");
        std::fs::write(&path, "question,answer,status\nq1,a,template\nq2,a,other\nq3,a,template\n").unwrap();
        let found = rows(&path, 2).unwrap();
        let mut expected = ["q1", "q3"];
        expected.sort_by_key(|q| sha256_hex(format!("{q}\na").as_bytes()));
        assert_eq!(found.iter().map(|row| row.question.as_str()).collect::<Vec<_>>(), expected);
        assert!(rows(&path, 3).unwrap_err().to_string().contains("2 usable rows"));

        std::fs::write(&path, "question,answer\nq1,a\n").unwrap();
        assert_eq!(rows(&path, 1).unwrap().len(), 1, "without the column all rows count");
    }
}
