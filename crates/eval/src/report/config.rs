//! What it takes to run this again: data, decoding, machine, configuration, seeds and hashes.

use consilium_core::{Event, LoraConfig};

use super::ReportInput;
use super::html::{bytes, esc, facts, section};
use crate::summary::Summary;
use crate::words::{counted, grouped};

/// The end of the page.
pub(super) fn setup(input: &ReportInput) -> String {
    let summary = &input.summary;
    let notes: String = summary
        .notes
        .iter()
        .map(String::as_str)
        .chain(input.events.iter().filter_map(|event| match event {
            Event::Note { text } if !summary.notes.contains(text) => Some(text.as_str()),
            _ => None,
        }))
        .map(|note| format!("<li>{}</li>\n", esc(note)))
        .collect();
    let notes = if notes.is_empty() {
        notes
    } else {
        format!("<h3>Worth knowing</h3>\n<ul class=\"notes\">{notes}</ul>\n")
    };
    let config = if input.config_toml.is_empty() {
        String::new()
    } else {
        format!("<details><summary>config.toml</summary>\n<pre>{}</pre></details>\n", esc(&input.config_toml))
    };
    let body = format!(
        "{notes}<h3>Data</h3>\n{}{}<h3>Adapter and decoding</h3>\n{}{}<h3>Machine</h3>\n{}<h3>Hashes (SHA-256)</h3>\n{}{config}\
         <footer><p class=\"fine\">Made by Consilium{}. Every number on this page is in <code>summary.json</code> or \
         <code>metrics.jsonl</code>, or a sum, mean or ratio of numbers there; the answers are in <code>predictions.jsonl</code>.</p></footer>\n",
        data(summary),
        sites(summary),
        decoding(summary),
        cut_off(summary),
        machine(summary),
        hashes(summary),
        if summary.version.is_empty() { String::new() } else { format!(" {}", esc(&summary.version)) },
    );
    section("setup", "How to run this again", "", &body)
}

fn data(summary: &Summary) -> String {
    let data = &summary.data;
    facts(&[
        ("source", esc(&data.source).to_string()),
        ("partition", esc(&data.partition).to_string()),
        ("good rows", grouped(data.rows)),
        ("rows skipped as bad", grouped(data.bad_rows)),
        ("seed", summary.seed.to_string()),
    ])
}

fn sites(summary: &Summary) -> String {
    let rows: String = summary
        .sites
        .iter()
        .map(|site| {
            format!(
                "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>\n",
                esc(&site.name),
                grouped(site.train_rows),
                grouped(site.validation_rows),
                grouped(site.test_rows),
                grouped(site.truncated_rows),
            )
        })
        .collect();
    format!(
        "<div class=\"scroll\"><table class=\"plain\">\n<thead><tr><th scope=\"col\">site</th><th scope=\"col\">train rows</th>\
         <th scope=\"col\">validation rows</th><th scope=\"col\">test rows</th><th scope=\"col\">rows cut</th></tr></thead>\n\
         <tbody>\n{rows}</tbody>\n</table></div>\n"
    )
}

fn decoding(summary: &Summary) -> String {
    let mut entries = Vec::new();
    if let Some(lora) = &summary.lora {
        entries.push(("LoRA", lora_words(lora)));
    }
    if let Some(d) = &summary.decoding {
        let how = if d.temperature == 0.0 {
            "greedy".to_owned()
        } else {
            format!("temperature {}, top-k {}, top-p {}, seed {}", d.temperature, d.top_k, d.top_p, d.seed)
        };
        entries.push(("decoding", how));
        entries.push(("new tokens at most", grouped(d.max_new_tokens as u64)));
        entries.push(("repetition penalty", d.repetition_penalty.to_string()));
        let ids: Vec<String> = d.stop_ids.iter().map(u32::to_string).collect();
        entries.push(("stop ids", ids.join(", ")));
    }
    facts(&entries)
}

fn lora_words(lora: &LoraConfig) -> String {
    let targets: Vec<&str> = lora.targets.iter().map(|target| target.module()).collect();
    format!(
        "rank {}, alpha {}, dropout {}, on {}{}",
        lora.rank,
        lora.alpha,
        lora.dropout,
        targets.join(", "),
        if lora.rslora { ", rank-stabilised" } else { "" }
    )
}

fn cut_off(summary: &Summary) -> String {
    let hits: Vec<String> = summary
        .scores
        .iter()
        .filter(|scores| scores.all.hit_limit > 0)
        .map(|scores| format!("{} {} of {}", esc(&scores.model), scores.all.hit_limit, scores.all.rows))
        .collect();
    match (summary.scores.is_empty(), hits.is_empty()) {
        (true, _) => String::new(),
        (_, true) => "<p>No answer of any model hit the limit on new tokens.</p>\n".into(),
        _ => format!("<p>Answers that hit the limit on new tokens: {}.</p>\n", hits.join("; ")),
    }
}

fn machine(summary: &Summary) -> String {
    let machine = &summary.hardware;
    facts(&[
        ("processor", esc(&machine.cpu).to_string()),
        (
            "cores",
            if machine.cores == 0 {
                String::new()
            } else {
                format!("{}, {} used", machine.cores, counted(machine.threads as usize, "thread"))
            },
        ),
        ("memory", if machine.memory_bytes == 0 { String::new() } else { bytes(machine.memory_bytes) }),
        ("system", esc(&machine.os).to_string()),
        ("kernel", esc(&machine.kernel).to_string()),
    ])
}

fn hashes(summary: &Summary) -> String {
    let row = |name: &str, hash: &str| {
        if hash.is_empty() {
            String::new()
        } else {
            format!("<div><dt>{}</dt><dd><code>{}</code></dd></div>\n", esc(name), esc(hash))
        }
    };
    let adapters: String =
        summary.adapter_sha256.iter().map(|(model, hash)| row(&format!("adapter {model}"), hash)).collect();
    format!(
        "<dl class=\"hashes\">\n{}{}{adapters}</dl>\n",
        row("base model", &summary.model.sha256),
        row("data", &summary.data.sha256)
    )
}
