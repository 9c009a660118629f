//! The top of the page: the answer in words for every site, the verdict table, and the differences as a chart.

use super::html::{axis, bytes, esc, minus, seconds, section, tick};
use crate::summary::Summary;
use crate::verdict::{ALL, VerdictRow};
use crate::words::{Outcome, counted, grouped, headline, method, recovered, resolution, signed, value};

fn class(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Better => "better",
        Outcome::Worse => "worse",
        Outcome::Unclear => "unclear",
    }
}

fn badge(outcome: Outcome) -> String {
    format!(
        "<span class=\"badge {}\"><span aria-hidden=\"true\">{}</span> {}</span>",
        class(outcome),
        outcome.mark(),
        outcome.words()
    )
}

fn name(row: &VerdictRow) -> String {
    if row.site == ALL { "All sites".into() } else { esc(&row.site).to_string() }
}

fn interval([low, high]: [f64; 2]) -> String {
    minus(format!("{} to {}", signed(low), signed(high)))
}

/// The question, its answer, and the answer for each hospital.
pub(super) fn answer(summary: &Summary) -> String {
    let cards: String = summary.verdict.sites().map(card).collect();
    let facts = [
        format!("{} ({} parameters)", esc(&summary.model.id), grouped(summary.model.parameters)),
        counted(summary.sites.len(), "site"),
        counted(summary.rounds.len(), "round"),
        format!("{} sent", bytes(summary.rounds.iter().map(|r| r.bytes_up + r.bytes_down).sum())),
        seconds(summary.seconds),
        format!("seed {}", summary.seed),
    ];
    let facts: String = facts.iter().map(|fact| format!("<li>{fact}</li>")).collect();
    format!(
        "<header>\n<p class=\"eyebrow\">Consilium · run {run}</p>\n<h1>Did joining help my hospital?</h1>\n\
         <p class=\"answer\">{headline}</p>\n<ul class=\"runline\">{facts}</ul>\n</header>\n\
         <div class=\"cards\">\n{cards}</div>\n",
        run = esc(&summary.run),
        headline = esc(&headline(&summary.verdict)),
    )
}

fn card(row: &VerdictRow) -> String {
    let outcome = Outcome::of(row);
    let words = match outcome {
        Outcome::Better => "Joining helped.",
        Outcome::Worse => "Joining cost this hospital.",
        Outcome::Unclear => "These questions can't tell.",
    };
    format!(
        "<article class=\"card {class}\">\n<h3>{name}</h3>\n<p class=\"call\"><span aria-hidden=\"true\">{mark}</span> {words}</p>\n\
         <p class=\"delta\">{difference}</p>\n<p class=\"fine\">{local} alone, {federated} after joining; 95 % interval {interval}</p>\n</article>\n",
        class = class(outcome),
        name = name(row),
        mark = outcome.mark(),
        difference = minus(signed(row.difference)),
        local = minus(value(row.local)),
        federated = minus(value(row.federated)),
        interval = interval(row.ci95),
    )
}

/// Site by model, with the difference, its interval and a mark.
pub(super) fn verdict_table(summary: &Summary) -> String {
    let verdict = &summary.verdict;
    let rows: String = verdict.rows.iter().map(table_row).collect();
    let mut below = Vec::new();
    if let Some(worst) = &verdict.worst_site {
        below.push(format!(
            "Worst site: <strong>{}</strong>, {} ({}). {} of {} worse off.",
            esc(&worst.site),
            minus(signed(worst.difference)),
            interval(worst.ci95),
            verdict.sites_worse_off,
            counted(verdict.sites().count(), "site"),
        ));
    }
    below.extend(recovered(verdict).map(|text| esc(&text).to_string()));
    below.extend(
        verdict.rows.iter().filter(|row| row.spans_zero).map(|row| esc(&resolution(row)).to_string()),
    );
    let below: String = below.iter().map(|text| format!("<li>{text}</li>\n")).collect();
    let body = format!(
        "<div class=\"scroll\"><table class=\"verdict\">\n<thead><tr><th scope=\"col\">site</th><th scope=\"col\">questions</th>\
         <th scope=\"col\">base</th><th scope=\"col\">local</th><th scope=\"col\">federated</th><th scope=\"col\">pooled</th>\
         <th scope=\"col\" title=\"federated minus local\">difference</th><th scope=\"col\">95 % interval</th><th scope=\"col\">joining</th></tr></thead>\n\
         <tbody>\n{rows}</tbody>\n</table></div>\n<ul class=\"notes\">\n{below}</ul>\n<p class=\"fine\">{}</p>\n",
        esc(&method(verdict)),
    );
    let lead = "Each row compares the models on one hospital's test questions. <em>Local</em> is the model the hospital trained \
                alone, <em>federated</em> the one they trained together, <em>pooled</em> what moving all rows into one place \
                would give. On the last row, local is the average hospital's own model on everybody's questions.";
    section("verdict", "The verdict", lead, &body)
}

fn table_row(row: &VerdictRow) -> String {
    let outcome = Outcome::of(row);
    let total = if row.site == ALL { " total" } else { "" };
    let cell = |label: &str, text: String| format!("<td data-label=\"{label}\">{}</td>", minus(text));
    format!(
        "<tr class=\"{class}{total}\"><th scope=\"row\">{name}</th>{n}{base}{local}{federated}{pooled}{difference}\
         <td data-label=\"95 % interval\">{interval}</td><td data-label=\"joining\">{badge}</td></tr>\n",
        class = class(outcome),
        name = name(row),
        n = cell("questions", grouped(row.questions as u64)),
        base = cell("base", value(row.base)),
        local = cell("local", value(row.local)),
        federated = cell("federated", value(row.federated)),
        pooled = row
            .pooled
            .map_or_else(|| "<td data-label=\"pooled\">–</td>".into(), |x| cell("pooled", value(x))),
        difference = cell("difference", signed(row.difference)),
        interval = interval(row.ci95),
        badge = badge(outcome),
    )
}

/// federated - local with its interval, one line for each site, around zero.
pub(super) fn difference_chart(summary: &Summary) -> String {
    let verdict = &summary.verdict;
    if verdict.rows.is_empty() {
        return String::new();
    }
    let ends = || verdict.rows.iter().flat_map(|row| [row.ci95[0], row.ci95[1], row.difference, 0.0]);
    let (ticks, low, high) = axis(ends().fold(0.0, f64::min), ends().fold(0.0, f64::max), 6);
    let place = |x: f64| format!("{:.2}%", 100.0 * (x - low) / (high - low));
    let grid: String = ticks
        .iter()
        .map(|&t| {
            let zero = if t.abs() < 1e-12 { " class=\"zero\"" } else { "" };
            format!("<line{zero} x1=\"{x}\" x2=\"{x}\" y1=\"0\" y2=\"100%\"/>", x = place(t))
        })
        .collect();
    let rows: String = verdict
        .rows
        .iter()
        .map(|row| {
            let label = format!("{}: {}, 95 % interval {}", name(row), minus(signed(row.difference)), interval(row.ci95));
            format!(
                "<div class=\"forest-row{total}\"><span class=\"who\">{name}</span>\
                 <svg class=\"{class}\" height=\"34\" role=\"img\" aria-label=\"{label}\"><title>{label}</title><g class=\"grid\">{grid}</g>\
                 <line class=\"whisker\" x1=\"{from}\" x2=\"{to}\" y1=\"50%\" y2=\"50%\"/>\
                 <circle cx=\"{at}\" cy=\"50%\" r=\"6\"/></svg><span class=\"num\">{difference}</span></div>\n",
                total = if row.site == ALL { " total" } else { "" },
                name = name(row),
                class = class(Outcome::of(row)),
                from = place(row.ci95[0]),
                to = place(row.ci95[1]),
                at = place(row.difference),
                difference = minus(signed(row.difference)),
            )
        })
        .collect();
    let labels: String =
        ticks.iter().map(|&t| format!("<span style=\"left:{}\">{}</span>", place(t), tick(t))).collect();
    let better = if verdict.metric.higher_is_better() { "right" } else { "left" };
    let body = format!(
        "<div class=\"forest panel\" role=\"group\">\n{rows}<div class=\"forest-row scale\"><span></span><div class=\"ticks\">{labels}</div><span></span></div>\n\
         <p class=\"fine\">federated − local, {}; the line is the 95 % interval. The {better} of zero is better for the hospital.</p></div>\n",
        verdict.metric.title(),
    );
    section("difference", "What joining changed", "", &body)
}
