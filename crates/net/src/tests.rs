//! Values that several tests share.

use consilium_core::ScheduleKind;
use consilium_federation::{LocalWork, ScheduleScope, Task, Training};

pub(crate) fn training() -> Training {
    Training {
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

pub(crate) fn task(round: u32, base_sha256: &str) -> Task {
    Task {
        round,
        rounds: 3,
        work: LocalWork::Epochs(1),
        scope: ScheduleScope::Session,
        training: training(),
        base_sha256: base_sha256.into(),
    }
}
