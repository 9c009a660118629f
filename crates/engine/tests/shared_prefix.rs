//! What the rows of a micro-batch begin with in common is computed once. Loss, scores and gradient must be those of the
//! rows computed one by one.

mod common;

use common::{
    Row, assert_close, engine_with, gradient, lora, pack, random_adapter, random_model, random_rows,
};
use consilium_core::engine::Engine;
use consilium_core::{Batch, LoraConfig, Target};

/// The first `len` tokens of a row with a prompt of 12 tokens, and `own` others after them.
fn row(len: usize, own: usize, seed: u64) -> Row {
    let mut row = random_rows(&[40], 300, 1).remove(0);
    row.ids.truncate(len);
    row.ids.extend(random_rows(&[own], 300, 100 + seed).remove(0).ids);
    Row { loss_from: 12, ..row }
}

/// Sets of rows that share their beginnings in different ways.
fn cases() -> Vec<(&'static str, Vec<Row>)> {
    vec![
        ("one row", vec![row(22, 30, 1)]),
        ("two rows", vec![row(22, 30, 1), row(22, 9, 2)]),
        (
            "four rows of different lengths",
            vec![row(22, 30, 1), row(22, 1, 2), row(22, 80, 3), row(22, 17, 4)],
        ),
        ("rows of different prefixes", vec![row(22, 3, 1), row(30, 20, 2), row(17, 9, 3)]),
        ("one common token", vec![row(2, 20, 1), row(2, 11, 2)]),
        ("identical rows", vec![row(22, 30, 1), row(22, 30, 1)]),
        ("one row four times", vec![row(22, 30, 1); 4]),
        ("a row that begins another", vec![row(25, 0, 1), row(25, 12, 2)]),
        ("rows that begin others", vec![row(30, 0, 1), row(18, 0, 1), row(40, 0, 1), row(30, 0, 1)]),
        ("single tokens", vec![row(1, 0, 1), row(1, 0, 1), row(5, 4, 1)]),
    ]
}

fn alone(rows: &[Row], prompt_weight: f32) -> Vec<Batch> {
    rows.iter().map(|row| pack([row], prompt_weight)).collect()
}

#[test]
fn losses_and_scores_are_those_of_separate_rows() {
    let (model, lora) = (random_model(7), lora(Target::ALL));
    let mut engine = engine_with(&model, &lora, &random_adapter(&model, &lora, 7), 2);
    for (name, rows) in cases() {
        for prompt_weight in [0.0, 0.3, 1.0] {
            let together = pack(&rows, prompt_weight);
            let separate = alone(&rows, prompt_weight);
            let loss = engine.loss(&together).unwrap();
            let sum: f64 = separate.iter().map(|b| engine.loss(b).unwrap().sum).sum();
            assert!((loss.sum - sum).abs() <= 1e-5 * sum, "{name}: {} instead of {sum}", loss.sum);
            let weight: f64 = separate.iter().map(Batch::weight).sum();
            assert!((loss.weight - weight).abs() < 1e-9, "{name}: weight {}", loss.weight);
            // Each value of the forward is the same sum in the same order, so nothing may differ at all.
            let scores: Vec<f32> = separate.iter().flat_map(|b| engine.score(b).unwrap()).collect();
            assert_eq!(engine.score(&together).unwrap(), scores, "{name}, prompt weight {prompt_weight}");
        }
    }
}

#[test]
fn gradients_are_those_of_separate_rows() {
    let (model, lora) = (random_model(8), lora(Target::ALL));
    let mut engine = engine_with(&model, &lora, &random_adapter(&model, &lora, 8), 2);
    for (name, rows) in cases() {
        for prompt_weight in [0.0, 0.3] {
            let together = [pack(&rows, prompt_weight)];
            if together[0].weight() == 0.0 {
                continue;
            }
            let expected = gradient(&mut engine, &alone(&rows, prompt_weight), 0);
            assert_close(&gradient(&mut engine, &together, 0), &expected, 1e-5, name);
        }
    }
}

#[test]
fn a_wrong_hint_changes_nothing() {
    let (model, lora) = (random_model(9), lora(Target::ALL));
    let mut engine = engine_with(&model, &lora, &random_adapter(&model, &lora, 9), 1);
    let plain = pack(&[row(22, 30, 1), row(22, 9, 2)], 0.3);
    let (scores, expected) =
        (engine.score(&plain).unwrap(), gradient(&mut engine, std::slice::from_ref(&plain), 0));
    for prefix_len in [3, 22, 25, 1000] {
        let hinted = Batch { prefix_len, ..plain.clone() };
        assert_eq!(engine.score(&hinted).unwrap(), scores);
        assert_eq!(gradient(&mut engine, std::slice::from_ref(&hinted), 0), expected);
    }
}

#[test]
fn steps_are_the_same_bytes_on_any_number_of_threads_and_count_every_token() {
    let model = random_model(10);
    let lora = LoraConfig { dropout: 0.1, ..lora(Target::ALL) };
    let adapter = random_adapter(&model, &lora, 10);
    let batches: Vec<Batch> = cases().iter().map(|(_, rows)| pack(rows, 0.3)).collect();
    let run = |threads: usize| {
        let mut engine = engine_with(&model, &lora, &adapter, threads);
        let stats = engine.step(&batches, 1e-2).unwrap();
        assert_eq!(stats.tokens, batches.iter().map(Batch::tokens).sum::<usize>());
        (engine.adapter(), engine.optimiser_state())
    };
    let one = run(1);
    assert_eq!(run(2), one);
    assert_eq!(run(3), one);
}
