//! Training loss: for each round and site of the federation, and step by step for the models trained apart.

use std::collections::BTreeMap;

use consilium_core::Event;

use super::ReportInput;
use super::html::{axis, bytes, esc, minus, model_name, seconds, section, tick};
use crate::words::value;

/// A line of a chart: name, class, points `(x, y)`.
struct Line {
    name: String,
    class: String,
    points: Vec<(f64, f64)>,
}

/// Number of hues that lines of sites cycle through.
const HUES: usize = 8;

/// Points of a step curve at most; beyond, every k-th is drawn.
const MOST_POINTS: usize = 400;

/// Loss per round, one line for each site and a strong one for their mean; below it the rounds as a table.
pub(super) fn rounds(input: &ReportInput) -> String {
    let rounds = &input.summary.rounds;
    if rounds.is_empty() {
        return String::new();
    }
    let mut by_site: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    for event in &input.events {
        if let Event::SiteRound { round, site, accepted: true, train_loss, .. } = event {
            by_site.entry(site).or_default().push((f64::from(*round), *train_loss));
        }
    }
    let order =
        |name: &str| input.summary.sites.iter().position(|site| site.name == name).unwrap_or(usize::MAX);
    let mut sites: Vec<(&str, Vec<(f64, f64)>)> = by_site.into_iter().collect();
    sites.sort_by_key(|(name, _)| order(name));
    let mut lines: Vec<Line> = sites
        .into_iter()
        .enumerate()
        .map(|(i, (name, points))| Line { name: name.into(), class: format!("hue{}", i % HUES), points })
        .collect();
    let mean = rounds.iter().map(|r| (f64::from(r.round), r.train_loss)).collect();
    lines.push(Line { name: "mean of the sites".into(), class: "mean".into(), points: mean });
    let rejected: String = input.events.iter().filter_map(rejected_line).collect();
    let rejected =
        if rejected.is_empty() { rejected } else { format!("<ul class=\"notes\">{rejected}</ul>\n") };
    let body = format!(
        "<div class=\"panel\">{}{}</div>\n{rejected}{}",
        chart(&lines, "round", true),
        legend(&lines),
        round_table(input)
    );
    let lead = "Mean training loss of each hospital in each round, nats per token. Only adapters travel; the last columns say how many bytes.";
    section("rounds", "The rounds", lead, &body)
}

fn rejected_line(event: &Event) -> Option<String> {
    let Event::SiteRound { round, site, accepted: false, reason, .. } = event else { return None };
    let reason = reason.as_deref().unwrap_or("no reason given");
    Some(format!("<li>Round {round}: {} was not counted ({}).</li>\n", esc(site), esc(reason)))
}

fn round_table(input: &ReportInput) -> String {
    let rows: String = input
        .summary
        .rounds
        .iter()
        .map(|r| {
            let validation =
                r.validation_loss.map_or_else(|| "–".into(), |loss| minus(value(loss)));
            let sites = if r.accepted.is_empty() { String::from("–") } else { r.accepted.len().to_string() };
            let mark = if r.committed { "" } else { " <span class=\"badge worse\">not committed</span>" };
            format!(
                "<tr><th scope=\"row\">{}{mark}</th><td>{}</td><td>{validation}</td><td>{sites}</td><td>{}</td><td>{}</td><td>{}</td></tr>\n",
                r.round,
                minus(value(r.train_loss)),
                seconds(r.seconds),
                bytes(r.bytes_up),
                bytes(r.bytes_down),
            )
        })
        .collect();
    format!(
        "<div class=\"scroll\"><table class=\"plain\">\n<thead><tr><th scope=\"col\">round</th><th scope=\"col\">train loss</th>\
         <th scope=\"col\">validation loss</th><th scope=\"col\">sites counted</th><th scope=\"col\">time</th><th scope=\"col\">bytes up</th>\
         <th scope=\"col\">bytes down</th></tr></thead>\n<tbody>\n{rows}</tbody>\n</table></div>\n"
    )
}

/// Loss per optimiser step of every model that was trained in one place.
pub(super) fn steps(input: &ReportInput) -> String {
    let mut by_model: Vec<(String, Vec<(f64, f64)>)> = Vec::new();
    for event in &input.events {
        let Event::Step { model, step, loss, .. } = event else { continue };
        if model == "federated" {
            continue;
        }
        let point = (*step as f64, *loss);
        match by_model.iter_mut().find(|(name, _)| name == model) {
            Some((_, points)) => points.push(point),
            None => by_model.push((model.clone(), vec![point])),
        }
    }
    if by_model.is_empty() {
        return String::new();
    }
    let panels: String = by_model
        .into_iter()
        .map(|(model, points)| {
            let (name, class) = model_name(&model);
            let stride = points.len().div_ceil(MOST_POINTS);
            let points: Vec<(f64, f64)> = points.into_iter().step_by(stride).collect();
            let line = Line { name: name.clone(), class: class.to_owned(), points };
            format!("<div class=\"panel\"><h4>{}</h4>{}</div>\n", esc(&name), chart(&[line], "step", false))
        })
        .collect();
    let body = format!("<div class=\"grid\">\n{panels}</div>\n");
    section(
        "steps",
        "Trained apart",
        "Loss of each optimiser step, nats per token: the hospitals alone, and all rows pooled.",
        &body,
    )
}

/// A line chart that fills its width: the lines stretch, labels and strokes do not.
fn chart(lines: &[Line], unit: &str, dots: bool) -> String {
    let all = || lines.iter().flat_map(|line| &line.points).filter(|(_, y)| y.is_finite());
    let fold = |pick: fn(&(f64, f64)) -> f64, with: fn(f64, f64) -> f64| all().map(pick).reduce(with);
    let (Some(left), Some(right), Some(bottom), Some(top)) =
        (fold(|p| p.0, f64::min), fold(|p| p.0, f64::max), fold(|p| p.1, f64::min), fold(|p| p.1, f64::max))
    else {
        return String::new();
    };
    let (ticks, low, high) = axis(bottom, top, 4);
    let width = if right > left { right - left } else { 1.0 };
    // A margin keeps the dots of the first and last round inside.
    let x = |v: f64| 2.0 + 96.0 * if right > left { (v - left) / width } else { 0.5 };
    let y = |v: f64| 100.0 * (high - v) / (high - low);

    let grid: String =
        ticks.iter().map(|&t| format!("<path class=\"grid\" d=\"M0 {0:.2}H100\"/>", y(t))).collect();
    let drawn: String = lines.iter().map(|line| draw(line, unit, dots, &x, &y)).collect();
    let y_labels: String =
        ticks.iter().map(|&t| format!("<span style=\"top:{:.2}%\">{}</span>", y(t), tick(t))).collect();
    let x_labels: String = x_ticks(left, right)
        .into_iter()
        .map(|t| format!("<span style=\"left:{:.2}%\">{}</span>", x(t), tick(t)))
        .collect();
    format!(
        "<div class=\"plot\"><div class=\"y\">{y_labels}</div><svg viewBox=\"0 0 100 100\" preserveAspectRatio=\"none\" role=\"img\" \
         aria-label=\"training loss by {unit}\">{grid}{drawn}</svg><div class=\"x ticks\">{x_labels}</div><div class=\"unit\">{unit}</div></div>\n"
    )
}

fn draw(line: &Line, unit: &str, dots: bool, x: &dyn Fn(f64) -> f64, y: &dyn Fn(f64) -> f64) -> String {
    let points: Vec<&(f64, f64)> = line.points.iter().filter(|(_, loss)| loss.is_finite()).collect();
    let path: Vec<String> =
        points.iter().map(|(at, loss)| format!("{:.2} {:.2}", x(*at), y(*loss))).collect();
    let (name, class) = (esc(&line.name), &line.class);
    let mut out =
        format!("<path class=\"line {class}\" d=\"M{}\"><title>{name}</title></path>", path.join("L"));
    if dots {
        for (place, (at, loss)) in path.iter().zip(points) {
            out.push_str(&format!(
                "<path class=\"dot {class}\" d=\"M{place}h0\"><title>{name}, {unit} {at}: {}</title></path>",
                minus(value(*loss))
            ));
        }
    }
    out
}

/// Whole numbers only: rounds and steps.
fn x_ticks(left: f64, right: f64) -> Vec<f64> {
    let (ticks, ..) = axis(left, right, 6);
    let mut ticks: Vec<f64> =
        ticks.into_iter().filter(|t| t.fract() == 0.0 && (left..=right).contains(t)).collect();
    if ticks.first() != Some(&left) && ticks.first().is_none_or(|first| first - left > (right - left) / 12.0)
    {
        ticks.insert(0, left);
    }
    ticks
}

fn legend(lines: &[Line]) -> String {
    let keys: String = lines
        .iter()
        .map(|line| {
            let last = line.points.last().map_or_else(String::new, |(_, y)| minus(value(*y)));
            format!("<span class=\"key {}\">{} <b>{last}</b></span>", line.class, esc(&line.name))
        })
        .collect();
    format!("<p class=\"legend\">{keys}</p>\n")
}
