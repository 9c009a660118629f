//! The run as one self-contained HTML file: inline CSS and SVG, no script, no network, light and dark.
//!
//! One file for each part of the page, in the page's order. Every number shown is in `summary.json` or
//! `metrics.jsonl`; the report computes none of its own beyond rounding, sums, means and ratios of these.

mod config;
mod html;
mod learning;
mod matrix;
mod overview;
mod samples;
mod scores;
mod sizes;

use consilium_core::Event;
use serde::{Deserialize, Serialize};

use crate::prediction::Prediction;
use crate::summary::Summary;
use html::esc;

/// Everything that the report shows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReportInput {
    /// `summary.json`.
    pub summary: Summary,
    /// `metrics.jsonl`.
    pub events: Vec<Event>,
    /// `predictions.jsonl`.
    pub predictions: Vec<Prediction>,
    /// `config.toml`, as it was resolved.
    pub config_toml: String,
}

/// Renders the report. Parts for which the input holds nothing are left out.
pub fn render_html(input: &ReportInput) -> String {
    let summary = &input.summary;
    let body: String = [
        overview::answer(summary),
        overview::verdict_table(summary),
        overview::difference_chart(summary),
        scores::bars(summary),
        learning::rounds(input),
        learning::steps(input),
        matrix::heat_map(summary),
        samples::questions(input),
        sizes::cost(summary),
        config::setup(input),
    ]
    .concat();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title} · Consilium report</title>\n\
         <style>\n{style}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n",
        title = esc(&summary.run),
        style = include_str!("style.css"),
    )
}
