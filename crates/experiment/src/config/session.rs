//! What a configuration means to a session: its settings, its tasks, and how every site trains.

use consilium_federation::{SessionSettings, Task, Training};

use super::{FederationConfig, TrainConfig};

impl TrainConfig {
    /// The part that a task carries to a site; `seed` is the run's.
    pub fn training(&self, seed: u64) -> Training {
        Training {
            micro_batch: self.micro_batch,
            accumulation: self.accumulation,
            prompt_loss_weight: self.prompt_loss_weight,
            shuffle: self.shuffle,
            learning_rate: self.learning_rate,
            schedule: self.schedule,
            warmup_steps: self.warmup_steps,
            weight_decay: self.weight_decay,
            max_grad_norm: self.max_grad_norm,
            seed,
        }
    }
}

impl FederationConfig {
    /// What a session of `sites` sites holds fixed.
    pub fn session_settings(&self, sites: usize, seed: u64) -> SessionSettings {
        SessionSettings {
            rounds: self.rounds,
            sites_per_round: Some(self.asked(sites)),
            quorum: self.needed(sites),
            deadline_s: self.deadline_s,
            seed,
        }
    }

    /// The task of `round`, from the global adapter `base_sha256`.
    pub fn task(&self, round: u32, training: Training, base_sha256: String) -> Task {
        Task {
            round,
            rounds: self.rounds,
            work: self.local_work(),
            scope: self.schedule,
            training,
            base_sha256,
        }
    }
}
