//! What a hospital allows a session to ask of it: a TOML file of limits, checked against the session's plan before
//! anything is loaded and against every task before anything is trained.

use std::collections::BTreeSet;

use consilium_core::Precision;
use consilium_core::lora::Target;
use consilium_federation::Task;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::plan::SitePlan;
use crate::config::{ConfigError, unknown_key};

/// The limits of a hospital. A key that its file leaves out keeps the default's limit; a list that it leaves out
/// allows everything.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// SHA-256 of the base models that may be trained; `None` allows any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_models: Option<Vec<String>>,
    /// Numbers of the frozen base; `None` allows any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_precisions: Option<Vec<Precision>>,
    /// Matrices that may carry an adapter; `None` allows any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_targets: Option<BTreeSet<Target>>,
    /// Largest rank of the adapter: what it can hold of the rows grows with it.
    pub max_rank: usize,
    /// Rounds of one session: each gives away one update.
    pub max_rounds: u32,
    /// Optimiser steps that this site trains in one round.
    pub max_steps_per_round: u64,
    /// Largest peak learning rate.
    pub max_learning_rate: f64,
    /// Fewest training rows behind an update: what few rows teach can be read off it.
    pub min_training_rows: usize,
    /// Whether a session may start from an adapter that somebody has trained before. This site cannot see what that one
    /// was taught; without it only adapters are trained on that this site can draw from the plan's seed itself.
    pub allow_given_adapter: bool,
    /// Whether the scores on this site's test rows may be told to the coordinator. Without it they stay here; the mean
    /// training loss travels with every update in any case.
    pub share_scores: bool,
}

impl Default for Policy {
    /// For a hospital without a policy file: any model, precision and target; rank 64, 100 rounds, 10,000 steps a
    /// round, learning rate 0.01, at least 10 training rows, any adapter to start from; no scores leave. Wide enough for every usual session,
    /// narrow enough to stop a mistake of a power of ten, and an update made of a handful of rows.
    fn default() -> Self {
        Self {
            allowed_models: None,
            allowed_precisions: None,
            allowed_targets: None,
            max_rank: 64,
            max_rounds: 100,
            max_steps_per_round: 10_000,
            max_learning_rate: 0.01,
            min_training_rows: 10,
            allow_given_adapter: true,
            share_scores: false,
        }
    }
}

const EXAMPLE: &str = "\
# What this hospital allows a session to ask. Keys that are left out keep the limits below.

# SHA-256 of the base models that may be trained; without the key, any.
# allowed_models = [\"5af571cbf074e6d21a03528d2330792e532ca608f24ac70a143f6b369968ab8c\"]

# Numbers of the frozen base; without the key, both.
# allowed_precisions = [\"f32\", \"int8\"]

# Matrices that may carry an adapter; without the key, any.
# allowed_targets = [\"q_proj\", \"k_proj\", \"v_proj\", \"o_proj\"]

# Largest rank of the adapter: what it can hold of the rows grows with it.
max_rank = 64

# Rounds of one session: each gives away one update.
max_rounds = 100

# Optimiser steps that this site trains in one round.
max_steps_per_round = 10000

# Largest peak learning rate.
max_learning_rate = 0.01

# Fewest training rows behind an update: what few rows teach can be read off it.
min_training_rows = 10

# Whether a session may start from an adapter that somebody has trained before.
allow_given_adapter = true

# Whether the scores on this site's test rows may be told to the coordinator.
share_scores = false
";

/// Why a hospital does not do what a session asks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyRefusal {
    /// A limit of the policy.
    #[error("policy {key}: the session asks for {asked}, this site allows {limit}")]
    Limit {
        /// The policy's key.
        key: &'static str,
        /// What is allowed.
        limit: String,
        /// What was asked.
        asked: String,
    },
    /// A task that is not the one that the plan announced.
    #[error("task {key}: the task says {asked}, the session's plan says {planned}")]
    NotThePlan {
        /// The task's field, `training.learning_rate` for example.
        key: String,
        /// What the plan says.
        planned: String,
        /// What the task says.
        asked: String,
    },
}

impl Policy {
    /// Reads TOML.
    ///
    /// # Errors
    /// [`ConfigError::Syntax`], [`ConfigError::UnknownKey`], or [`ConfigError::Invalid`] for a limit that is no number.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        let policy: Self = toml::from_str(text).map_err(|e: toml::de::Error| unknown_key(e.message(), &e))?;
        if !(policy.max_learning_rate.is_finite() && policy.max_learning_rate > 0.0) {
            let reason = format!("is {}; it must be a positive number", policy.max_learning_rate);
            return Err(ConfigError::Invalid { key: "max_learning_rate", reason });
        }
        Ok(policy)
    }

    /// A policy file with every key and what it means; it says what [`Policy::default`] says.
    pub fn example_toml() -> &'static str {
        EXAMPLE
    }

    /// Checks what `plan` asks of a site with `training_rows` rows to train on.
    ///
    /// # Errors
    /// The first limit that it exceeds.
    pub fn check_plan(&self, plan: &SitePlan, training_rows: usize) -> Result<(), PolicyRefusal> {
        if let Some(allowed) = &self.allowed_models {
            let known = allowed.iter().any(|hash| hash.eq_ignore_ascii_case(&plan.model_sha256));
            let asked = || format!("{} ({})", plan.model_sha256, plan.model_id);
            require(known, "allowed_models", || one_of(allowed), asked)?;
        }
        if let Some(allowed) = &self.allowed_precisions {
            let names: Vec<String> = allowed.iter().map(|&precision| name(precision)).collect();
            let known = allowed.contains(&plan.precision);
            require(known, "allowed_precisions", || one_of(&names), || name(plan.precision))?;
        }
        if let Some(allowed) = &self.allowed_targets {
            let strange: Vec<String> =
                plan.lora.targets.difference(allowed).map(ToString::to_string).collect();
            let names: Vec<String> = allowed.iter().map(ToString::to_string).collect();
            require(strange.is_empty(), "allowed_targets", || one_of(&names), || strange.join(", "))?;
        }
        let drawn = self.allow_given_adapter || !plan.given_adapter;
        let asked = || format!("the adapter {}", plan.adapter_sha256);
        require(drawn, "allow_given_adapter", || "only an adapter drawn from the seed".into(), asked)?;
        at_most("max_rank", self.max_rank, plan.lora.rank)?;
        at_most("max_rounds", self.max_rounds, plan.federation.rounds)?;
        at_most("max_steps_per_round", self.max_steps_per_round, plan.steps_per_round(training_rows))?;
        at_most("max_learning_rate", self.max_learning_rate, plan.train.learning_rate)?;
        let enough = training_rows >= self.min_training_rows;
        let asked = || format!("an update from {training_rows}");
        require(enough, "min_training_rows", || format!("no fewer than {}", self.min_training_rows), asked)
    }

    /// Checks `task` of the session of `plan`: it must be the one that the plan announced, and the plan within limits.
    ///
    /// # Errors
    /// What differs from the plan, or the first limit that it exceeds.
    pub fn check(&self, plan: &SitePlan, task: &Task, training_rows: usize) -> Result<(), PolicyRefusal> {
        let rounds = plan.federation.rounds;
        if !(1..=rounds).contains(&task.round) {
            let (planned, asked) = (format!("rounds 1 to {rounds}"), task.round.to_string());
            return Err(PolicyRefusal::NotThePlan { key: "round".into(), planned, asked });
        }
        let first = (task.round == 1).then(|| plan.adapter_sha256.clone());
        let planned = plan.task(task.round, first.unwrap_or_else(|| task.base_sha256.clone()));
        if let Some((key, planned, asked)) = first_difference(&planned, task) {
            return Err(PolicyRefusal::NotThePlan { key, planned, asked });
        }
        self.check_plan(plan, training_rows)
    }
}

fn require(
    holds: bool,
    key: &'static str,
    limit: impl FnOnce() -> String,
    asked: impl FnOnce() -> String,
) -> Result<(), PolicyRefusal> {
    if holds { Ok(()) } else { Err(PolicyRefusal::Limit { key, limit: limit(), asked: asked() }) }
}

/// Not above the limit; a NaN is.
fn at_most<N: PartialOrd + std::fmt::Display>(
    key: &'static str,
    limit: N,
    asked: N,
) -> Result<(), PolicyRefusal> {
    require(asked <= limit, key, || format!("at most {limit}"), || asked.to_string())
}

fn one_of(names: &[String]) -> String {
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

/// The name of a precision in files.
fn name(precision: Precision) -> String {
    match precision {
        Precision::F32 => "f32".into(),
        Precision::Int8 => "int8".into(),
    }
}

/// The first field in which two values differ, as `section.key` with both values.
pub(super) fn first_difference<T: Serialize>(planned: &T, asked: &T) -> Option<(String, String, String)> {
    let value = |of: &T| serde_json::to_value(of).unwrap_or_default();
    difference("", &value(planned), &value(asked))
}

fn difference(prefix: &str, planned: &Value, asked: &Value) -> Option<(String, String, String)> {
    if let (Value::Object(planned), Value::Object(asked)) = (planned, asked) {
        let keys: BTreeSet<&String> = planned.keys().chain(asked.keys()).collect();
        return keys.into_iter().find_map(|key| {
            let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            let value = |of: &serde_json::Map<String, Value>| of.get(key).cloned().unwrap_or_default();
            difference(&name, &value(planned), &value(asked))
        });
    }
    (planned != asked).then(|| (prefix.to_owned(), planned.to_string(), asked.to_string()))
}

#[cfg(test)]
mod tests {
    use super::super::plan::tests::plan;
    use super::*;
    use consilium_federation::LocalWork;

    #[test]
    fn the_example_says_what_the_default_says_and_its_comments_parse_too() {
        assert_eq!(Policy::from_toml(Policy::example_toml()).unwrap(), Policy::default());
        assert_eq!(Policy::from_toml("").unwrap(), Policy::default());
        let all: String = Policy::example_toml()
            .lines()
            .map(|line| line.strip_prefix("# ").filter(|rest| rest.starts_with("allowed_")).unwrap_or(line))
            .flat_map(|line| [line, "\n"])
            .collect();
        let policy = Policy::from_toml(&all).unwrap();
        assert_eq!(policy.allowed_models.as_ref().map(Vec::len), Some(1));
        assert_eq!(policy.allowed_targets.as_ref().map(BTreeSet::len), Some(4));
        assert_eq!(policy.allowed_precisions.as_ref().map(Vec::len), Some(2));
        let error = Policy::from_toml("max_ranks = 3").unwrap_err().to_string();
        assert_eq!(error, "unknown key 'max_ranks'; did you mean 'max_rank'?");
        assert!(Policy::from_toml("max_learning_rate = nan").is_err());
    }

    #[test]
    fn the_reference_experiment_passes_the_default_policy() {
        let policy = Policy::default();
        policy.check_plan(&plan(), 150).unwrap();
        policy.check(&plan(), &plan().task(1, "b".repeat(64)), 150).unwrap();
        policy.check(&plan(), &plan().task(5, "any".into()), 150).unwrap();
    }

    #[test]
    fn each_limit_refuses_by_its_key_with_the_limit_and_what_was_asked() {
        type Case = (&'static str, &'static str, &'static str, &'static str);
        let table: [Case; 9] = [
            ("allowed_models", "allowed_models = ['cc', 'dd']", "cc, dd", "SmolLM2"),
            ("allowed_models", "allowed_models = []", "none", "SmolLM2"),
            ("allowed_precisions", "allowed_precisions = ['int8']", "int8", "f32"),
            ("allowed_targets", "allowed_targets = ['q_proj']", "q_proj", "v_proj"),
            ("max_rank", "max_rank = 7", "at most 7", "8"),
            ("max_rounds", "max_rounds = 4", "at most 4", "5"),
            ("max_steps_per_round", "max_steps_per_round = 9", "at most 9", "10"),
            ("max_learning_rate", "max_learning_rate = 4e-4", "at most 0.0004", "0.0005"),
            ("min_training_rows", "min_training_rows = 151", "no fewer than 151", "an update from 150"),
        ];
        for (expected, text, limit_says, asked_says) in table {
            let refusal = Policy::from_toml(text).unwrap().check_plan(&plan(), 150).unwrap_err();
            let PolicyRefusal::Limit { key, limit, asked } = &refusal else { panic!("{refusal}") };
            assert_eq!((*key, limit.as_str()), (expected, limit_says));
            assert!(asked.contains(asked_says), "{refusal}");
            assert!(refusal.to_string().contains(expected), "{refusal}");
        }
        let mut plan = plan();
        plan.train.learning_rate = f64::NAN;
        assert!(Policy::default().check_plan(&plan, 150).is_err());
        plan.model_sha256 = "AB".into();
        let policy =
            Policy { allowed_models: Some(vec!["ab".into()]), max_learning_rate: 1.0, ..Policy::default() };
        plan.train.learning_rate = 0.1;
        policy.check_plan(&plan, 150).unwrap();
    }

    #[test]
    fn a_task_that_is_not_the_planned_one_is_refused_by_field() {
        let right = plan().task(2, "c".into());
        let refused = |change: fn(&mut Task)| {
            let mut task = right.clone();
            change(&mut task);
            match Policy::default().check(&plan(), &task, 150) {
                Err(PolicyRefusal::NotThePlan { key, .. }) => key,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(refused(|task| task.round = 0), "round");
        assert_eq!(refused(|task| task.round = 6), "round");
        assert_eq!(refused(|task| task.rounds = 50), "rounds");
        assert_eq!(refused(|task| task.work = LocalWork::Epochs(9)), "work.epochs");
        assert_eq!(refused(|task| task.training.learning_rate = 0.5), "training.learning_rate");
        assert_eq!(refused(|task| task.training.seed = 1), "training.seed");
        assert_eq!(refused(|task| task.scope = consilium_federation::ScheduleScope::Round), "scope");
        assert_eq!(
            refused(|task| task.round = 1),
            "base_sha256",
            "round 1 starts from the announced adapter"
        );
        let tight = Policy { max_rank: 2, ..Policy::default() };
        let refusal = tight.check(&plan(), &right, 150).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "policy max_rank: the session asks for 8, this site allows at most 2"
        );
    }
}
