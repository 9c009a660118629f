//! Parity with PyTorch, transformers and PEFT on the cases of `golden/engine` (written by `golden/make_engine.py`).
//!
//! Both sides compute in f32 and sum in different orders, so numbers agree to rounding, not to the bit. Tolerances,
//! relative unless said otherwise: loss 1e-5, gradients and what AdamW makes of them 1e-4 in the L2 norm of each
//! tensor, logits 1e-4 absolute (they reach about 20), greedy ids exactly.

mod common;

use common::{Case, assert_close, gradient};
use consilium_core::engine::{Engine, Finish};
use consilium_core::{Batch, Decoding, Schedule, ScheduleKind, Tensor, TrainSettings};

const LOSS: f64 = 1e-5;
const GRADIENT: f64 = 1e-4;
const LOGIT: f32 = 1e-4;

fn assert_loss(found: f64, expected: f64, what: &str) {
    let error = (found - expected).abs() / expected;
    assert!(error <= LOSS, "{what}: {found} instead of {expected}, {error:.1e} relative");
}

/// The log-probabilities of a row's every token but the last, `(t - 1, v)`: one score for each id that could follow.
fn log_probabilities(engine: &mut dyn Engine, ids: &[u32], vocab: usize) -> Vec<Vec<f32>> {
    let mut rows = vec![vec![0.0; vocab]; ids.len() - 1];
    for id in 0..vocab {
        let mut batch = Batch::new();
        batch.push(ids, &vec![1.0; ids.len()]);
        batch.targets.fill(id as u32);
        for (row, score) in rows.iter_mut().zip(engine.score(&batch).unwrap()) {
            row[id] = score;
        }
    }
    rows
}

/// `logits - log sum exp(logits)` for a row of logits.
fn log_softmax(logits: &[f32]) -> Vec<f32> {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&x| f64::from(x - top).exp()).sum();
    logits.iter().map(|&x| (f64::from(x - top) - sum.ln()) as f32).collect()
}

fn check_logits(engine: &mut dyn Engine, ids: &[u32], expected: &Tensor, what: &str) {
    let vocab = expected.shape[1];
    let found = log_probabilities(engine, ids, vocab);
    for (position, (row, logits)) in found.iter().zip(expected.data.chunks_exact(vocab)).enumerate() {
        for (id, (&a, b)) in row.iter().zip(log_softmax(logits)).enumerate() {
            assert!((a - b).abs() <= LOGIT, "{what}: position {position}, id {id}: {a} instead of {b}");
        }
    }
}

fn logits(case: &Case) {
    let ids = &case.expected.rows[case.expected.logits_row].ids;
    check_logits(&mut case.engine(), ids, case.tensor("logits"), "with the adapter");
    let mut base = consilium_engine::CpuEngine::new(case.model.clone(), &case.lora, 1).unwrap();
    check_logits(&mut base, ids, case.tensor("base_logits"), "without an adapter");
}

fn losses(case: &Case) {
    let mut engine = case.engine();
    for expected in &case.expected.losses {
        let batch = case.whole(expected.prompt_loss_weight);
        let what = format!("prompt weight {}", expected.prompt_loss_weight);
        assert_loss(engine.loss(&batch).unwrap().mean(), expected.loss, &what);
    }
}

fn gradients(case: &Case) {
    let mut engine = case.engine();
    for weight in [1.0f32, 0.3, 0.0] {
        let found = gradient(&mut engine, &[case.whole(weight)], 0);
        let expected = case.adapter_like(&format!("gradient{weight:.1}"));
        assert_close(&found, &expected, GRADIENT, &format!("gradient at prompt weight {weight}"));
    }
}

fn steps(case: &Case) {
    let mut engine = case.engine();
    engine.begin(&TrainSettings { max_grad_norm: case.expected.max_grad_norm, ..TrainSettings::default() });
    let total_steps = case.expected.steps.len() as u64;
    let schedule = Schedule {
        kind: ScheduleKind::Linear,
        peak: case.expected.steps[0].lr,
        warmup_steps: 0,
        total_steps,
    };
    let mut before = case.adapter.clone();
    for (number, expected) in case.expected.steps.iter().enumerate() {
        let micro_batches: Vec<Batch> =
            expected.micro_batches.iter().map(|rows| case.batch(rows, 1.0)).collect();
        let rate = schedule.rate_at(number as u64);
        assert!((rate - expected.lr).abs() < 1e-15, "rate {rate} instead of {}", expected.lr);
        let stats = engine.step(&micro_batches, rate).unwrap();
        assert_loss(stats.loss, expected.loss, &format!("step {number}"));
        let norm_error = (stats.grad_norm - expected.grad_norm).abs() / expected.grad_norm;
        assert!(
            norm_error <= GRADIENT,
            "step {number}: gradient norm {} off by {norm_error:.1e}",
            stats.grad_norm
        );
        assert_eq!(stats.tokens, micro_batches.iter().map(Batch::tokens).sum::<usize>());
        // What moved is compared, not where it ended: the adapter is a hundred times larger than one step.
        let after = case.adapter_like(&format!("step{number}"));
        let what = format!("movement of step {number}");
        assert_close(&moved(&before, &engine.adapter()), &moved(&before, &after), GRADIENT, &what);
        before = engine.adapter();
    }
}

fn moved(from: &consilium_core::Adapter, to: &consilium_core::Adapter) -> consilium_core::Adapter {
    let difference = |(a, b): (&Tensor, &Tensor)| Tensor {
        data: a.data.iter().zip(&b.data).map(|(x, y)| y - x).collect(),
        ..a.clone()
    };
    let tensors = from.tensors().iter().zip(to.tensors()).map(difference).collect();
    consilium_core::Adapter::new(tensors).unwrap()
}

fn greedy_ids(case: &Case) {
    let mut engine = case.engine();
    for penalty in [1.0f32, 1.3] {
        let chosen: Vec<_> = case.expected.generations.iter().filter(|g| g.penalty == penalty).collect();
        let prompts: Vec<Vec<u32>> = chosen.iter().map(|g| g.prompt.clone()).collect();
        let mut decoding =
            Decoding { max_new_tokens: 12, repetition_penalty: penalty, ..Decoding::default() };
        let found = engine.generate(&prompts, &decoding, &mut |_, _| true).unwrap();
        for (found, expected) in found.iter().zip(&chosen) {
            assert_eq!(found.ids, expected.ids, "penalty {penalty}, prompt {:?}", expected.prompt);
            assert_eq!(found.finish, Finish::Length);
        }
        // The same prompts one by one, ended by the id that would have come seventh.
        for (prompt, expected) in prompts.iter().zip(&chosen) {
            let stop = expected.ids[6];
            let end = expected.ids.iter().position(|&id| id == stop).unwrap();
            decoding.stop_ids = vec![stop];
            let found = engine.generate(std::slice::from_ref(prompt), &decoding, &mut |_, _| true).unwrap();
            assert_eq!(found[0].ids, expected.ids[..end]);
            assert_eq!(found[0].finish, Finish::Stop);
        }
    }
}

macro_rules! cases {
    ($($name:ident),*) => {
        const CASES: &[&str] = &[$(stringify!($name)),*];
        $(
        mod $name {
            use super::common::Case;
            const NAME: &str = stringify!($name);
            #[test] fn logits() { super::logits(&Case::load(NAME)) }
            #[test] fn losses() { super::losses(&Case::load(NAME)) }
            #[test] fn gradients() { super::gradients(&Case::load(NAME)) }
            #[test] fn optimiser_steps() { super::steps(&Case::load(NAME)) }
            #[test] fn greedy_ids() { super::greedy_ids(&Case::load(NAME)) }
        }
        )*
    };
}

cases!(
    gqa_tied,
    mha_untied_odd,
    attention_bias,
    qwen2_bias,
    rope_llama3_old,
    rope_llama3_new,
    rope_linear,
    head_dim,
    all_linear,
    rslora,
    bf16_sharded,
    f16,
    fresh
);

#[test]
fn every_folder_is_tested() {
    let folders = std::fs::read_dir(common::golden_dir().join("engine")).unwrap();
    let mut names: Vec<String> = folders.map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let mut cases = CASES.to_vec();
    cases.sort_unstable();
    assert_eq!(names, cases);
}

#[test]
fn both_config_layouts_of_llama3_give_the_same_numbers() {
    let (old, new) = (Case::load("rope_llama3_old"), Case::load("rope_llama3_new"));
    assert_eq!(old.model.config(), new.model.config());
    assert_eq!(old.engine().score(&old.whole(1.0)).unwrap(), new.engine().score(&new.whole(1.0)).unwrap());
}
