//! The run as one self-contained HTML file.

use consilium_core::Event;
use serde::{Deserialize, Serialize};

use crate::prediction::Prediction;
use crate::summary::Summary;

/// Everything that the report shows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReportInput {
    /// `summary.json`.
    pub summary: Summary,
    /// `metrics.jsonl`.
    pub events: Vec<Event>,
    /// `predictions.jsonl`.
    pub predictions: Vec<Prediction>,
    /// `config.toml`, as it was resolved.
    pub config_toml: String,
}
