//! ROUGE-1, ROUGE-2 and ROUGE-L as F1 (C.-Y. Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004),
//! equal to what `rouge_score` 0.1.2 computes.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::porter::stem;

/// Words of this many letters or fewer are never stemmed.
const LONGEST_UNSTEMMED: usize = 3;

/// The F1 scores of one prediction, each in `0..=1`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rouge {
    /// Over single words.
    pub rouge1: f64,
    /// Over pairs of neighbouring words.
    pub rouge2: f64,
    /// Over the longest common subsequence of words.
    #[serde(rename = "rougeL")]
    pub rouge_l: f64,
}

/// Scores `prediction` against `reference`, with Porter stems where `stem` is set.
///
/// F1 does not care which of the two is which. A side without any word scores 0, even against itself.
pub fn rouge(prediction: &str, reference: &str, stem: bool) -> Rouge {
    let (prediction, reference) = (tokenize(prediction, stem), tokenize(reference, stem));
    Rouge {
        rouge1: ngram_f1(&prediction, &reference, 1),
        rouge2: ngram_f1(&prediction, &reference, 2),
        rouge_l: f1(lcs(&prediction, &reference), prediction.len(), reference.len()),
    }
}

/// The words that ROUGE compares: lower case, split at everything but a-z and 0-9, stemmed if longer than three.
pub fn tokenize(text: &str, stemmed: bool) -> Vec<String> {
    text.to_lowercase()
        .split(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit())
        .filter(|word| !word.is_empty())
        .map(|word| if stemmed && word.len() > LONGEST_UNSTEMMED { stem(word) } else { word.to_owned() })
        .filter(|word| !word.is_empty())
        .collect()
}

/// Harmonic mean of precision and recall for `hits` shared among `predicted` and `wanted` units.
///
/// Precision and recall are formed first, in the reference's order, so that even the last bit agrees.
fn f1(hits: usize, predicted: usize, wanted: usize) -> f64 {
    if hits == 0 {
        return 0.0;
    }
    let (precision, recall) = (hits as f64 / predicted as f64, hits as f64 / wanted as f64);
    2.0 * precision * recall / (precision + recall)
}

fn ngram_f1(prediction: &[String], reference: &[String], n: usize) -> f64 {
    let count = |words: &[String]| words.len().saturating_sub(n - 1);
    let mut left: HashMap<&[String], usize> = HashMap::new();
    for ngram in reference.windows(n) {
        *left.entry(ngram).or_default() += 1;
    }
    let mut hits = 0;
    for ngram in prediction.windows(n) {
        if let Some(count) = left.get_mut(ngram).filter(|count| **count > 0) {
            *count -= 1;
            hits += 1;
        }
    }
    f1(hits, count(prediction), count(reference))
}

/// Length of the longest common subsequence, in one row of memory.
fn lcs(a: &[String], b: &[String]) -> usize {
    let mut row = vec![0; b.len() + 1];
    for word in a {
        let mut diagonal = 0;
        for (j, other) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if word == other { diagonal + 1 } else { above.max(row[j]) };
            diagonal = above;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_worked_example() {
        // 3 of 4 and 3 of 5 words; 1 of 3 and 1 of 4 pairs; subsequence "the gene is".
        let scores = rouge("the gene TOP1 is", "the gene, it is: BRCA", false);
        assert!((scores.rouge1 - 2.0 * 0.75 * 0.6 / 1.35).abs() < 1e-15, "{scores:?}");
        assert!((scores.rouge2 - 2.0 * (1.0 / 3.0) * 0.25 / (1.0 / 3.0 + 0.25)).abs() < 1e-15, "{scores:?}");
        assert_eq!(scores.rouge_l, scores.rouge1);
    }

    #[test]
    fn tokens_are_ascii_words_and_numbers_in_lower_case() {
        assert_eq!(
            tokenize("p-value: 2.18e-01, naïve K\u{212a}", false),
            ["p", "value", "2", "18e", "01", "na", "ve", "kk"]
        );
        assert_eq!(tokenize("Targets are dying dyes", true), ["target", "are", "die", "dye"]);
    }

    #[test]
    fn empty_sides_score_zero_and_repeats_count_once_each() {
        assert_eq!(rouge("", "", true), Rouge::default());
        assert_eq!(rouge("?!", "word", true), Rouge::default());
        assert_eq!(rouge("word", "word", true), Rouge { rouge1: 1.0, rouge2: 0.0, rouge_l: 1.0 });
        assert_eq!(rouge("a a a", "a", false).rouge1, 0.5);
    }

    #[test]
    fn serde_names_are_those_of_the_reference() {
        let json = serde_json::to_string(&rouge("a b", "a b", true)).unwrap();
        assert_eq!(json, r#"{"rouge1":1.0,"rouge2":1.0,"rougeL":1.0}"#);
    }

    fn text() -> impl Strategy<Value = String> {
        prop_oneof!["[abc ]{0,24}", "\\PC{0,40}", "(the|gene|genes|is|was|drugs|-|4|, ){0,20}"]
    }

    proptest! {
        #[test]
        fn f1_is_symmetric_and_between_0_and_1(a in text(), b in text(), stemmed: bool) {
            let one = rouge(&a, &b, stemmed);
            let two = rouge(&b, &a, stemmed);
            for (x, y) in [(one.rouge1, two.rouge1), (one.rouge2, two.rouge2), (one.rouge_l, two.rouge_l)] {
                prop_assert!((x - y).abs() < 1e-12 && (0.0..=1.0).contains(&x), "{x} {y}");
            }
            prop_assert!(one.rouge_l <= one.rouge1 + 1e-12, "a subsequence is never more than the shared words");
        }

        #[test]
        fn a_text_with_words_equals_itself(a in "[a-z]{1,9}( [a-z0-9]{1,9}){1,9}", stemmed: bool) {
            let same = rouge(&a, &a, stemmed);
            prop_assert!((same.rouge1 - 1.0).abs() < 1e-12 && (same.rouge2 - 1.0).abs() < 1e-12);
            prop_assert!((same.rouge_l - 1.0).abs() < 1e-12);
        }
    }
}
