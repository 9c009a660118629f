//! What is measured: a model in one precision, its tokenizer, and an engine with the reference's adapter.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context, Result};
use consilium_core::{Engine, LoraConfig, Target};
use consilium_data::TextTokenizer;
use consilium_engine::{CpuEngine, Isa, LlamaConfig, Model, initial_adapter};
use serde_json::{Value, json};

use crate::args::{Precision, Subject, Targets};
use crate::process;

/// Seed of the adapter's start, and of dropout.
const SEED: u64 = 42;

/// Loads the model: the one place that knows precisions.
pub fn model(subject: &Subject) -> Result<Arc<Model>> {
    let precision = match subject.precision {
        Precision::F32 => consilium_core::Precision::F32,
        Precision::Int8 => consilium_core::Precision::Int8,
    };
    let model = Model::load_as(&subject.model, precision);
    Ok(Arc::new(model.with_context(|| format!("loading {}", subject.model.display()))?))
}

/// The model's own tokenizer.
pub fn tokenizer(subject: &Subject) -> Result<TextTokenizer> {
    let path = subject.model.join("config.json");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let eos = *LlamaConfig::parse(&text)?.eos_ids.first().context("config.json names no eos_token_id")?;
    Ok(TextTokenizer::from_dir(&subject.model, eos)?)
}

/// An engine whose adapter is the reference's: rank 8, alpha 16, dropout 0.1.
pub fn engine(subject: &Subject, model: &Arc<Model>, targets: Targets) -> Result<CpuEngine> {
    engine_with(subject, model, targets, 0.1)
}

/// The same with another dropout.
pub fn engine_with(
    subject: &Subject,
    model: &Arc<Model>,
    targets: Targets,
    dropout: f32,
) -> Result<CpuEngine> {
    let targets: BTreeSet<Target> = match targets {
        Targets::Qv => [Target::Q, Target::V].into(),
        Targets::All => Target::ALL.into(),
    };
    let lora = LoraConfig { rank: 8, alpha: 16.0, dropout, targets, rslora: false };
    let mut engine = CpuEngine::new(model.clone(), &lora, subject.threads)?;
    engine.set_adapter(&initial_adapter(model.config(), &lora, SEED))?;
    Ok(engine)
}

/// Training settings of the reference; Hugging Face's defaults where it names none.
pub fn settings() -> consilium_core::TrainSettings {
    consilium_core::TrainSettings { dropout_seed: SEED, ..Default::default() }
}

/// Weights of the frozen matrices that a token is multiplied with, the head included: half the FLOPs of its forward.
pub fn matrix_parameters(config: &LlamaConfig) -> u64 {
    let (c, f) = (config.hidden_size, config.intermediate_size);
    let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    let block = c * (q + 2 * kv) + q * c + 3 * c * f;
    (config.layers * block + config.vocab_size * c) as u64
}

/// A result with what every measurement tells: model, precision, memory, processor time.
pub fn result(subject: &Subject, model: &Model, measured: Value) -> Value {
    let mut line = json!({
        "model": model.info().id,
        "parameters": model.info().parameters,
        "matrix_parameters": matrix_parameters(model.config()),
        "precision": subject.precision.name(),
        "threads": subject.threads,
        "instruction_set": Isa::chosen().name(),
    });
    let tail = json!({ "peak_rss_bytes": process::peak_rss_bytes(), "cpu_s": process::cpu_s() });
    for part in [measured, tail] {
        if let (Value::Object(line), Value::Object(part)) = (&mut line, part) {
            line.extend(part);
        }
    }
    line
}
