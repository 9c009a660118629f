//! Progress and numbers leave every library through one sink, as plain events that hold no row of data.

use std::sync::Mutex;

use serde::{Deserialize, Serialize};

/// Something that happened, worth a line in `metrics.jsonl` or a mark on the screen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// One optimiser step.
    Step {
        /// The model being trained: `local-<site>`, `federated`, `pooled`.
        model: String,
        /// The site that trains; absent for a pooled model.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        site: Option<String>,
        /// Federated round, from 1.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        round: Option<u32>,
        /// Optimiser step of this model (and site) over the whole run, from 1.
        step: u64,
        /// Steps in all.
        steps: u64,
        /// Mean loss of the accumulated batch, nats per token, before the update.
        loss: f64,
        /// Learning rate as applied.
        lr: f64,
        /// Gradient norm before clipping.
        grad_norm: f64,
        /// Tokens of this step.
        tokens: usize,
        /// Wall time of this step.
        seconds: f64,
    },
    /// A site's part in a round has ended.
    SiteRound {
        /// Round, from 1.
        round: u32,
        /// Site name.
        site: String,
        /// Whether the update was counted.
        accepted: bool,
        /// Why not.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        reason: Option<String>,
        /// Training rows behind the update.
        examples: u64,
        /// Mean training loss over the round's steps.
        train_loss: f64,
        /// Wall time of the site's work.
        seconds: f64,
        /// Bytes of the update as sent.
        bytes_up: u64,
    },
    /// A round has ended.
    Round {
        /// Round, from 1.
        round: u32,
        /// Rounds in all.
        rounds: u32,
        /// Whether a new global model was committed.
        committed: bool,
        /// Sites whose updates were counted, in name order.
        accepted: Vec<String>,
        /// Mean training loss over the accepted sites, weighted as the strategy weighs them.
        train_loss: f64,
        /// Wall time.
        seconds: f64,
        /// Bytes of all updates.
        bytes_up: u64,
        /// Bytes of all models sent to sites.
        bytes_down: u64,
        /// SHA-256 of the global adapter after the round.
        adapter_sha256: String,
    },
    /// Long work moves on; for the screen, not for `metrics.jsonl`.
    Progress {
        /// What is being done: `evaluating federated`.
        task: String,
        /// Units done.
        done: u64,
        /// Units in all.
        total: u64,
        /// What is counted: `questions`, `rows`, `bytes`.
        unit: String,
    },
    /// A model's score on the test rows of a site (or `all`).
    Score {
        /// `base`, `local-<site>`, `federated`, `pooled`.
        model: String,
        /// Site name or `all`.
        site: String,
        /// `rouge1`, `rouge2`, `rougeL`, `exact_match`, `answer_nll`.
        metric: String,
        /// Mean over the rows.
        value: f64,
        /// Number of rows.
        rows: u64,
    },
    /// Something that a user should know, in a sentence.
    Note {
        /// The sentence.
        text: String,
    },
}

/// Takes events, from any thread.
pub trait Sink: Send + Sync {
    /// Takes one event. Must not block for long and must not panic.
    fn record(&self, event: &Event);
}

/// Forgets everything.
pub struct NullSink;

impl Sink for NullSink {
    fn record(&self, _: &Event) {}
}

/// Keeps everything, for tests and for the caller to look at later.
#[derive(Default)]
pub struct MemorySink(Mutex<Vec<Event>>);

impl MemorySink {
    /// The events so far, in the order in which they came.
    pub fn events(&self) -> Vec<Event> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }
}

impl Sink for MemorySink {
    fn record(&self, event: &Event) {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(event.clone());
    }
}

/// Hands each event to several sinks.
pub struct Fanout<'a>(pub Vec<&'a dyn Sink>);

impl Sink for Fanout<'_> {
    fn record(&self, event: &Event) {
        for sink in &self.0 {
            sink.record(event);
        }
    }
}
