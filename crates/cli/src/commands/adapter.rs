//! `consilium adapter init`: the adapter that a session starts from, as a PEFT folder.

use std::path::PathBuf;

use anyhow::Result;
use consilium_engine::{LlamaConfig, initial_adapter};
use consilium_experiment::export;
use serde::Serialize;

use super::partition::out_folder;
use super::print_json;
use crate::args::Voice;
use crate::config::{self, Layer};
use crate::data_args::{AdapterCommand, AdapterInitArgs};
use crate::{bundle, inputs, words};

/// What is printed with `--json`.
#[derive(Serialize)]
struct Made {
    out: PathBuf,
    adapter_sha256: String,
    base: String,
    seed: u64,
    parameters: usize,
}

/// Does what is asked of an adapter.
pub fn run(command: &AdapterCommand, voice: Voice) -> Result<()> {
    match command {
        AdapterCommand::Init(args) => init(args, voice),
    }
}

/// Draws the adapter from configuration and seed; only the model's `config.json` is needed.
fn init(args: &AdapterInitArgs, voice: Voice) -> Result<()> {
    let out = out_folder(args.run.out.as_deref(), args.force, "consilium adapter init --out seed")?;
    let mut flags = Layer::default();
    args.model.lower(&mut flags);
    args.lora.lower(&mut flags)?;
    let config = config::resolve(&args.run, &flags)?;
    let id = &config.model.id;
    let bundled = config.model.path.is_none() && bundle::is_bundled(id);
    let shape = if bundled { LlamaConfig::parse(bundle::model_config())? } else { inputs::shape(&config)? };
    let adapter = initial_adapter(&shape, &config.lora, config.seed);
    export::peft(&adapter, &config.lora, id, &out)?;
    let made = Made {
        out,
        adapter_sha256: adapter.sha256(),
        base: id.clone(),
        seed: config.seed,
        parameters: adapter.parameters(),
    };
    if voice.json {
        return print_json(&made);
    }
    println!("{}  {} parameters", made.out.display(), words::count(made.parameters as u64));
    println!("sha256 {}", made.adapter_sha256);
    Ok(())
}
