//! `evaluate --predictions`: scores of answers that any tool has written.

mod common;

use common::run;

const ANSWERS: &str = r#"{"prediction": "The drug targets the gene.", "reference": "The drug targets the gene.", "category": "gene"}
{"prediction": "Dogs barking", "reference": "dog barks", "category": "gene"}

{"prediction": "", "reference": "four days", "category": "time"}
"#;

#[test]
fn json_has_stemmed_scores_at_the_top_and_for_each_category() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("answers.jsonl"), ANSWERS).unwrap();
    let scores = run(dir.path(), &["evaluate", "--predictions", "answers.jsonl", "--json"]).json();
    // By hand: 1, then "dog bark" against "dog bark" after stemming = 1, then 0.
    for metric in ["rouge1", "rouge2", "rougeL"] {
        assert!((scores[metric].as_f64().unwrap() - 2.0 / 3.0).abs() < 1e-12, "{scores}");
    }
    assert_eq!(scores["exact_match"].as_f64(), Some(1.0 / 3.0));
    assert_eq!(scores["rows"], 3);
    assert_eq!(scores["macro_category"]["rougeL"], 0.5);
    assert_eq!(scores["categories"][0]["name"], "gene");
    assert_eq!(scores["categories"][0]["rougeL"], 1.0);
}

#[test]
fn without_stemming_words_must_be_the_same() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("answers.jsonl"), ANSWERS).unwrap();
    let scores =
        run(dir.path(), &["evaluate", "--predictions", "answers.jsonl", "--json", "--no-stem"]).json();
    assert!((scores["rougeL"].as_f64().unwrap() - 1.0 / 3.0).abs() < 1e-12, "{scores}");
    assert_eq!((&scores["stemmed"], &scores["macro_category"]["rougeL"]), (&false.into(), &0.25.into()));
}

#[test]
fn the_table_has_a_line_for_each_category_and_the_whole() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("answers.jsonl"), ANSWERS).unwrap();
    let table = run(dir.path(), &["evaluate", "--predictions", "answers.jsonl"]).out;
    for word in ["gene", "time", "mean of categories", "all rows", "0.6667"] {
        assert!(table.contains(word), "{word} in {table}");
    }
}

#[test]
fn unusable_answers_end_with_3_and_the_line() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("empty.jsonl", "");
    write("lacks.jsonl", "{\"prediction\": \"a\", \"reference\": \"b\"}\n{\"prediction\": \"a\"}\n");
    run(dir.path(), &["evaluate", "--predictions", "empty.jsonl"]).refused(3, &["no answer"]);
    run(dir.path(), &["evaluate", "--predictions", "lacks.jsonl"])
        .refused(3, &["lacks.jsonl:2", "reference"]);
    run(dir.path(), &["evaluate", "--predictions", "gone.jsonl"])
        .refused(1, &["gone.jsonl", "next: check the path"]);
}
