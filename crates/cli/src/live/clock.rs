//! How long it will still take, from what a run plans to do and how fast it has been so far.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use consilium_core::Event;

/// The work ahead, in units that take about the same time each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Rounds of the federation; 0 where there is none.
    pub rounds: u32,
    /// Row passes through training, all models together.
    pub training_rows: u64,
    /// Questions to answer, all models together.
    pub questions: u64,
    /// Training rows of one optimiser step of one site.
    pub rows_per_step: u64,
    /// How many times more rows a step of the pooled model takes.
    pub pooled_factor: u64,
}

/// Two kinds of work, whose speeds have nothing to do with each other.
#[derive(Clone, Copy, Debug, Default)]
struct Meter {
    total: f64,
    done: f64,
    spent_s: f64,
}

impl Meter {
    /// Seconds left, or `None` while there is work and no speed yet.
    fn left_s(&self) -> Option<f64> {
        let left = (self.total - self.done).max(0.0);
        match () {
            _ if left == 0.0 => Some(0.0),
            _ if self.done > 0.0 => Some(left * self.spent_s / self.done),
            _ => None,
        }
    }
}

/// Follows the events of a run and estimates its end.
pub struct Clock {
    plan: Plan,
    started: Instant,
    last: Instant,
    training: Meter,
    asking: Meter,
    asked: HashMap<String, u64>,
}

impl Clock {
    /// A clock that starts now.
    pub fn new(plan: Plan) -> Self {
        let training = Meter { total: plan.training_rows as f64, ..Meter::default() };
        let asking = Meter { total: plan.questions as f64, ..Meter::default() };
        let now = Instant::now();
        Self { plan, started: now, last: now, training, asking, asked: HashMap::new() }
    }

    /// Takes one event into account.
    pub fn record(&mut self, event: &Event) {
        self.record_at(event, Instant::now());
    }

    fn record_at(&mut self, event: &Event, now: Instant) {
        let (meter, units) = match event {
            Event::Step { site, .. } => {
                let factor = if site.is_some() { 1 } else { self.plan.pooled_factor.max(1) };
                (&mut self.training, self.plan.rows_per_step.max(1) * factor)
            }
            Event::Progress { task, done, unit, .. } if unit == "questions" => {
                let before = self.asked.insert(task.clone(), *done).unwrap_or(0);
                (&mut self.asking, done.saturating_sub(before))
            }
            _ => return,
        };
        meter.done += units as f64;
        meter.spent_s += (now - self.last).as_secs_f64();
        self.last = now;
    }

    /// Since the start.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Share of the planned work that is done, 0 to 1: by time where speeds are known, else by training alone.
    pub fn share(&self) -> f64 {
        let spent = self.training.spent_s + self.asking.spent_s;
        match self.left_s() {
            Some((left, _)) if spent + left > 0.0 => spent / (spent + left),
            _ => 0.0,
        }
    }

    /// Seconds left, and whether that is all of it (`false`: some work has no speed yet, so it is a lower bound).
    pub fn left_s(&self) -> Option<(f64, bool)> {
        match (self.training.left_s(), self.asking.left_s()) {
            (Some(a), Some(b)) => Some((a + b, true)),
            (Some(known), None) | (None, Some(known)) if known > 0.0 => Some((known, false)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(site: Option<&str>) -> Event {
        Event::Step {
            model: "m".into(),
            site: site.map(Into::into),
            round: None,
            step: 1,
            steps: 10,
            loss: 1.0,
            lr: 0.1,
            grad_norm: 1.0,
            tokens: 10,
            seconds: 1.0,
        }
    }

    #[test]
    fn the_estimate_adds_both_kinds_of_work_at_their_own_speed() {
        let mut clock = Clock::new(Plan {
            rounds: 1,
            training_rows: 80,
            questions: 30,
            rows_per_step: 8,
            pooled_factor: 2,
        });
        let start = clock.last;
        clock.record_at(&step(Some("a")), start + Duration::from_secs(4));
        assert_eq!(clock.left_s(), Some((36.0, false)));
        clock.record_at(&step(None), start + Duration::from_secs(12));
        assert_eq!(clock.left_s(), Some((28.0, false)));
        let asked = |done| Event::Progress { task: "t".into(), done, total: 30, unit: "questions".into() };
        clock.record_at(&asked(0), start + Duration::from_secs(12));
        clock.record_at(&asked(10), start + Duration::from_secs(17));
        assert_eq!(clock.left_s(), Some((28.0 + 10.0, true)));
    }
}
