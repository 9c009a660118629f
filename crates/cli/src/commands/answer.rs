//! Letting a model answer the questions of a file, for `consilium evaluate`.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use consilium_core::{Decoding, Engine, LoraConfig, StopFlag};
use consilium_data::{Example, TextTokenizer};
use consilium_engine::CpuEngine;
use consilium_eval::Prediction;
use consilium_experiment::Config;
use consilium_experiment::config::PARITY_NEW_TOKENS;
use consilium_experiment::evaluate::{Asking, answer};

use crate::args::{EvaluateArgs, Voice};
use crate::config::{self, Layer};
use crate::inputs::{self, Base};
use crate::live::{self, Plan};
use crate::rows;

/// Answers every test question that the configuration names.
pub fn run(args: &EvaluateArgs, voice: Voice) -> Result<Vec<Prediction>> {
    let saved = args.adapter.as_deref().map(inputs::saved_adapter).transpose()?;
    let mut flags = Layer::default();
    // An adapter knows its base.
    flags.text("model.id", saved.as_ref().and_then(|saved| saved.base.as_deref()));
    args.model.lower(&mut flags);
    args.data.lower(&mut flags)?;
    args.eval.lower(&mut flags)?;
    let config = config::resolve(&args.run, &flags)?;

    let rows = rows::for_questions(&config)?;
    let Base { model, tokenizer, .. } =
        inputs::base(&config.model.id, config.model.path.as_deref(), config.model.precision)?;
    let template = inputs::template(&config.data)?;
    let lora = saved.as_ref().map_or_else(LoraConfig::default, |saved| saved.lora.clone());
    let mut engine = CpuEngine::new(model.clone(), &lora, config.threads)?;
    if let Some(saved) = &saved {
        engine.set_adapter(&saved.adapter).with_context(|| format!("adapter {}", saved.name))?;
    }
    let asking = Asking {
        tokenizer: &tokenizer,
        template: &template,
        decoding: Decoding {
            max_new_tokens: longest_answer(&config, &tokenizer, &template, &rows)?,
            repetition_penalty: config.eval.repetition_penalty,
            stop_ids: model.config().eos_ids.clone(),
            seed: config.seed,
            ..Decoding::default()
        },
        batch: config.eval.batch,
    };
    let name = saved.as_ref().map_or("base", |saved| saved.name.as_str());
    let view = live::view(voice, Plan { questions: rows.len() as u64, ..Plan::default() });
    // Nothing is kept of a stopped evaluation, so Ctrl-C may end the program at once.
    let predictions = answer(&mut engine, &asking, name, "", &rows, view.as_ref(), &StopFlag::new())?;
    if let Some(path) = &args.save_predictions {
        save(path, &predictions).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(predictions)
}

/// As configured; else the longest reference answer here, with its end of text.
fn longest_answer(
    config: &Config,
    tokenizer: &TextTokenizer,
    template: &consilium_data::Template,
    rows: &[Example],
) -> Result<usize> {
    if config.eval.parity {
        return Ok(PARITY_NEW_TOKENS);
    }
    if let Some(limit) = config.eval.max_new_tokens {
        return Ok(limit);
    }
    let mut longest = 1;
    for row in rows {
        let tokens = tokenizer.encode_example(template, row, usize::MAX)?;
        longest = longest.max(tokens.ids.len() - tokens.loss_from);
    }
    Ok(longest)
}

fn save(path: &Path, predictions: &[Prediction]) -> Result<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    for prediction in predictions {
        serde_json::to_writer(&mut file, prediction)?;
        file.write_all(b"\n")?;
    }
    Ok(file.flush()?)
}
