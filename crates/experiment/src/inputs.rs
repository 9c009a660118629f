//! What a run works on: the base model, its tokenizer, and the rows of each site, as text and as tokens.

use std::sync::Arc;

use consilium_core::Batch;
use consilium_core::hash::Hasher;
use consilium_data::{Example, Template, TextTokenizer, Tokens, TrainingPlan};
use consilium_engine::Model;
use consilium_eval::summary::DataSummary;
use consilium_federation::{SiteRows, StepSource, Training};

use crate::config::{Config, PARITY_NEW_TOKENS};
use crate::error::ExperimentError;

/// The rows of one site.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SiteData {
    /// Name.
    pub name: String,
    /// Rows to train on.
    pub train: Vec<Example>,
    /// Rows kept aside.
    pub validation: Vec<Example>,
    /// Rows to be asked, seen by no training.
    pub test: Vec<Example>,
}

/// What a run works on.
#[derive(Clone)]
pub struct Inputs {
    /// The frozen base.
    pub model: Arc<Model>,
    /// The base's tokenizer.
    pub tokenizer: TextTokenizer,
    /// How a question becomes a prompt.
    pub template: Template,
    /// Sites in the order of reports.
    pub shards: Vec<SiteData>,
    /// Where the rows came from, for the report.
    pub data: DataSummary,
}

impl Inputs {
    /// Names of the sites, in order.
    pub fn names(&self) -> Vec<String> {
        self.shards.iter().map(|shard| shard.name.clone()).collect()
    }

    /// SHA-256 over every row's text and place; a run can only go on with the same rows.
    pub fn rows_sha256(&self) -> String {
        let mut hasher = Hasher::default();
        for shard in &self.shards {
            for (part, rows) in [("train", &shard.train), ("test", &shard.test)] {
                for row in rows {
                    hash_row(&mut hasher, &[&shard.name, part], row);
                }
            }
        }
        hasher.finish()
    }

    /// Refuses sites without rows and sites that cannot be told apart.
    pub(crate) fn check(&self) -> Result<(), ExperimentError> {
        let problem = |reason: String| Err(ExperimentError::Sites(reason));
        if self.shards.is_empty() {
            return problem("there is none".into());
        }
        let mut folders = std::collections::BTreeMap::new();
        for shard in &self.shards {
            if shard.train.is_empty() {
                return problem(format!("'{}' has no training row", shard.name));
            }
            if shard.test.is_empty() {
                return problem(format!("'{}' has no test row, so nothing could be judged", shard.name));
            }
            if let Some(other) = folders.insert(folder_name(&shard.name).to_lowercase(), &shard.name) {
                return problem(format!("'{other}' and '{}' would share a folder; rename one", shard.name));
            }
        }
        self.tokenizer.check_fits(self.model.config().vocab_size)?;
        Ok(())
    }

    /// Every site's training rows as tokens.
    pub(crate) fn tokenise(&self, config: &Config) -> Result<Vec<TrainRows>, ExperimentError> {
        let limit = config.data.max_tokens.min(self.model.config().max_positions);
        let training = training(config);
        self.shards
            .iter()
            .map(|shard| {
                let encoded = self.tokenizer.encode_all(&self.template, &shard.train, limit)?;
                Ok(TrainRows::new(&shard.name, encoded.rows, &training))
            })
            .collect()
    }

    /// Longest answer to allow, tokens: as configured, else the longest training answer with its end of text, at most
    /// the model's context.
    pub(crate) fn max_new_tokens(&self, config: &Config) -> Result<usize, ExperimentError> {
        if config.eval.parity {
            return Ok(PARITY_NEW_TOKENS);
        }
        if let Some(tokens) = config.eval.max_new_tokens {
            return Ok(tokens);
        }
        let mut longest = 1;
        for row in self.shards.iter().flat_map(|shard| &shard.train) {
            let tokens = self.tokenizer.encode_example(&self.template, row, usize::MAX)?;
            longest = longest.max(tokens.ids.len() - tokens.loss_from);
        }
        Ok(longest.min(self.model.config().max_positions))
    }
}

pub(crate) fn hash_row(hasher: &mut Hasher, place: &[&str], row: &Example) {
    for text in place.iter().copied().chain([&*row.id, &row.question, &row.answer, &row.category]) {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
}

/// `name` as part of a path: what separates or ends paths on any system becomes `_`.
pub fn folder_name(name: &str) -> String {
    let safe = |c: char| if c.is_control() || "/\\:*?\"<>|".contains(c) { '_' } else { c };
    let name: String = name.chars().map(safe).collect();
    if name.trim_matches('.').is_empty() { format!("_{name}") } else { name }
}

/// The part of the configuration that a task carries to a site.
pub(crate) fn training(config: &Config) -> Training {
    config.train.training(config.seed)
}

/// Tokenised training rows with the plan that makes them steps.
pub(crate) struct TrainRows {
    pub name: String,
    pub rows: Vec<Tokens>,
    plan: TrainingPlan,
}

impl TrainRows {
    pub fn new(name: &str, rows: Vec<Tokens>, training: &Training) -> Self {
        let plan = TrainingPlan {
            micro_batch: training.micro_batch,
            accumulation: training.accumulation,
            prompt_loss_weight: training.prompt_loss_weight,
            shuffle: training.shuffle,
            seed: training.seed,
            site: name.into(),
        };
        Self { name: name.into(), rows, plan }
    }

    /// The rows of all sites in one place. One step sees as many rows as the sites' steps together.
    pub fn pooled(sites: &[TrainRows], training: &Training) -> Self {
        let rows = sites.iter().flat_map(|site| site.rows.iter().cloned()).collect();
        let training = Training { accumulation: training.accumulation * sites.len(), ..training.clone() };
        Self::new("pooled", rows, &training)
    }

    pub fn steps_per_epoch(&self) -> u64 {
        self.plan.steps_per_epoch(self.rows.len())
    }

    pub fn truncated(&self) -> usize {
        self.rows.iter().filter(|row| row.truncated).count()
    }

    pub fn tokens(&self) -> usize {
        self.rows.iter().map(|row| row.ids.len()).sum()
    }

    pub fn as_site(&self) -> SiteRows<'_> {
        SiteRows {
            name: &self.name,
            examples: self.rows.len() as u64,
            steps_per_epoch: self.steps_per_epoch(),
            source: self,
        }
    }
}

impl StepSource for TrainRows {
    fn batches(&self, step: u64) -> Vec<Batch> {
        self.plan.step(&self.rows, step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_names_are_safe_everywhere() {
        assert_eq!(folder_name("Drug Meta"), "Drug Meta");
        assert_eq!(folder_name("../a\\b:c"), ".._a_b_c");
        assert_eq!(folder_name(".."), "_..");
    }

    #[test]
    fn a_pooled_step_sees_what_the_sites_steps_see_together() {
        let training = training(&Config::default());
        let rows =
            |n: usize| (0..n as u32).map(|i| Tokens { ids: vec![i, i], loss_from: 1, truncated: false });
        let sites: Vec<TrainRows> =
            ["a", "b"].map(|name| TrainRows::new(name, rows(150).collect(), &training)).into();
        let pooled = TrainRows::pooled(&sites, &training);
        assert_eq!((pooled.rows.len(), pooled.steps_per_epoch(), sites[0].steps_per_epoch()), (300, 5, 5));
    }
}
