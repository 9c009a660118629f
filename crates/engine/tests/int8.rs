//! Training on an 8-bit base follows training on the exact one, keeps every promise of determinism, and merges nothing
//! that was rounded.

mod common;

use common::{fill_b, lora, random_model_as, random_rows};
use consilium_core::engine::{Engine, Precision, TrainSettings};
use consilium_core::{Adapter, Batch, Target};
use consilium_engine::{CpuEngine, initial_adapter};

fn batch(lengths: &[usize], seed: u64) -> Batch {
    let mut batch = Batch::new();
    for row in random_rows(lengths, 300, seed) {
        batch.push(&row.ids, &vec![1.0; row.ids.len()]);
    }
    batch
}

fn engine(precision: Precision, threads: usize) -> CpuEngine {
    let (model, lora) = (random_model_as(1, precision), lora(Target::ALL));
    let mut engine = CpuEngine::new(model.clone(), &lora, threads).unwrap();
    engine.set_adapter(&fill_b(&initial_adapter(model.config(), &lora, 1), 0.1, 2)).unwrap();
    engine.begin(&TrainSettings { max_grad_norm: 0.0, ..TrainSettings::default() });
    engine
}

/// AdamW's first moments after one step from zero are the gradient, up to a factor.
fn gradient(precision: Precision) -> Adapter {
    let mut engine = engine(precision, 2);
    engine.step(&[batch(&[60, 33], 3)], 0.0).unwrap();
    Adapter::new(engine.optimiser_state().first_moments).unwrap()
}

#[test]
fn gradients_point_where_the_exact_ones_do() {
    let (exact, rounded) = (gradient(Precision::F32), gradient(Precision::Int8));
    let dot =
        |x: &[f32], y: &[f32]| -> f64 { x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum() };
    let cosine = |x: &[f32], y: &[f32]| dot(x, y) / (dot(x, x) * dot(y, y)).sqrt();
    for (a, b) in exact.tensors().iter().zip(rounded.tensors()) {
        let cosine = cosine(&a.data, &b.data);
        assert!(cosine > 0.98, "{}: cosine {cosine}", a.name);
    }
    let whole = |adapter: &Adapter| adapter.flat().collect::<Vec<f32>>();
    let cosine = cosine(&whole(&exact), &whole(&rounded));
    assert!(cosine > 0.99, "all together: cosine {cosine}");
}

#[test]
fn losses_follow_those_of_the_exact_base() {
    let (mut exact, mut rounded) = (engine(Precision::F32, 2), engine(Precision::Int8, 2));
    let rows = batch(&[50, 50, 20], 5);
    let mut fall = 0.0;
    for step in 0..40 {
        let (a, b) = (exact.step(std::slice::from_ref(&rows), 1e-2).unwrap().loss, {
            rounded.step(std::slice::from_ref(&rows), 1e-2).unwrap().loss
        });
        fall = if step == 0 { a } else { fall };
        assert!((a - b).abs() < 0.05 * fall, "step {step}: {a} and {b}");
        if step == 39 {
            assert!(a < 0.7 * fall && b < 0.7 * fall, "both learn: {fall} to {a} and {b}");
        }
    }
}

#[test]
fn adapters_are_the_same_bytes_on_one_thread_on_two_and_on_three() {
    let run = |threads| {
        let mut engine = engine(Precision::Int8, threads);
        for seed in 0..3 {
            engine.step(&[batch(&[60, 33, 90], seed)], 1e-2).unwrap();
        }
        engine.adapter().tensors().to_vec()
    };
    assert_eq!(run(1), run(2));
    assert_eq!(run(1), run(3));
}
