//! The command line as the user writes it: the low half of the configuration, and the help that teaches it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::data_args::{AdapterCommand, PartitionArgs};
use crate::net_args::{
    AuditCommand, ClientsCommand, JoinArgs, ModelsCommand, Operator, PkiCommand, ServeArgs, ServerCommand,
    SessionCommand,
};
use crate::options::{
    DataOptions, EvalOptions, FederationOptions, LoraOptions, ModelOption, PrecisionName, RunOptions,
    TrainOptions,
};

const TOP_EXAMPLES: &str = "\
Start here:
  consilium demo                          five hospitals, a bundled model, no network, about two minutes
  consilium doctor                        what this machine can do and how long the reference experiment takes
  consilium simulate --preset workshop    the reference experiment (downloads model and data)
  consilium serve, consilium join         the same federation between machines

Configuration, each stronger than the one before it:
  preset (--preset), file (--config FILE.toml), environment (CONSILIUM_SEED, CONSILIUM_TRAIN__LEARNING_RATE ...),
  flags, --set section.key=value

CONSILIUM_ISA=portable|neon|avx2|avx512|avx512-vnni forces the kernels' instruction set; by default the best is taken.

Exit codes:
  0    done
  1    failed
  2    wrong usage or configuration
  3    unusable data
  130  stopped by Ctrl-C; a stopped run can be resumed";

/// Hospitals fine-tune one language model together, without sharing a row.
#[derive(Debug, Parser)]
#[command(name = "consilium", version, about, after_help = TOP_EXAMPLES, max_term_width = 110)]
#[command(propagate_version = true, subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
    /// How to speak
    #[command(flatten)]
    pub voice: Voice,
}

/// How the program speaks.
#[derive(Clone, Copy, Debug, Default, Args)]
#[command(next_help_heading = "Output")]
pub struct Voice {
    /// Print one JSON document on standard output and nothing else
    #[arg(long, global = true)]
    pub json: bool,
    /// No progress, only results and errors
    #[arg(long, short, global = true)]
    pub quiet: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Five hospitals fine-tune a bundled tiny model together, offline
    Demo(DemoArgs),
    /// Simulate a federation: base, local, federated and pooled models, and a verdict for each site
    Simulate(Box<SimulateArgs>),
    /// Fine-tune an adapter at one place (a site alone, or all rows centralised)
    Train(Box<TrainArgs>),
    /// Score a model's answers, or answers that any tool has written
    Evaluate(Box<EvaluateArgs>),
    /// Log-probabilities and perplexity of a text
    Score(ScoreArgs),
    /// Ask questions, with and without adapters, side by side
    Ask(AskArgs),
    /// Write an adapter as PEFT directory, merged safetensors or GGUF
    Export(ExportArgs),
    /// Rebuild report.html of a run from its files
    Report(ReportArgs),
    /// Look at data before training on it, or share it out to sites
    Data {
        /// What to do with the data
        #[command(subcommand)]
        command: DataCommand,
    },
    /// Make adapters
    Adapter {
        /// What to do
        #[command(subcommand)]
        command: AdapterCommand,
    },
    /// Be the server of a federation between machines
    Serve(Box<ServeArgs>),
    /// Be a hospital in a federation between machines
    Join(Box<JoinArgs>),
    /// Order, watch, stop and continue a server's sessions
    Session {
        /// What to do
        #[command(subcommand)]
        command: SessionCommand,
    },
    /// A server's enrolled sites
    Clients {
        /// What to do
        #[command(subcommand)]
        command: ClientsCommand,
    },
    /// A session's models
    Models {
        /// What to do
        #[command(subcommand)]
        command: ModelsCommand,
    },
    /// Make a one-time token with which a hospital becomes a named site
    Enroll {
        /// The site's name
        site: String,
        /// How long the token is good, hours [default: 168]
        #[arg(long, value_name = "H")]
        hours: Option<u64>,
        #[command(flatten)]
        operator: Operator,
    },
    /// A private certificate authority for the federation
    Pki {
        /// What to make
        #[command(subcommand)]
        command: PkiCommand,
    },
    /// Back up and restore a server's folder
    Server {
        /// What to do
        #[command(subcommand)]
        command: ServerCommand,
    },
    /// Check or print a server's audit log
    Audit {
        /// What to do
        #[command(subcommand)]
        command: AuditCommand,
    },
    /// What this machine and a configuration will need: memory, bytes, time
    Doctor(Box<DoctorArgs>),
    /// Print a completion script for a shell
    #[command(
        after_help = "Examples:\n  consilium completions bash > ~/.local/share/bash-completion/completions/consilium\n  consilium completions zsh > ~/.zfunc/_consilium"
    )]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// `demo`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  consilium demo                           the whole demo, at most three minutes on two cores
  consilium demo --seed 7 --out runs/seven another seed, into a folder of your choice
  consilium demo --rounds 1                a quick look (the verdict will be weaker)

The bundled model speaks about invented drugs and genes only; nothing in it is medicine.
Repeat the command with the same --out to resume a stopped demo.")]
pub struct DemoArgs {
    /// Rounds of the federation
    #[arg(long, value_name = "N")]
    pub rounds: Option<u32>,
    #[command(flatten)]
    pub run: RunOptions,
}

/// `simulate`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  consilium simulate --preset workshop --out runs/workshop
      the reference experiment: SmolLM2-135M, five hospitals, 150 rows each, 5 rounds, 500 questions
  consilium simulate --preset workshop --train-rows 1000
      the same with the notebooks' 1,000 rows for each hospital
  consilium simulate --model models/tiny --data rows.csv --partition-by department --sites north,south
      your own rows: a site for each value of a column
  consilium simulate --data rows.csv --partition dirichlet:5:0.3
      your own rows, dealt unevenly to five sites
  consilium simulate --config runs/workshop/config.toml --rounds 10 --out runs/longer
      a former run's configuration with one change

A stopped run goes on when the same command is given again with the same --out.
Columns are found by their usual names: question, answer, category or bio_category, id or uuid.")]
pub struct SimulateArgs {
    #[command(flatten)]
    pub run: RunOptions,
    #[command(flatten)]
    pub model: ModelOption,
    #[command(flatten)]
    pub data: DataOptions,
    #[command(flatten)]
    pub lora: LoraOptions,
    #[command(flatten)]
    pub train: TrainOptions,
    #[command(flatten)]
    pub federation: FederationOptions,
    #[command(flatten)]
    pub eval: EvalOptions,
}

/// `train`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  consilium train --data rows.csv --out adapters/all         all rows, centralised
  consilium train --data rows.csv --partition-by site --sites north --out adapters/north
  consilium train --data rows.csv --init-adapter adapters/all --no-shuffle --epochs 1 --out adapters/more

Writes a PEFT adapter, metrics.jsonl (a line for each optimiser step) and config.toml into --out.
A stopped training goes on when the same command is given again with the same --out.")]
pub struct TrainArgs {
    #[command(flatten)]
    pub run: RunOptions,
    #[command(flatten)]
    pub model: ModelOption,
    #[command(flatten)]
    pub data: DataOptions,
    /// Start from this PEFT adapter; it brings rank, alpha and targets
    #[arg(long, value_name = "DIR", help_heading = "Adapter")]
    pub init_adapter: Option<PathBuf>,
    #[command(flatten)]
    pub lora: LoraOptions,
    #[command(flatten)]
    pub train: TrainOptions,
    /// Passes over the rows
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub epochs: Option<u32>,
}

/// `evaluate`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  consilium evaluate --predictions answers.jsonl --json
      score answers written by any tool; a line is {\"prediction\": .., \"reference\": .., \"category\": ..}
  consilium evaluate --model models/tiny --data test.csv --adapter runs/a/adapters/federated
      let a model answer the questions of a file, then score it

ROUGE is F1 with Porter stemming; --no-stem compares plain words.")]
pub struct EvaluateArgs {
    /// Score these answers instead of asking a model
    #[arg(long, value_name = "FILE.jsonl", conflicts_with_all = ["adapter", "model", "source"])]
    pub predictions: Option<PathBuf>,
    /// Compare words as they are, without stemming
    #[arg(long)]
    pub no_stem: bool,
    /// PEFT adapter to answer with; none is the base model
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Write the answers to this file, one JSON object a line
    #[arg(long, value_name = "FILE.jsonl")]
    pub save_predictions: Option<PathBuf>,
    #[command(flatten)]
    pub run: RunOptions,
    #[command(flatten)]
    pub model: ModelOption,
    #[command(flatten)]
    pub data: DataOptions,
    #[command(flatten)]
    pub eval: EvalOptions,
}

/// Which model and adapter to use, for the commands that need no configuration.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Model")]
pub struct ModelChoice {
    /// Base model: a directory, a Hugging Face id, or `demo` for the bundled one; by default the adapter's own
    #[arg(long, value_name = "DIR|ID")]
    pub model: Option<String>,
    /// Threads to compute with; 0 takes all cores
    #[arg(long, value_name = "N", default_value_t = 0, env = "CONSILIUM_THREADS")]
    pub threads: usize,
}

/// In what numbers that model computes.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Model")]
pub struct PrecisionChoice {
    /// Numbers of the frozen base: f32 is exact; int8 is faster and smaller, with a small error
    #[arg(long, value_enum, default_value = "f32", env = "CONSILIUM_MODEL__PRECISION")]
    pub precision: PrecisionName,
}

/// `score`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  consilium score --model models/tiny --text \"Aspirin is a drug.\"
  consilium score --model models/tiny --adapter adapters/all notes.txt --json
  echo \"Some text\" | consilium score --model demo

The first token has no probability: nothing comes before it.")]
pub struct ScoreArgs {
    /// File with the text; standard input when neither this nor --text is given
    #[arg(value_name = "FILE", conflicts_with = "text")]
    pub file: Option<PathBuf>,
    /// The text itself
    #[arg(long, value_name = "TEXT")]
    pub text: Option<String>,
    /// PEFT adapter to score with
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    #[command(flatten)]
    pub choice: ModelChoice,
    #[command(flatten)]
    pub numbers: PrecisionChoice,
}

/// `ask`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  consilium ask --adapter runs/demo-001/adapters/federated \"What is the gene family targeted by Plikandux?\"
  consilium ask --base --adapter runs/a/adapters/local-north --adapter runs/a/adapters/federated < questions.txt
  consilium ask --model models/tiny --raw \"Once upon a time\" --temperature 0.8 --seed 1

Without a question on the command line, each line of standard input is one.")]
pub struct AskArgs {
    /// Questions
    #[arg(value_name = "QUESTION")]
    pub questions: Vec<String>,
    /// PEFT adapter to answer with; repeat it to see several side by side
    #[arg(long = "adapter", value_name = "DIR")]
    pub adapters: Vec<PathBuf>,
    /// Also answer with the bare base model
    #[arg(long)]
    pub base: bool,
    /// Give the text to the model as it is, without the prompt template
    #[arg(long)]
    pub raw: bool,
    /// File with a prompt template that holds {question} and {answer}
    #[arg(long, value_name = "FILE", conflicts_with = "raw")]
    pub template: Option<PathBuf>,
    #[command(flatten)]
    pub choice: ModelChoice,
    #[command(flatten)]
    pub numbers: PrecisionChoice,
    #[command(flatten)]
    pub decoding: DecodingOptions,
}

/// How an answer is drawn.
#[derive(Debug, Args)]
#[command(next_help_heading = "Decoding")]
pub struct DecodingOptions {
    /// Longest answer, tokens
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub max_new_tokens: usize,
    /// 0 is greedy; higher draws more freely
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    pub temperature: f32,
    /// Draw among the K most likely tokens; 0 is all
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub top_k: usize,
    /// Draw among the fewest tokens that reach this probability together
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    pub top_p: f32,
    /// Make tokens already used less likely; 1 is off
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub repetition_penalty: f32,
    /// End the answer at this text; repeatable
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// Seed of the draws
    #[arg(long, value_name = "S", default_value_t = 42)]
    pub seed: u64,
}

/// Forms of an exported adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// adapter_model.safetensors and adapter_config.json, as Python's peft reads them
    Peft,
    /// The base model with the adapter added in, as safetensors with its tokenizer
    Merged,
    /// The merged model as one GGUF file
    Gguf,
}

/// Number types of a GGUF file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GgufType {
    /// 16-bit floats
    F16,
    /// 8-bit blocks, a quarter of f32
    #[value(name = "q8_0")]
    Q8_0,
}

/// `export`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  consilium export --adapter runs/a/adapters/federated --format merged --out merged/
  consilium export --adapter runs/a/adapters/federated --format gguf --type q8_0 --out model.gguf
  consilium export --adapter runs/a/adapters/federated --format peft --out adapter/")]
pub struct ExportArgs {
    /// PEFT adapter to export
    #[arg(long, value_name = "DIR")]
    pub adapter: PathBuf,
    /// Form to write
    #[arg(long, value_enum, default_value_t = ExportFormat::Peft)]
    pub format: ExportFormat,
    /// Number type of a GGUF file
    #[arg(long = "type", value_enum, default_value_t = GgufType::F16)]
    pub gguf_type: GgufType,
    /// Directory to write, or file for GGUF
    #[arg(long, value_name = "PATH")]
    pub out: PathBuf,
    #[command(flatten)]
    pub choice: ModelChoice,
}

/// `report`
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  consilium report runs/demo-001")]
pub struct ReportArgs {
    /// Folder of a finished run
    #[arg(value_name = "RUN_DIR")]
    pub run: PathBuf,
}

/// `data`
#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Categories, token lengths, the rendered prompt, and exactly which tokens carry loss
    #[command(after_help = "\
Examples:
  consilium data inspect rows.csv                           with the bundled tokenizer
  consilium data inspect rows.csv --model HuggingFaceTB/SmolLM2-135M --partition-by bio_category
  consilium data inspect rows.jsonl --question-column q --answer-column a --json")]
    Inspect(Box<InspectArgs>),
    /// Each site's rows as a CSV file of its own, shared out as `simulate` would, before the split
    #[command(after_help = "\
Examples:
  consilium data partition --preset workshop --out sites
  consilium data partition --data rows.csv --partition-by department --out sites
  consilium data partition --config runs/a/config.toml --out sites --json

Writes SITE.csv with the columns id, question, answer and category, and SITE.test.csv where test rows have their own
source. In names of files whatever is not a letter, digit, dot, underscore or minus sign becomes an underscore.")]
    Partition(Box<PartitionArgs>),
}

/// `data inspect`
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// File (CSV, JSONL, Parquet) or Hugging Face id; the same as --data
    #[arg(value_name = "FILE|ID", conflicts_with = "source")]
    pub file: Option<String>,
    /// Which row to show token by token, from 0
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub row: usize,
    /// Loss weight of prompt tokens: 1 whole sequence, 0 answers only
    #[arg(long, value_name = "W")]
    pub prompt_loss_weight: Option<f64>,
    #[command(flatten)]
    pub run: RunOptions,
    #[command(flatten)]
    pub model: ModelOption,
    #[command(flatten)]
    pub data: DataOptions,
}

/// `doctor`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  consilium doctor                                     the reference experiment on this machine
  consilium doctor --model HuggingFaceTB/SmolLM2-1.7B --rank 16
  consilium doctor --config runs/a/config.toml

Time is an estimate from a short measurement of this machine's arithmetic.")]
pub struct DoctorArgs {
    #[command(flatten)]
    pub run: RunOptions,
    #[command(flatten)]
    pub model: ModelOption,
    #[command(flatten)]
    pub data: DataOptions,
    #[command(flatten)]
    pub lora: LoraOptions,
    #[command(flatten)]
    pub train: TrainOptions,
    #[command(flatten)]
    pub federation: FederationOptions,
}
