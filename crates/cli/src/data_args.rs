//! Arguments of the commands that prepare a federation between machines: each site's rows, and the first adapter.

use clap::{Args, Subcommand};

use crate::options::{DataOptions, LoraOptions, ModelOption, RunOptions};

/// `data partition`
#[derive(Debug, Args)]
pub struct PartitionArgs {
    /// Write into a folder that is not empty, over files of the same names
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub run: RunOptions,
    #[command(flatten)]
    pub data: DataOptions,
}

/// `adapter`
#[derive(Debug, Subcommand)]
pub enum AdapterCommand {
    /// Write the adapter that a session of a configuration starts from
    #[command(after_help = "\
Examples:
  consilium adapter init --preset workshop --out seed
  consilium adapter init --config runs/a/config.toml --rank 16 --out seed --json

The same configuration and seed give the same adapter on every machine.")]
    Init(Box<AdapterInitArgs>),
}

/// `adapter init`
#[derive(Debug, Args)]
pub struct AdapterInitArgs {
    /// Write into a folder that is not empty, and put the adapter in its place
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub run: RunOptions,
    #[command(flatten)]
    pub model: ModelOption,
    #[command(flatten)]
    pub lora: LoraOptions,
}
