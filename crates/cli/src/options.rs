//! Options that stand for keys of the configuration, and how each becomes one.
//!
//! Every group writes what the user gave, and nothing else, into a [`Layer`]; defaults live in the presets.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use consilium_core::Precision;
use toml::Value;

use crate::config::Layer;
use crate::failure::Failure;

/// Configurations with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PresetName {
    /// The public workshop as it was run: schedule and optimiser anew in each round
    Workshop,
    /// The same with one learning-rate schedule over the whole session
    Default,
}

/// Where the configuration comes from, and where the run goes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Run")]
pub struct RunOptions {
    /// Named configuration to start from [default: default]
    #[arg(long, value_enum, env = "CONSILIUM_PRESET")]
    pub preset: Option<PresetName>,
    /// TOML file with the sections model, data, lora, train, federation and eval
    #[arg(long, value_name = "FILE.toml", env = "CONSILIUM_CONFIG")]
    pub config: Option<PathBuf>,
    /// Set any key of the configuration, train.learning_rate=1e-3 for example; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Seed of everything random
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,
    /// Threads to compute with; 0 takes all cores; results do not depend on it
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Folder of the run [default: the next free runs/COMMAND-NUMBER]
    #[arg(long, value_name = "DIR", env = "CONSILIUM_OUT")]
    pub out: Option<PathBuf>,
}

/// `[model]`
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Model")]
pub struct ModelOption {
    /// Base model: a directory, a Hugging Face id, or `demo` for the bundled one
    #[arg(long, value_name = "DIR|ID")]
    pub model: Option<String>,
    /// Numbers of the frozen base: f32 is exact; int8 is faster and smaller, with a small error (docs/performance.md)
    #[arg(long, value_enum)]
    pub precision: Option<PrecisionName>,
}

/// `--precision`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum PrecisionName {
    /// As the model's files have it
    #[default]
    F32,
    /// 8-bit weights, and 8-bit activations inside products
    Int8,
}

impl From<PrecisionName> for Precision {
    fn from(name: PrecisionName) -> Self {
        match name {
            PrecisionName::F32 => Precision::F32,
            PrecisionName::Int8 => Precision::Int8,
        }
    }
}

/// `[data]`
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Data")]
pub struct DataOptions {
    /// Rows: a CSV, JSONL or Parquet file, or the Hugging Face id of a dataset
    #[arg(long = "data", id = "source", value_name = "FILE|ID")]
    pub source: Option<String>,
    /// Test rows, where they are not to be carved out of --data
    #[arg(long, value_name = "FILE|ID")]
    pub test_data: Option<String>,
    /// Split of a Hugging Face dataset to train on
    #[arg(long, value_name = "NAME")]
    pub split: Option<String>,
    /// Split of a Hugging Face dataset to test on
    #[arg(long, value_name = "NAME")]
    pub test_split: Option<String>,
    /// Column whose values are the sites' categories
    #[arg(long, value_name = "COLUMN")]
    pub partition_by: Option<String>,
    /// Sites, in the order of reports; with --partition-by the values to take
    #[arg(long, value_name = "A,B,...", value_delimiter = ',')]
    pub sites: Vec<String>,
    /// How sites share the rows: category, iid:SITES, dirichlet:SITES:ALPHA or sizes:N,N,...
    #[arg(long, value_name = "HOW")]
    pub partition: Option<String>,
    /// Training rows of each site
    #[arg(long, value_name = "N")]
    pub train_rows: Option<usize>,
    /// Validation rows of each site
    #[arg(long, value_name = "N")]
    pub validation_rows: Option<usize>,
    /// Test rows of each site
    #[arg(long, value_name = "N")]
    pub test_rows: Option<usize>,
    /// Keep rows with COLUMN=VALUE or COLUMN=VALUE,VALUE; repeatable
    #[arg(long, value_name = "COLUMN=VALUES")]
    pub filter: Vec<String>,
    /// Column of the question
    #[arg(long, value_name = "COLUMN")]
    pub question_column: Option<String>,
    /// Column of the answer
    #[arg(long, value_name = "COLUMN")]
    pub answer_column: Option<String>,
    /// Column of the row's id
    #[arg(long, value_name = "COLUMN")]
    pub id_column: Option<String>,
    /// File with a prompt template that holds {question} and {answer}
    #[arg(long, value_name = "FILE")]
    pub template: Option<PathBuf>,
    /// Longest training row, tokens
    #[arg(long, value_name = "N")]
    pub max_tokens: Option<usize>,
    /// Unusable rows to skip before giving up
    #[arg(long, value_name = "N")]
    pub max_bad_rows: Option<usize>,
}

/// `[lora]`
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Adapter")]
pub struct LoraOptions {
    /// Rank r of the adapter
    #[arg(long, value_name = "R")]
    pub rank: Option<usize>,
    /// Numerator alpha of the adapter's scale
    #[arg(long, value_name = "X")]
    pub alpha: Option<f64>,
    /// Dropout before the adapter
    #[arg(long, value_name = "P")]
    pub dropout: Option<f64>,
    /// Matrices with an adapter, among q,k,v,o,gate,up,down
    #[arg(long, value_name = "A,B,...", value_delimiter = ',')]
    pub targets: Vec<String>,
    /// Scale by alpha / sqrt(r)
    #[arg(long)]
    pub rslora: bool,
}

/// `[train]`, without epochs: only one place trains in epochs.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Training")]
pub struct TrainOptions {
    /// Rows of one micro-batch
    #[arg(long, value_name = "N")]
    pub micro_batch: Option<usize>,
    /// Micro-batches of one optimiser step
    #[arg(long, value_name = "N")]
    pub accumulation: Option<usize>,
    /// Peak learning rate
    #[arg(long, visible_alias = "lr", value_name = "X")]
    pub learning_rate: Option<f64>,
    /// Decay of the learning rate: linear, cosine or constant
    #[arg(long, value_name = "KIND")]
    pub decay: Option<String>,
    /// Steps of linear warm-up
    #[arg(long, value_name = "N")]
    pub warmup_steps: Option<u64>,
    /// Loss weight of prompt tokens: 1 whole sequence, 0 answers only
    #[arg(long, value_name = "W")]
    pub prompt_loss_weight: Option<f64>,
    /// Decoupled weight decay
    #[arg(long, value_name = "X")]
    pub weight_decay: Option<f64>,
    /// Clip of the gradient's norm; 0 is off
    #[arg(long, value_name = "X")]
    pub max_grad_norm: Option<f64>,
    /// Keep rows in the order of the file
    #[arg(long)]
    pub no_shuffle: bool,
}

/// `[federation]`
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Federation")]
pub struct FederationOptions {
    /// Rounds
    #[arg(long, value_name = "N")]
    pub rounds: Option<u32>,
    /// Passes over a site's rows in each round
    #[arg(long, value_name = "N", conflicts_with = "local_steps")]
    pub local_epochs: Option<u32>,
    /// Optimiser steps in each round
    #[arg(long, value_name = "N")]
    pub local_steps: Option<u64>,
    /// How updates count: examples or uniform
    #[arg(long, value_name = "KIND")]
    pub weights: Option<String>,
    /// What one learning-rate schedule spans: session or round
    #[arg(long, value_name = "SCOPE")]
    pub schedule: Option<String>,
    /// Sites asked in each round
    #[arg(long, value_name = "N", conflicts_with = "sample_fraction")]
    pub sites_per_round: Option<usize>,
    /// Share of the sites asked in each round
    #[arg(long, value_name = "X")]
    pub sample_fraction: Option<f64>,
    /// Updates that a round needs
    #[arg(long, value_name = "N")]
    pub quorum: Option<usize>,
}

/// `[eval]`
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Evaluation")]
pub struct EvalOptions {
    /// Test questions of each site
    #[arg(long, value_name = "N")]
    pub questions_per_site: Option<usize>,
    /// Longest answer, tokens
    #[arg(long, value_name = "N", conflicts_with = "parity")]
    pub max_new_tokens: Option<usize>,
    /// Stop after 20 new tokens, as the workshop did
    #[arg(long)]
    pub parity: bool,
    /// Resamples of the bootstrap
    #[arg(long, value_name = "N")]
    pub resamples: Option<usize>,
    /// Make tokens already used less likely; 1 is off
    #[arg(long, value_name = "X")]
    pub repetition_penalty: Option<f64>,
    /// Questions answered side by side
    #[arg(long, value_name = "N")]
    pub batch: Option<usize>,
}

impl RunOptions {
    /// `seed` and `threads`; `--set` comes last, over everything.
    pub fn lower(&self, layer: &mut Layer) -> Result<()> {
        layer.number("seed", self.seed)?;
        layer.number("threads", self.threads)
    }
}

impl ModelOption {
    /// `model.id` and `model.precision`; a path of an older layer no longer belongs to it.
    pub fn lower(&self, layer: &mut Layer) {
        layer.text("model.id", self.model.as_deref());
        let precision = self.precision.map(|name| if name == PrecisionName::Int8 { "int8" } else { "f32" });
        layer.text("model.precision", precision);
    }
}

impl DataOptions {
    /// `data.*`
    ///
    /// # Errors
    /// A partition or filter that does not read, or a template file that cannot be opened.
    pub fn lower(&self, layer: &mut Layer) -> Result<()> {
        layer.text("data.source", self.source.as_deref());
        layer.text("data.test_source", self.test_data.as_deref());
        layer.text("data.split", self.split.as_deref());
        layer.text("data.test_split", self.test_split.as_deref());
        layer.text("data.columns.category", self.partition_by.as_deref());
        layer.text("data.columns.question", self.question_column.as_deref());
        layer.text("data.columns.answer", self.answer_column.as_deref());
        layer.text("data.columns.id", self.id_column.as_deref());
        layer.list("data.sites", &self.sites);
        if let Some(how) = &self.partition {
            layer.set("data.partition", partition(how)?);
        }
        layer.number("data.train_rows", self.train_rows)?;
        layer.number("data.validation_rows", self.validation_rows)?;
        layer.number("data.test_rows", self.test_rows)?;
        layer.number("data.max_tokens", self.max_tokens)?;
        layer.number("data.max_bad_rows", self.max_bad_rows)?;
        for filter in &self.filter {
            let (column, values) = filter.split_once('=').ok_or_else(|| {
                Failure::usage(format!("--filter '{filter}': expected COLUMN=VALUE or COLUMN=VALUE,VALUE"))
            })?;
            let values = values.split(',').map(|value| Value::from(value.trim())).collect();
            layer.set_under("data.filter", column.trim(), Value::Array(values));
        }
        if let Some(path) = &self.template {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read the template {}", path.display()))?;
            layer.text("data.template", Some(&text));
        }
        Ok(())
    }
}

/// Reads `iid:5`, `dirichlet:5:0.3`, `sizes:10,20` or `category`.
fn partition(how: &str) -> Result<Value> {
    let wrong = || {
        Failure::usage(format!(
            "--partition '{how}': expected category, iid:SITES, dirichlet:SITES:ALPHA or sizes:N,N,..."
        ))
    };
    let whole =
        |text: &str| text.trim().parse::<u32>().map(|n| Value::from(i64::from(n))).map_err(|_| wrong());
    let parts: Vec<&str> = how.split(':').collect();
    let mut table = toml::Table::new();
    match parts[..] {
        ["category"] => {}
        ["iid", sites] => {
            table.insert("sites".into(), whole(sites)?);
        }
        ["dirichlet", sites, alpha] => {
            table.insert("sites".into(), whole(sites)?);
            table.insert("alpha".into(), alpha.trim().parse::<f64>().map_err(|_| wrong())?.into());
        }
        ["sizes", rows] => {
            let rows = rows.split(',').map(whole).collect::<Result<Vec<_>, _>>()?;
            table.insert("rows".into(), Value::Array(rows));
        }
        _ => return Err(wrong().into()),
    }
    table.insert("kind".into(), parts[0].into());
    Ok(Value::Table(table))
}

impl LoraOptions {
    /// `lora.*`
    pub fn lower(&self, layer: &mut Layer) -> Result<()> {
        layer.number("lora.rank", self.rank)?;
        layer.real("lora.alpha", self.alpha);
        layer.real("lora.dropout", self.dropout);
        layer.list("lora.targets", &self.targets);
        layer.flag("lora.rslora", self.rslora, true);
        Ok(())
    }

    /// Whether the user chose anything that an adapter already fixes.
    pub fn shapes_adapter(&self) -> bool {
        self.rank.is_some() || self.alpha.is_some() || !self.targets.is_empty() || self.rslora
    }
}

impl TrainOptions {
    /// `train.*`
    pub fn lower(&self, layer: &mut Layer) -> Result<()> {
        layer.number("train.micro_batch", self.micro_batch)?;
        layer.number("train.accumulation", self.accumulation)?;
        layer.real("train.learning_rate", self.learning_rate);
        layer.text("train.schedule", self.decay.as_deref());
        layer.number("train.warmup_steps", self.warmup_steps)?;
        layer.real("train.prompt_loss_weight", self.prompt_loss_weight);
        layer.real("train.weight_decay", self.weight_decay);
        layer.real("train.max_grad_norm", self.max_grad_norm);
        layer.flag("train.shuffle", self.no_shuffle, false);
        Ok(())
    }
}

impl FederationOptions {
    /// `federation.*`
    pub fn lower(&self, layer: &mut Layer) -> Result<()> {
        layer.number("federation.rounds", self.rounds)?;
        layer.number("federation.local_epochs", self.local_epochs)?;
        layer.number("federation.local_steps", self.local_steps)?;
        layer.text("federation.weights", self.weights.as_deref());
        layer.text("federation.schedule", self.schedule.as_deref());
        layer.number("federation.sites_per_round", self.sites_per_round)?;
        layer.real("federation.sample_fraction", self.sample_fraction);
        layer.number("federation.quorum", self.quorum)
    }
}

impl EvalOptions {
    /// `eval.*`
    pub fn lower(&self, layer: &mut Layer) -> Result<()> {
        layer.number("eval.questions_per_site", self.questions_per_site)?;
        layer.number("eval.max_new_tokens", self.max_new_tokens)?;
        layer.flag("eval.parity", self.parity, true);
        layer.number("eval.resamples", self.resamples)?;
        layer.real("eval.repetition_penalty", self.repetition_penalty);
        layer.number("eval.batch", self.batch)
    }
}
