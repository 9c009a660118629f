//! What the engine's black-box tests share: golden cases, random models, gradients through the public face.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use consilium_core::engine::Precision;
use consilium_core::engine::{Engine, TrainSettings};
use consilium_core::{Adapter, Batch, LoraConfig, SeededRng, Target, Tensor, peft};
use consilium_engine::{CpuEngine, Model, initial_adapter};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::Deserialize;
use serde_json::json;

/// One tokenised row; the loss weight is 1 from token `loss_from` on.
#[derive(Clone, Debug, Deserialize)]
pub struct Row {
    pub ids: Vec<u32>,
    pub loss_from: usize,
}

#[derive(Debug, Deserialize)]
pub struct ExpectedLoss {
    pub prompt_loss_weight: f32,
    pub loss: f64,
}

#[derive(Debug, Deserialize)]
pub struct ExpectedStep {
    pub micro_batches: Vec<Vec<usize>>,
    pub loss: f64,
    pub grad_norm: f64,
    pub lr: f64,
}

#[derive(Debug, Deserialize)]
pub struct ExpectedGeneration {
    pub prompt: Vec<u32>,
    pub penalty: f32,
    pub ids: Vec<u32>,
}

/// `expected.json` of a golden case.
#[derive(Debug, Deserialize)]
pub struct Expected {
    pub rows: Vec<Row>,
    pub logits_row: usize,
    pub losses: Vec<ExpectedLoss>,
    pub max_grad_norm: f64,
    pub steps: Vec<ExpectedStep>,
    pub generations: Vec<ExpectedGeneration>,
}

/// The folder `golden/` of the repository.
pub fn golden_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden")
}

/// A golden case: a base, an adapter that PEFT saved, and what PyTorch computes for both.
pub struct Case {
    pub model: Arc<Model>,
    pub lora: LoraConfig,
    pub adapter: Adapter,
    pub expected: Expected,
    tensors: BTreeMap<String, Tensor>,
}

impl Case {
    pub fn load(name: &str) -> Self {
        let dir = golden_dir().join("engine").join(name);
        let read = |file: &str| {
            std::fs::read(dir.join(file)).unwrap_or_else(|e| panic!("{}: {e}", dir.join(file).display()))
        };
        let text = |file: &str| String::from_utf8(read(file)).unwrap();
        let (lora, base) = peft::decode_config(&text("adapter/adapter_config.json")).unwrap();
        assert_eq!(base.as_deref(), Some(name));
        Self {
            model: Arc::new(Model::load(&dir).unwrap()),
            lora,
            adapter: peft::decode_weights(&read("adapter/adapter_model.safetensors")).unwrap(),
            expected: serde_json::from_str(&text("expected.json")).unwrap(),
            tensors: read_tensors(&read("expected.safetensors")),
        }
    }

    /// An engine with the case's adapter in it.
    pub fn engine(&self) -> CpuEngine {
        engine_with(&self.model, &self.lora, &self.adapter, 1)
    }

    /// A tensor of `expected.safetensors`.
    pub fn tensor(&self, name: &str) -> &Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("expected.safetensors has no {name}"))
    }

    /// The adapter-like set of tensors stored as `{prefix}.{PEFT name}`.
    pub fn adapter_like(&self, prefix: &str) -> Adapter {
        let tensor = |t: &Tensor| {
            let stored = self.tensor(&format!("{prefix}.base_model.model.model.{}.weight", t.name));
            Tensor { name: t.name.clone(), ..stored.clone() }
        };
        let expected = Adapter::new(self.adapter.tensors().iter().map(tensor).collect()).unwrap();
        expected.conform(&self.adapter.schema()).unwrap()
    }

    /// The rows with these indices, packed.
    pub fn batch(&self, rows: &[usize], prompt_weight: f32) -> Batch {
        pack(rows.iter().map(|&i| &self.expected.rows[i]), prompt_weight)
    }

    /// All rows, packed.
    pub fn whole(&self, prompt_weight: f32) -> Batch {
        pack(&self.expected.rows, prompt_weight)
    }
}

/// An engine of `model` with `adapter` in it.
pub fn engine_with(model: &Arc<Model>, lora: &LoraConfig, adapter: &Adapter, threads: usize) -> CpuEngine {
    let mut engine = CpuEngine::new(Arc::clone(model), lora, threads).unwrap();
    engine.set_adapter(adapter).unwrap();
    engine
}

/// Rows laid end to end; tokens of the prompt weigh `prompt_weight`.
pub fn pack<'a>(rows: impl IntoIterator<Item = &'a Row>, prompt_weight: f32) -> Batch {
    let mut batch = Batch::new();
    for row in rows {
        let weight = |i| if i >= row.loss_from { 1.0 } else { prompt_weight };
        batch.push(&row.ids, &(0..row.ids.len()).map(weight).collect::<Vec<f32>>());
    }
    batch
}

/// The gradient of the accumulated loss with respect to the adapter, which stays as it is: with beta1 = 0 the first
/// moment after one step is the gradient itself, and at rate 0 nothing moves.
pub fn gradient(engine: &mut dyn Engine, micro_batches: &[Batch], dropout_seed: u64) -> Adapter {
    engine.begin(&gradient_settings(dropout_seed));
    engine.step(micro_batches, 0.0).unwrap();
    first_moments(engine)
}

/// Settings under which first moments are gradients.
pub fn gradient_settings(dropout_seed: u64) -> TrainSettings {
    TrainSettings { beta1: 0.0, max_grad_norm: 0.0, dropout_seed, ..TrainSettings::default() }
}

/// The first moments as an adapter.
pub fn first_moments(engine: &dyn Engine) -> Adapter {
    Adapter::new(engine.optimiser_state().first_moments).unwrap()
}

/// `|found - expected| / |expected|` in the L2 norm; 0 when both are zero.
pub fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut found.iter().zip(expected).map(|(&a, &b)| f64::from(a) - f64::from(b)));
    let scale = norm(&mut expected.iter().map(|&v| f64::from(v)));
    if difference == 0.0 { 0.0 } else { difference / scale }
}

/// Checks every tensor of an adapter by its relative error.
pub fn assert_close(found: &Adapter, expected: &Adapter, tolerance: f64, what: &str) {
    assert_eq!(found.schema(), expected.schema());
    for (a, b) in found.tensors().iter().zip(expected.tensors()) {
        let error = relative_error(&a.data, &b.data);
        assert!(
            error <= tolerance,
            "{what}: {} is off by {error:.1e} relative, allowed {tolerance:.0e}",
            a.name
        );
    }
}

/// The same adapter with every B filled with normal values of this size, so that gradients reach every factor.
pub fn fill_b(adapter: &Adapter, size: f32, seed: u64) -> Adapter {
    let mut rng = SeededRng::derive(seed, 0, "", "fill b");
    let mut tensors = adapter.tensors().to_vec();
    for tensor in tensors.iter_mut().filter(|t| t.name.ends_with("lora_B")) {
        tensor.data.iter_mut().for_each(|v| *v = size * rng.normal() as f32);
    }
    Adapter::new(tensors).unwrap()
}

/// A random model of 3 blocks, large enough that its work is split, with vocabulary 300, hidden size 48 and context 128.
pub fn random_model(seed: u64) -> Arc<Model> {
    random_model_as(seed, Precision::F32)
}

/// The same with its matrices in `precision`.
pub fn random_model_as(seed: u64, precision: Precision) -> Arc<Model> {
    let (v, c, f, h, g, d, layers) = (300, 48, 96, 6, 2, 8, 3);
    let config = json!({
        "model_type": "llama", "vocab_size": v, "hidden_size": c, "intermediate_size": f, "num_hidden_layers": layers,
        "num_attention_heads": h, "num_key_value_heads": g, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
        "hidden_act": "silu", "rope_theta": 10000.0, "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": 2,
    });
    let mut shapes = vec![("model.embed_tokens".to_owned(), vec![v, c]), ("model.norm".to_owned(), vec![c])];
    for layer in 0..layers {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        shapes.extend([
            (name("input_layernorm"), vec![c]),
            (name("self_attn.q_proj"), vec![h * d, c]),
            (name("self_attn.k_proj"), vec![g * d, c]),
            (name("self_attn.v_proj"), vec![g * d, c]),
            (name("self_attn.o_proj"), vec![c, h * d]),
            (name("post_attention_layernorm"), vec![c]),
            (name("mlp.gate_proj"), vec![f, c]),
            (name("mlp.up_proj"), vec![f, c]),
            (name("mlp.down_proj"), vec![c, f]),
        ]);
    }
    let mut rng = SeededRng::derive(seed, 0, "", "random model");
    let mut values = |shape: &[usize]| -> Vec<u8> {
        let (centre, size) = match shape {
            [_] => (1.0, 0.2),
            [rows, _] if *rows == v => (0.0, 0.4),
            [_, columns] => (0.0, 1.2 / (*columns as f64).sqrt()),
            _ => unreachable!("vectors and matrices only"),
        };
        let count = shape.iter().product();
        (0..count).flat_map(|_| ((centre + size * rng.normal()) as f32).to_le_bytes()).collect()
    };
    let bytes: Vec<Vec<u8>> = shapes.iter().map(|(_, shape)| values(shape)).collect();
    let views = shapes.iter().zip(&bytes).map(|((name, shape), data)| {
        (format!("{name}.weight"), TensorView::new(Dtype::F32, shape.clone(), data).unwrap())
    });
    let file = safetensors::serialize(views, None).unwrap();
    Arc::new(Model::from_parts("random", &config.to_string(), vec![file], precision).unwrap())
}

/// Random rows of these lengths for a vocabulary of `vocab`; the prompt is the first third.
pub fn random_rows(lengths: &[usize], vocab: usize, seed: u64) -> Vec<Row> {
    let mut rng = SeededRng::derive(seed, 0, "", "random rows");
    let mut row = |n: usize| (0..n).map(|_| rng.below(vocab) as u32).collect();
    lengths.iter().map(|&n| Row { ids: row(n), loss_from: n / 3 }).collect()
}

/// LoRA of rank 4 on `targets`, without dropout.
pub fn lora(targets: impl Into<std::collections::BTreeSet<Target>>) -> LoraConfig {
    LoraConfig { rank: 4, alpha: 8.0, dropout: 0.0, targets: targets.into(), rslora: false }
}

/// A fresh adapter with B filled, for `model`.
pub fn random_adapter(model: &Model, lora: &LoraConfig, seed: u64) -> Adapter {
    fill_b(&initial_adapter(model.config(), lora, seed), 0.2, seed)
}

fn read_tensors(bytes: &[u8]) -> BTreeMap<String, Tensor> {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let read = |(name, view): (&str, TensorView<'_>)| {
        let data = peft::to_f32(view.dtype(), view.data()).unwrap();
        (name.to_owned(), Tensor { name: name.to_owned(), shape: view.shape().to_vec(), data })
    };
    file.iter().map(read).collect()
}
