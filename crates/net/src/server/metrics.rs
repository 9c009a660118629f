//! Numbers for Prometheus, in its text format (<https://prometheus.io/docs/instrumenting/exposition_formats/>).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::core::Core;
use super::store::Status;

/// How recently a site must have been heard of to count as here, seconds.
const HERE_S: u64 = 60;
/// Upper bounds of the buckets of a histogram, seconds; what is longer is counted without one.
const BOUNDS: [f64; 15] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0, 3600.0];

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timed {
    /// From a round's opening to its task's handing out.
    Dispatch,
    /// From a complete upload to its verdict: reading, checking, and for an accepted one the disk.
    Submit,
    /// Averaging of a round's updates.
    Fold,
    /// From a round's opening to its end.
    Round,
}

impl Timed {
    const ALL: [(Self, &'static str, &'static str); 4] = [
        (Self::Dispatch, "task_dispatch_seconds", "From a round's opening to its task's handing out."),
        (Self::Submit, "submit_seconds", "From a complete upload to its verdict."),
        (Self::Fold, "fold_seconds", "Averaging of a round's updates."),
        (Self::Round, "round_seconds", "From a round's opening to its end."),
    ];
}

/// Durations by size.
#[derive(Clone, Debug, Default)]
struct Histogram {
    /// Durations in each bucket alone.
    buckets: [u64; BOUNDS.len()],
    count: u64,
    seconds: f64,
}

impl Histogram {
    fn observe(&mut self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        if let Some(bucket) = BOUNDS.iter().position(|&bound| seconds <= bound) {
            self.buckets[bucket] += 1;
        }
        self.count += 1;
        self.seconds += seconds;
    }
}

/// What has been counted and timed since the start of the program.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Updates by outcome: `accepted`, or the reason's word.
    pub updates: BTreeMap<&'static str, u64>,
    /// Rounds that made a model.
    pub rounds_committed: u64,
    /// Rounds that did not.
    pub rounds_failed: u64,
    /// Bytes of uploads that arrived.
    pub bytes_in: u64,
    /// Bytes of models that were sent.
    pub bytes_out: u64,
    timed: [Histogram; Timed::ALL.len()],
}

/// The numbers behind `/metrics`.
#[derive(Debug, Default)]
pub(super) struct Metrics(Mutex<Counters>);

impl Metrics {
    pub fn counters(&self) -> MutexGuard<'_, Counters> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the counters.
    pub fn count(&self, change: impl FnOnce(&mut Counters)) {
        change(&mut self.counters());
    }

    /// Counts a duration.
    pub fn observe(&self, what: Timed, duration: Duration) {
        self.counters().timed[what as usize].observe(duration);
    }
}

/// The text as it grows.
#[derive(Default)]
struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP consilium_{name} {help}\n# TYPE consilium_{name} {kind}");
    }

    fn value(&mut self, name: &str, labels: &str, value: f64) {
        let _ = writeln!(self.0, "consilium_{name}{labels} {value}");
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, "counter", help);
        self.value(name, "", value as f64);
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.head(name, "histogram", help);
        let bucket = format!("{name}_bucket");
        let mut below = 0;
        for (bound, count) in BOUNDS.iter().zip(histogram.buckets) {
            below += count;
            self.value(&bucket, &format!("{{le=\"{bound}\"}}"), below as f64);
        }
        self.value(&bucket, "{le=\"+Inf\"}", histogram.count as f64);
        self.value(&format!("{name}_sum"), "", histogram.seconds);
        self.value(&format!("{name}_count"), "", histogram.count as f64);
    }
}

/// The present numbers.
pub(super) fn render(core: &Core) -> String {
    let now = core.now();
    let counters = core.counters();
    let (here, sessions) = {
        let inner = core.enter();
        let here = inner.seen.values().filter(|seen| now.saturating_sub(**seen).as_secs() < HERE_S).count();
        let of = |status| inner.sessions.values().filter(|live| live.row.status == status).count();
        let statuses = [Status::Gathering, Status::Running, Status::Finished, Status::Stopped];
        (here, statuses.map(|status| (status.word(), of(status))))
    };
    let mut page = Page::default();
    page.head("updates_total", "counter", "Updates offered, by outcome.");
    for (outcome, count) in &counters.updates {
        page.value("updates_total", &format!("{{outcome=\"{outcome}\"}}"), *count as f64);
    }
    page.counter("rounds_committed_total", "Rounds that made a model.", counters.rounds_committed);
    page.counter("rounds_failed_total", "Rounds that made none.", counters.rounds_failed);
    page.counter("upload_bytes_total", "Bytes of updates that arrived.", counters.bytes_in);
    page.counter("download_bytes_total", "Bytes of models that were sent.", counters.bytes_out);
    page.head("sites_here", "gauge", "Sites heard of in the last minute.");
    page.value("sites_here", "", here as f64);
    page.head("sessions", "gauge", "Sessions, by status.");
    for (status, count) in sessions {
        page.value("sessions", &format!("{{status=\"{status}\"}}"), count as f64);
    }
    for (what, name, help) in Timed::ALL {
        page.histogram(name, help, &counters.timed[what as usize]);
    }
    page.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_the_longest_has_no_bound() {
        let mut histogram = Histogram::default();
        for ms in [1, 2, 30, 8_000_000] {
            histogram.observe(Duration::from_millis(ms));
        }
        let mut page = Page::default();
        page.histogram("x_seconds", "X.", &histogram);
        let lines: Vec<&str> = page.0.lines().collect();
        assert_eq!(lines[1], "# TYPE consilium_x_seconds histogram");
        for line in [
            r#"consilium_x_seconds_bucket{le="0.001"} 1"#,
            r#"consilium_x_seconds_bucket{le="0.0025"} 2"#,
            r#"consilium_x_seconds_bucket{le="0.05"} 3"#,
            r#"consilium_x_seconds_bucket{le="3600"} 3"#,
            r#"consilium_x_seconds_bucket{le="+Inf"} 4"#,
            "consilium_x_seconds_count 4",
        ] {
            assert!(lines.contains(&line), "{line} in {}", page.0);
        }
    }
}
