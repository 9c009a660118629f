//! From a configuration to what a run reads: the base model with its tokenizer, adapters, and rows by site.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use consilium_core::{Adapter, LoraConfig, peft};
use consilium_data::hub::Kind;
use consilium_data::{
    Columns, DataError, Example, Hub, Partition, ReadOptions, ReadReport, Shard, Split, Template,
    TextTokenizer,
};
use consilium_engine::{LlamaConfig, Model};
use consilium_eval::summary::DataSummary;
use consilium_experiment::config::{Config, DataConfig, PartitionConfig};
use consilium_experiment::{Inputs, SiteData};

use crate::bundle;
use crate::failure::Failure;

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
pub fn base(id: &str, path: Option<&Path>) -> Result<Base> {
    if path.is_none() && bundle::is_bundled(id) {
        return bundle::base();
    }
    let dir = model_dir(id, path)?;
    let model = Model::load(&dir)
        .map_err(|error| Failure::failed(format!("model {id}: {error}")).hint(MODEL_HINT))?
        .with_id(id);
    let tokenizer = TextTokenizer::from_dir(&dir, end_of_text(model.config(), id)?)
        .with_context(|| format!("model {id}"))?;
    tokenizer.check_fits(model.config().vocab_size).with_context(|| format!("model {id}"))?;
    Ok(Base { model: Arc::new(model), tokenizer, dir: Some(dir) })
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
pub fn chosen_base(named: Option<&str>, adapter: Option<&SavedAdapter>) -> Result<Base> {
    let id = named.or(adapter.and_then(|adapter| adapter.base.as_deref())).ok_or_else(|| {
        Failure::usage("no base model is named")
            .hint("say --model DIR|ID, or --model demo for the bundled one")
    })?;
    base(id, None)
}

/// The rows of a run.
pub struct Rows {
    /// One for each site, in the order of reports.
    pub sites: Vec<SiteData>,
    /// Where they came from, for the report.
    pub summary: DataSummary,
    /// Rows that were skipped, a sentence for each.
    pub bad: Vec<String>,
}

/// Everything that a run of `config` works on.
///
/// # Errors
/// As [`rows`], [`base`] and [`template`].
pub fn gather(config: &Config, rows: Rows) -> Result<Inputs> {
    let Base { model, tokenizer, .. } = base(&config.model.id, config.model.path.as_deref())?;
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

/// How to read the rows of `data`.
pub fn read_options(data: &DataConfig, split: Option<&str>) -> ReadOptions {
    let usual = Columns::default();
    ReadOptions {
        columns: Columns {
            question: data.columns.question.clone().unwrap_or(usual.question),
            answer: data.columns.answer.clone().unwrap_or(usual.answer),
            category: data.columns.category.clone().or(usual.category),
            id: data.columns.id.clone().or(usual.id),
        },
        filter: data.filter.iter().map(|(column, values)| (column.clone(), values.clone())).collect(),
        max_bad_rows: data.max_bad_rows,
        split: split.map(str::to_owned),
        ..ReadOptions::default()
    }
}

/// Reads, partitions and splits the rows that `config` names.
///
/// # Errors
/// Unusable data, with the file, line, column or site at fault.
pub fn rows(config: &Config) -> Result<Rows> {
    let data = &config.data;
    let hub = Hub::from_env();
    let report = consilium_data::read(&data.source, &read_options(data, data.split.as_deref()), &hub)?;
    let summary = summary(config, &report);
    let bad = report.bad_rows.iter().map(ToString::to_string).collect();
    let shards = shards(config, report.examples)?;
    let sites: Result<Vec<SiteData>> = if data.test_source.is_some() || data.test_split.is_some() {
        let source = data.test_source.as_deref().unwrap_or(&data.source);
        let test = consilium_data::read(source, &read_options(data, data.test_split.as_deref()), &hub)?;
        let tests = self::shards(config, test.examples)?;
        shards.iter().zip(&tests).map(|(shard, test)| with_tests(config, shard, test, source)).collect()
    } else {
        shards.iter().map(|shard| split(config, shard, data.test_rows)).collect()
    };
    Ok(Rows { sites: sites?, summary, bad })
}

fn summary(config: &Config, report: &ReadReport) -> DataSummary {
    let partition = match &config.data.partition {
        PartitionConfig::Category => {
            format!("by {}", report.columns.category.as_deref().unwrap_or("category"))
        }
        PartitionConfig::Iid { .. } => "iid".into(),
        PartitionConfig::Dirichlet { alpha, .. } => format!("Dirichlet, alpha {alpha}"),
        PartitionConfig::Sizes { .. } => "by sizes".into(),
    };
    DataSummary {
        source: config.data.source.clone(),
        sha256: report.sha256.clone(),
        rows: report.examples.len() as u64,
        bad_rows: report.bad_count as u64,
        partition,
    }
}

/// The rows that one place trains on.
pub struct TrainingRows {
    /// The site's name, or `all`.
    pub name: String,
    /// Rows in the order of the file, site after site.
    pub rows: Vec<Example>,
    /// What a user should know about them.
    pub notes: Vec<String>,
}

/// Reads every row of the configured sites, or of the whole source where none is named; none is held back.
///
/// # Errors
/// Unusable data, with the file, line, column or site at fault.
pub fn training_rows(config: &Config) -> Result<TrainingRows> {
    let data = &config.data;
    let options = read_options(data, data.split.as_deref());
    let report = consilium_data::read(&data.source, &options, &Hub::from_env())?;
    let notes = report.bad_rows.iter().take(5).map(|row| format!("skipped {row}")).collect();
    let name = match &data.sites[..] {
        [site] => site.clone(),
        _ => "all".to_owned(),
    };
    let shards = named_or_whole(config, report.examples)?;
    let mut rows = Vec::new();
    for shard in shards {
        rows.extend(match data.train_rows {
            Some(wanted) if config.train.shuffle => drawn(config, &shard, wanted)?,
            wanted => shard.examples.into_iter().take(wanted.unwrap_or(usize::MAX)).collect(),
        });
    }
    Ok(TrainingRows { name, rows, notes })
}

/// Reads the rows to be asked: those of the test source or split where one is configured, else of the source itself,
/// at most `eval.questions_per_site` of each category.
///
/// # Errors
/// Unusable data, with the file, line, column or site at fault.
pub fn test_rows(config: &Config) -> Result<Vec<Example>> {
    let data = &config.data;
    let source = data.test_source.as_deref().unwrap_or(&data.source);
    let split = data.test_split.as_deref().or(data.split.as_deref());
    let report = consilium_data::read(source, &read_options(data, split), &Hub::from_env())?;
    let Some(limit) = config.eval.questions_per_site else {
        return Ok(named_or_whole(config, report.examples)?
            .into_iter()
            .flat_map(|shard| shard.examples)
            .collect());
    };
    let mut rows = Vec::new();
    for shard in by_category(config, report.examples)? {
        rows.extend(drawn(config, &shard, limit.min(shard.examples.len()))?);
    }
    Ok(rows)
}

/// `shuffle(seed).select(range(wanted))`.
fn drawn(config: &Config, shard: &Shard, wanted: usize) -> Result<Vec<Example>> {
    Ok(consilium_data::split(shard, Some(wanted), 0, 0, config.seed)?.train)
}

fn named_or_whole(config: &Config, examples: Vec<Example>) -> Result<Vec<Shard>> {
    match config.data.sites.is_empty() {
        true => Ok(vec![Shard { site: "all".into(), examples }]),
        false => by_category(config, examples),
    }
}

fn by_category(config: &Config, examples: Vec<Example>) -> Result<Vec<Shard>> {
    let names = (!config.data.sites.is_empty()).then_some(config.data.sites.as_slice());
    Ok(consilium_data::partition(examples, &Partition::ByCategory, names, config.seed)?)
}

fn shards(config: &Config, examples: Vec<Example>) -> Result<Vec<Shard>> {
    let how = match &config.data.partition {
        PartitionConfig::Category => Partition::ByCategory,
        PartitionConfig::Iid { sites } => Partition::Iid { sites: *sites },
        PartitionConfig::Dirichlet { sites, alpha } => Partition::Dirichlet { sites: *sites, alpha: *alpha },
        PartitionConfig::Sizes { rows } => Partition::Sizes(rows.clone()),
    };
    let names = (!config.data.sites.is_empty()).then_some(config.data.sites.as_slice());
    Ok(consilium_data::partition(examples, &how, names, config.seed)?)
}

fn split(config: &Config, shard: &Shard, test_rows: usize) -> Result<SiteData> {
    let data = &config.data;
    let Split { train, validation, test } =
        consilium_data::split(shard, data.train_rows, data.validation_rows, test_rows, config.seed)?;
    Ok(SiteData { name: shard.site.clone(), train, validation, test })
}

/// Test rows from their own source: `shuffle(seed).select(range(test_rows))`, as the training rows are drawn.
fn with_tests(config: &Config, shard: &Shard, test: &Shard, source: &str) -> Result<SiteData> {
    let wanted = config.data.test_rows;
    if test.examples.len() < wanted {
        let found = test.examples.len();
        return Err(Failure::data(format!(
            "site '{}' has {found} test rows in {source}, but {wanted} are asked for",
            test.site
        ))
        .hint(format!("--test-rows {found}"))
        .into());
    }
    let mut rows = split(config, shard, 0)?;
    rows.test = drawn(config, test, wanted)?;
    Ok(rows)
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
    Ok(opened
        .and_then(|files| files.file(name).map_err(DataError::from))
        .with_context(|| format!("model {id}"))?)
}
