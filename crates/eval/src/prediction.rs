//! One answer of one model to one test question, how it scores, and the metrics there are.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::rouge::{Rouge, rouge};

/// One line of `predictions.jsonl`.
///
/// Only `prediction` and `reference` are needed to score an answer; the rest has defaults, so that answers
/// made by any other tool can be read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// `base`, `local-<site>`, `federated` or `pooled`.
    #[serde(default)]
    pub model: String,
    /// The site whose test rows hold the question.
    #[serde(default)]
    pub site: String,
    /// Row id, unique within the site.
    #[serde(default)]
    pub id: String,
    /// Category of the question.
    #[serde(default)]
    pub category: String,
    /// The question.
    #[serde(default)]
    pub question: String,
    /// The right answer.
    pub reference: String,
    /// What the model answered.
    pub prediction: String,
    /// Whether the answer was cut off by the limit on new tokens.
    #[serde(default)]
    pub hit_limit: bool,
    /// Mean negative log-likelihood of the reference, nats per answer token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_nll: Option<f64>,
    /// Tokens of the reference, end of text included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_tokens: Option<usize>,
}

/// The scores of one prediction.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RowScore {
    /// ROUGE F1 with stemming.
    #[serde(flatten)]
    pub rouge: Rouge,
    /// 1 or 0.
    pub exact_match: f64,
    /// Mean negative log-likelihood of the reference, nats per answer token, where it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_nll: Option<f64>,
}

/// Scores `p`: ROUGE with stemming, exact match, and the likelihood it carries.
pub fn score(p: &Prediction) -> RowScore {
    RowScore {
        rouge: rouge(&p.prediction, &p.reference, true),
        exact_match: f64::from(u8::from(exact_match(&p.prediction, &p.reference))),
        answer_nll: p.answer_nll,
    }
}

/// Whether both texts are the same words once case is folded and every run of white space is one space.
pub fn exact_match(prediction: &str, reference: &str) -> bool {
    // Upper case first folds what lower case alone keeps apart: `ß` and `SS`, final and medial sigma.
    let fold = |text: &str| text.to_uppercase().to_lowercase();
    let (prediction, reference) = (fold(prediction), fold(reference));
    prediction.split_whitespace().eq(reference.split_whitespace())
}

/// What a row is scored by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Metric {
    /// ROUGE-1 F1, stemmed.
    #[serde(rename = "rouge1")]
    Rouge1,
    /// ROUGE-2 F1, stemmed.
    #[serde(rename = "rouge2")]
    Rouge2,
    /// ROUGE-L F1, stemmed.
    #[default]
    #[serde(rename = "rougeL")]
    RougeL,
    /// Share of answers equal to the reference.
    #[serde(rename = "exact_match")]
    ExactMatch,
    /// Mean negative log-likelihood of the reference, nats per answer token; lower is better.
    #[serde(rename = "answer_nll")]
    AnswerNll,
}

impl Metric {
    /// Every metric.
    pub const ALL: [Metric; 5] =
        [Metric::Rouge1, Metric::Rouge2, Metric::RougeL, Metric::ExactMatch, Metric::AnswerNll];

    /// The name in `summary.json`, `metrics.jsonl` and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Rouge1 => "rouge1",
            Metric::Rouge2 => "rouge2",
            Metric::RougeL => "rougeL",
            Metric::ExactMatch => "exact_match",
            Metric::AnswerNll => "answer_nll",
        }
    }

    /// The name for people.
    pub fn title(self) -> &'static str {
        match self {
            Metric::Rouge1 => "ROUGE-1 F1",
            Metric::Rouge2 => "ROUGE-2 F1",
            Metric::RougeL => "ROUGE-L F1",
            Metric::ExactMatch => "exact match",
            Metric::AnswerNll => "answer NLL",
        }
    }

    /// Whether a larger value is the better one.
    pub fn higher_is_better(self) -> bool {
        self != Metric::AnswerNll
    }

    /// This metric's value on a row; `None` where it was not measured.
    pub fn of(self, row: &RowScore) -> Option<f64> {
        match self {
            Metric::Rouge1 => Some(row.rouge.rouge1),
            Metric::Rouge2 => Some(row.rouge.rouge2),
            Metric::RougeL => Some(row.rouge.rouge_l),
            Metric::ExactMatch => Some(row.exact_match),
            Metric::AnswerNll => row.answer_nll,
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Metric {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Metric::ALL.into_iter().find(|m| m.name() == text).ok_or_else(|| {
            let known: Vec<&str> = Metric::ALL.iter().map(|m| m.name()).collect();
            format!("unknown metric '{text}'; known are {}", known.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_match_folds_case_and_white_space_and_nothing_else() {
        assert!(exact_match("  Yes,\n it\tdoes. ", "yes, IT does."));
        assert!(exact_match("Maß ΣΑΣ", "MASS σας"));
        assert!(exact_match("", " \n"));
        assert!(!exact_match("yes", "yes."));
        assert!(!exact_match("", "yes"));
        assert!(!exact_match("a b", "ab"));
    }

    #[test]
    fn a_line_of_another_tool_needs_only_prediction_and_reference() {
        let line = r#"{"prediction": "TOP1.", "reference": "top1", "category": "c"}"#;
        let read: Prediction = serde_json::from_str(line).unwrap();
        assert_eq!((read.category.as_str(), read.model.as_str(), read.hit_limit), ("c", "", false));
        let scores = score(&read);
        assert_eq!((scores.rouge.rouge1, scores.exact_match), (1.0, 0.0));
        let missing = serde_json::from_str::<Prediction>(r#"{"prediction": "x"}"#).unwrap_err();
        assert!(missing.to_string().contains("reference"), "{missing}");
    }

    #[test]
    fn metric_names_agree_with_serde_and_parse_back() {
        for metric in Metric::ALL {
            assert_eq!(serde_json::to_value(metric).unwrap(), metric.name());
            assert_eq!(metric.name().parse(), Ok(metric));
        }
        assert!("rouge3".parse::<Metric>().unwrap_err().contains("rougeL"));
    }
}
