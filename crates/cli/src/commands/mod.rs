//! One file for each command: what it reads, which library it calls, and the words about what came out.

pub mod adapter;
mod answer;
pub mod ask;
pub mod completions;
pub mod demo;
pub mod doctor;
mod dry_run;
pub mod evaluate;
pub mod export;
pub mod inspect;
pub mod join;
pub mod keep;
pub mod operate;
pub mod partition;
pub mod report;
pub mod score;
pub mod serve;
pub mod simulate;
pub mod train;

use anyhow::{Context, Result};
use serde::Serialize;

/// One JSON document on standard output.
pub fn print_json(document: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(document).context("cannot express the result as JSON")?;
    println!("{text}");
    Ok(())
}
