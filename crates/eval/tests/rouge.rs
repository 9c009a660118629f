//! ROUGE and stems equal the reference implementation's on the project's own fixtures (`golden/make_rouge.py`).

use consilium_eval::{porter, rouge};
use serde_json::Value;

/// f64 through shortest round-trip JSON: only the order of two additions may differ.
const TOLERANCE: f64 = 1e-12;

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../../golden/rouge/vectors.json")).expect("the fixture is JSON")
}

#[test]
fn scores_equal_the_reference_with_and_without_stemming() {
    let vectors = vectors();
    let pairs = vectors["pairs"].as_array().expect("pairs");
    assert!(pairs.len() > 50, "only {} pairs", pairs.len());
    for pair in pairs {
        let (prediction, reference) =
            (pair["prediction"].as_str().expect("text"), pair["reference"].as_str().expect("text"));
        for (key, stemmed) in [("plain", false), ("stemmed", true)] {
            let got = rouge(prediction, reference, stemmed);
            for (i, got) in [got.rouge1, got.rouge2, got.rouge_l].into_iter().enumerate() {
                let want = pair[key][i].as_f64().expect("score");
                assert!(
                    (got - want).abs() <= TOLERANCE,
                    "{key} {i}: {got} != {want} for\n{prediction}\n{reference}"
                );
            }
        }
    }
}

#[test]
fn stems_equal_the_reference() {
    let vectors = vectors();
    let stems = vectors["stems"].as_object().expect("stems");
    assert!(stems.len() > 300, "only {} stems", stems.len());
    let wrong: Vec<String> = stems
        .iter()
        .filter(|(word, want)| Some(porter::stem(word).as_str()) != want.as_str())
        .map(|(word, want)| format!("{word}: {} instead of {want}", porter::stem(word)))
        .collect();
    assert!(wrong.is_empty(), "{} of {} stems differ: {wrong:#?}", wrong.len(), stems.len());
}
