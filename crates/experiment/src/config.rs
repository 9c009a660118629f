//! The resolved configuration of a run: what `runs/<id>/config.toml` holds.
//!
//! Sections follow the road of a row: `[model]`, `[data]`, `[lora]`, `[train]`, `[federation]`, `[eval]`. Every key has a
//! default, unknown keys are refused with the nearest valid one, and [`Config::validate`] refuses combinations that
//! make no sense, with the reason.

use std::collections::BTreeMap;
use std::path::PathBuf;

use consilium_core::{LoraConfig, ScheduleKind};
use consilium_federation::{LocalWork, ScheduleScope, Weights};
use serde::{Deserialize, Deserializer, Serialize};

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
        Self { id: "HuggingFaceTB/SmolLM2-135M".into(), path: None }
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
fn default_local_epochs() -> u32 {
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

impl FederationConfig {
    /// What a site does in one round: `local_steps`, else `local_epochs`, else one epoch.
    pub fn local_work(&self) -> LocalWork {
        match (self.local_steps, self.local_epochs) {
            (Some(steps), _) => LocalWork::Steps(steps),
            (None, epochs) => LocalWork::Epochs(epochs.unwrap_or_else(default_local_epochs)),
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

impl Config {
    /// The public workshop as it was run; see [`Preset::Workshop`].
    pub fn workshop() -> Self {
        let mut config = Self::default();
        config.federation.schedule = ScheduleScope::Round;
        config
    }

    /// Reads TOML; absent keys take their defaults. Call [`Config::validate`] afterwards.
    ///
    /// # Errors
    /// [`ConfigError::Syntax`] or [`ConfigError::UnknownKey`].
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| unknown_key(error.message(), &error))
    }

    /// Reads a TOML table, such as a preset overlaid with what the user wrote.
    ///
    /// # Errors
    /// As [`Config::from_toml`].
    pub fn from_table(table: toml::Table) -> Result<Self, ConfigError> {
        table.try_into().map_err(|error: toml::de::Error| unknown_key(error.message(), &error))
    }

    /// The whole configuration as TOML.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("every field has a form in TOML")
    }

    /// Refuses values out of range and keys that exclude each other.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with the first offending key and the reason.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.refuse_reserved()?;
        self.lora.validate().map_err(|reason| ConfigError::Invalid { key: "lora", reason })?;
        self.validate_data()?;
        self.validate_train()?;
        self.validate_federation()?;
        self.validate_eval()?;
        require(i64::try_from(self.seed).is_ok(), "seed", || {
            format!("is {}; TOML holds at most {}", self.seed, i64::MAX)
        })
    }

    fn refuse_reserved(&self) -> Result<(), ConfigError> {
        let later = "does not exist yet, and nothing stands in for it: plain updates can leak training rows. Remove the key to go on without";
        for (key, reserved) in [
            ("secure_aggregation", self.secure_aggregation),
            ("differential_privacy", self.differential_privacy),
            ("federation.secure_aggregation", self.federation.secure_aggregation),
            ("federation.differential_privacy", self.federation.differential_privacy),
        ] {
            require(!reserved.given, key, || later.into())?;
        }
        Ok(())
    }

    fn validate_data(&self) -> Result<(), ConfigError> {
        let data = &self.data;
        require(data.train_rows != Some(0), "data.train_rows", || "is 0; a site needs rows".into())?;
        require(data.max_tokens >= 2, "data.max_tokens", || {
            format!("is {}; at least 2 are needed to predict anything", data.max_tokens)
        })?;
        let mut names = data.sites.clone();
        names.sort_unstable();
        let twice = names.windows(2).find(|pair| pair[0] == pair[1]);
        require(twice.is_none(), "data.sites", || format!("names '{}' twice", twice.unwrap()[0]))?;
        let reserved = names.iter().find(|name| name.is_empty() || *name == "all");
        require(reserved.is_none(), "data.sites", || {
            format!("a site may not be called '{}'", reserved.unwrap())
        })?;
        let counted = match &data.partition {
            PartitionConfig::Category => None,
            PartitionConfig::Iid { sites } | PartitionConfig::Dirichlet { sites, .. } => Some(*sites),
            PartitionConfig::Sizes { rows } => Some(rows.len()),
        };
        require(counted != Some(0), "data.partition", || "makes no site".into())?;
        if let Some(count) = counted
            && !data.sites.is_empty()
        {
            require(count == data.sites.len(), "data.sites", || {
                format!("names {} sites, but data.partition makes {count}", data.sites.len())
            })?;
        }
        if let PartitionConfig::Dirichlet { alpha, .. } = data.partition {
            require(alpha.is_finite() && alpha > 0.0, "data.partition", || {
                format!("alpha is {alpha}; it must be a positive number")
            })?;
        }
        Ok(())
    }

    fn validate_train(&self) -> Result<(), ConfigError> {
        let train = &self.train;
        require(train.micro_batch > 0, "train.micro_batch", || "is 0; it must be at least 1".into())?;
        require(train.accumulation > 0, "train.accumulation", || "is 0; it must be at least 1".into())?;
        require(train.epochs > 0, "train.epochs", || "is 0; it must be at least 1".into())?;
        require(train.learning_rate.is_finite() && train.learning_rate > 0.0, "train.learning_rate", || {
            format!("is {}; it must be a positive number", train.learning_rate)
        })?;
        require((0.0..=1.0).contains(&train.prompt_loss_weight), "train.prompt_loss_weight", || {
            format!(
                "is {}; it lies between 0 (answers only) and 1 (whole sequence)",
                train.prompt_loss_weight
            )
        })?;
        for (key, value) in
            [("train.weight_decay", train.weight_decay), ("train.max_grad_norm", train.max_grad_norm)]
        {
            require(value.is_finite() && value >= 0.0, key, || {
                format!("is {value}; it may not be negative")
            })?;
        }
        Ok(())
    }

    fn validate_federation(&self) -> Result<(), ConfigError> {
        let federation = &self.federation;
        require(federation.rounds > 0, "federation.rounds", || "is 0; it must be at least 1".into())?;
        require(
            federation.local_steps.is_none() || federation.local_epochs.is_none(),
            "federation.local_steps",
            || "excludes federation.local_epochs; a round is measured in steps or in epochs".into(),
        )?;
        require(
            federation.local_steps != Some(0) && federation.local_epochs != Some(0),
            "federation.local_steps",
            || "or local_epochs is 0; a round needs work".into(),
        )?;
        require(
            federation.sites_per_round.is_none() || federation.sample_fraction.is_none(),
            "federation.sites_per_round",
            || "excludes federation.sample_fraction; say how many or which share".into(),
        )?;
        require(federation.sites_per_round != Some(0), "federation.sites_per_round", || {
            "is 0; a round needs sites".into()
        })?;
        if let Some(fraction) = federation.sample_fraction {
            require(fraction > 0.0 && fraction <= 1.0, "federation.sample_fraction", || {
                format!("is {fraction}; it must be above 0 and at most 1")
            })?;
        }
        require(
            federation.deadline_s.is_finite() && federation.deadline_s > 0.0,
            "federation.deadline_s",
            || format!("is {}; it must be a positive number of seconds", federation.deadline_s),
        )?;
        require(federation.quorum != Some(0), "federation.quorum", || {
            "is 0; a model cannot be made of no update".into()
        })?;
        Ok(())
    }

    fn validate_eval(&self) -> Result<(), ConfigError> {
        let eval = &self.eval;
        require(!(eval.parity && eval.max_new_tokens.is_some()), "eval.max_new_tokens", || {
            format!("excludes eval.parity, which means {PARITY_NEW_TOKENS} new tokens")
        })?;
        require(eval.max_new_tokens != Some(0), "eval.max_new_tokens", || {
            "is 0; an answer needs tokens".into()
        })?;
        require(eval.questions_per_site != Some(0), "eval.questions_per_site", || {
            "is 0; nothing could be judged".into()
        })?;
        require(eval.batch > 0, "eval.batch", || "is 0; it must be at least 1".into())?;
        require(eval.resamples > 0, "eval.resamples", || "is 0; an interval needs resamples".into())?;
        require(
            eval.repetition_penalty.is_finite() && eval.repetition_penalty > 0.0,
            "eval.repetition_penalty",
            || format!("is {}; it must be a positive number, 1 is off", eval.repetition_penalty),
        )
    }

    /// Refuses what only shows once the number of sites is known.
    ///
    /// # Errors
    /// A quorum above the number of sites asked in a round.
    pub fn validate_for_sites(&self, sites: usize) -> Result<(), ConfigError> {
        let (asked, needed) = (self.federation.asked(sites), self.federation.needed(sites));
        require(needed <= asked, "federation.quorum", || {
            format!(
                "is {needed}, but only {asked} of {sites} sites are asked in a round; no round could commit"
            )
        })
    }
}

fn require(holds: bool, key: &'static str, reason: impl FnOnce() -> String) -> Result<(), ConfigError> {
    if holds { Ok(()) } else { Err(ConfigError::Invalid { key, reason: reason() }) }
}

/// Turns serde's "unknown field `x`, expected one of `a`, `b`" into the key and its nearest neighbour.
fn unknown_key(message: &str, whole: &toml::de::Error) -> ConfigError {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let key = match message.strip_prefix("unknown field") {
        Some(_) => quoted.next(),
        None => None,
    };
    let Some(key) = key else { return ConfigError::Syntax(whole.to_string().trim_end().to_owned()) };
    let nearest = quoted
        .map(|valid| (edit_distance(key, valid), valid))
        .min()
        .filter(|(distance, valid)| *distance <= valid.len().max(key.len()) / 2)
        .map(|(_, valid)| valid.to_owned());
    ConfigError::UnknownKey { key: key.to_owned(), nearest }
}

/// Levenshtein distance: insertions, deletions and replacements of bytes.
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_valid_and_survive_toml() {
        for preset in [Preset::Workshop, Preset::Default] {
            let config = preset.config();
            config.validate().unwrap();
            assert_eq!(Config::from_toml(&config.to_toml()).unwrap(), config);
        }
        assert_eq!(Config::from_toml("").unwrap(), Config::default());
    }

    #[test]
    fn a_full_config_survives_toml() {
        let mut config = Config::default();
        config.data.filter.insert("bio_category".into(), vec!["a".into()]);
        config.data.partition = PartitionConfig::Dirichlet { sites: 5, alpha: 0.5 };
        config.federation.local_steps = Some(3);
        config.eval.max_new_tokens = Some(40);
        config.model.path = Some("models/tiny".into());
        assert_eq!(Config::from_toml(&config.to_toml()).unwrap(), config);
    }

    #[test]
    fn an_unknown_key_names_the_nearest() {
        let error = Config::from_toml("[train]\nlearning_rat = 1.0\n").unwrap_err();
        assert_eq!(error.to_string(), "unknown key 'learning_rat'; did you mean 'learning_rate'?");
        let error = Config::from_toml("fedration = 1").unwrap_err();
        assert!(error.to_string().contains("'federation'"), "{error}");
        let error = Config::from_toml("[lora]\nrank = 4\nalpha = 8\ndropout = 0\ntargets = []\nrnak = 4")
            .unwrap_err();
        assert!(error.to_string().contains("'rank'"), "{error}");
        assert!(matches!(Config::from_toml("seed = \"x\""), Err(ConfigError::Syntax(_))));
    }

    #[test]
    fn reserved_names_are_refused_with_the_reason() {
        for text in [
            "[secure_aggregation]\nthreshold = 3",
            "[federation]\nsecure_aggregation = true",
            "[federation.differential_privacy]\nepsilon = 8",
        ] {
            let error = Config::from_toml(text).unwrap().validate().unwrap_err().to_string();
            assert!(error.contains("does not exist yet"), "{error}");
        }
    }

    #[test]
    fn combinations_that_make_no_sense_are_refused_by_key() {
        let refused = |text: &str| Config::from_toml(text).unwrap().validate().unwrap_err().to_string();
        assert!(
            refused("[federation]\nlocal_steps = 1\nlocal_epochs = 1")
                .contains("excludes federation.local_epochs")
        );
        assert!(refused("[federation]\nsites_per_round = 1\nsample_fraction = 0.5").contains("excludes"));
        assert!(refused("[eval]\nparity = true\nmax_new_tokens = 30").contains("eval.parity"));
        assert!(refused("[data]\nsites = [\"a\", \"a\"]").contains("twice"));
        assert!(
            refused("[data]\nsites = [\"a\"]\npartition = { kind = \"iid\", sites = 2 }").contains("makes 2")
        );
        assert!(refused("[train]\nprompt_loss_weight = 2.0").contains("between 0"));
        let mut config = Config::default();
        config.federation.quorum = Some(6);
        assert!(config.validate_for_sites(5).unwrap_err().to_string().contains("only 5 of 5"));
    }

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
