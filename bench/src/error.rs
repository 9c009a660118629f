//! What 8-bit weights cost: scores and gradients beside f32's at the same adapter, and two training runs side by side.

use std::sync::Arc;

use anyhow::Result;
use consilium_core::engine::Loss;
use consilium_core::{Adapter, Batch, Engine, EngineError, Tensor, TrainSettings};
use consilium_data::{Template, TrainingPlan};
use consilium_engine::{CpuEngine, Model};
use serde_json::{Value, json};

use crate::args::{Error, Precision, Subject};
use crate::{rows, subject};

/// Rows that neither run trains on.
const HELD_OUT: usize = 16;
/// Parts of the loss curve.
const PARTS: u64 = 8;

/// Both precisions of one model.
struct Pair {
    f32: CpuEngine,
    int8: CpuEngine,
}

impl Pair {
    fn new(args: &Error, models: &[Arc<Model>; 2]) -> Result<Self> {
        let engine = |model| subject::engine_with(&args.subject, model, args.targets, 0.0);
        Ok(Self { f32: engine(&models[0])?, int8: engine(&models[1])? })
    }

    fn both<T>(&mut self, mut work: impl FnMut(&mut CpuEngine) -> Result<T, EngineError>) -> Result<[T; 2]> {
        Ok([work(&mut self.f32)?, work(&mut self.int8)?])
    }
}

/// Compares at the start and after training, and along the way.
pub fn run(args: &Error) -> Result<Value> {
    let load = |precision| {
        let model = args.subject.model.clone();
        subject::model(&Subject { model, precision, threads: args.subject.threads })
    };
    let models = [load(Precision::F32)?, load(Precision::Int8)?];
    let tokenizer = subject::tokenizer(&args.subject)?;
    let examples = rows::rows(&args.rows, args.samples + HELD_OUT)?;
    let limit = models[0].config().max_positions.min(1024);
    let encoded = tokenizer.encode_all(&Template::workshop(), &examples, limit)?.rows;
    let (held, trained) = encoded.split_at(HELD_OUT);
    let plan = |accumulation, site: &str| TrainingPlan {
        micro_batch: 4,
        accumulation,
        prompt_loss_weight: 1.0,
        shuffle: true,
        seed: 0,
        site: site.into(),
    };
    let held = plan(HELD_OUT / 4, "held out").step(held, 0);
    let plan = plan(1, "trained");

    let (mut judges, mut pair) = (Pair::new(args, &models)?, Pair::new(args, &models)?);
    let start = pair.f32.adapter();
    let at_start = compare(&mut judges, &start, &held)?;
    pair.both(|engine| {
        engine.begin(&TrainSettings::default());
        Ok(())
    })?;
    let part = (args.steps / PARTS).max(1);
    let (mut curve, mut sums) = (Vec::new(), [0.0; 2]);
    for step in 0..args.steps {
        let batches = plan.step(trained, step);
        let rate = args.rate * (1.0 - step as f64 / args.steps as f64);
        let losses = pair.both(|engine| Ok(engine.step(&batches, rate)?.loss))?;
        sums = [sums[0] + losses[0], sums[1] + losses[1]];
        if (step + 1) % part == 0 {
            let [f32, int8] = sums.map(|sum| sum / part as f64);
            curve.push(json!({ "steps": step + 1, "f32": f32, "int8": int8 }));
            sums = [0.0; 2];
        }
    }
    let (exact, rounded) = (pair.f32.adapter(), pair.int8.adapter());
    let after = compare(&mut judges, &exact, &held)?;
    let [f32_on_f32, f32_on_int8] = held_out(&mut judges, &exact, &held)?;
    let [int8_on_f32, int8_on_int8] = held_out(&mut judges, &rounded, &held)?;
    let measured = json!({
        "case": "error",
        "targets": args.targets.name(),
        "rate": args.rate,
        "at_start": at_start,
        "loss_curve": curve,
        "with_the_adapter_of_f32": after,
        "held_out_loss": {
            "trained_f32_judged_f32": f32_on_f32, "trained_f32_judged_int8": f32_on_int8,
            "trained_int8_judged_f32": int8_on_f32, "trained_int8_judged_int8": int8_on_int8,
        },
    });
    Ok(subject::result(&args.subject, &models[0], measured))
}

/// Losses of both precisions with `adapter`, nats a token.
fn held_out(judges: &mut Pair, adapter: &Adapter, batches: &[Batch]) -> Result<[f64; 2]> {
    judges.both(|engine| {
        engine.set_adapter(adapter)?;
        let mut total = Loss::default();
        for batch in batches {
            let loss = engine.loss(batch)?;
            total = Loss { sum: total.sum + loss.sum, weight: total.weight + loss.weight };
        }
        Ok(total.mean())
    })
}

/// Log-probabilities and gradients of both precisions with `adapter`.
fn compare(judges: &mut Pair, adapter: &Adapter, batches: &[Batch]) -> Result<Value> {
    let scores = judges.both(|engine| {
        engine.set_adapter(adapter)?;
        batches.iter().map(|batch| engine.score(batch)).collect::<Result<Vec<_>, _>>()
    })?;
    let [exact, rounded] = scores.map(|batches| batches.concat());
    let off: Vec<f64> = exact.iter().zip(&rounded).map(|(a, b)| f64::from((a - b).abs())).collect();
    let looked_at = exact.iter().filter(|score| **score != 0.0).count().max(1);

    // After one step from zero, AdamW's first moments are the gradient times a constant.
    let gradients = judges.both(|engine| {
        engine.begin(&TrainSettings { max_grad_norm: 0.0, ..TrainSettings::default() });
        engine.step(batches, 0.0)?;
        Ok(engine.optimiser_state().first_moments)
    })?;
    let whole = |tensors: &[Tensor]| tensors.iter().flat_map(|t| t.data.clone()).collect::<Vec<f32>>();
    let mut each: Vec<f64> = gradients[0]
        .iter()
        .zip(&gradients[1])
        .filter(|(tensor, _)| tensor.data.iter().any(|v| *v != 0.0))
        .map(|(a, b)| cosine(&a.data, &b.data))
        .collect();
    each.sort_by(f64::total_cmp);
    Ok(json!({
        "log_probability_off_mean": off.iter().sum::<f64>() / looked_at as f64,
        "log_probability_off_max": off.iter().copied().fold(0.0, f64::max),
        "gradient_cosine": cosine(&whole(&gradients[0]), &whole(&gradients[1])),
        "gradient_cosine_by_tensor": {
            "min": each.first(), "tenth": each.get(each.len() / 10), "median": each.get(each.len() / 2),
        },
    }))
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}
