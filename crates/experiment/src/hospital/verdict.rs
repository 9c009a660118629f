//! Did joining help this hospital? Base, local and federated on its own test rows, and how its updates fared.

use std::collections::BTreeMap;
use std::fmt::Write;

use consilium_core::{Adapter, Event};
use consilium_eval::{
    Bootstrap, Metric, ModelScores, Prediction, TableOptions, Verdict, corpus_scores, render_table,
    site_verdict,
};
use serde::{Deserialize, Serialize};

use crate::budget::session_steps;
use crate::config::Config;
use crate::error::ExperimentError;
use crate::inputs::{SiteData, TrainRows};

/// What taking part in a session came to for one hospital; the whole of `site-summary.json`. It holds numbers and
/// names, and no text of a row.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SiteVerdict {
    /// The hospital.
    pub site: String,
    /// Federated against local, by ROUGE-L: one row, without a pooled model, since no row left any hospital.
    pub verdict: Verdict,
    /// The same question asked of further metrics.
    pub other_verdicts: Vec<Verdict>,
    /// Mean scores of `base`, `local-<site>` and `federated`.
    pub scores: Vec<ModelScores>,
    /// Rounds of the session.
    pub rounds_in_all: u32,
    /// The rounds in which this site was asked, in order.
    pub rounds: Vec<SiteRoundSummary>,
    /// Optimiser steps of the local model, as many as this site was asked for in all rounds together.
    pub local_steps: u64,
    /// Rows that this site trained on.
    pub train_rows: u64,
    /// Training rows that were cut to the longest sequence.
    pub truncated_rows: u64,
    /// Test rows that every model was asked.
    pub test_rows: u64,
    /// The base model's name.
    pub model: String,
    /// SHA-256 of the base model.
    pub model_sha256: String,
    /// SHA-256 of the session's plan.
    pub plan_sha256: String,
    /// Model (`federated`, `local-<site>`) to the SHA-256 of its adapter.
    pub adapter_sha256: BTreeMap<String, String>,
    /// SHA-256 of the audit log's last line when this was written.
    pub audit_sha256: String,
    /// Seed of the session.
    pub seed: u64,
    /// Wall time at this site, waiting for others included.
    pub seconds: f64,
    /// Largest resident memory of the process; 0 where the system does not tell.
    pub peak_rss_bytes: u64,
    /// Version of Consilium that made this.
    pub version: String,
}

/// How one update of a site fared.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SiteRoundSummary {
    /// Round, from 1.
    pub round: u32,
    /// Whether the update was accepted.
    pub accepted: bool,
    /// Why not, or why there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Mean training loss of the round at this site; 0 without an update.
    pub train_loss: f64,
    /// Bytes of the update.
    pub bytes_up: u64,
}

/// What a finished participation knows.
pub(super) struct Facts<'a> {
    pub config: &'a Config,
    pub data: &'a SiteData,
    pub rows: &'a TrainRows,
    pub events: &'a [Event],
    pub predictions: &'a [Prediction],
    pub adapters: &'a [(String, Adapter)],
}

impl SiteVerdict {
    /// Judges the site's answers; hashes, times and sizes are left to the caller.
    pub(super) fn judge(facts: &Facts<'_>) -> Result<Self, ExperimentError> {
        let Facts { config, data, rows, events, predictions, adapters } = facts;
        let bootstrap = Bootstrap { resamples: config.eval.resamples, seed: config.seed };
        let judge = |metric| site_verdict(predictions, &data.name, metric, &bootstrap);
        let mut others = vec![judge(Metric::ExactMatch)?];
        if predictions.iter().all(|p| p.answer_nll.is_some()) {
            others.push(judge(Metric::AnswerNll)?);
        }
        let verdict = judge(Metric::RougeL)?;
        Ok(Self {
            site: data.name.clone(),
            test_rows: verdict.rows.first().map_or(0, |row| row.questions as u64),
            verdict,
            other_verdicts: others,
            scores: corpus_scores(predictions),
            rounds_in_all: config.federation.rounds,
            rounds: rounds(events),
            local_steps: session_steps(config, rows),
            train_rows: rows.rows.len() as u64,
            truncated_rows: rows.truncated() as u64,
            model: config.model.id.clone(),
            adapter_sha256: adapters.iter().map(|(name, a)| (name.clone(), a.sha256())).collect(),
            seed: config.seed,
            version: env!("CARGO_PKG_VERSION").into(),
            ..Self::default()
        })
    }

    /// Rounds in which this site's update was accepted.
    pub fn rounds_accepted(&self) -> usize {
        self.rounds.iter().filter(|round| round.accepted).count()
    }

    /// The verdict as plain text for a terminal, in the style of [`render_table`]. Ends with a line break.
    pub fn render(&self, options: &TableOptions) -> String {
        let mut text = render_table(&self.verdict, options);
        let (accepted, all) = (self.rounds_accepted(), self.rounds_in_all);
        let _ = writeln!(text, "{accepted} of {all} rounds took an update of {}.", self.site);
        let _ = writeln!(
            text,
            "The local model trained {} steps alone, as many as all rounds together ask of this site.",
            self.local_steps
        );
        text.push_str("No pooled model: that would need every hospital's rows in one place.\n");
        for round in &self.rounds {
            if let Some(reason) = &round.reason {
                let _ = writeln!(text, "round {}: no update was taken: {reason}", round.round);
            }
        }
        text
    }
}

/// The last word about each round: a round that was worked again after a stop is told of again.
fn rounds(events: &[Event]) -> Vec<SiteRoundSummary> {
    let mut rounds = BTreeMap::new();
    for event in events {
        if let Event::SiteRound { round, accepted, reason, train_loss, bytes_up, .. } = event {
            let summary = SiteRoundSummary {
                round: *round,
                accepted: *accepted,
                reason: reason.clone(),
                train_loss: *train_loss,
                bytes_up: *bytes_up,
            };
            // What was accepted stays so: a second copy is refused as a duplicate.
            if !rounds.get(round).is_some_and(|known: &SiteRoundSummary| known.accepted) {
                rounds.insert(*round, summary);
            }
        }
    }
    rounds.into_values().collect()
}
