//! The learning rate as a pure function of the step, as Hugging Face `transformers` computes it.

use serde::{Deserialize, Serialize};

/// The shape of the decay after warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    /// Straight line to 0 at the last step (`get_linear_schedule_with_warmup`).
    #[default]
    Linear,
    /// Half a cosine to 0 at the last step (`get_cosine_schedule_with_warmup`).
    Cosine,
    /// No decay (`get_constant_schedule_with_warmup`).
    Constant,
}

/// A learning-rate schedule over `total_steps` optimiser steps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// Shape of the decay.
    pub kind: ScheduleKind,
    /// Learning rate at the end of the warm-up.
    pub peak: f64,
    /// Steps of linear warm-up from 0.
    pub warmup_steps: u64,
    /// Steps in all, warm-up included; the rate reaches 0 after the last one.
    pub total_steps: u64,
}

impl Schedule {
    /// The rate that optimiser step `step` (from 0) applies.
    pub fn rate_at(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.peak * step as f64 / self.warmup_steps as f64;
        }
        let decay_steps = self.total_steps.saturating_sub(self.warmup_steps).max(1);
        let progress = ((step - self.warmup_steps) as f64 / decay_steps as f64).min(1.0);
        self.peak
            * match self.kind {
                ScheduleKind::Linear => 1.0 - progress,
                ScheduleKind::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
                ScheduleKind::Constant => 1.0,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(kind: ScheduleKind) -> Schedule {
        Schedule { kind, peak: 1.0, warmup_steps: 4, total_steps: 12 }
    }

    #[test]
    fn warm_up_rises_from_zero_and_the_decay_ends_at_zero() {
        for kind in [ScheduleKind::Linear, ScheduleKind::Cosine] {
            let s = schedule(kind);
            assert_eq!(s.rate_at(0), 0.0);
            assert_eq!(s.rate_at(2), 0.5);
            assert_eq!(s.rate_at(4), 1.0);
            assert!((s.rate_at(8) - 0.5).abs() < 1e-12, "{kind:?} half-way");
            assert!(s.rate_at(12).abs() < 1e-12);
            assert!(s.rate_at(99).abs() < 1e-12);
        }
        assert_eq!(schedule(ScheduleKind::Constant).rate_at(11), 1.0);
    }

    #[test]
    fn without_warm_up_the_first_step_has_the_peak_rate() {
        let s = Schedule { kind: ScheduleKind::Linear, peak: 5e-4, warmup_steps: 0, total_steps: 96 };
        assert_eq!(s.rate_at(0), 5e-4);
        assert!((s.rate_at(95) - 5e-4 / 96.0).abs() < 1e-18);
    }
}
