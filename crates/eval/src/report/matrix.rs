//! The cross-hospital matrix as a heat map.

use super::html::{esc, minus, section};
use crate::summary::Summary;
use crate::words::value;

/// Percent of the heat colour in the hottest cell, beyond the 6 % that every cell has; ink stays readable on it in
/// both colour schemes.
const DEEPEST: f64 = 60.0;

/// How the base model is called here.
const BASE: &str = "base model";

/// Rows are models, columns are test rows of sites; the hospital's own cell is framed.
pub(super) fn heat_map(summary: &Summary) -> String {
    let matrix = &summary.matrix;
    if matrix.sites.is_empty() {
        return String::new();
    }
    let shared = [
        (BASE, Some(&matrix.base)),
        ("federated", Some(&matrix.federated)),
        ("pooled", matrix.pooled.as_ref()),
    ];
    let shared: Vec<(&str, &Vec<f64>)> = shared
        .into_iter()
        .filter_map(|(name, values)| Some((name, values.filter(|v| !v.is_empty())?)))
        .collect();
    // The base model may lie far below the rest and would leave them all one colour: it only gets the coldest.
    let trained = || {
        let shared = shared.iter().filter(|(name, _)| *name != BASE).map(|(_, values)| *values);
        matrix.values.iter().chain(shared).flatten().copied()
    };
    let (low, high) = (trained().fold(f64::INFINITY, f64::min), trained().fold(f64::NEG_INFINITY, f64::max));
    let heat = |x: f64| {
        let share = if high > low { ((x - low) / (high - low)).clamp(0.0, 1.0) } else { 0.5 };
        if matrix.metric.higher_is_better() { share } else { 1.0 - share }
    };
    let cells = |model: &str, values: &[f64], own: Option<usize>| -> String {
        matrix
            .sites
            .iter()
            .zip(values)
            .enumerate()
            .map(|(j, (site, &x))| {
                format!(
                    "<td class=\"heat{own}\" style=\"--heat-share:{heat:.0}\" title=\"{model} on {site}: {text}\">{text}</td>",
                    own = if own == Some(j) { " own" } else { "" },
                    heat = DEEPEST * heat(x),
                    model = esc(model),
                    site = esc(site),
                    text = minus(value(x)),
                )
            })
            .collect()
    };
    let columns: String =
        matrix.sites.iter().map(|site| format!("<th scope=\"col\">{}</th>", esc(site))).collect();
    let locals: String = matrix
        .sites
        .iter()
        .zip(&matrix.values)
        .enumerate()
        .map(|(i, (site, values))| {
            format!(
                "<tr><th scope=\"row\">{}</th>{}</tr>\n",
                esc(site),
                cells(&format!("{site} alone"), values, Some(i))
            )
        })
        .collect();
    let shared: String = shared
        .iter()
        .map(|(name, values)| {
            format!("<tr><th scope=\"row\">{name}</th>{}</tr>\n", cells(name, values, None))
        })
        .collect();
    let body = format!(
        "<div class=\"scroll\"><table class=\"matrix\">\n<thead><tr><th scope=\"col\">trained on \\ tested on</th>{columns}</tr></thead>\n\
         <tbody>\n{locals}</tbody>\n<tbody class=\"shared\">\n{shared}</tbody>\n</table></div>\n"
    );
    let lead = format!(
        "{}: the model that one hospital trained alone (rows) on the test questions of another (columns). A framed cell is a \
         hospital's own model at home.",
        matrix.metric.title()
    );
    section("matrix", "Across hospitals", &lead, &body)
}
