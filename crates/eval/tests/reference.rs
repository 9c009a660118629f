//! ROUGE against real answers scored by the reference implementation, outside this repository.
//!
//! Reads `data/rouge` below the folder that `CONSILIUM_REFERENCE_DIR` names and says so where it is unset. The
//! project's own fixtures are checked by `tests/rouge.rs` and need nothing.

use std::path::PathBuf;

use consilium_eval::{porter, rouge};
use serde_json::Value;

const TOLERANCE: f64 = 1e-12;

#[test]
fn rouge_equals_the_reference_on_real_answers() {
    let Some(root) = std::env::var_os("CONSILIUM_REFERENCE_DIR").map(PathBuf::from) else {
        println!("skipped: CONSILIUM_REFERENCE_DIR is not set");
        return;
    };
    let read = |name: &str| -> Value {
        let path = root.join("data/rouge").join(name);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    };
    let (scores, wrong_scores) = check_scores(&read("pairs.json"), &read("vectors.json"));
    let (stems, wrong_stems) = check_stems(&read("stems.json"));
    println!("{wrong_scores} of {scores} scores and {wrong_stems} of {stems} stems and token lists differ");
    assert!(
        scores >= 6000 && stems >= 2000,
        "the vectors are thinner than expected: {scores} scores, {stems} stems"
    );
    assert_eq!((wrong_scores, wrong_stems), (0, 0));
}

/// Every F1 of every pair, and the means overall and per category: `(checked, wrong)`.
fn check_scores(pairs: &Value, vectors: &Value) -> (usize, usize) {
    let (mut checked, mut wrong) = (0, 0);
    let mut compare = |got: f64, want: &Value, what: &str| {
        checked += 1;
        if want.as_f64().is_none_or(|want| (got - want).abs() > TOLERANCE) {
            wrong += 1;
            println!("{what}: {got} instead of {want}");
        }
    };
    let pairs = pairs.as_array().expect("pairs.json is a list");
    for (set, by_stemming) in vectors["sets"].as_object().expect("sets") {
        for (key, stemmed) in [("stemmer_true", true), ("stemmer_false", false)] {
            let expected = &by_stemming[key];
            let got: Vec<[f64; 3]> = pairs
                .iter()
                .map(|pair| {
                    let text = |field: &str| {
                        pair[field].as_str().unwrap_or_else(|| panic!("no text {field} in {pair}"))
                    };
                    let r = rouge(text(set), text("reference"), stemmed);
                    [r.rouge1, r.rouge2, r.rouge_l]
                })
                .collect();
            for (m, metric) in ["rouge1", "rouge2", "rougeL"].into_iter().enumerate() {
                for (i, row) in got.iter().enumerate() {
                    let want = &expected["per_pair_fmeasure"][metric][i];
                    compare(row[m], want, &format!("{set} {key} {metric} pair {i}"));
                }
                let mean = |category: Option<&str>| {
                    let of = |pair: &Value| category.is_none_or(|c| pair["bio_category"] == *c);
                    let chosen: Vec<f64> =
                        got.iter().zip(pairs).filter(|(_, pair)| of(pair)).map(|(row, _)| row[m]).collect();
                    chosen.iter().sum::<f64>() / chosen.len() as f64
                };
                compare(mean(None), &expected["mean"][metric], &format!("{set} {key} {metric} mean"));
                for (category, want) in expected["mean_per_category"].as_object().expect("categories") {
                    compare(mean(Some(category)), &want[metric], &format!("{set} {key} {metric} {category}"));
                }
            }
        }
    }
    (checked, wrong)
}

/// Every stem, and every token list in both forms: `(checked, wrong)`.
fn check_stems(stems: &Value) -> (usize, usize) {
    let (mut checked, mut wrong) = (0, 0);
    let mut compare = |same: bool, what: &str| {
        checked += 1;
        if !same {
            wrong += 1;
            println!("differs: {what}");
        }
    };
    for (word, want) in stems["stems"].as_object().expect("stems") {
        // Words of up to three letters are listed as ROUGE leaves them: unstemmed.
        let got = if word.len() > 3 { porter::stem(word) } else { word.clone() };
        compare(want == &got, word);
    }
    for case in stems["tokenize"].as_array().expect("tokenize") {
        let text = case["text"].as_str().expect("text");
        for (key, stemmed) in [("plain", false), ("stemmed", true)] {
            let tokens =
                serde_json::to_value(consilium_eval::rouge::tokenize(text, stemmed)).expect("strings");
            compare(case[key] == tokens, text);
        }
    }
    (checked, wrong)
}
