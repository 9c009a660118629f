//! `consilium report`: the report of a finished run, made anew from its files.

use std::path::Path;

use anyhow::{Context, Result};
use consilium_core::Event;
use consilium_eval::{ReportInput, render_html};
use serde::de::DeserializeOwned;

use super::print_json;
use crate::args::{ReportArgs, Voice};
use crate::failure::Failure;

/// Reads summary, metrics, predictions and configuration, and writes report.html beside them.
pub fn run(args: &ReportArgs, voice: Voice) -> Result<()> {
    let dir = &args.run;
    let summary = dir.join("summary.json");
    if !summary.is_file() {
        return Err(Failure::failed(format!("{} is no finished run: it has no summary.json", dir.display()))
            .hint("a stopped run writes it at its end: repeat its command with the same --out")
            .into());
    }
    let input = ReportInput {
        summary: serde_json::from_str(&read(&summary)?)
            .with_context(|| format!("{} is no summary", summary.display()))?,
        events: lines::<Event>(&dir.join("metrics.jsonl"))?,
        predictions: lines(&dir.join("predictions.jsonl"))?,
        config_toml: read(&dir.join("config.toml"))?,
    };
    let report = dir.join("report.html");
    std::fs::write(&report, render_html(&input))
        .with_context(|| format!("cannot write {}", report.display()))?;
    if voice.json {
        return print_json(&serde_json::json!({ "report": report }));
    }
    println!("{}", report.display());
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// One JSON value a line.
pub fn lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let text = read(path)?;
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(number, line)| {
            serde_json::from_str(line)
                .map_err(|error| Failure::data(format!("{}:{}: {error}", path.display(), number + 1)).into())
        })
        .collect()
}
