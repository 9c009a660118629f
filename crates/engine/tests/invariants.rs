//! What must hold whatever the numbers are: packing, dropout, determinism, going on after a stop, refusals.

mod common;

use std::sync::Arc;

use common::{
    Row, assert_close, engine_with, first_moments, gradient, gradient_settings, lora, pack, random_adapter,
    random_model, random_rows, relative_error,
};
use consilium_core::engine::{Decoding, Engine, EngineError, Finish};
use consilium_core::{Adapter, Batch, LoraConfig, Target, Tensor, TrainSettings};
use consilium_engine::{CpuEngine, Model, initial_adapter};

const LENGTHS: [usize; 6] = [40, 17, 3, 64, 9, 28];

fn with_dropout(dropout: f32) -> LoraConfig {
    LoraConfig { dropout, ..lora(Target::ALL) }
}

fn setting(dropout: f32) -> (Arc<Model>, LoraConfig, Adapter, Vec<Row>) {
    let model = random_model(4);
    let lora = with_dropout(dropout);
    let adapter = random_adapter(&model, &lora, 4);
    (model, lora, adapter, random_rows(&LENGTHS, 300, 4))
}

#[test]
fn packed_rows_give_the_loss_and_gradient_of_separate_ones() {
    let (model, lora, adapter, rows) = setting(0.0);
    let mut engine = engine_with(&model, &lora, &adapter, 1);
    let together = [pack(&rows, 0.3)];
    let separate: Vec<Batch> = rows.iter().map(|row| pack([row], 0.3)).collect();
    let pairs: Vec<Batch> = rows.chunks(2).map(|rows| pack(rows, 0.3)).collect();
    let expected = gradient(&mut engine, &together, 0);
    for parts in [&separate, &pairs] {
        // Sums of the same terms in another order: rounding only.
        assert_close(&gradient(&mut engine, parts, 0), &expected, 1e-5, "accumulated gradient");
        let sum: f64 = parts.iter().map(|b| engine.loss(b).unwrap().sum).sum();
        let whole = engine.loss(&together[0]).unwrap();
        assert!((sum - whole.sum).abs() < 1e-6 * whole.sum, "{sum} and {}", whole.sum);
        assert!((together[0].weight() - whole.weight).abs() < 1e-9);
    }
}

#[test]
fn a_row_does_not_see_its_neighbours() {
    let (model, lora, adapter, mut rows) = setting(0.0);
    let mut engine = engine_with(&model, &lora, &adapter, 1);
    let before = engine.score(&pack(&rows, 1.0)).unwrap();
    let changed: Vec<usize> = pack(&rows, 1.0).ranges().nth(3).unwrap().collect();
    rows[3].ids.iter_mut().for_each(|id| *id = (*id + 1) % 300);
    let after = engine.score(&pack(&rows, 1.0)).unwrap();
    for i in (0..before.len()).filter(|i| !changed.contains(i)) {
        assert_eq!(before[i], after[i], "token {i} changed with its neighbour");
    }
    assert!(changed.iter().any(|&i| before[i] != after[i]));
}

#[test]
fn a_token_does_not_see_those_after_it() {
    let (model, lora, adapter, rows) = setting(0.0);
    let mut engine = engine_with(&model, &lora, &adapter, 1);
    let mut row = rows[3].clone();
    let before = engine.score(&pack([&row], 1.0)).unwrap();
    row.ids[40] = (row.ids[40] + 1) % 300;
    let after = engine.score(&pack([&row], 1.0)).unwrap();
    assert_eq!(before[..39], after[..39]);
    assert_ne!(before[40..], after[40..]);
}

#[test]
fn scores_are_the_terms_of_the_loss_and_zero_without_weight() {
    let (model, lora, adapter, rows) = setting(0.0);
    let mut engine = engine_with(&model, &lora, &adapter, 1);
    let batch = pack(&rows, 0.0);
    let scores = engine.score(&batch).unwrap();
    assert!(scores.iter().zip(&batch.weights).all(|(&s, &w)| (w == 0.0) == (s == 0.0)));
    let sum: f64 = scores.iter().zip(&batch.weights).map(|(&s, &w)| -f64::from(s) * f64::from(w)).sum();
    let loss = engine.loss(&batch).unwrap();
    assert!((loss.sum - sum).abs() < 1e-6 * sum, "{} and {sum}", loss.sum);
}

#[test]
fn the_common_prefix_is_only_a_hint() {
    let (model, lora, adapter, mut rows) = setting(0.0);
    rows.retain(|row| row.ids.len() > 12);
    for i in 1..rows.len() {
        let first = rows[0].ids[..10].to_vec();
        rows[i].ids[..10].copy_from_slice(&first);
    }
    let plain = pack(&rows, 0.3);
    let hinted = Batch { prefix_len: 10, ..plain.clone() };
    let mut engine = engine_with(&model, &lora, &adapter, 1);
    let expected = gradient(&mut engine, std::slice::from_ref(&plain), 0);
    assert_close(
        &gradient(&mut engine, std::slice::from_ref(&hinted), 0),
        &expected,
        1e-5,
        "gradient with the hint",
    );
    let (a, b) = (engine.loss(&plain).unwrap().mean(), engine.loss(&hinted).unwrap().mean());
    assert!((a - b).abs() < 1e-6 * a);
}

#[test]
fn dropout_is_off_outside_training() {
    let (model, lora, adapter, rows) = setting(0.0);
    let batch = pack(&rows, 1.0);
    let mut plain = engine_with(&model, &lora, &adapter, 1);
    let mut dropping = engine_with(&model, &with_dropout(0.5), &adapter, 1);
    assert_eq!(plain.loss(&batch).unwrap(), dropping.loss(&batch).unwrap());
    assert_eq!(plain.score(&batch).unwrap(), dropping.score(&batch).unwrap());
    let prompts = [rows[1].ids.clone()];
    let decoding = Decoding { max_new_tokens: 8, ..Decoding::default() };
    let ids = |engine: &mut CpuEngine| engine.generate(&prompts, &decoding, &mut |_, _| true).unwrap();
    assert_eq!(ids(&mut plain), ids(&mut dropping));
}

#[test]
fn dropout_masks_follow_seed_step_and_micro_batch() {
    let (model, lora, adapter, rows) = setting(0.3);
    let batches = [pack(&rows, 1.0)];
    let mut engine = engine_with(&model, &lora, &adapter, 1);
    let first = gradient(&mut engine, &batches, 7);
    assert_eq!(first, gradient(&mut engine, &batches, 7), "the same seed and step");
    assert_ne!(first, gradient(&mut engine, &batches, 8), "another seed");

    engine.begin(&gradient_settings(7));
    engine.step(&batches, 0.0).unwrap();
    engine.step(&batches, 0.0).unwrap();
    assert_ne!(first, first_moments(&engine), "another step");

    // Twice the same micro-batch, normalised over both, is once the micro-batch, if the masks are the same.
    let twice = [batches[0].clone(), batches[0].clone()];
    let error = |a: &Adapter, b: &Adapter| {
        relative_error(&a.flat().collect::<Vec<f32>>(), &b.flat().collect::<Vec<f32>>())
    };
    assert!(error(&gradient(&mut engine, &twice, 7), &first) > 1e-2, "another micro-batch");
    let mut plain = engine_with(&model, &with_dropout(0.0), &adapter, 1);
    let once = gradient(&mut plain, &batches, 7);
    assert!(error(&gradient(&mut plain, &twice, 7), &once) < 1e-5);
}

#[test]
fn dropout_keeps_the_expectation() {
    // With B = 0 the adapter adds nothing, so masks change no activation and the gradient of B is linear in them: its
    // mean over masks is the gradient without dropout, exactly. Over 400 masks with p = 0.5 about 1 / sqrt(400) =
    // 5 % of noise is left; without the factor 1 / (1 - p) the mean would be off by 50 %.
    let model = random_model(5);
    let rows = random_rows(&[6, 9], 300, 5);
    let batches = [pack(&rows, 1.0)];
    let fresh = initial_adapter(model.config(), &with_dropout(0.5), 5);
    let mut plain = engine_with(&model, &with_dropout(0.0), &fresh, 1);
    let expected = gradient(&mut plain, &batches, 0);
    let mut dropping = engine_with(&model, &with_dropout(0.5), &fresh, 1);
    let seeds = 400;
    let mut mean: Vec<f64> = vec![0.0; fresh.parameters()];
    for seed in 0..seeds {
        let one = gradient(&mut dropping, &batches, seed);
        mean.iter_mut().zip(one.flat()).for_each(|(sum, g)| *sum += f64::from(g) / seeds as f64);
    }
    let mut rest = mean.as_slice();
    for tensor in expected.tensors() {
        let (mine, others) = rest.split_at(tensor.data.len());
        rest = others;
        let mine: Vec<f32> = mine.iter().map(|&v| v as f32).collect();
        if tensor.name.ends_with("lora_A") {
            assert!(
                mine.iter().chain(&tensor.data).all(|&g| g == 0.0),
                "{}: B is 0, so A has no gradient",
                tensor.name
            );
        } else {
            let error = relative_error(&mine, &tensor.data);
            assert!(error < 0.15, "{}: the mean over masks is off by {error:.3}", tensor.name);
        }
    }
}

#[test]
fn dropout_masks_are_independent_between_modules() {
    // Gate and up read the same x. Where only the first token carries loss, the last block's gradient of each B is a
    // column times (A drop(x))^T; with the same A in both, equal masks would make all their rows parallel.
    let model = random_model(6);
    let lora = LoraConfig { dropout: 0.5, rank: 8, ..lora([Target::Gate, Target::Up]) };
    let fresh = initial_adapter(model.config(), &lora, 6);
    let (gate_a, gate_b) = ("layers.2.mlp.gate_proj.lora_A", "layers.2.mlp.gate_proj.lora_B");
    let (up_a, up_b) = ("layers.2.mlp.up_proj.lora_A", "layers.2.mlp.up_proj.lora_B");
    let shared = fresh.get(gate_a).unwrap().data.clone();
    let same_a = |t: &Tensor| Tensor {
        data: if t.name == up_a { shared.clone() } else { t.data.clone() },
        ..t.clone()
    };
    let adapter = Adapter::new(fresh.tensors().iter().map(same_a).collect()).unwrap();
    let mut batch = Batch::new();
    batch.push(&[5, 6], &[0.0, 1.0]);
    let parallel = |dropout: f32| {
        let mut engine = engine_with(&model, &LoraConfig { dropout, ..lora.clone() }, &adapter, 1);
        let gradient = gradient(&mut engine, std::slice::from_ref(&batch), 1);
        let longest = |name: &str| {
            let rows = gradient.get(name).unwrap().data.chunks_exact(8).map(<[f32]>::to_vec);
            rows.max_by(|a, b| square(a).total_cmp(&square(b))).unwrap()
        };
        let (a, b) = (longest(gate_b), longest(up_b));
        let inner: f64 = a.iter().zip(&b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum();
        inner.abs() / (square(&a) * square(&b)).sqrt()
    };
    assert!(parallel(0.0) > 0.9999, "{}", parallel(0.0));
    assert!(parallel(0.5) < 0.99, "{}", parallel(0.5));
}

fn square(values: &[f32]) -> f64 {
    values.iter().map(|&v| f64::from(v).powi(2)).sum()
}

/// Adapters after each of `steps` training steps with dropout and accumulation.
fn train(engine: &mut dyn Engine, rows: &[Row], first_step: usize, steps: usize) -> Vec<Adapter> {
    let step = |number: usize| {
        let picked: Vec<Row> = (0..4).map(|i| rows[(4 * number + i) % rows.len()].clone()).collect();
        let micro_batches: Vec<Batch> = picked.chunks(2).map(|rows| pack(rows, 0.5)).collect();
        engine.step(&micro_batches, 1e-2 / (1 + number) as f64).unwrap();
        engine.adapter()
    };
    (first_step..first_step + steps).map(step).collect()
}

#[test]
fn adapters_are_the_same_bytes_on_one_thread_on_two_and_again() {
    let (model, lora, adapter, rows) = setting(0.1);
    let run = |threads: usize| {
        let mut engine = engine_with(&model, &lora, &adapter, threads);
        engine.begin(&TrainSettings { dropout_seed: 3, ..TrainSettings::default() });
        let adapters = train(&mut engine, &rows, 0, 3);
        (adapters, engine.score(&pack(&rows, 1.0)).unwrap(), engine.optimiser_state())
    };
    let one = run(1);
    assert_ne!(one.0[0], one.0[2]);
    assert_eq!(one, run(1), "two runs");
    assert_eq!(one, run(2), "two threads");
    assert_eq!(one, run(3), "three threads");
}

#[test]
fn a_run_that_stopped_goes_on_with_the_same_bytes() {
    let (model, lora, adapter, rows) = setting(0.1);
    let settings = TrainSettings { dropout_seed: 3, ..TrainSettings::default() };
    let mut engine = engine_with(&model, &lora, &adapter, 2);
    engine.begin(&settings);
    let kept = train(&mut engine, &rows, 0, 2).pop().unwrap();
    let state = engine.optimiser_state();
    assert_eq!(state.step, 2);
    let expected = train(&mut engine, &rows, 2, 2);

    let mut resumed = engine_with(&model, &lora, &adapter, 2);
    resumed.begin(&settings);
    resumed.set_adapter(&kept).unwrap();
    resumed.restore_optimiser(&state).unwrap();
    assert_eq!(train(&mut resumed, &rows, 2, 2), expected);
    assert_eq!(resumed.optimiser_state(), engine.optimiser_state());
}

#[test]
fn begin_forgets_the_moments() {
    let (model, lora, adapter, rows) = setting(0.1);
    let mut engine = engine_with(&model, &lora, &adapter, 1);
    engine.begin(&TrainSettings::default());
    let first = train(&mut engine, &rows, 0, 2);
    engine.set_adapter(&adapter).unwrap();
    engine.begin(&TrainSettings::default());
    assert_eq!(engine.optimiser_state().step, 0);
    assert!(engine.optimiser_state().second_moments.iter().all(|t| t.data.iter().all(|&v| v == 0.0)));
    assert_eq!(train(&mut engine, &rows, 0, 2), first);
}

#[test]
fn a_fresh_adapter_is_the_base_itself() {
    let (model, lora, _, rows) = setting(0.1);
    let batch = pack(&rows, 1.0);
    let base = CpuEngine::new(model.clone(), &lora, 1).unwrap().score(&batch).unwrap();
    let fresh = initial_adapter(model.config(), &lora, 9);
    assert_eq!(engine_with(&model, &lora, &fresh, 1).score(&batch).unwrap(), base);
    assert_ne!(fresh, initial_adapter(model.config(), &lora, 10));
    for tensor in fresh.tensors() {
        let bound = if tensor.name.ends_with("lora_A") { 1.0 / (tensor.shape[1] as f32).sqrt() } else { 0.0 };
        let largest = tensor.data.iter().fold(0f32, |m, v| m.max(v.abs()));
        assert!(largest <= bound && largest >= 0.8 * bound, "{}: {largest}, bound {bound}", tensor.name);
    }
}

#[test]
fn a_refused_step_changes_nothing() {
    let (model, lora, adapter, rows) = setting(0.1);
    let mut engine = engine_with(&model, &lora, &adapter, 1);
    engine.begin(&TrainSettings::default());
    train(&mut engine, &rows, 0, 1);
    let before = (engine.adapter(), engine.optimiser_state());

    let mut unknown = pack(&rows, 1.0);
    unknown.ids[7] = 300;
    let unknown = engine.step(&[pack(&rows, 1.0), unknown], 1e-2).unwrap_err();
    assert!(
        matches!(unknown, EngineError::TokenOutOfRange { id: 300, position: 7, vocab: 300 }),
        "{unknown}"
    );
    let long = pack(&random_rows(&[129], 300, 1), 1.0);
    let long = engine.step(&[long], 1e-2).unwrap_err();
    assert!(matches!(long, EngineError::TooLong { tokens: 129, limit: 128 }), "{long}");
    let mut silent = pack(&rows, 1.0);
    silent.weights.fill(0.0);
    assert!(matches!(engine.step(&[silent], 1e-2), Err(EngineError::Invalid(_))));
    assert!(matches!(engine.step(&[], 1e-2), Err(EngineError::Invalid(_))));
    assert_eq!(before, (engine.adapter(), engine.optimiser_state()));
}

#[test]
fn divergence_is_an_error_and_changes_nothing() {
    let (model, lora, adapter, rows) = setting(0.0);
    let huge = Tensor { data: vec![3e38; adapter.tensors()[0].data.len()], ..adapter.tensors()[0].clone() };
    let rest = adapter.tensors()[1..].iter().cloned();
    let broken = Adapter::new(std::iter::once(huge).chain(rest).collect()).unwrap();
    let mut engine = engine_with(&model, &lora, &broken, 1);
    engine.begin(&TrainSettings::default());
    let error = engine.step(&[pack(&rows, 1.0)], 1e-2).unwrap_err();
    assert!(matches!(error, EngineError::Diverged { step: 0, .. }), "{error}");
    assert_eq!(engine.adapter(), broken);
    assert_eq!(engine.optimiser_state().step, 0);

    // A finite gradient and a rate that no f32 can follow.
    engine.set_adapter(&adapter).unwrap();
    assert!(engine.step(&[pack(&rows, 1.0)], 1e39).is_err());
    assert!(engine.step(&[pack(&rows, 1.0)], f64::NAN).is_err());
    assert_eq!(engine.adapter(), adapter);
    assert_eq!(engine.optimiser_state().step, 0);
}

#[test]
fn adapters_and_states_of_another_shape_are_refused_by_name() {
    let (model, lora, adapter, _) = setting(0.0);
    let mut engine = engine_with(&model, &lora, &adapter, 1);
    let other = initial_adapter(model.config(), &LoraConfig { rank: 5, ..lora.clone() }, 1);
    let error = engine.set_adapter(&other).unwrap_err().to_string();
    assert!(error.contains("layers.0.self_attn.q_proj.lora_A") && error.contains("[5, 48]"), "{error}");
    let mut state = engine.optimiser_state();
    state.first_moments.pop();
    assert!(
        engine.restore_optimiser(&state).unwrap_err().to_string().contains("layers.2.mlp.down_proj.lora_B")
    );
    assert_eq!(engine.adapter(), adapter);
}

#[test]
fn generation_does_not_depend_on_the_batch_and_a_full_context_ends_it() {
    let (model, lora, adapter, rows) = setting(0.0);
    let mut engine = engine_with(&model, &lora, &adapter, 2);
    let prompts: Vec<Vec<u32>> = rows.iter().map(|row| row.ids.clone()).collect();
    let sampled = Decoding {
        max_new_tokens: 90,
        temperature: 0.8,
        top_k: 40,
        top_p: 0.95,
        seed: 5,
        ..Decoding::default()
    };
    for decoding in [Decoding { max_new_tokens: 90, ..Decoding::default() }, sampled] {
        let together = engine.generate(&prompts, &decoding, &mut |_, _| true).unwrap();
        assert_eq!(together, engine.generate(&prompts, &decoding, &mut |_, _| true).unwrap());
        // 64 prompt tokens leave room for 64 of the 90.
        assert_eq!((together[3].ids.len(), together[3].finish), (64, Finish::Context));
        assert_eq!((together[0].ids.len(), together[0].finish), (88, Finish::Context));
        assert_eq!((together[1].ids.len(), together[1].finish), (90, Finish::Length));
        if decoding.temperature == 0.0 {
            for (prompt, expected) in prompts.iter().zip(&together) {
                let alone =
                    engine.generate(std::slice::from_ref(prompt), &decoding, &mut |_, _| true).unwrap();
                assert_eq!(&alone[0], expected);
            }
        }
    }
    let watched =
        engine.generate(&prompts[..2], &Decoding::default(), &mut |prompt, ids| prompt != 1 || ids.len() < 3);
    assert_eq!(watched.unwrap()[1].ids.len(), 3);
    assert!(engine.generate(&[vec![]], &Decoding::default(), &mut |_, _| true).is_err());
}

#[test]
fn greedy_ids_with_a_cache_are_those_of_scoring_without_one() {
    let (model, lora, adapter, rows) = setting(0.0);
    let mut engine = engine_with(&model, &lora, &adapter, 1);
    let prompt = rows[4].ids.clone();
    let decoding = Decoding { max_new_tokens: 20, ..Decoding::default() };
    let found = engine.generate(std::slice::from_ref(&prompt), &decoding, &mut |_, _| true).unwrap();
    let ids: Vec<u32> = prompt.iter().chain(&found[0].ids).copied().collect();
    // At each place no other id scores higher than the one that was chosen.
    let mut score = |id: Option<u32>| {
        let mut batch = Batch::new();
        batch.push(&ids, &vec![1.0; ids.len()]);
        if let Some(id) = id {
            batch.targets.fill(id);
        }
        engine.score(&batch).unwrap()[prompt.len() - 1..ids.len() - 1].to_vec()
    };
    let chosen = score(None);
    for id in 0..300 {
        for (place, (&other, &best)) in score(Some(id)).iter().zip(&chosen).enumerate() {
            assert!(other <= best + 1e-5, "place {place}: id {id} has {other}, the chosen one {best}");
        }
    }
}
