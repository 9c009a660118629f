//! Everything that predictions say about a run, in the parts that `summary.json` holds.

use consilium_core::Event;

use crate::bootstrap::Bootstrap;
use crate::error::EvalError;
use crate::matrix::{Matrix, matrix};
use crate::prediction::{Metric, Prediction};
use crate::scores::{ModelScores, corpus_scores};
use crate::verdict::{ALL, Verdict, verdict};

/// The judged run.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// By ROUGE-L.
    pub verdict: Verdict,
    /// By every other metric that all rows have.
    pub other_verdicts: Vec<Verdict>,
    /// By ROUGE-L.
    pub matrix: Matrix,
    /// Mean scores of every model.
    pub scores: Vec<ModelScores>,
}

/// Judges the run by every metric.
///
/// # Errors
/// As [`verdict()`]: a missing model or row, a duplicate, an unlisted site.
pub fn judge(
    predictions: &[Prediction],
    sites: &[String],
    bootstrap: &Bootstrap,
) -> Result<Judgement, EvalError> {
    let likelihoods = predictions.iter().all(|p| p.answer_nll.is_some());
    Ok(Judgement {
        verdict: verdict(predictions, sites, Metric::RougeL, bootstrap)?,
        other_verdicts: Metric::ALL
            .into_iter()
            .filter(|&metric| metric != Metric::RougeL && (likelihoods || metric != Metric::AnswerNll))
            .map(|metric| verdict(predictions, sites, metric, bootstrap))
            .collect::<Result<_, _>>()?,
        matrix: matrix(predictions, sites, Metric::RougeL)?,
        scores: corpus_scores(predictions),
    })
}

impl Judgement {
    /// One [`Event::Score`] for each model, metric and site, and for all sites together.
    pub fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        for model in &self.scores {
            let sites = model.sites.iter().map(|site| (site.name.as_str(), &site.scores));
            for (site, scores) in sites.chain([(ALL, &model.all)]) {
                for metric in Metric::ALL {
                    let Some(value) = scores.get(metric) else { continue };
                    events.push(Event::Score {
                        model: model.model.clone(),
                        site: site.to_owned(),
                        metric: metric.name().to_owned(),
                        value,
                        rows: scores.rows as u64,
                    });
                }
            }
        }
        events
    }
}
