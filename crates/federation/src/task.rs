//! What travels between a site and whoever coordinates: a task one way, an update the other. Neither can hold a row.

use consilium_core::{Adapter, Schedule, ScheduleKind, SeededRng, TrainSettings};
use serde::{Deserialize, Serialize};

use crate::settings::{LocalWork, ScheduleScope};
use crate::train::TrainTask;

/// How a site trains: everything that must be the same at all sites.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Training {
    /// Rows of one micro-batch.
    pub micro_batch: usize,
    /// Micro-batches of one optimiser step.
    pub accumulation: usize,
    /// Loss weight of prompt tokens: 1 is the whole sequence, 0 is answers only.
    pub prompt_loss_weight: f32,
    /// Shuffle rows anew in each epoch.
    pub shuffle: bool,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Shape of the learning rate's decay.
    pub schedule: ScheduleKind,
    /// Optimiser steps of linear warm-up.
    pub warmup_steps: u64,
    /// AdamW's decoupled weight decay.
    pub weight_decay: f64,
    /// Clip of the gradient's global norm; 0 switches it off.
    pub max_grad_norm: f64,
    /// Seed of row order and dropout masks.
    pub seed: u64,
}

impl Default for Training {
    /// One row a step in the order of the file, a learning rate of 1e-3 that falls to zero, nothing else. For tests and
    /// examples that care about one field, or about none.
    fn default() -> Self {
        Self {
            micro_batch: 1,
            accumulation: 1,
            prompt_loss_weight: 1.0,
            shuffle: false,
            learning_rate: 1e-3,
            schedule: ScheduleKind::Linear,
            warmup_steps: 0,
            weight_decay: 0.0,
            max_grad_norm: 0.0,
            seed: 1,
        }
    }
}

impl Training {
    /// The engine's settings for `site` in `round` (0 outside a federation). Each round has its own dropout masks.
    pub fn settings(&self, site: &str, round: u32) -> TrainSettings {
        TrainSettings {
            weight_decay: self.weight_decay,
            max_grad_norm: self.max_grad_norm,
            dropout_seed: SeededRng::derive(self.seed, round, site, "dropout").next_u64(),
            ..TrainSettings::default()
        }
    }

    /// The learning-rate schedule over `total_steps` optimiser steps.
    pub fn schedule_over(&self, total_steps: u64) -> Schedule {
        Schedule {
            kind: self.schedule,
            peak: self.learning_rate,
            warmup_steps: self.warmup_steps,
            total_steps,
        }
    }
}

/// What a site is asked to do in one round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// Round, from 1.
    pub round: u32,
    /// Rounds of the session.
    pub rounds: u32,
    /// How much to train.
    pub work: LocalWork,
    /// What one learning-rate schedule spans.
    pub scope: ScheduleScope,
    /// How to train.
    pub training: Training,
    /// SHA-256 ([`Adapter::sha256`]) of the global adapter to start from; the update names it again.
    pub base_sha256: String,
}

impl Task {
    /// Optimiser steps of this round for a site whose epoch takes `steps_per_epoch`.
    pub fn steps(&self, steps_per_epoch: u64) -> u64 {
        match self.work {
            LocalWork::Epochs(epochs) => u64::from(epochs) * steps_per_epoch,
            LocalWork::Steps(steps) => steps,
        }
    }

    /// The training that this round means for `site`: the rows' order goes on from round to round, the learning rate goes on
    /// or starts anew as `scope` says, and the optimiser always starts fresh.
    pub fn training_of(&self, site: &str, steps_per_epoch: u64) -> TrainTask {
        let steps = self.steps(steps_per_epoch);
        let first_step = u64::from(self.round - 1) * steps;
        let total_steps = u64::from(self.rounds) * steps;
        let (schedule, schedule_from) = match self.scope {
            ScheduleScope::Session => (self.training.schedule_over(total_steps), first_step),
            ScheduleScope::Round => (self.training.schedule_over(steps), 0),
        };
        TrainTask {
            model: "federated".into(),
            site: Some(site.into()),
            round: Some(self.round),
            first_step,
            steps,
            total_steps,
            schedule,
            schedule_from,
            settings: self.training.settings(site, self.round),
            resume: None,
        }
    }
}

/// What a site sends back: the whole adapter in f32 and numbers about its making.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// The round it answers.
    pub round: u32,
    /// The global adapter it started from.
    pub base_sha256: String,
    /// The adapter after local training; deltas are formed only inside aggregation.
    pub adapter: Adapter,
    /// Training rows behind it.
    pub examples: u64,
    /// Numbers for reports.
    pub metrics: UpdateMetrics,
}

/// Numbers about a site's work in one round, for reports only: no decision depends on them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UpdateMetrics {
    /// Mean training loss over the round's steps, nats per token.
    pub train_loss: f64,
    /// Optimiser steps.
    pub steps: u64,
    /// Tokens that went through the model.
    pub tokens: u64,
    /// Time spent in steps, seconds.
    pub seconds: f64,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn training() -> Training {
        Training {
            micro_batch: 1,
            accumulation: 1,
            prompt_loss_weight: 1.0,
            shuffle: false,
            learning_rate: 1.0,
            schedule: ScheduleKind::Linear,
            warmup_steps: 0,
            weight_decay: 0.0,
            max_grad_norm: 0.0,
            seed: 3,
        }
    }

    pub(crate) fn task(round: u32, rounds: u32) -> Task {
        Task {
            round,
            rounds,
            work: LocalWork::Epochs(1),
            scope: ScheduleScope::Session,
            training: training(),
            base_sha256: "seed".into(),
        }
    }

    #[test]
    fn over_a_session_the_rate_goes_on_and_per_round_it_starts_anew() {
        let rates = |scope| -> Vec<f64> {
            (1..=2)
                .flat_map(|round| {
                    let plan = Task { scope, ..task(round, 2) }.training_of("a", 2);
                    (0..2).map(move |i| plan.schedule.rate_at(plan.schedule_from + i))
                })
                .collect()
        };
        assert_eq!(rates(ScheduleScope::Session), [1.0, 0.75, 0.5, 0.25]);
        assert_eq!(rates(ScheduleScope::Round), [1.0, 0.5, 1.0, 0.5]);
    }

    #[test]
    fn rows_go_on_from_round_to_round_and_dropout_differs() {
        let (first, second) = (task(1, 3).training_of("a", 4), task(2, 3).training_of("a", 4));
        assert_eq!((first.first_step, second.first_step, second.total_steps), (0, 4, 12));
        assert_ne!(first.settings.dropout_seed, second.settings.dropout_seed);
        let other = task(1, 3).training_of("b", 4);
        assert_ne!(first.settings.dropout_seed, other.settings.dropout_seed);
    }
}
