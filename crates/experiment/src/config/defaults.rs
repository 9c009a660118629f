//! The defaults of every key: the public workshop's settings, with one schedule over the whole session.

use std::collections::BTreeMap;

use consilium_core::{LoraConfig, Precision, ScheduleKind};
use consilium_federation::{ScheduleScope, Weights};

use super::{
    ColumnsConfig, Config, DataConfig, EvalConfig, FederationConfig, ModelConfig, PartitionConfig, Reserved,
    TrainConfig,
};

impl Config {
    /// The public workshop as it was run; see [`crate::Preset::Workshop`]. Its 4-bit base, which needs a GPU, becomes
    /// an 8-bit one.
    pub fn workshop() -> Self {
        let mut config = Self::default();
        config.model.precision = Precision::Int8;
        config.federation.schedule = ScheduleScope::Round;
        config
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            seed: 42,
            threads: 0,
            model: ModelConfig::default(),
            data: DataConfig::default(),
            lora: LoraConfig::default(),
            train: TrainConfig::default(),
            federation: FederationConfig::default(),
            eval: EvalConfig::default(),
            secure_aggregation: Reserved::default(),
            differential_privacy: Reserved::default(),
        }
    }
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self { id: "HuggingFaceTB/SmolLM2-135M".into(), path: None, precision: Precision::F32 }
    }
}

impl Default for DataConfig {
    /// The workshop's five hospitals, 150 rows each, and 100 test questions each from the dataset's test split.
    fn default() -> Self {
        let hospitals = [
            "Drug Gene Relations",
            "Pharmacology",
            "Drug Meta",
            "SNP Disease Relations",
            "SMR Gene Disease Relations",
        ];
        Self {
            source: "NIH-CARD/CARDBiomedBench".into(),
            split: Some("train".into()),
            test_source: None,
            test_split: Some("test".into()),
            sites: hospitals.map(String::from).into(),
            train_rows: Some(150),
            validation_rows: 0,
            test_rows: 100,
            template: None,
            max_tokens: 1024,
            max_bad_rows: 0,
            columns: ColumnsConfig { category: Some("bio_category".into()), ..ColumnsConfig::default() },
            filter: BTreeMap::new(),
            partition: PartitionConfig::Category,
        }
    }
}

impl Default for TrainConfig {
    /// The workshop's optimiser settings.
    fn default() -> Self {
        Self {
            micro_batch: 4,
            accumulation: 8,
            learning_rate: 5e-4,
            epochs: 3,
            schedule: ScheduleKind::Linear,
            warmup_steps: 0,
            prompt_loss_weight: 1.0,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            shuffle: true,
        }
    }
}

impl Default for FederationConfig {
    fn default() -> Self {
        Self {
            rounds: 5,
            local_epochs: None,
            local_steps: None,
            weights: Weights::Examples,
            schedule: ScheduleScope::Session,
            sites_per_round: None,
            sample_fraction: None,
            quorum: None,
            deadline_s: default_deadline_s(),
            secure_aggregation: Reserved::default(),
            differential_privacy: Reserved::default(),
        }
    }
}

/// A day: long enough that a simulation's result never depends on the machine's speed.
fn default_deadline_s() -> f64 {
    86_400.0
}

/// One pass over a site's rows in each round.
pub(super) fn default_local_epochs() -> u32 {
    1
}

impl Default for EvalConfig {
    fn default() -> Self {
        Self {
            questions_per_site: None,
            max_new_tokens: None,
            parity: false,
            resamples: 10_000,
            repetition_penalty: 1.0,
            batch: 32,
        }
    }
}
