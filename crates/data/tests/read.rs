//! Reading files: columns, filters, bad rows, and the errors that users will meet.

use std::path::{Path, PathBuf};

use consilium_data::{Columns, Hub, ReadOptions, ReadReport, read};

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, text).unwrap();
    path
}

fn read_path(path: &Path, options: &ReadOptions) -> Result<ReadReport, String> {
    read(path.to_str().unwrap(), options, &Hub::from_env()).map_err(|error| error.to_string())
}

const ROWS: &str = "\
uuid,question,answer,bio_category,status
a1,What is Zorvin?,A drug.,Drugs,final
a2,\"What, then, is
Melquor?\",\"A \"\"gene\"\".\",Genes,final
a3,Draft?,Perhaps.,Genes,draft
";

#[test]
fn a_csv_is_read_with_default_columns() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "rows.csv", ROWS);
    let report = read_path(&path, &ReadOptions::default()).unwrap();
    assert_eq!(report.rows, 3);
    assert_eq!(report.examples[1].question, "What, then, is\nMelquor?");
    assert_eq!(report.examples[1].answer, "A \"gene\".");
    assert_eq!(report.examples[1].category, "Genes");
    assert_eq!(report.examples[1].id, "a2");
    assert_eq!(report.columns.category.as_deref(), Some("bio_category"));
    assert_eq!(report.sha256, consilium_core::hash::sha256_hex(ROWS.as_bytes()));
}

#[test]
fn the_same_rows_come_from_jsonl_and_json() {
    let folder = tempfile::tempdir().unwrap();
    let lines = "{\"question\":\"Q1\",\"answer\":\"A1\",\"id\":7}\n{\"question\":\"Q2\",\"answer\":\"A2\",\"category\":\"c\"}\n";
    let array = format!("[{}]", lines.trim().replace('\n', ","));
    let from_lines = read_path(&write(folder.path(), "a.jsonl", lines), &ReadOptions::default()).unwrap();
    let from_array = read_path(&write(folder.path(), "a.json", &array), &ReadOptions::default()).unwrap();
    assert_eq!(from_lines.examples, from_array.examples);
    assert_eq!(from_lines.examples[0].id, "7");
    assert_eq!(from_lines.examples[1].id, "row-2");
    assert_eq!(from_lines.examples[1].category, "c");
}

#[test]
fn columns_can_be_mapped_and_rows_filtered() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "rows.csv", ROWS);
    let options = ReadOptions {
        columns: Columns {
            question: "answer".into(),
            answer: "question".into(),
            category: Some("status".into()),
            id: Some("bio_category".into()),
        },
        filter: vec![
            ("status".into(), vec!["final".into()]),
            ("bio_category".into(), vec!["Genes".into(), "Proteins".into()]),
        ],
        ..ReadOptions::default()
    };
    let report = read_path(&path, &options).unwrap();
    assert_eq!((report.examples.len(), report.filtered), (1, 2));
    assert_eq!(report.examples[0].question, "A \"gene\".");
    assert_eq!((report.examples[0].category.as_str(), report.examples[0].id.as_str()), ("final", "Genes"));
}

#[test]
fn bad_rows_are_counted_named_and_limited() {
    let folder = tempfile::tempdir().unwrap();
    let text = "{\"question\":\"Q\",\"answer\":\"A\"}\n{\"question\":\" \",\"answer\":\"A\"}\n{\"answer\":\"A\"}\n\
                {\"question\":\"Q\",\"answer\":4}\n{\"question\":[],\"answer\":\"A\"}\nnonsense\n";
    let path = write(folder.path(), "rows.jsonl", text);
    let lenient = ReadOptions { max_bad_rows: 5, ..ReadOptions::default() };
    let report = read_path(&path, &lenient).unwrap();
    assert_eq!((report.examples.len(), report.bad_count, report.rows), (1, 5, 6));
    let seen: Vec<(u64, &str)> = report.bad_rows.iter().map(|bad| (bad.line, bad.reason.as_str())).collect();
    assert_eq!(
        seen[..4],
        [
            (2, "`question` is empty"),
            (3, "`question` is missing"),
            (4, "`answer` is 4, not text"),
            (5, "`question` is of type list, not text"),
        ]
    );
    assert!(seen[4].0 == 6 && seen[4].1.starts_with("not JSON"));

    let strict = ReadOptions { max_bad_rows: 4, ..ReadOptions::default() };
    let error = read_path(&path, &strict).unwrap_err();
    assert!(error.starts_with("5 bad rows, 4 allowed (max_bad_rows): "), "{error}");
    assert!(error.contains("rows.jsonl:2: `question` is empty; "), "{error}");
}

#[test]
fn a_wrong_column_is_answered_with_the_columns_there_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "rows.csv", ROWS);
    let options = ReadOptions {
        columns: Columns { category: Some("biocategory".into()), ..Columns::default() },
        ..ReadOptions::default()
    };
    let error = read_path(&path, &options).unwrap_err();
    assert!(
        error.ends_with(
            "no column `biocategory` for the category; columns: uuid, question, answer, bio_category, status. \
             Did you mean `bio_category`?"
        ),
        "{error}"
    );
}

#[test]
fn sources_that_are_not_there_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = read_path(&folder.path().join("absent.csv"), &ReadOptions::default()).unwrap_err();
    assert!(error.ends_with("absent.csv: no such file or folder"), "{error}");
    let text = write(folder.path(), "rows.doc", "x");
    assert!(read_path(&text, &ReadOptions::default()).unwrap_err().contains("cannot tell the format"));
    let nothing =
        ReadOptions { filter: vec![("status".into(), vec!["none".into()])], ..ReadOptions::default() };
    let error = read_path(&write(folder.path(), "rows.csv", ROWS), &nothing).unwrap_err();
    assert!(error.ends_with("no usable row (3 read, 3 dropped by the filter, 0 bad)"), "{error}");
}

#[test]
fn a_folder_is_read_like_a_data_set() {
    let folder = tempfile::tempdir().unwrap();
    let rows = |answer: &str| format!("{{\"question\":\"Q\",\"answer\":\"{answer}\"}}\n");
    for (name, answer) in
        [("train/b.jsonl", "second"), ("train/a.jsonl", "first"), ("eval/c.jsonl", "held out")]
    {
        write(folder.path(), name, &rows(answer));
    }
    let answers = |split: Option<&str>| -> Result<Vec<String>, String> {
        let options = ReadOptions { split: split.map(str::to_string), ..ReadOptions::default() };
        let report = read_path(folder.path(), &options)?;
        Ok(report.examples.into_iter().map(|example| example.answer).collect())
    };
    assert_eq!(answers(None).unwrap(), ["first", "second"]);
    assert_eq!(answers(Some("test")).unwrap(), ["held out"]);
    assert_eq!(answers(Some("all")).unwrap(), ["first", "second", "held out"]);
    assert!(answers(Some("dev")).unwrap_err().ends_with("no split `dev`; splits: train, test"));

    write(folder.path(), "README.md", "---\nconfigs:\n- config_name: x\n  data_files: eval/*\n---\n");
    assert_eq!(answers(None).unwrap(), ["held out"]);
}

#[test]
fn a_parquet_file_gives_examples_and_names_its_bad_rows() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/parquet");
    let report = read_path(&golden.join("zstd.parquet"), &ReadOptions::default()).unwrap();
    assert_eq!((report.examples.len(), report.examples[3].category.as_str()), (12, "Drugs"));
    let lenient = ReadOptions { max_bad_rows: 3, ..ReadOptions::default() };
    let odd = read_path(&golden.join("odd.parquet"), &lenient).unwrap();
    let seen: Vec<(u64, &str)> = odd.bad_rows.iter().map(|bad| (bad.line, bad.reason.as_str())).collect();
    assert_eq!(seen, [(2, "`question` is missing"), (3, "`question` is empty"), (5, "`answer` is missing")]);
}
