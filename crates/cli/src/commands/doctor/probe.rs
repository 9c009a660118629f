//! How fast this machine trains: one block of the model's own shape, with random weights, measured for about a second.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use consilium_core::{Batch, Engine, LoraConfig, Precision, SeededRng, TrainSettings};
use consilium_engine::{CpuEngine, LlamaConfig, Model, initial_adapter};
use serde_json::json;

use super::needs;

/// Vocabulary of the probe: enough that the head is a matrix product of ordinary size.
const VOCABULARY: usize = 4096;
/// Rows and tokens of the measured step.
const ROWS: usize = 4;
const TOKENS: usize = 64;
/// Measuring stops after this long.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Floating-point operations per second that one training step reaches.
///
/// # Errors
/// When the engine refuses the shape.
pub fn training_flops_per_second(shape: &LlamaConfig, precision: Precision, threads: usize) -> Result<f64> {
    let probe = LlamaConfig { layers: 1, vocab_size: VOCABULARY, tied: true, ..shape.clone() };
    let model = random_model(&probe, precision).context("cannot make the model for the measurement")?;
    let lora = LoraConfig::default();
    let mut engine = CpuEngine::new(Arc::new(model), &lora, threads)?;
    engine.set_adapter(&initial_adapter(&probe, &lora, 0))?;
    engine.begin(&TrainSettings::default());

    let mut batch = Batch::new();
    for row in 0..ROWS {
        let ids: Vec<u32> =
            (0..TOKENS).map(|place| ((row * 977 + place * 131) % VOCABULARY) as u32).collect();
        batch.push(&ids, &[1.0; TOKENS]);
    }
    let batches = [batch];
    // The first step allocates and starts threads.
    engine.step(&batches, 1e-4)?;
    let started = Instant::now();
    let mut best = f64::INFINITY;
    while started.elapsed() < PATIENCE {
        best = best.min(engine.step(&batches, 1e-4)?.seconds);
    }
    let norms = 3 * probe.hidden_size as u64;
    let flops = 4.0 * (needs::parameters(&probe) - norms) as f64 * (ROWS * TOKENS) as f64;
    Ok(flops / best)
}

/// A model of `shape` with small random weights, without biases.
fn random_model(shape: &LlamaConfig, precision: Precision) -> Result<Model> {
    let (c, f, q, kv) = (shape.hidden_size, shape.intermediate_size, shape.q_dim(), shape.kv_dim());
    let block = "model.layers.0.";
    let tensors: [(String, Vec<usize>); 11] = [
        ("model.embed_tokens.weight".into(), vec![shape.vocab_size, c]),
        (format!("{block}input_layernorm.weight"), vec![c]),
        (format!("{block}self_attn.q_proj.weight"), vec![q, c]),
        (format!("{block}self_attn.k_proj.weight"), vec![kv, c]),
        (format!("{block}self_attn.v_proj.weight"), vec![kv, c]),
        (format!("{block}self_attn.o_proj.weight"), vec![c, q]),
        (format!("{block}post_attention_layernorm.weight"), vec![c]),
        (format!("{block}mlp.gate_proj.weight"), vec![f, c]),
        (format!("{block}mlp.up_proj.weight"), vec![f, c]),
        (format!("{block}mlp.down_proj.weight"), vec![c, f]),
        ("model.norm.weight".into(), vec![c]),
    ];
    let config = json!({
        "model_type": "llama", "hidden_act": "silu", "tie_word_embeddings": true, "eos_token_id": 0,
        "vocab_size": shape.vocab_size, "hidden_size": c, "intermediate_size": f, "num_hidden_layers": 1,
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads, "head_dim": shape.head_dim,
        "max_position_embeddings": shape.max_positions.max(TOKENS), "rms_norm_eps": 1e-5, "rope_theta": 10_000.0,
    });
    Ok(Model::from_parts("probe", &config.to_string(), vec![safetensors(&tensors)], precision)?)
}

/// A safetensors file of f32 tensors with values of about 0.02: eight bytes of header length, header, values.
fn safetensors(tensors: &[(String, Vec<usize>)]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for (name, shape) in tensors {
        let start = end;
        end += shape.iter().product::<usize>() * 4;
        header.insert(name.clone(), json!({"dtype": "F32", "shape": shape, "data_offsets": [start, end]}));
    }
    let mut header = serde_json::Value::Object(header).to_string();
    // The format wants values aligned to eight bytes.
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    let mut bytes = Vec::with_capacity(8 + header.len() + end);
    bytes.extend_from_slice(&(header.len() as u64).to_le_bytes());
    bytes.extend_from_slice(header.as_bytes());
    let mut rng = SeededRng::derive(0, 0, "", "probe");
    bytes.extend((0..end / 4).flat_map(|_| ((rng.uniform() - 0.5) * 0.04).to_le_bytes()));
    bytes
}
