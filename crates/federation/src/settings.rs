//! What a session is told before it starts: rounds, local work, weights, schedule, sampling, quorum, deadline.

use serde::{Deserialize, Serialize};

/// How much each accepted update counts in the mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Weights {
    /// By the number of training rows behind the update (McMahan et al. 2017, arXiv:1602.05629).
    #[default]
    Examples,
    /// Each site the same.
    Uniform,
}

/// What one learning-rate schedule spans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleScope {
    /// All rounds together: the rate decays once, over the whole session.
    #[default]
    Session,
    /// Each round for itself: the rate starts anew in every round.
    Round,
}

/// How much a site trains in one round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LocalWork {
    /// Passes over the site's own rows: sites with more rows take more steps.
    Epochs(u32),
    /// Optimiser steps: every site takes the same number.
    Steps(u64),
}

/// What a session holds fixed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionSettings {
    /// Rounds in all.
    pub rounds: u32,
    /// Sites asked in each round; `None` asks all of them.
    pub sites_per_round: Option<usize>,
    /// Accepted updates that a round needs to commit.
    pub quorum: usize,
    /// Time that a round may take from its publication, seconds.
    pub deadline_s: f64,
    /// Seed of the session: client sampling draws from it and the round.
    pub seed: u64,
}
