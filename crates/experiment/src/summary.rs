//! From predictions and events to `summary.json`, `predictions.jsonl` and `report.html`.

use std::collections::BTreeMap;

use consilium_core::{Adapter, Event, Sink};
use consilium_eval::summary::{
    DataSummary, ModelSummary, RoundSummary, SiteSummary, SizeSummary, TrainingSummary,
};
use consilium_eval::{
    Bootstrap, Metric, Prediction, ReportInput, Scores, Summary, corpus_scores, matrix, render_html, verdict,
};

use crate::budget::session_steps;
use crate::config::Config;
use crate::durable;
use crate::error::ExperimentError;
use crate::evaluate::Asking;
use crate::inputs::{Inputs, SiteData, TrainRows};
use crate::machine;
use crate::run_folder::{RunFolder, read_events};
use crate::simulate::cut_rows;

/// What a finished run knows.
pub(crate) struct Facts<'a> {
    pub config: &'a Config,
    pub inputs: &'a Inputs,
    pub sites: &'a [TrainRows],
    pub adapters: &'a [(String, Adapter)],
    pub threads: usize,
    pub seconds: f64,
}

/// Judges the run and records every score.
///
/// # Errors
/// When predictions do not fit together.
pub(crate) fn summarise(
    facts: &Facts<'_>,
    run: &str,
    events: &[Event],
    predictions: &[Prediction],
    sink: &dyn Sink,
) -> Result<Summary, ExperimentError> {
    let Facts { config, inputs, .. } = facts;
    let names = inputs.names();
    let bootstrap = Bootstrap { resamples: config.eval.resamples, seed: config.seed };
    let scores = corpus_scores(predictions);
    for model in &scores {
        record_scores(sink, &model.model, "all", &model.all);
        for site in &model.sites {
            record_scores(sink, &model.model, &site.name, &site.scores);
        }
    }
    let mut others = Vec::new();
    for metric in [Metric::ExactMatch, Metric::AnswerNll] {
        let measured = metric != Metric::AnswerNll || predictions.iter().all(|p| p.answer_nll.is_some());
        if measured {
            others.push(verdict(predictions, &names, metric, &bootstrap)?);
        }
    }
    let model = model_summary(facts);
    let rounds = rounds(events);
    let asking = Asking::new(config, inputs)?;
    Ok(Summary {
        run: run.into(),
        seed: config.seed,
        sites: facts
            .inputs
            .shards
            .iter()
            .zip(facts.sites)
            .map(|(data, rows)| site(data, rows, config))
            .collect(),
        verdict: verdict(predictions, &names, Metric::RougeL, &bootstrap)?,
        other_verdicts: others,
        matrix: matrix(predictions, &names, Metric::RougeL)?,
        adapter_sha256: facts.adapters.iter().map(|(name, a)| (name.clone(), a.sha256())).collect(),
        seconds: facts.seconds,
        peak_rss_bytes: machine::peak_rss_bytes(),
        version: env!("CARGO_PKG_VERSION").into(),
        scores,
        data: DataSummary { rows: rows_in_all(inputs), ..inputs.data.clone() },
        sizes: SizeSummary::of(&model, &rounds),
        lora: Some(config.lora.clone()),
        decoding: Some(asking.decoding),
        training: trainings(facts, events),
        hardware: machine::hardware(facts.threads),
        notes: notes(facts, events, predictions),
        model,
        rounds,
    })
}

/// Tells `sink` a model's scores on the test rows of `site`.
pub(crate) fn record_scores(sink: &dyn Sink, model: &str, site: &str, scores: &Scores) {
    for metric in Metric::ALL {
        if let Some(value) = scores.get(metric) {
            sink.record(&Event::Score {
                model: model.into(),
                site: site.into(),
                metric: metric.name().into(),
                value,
                rows: scores.rows as u64,
            });
        }
    }
}

fn model_summary(facts: &Facts<'_>) -> ModelSummary {
    let (base, config) = (facts.inputs.model.info(), facts.inputs.model.config());
    ModelSummary {
        id: facts.config.model.id.clone(),
        parameters: base.parameters as u64,
        trainable: facts.adapters.first().map_or(0, |(_, adapter)| adapter.parameters() as u64),
        sha256: base.sha256,
        context: config.max_positions as u64,
        vocab: config.vocab_size as u64,
    }
}

/// Rows read, where the reader said so; else the rows that sites hold.
fn rows_in_all(inputs: &Inputs) -> u64 {
    let held = |shard: &SiteData| shard.train.len() + shard.validation.len() + shard.test.len();
    if inputs.data.rows > 0 { inputs.data.rows } else { inputs.shards.iter().map(held).sum::<usize>() as u64 }
}

fn site(data: &SiteData, rows: &TrainRows, config: &Config) -> SiteSummary {
    let asked = config.eval.questions_per_site.unwrap_or(usize::MAX).min(data.test.len());
    let mut categories: BTreeMap<&str, usize> = BTreeMap::new();
    for row in data.train.iter().chain(&data.test) {
        *categories.entry(&row.category).or_default() += 1;
    }
    let mut categories: Vec<(&str, usize)> = categories.into_iter().collect();
    categories.sort_by_key(|&(_, rows)| std::cmp::Reverse(rows));
    SiteSummary {
        name: data.name.clone(),
        train_rows: data.train.len() as u64,
        test_rows: asked as u64,
        validation_rows: data.validation.len() as u64,
        truncated_rows: rows.truncated() as u64,
        train_tokens: rows.tokens() as u64,
        categories: categories.into_iter().map(|(name, _)| name.to_owned()).collect(),
    }
}

fn rounds(events: &[Event]) -> Vec<RoundSummary> {
    let round = |event: &Event| match event.clone() {
        Event::Round { round, committed, accepted, train_loss, seconds, bytes_up, bytes_down, .. } => {
            Some(RoundSummary {
                round,
                train_loss,
                seconds,
                bytes_up,
                bytes_down,
                committed,
                accepted,
                validation_loss: None,
            })
        }
        _ => None,
    };
    events.iter().filter_map(round).collect()
}

/// What each model was trained for, from its steps.
fn trainings(facts: &Facts<'_>, events: &[Event]) -> Vec<TrainingSummary> {
    facts.adapters.iter().map(|(model, _)| training_of(facts, model, events)).collect()
}

fn training_of(facts: &Facts<'_>, model: &str, events: &[Event]) -> TrainingSummary {
    let mut summary = TrainingSummary { model: model.into(), ..TrainingSummary::default() };
    for event in events {
        match event {
            Event::Step { model: of, step, loss, tokens, seconds, .. } if of == model => {
                summary.steps = summary.steps.max(*step);
                summary.tokens += *tokens as u64;
                summary.seconds += seconds;
                summary.final_loss = *loss;
            }
            Event::Round { train_loss, committed: true, .. } if model == "federated" => {
                summary.final_loss = *train_loss;
            }
            _ => {}
        }
    }
    let (trained, rows) = facts.sites.iter().fold((0.0, 0.0), |(passes, rows), site| {
        let weight = site.rows.len() as f64;
        let steps = session_steps(facts.config, site) as f64 / site.steps_per_epoch() as f64;
        (passes + weight * steps, rows + weight)
    });
    summary.passes = trained / rows;
    summary
}

/// What a reader should know, one sentence each.
fn notes(facts: &Facts<'_>, events: &[Event], predictions: &[Prediction]) -> Vec<String> {
    let cut = facts.sites.iter().filter(|site| site.truncated() > 0);
    let mut notes: Vec<String> = cut.map(|site| cut_rows(site, facts.config.data.max_tokens)).collect();
    for event in events {
        if let Event::SiteRound { round, site, accepted: false, reason: Some(reason), .. } = event {
            notes.push(format!("round {round}: {site} was not counted: {reason}"));
        }
    }
    let hit = predictions.iter().filter(|p| p.hit_limit).count();
    if hit > 0 {
        notes.push(format!("{hit} of {} answers ended at the limit on new tokens", predictions.len()));
    }
    if facts.config.eval.parity {
        notes.push("answers were cut after 20 new tokens, as in the published workshop".into());
    }
    notes
}

/// Writes predictions, summary and report.
///
/// # Errors
/// [`ExperimentError::Io`].
pub(crate) fn write_results(
    folder: &RunFolder,
    summary: &Summary,
    predictions: &[Prediction],
) -> Result<(), ExperimentError> {
    let path = folder.path("predictions.jsonl");
    durable::write_file(&path, &jsonl(predictions).map_err(|e| ExperimentError::broken(&path, e))?)?;
    let config = durable::read(&folder.path("config.toml"))?.unwrap_or_default();
    let report = render_html(&ReportInput {
        summary: summary.clone(),
        events: read_events(&folder.path("metrics.jsonl"))?,
        predictions: predictions.to_vec(),
        config_toml: String::from_utf8_lossy(&config).into_owned(),
    });
    durable::write_file(&folder.path("report.html"), report.as_bytes())?;
    let path = folder.path("summary.json");
    let mut text = serde_json::to_string_pretty(summary).map_err(|e| ExperimentError::broken(&path, e))?;
    text.push('\n');
    durable::write_file(&path, text.as_bytes())
}

/// One JSON object a line.
pub(crate) fn jsonl(predictions: &[Prediction]) -> Result<Vec<u8>, serde_json::Error> {
    let mut bytes = Vec::new();
    for prediction in predictions {
        serde_json::to_writer(&mut bytes, prediction)?;
        bytes.push(b'\n');
    }
    Ok(bytes)
}
