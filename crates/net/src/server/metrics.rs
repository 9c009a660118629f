//! Numbers for Prometheus, in its text format (<https://prometheus.io/docs/instrumenting/exposition_formats/>).

use std::fmt::Write;

use super::core::Core;
use super::store::Status;

/// How recently a site must have been heard of to count as here, seconds.
const HERE_S: u64 = 60;

/// The present numbers.
pub(super) fn render(core: &Core) -> String {
    let now = core.now();
    let (counters, here, sessions) = {
        let inner = core.enter();
        let here = inner.seen.values().filter(|seen| now.saturating_sub(**seen).as_secs() < HERE_S).count();
        let of = |status| inner.sessions.values().filter(|live| live.row.status == status).count();
        let statuses = [Status::Gathering, Status::Running, Status::Finished, Status::Stopped];
        (inner.counters.clone(), here, statuses.map(|status| (status.word(), of(status))))
    };
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, help: &str, values: &[(String, f64)]| {
        let _ = writeln!(text, "# HELP consilium_{name} {help}\n# TYPE consilium_{name} {kind}");
        for (labels, value) in values {
            let _ = writeln!(text, "consilium_{name}{labels} {value}");
        }
    };
    let single = |value: u64| vec![(String::new(), value as f64)];
    let updates: Vec<(String, f64)> = counters
        .updates
        .iter()
        .map(|(outcome, count)| (format!("{{outcome=\"{outcome}\"}}"), *count as f64))
        .collect();
    family("updates_total", "counter", "Updates offered, by outcome.", &updates);
    family(
        "rounds_committed_total",
        "counter",
        "Rounds that made a model.",
        &single(counters.rounds_committed),
    );
    family("rounds_failed_total", "counter", "Rounds that made none.", &single(counters.rounds_failed));
    family("upload_bytes_total", "counter", "Bytes of updates that arrived.", &single(counters.bytes_in));
    family("download_bytes_total", "counter", "Bytes of models that were sent.", &single(counters.bytes_out));
    family("tasks_total", "counter", "Tasks handed out.", &single(counters.tasks));
    family("sites_here", "gauge", "Sites heard of in the last minute.", &single(here as u64));
    let sessions: Vec<(String, f64)> =
        sessions.iter().map(|(status, count)| (format!("{{status=\"{status}\"}}"), *count as f64)).collect();
    family("sessions", "gauge", "Sessions, by status.", &sessions);
    text
}
