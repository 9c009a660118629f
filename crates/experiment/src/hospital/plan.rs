//! What a session tells every site, as JSON: all of a configuration that must be the same everywhere, and nothing about
//! where anybody's rows or files lie.

use consilium_core::hash::sha256_hex;
use consilium_core::{LoraConfig, Precision};
use consilium_data::Template;
use consilium_federation::{SessionSettings, Task};
use serde::{Deserialize, Serialize};

use crate::config::{
    Config, ConfigError, DataConfig, EvalConfig, FederationConfig, ModelConfig, PartitionConfig, TrainConfig,
    unknown_key,
};

/// What a session tells every site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SitePlan {
    /// Name of the base model: a hub id, or what a site calls its own copy of these weights.
    pub model_id: String,
    /// SHA-256 of the base model's weight files (`BaseInfo::sha256`), lower-case hexadecimal.
    pub model_sha256: String,
    /// Numbers of the frozen base.
    pub precision: Precision,
    /// The adapter's shape.
    pub lora: LoraConfig,
    /// SHA-256 of the adapter that round 1 starts from.
    pub adapter_sha256: String,
    /// Whether that adapter comes with the session, as somebody trained it, instead of being drawn from the seed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub given_adapter: bool,
    /// Seed of everything random.
    pub seed: u64,
    /// Prompt with `{question}` and `{answer}`.
    pub template: String,
    /// Longest training row, tokens.
    pub max_tokens: usize,
    /// Training rows of each site; `None` takes all that remain.
    pub train_rows: Option<usize>,
    /// Validation rows of each site.
    pub validation_rows: usize,
    /// Test rows of each site.
    pub test_rows: usize,
    /// Local training.
    pub train: TrainConfig,
    /// The federation.
    pub federation: FederationConfig,
    /// Asking the questions and judging the answers.
    pub eval: EvalConfig,
}

impl SitePlan {
    /// The plan of a session of `config`, whose base model and first adapter have these hashes.
    pub fn of(config: &Config, model_sha256: String, adapter_sha256: String) -> Self {
        let data = &config.data;
        Self {
            model_id: config.model.id.clone(),
            model_sha256,
            precision: config.model.precision,
            lora: config.lora.clone(),
            adapter_sha256,
            given_adapter: false,
            seed: config.seed,
            template: data.template.clone().unwrap_or_else(|| Template::WORKSHOP.into()),
            max_tokens: data.max_tokens,
            train_rows: data.train_rows,
            validation_rows: data.validation_rows,
            test_rows: data.test_rows,
            train: config.train.clone(),
            federation: config.federation.clone(),
            eval: config.eval.clone(),
        }
    }

    /// The configuration of `site`, whose rows lie at `data_source` and, where they are not carved out of these,
    /// whose test rows lie at `test_source`. Columns, filter and `max_bad_rows` are the site's own to set.
    pub fn config_for(
        &self,
        site: &str,
        data_source: &str,
        test_source: Option<&str>,
        threads: usize,
    ) -> Config {
        let data = DataConfig {
            source: data_source.into(),
            test_source: test_source.map(str::to_owned),
            split: None,
            test_split: None,
            sites: vec![site.into()],
            train_rows: self.train_rows,
            validation_rows: self.validation_rows,
            test_rows: self.test_rows,
            template: Some(self.template.clone()),
            max_tokens: self.max_tokens,
            partition: PartitionConfig::Category,
            max_bad_rows: 0,
            columns: Default::default(),
            filter: Default::default(),
        };
        Config {
            seed: self.seed,
            threads,
            model: ModelConfig { id: self.model_id.clone(), path: None, precision: self.precision },
            data,
            lora: self.lora.clone(),
            train: self.train.clone(),
            federation: self.federation.clone(),
            eval: self.eval.clone(),
            ..Config::default()
        }
    }

    /// One line of JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("every field has a form in JSON")
    }

    /// Reads JSON. Call [`SitePlan::validate`] afterwards.
    ///
    /// # Errors
    /// [`ConfigError::Syntax`], or [`ConfigError::UnknownKey`] with the name.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        serde_json::from_str(text).map_err(|error| {
            let whole = error.to_string();
            unknown_key(&whole, &format!("the session's plan: {whole}"))
        })
    }

    /// SHA-256 of [`SitePlan::to_json`].
    pub fn sha256(&self) -> String {
        sha256_hex(self.to_json().as_bytes())
    }

    /// Refuses what no session may ask, whatever a site's policy says.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with the key.
    pub fn validate(&self) -> Result<(), ConfigError> {
        for (key, hash) in [("model_sha256", &self.model_sha256), ("adapter_sha256", &self.adapter_sha256)] {
            if hash.len() != 64 || !hash.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
                let reason = format!("is '{hash}'; a SHA-256 has 64 lower-case hexadecimal digits");
                return Err(ConfigError::Invalid { key, reason });
            }
        }
        if let Err(error) = Template::parse(&self.template) {
            return Err(ConfigError::Invalid { key: "template", reason: error.to_string() });
        }
        self.config_for("site", "rows.csv", None, 0).validate()
    }

    /// What the session holds fixed when `sites` sites take part.
    pub fn session_settings(&self, sites: usize) -> SessionSettings {
        self.federation.session_settings(sites, self.seed)
    }

    /// The task of `round`, from the global adapter `base_sha256`.
    pub fn task(&self, round: u32, base_sha256: String) -> Task {
        self.federation.task(round, self.train.training(self.seed), base_sha256)
    }

    /// Optimiser steps of one round for a site with `training_rows` rows.
    pub fn steps_per_round(&self, training_rows: usize) -> u64 {
        let rows_per_step = self.train.micro_batch.max(1).saturating_mul(self.train.accumulation.max(1));
        self.task(1, String::new()).steps(training_rows.div_ceil(rows_per_step) as u64)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use consilium_federation::LocalWork;

    pub(crate) fn plan() -> SitePlan {
        let mut config = Config::default();
        config.federation.local_epochs = Some(2);
        config.federation.quorum = Some(2);
        config.eval.max_new_tokens = Some(20);
        SitePlan::of(&config, "a".repeat(64), "b".repeat(64))
    }

    #[test]
    fn a_plan_survives_json_and_names_what_it_does_not_know() {
        let plan = plan();
        plan.validate().unwrap();
        let text = plan.to_json();
        assert_eq!(SitePlan::from_json(&text).unwrap(), plan);
        assert_eq!(SitePlan::from_json(&text).unwrap().sha256(), plan.sha256());
        let strange = text.replacen("\"seed\"", "\"sede\"", 1);
        let error = SitePlan::from_json(&strange).unwrap_err().to_string();
        assert_eq!(error, "unknown key 'sede'; did you mean 'seed'?");
        let inner = text.replacen("\"micro_batch\"", "\"upload_rows\"", 1);
        assert!(SitePlan::from_json(&inner).unwrap_err().to_string().contains("'upload_rows'"));
        assert!(matches!(SitePlan::from_json("{"), Err(ConfigError::Syntax(_))));
        assert!(SitePlan::from_json("{}").unwrap_err().to_string().contains("model_id"));
    }

    #[test]
    fn nothing_about_places_is_in_it() {
        let mut config = Config::default();
        config.data.source = "/secret/rows.csv".into();
        config.data.test_source = Some("/secret/test.csv".into());
        config.model.path = Some("/secret/model".into());
        let text = SitePlan::of(&config, "a".repeat(64), "b".repeat(64)).to_json();
        assert!(!text.contains("secret"), "{text}");
    }

    #[test]
    fn a_site_gets_a_configuration_that_computes_the_same() {
        let mut config = Config::workshop();
        config.data.max_tokens = 99;
        let plan = SitePlan::of(&config, "a".repeat(64), "b".repeat(64));
        let site = plan.config_for("Drug Meta", "meta.csv", Some("meta.test.csv"), 3);
        site.validate().unwrap();
        assert_eq!(
            (site.seed, site.threads, &*site.data.sites),
            (config.seed, 3, &["Drug Meta".to_owned()][..])
        );
        assert_eq!(
            (&site.train, &site.lora, &site.federation),
            (&config.train, &config.lora, &config.federation)
        );
        assert_eq!(SitePlan::of(&site, "a".repeat(64), "b".repeat(64)), plan);
    }

    #[test]
    fn tasks_and_settings_follow_the_plan() {
        let plan = plan();
        let task = plan.task(3, "c".into());
        assert_eq!((task.round, task.rounds, task.work), (3, 5, LocalWork::Epochs(2)));
        assert_eq!(task.training.seed, plan.seed);
        let settings = plan.session_settings(4);
        assert_eq!((settings.rounds, settings.sites_per_round, settings.quorum), (5, Some(4), 2));
        assert_eq!(plan.steps_per_round(150), 10);
    }

    #[test]
    fn a_plan_that_makes_no_sense_is_refused_by_key() {
        let refused = |change: fn(&mut SitePlan)| {
            let mut plan = plan();
            change(&mut plan);
            plan.validate().unwrap_err().to_string()
        };
        assert!(refused(|plan| plan.model_sha256 = "A".repeat(64)).contains("model_sha256"));
        assert!(refused(|plan| plan.template = "{question}".into()).contains("template"));
        assert!(refused(|plan| plan.federation.rounds = 0).contains("federation.rounds"));
        let reserved = plan().to_json().replacen("\"rounds\"", "\"secure_aggregation\":1,\"rounds\"", 1);
        let error = SitePlan::from_json(&reserved).unwrap().validate().unwrap_err().to_string();
        assert!(error.contains("does not exist yet"), "{error}");
    }
}
