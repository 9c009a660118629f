//! Values that several tests share.

use consilium_federation::{LocalWork, ScheduleScope, Task, Training};

pub(crate) fn task(round: u32, base_sha256: &str) -> Task {
    Task {
        round,
        rounds: 3,
        work: LocalWork::Epochs(1),
        scope: ScheduleScope::Session,
        training: Training::default(),
        base_sha256: base_sha256.into(),
    }
}
