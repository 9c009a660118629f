//! One training without a federation: a site alone, or all rows in one place, with checkpoint and resume.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use consilium_core::hash::Hasher;
use consilium_core::metric::Fanout;
use consilium_core::{Adapter, Event, Sink, StopFlag};
use consilium_data::{Example, Template, TextTokenizer};
use consilium_engine::{CpuEngine, Model, initial_adapter};

use crate::budget::unbroken;
use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::durable;
use crate::error::ExperimentError;
use crate::inputs::{TrainRows, hash_row, training};
use crate::machine;
use crate::run_folder::{JsonlSink, Origin, RunFolder};
use crate::simulate::{cut_rows, train_resumable};

/// What one training works on.
pub struct TrainInputs {
    /// The frozen base.
    pub model: Arc<Model>,
    /// Its tokenizer.
    pub tokenizer: TextTokenizer,
    /// How a question becomes a prompt.
    pub template: Template,
    /// Name of the site, or of the whole: names the model in events and seeds the rows' order.
    pub name: String,
    /// Rows to train on.
    pub rows: Vec<Example>,
    /// Start from this adapter, whose shape `config.lora` must describe, instead of a fresh one.
    pub init_adapter: Option<Adapter>,
}

/// What came of a training.
#[derive(Clone, Debug, PartialEq)]
pub struct Trained {
    /// The PEFT directory.
    pub adapter_dir: PathBuf,
    /// The adapter.
    pub adapter: Adapter,
    /// Optimiser steps in all.
    pub steps: u64,
    /// Rows cut to the longest sequence.
    pub truncated_rows: usize,
    /// Largest resident memory of the process, bytes; 0 where the system does not tell.
    pub peak_rss_bytes: u64,
}

/// Trains for `config.train.epochs` passes into the folder `out` (`config.toml`, `metrics.jsonl`, `adapter/`), or goes
/// on with the unfinished training there.
///
/// # Errors
/// [`ExperimentError::Stopped`] when `stop` was raised: calling again goes on and ends with the same bytes. Else see
/// [`ExperimentError`].
pub fn train(
    config: &Config,
    inputs: &TrainInputs,
    out: &Path,
    sink: &dyn Sink,
    stop: &StopFlag,
) -> Result<Trained, ExperimentError> {
    config.validate()?;
    if inputs.rows.is_empty() {
        return Err(ExperimentError::Sites(format!("'{}' has no training row", inputs.name)));
    }
    inputs.tokenizer.check_fits(inputs.model.config().vocab_size)?;
    let initial = initial(config, inputs)?;
    let folder = RunFolder::open(out, config, &origin(inputs, &initial))?;
    let training = training(config);
    let limit = config.data.max_tokens.min(inputs.model.config().max_positions);
    let encoded = inputs.tokenizer.encode_all(&inputs.template, &inputs.rows, limit)?;
    let rows = TrainRows::new(&inputs.name, encoded.rows, &training);
    let steps = u64::from(config.train.epochs) * rows.steps_per_epoch();
    let adapter_dir = folder.path("adapter");
    let trained = |adapter: Adapter| Trained {
        adapter_dir: adapter_dir.clone(),
        adapter,
        steps,
        truncated_rows: rows.truncated(),
        peak_rss_bytes: machine::peak_rss_bytes(),
    };
    if !folder.path("state").exists() {
        return Ok(trained(read_adapter(&adapter_dir)?.conform(&initial.schema())?));
    }

    let place = folder.state("training");
    let done = Checkpoint::load(&place, &initial)?.map_or(0, |kept| kept.optimiser.step);
    let keep = move |event: &Event| matches!(event, Event::Step { step, .. } if *step <= done);
    let jsonl = JsonlSink::resume(&folder.path("metrics.jsonl"), keep)?;
    let sink = Fanout(vec![sink, &jsonl]);
    if rows.truncated() > 0 {
        sink.record(&Event::Note { text: cut_rows(&rows, limit) });
    }
    let mut engine = CpuEngine::new(inputs.model.clone(), &config.lora, machine::threads(config.threads))
        .map_err(ExperimentError::engine("starting"))?;
    let task = unbroken(&training, &inputs.name, &inputs.name, steps);
    let adapter = train_resumable(&mut engine, &rows, task, &initial, &place, &sink, stop).map_err(
        |error| match error {
            ExperimentError::Stopped { .. } => folder.stopped(),
            other => other,
        },
    )?;
    jsonl.check()?;
    crate::run_folder::write_peft(&adapter_dir, &adapter, &config.lora, &config.model.id)?;
    durable::remove(&folder.path("state"))?;
    Ok(trained(adapter))
}

/// The adapter to start from, checked against the model and `config.lora`.
fn initial(config: &Config, inputs: &TrainInputs) -> Result<Adapter, ExperimentError> {
    let fresh = initial_adapter(inputs.model.config(), &config.lora, config.seed);
    match &inputs.init_adapter {
        Some(given) => Ok(given.clone().conform(&fresh.schema())?),
        None => Ok(fresh),
    }
}

fn origin(inputs: &TrainInputs, initial: &Adapter) -> Origin {
    let mut hasher = Hasher::default();
    for row in &inputs.rows {
        hash_row(&mut hasher, &[&inputs.name], row);
    }
    Origin {
        model_sha256: inputs.model.info().sha256,
        rows_sha256: hasher.finish(),
        adapter_sha256: initial.sha256(),
    }
}

fn read_adapter(dir: &Path) -> Result<Adapter, ExperimentError> {
    let path = dir.join(consilium_core::peft::WEIGHTS_FILE);
    let bytes = durable::read(&path)?.ok_or_else(|| ExperimentError::broken(&path, "is missing"))?;
    Ok(consilium_core::peft::decode_weights(&bytes)?)
}
