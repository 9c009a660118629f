//! Training as the reference does it, through the product's own data path: rows, template, tokens, plan, steps.

use anyhow::{Context, Result};
use consilium_core::{Batch, Engine, Schedule, ScheduleKind, StepStats};
use consilium_data::{Template, TrainingPlan};
use serde_json::{Value, json};

use crate::args::Train;
use crate::process::{age_s, median};
use crate::{rows, subject};

/// The reference's longest sequence, tokens.
const MAX_TOKENS: usize = 1024;
/// The reference's learning rate.
const RATE: f64 = 5e-4;

/// One pass over the rows, 32 a step.
pub fn run(args: &Train) -> Result<Value> {
    let examples = rows::rows(&args.rows, args.samples)?;
    // As in the product, the tokenizer is read beside the weights.
    let (model, tokenizer) = std::thread::scope(|scope| {
        let tokenizer = scope.spawn(|| subject::tokenizer(&args.subject));
        (subject::model(&args.subject), tokenizer.join().expect("reading a tokenizer does not panic"))
    });
    let (model, tokenizer) = (model?, tokenizer?);
    tokenizer.check_fits(model.config().vocab_size)?;
    let rows = tokenizer.encode_all(&Template::workshop(), &examples, MAX_TOKENS)?.rows;
    let plan = TrainingPlan {
        micro_batch: 4,
        accumulation: 8,
        prompt_loss_weight: 1.0,
        shuffle: false, // the rows come shuffled
        seed: 0,
        site: String::new(),
    };
    let total_steps = plan.steps_per_epoch(rows.len());
    let schedule = Schedule { kind: ScheduleKind::Linear, peak: RATE, warmup_steps: 0, total_steps };
    let mut engine = subject::engine(&args.subject, &model, args.targets)?;
    engine.begin(&subject::settings());
    let mut startup_s = None;
    let mut steps = Vec::new();
    let mut computed = 0;
    for step in 0..total_steps {
        let batches = plan.step(&rows, step);
        if step == 0 {
            startup_s = age_s();
        }
        computed += batches.iter().map(computed_tokens).sum::<usize>();
        let stats = engine.step(&batches, schedule.rate_at(step))?;
        steps.push((plan.indices(rows.len(), step).len(), stats));
    }
    let loss = steps.last().context("no rows, no steps")?.1.loss;
    Ok(subject::result(
        &args.subject,
        &model,
        json!({
            "case": "train",
            "targets": args.targets.name(),
            "samples": rows.len(),
            "tokens": steps.iter().map(|(_, stats)| stats.tokens).sum::<usize>(),
            "computed_tokens": computed,
            "samples_per_s": median(steps.iter().map(|(rows, stats)| *rows as f64 / stats.seconds)),
            "tokens_per_s": median(steps.iter().map(|(_, stats)| tokens_per_s(stats))),
            "steps": steps.iter().map(|(rows, stats)| json!({
                "samples": rows,
                "tokens": stats.tokens,
                "seconds": stats.seconds,
                "tokens_per_s": tokens_per_s(stats),
            })).collect::<Vec<_>>(),
            "startup_s": startup_s,
            "loss": loss,
        }),
    ))
}

/// Tokens that go through the model: what the rows of a micro-batch begin with goes once. The last common token
/// predicts something else in each row.
fn computed_tokens(batch: &Batch) -> usize {
    batch.tokens() - (batch.sequences() - 1) * batch.prefix_len.saturating_sub(1)
}

/// Real tokens a second; there is no padding.
pub fn tokens_per_s(stats: &StepStats) -> f64 {
    stats.tokens as f64 / stats.seconds
}
