//! `consilium score`: how likely a model finds a text, token by token.

use std::io::Read;

use anyhow::{Context, Result};
use consilium_core::{Batch, Engine, LoraConfig};
use consilium_engine::CpuEngine;
use serde::Serialize;

use super::print_json;
use crate::args::{ScoreArgs, Voice};
use crate::failure::Failure;
use crate::inputs;

/// What is printed with `--json`.
#[derive(Serialize)]
struct Scored {
    model: String,
    /// Tokens that have a probability: all but the first.
    tokens: usize,
    /// Sum of the log-probabilities, nats.
    log_probability: f64,
    /// Mean negative log-probability, nats per token.
    nll: f64,
    perplexity: f64,
    by_token: Vec<ScoredToken>,
}

#[derive(Serialize)]
struct ScoredToken {
    id: u32,
    token: String,
    /// Nats; absent for the first token.
    #[serde(skip_serializing_if = "Option::is_none")]
    log_probability: Option<f32>,
}

/// Scores the text and prints a table or a document.
pub fn run(args: &ScoreArgs, voice: Voice) -> Result<()> {
    let text = text(args)?;
    let saved = args.adapter.as_deref().map(inputs::saved_adapter).transpose()?;
    let base =
        inputs::chosen_base(args.choice.model.as_deref(), saved.as_ref(), args.numbers.precision.into())?;
    let lora = saved.as_ref().map_or_else(LoraConfig::default, |saved| saved.lora.clone());
    let mut engine = CpuEngine::new(base.model.clone(), &lora, args.choice.threads)?;
    if let Some(saved) = &saved {
        engine.set_adapter(&saved.adapter).with_context(|| format!("adapter {}", saved.name))?;
    }

    let ids = base.tokenizer.encode_prompt(&text)?;
    if ids.len() < 2 {
        return Err(Failure::data(format!(
            "{} token(s) are too few to score; at least 2 are needed",
            ids.len()
        ))
        .into());
    }
    let mut batch = Batch::new();
    batch.push(&ids, &vec![1.0; ids.len()]);
    let scores = engine.score(&batch)?;

    // Position i of the batch holds the probability of token i + 1.
    let by_token: Vec<ScoredToken> = ids
        .iter()
        .enumerate()
        .map(|(place, &id)| ScoredToken {
            id,
            token: base.tokenizer.token(id),
            log_probability: place.checked_sub(1).map(|before| scores[before]),
        })
        .collect();
    let tokens = ids.len() - 1;
    let log_probability: f64 = by_token.iter().filter_map(|t| t.log_probability).map(f64::from).sum();
    let nll = -log_probability / tokens as f64;
    let model = base.model.info().id;
    let scored = Scored { model, tokens, log_probability, nll, perplexity: nll.exp(), by_token };
    if voice.json {
        return print_json(&scored);
    }
    for token in &scored.by_token {
        match token.log_probability {
            Some(value) => println!("{value:>10.4}  {}", token.token),
            None => println!("{:>10}  {}", "-", token.token),
        }
    }
    println!(
        "{:>10.4}  all {} tokens; {:.4} nats a token, perplexity {:.3}",
        scored.log_probability, tokens, nll, scored.perplexity
    );
    Ok(())
}

fn text(args: &ScoreArgs) -> Result<String> {
    match (&args.text, &args.file) {
        (Some(text), _) => Ok(text.clone()),
        (None, Some(path)) => {
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
        }
        (None, None) => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("cannot read standard input as UTF-8 text")?;
            Ok(text.trim_end_matches(['\n', '\r']).to_owned())
        }
    }
}
