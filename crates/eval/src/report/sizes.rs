//! What the run cost: parameters, memory, bytes, passes and time.

use super::html::{bytes, esc, facts, minus, model_name, seconds, section, share};
use crate::summary::Summary;
use crate::words::{grouped, value};

/// Adapter beside full model, base memory by precision, and the budget of every model.
pub(super) fn cost(summary: &Summary) -> String {
    let sizes = &summary.sizes;
    let memory = &sizes.base_memory;
    let model = &summary.model;
    let of_full = sizes.adapter_bytes as f64 / sizes.full_model_bytes.max(1) as f64;
    let travel = bars(
        "What travels",
        &[("adapter", "federated", sizes.adapter_bytes), ("full model", "base", sizes.full_model_bytes)],
    );
    let precision = bars(
        "Memory of the frozen base",
        &[
            ("f32", "base", memory.f32_bytes),
            ("bf16", "base", memory.bf16_bytes),
            ("int8", "base", memory.int8_bytes),
        ],
    );
    let known = |n: u64, text: String| if n == 0 { String::new() } else { text };
    let counts = facts(&[
        ("base parameters", grouped(model.parameters)),
        (
            "trainable parameters",
            format!("{} ({})", grouped(model.trainable), trainable_share(model.trainable_share())),
        ),
        ("adapter as a share of the model's bytes", known(sizes.full_model_bytes, share(of_full))),
        ("sent over all rounds", bytes(sizes.transferred_bytes)),
        ("wall time", seconds(summary.seconds)),
        ("peak memory of the process", known(summary.peak_rss_bytes, bytes(summary.peak_rss_bytes))),
    ]);
    let body = format!("{counts}<div class=\"grid\">\n{travel}{precision}</div>\n{}", budget(summary));
    section("cost", "Size and cost", "", &body)
}

/// Four digits, as PEFT prints it: 0.3414 %.
fn trainable_share(x: f64) -> String {
    format!("{:.4} %", x * 100.0)
}

fn bars(title: &str, entries: &[(&str, &str, u64)]) -> String {
    let largest = entries.iter().map(|entry| entry.2).max().unwrap_or(0);
    if largest == 0 {
        return String::new();
    }
    let rows: String = entries
        .iter()
        .map(|(label, class, n)| {
            format!(
                "<div class=\"bar-row\"><span class=\"who\">{label}</span><svg height=\"16\" role=\"img\"><title>{label}: {exact} bytes</title>\
                 <rect class=\"track\" width=\"100%\" height=\"16\" rx=\"3\"/><rect class=\"bar {class}\" width=\"{width:.2}%\" height=\"16\" rx=\"3\"/></svg>\
                 <span class=\"num\">{text}</span></div>\n",
                exact = grouped(*n),
                text = bytes(*n),
                width = 100.0 * *n as f64 / largest as f64,
            )
        })
        .collect();
    format!("<div class=\"panel bars\"><h4>{title}</h4>\n{rows}</div>\n")
}

fn budget(summary: &Summary) -> String {
    if summary.training.is_empty() {
        return String::new();
    }
    let rows: String = summary
        .training
        .iter()
        .map(|t| {
            format!(
                "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>\n",
                esc(&model_name(&t.model).0),
                minus(format!("{:.2}", t.passes)),
                grouped(t.steps),
                grouped(t.tokens),
                seconds(t.seconds),
                minus(value(t.final_loss)),
            )
        })
        .collect();
    format!(
        "<h3>Training budget</h3>\n<div class=\"scroll\"><table class=\"plain\">\n<thead><tr><th scope=\"col\">model</th>\
         <th scope=\"col\">passes over each row</th><th scope=\"col\">steps</th><th scope=\"col\">tokens</th><th scope=\"col\">time</th>\
         <th scope=\"col\">last loss</th></tr></thead>\n<tbody>\n{rows}</tbody>\n</table></div>\n"
    )
}
