//! What a command works with: the base model with its tokenizer, adapters, the prompt template.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use consilium_core::{Adapter, LoraConfig, Precision, peft};
use consilium_data::hub::Kind;
use consilium_data::{DataError, Hub, Template, TextTokenizer};
use consilium_engine::{LlamaConfig, Model};
use consilium_experiment::Inputs;
use consilium_experiment::config::{Config, DataConfig};

use crate::bundle;
use crate::failure::Failure;
use crate::rows::Rows;

/// A base model with its tokenizer.
pub struct Base {
    /// The frozen weights.
    pub model: Arc<Model>,
    /// The model's own tokenizer, checked against its vocabulary.
    pub tokenizer: TextTokenizer,
    /// Where the files lie; `None` for the bundled model.
    pub dir: Option<PathBuf>,
}

/// Loads the model that `id` names: the bundled one, a directory, or a hub id (downloaded on first use).
///
/// # Errors
/// When files are missing or broken, or the tokenizer does not belong to the model.
pub fn base(id: &str, path: Option<&Path>, precision: Precision) -> Result<Base> {
    if path.is_none() && bundle::is_bundled(id) {
        return bundle::base(precision);
    }
    let dir = model_dir(id, path)?;
    // The tokenizer is read beside the weights: a tenth of the start-up.
    let (model, tokenizer) = std::thread::scope(|scope| {
        let tokenizer = scope.spawn(|| tokenizer_in(&dir, id));
        (Model::load_as(&dir, precision), tokenizer.join().expect("reading a tokenizer does not panic"))
    });
    let model =
        model.map_err(|error| Failure::failed(format!("model {id}: {error}")).hint(MODEL_HINT))?.with_id(id);
    let tokenizer = tokenizer?;
    tokenizer.check_fits(model.config().vocab_size).with_context(|| format!("model {id}"))?;
    Ok(Base { model: Arc::new(model), tokenizer, dir: Some(dir) })
}

fn tokenizer_in(dir: &Path, id: &str) -> Result<TextTokenizer> {
    let path = dir.join("config.json");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let config = LlamaConfig::parse(&text).with_context(|| path.display().to_string())?;
    TextTokenizer::from_dir(dir, end_of_text(&config, id)?).with_context(|| format!("model {id}"))
}

const MODEL_HINT: &str = "a model is a directory with config.json, tokenizer.json and model.safetensors (or its shards and index); an interrupted download or copy is the usual reason for a short file";

/// The directory of a model's files.
pub fn model_dir(id: &str, path: Option<&Path>) -> Result<PathBuf> {
    match path {
        Some(path) => Ok(path.to_owned()),
        None => Hub::from_env().model_dir(id).with_context(|| format!("model {id}")),
    }
}

/// The id that ends a text.
pub fn end_of_text(config: &LlamaConfig, id: &str) -> Result<u32> {
    config.eos_ids.first().copied().with_context(|| format!("model {id}: config.json names no eos_token_id"))
}

/// An adapter as it was saved.
pub struct SavedAdapter {
    /// Rank, alpha and targets.
    pub lora: LoraConfig,
    /// The factors.
    pub adapter: Adapter,
    /// The base model that its configuration names.
    pub base: Option<String>,
    /// For tables: the last part of the path.
    pub name: String,
}

/// Reads a PEFT directory.
///
/// # Errors
/// When a file is missing, broken, or of a kind that is not supported.
pub fn saved_adapter(dir: &Path) -> Result<SavedAdapter> {
    let read = |file: &str| {
        std::fs::read(dir.join(file)).with_context(|| format!("adapter {}: {file}", dir.display()))
    };
    let config = String::from_utf8(read(peft::CONFIG_FILE)?)
        .with_context(|| format!("adapter {}: {} is no text", dir.display(), peft::CONFIG_FILE))?;
    let (lora, base) = peft::decode_config(&config).with_context(|| format!("adapter {}", dir.display()))?;
    let adapter = peft::decode_weights(&read(peft::WEIGHTS_FILE)?)
        .with_context(|| format!("adapter {}", dir.display()))?;
    let name =
        dir.file_name().map_or_else(|| dir.display().to_string(), |n| n.to_string_lossy().into_owned());
    Ok(SavedAdapter { lora, adapter, base, name })
}

/// The base model of commands that need no configuration: the one named, else the adapter's own.
///
/// # Errors
/// When neither is there.
pub fn chosen_base(
    named: Option<&str>,
    adapter: Option<&SavedAdapter>,
    precision: Precision,
) -> Result<Base> {
    let id = named.or(adapter.and_then(|adapter| adapter.base.as_deref())).ok_or_else(|| {
        Failure::usage("no base model is named")
            .hint("say --model DIR|ID, or --model demo for the bundled one")
    })?;
    base(id, None, precision)
}

/// Everything that a run of `config` works on.
///
/// # Errors
/// As [`base`] and [`template`].
pub fn gather(config: &Config, rows: Rows) -> Result<Inputs> {
    let Base { model, tokenizer, .. } =
        base(&config.model.id, config.model.path.as_deref(), config.model.precision)?;
    let template = template(&config.data)?;
    Ok(Inputs { model, tokenizer, template, shards: rows.sites, data: rows.summary })
}

/// The configured prompt template.
pub fn template(data: &DataConfig) -> Result<Template> {
    match &data.template {
        Some(text) => Ok(Template::parse(text)?),
        None => Ok(Template::workshop()),
    }
}

/// The configured model's sizes, without its weights.
///
/// # Errors
/// When `config.json` cannot be found or read.
pub fn shape(config: &Config) -> Result<LlamaConfig> {
    let path = model_file(config, "config.json")?;
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    LlamaConfig::parse(&text).with_context(|| path.display().to_string())
}

/// The configured model's tokenizer, without its weights.
///
/// # Errors
/// When the model's files cannot be found or read.
pub fn tokenizer(config: &Config) -> Result<TextTokenizer> {
    let id = config.model.id.as_str();
    if config.model.path.is_none() && bundle::is_bundled(id) {
        return bundle::tokenizer();
    }
    let eos = end_of_text(&shape(config)?, id)?;
    let path = model_file(config, "tokenizer.json")?;
    Ok(TextTokenizer::from_dir(path.parent().unwrap_or(Path::new(".")), eos)?)
}

/// One small file of the configured model; only that file is downloaded.
fn model_file(config: &Config, name: &str) -> Result<PathBuf> {
    let id = config.model.id.as_str();
    let dir = config.model.path.as_deref().unwrap_or(Path::new(id));
    if dir.is_dir() {
        return Ok(dir.join(name));
    }
    let (repository, revision) = id.split_once('@').unwrap_or((id, "main"));
    let opened = Hub::from_env().open(Kind::Model, repository, revision).map_err(DataError::from);
    let file = opened.and_then(|files| files.file(name).map_err(DataError::from));
    file.with_context(|| format!("model {id}"))
}
