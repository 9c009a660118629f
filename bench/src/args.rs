//! What can be measured, and with which settings.

use std::path::PathBuf;

use clap::{Args as Group, Parser, Subcommand, ValueEnum};

/// Measures one thing and prints one line of JSON.
#[derive(Parser)]
#[command(name = "consilium-bench", version)]
pub struct Args {
    /// What to measure.
    #[command(subcommand)]
    pub measurement: Measurement,
}

/// One measurement.
#[derive(Subcommand)]
pub enum Measurement {
    /// Training with the reference's settings: rank 8, alpha 16, dropout 0.1, 4 x 8 rows a step
    Train(Train),
    /// Greedy generation with the adapter attached
    Generate(Generate),
    /// Training on rows of one length each, at the same number of tokens in a micro-batch
    Lengths(Lengths),
    /// What 8-bit weights cost: scores, gradients and a training run beside f32's
    Error(Error),
    /// The machine's own limits: multiply-adds and bytes read, a second
    Ceilings(Ceilings),
    /// Writes a model of random weights, for speed does not depend on them
    MakeModel(MakeModel),
}

/// What is measured on.
#[derive(Group)]
pub struct Subject {
    /// Directory of the model: config.json, safetensors, tokenizer.json
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// How the frozen weights compute
    #[arg(long, value_enum, default_value = "f32")]
    pub precision: Precision,
    /// Threads of the engine
    #[arg(long, default_value_t = 2)]
    pub threads: usize,
}

/// `train`.
#[derive(Group)]
pub struct Train {
    #[command(flatten)]
    pub subject: Subject,
    /// Question-answer rows; of a file with a column `status`, those that say `template`
    #[arg(long, value_name = "FILE")]
    pub rows: PathBuf,
    /// Rows to train on, once each
    #[arg(long, default_value_t = 96)]
    pub samples: usize,
    /// The matrices with an adapter
    #[arg(long, value_enum, default_value = "qv")]
    pub targets: Targets,
}

/// `generate`.
#[derive(Group)]
pub struct Generate {
    #[command(flatten)]
    pub subject: Subject,
    /// Question-answer rows, as for `train`
    #[arg(long, value_name = "FILE")]
    pub rows: PathBuf,
    /// Prompts that are continued together
    #[arg(long, default_value_t = 1)]
    pub batch: usize,
    /// New tokens for each prompt
    #[arg(long, default_value_t = 100)]
    pub new: usize,
    /// Repetitions; 5 where the batch is 1, else 3
    #[arg(long)]
    pub repetitions: Option<usize>,
}

/// `lengths`.
#[derive(Group)]
pub struct Lengths {
    #[command(flatten)]
    pub subject: Subject,
    /// Tokens of each row; may be given several times
    #[arg(long, value_name = "TOKENS", required = true, num_args = 1..)]
    pub len: Vec<usize>,
    /// The matrices with an adapter
    #[arg(long, value_enum, default_value = "qv")]
    pub targets: Targets,
    /// Optimiser steps that count, after one that does not
    #[arg(long, default_value_t = 3)]
    pub steps: usize,
}

/// `error`.
#[derive(Group)]
pub struct Error {
    #[command(flatten)]
    pub subject: Subject,
    /// Question-answer rows, as for `train`
    #[arg(long, value_name = "FILE")]
    pub rows: PathBuf,
    /// Rows to train on, besides 16 that are held out
    #[arg(long, default_value_t = 400)]
    pub samples: usize,
    /// Optimiser steps of four rows
    #[arg(long, default_value_t = 240)]
    pub steps: u64,
    /// Learning rate at the start, falling to 0
    #[arg(long, default_value_t = 5e-4)]
    pub rate: f64,
    /// The matrices with an adapter
    #[arg(long, value_enum, default_value = "all")]
    pub targets: Targets,
}

/// `ceilings`.
#[derive(Group)]
pub struct Ceilings {
    /// Threads that compute and read
    #[arg(long, default_value_t = 2)]
    pub threads: usize,
    /// Memory to read, MiB; much more than the last-level cache
    #[arg(long, default_value_t = 512)]
    pub mib: usize,
}

/// `make-model`.
#[derive(Group)]
pub struct MakeModel {
    /// Sizes of which model
    #[arg(long, value_enum)]
    pub shape: Shape,
    /// Directory to write config.json and model.safetensors to
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Directory whose tokenizer files are copied; its config.json, if it has one, names the end of text
    #[arg(long, value_name = "DIR")]
    pub tokenizer: Option<PathBuf>,
}

/// How the frozen weights compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Precision {
    /// 32-bit floating point
    F32,
    /// 8-bit integers
    Int8,
}

impl Precision {
    /// As arguments and results spell it.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Int8 => "int8",
        }
    }
}

/// The matrices with an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Targets {
    /// q_proj and v_proj
    Qv,
    /// All seven linear layers of a block
    All,
}

impl Targets {
    /// As arguments and results spell it.
    pub fn name(self) -> &'static str {
        match self {
            Targets::Qv => "qv",
            Targets::All => "all",
        }
    }
}

/// The published sizes of SmolLM2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shape {
    /// SmolLM2-135M
    #[value(name = "135m")]
    M135,
    /// SmolLM2-360M
    #[value(name = "360m")]
    M360,
    /// SmolLM2-1.7B
    #[value(name = "1.7b")]
    B1p7,
}
