//! The resolved configuration of a run: what `runs/<id>/config.toml` holds.
//!
//! Sections follow the road of a row: `[model]`, `[data]`, `[lora]`, `[train]`, `[federation]`, `[eval]`. Every key has a
//! default, unknown keys are refused with the nearest valid one, and [`Config::validate`] refuses combinations that
//! make no sense, with the reason.

mod defaults;
mod read;
mod session;
mod validate;

use std::collections::BTreeMap;
use std::path::PathBuf;

use consilium_core::{LoraConfig, Precision, ScheduleKind};
use consilium_federation::{LocalWork, ScheduleScope, Weights};
use serde::{Deserialize, Deserializer, Serialize};

pub(crate) use read::unknown_key;

/// What can be wrong with a configuration.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// Not TOML, or a value of the wrong type.
    #[error("{0}")]
    Syntax(String),
    /// A key that does not exist.
    #[error("unknown key '{key}'{}", nearest.as_ref().map(|n| format!("; did you mean '{n}'?")).unwrap_or_default())]
    UnknownKey {
        /// The key as written.
        key: String,
        /// The valid key of the same section that looks most like it.
        nearest: Option<String>,
    },
    /// A value out of range, or keys that exclude each other.
    #[error("{key}: {reason}")]
    Invalid {
        /// `section.key`.
        key: &'static str,
        /// What is wrong and what is allowed.
        reason: String,
    },
}

/// Configurations with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// The public workshop as it was run: five hospitals, 5 rounds of 1 epoch, schedule and optimiser anew each round.
    Workshop,
    /// The same, with what we think better: one learning-rate schedule over the whole session.
    Default,
}

impl Preset {
    /// The preset's configuration.
    pub fn config(self) -> Config {
        match self {
            Self::Workshop => Config::workshop(),
            Self::Default => Config::default(),
        }
    }
}

impl std::str::FromStr for Preset {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "workshop" => Ok(Self::Workshop),
            "default" => Ok(Self::Default),
            _ => Err(format!("unknown preset '{text}'; known are workshop, default")),
        }
    }
}

/// Everything that decides what a run computes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Seed of everything random: initial adapter, splits, row order, dropout, client sampling, bootstrap.
    pub seed: u64,
    /// Threads to compute with; 0 takes all cores. Results do not depend on it.
    pub threads: usize,
    /// The frozen base model.
    pub model: ModelConfig,
    /// The rows and how sites share them.
    pub data: DataConfig,
    /// The adapter.
    pub lora: LoraConfig,
    /// Local training.
    pub train: TrainConfig,
    /// The federation.
    pub federation: FederationConfig,
    /// Asking the questions and judging the answers.
    pub eval: EvalConfig,
    /// Reserved: refused.
    #[serde(skip_serializing)]
    pub secure_aggregation: Reserved,
    /// Reserved: refused.
    #[serde(skip_serializing)]
    pub differential_privacy: Reserved,
}

/// `[model]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// Hub id (`HuggingFaceTB/SmolLM2-135M`) or directory; also the name in reports and adapters.
    pub id: String,
    /// Where the model's files lie, when that is not what `id` says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Numbers of the frozen base: `f32`, or `int8` for about twice the speed at a small error.
    pub precision: Precision,
}

/// How rows are shared among sites.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum PartitionConfig {
    /// One site for each value of `columns.category`.
    Category,
    /// Every site gets an equal random share.
    Iid {
        /// Number of sites.
        sites: usize,
    },
    /// Each category is shared by proportions drawn from a symmetric Dirichlet distribution.
    Dirichlet {
        /// Number of sites.
        sites: usize,
        /// Concentration: small is uneven, large is near iid.
        alpha: f64,
    },
    /// Random shares of given sizes.
    Sizes {
        /// Rows of each site.
        rows: Vec<usize>,
    },
}

/// Which column holds what; `None` lets the reader find the usual names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ColumnsConfig {
    /// Column of the question.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub question: Option<String>,
    /// Column of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// Column of the category, by which rows are partitioned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    /// Column of the row's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// `[data]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// File (CSV, JSONL, Parquet) or hub id of a dataset.
    pub source: String,
    /// Split of a hub dataset to train on; `None` reads them all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// File or hub id of the test rows, where they are not carved out of `source`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test_source: Option<String>,
    /// Split of a hub dataset to test on, when it is not carved out of the training split.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test_split: Option<String>,
    /// Sites by name, in the order of reports; for `partition.kind = "category"` these are the categories to take. Empty takes all.
    pub sites: Vec<String>,
    /// Training rows of each site; `None` takes all that remain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_rows: Option<usize>,
    /// Validation rows of each site, carved out of the training rows.
    pub validation_rows: usize,
    /// Test rows of each site.
    pub test_rows: usize,
    /// Prompt with `{question}` and `{answer}`; `None` is the workshop's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// Longest training row, tokens; longer ones are cut, and the cuts are counted.
    pub max_tokens: usize,
    /// Unusable rows to skip before giving up.
    pub max_bad_rows: usize,
    /// Which column holds what.
    pub columns: ColumnsConfig,
    /// Rows to keep: column -> allowed values.
    pub filter: BTreeMap<String, Vec<String>>,
    /// How rows are shared among sites.
    pub partition: PartitionConfig,
}

/// `[train]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Rows of one micro-batch.
    pub micro_batch: usize,
    /// Micro-batches of one optimiser step.
    pub accumulation: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Passes over the rows when one site trains alone (`train`); a federation counts in rounds instead.
    pub epochs: u32,
    /// Shape of the learning rate's decay.
    pub schedule: ScheduleKind,
    /// Optimiser steps of linear warm-up.
    pub warmup_steps: u64,
    /// Loss weight of prompt tokens: 1 is the whole sequence, 0 is answers only.
    pub prompt_loss_weight: f32,
    /// AdamW's decoupled weight decay.
    pub weight_decay: f64,
    /// Clip of the gradient's global norm; 0 switches it off.
    pub max_grad_norm: f64,
    /// Shuffle rows anew in each epoch.
    pub shuffle: bool,
}

/// `[federation]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FederationConfig {
    /// Rounds in all.
    pub rounds: u32,
    /// Passes over a site's rows in each round; excludes `local_steps`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_epochs: Option<u32>,
    /// Optimiser steps in each round; excludes `local_epochs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_steps: Option<u64>,
    /// How much each site's update counts.
    pub weights: Weights,
    /// What one learning-rate schedule spans.
    pub schedule: ScheduleScope,
    /// Sites asked in each round; excludes `sample_fraction`; neither asks all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sites_per_round: Option<usize>,
    /// Share of the sites asked in each round, above 0 and at most 1, rounded up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample_fraction: Option<f64>,
    /// Updates that a round needs to commit; `None` is more than half of the sites asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quorum: Option<usize>,
    /// Time that a round may take, seconds.
    pub deadline_s: f64,
    /// Reserved: refused.
    #[serde(skip_serializing)]
    pub secure_aggregation: Reserved,
    /// Reserved: refused.
    #[serde(skip_serializing)]
    pub differential_privacy: Reserved,
}

/// `[eval]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvalConfig {
    /// Test questions asked of each site's rows; `None` asks them all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub questions_per_site: Option<usize>,
    /// Longest answer, tokens; `None` is the longest training answer in this tokenizer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_new_tokens: Option<usize>,
    /// Stop after 20 new tokens, as the workshop did, to compare with its published scores.
    pub parity: bool,
    /// Resamples of the paired bootstrap.
    pub resamples: usize,
    /// Divides the logits of tokens already seen; 1 is off.
    pub repetition_penalty: f32,
    /// Questions answered side by side.
    pub batch: usize,
}

/// A name that will mean something later: any value parses, and [`Config::validate`] refuses it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reserved {
    given: bool,
}

impl<'de> Deserialize<'de> for Reserved {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde::de::IgnoredAny::deserialize(deserializer)?;
        Ok(Self { given: true })
    }
}

/// New tokens of the workshop's evaluation, which stopped there by accident.
pub const PARITY_NEW_TOKENS: usize = 20;

impl FederationConfig {
    /// What a site does in one round: `local_steps`, else `local_epochs`, else one epoch.
    pub fn local_work(&self) -> LocalWork {
        match (self.local_steps, self.local_epochs) {
            (Some(steps), _) => LocalWork::Steps(steps),
            (None, epochs) => LocalWork::Epochs(epochs.unwrap_or_else(defaults::default_local_epochs)),
        }
    }

    /// Sites asked in each round, out of `sites`.
    pub fn asked(&self, sites: usize) -> usize {
        match (self.sites_per_round, self.sample_fraction) {
            (Some(count), _) => count.min(sites),
            (None, Some(fraction)) => ((fraction * sites as f64).ceil() as usize).clamp(1, sites),
            (None, None) => sites,
        }
    }

    /// Updates that a round needs when `sites` sites take part in the session.
    pub fn needed(&self, sites: usize) -> usize {
        self.quorum.unwrap_or(self.asked(sites) / 2 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn sampling_and_quorum_have_sensible_defaults() {
        let mut federation = FederationConfig::default();
        assert_eq!((federation.asked(5), federation.needed(5)), (5, 3));
        federation.sample_fraction = Some(0.5);
        assert_eq!((federation.asked(5), federation.needed(5)), (3, 2));
        federation.sample_fraction = None;
        federation.sites_per_round = Some(2);
        assert_eq!((federation.asked(5), federation.needed(5)), (2, 2));
    }
}
