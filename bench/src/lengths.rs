//! Training speed over the length of rows, at about the same number of tokens in every micro-batch: what is left to
//! differ is attention.

use anyhow::{Result, ensure};
use consilium_core::{Batch, Engine, SeededRng};
use serde_json::{Value, json};

use crate::args::Lengths;
use crate::process::median;
use crate::subject;
use crate::train::tokens_per_s;

/// Tokens of a micro-batch; longer rows stand alone.
const MICRO_BATCH_TOKENS: usize = 512;
/// Micro-batches of a step.
const ACCUMULATION: usize = 2;

/// Random ids in rows of each length in turn.
pub fn run(args: &Lengths) -> Result<Value> {
    let model = subject::model(&args.subject)?;
    let mut engine = subject::engine(&args.subject, &model, args.targets)?;
    let mut lengths = Vec::new();
    for &length in &args.len {
        ensure!(length >= 2, "a row of {length} token(s) has nothing to predict; at least 2");
        let mut rng = SeededRng::derive(0, length as u32, "bench", "lengths");
        let sequences = (MICRO_BATCH_TOKENS / length).max(1);
        let batches: Vec<Batch> = (0..ACCUMULATION)
            .map(|_| random_batch(&mut rng, sequences, length, model.config().vocab_size))
            .collect();
        engine.begin(&subject::settings());
        engine.step(&batches, 0.0)?; // buffers grow and pages are touched
        let mut rates = Vec::new();
        for _ in 0..args.steps.max(1) {
            rates.push(tokens_per_s(&engine.step(&batches, 5e-4)?));
        }
        lengths.push(json!({
            "tokens": length,
            "sequences": sequences,
            "tokens_per_s": median(rates.iter().copied()),
            "steps": rates,
        }));
    }
    let measured = json!({ "case": "lengths", "targets": args.targets.name(), "lengths": lengths });
    Ok(subject::result(&args.subject, &model, measured))
}

fn random_batch(rng: &mut SeededRng, sequences: usize, length: usize, vocab: usize) -> Batch {
    let mut batch = Batch::new();
    for _ in 0..sequences {
        let ids: Vec<u32> = (0..length).map(|_| rng.below(vocab) as u32).collect();
        batch.push(&ids, &vec![1.0; length]);
    }
    batch
}
