//! `consilium train`: one adapter on the rows of one place.

use std::path::PathBuf;

use anyhow::{Context, Result};
use consilium_core::Event;
use consilium_experiment::Config;
use consilium_experiment::train::{TrainInputs, train};
use serde::Serialize;

use super::{print_json, simulate};
use crate::args::{TrainArgs, Voice};
use crate::config::{self, Layer};
use crate::failure::Failure;
use crate::inputs::{self, Base, SavedAdapter};
use crate::live::{self, Plan};
use crate::{interrupt, rows, run_folder, words};

/// What is printed with `--json`.
#[derive(Serialize)]
struct Done {
    out: PathBuf,
    adapter: PathBuf,
    adapter_sha256: String,
    steps: u64,
    rows: usize,
    truncated_rows: usize,
    peak_rss_bytes: u64,
}

/// Resolves the configuration, reads rows and model, trains, and says where the adapter is.
pub fn run(args: &TrainArgs, voice: Voice) -> Result<()> {
    let saved = args.init_adapter.as_deref().map(inputs::saved_adapter).transpose()?;
    let config = resolve(args, saved.as_ref())?;
    let places = rows::for_training(&config)?;
    let out = run_folder::choose(args.run.out.as_deref(), "train")?;
    let Base { model, tokenizer, .. } =
        inputs::base(&config.model.id, config.model.path.as_deref(), config.model.precision)?;
    let inputs = TrainInputs {
        model,
        tokenizer,
        template: inputs::template(&config.data)?,
        name: places.name,
        rows: places.rows,
        init_adapter: saved.as_ref().map(|saved| saved.adapter.clone()),
    };

    let rows_per_step = (config.train.micro_batch * config.train.accumulation) as u64;
    let steps = (inputs.rows.len() as u64).div_ceil(rows_per_step) * u64::from(config.train.epochs);
    let plan = Plan { training_rows: steps * rows_per_step, rows_per_step, ..Plan::default() };
    let stop = interrupt::stop_flag(interrupt::RESUMABLE)?;
    let view = live::view(voice, plan);
    places.notes.into_iter().for_each(|text| view.record(&Event::Note { text }));
    if let Some(base) = saved.and_then(|saved| saved.base).filter(|base| *base != config.model.id) {
        let text = format!("the adapter was trained on {base}, and goes on here on {}", config.model.id);
        view.record(&Event::Note { text });
    }
    let resume = format!("go on with the same command and --out {}", out.display());
    let trained = train(&config, &inputs, &out, view.as_ref(), &stop)
        .map_err(|error| simulate::explain(error, &resume))?;
    drop(view);

    let done = Done {
        adapter: trained.adapter_dir,
        adapter_sha256: trained.adapter.sha256(),
        steps: trained.steps,
        rows: inputs.rows.len(),
        truncated_rows: trained.truncated_rows,
        peak_rss_bytes: trained.peak_rss_bytes,
        out,
    };
    if voice.json {
        return print_json(&done);
    }
    println!(
        "{} steps over {} rows; peak memory {}",
        done.steps,
        done.rows,
        words::bytes(done.peak_rss_bytes)
    );
    println!("  adapter  {}", done.adapter.display());
    println!("  metrics  {}", done.out.join("metrics.jsonl").display());
    Ok(())
}

fn resolve(args: &TrainArgs, saved: Option<&SavedAdapter>) -> Result<Config> {
    let data = &args.data;
    if data.test_data.is_some()
        || data.test_split.is_some()
        || data.test_rows.is_some()
        || data.validation_rows.is_some()
    {
        return Err(Failure::usage("train holds no rows back: it has no use for test or validation rows")
            .hint("give it only the rows to train on, with --data, --sites, --filter or --train-rows")
            .into());
    }
    let mut flags = Layer::default();
    args.model.lower(&mut flags);
    args.data.lower(&mut flags)?;
    args.lora.lower(&mut flags)?;
    args.train.lower(&mut flags)?;
    flags.number("train.epochs", args.epochs)?;
    let mut config = config::resolve(&args.run, &flags)?;
    if let Some(saved) = saved {
        if args.lora.shapes_adapter() {
            return Err(Failure::usage("--init-adapter brings rank, alpha, targets and rsLoRA")
                .hint("leave out --rank, --alpha, --targets and --rslora")
                .into());
        }
        config.lora = consilium_core::LoraConfig { dropout: config.lora.dropout, ..saved.lora.clone() };
        config.validate().context("with the adapter's rank, alpha and targets")?;
    }
    Ok(config)
}
