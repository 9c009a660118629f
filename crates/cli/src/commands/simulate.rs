//! `consilium simulate`: a federation in one process, compared with its absence, and a verdict.

use std::io::IsTerminal;
use std::path::Path;

use anyhow::{Error, Result};
use consilium_core::Event;
use consilium_eval::{Summary, TableOptions, render_table};
use consilium_experiment::{Config, ExperimentError};
use consilium_federation::LocalWork;

use super::print_json;
use crate::args::{SimulateArgs, Voice};
use crate::config::{self, Layer};
use crate::failure::Failure;
use crate::live::{self, Plan};
use crate::rows::{self, Rows};
use crate::{inputs, interrupt, run_folder, words};

/// Resolves the configuration, reads what it names, runs it and prints the verdict.
pub fn run(args: &SimulateArgs, voice: Voice) -> Result<()> {
    let mut flags = Layer::default();
    args.model.lower(&mut flags);
    args.data.lower(&mut flags)?;
    args.lora.lower(&mut flags)?;
    args.train.lower(&mut flags)?;
    args.federation.lower(&mut flags)?;
    args.eval.lower(&mut flags)?;
    let config = config::resolve(&args.run, &flags)?;
    let rows = rows::for_session(&config)?;
    let out = run_folder::choose(args.run.out.as_deref(), "simulate")?;
    let resume = format!("go on with the same command and --out {}", out.display());
    let summary = experiment(&config, rows, &out, voice, &resume)?;
    print(&summary, &out, voice)
}

/// Runs the experiment in `out`, or goes on with it, under the live view and Ctrl-C. `resume` says how to go on.
///
/// # Errors
/// Whatever the experiment met; a stop is a [`Failure::stopped`].
pub fn experiment(config: &Config, rows: Rows, out: &Path, voice: Voice, resume: &str) -> Result<Summary> {
    config.validate_for_sites(rows.sites.len())?;
    let plan = plan(config, &rows);
    let bad = skipped(&rows);
    let inputs = inputs::gather(config, rows)?;
    let stop = interrupt::stop_flag(interrupt::RESUMABLE)?;
    let view = live::view(voice, plan);
    bad.into_iter().for_each(|text| view.record(&Event::Note { text }));
    consilium_experiment::simulate(config, &inputs, out, view.as_ref(), &stop)
        .map_err(|error| explain(error, resume))
}

/// A stop becomes the failure with its own exit code and the way to go on.
pub fn explain(error: ExperimentError, resume: &str) -> Error {
    match error {
        ExperimentError::Stopped { .. } => Failure::stopped(resume).into(),
        other => other.into(),
    }
}

/// Sentences about rows that were left out.
pub fn skipped(rows: &Rows) -> Vec<String> {
    skipped_rows(&rows.bad, rows.summary.bad_rows)
}

/// Sentences about the first of the `bad` rows, of which there are `count`.
pub fn skipped_rows(bad: &[String], count: u64) -> Vec<String> {
    let shown = 5;
    let more = (bad.len() > shown).then(|| format!("... and more; {count} bad rows in all"));
    bad.iter().take(shown).map(|row| format!("skipped {row}")).chain(more).collect()
}

/// The work ahead: local, federated and pooled training at equal budget, then every model's answers.
fn plan(config: &Config, rows: &Rows) -> Plan {
    let rows_per_step = (config.train.micro_batch * config.train.accumulation) as u64;
    let rounds = u64::from(config.federation.rounds);
    let passes: u64 = rows
        .sites
        .iter()
        .map(|site| match config.federation.local_work() {
            LocalWork::Epochs(epochs) => {
                let steps = (site.train.len() as u64).div_ceil(rows_per_step);
                rounds * u64::from(epochs) * steps * rows_per_step
            }
            LocalWork::Steps(steps) => rounds * steps * rows_per_step,
        })
        .sum();
    let limit = config.eval.questions_per_site.unwrap_or(usize::MAX);
    let asked: usize = rows.sites.iter().map(|site| site.test.len().min(limit)).sum();
    let sites = rows.sites.len() as u64;
    Plan {
        rounds: config.federation.rounds,
        training_rows: 3 * passes,
        questions: asked as u64 * (sites + 3),
        rows_per_step,
        pooled_factor: sites,
    }
}

/// The verdict and where everything lies.
pub fn print(summary: &Summary, out: &Path, voice: Voice) -> Result<()> {
    if voice.json {
        return print_json(summary);
    }
    let color = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    println!("{}", render_table(&summary.verdict, &TableOptions { color, ascii: false }));
    let traffic = words::bytes(summary.sizes.transferred_bytes);
    let time = words::seconds(summary.seconds);
    println!("{traffic} of adapters travelled, no row did; {time}");
    println!();
    for (what, file) in [
        ("report", "report.html"),
        ("adapters", "adapters"),
        ("answers", "predictions.jsonl"),
        ("metrics", "metrics.jsonl"),
    ] {
        println!("  {what:<9} {}", out.join(file).display());
    }
    Ok(())
}
