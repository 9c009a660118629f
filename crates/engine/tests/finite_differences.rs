//! The gradient against central differences of the public loss, for every adapter tensor.
//!
//! For a direction `u` the slope `g . u` must equal `(L(a + h u) - L(a - h u)) / 2h`. Two directions are tried for
//! each tensor: the gradient's own, in which a wrong scale shows at once, and a random one with half its length along the
//! gradient, in which a component that the gradient lacks shows as well.
//!
//! Tolerances. The loss is computed in f32 and is about 7, so it carries rounding of a few 1e-7. `h` is chosen so that
//! the loss changes by about `CHANGE` = 0.02 either way: rounding then moves the slope by a few 1e-5 relative. The
//! truncation error `h^2 L''' / 6` is removed to the next order by Richardson's extrapolation from `h` and `2 h`,
//! `(4 D(h) - D(2h)) / 3`, which multiplies the rounding by about 1.4. What is left measures up to 9e-4; 2e-3 is allowed,
//! and the errors this test is for (a missing scale, a wrong transpose, a forgotten path) are of the order of 1.

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;

use common::{
    Case, engine_with, gradient, gradient_settings, lora, pack, random_adapter, random_model, random_rows,
};
use consilium_core::engine::Engine;
use consilium_core::{Adapter, Batch, LoraConfig, SeededRng, Target, Tensor};
use consilium_engine::Model;

const CHANGE: f64 = 0.02;
const TOLERANCE: f64 = 2e-3;

/// `adapter` with `step * direction` added to its tensor `index`.
fn shifted(adapter: &Adapter, index: usize, direction: &[f32], step: f64) -> Adapter {
    let mut tensors: Vec<Tensor> = adapter.tensors().to_vec();
    for (value, &u) in tensors[index].data.iter_mut().zip(direction) {
        *value = (f64::from(*value) + step * f64::from(u)) as f32;
    }
    Adapter::new(tensors).unwrap()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum()
}

fn unit(values: Vec<f64>) -> Vec<f32> {
    let norm = values.iter().map(|v| v * v).sum::<f64>().sqrt();
    values.iter().map(|v| (v / norm) as f32).collect()
}

/// The gradient's direction, and one that leaves it by 60 degrees at random.
fn directions(gradient: &[f32], seed: u64) -> [Vec<f32>; 2] {
    let own = unit(gradient.iter().map(|&g| f64::from(g)).collect());
    let mut rng = SeededRng::derive(seed, 0, "", "direction");
    let random: Vec<f64> = own.iter().map(|_| rng.normal()).collect();
    let along: f64 = random.iter().zip(&own).map(|(r, &g)| r * f64::from(g)).sum();
    let across = unit(random.iter().zip(&own).map(|(r, &g)| r - along * f64::from(g)).collect());
    let mixed =
        own.iter().zip(&across).map(|(&g, &r)| 0.5 * f64::from(g) + 0.75f64.sqrt() * f64::from(r)).collect();
    [own, unit(mixed)]
}

fn check(model: &Arc<Model>, lora: &LoraConfig, adapter: &Adapter, batch: &Batch) {
    let mut engine = engine_with(model, lora, adapter, 1);
    let analytic = gradient(&mut engine, std::slice::from_ref(batch), 0);
    let mut loss_at = |adapter: &Adapter| {
        engine.set_adapter(adapter).unwrap();
        if lora.dropout == 0.0 {
            return engine.loss(batch).unwrap().mean();
        }
        // Only a step drops; with the same seed at step 0 it draws the same masks each time.
        engine.begin(&gradient_settings(0));
        engine.step(std::slice::from_ref(batch), 0.0).unwrap().loss
    };
    for (index, tensor) in analytic.tensors().iter().enumerate() {
        for (direction, which) in directions(&tensor.data, index as u64).iter().zip(["own", "random"]) {
            let slope = dot(&tensor.data, direction);
            assert!(slope > 1e-3, "{}: gradient {slope:.1e} is too small to be tested", tensor.name);
            let h = CHANGE / slope;
            let mut central = |h: f64| {
                let up = loss_at(&shifted(adapter, index, direction, h));
                let down = loss_at(&shifted(adapter, index, direction, -h));
                (up - down) / (2.0 * h)
            };
            let numeric = (4.0 * central(h) - central(2.0 * h)) / 3.0;
            let error = (slope - numeric).abs() / slope;
            assert!(
                error <= TOLERANCE,
                "{}, {which} direction: gradient says {slope:.6}, differences say {numeric:.6} ({error:.1e} relative)",
                tensor.name
            );
        }
    }
}

#[test]
fn every_target_with_a_packed_batch_and_fractional_weights() {
    let model = random_model(1);
    let lora = lora(Target::ALL);
    let adapter = random_adapter(&model, &lora, 1);
    check(&model, &lora, &adapter, &pack(&random_rows(&[9, 21, 4, 13], 300, 1), 0.3));
}

#[test]
fn every_target_behind_its_dropout_mask() {
    let model = random_model(4);
    let lora = LoraConfig { dropout: 0.4, ..lora(Target::ALL) };
    let adapter = random_adapter(&model, &lora, 4);
    check(&model, &lora, &adapter, &pack(&random_rows(&[14, 11], 300, 4), 0.3));
}

#[test]
fn each_target_alone() {
    let model = random_model(2);
    for target in Target::ALL {
        let lora = LoraConfig { rslora: target == Target::Up, ..lora(BTreeSet::from([target])) };
        let adapter = random_adapter(&model, &lora, 2);
        check(&model, &lora, &adapter, &pack(&random_rows(&[12, 7], 300, 2), 1.0));
    }
}

#[test]
fn answers_only_so_that_most_rows_carry_no_loss() {
    let model = random_model(3);
    let lora = lora([Target::Q, Target::V]);
    let adapter = random_adapter(&model, &lora, 3);
    check(&model, &lora, &adapter, &pack(&random_rows(&[30, 18, 25], 300, 3), 0.0));
}

#[test]
fn every_golden_shape_of_model() {
    for name in [
        "mha_untied_odd",
        "attention_bias",
        "qwen2_bias",
        "rope_llama3_new",
        "head_dim",
        "all_linear",
        "rslora",
    ] {
        let case = Case::load(name);
        check(&case.model, &case.lora, &case.adapter, &case.batch(&[0, 2, 4], 0.3));
    }
}
