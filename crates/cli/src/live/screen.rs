//! Progress on a terminal: one bar for the run, one line for each site, one for what goes on besides.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use consilium_core::{Event, Sink};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::clock::{Clock, Plan};
use super::lines;
use crate::words;

/// Steps of the run's bar.
const RESOLUTION: u64 = 1000;
/// Room for a site's name.
const NAME_WIDTH: usize = 28;

/// Bars on standard error; they vanish when the view is dropped.
pub struct Screen(Mutex<State>);

struct State {
    bars: MultiProgress,
    clock: Clock,
    whole: ProgressBar,
    /// One for each site, and for the pooled model, in order of appearance.
    sites: HashMap<String, ProgressBar>,
    /// One for each task that goes on; several may at once.
    tasks: HashMap<String, ProgressBar>,
    rounds: u32,
    round: String,
}

impl Screen {
    /// Draws the run's bar and starts the clock.
    pub fn new(plan: Plan) -> Self {
        let bars = MultiProgress::new();
        let whole = bars.add(ProgressBar::new(RESOLUTION));
        whole.set_style(style("{spinner} {prefix:29!} {bar:30.green/dim} {msg}"));
        whole.set_prefix("consilium");
        whole.enable_steady_tick(Duration::from_millis(120));
        Self(Mutex::new(State {
            bars,
            rounds: plan.rounds,
            clock: Clock::new(plan),
            whole,
            sites: HashMap::new(),
            tasks: HashMap::new(),
            round: String::new(),
        }))
    }
}

impl Sink for Screen {
    fn record(&self, event: &Event) {
        let mut state = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        state.clock.record(event);
        state.draw(event);
        state.draw_whole();
    }
}

impl Drop for State {
    fn drop(&mut self) {
        for bar in self.sites.values().chain(self.tasks.values()) {
            bar.finish_and_clear();
        }
        self.whole.finish_and_clear();
    }
}

impl State {
    fn draw(&mut self, event: &Event) {
        match event {
            Event::Step { model, site, round, step, steps, loss, .. } => {
                if let Some(round) = round {
                    self.round = format!("round {round} of {}, ", self.rounds);
                }
                let kind = if model.starts_with("local-") { "local" } else { model.as_str() };
                let bar = self.site(site.as_deref().unwrap_or(model));
                bar.set_length(*steps);
                bar.set_position(*step);
                bar.set_message(format!("{kind}  step {step}/{steps}  loss {loss:.3}"));
            }
            Event::Round { .. } => self.say(&lines::round(event).unwrap_or_default()),
            Event::SiteRound { round, site, accepted: false, reason, .. } => {
                let reason = reason.as_deref().unwrap_or("no reason given");
                self.say(&format!("round {round}: the update of {site} was not counted: {reason}"));
            }
            Event::Progress { task, done, total, unit } => self.draw_task(task, *done, *total, unit),
            Event::Note { text } => self.say(text),
            Event::SiteRound { .. } | Event::Score { .. } => {}
        }
    }

    fn draw_whole(&self) {
        let elapsed = words::seconds(self.clock.elapsed().as_secs_f64());
        let left = match self.clock.left_s() {
            Some((left, true)) => format!(", about {} left", words::seconds(left)),
            Some((left, false)) => format!(", at least {} left", words::seconds(left)),
            None => String::new(),
        };
        self.whole.set_position((self.clock.share() * RESOLUTION as f64) as u64);
        self.whole.set_message(format!("{}{elapsed}{left}", self.round));
    }

    fn draw_task(&mut self, task: &str, done: u64, total: u64, unit: &str) {
        let bars = &self.bars;
        let bar = self.tasks.entry(task.to_owned()).or_insert_with(|| {
            let bar = bars.add(ProgressBar::new(total));
            bar.set_style(style("  {prefix:29!} {bar:30.yellow/dim} {msg}"));
            bar.set_prefix(words::clip(task, NAME_WIDTH));
            bar
        });
        bar.set_length(total);
        bar.set_position(done);
        bar.set_message(format!("{done}/{total} {unit}"));
        if done >= total {
            bar.finish_and_clear();
            self.tasks.remove(task);
        }
    }

    fn site(&mut self, name: &str) -> &ProgressBar {
        let bars = &self.bars;
        let place = 1 + self.sites.len();
        self.sites.entry(name.to_owned()).or_insert_with(|| {
            let bar = bars.insert(place, ProgressBar::new(1));
            bar.set_style(style("  {prefix:29!} {bar:30.cyan/dim} {msg}"));
            bar.set_prefix(words::clip(name, NAME_WIDTH));
            bar
        })
    }

    /// Above the bars, to stay.
    fn say(&self, line: &str) {
        // A terminal that went away is no reason to stop a run.
        let _ = self.bars.println(line);
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is a constant").progress_chars("━╸─")
}
