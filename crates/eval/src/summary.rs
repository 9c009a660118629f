//! The types of `summary.json`: what a run was, what it cost and what came of it.
//!
//! Fields that a run cannot know (peak memory on a system that does not tell, a data hash of rows made in
//! memory) are `None` or empty; a summary written by an older version still reads.

use std::collections::BTreeMap;

use consilium_core::engine::ModelInfo;
use consilium_core::{Decoding, LoraConfig};
use serde::{Deserialize, Serialize};

use crate::matrix::Matrix;
use crate::scores::ModelScores;
use crate::verdict::Verdict;

/// One finished run; the whole of `summary.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Name of the run, the folder's name for example.
    pub run: String,
    /// Seed of the whole run.
    pub seed: u64,
    /// The base model and its adapter's size.
    pub model: ModelSummary,
    /// The hospitals, in the order of the config.
    pub sites: Vec<SiteSummary>,
    /// The federated rounds, in order.
    pub rounds: Vec<RoundSummary>,
    /// Did joining help?
    pub verdict: Verdict,
    /// The same question asked of further metrics.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_verdicts: Vec<Verdict>,
    /// Every local model on every site's test rows.
    pub matrix: MatrixSummary,
    /// Model name (`federated`, `pooled`, `local-<site>`) to the hash of its adapter.
    pub adapter_sha256: BTreeMap<String, String>,
    /// Wall time of the whole run.
    pub seconds: f64,
    /// Largest resident memory of the process; 0 where the system does not tell.
    pub peak_rss_bytes: u64,
    /// Version of Consilium that made the run.
    #[serde(default)]
    pub version: String,
    /// Mean scores of every model: all, macro, per site, per category.
    #[serde(default)]
    pub scores: Vec<ModelScores>,
    /// Where the rows came from.
    #[serde(default)]
    pub data: DataSummary,
    /// Sizes of the adapter, the base, and what crossed between sites and coordinator.
    #[serde(default)]
    pub sizes: SizeSummary,
    /// The LoRA configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
    /// How answers were decoded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoding: Option<Decoding>,
    /// What each model was trained for.
    #[serde(default)]
    pub training: Vec<TrainingSummary>,
    /// The machine.
    #[serde(default)]
    pub hardware: HardwareSummary,
    /// What a reader should know: sites that failed, rows that were cut, and so on. One sentence each.
    #[serde(default)]
    pub notes: Vec<String>,
}

impl Summary {
    /// The mean scores of `model`.
    pub fn scores_of(&self, model: &str) -> Option<&ModelScores> {
        self.scores.iter().find(|scores| scores.model == model)
    }
}

/// The cross-hospital matrix as it stands in the summary.
pub type MatrixSummary = Matrix;

/// The base model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelSummary {
    /// Directory name or hub id.
    pub id: String,
    /// Parameters of the frozen base.
    pub parameters: u64,
    /// Parameters of one adapter.
    pub trainable: u64,
    /// SHA-256 of the base weights.
    pub sha256: String,
    /// Longest sequence, tokens; 0 where unknown.
    #[serde(default)]
    pub context: u64,
    /// Size of the vocabulary; 0 where unknown.
    #[serde(default)]
    pub vocab: u64,
}

impl ModelSummary {
    /// Trainable parameters as a share of base and adapter together, as PEFT counts it.
    pub fn trainable_share(&self) -> f64 {
        let all = self.parameters + self.trainable;
        if all == 0 { 0.0 } else { self.trainable as f64 / all as f64 }
    }
}

impl From<&ModelInfo> for ModelSummary {
    fn from(info: &ModelInfo) -> Self {
        Self {
            id: info.id.clone(),
            parameters: info.parameters as u64,
            trainable: info.trainable as u64,
            sha256: info.sha256.clone(),
            context: info.context as u64,
            vocab: info.vocab as u64,
        }
    }
}

/// One hospital.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SiteSummary {
    /// Its name.
    pub name: String,
    /// Rows it trained on.
    pub train_rows: u64,
    /// Rows it was tested on.
    pub test_rows: u64,
    /// Rows kept aside for choosing checkpoints.
    #[serde(default)]
    pub validation_rows: u64,
    /// Training rows cut to the longest sequence.
    #[serde(default)]
    pub truncated_rows: u64,
    /// Tokens of its training rows, one pass.
    #[serde(default)]
    pub train_tokens: u64,
    /// Categories of its rows, most frequent first.
    #[serde(default)]
    pub categories: Vec<String>,
}

/// One federated round.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RoundSummary {
    /// From 1.
    pub round: u32,
    /// Mean training loss over the accepted sites, weighted as the strategy weighs them.
    pub train_loss: f64,
    /// Wall time.
    pub seconds: f64,
    /// Bytes of all updates.
    pub bytes_up: u64,
    /// Bytes of all models sent to sites.
    pub bytes_down: u64,
    /// Whether a new global model was committed.
    #[serde(default = "yes")]
    pub committed: bool,
    /// Sites whose updates were counted.
    #[serde(default)]
    pub accepted: Vec<String>,
    /// Loss of the new global model on the validation rows, where measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_loss: Option<f64>,
}

fn yes() -> bool {
    true
}

/// Where the rows came from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DataSummary {
    /// File name or hub id.
    pub source: String,
    /// SHA-256 over the files that were read.
    pub sha256: String,
    /// Good rows read.
    pub rows: u64,
    /// Rows skipped because something was wrong with them.
    pub bad_rows: u64,
    /// How rows became sites: `by bio_category`, `iid`, ...
    pub partition: String,
}

/// Bytes, computed from parameter counts and files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SizeSummary {
    /// One adapter as it travels (f32).
    pub adapter_bytes: u64,
    /// The full model in f32: what would travel without LoRA.
    pub full_model_bytes: u64,
    /// Everything that travelled, both ways, over all rounds.
    pub transferred_bytes: u64,
    /// Memory of the frozen base by precision.
    pub base_memory: BaseMemory,
}

impl SizeSummary {
    /// Sizes that follow from `model` and `rounds` alone.
    pub fn of(model: &ModelSummary, rounds: &[RoundSummary]) -> Self {
        Self {
            adapter_bytes: model.trainable * 4,
            full_model_bytes: model.parameters * 4,
            transferred_bytes: rounds.iter().map(|r| r.bytes_up + r.bytes_down).sum(),
            base_memory: BaseMemory::of(model.parameters),
        }
    }
}

/// Bytes of the frozen weights in each precision, without activations or scales.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BaseMemory {
    /// 4 bytes a parameter.
    pub f32_bytes: u64,
    /// 2 bytes a parameter.
    pub bf16_bytes: u64,
    /// 1 byte a parameter.
    pub int8_bytes: u64,
}

impl BaseMemory {
    /// For a model of `parameters`.
    pub fn of(parameters: u64) -> Self {
        Self { f32_bytes: parameters * 4, bf16_bytes: parameters * 2, int8_bytes: parameters }
    }
}

/// What one model was trained for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainingSummary {
    /// `local-<site>`, `federated`, `pooled`.
    pub model: String,
    /// Passes over each training row.
    pub passes: f64,
    /// Optimiser steps; for the federated model, of its busiest site.
    pub steps: u64,
    /// Tokens that went through the model, over all sites.
    pub tokens: u64,
    /// Wall time.
    pub seconds: f64,
    /// Training loss of the last step (federated: of the last round), nats per token.
    pub final_loss: f64,
}

/// The machine that ran.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HardwareSummary {
    /// Processor's name, or its architecture.
    pub cpu: String,
    /// Logical cores.
    pub cores: u64,
    /// Threads that the engine used.
    pub threads: u64,
    /// Memory of the machine; 0 where unknown.
    pub memory_bytes: u64,
    /// Operating system.
    pub os: String,
    /// Kernel that was chosen: `avx512`, `avx2`, `portable`, ...
    pub kernel: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_summary_reads_and_sizes_follow_from_parameters() {
        let json = r#"{"run": "r", "seed": 7,
            "model": {"id": "m", "parameters": 134515008, "trainable": 460800, "sha256": "ab"},
            "sites": [{"name": "a", "train_rows": 10, "test_rows": 4}],
            "rounds": [{"round": 1, "train_loss": 2.5, "seconds": 1.0, "bytes_up": 10, "bytes_down": 20}],
            "verdict": {"metric": "rougeL", "rows": [{"site": "a", "base": 0.1, "local": 0.2, "federated": 0.3,
                "pooled": 0.4, "difference": 0.1, "ci95": [0.0, 0.2], "worse_off": false}]},
            "matrix": {"metric": "rougeL", "sites": ["a"], "values": [[0.2]]},
            "adapter_sha256": {"federated": "cd"}, "seconds": 3.5, "peak_rss_bytes": 1000}"#;
        let summary: Summary = serde_json::from_str(json).unwrap();
        assert!(summary.rounds[0].committed);
        assert_eq!(summary.verdict.rows[0].pooled, Some(0.4));
        let share = summary.model.trainable_share();
        assert!((share * 100.0 - 0.3414).abs() < 5e-5, "the reference prints 0.3414 %, got {share}");
        let sizes = SizeSummary::of(&summary.model, &summary.rounds);
        assert_eq!((sizes.adapter_bytes, sizes.transferred_bytes), (1_843_200, 30));
        assert_eq!(sizes.base_memory.bf16_bytes, 269_030_016);
        let again: Summary = serde_json::from_str(&serde_json::to_string(&summary).unwrap()).unwrap();
        assert_eq!(again, summary);
    }

    #[test]
    fn the_required_names_are_written_exactly() {
        let value = serde_json::to_value(Summary::default()).unwrap();
        for name in [
            "run",
            "seed",
            "model",
            "sites",
            "rounds",
            "verdict",
            "matrix",
            "adapter_sha256",
            "seconds",
            "peak_rss_bytes",
        ] {
            assert!(value.get(name).is_some(), "{name}");
        }
    }
}
