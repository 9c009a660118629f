//! Greedy generation, each prompt to exactly the same number of new tokens; the prompt's own pass counts.

use std::time::Instant;

use anyhow::{Result, ensure};
use consilium_core::{Decoding, Engine};
use consilium_data::Template;
use serde_json::{Value, json};

use crate::args::{Generate, Targets};
use crate::process::median;
use crate::{rows, subject};

/// Every repetition continues prompts of its own.
pub fn run(args: &Generate) -> Result<Value> {
    let repetitions = args.repetitions.unwrap_or(if args.batch == 1 { 5 } else { 3 });
    let examples = rows::rows(&args.rows, repetitions * args.batch)?;
    let model = subject::model(&args.subject)?;
    let tokenizer = subject::tokenizer(&args.subject)?;
    let template = Template::workshop();
    let prompts = examples
        .iter()
        .map(|row| tokenizer.encode_prompt(&template.prompt(&row.question)))
        .collect::<Result<Vec<_>, _>>()?;
    let mut engine = subject::engine(&args.subject, &model, Targets::Qv)?;
    // No stop ids: an end of text is a token like any other here.
    let decoding = Decoding { max_new_tokens: args.new, repetition_penalty: 1.2, ..Decoding::default() };
    let mut rates = Vec::new();
    for prompts in prompts.chunks(args.batch.max(1)) {
        let start = Instant::now();
        let made = engine.generate(prompts, &decoding, &mut |_, _| true)?;
        let seconds = start.elapsed().as_secs_f64();
        let tokens: usize = made.iter().map(|generation| generation.ids.len()).sum();
        ensure!(
            tokens == prompts.len() * args.new,
            "{tokens} new tokens for {} prompts, not {} each; is the context full?",
            prompts.len(),
            args.new
        );
        rates.push(tokens as f64 / seconds);
    }
    Ok(subject::result(
        &args.subject,
        &model,
        json!({
            "case": "generate",
            "batch": args.batch,
            "new_tokens": args.new,
            "prompt_tokens": median(prompts.iter().map(|prompt| prompt.len() as f64)),
            "tokens_per_s": median(rates.iter().copied()),
            "repetitions": rates,
        }),
    ))
}
