//! Bars: base, one hospital, federated and pooled, over all questions and on each site's own.

use super::html::{axis, esc, minus, section};
use crate::prediction::Metric;
use crate::summary::Summary;
use crate::verdict::ALL;
use crate::words::value;

/// A bar: label, class, value.
type Bar = (&'static str, &'static str, f64);

/// One panel for each ROUGE over all questions, then one for each site.
pub(super) fn bars(summary: &Summary) -> String {
    let overall: Vec<(String, Vec<Bar>)> =
        [Metric::Rouge1, Metric::Rouge2, Metric::RougeL, Metric::ExactMatch]
            .into_iter()
            .filter_map(|metric| Some((metric.title().to_owned(), over_all(summary, metric)?)))
            .collect();
    let sites: Vec<(String, Vec<Bar>)> = summary
        .verdict
        .sites()
        .map(|row| (row.site.clone(), four(row.base, row.local, row.federated, row.pooled)))
        .collect();
    if overall.is_empty() && sites.is_empty() {
        return String::new();
    }
    let legend = "<p class=\"legend\"><span class=\"key base\">base model</span><span class=\"key local\">one hospital alone</span>\
                  <span class=\"key federated\">federated</span><span class=\"key pooled\">pooled</span></p>\n";
    let body = format!(
        "{legend}<h3>All questions</h3>\n{}<h3>{} on each hospital's own questions</h3>\n{}",
        panels(&overall),
        summary.verdict.metric.title(),
        panels(&sites)
    );
    let lead = "Over all questions, <em>one hospital</em> is the mean of the hospitals' own models. ROUGE counts shared words, so \
                even a wrong answer scores when the sentence around it is right: read the sample answers too.";
    section("scores", "Scores", lead, &body)
}

fn over_all(summary: &Summary, metric: Metric) -> Option<Vec<Bar>> {
    let verdicts = std::iter::once(&summary.verdict).chain(&summary.other_verdicts);
    if let Some(row) =
        verdicts.filter(|v| v.metric == metric).find_map(|v| v.rows.iter().find(|r| r.site == ALL))
    {
        return Some(four(row.base, row.local, row.federated, row.pooled));
    }
    let of = |model: &str| summary.scores_of(model).and_then(|scores| scores.all.get(metric));
    let locals: Vec<f64> = summary
        .scores
        .iter()
        .filter(|scores| scores.model.starts_with("local-"))
        .filter_map(|scores| scores.all.get(metric))
        .collect();
    if locals.is_empty() {
        return None;
    }
    let local = locals.iter().sum::<f64>() / locals.len() as f64;
    Some(four(of("base")?, local, of("federated")?, of("pooled")))
}

fn four(base: f64, local: f64, federated: f64, pooled: Option<f64>) -> Vec<Bar> {
    let mut bars =
        vec![("base", "base", base), ("local", "local", local), ("federated", "federated", federated)];
    bars.extend(pooled.map(|value| ("pooled", "pooled", value)));
    bars
}

/// Panels share one scale, so that bars compare across them.
fn panels(groups: &[(String, Vec<Bar>)]) -> String {
    let largest = groups.iter().flat_map(|(_, bars)| bars).map(|bar| bar.2).fold(0.0, f64::max);
    let (_, _, high) = axis(0.0, if largest > 0.0 { largest } else { 1.0 }, 4);
    let panels: String = groups
        .iter()
        .map(|(title, bars)| {
            let rows: String = bars.iter().map(|bar| bar_row(title, bar, high)).collect();
            format!("<div class=\"panel bars\"><h4>{}</h4>\n{rows}</div>\n", esc(title))
        })
        .collect();
    format!("<div class=\"grid\">\n{panels}</div>\n")
}

fn bar_row(title: &str, (label, class, height): &Bar, high: f64) -> String {
    format!(
        "<div class=\"bar-row\"><span class=\"who\">{label}</span><svg height=\"16\" role=\"img\"><title>{title}, {label}: {text}</title>\
         <rect class=\"track\" width=\"100%\" height=\"16\" rx=\"3\"/><rect class=\"bar {class}\" width=\"{width:.2}%\" height=\"16\" rx=\"3\"/></svg>\
         <span class=\"num\">{text}</span></div>\n",
        title = esc(title),
        text = minus(value(*height)),
        width = 100.0 * (height / high).clamp(0.0, 1.0),
    )
}
