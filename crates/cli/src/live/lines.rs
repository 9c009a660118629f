//! Progress as plain lines, for logs: one for each round and task, and at most one every ten seconds in between.

use std::collections::HashSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use consilium_core::{Event, Sink};

use super::clock::{Clock, Plan};
use crate::words;

/// Silence between two lines about the same thing.
const PAUSE: Duration = Duration::from_secs(10);

/// Writes lines to standard error.
pub struct Lines(Mutex<State>);

struct State {
    clock: Clock,
    said: Instant,
    /// Tasks whose beginning has been said; several may go on at once.
    begun: HashSet<String>,
}

impl Lines {
    /// Starts the clock.
    pub fn new(plan: Plan) -> Self {
        Self(Mutex::new(State { clock: Clock::new(plan), said: Instant::now(), begun: HashSet::new() }))
    }
}

impl Sink for Lines {
    fn record(&self, event: &Event) {
        let mut state = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        state.clock.record(event);
        if let Some(line) = state.line(event) {
            state.said = Instant::now();
            eprintln!("[{:>6.1} s] {line}", state.clock.elapsed().as_secs_f64());
        }
    }
}

impl State {
    fn line(&mut self, event: &Event) -> Option<String> {
        let due = self.said.elapsed() >= PAUSE;
        match event {
            Event::Step { model, site, step, steps, loss, .. } => {
                let who =
                    site.as_deref().filter(|site| !model.ends_with(site)).map(|site| format!(" at {site}"));
                let last = step == steps && !model.starts_with("federated");
                (due || last).then(|| {
                    let who = who.unwrap_or_default();
                    format!("{model}{who}: step {step} of {steps}, loss {loss:.3}{}", self.left())
                })
            }
            Event::Round { .. } => Some(format!("{}{}", round(event)?, self.left())),
            Event::SiteRound { round, site, accepted: false, reason, .. } => {
                let reason = reason.as_deref().unwrap_or("no reason given");
                Some(format!("round {round}: the update of {site} was not counted: {reason}"))
            }
            Event::Progress { task, done, total, unit } => {
                let new = self.begun.insert(task.clone());
                (new || due).then(|| format!("{task}: {done} of {total} {unit}{}", self.left()))
            }
            Event::Note { text } => Some(text.clone()),
            Event::SiteRound { .. } | Event::Score { .. } => None,
        }
    }

    fn left(&self) -> String {
        match self.clock.left_s() {
            Some((left, true)) => format!(", about {} left", words::seconds(left)),
            Some((left, false)) => format!(", at least {} left", words::seconds(left)),
            None => String::new(),
        }
    }
}

/// A round's end as a line.
pub fn round(event: &Event) -> Option<String> {
    let Event::Round { round, rounds, committed, accepted, train_loss, seconds, bytes_up, .. } = event else {
        return None;
    };
    let sites = accepted.len();
    Some(match committed {
        true => format!(
            "round {round} of {rounds}: {sites} sites, loss {train_loss:.3}, {} up, {}",
            words::bytes(*bytes_up),
            words::seconds(*seconds)
        ),
        false => format!("round {round} of {rounds}: failed with {sites} updates; the model stays as it was"),
    })
}
