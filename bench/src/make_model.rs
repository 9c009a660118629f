//! A model of random weights in the shape of a published one, written tensor by tensor: memory stays small.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use consilium_core::SeededRng;
use half::bf16;
use serde_json::{Map, Value, json};

use crate::args::{MakeModel, Shape};

/// Standard deviation of the weights, as Hugging Face's Llama starts.
const DEVIATION: f64 = 0.02;
/// What belongs to a tokenizer; only the first must be there.
const TOKENIZER_FILES: [&str; 3] = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"];

/// The sizes of SmolLM2, as published in the `config.json` of each.
struct Sizes {
    hidden: usize,
    intermediate: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    rope_theta: f64,
}

const HEAD_DIM: usize = 64;
const VOCAB: usize = 49_152;

fn sizes(shape: Shape) -> Sizes {
    let (hidden, intermediate, layers, heads, kv_heads, rope_theta) = match shape {
        Shape::M135 => (576, 1536, 30, 9, 3, 1e5),
        Shape::M360 => (960, 2560, 32, 15, 5, 1e5),
        Shape::B1p7 => (2048, 8192, 24, 32, 32, 1.3e5),
    };
    Sizes { hidden, intermediate, layers, heads, kv_heads, rope_theta }
}

/// Writes the directory; an existing model there is replaced.
pub fn run(args: &MakeModel) -> Result<Value> {
    let sizes = sizes(args.shape);
    let out = &args.out;
    fs::create_dir_all(out).with_context(|| format!("creating {}", out.display()))?;
    let mut end_of_text = json!(0);
    if let Some(from) = &args.tokenizer {
        copy_tokenizer(from, out)?;
        if let Some(id) = end_of(from) {
            end_of_text = id;
        }
    }
    let config = serde_json::to_vec_pretty(&config(&sizes, &end_of_text))?;
    fs::write(out.join("config.json"), config).with_context(|| format!("writing {}", out.display()))?;
    let path = out.join("model.safetensors");
    let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    let parameters = write(&tensors(&sizes), BufWriter::with_capacity(1 << 20, file))
        .with_context(|| format!("writing {}", path.display()))?;
    Ok(json!({ "case": "make-model", "parameters": parameters, "out": out }))
}

fn copy_tokenizer(from: &Path, to: &Path) -> Result<()> {
    for name in TOKENIZER_FILES {
        let source = from.join(name);
        if name == TOKENIZER_FILES[0] || source.is_file() {
            fs::copy(&source, to.join(name)).with_context(|| format!("copying {}", source.display()))?;
        }
    }
    Ok(())
}

/// The `eos_token_id` of the model that the tokenizer came with.
fn end_of(dir: &Path) -> Option<Value> {
    let text = fs::read_to_string(dir.join("config.json")).ok()?;
    let config: Value = serde_json::from_str(&text).ok()?;
    config.get("eos_token_id").filter(|id| !id.is_null()).cloned()
}

fn config(sizes: &Sizes, end_of_text: &Value) -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "torch_dtype": "bfloat16",
        "vocab_size": VOCAB,
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.intermediate,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "head_dim": HEAD_DIM,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": sizes.rope_theta,
        "rope_scaling": null,
        "hidden_act": "silu",
        "attention_bias": false,
        "mlp_bias": false,
        "tie_word_embeddings": true,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
    })
}

/// Every tensor with its shape, in the file's order; the head is the embedding.
fn tensors(sizes: &Sizes) -> Vec<(String, Vec<usize>)> {
    let (c, f) = (sizes.hidden, sizes.intermediate);
    let (q, kv) = (sizes.heads * HEAD_DIM, sizes.kv_heads * HEAD_DIM);
    let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![VOCAB, c])];
    for layer in 0..sizes.layers {
        let block: [(&str, Vec<usize>); 9] = [
            ("input_layernorm", vec![c]),
            ("self_attn.q_proj", vec![q, c]),
            ("self_attn.k_proj", vec![kv, c]),
            ("self_attn.v_proj", vec![kv, c]),
            ("self_attn.o_proj", vec![c, q]),
            ("post_attention_layernorm", vec![c]),
            ("mlp.gate_proj", vec![f, c]),
            ("mlp.up_proj", vec![f, c]),
            ("mlp.down_proj", vec![c, f]),
        ];
        tensors.extend(
            block.into_iter().map(|(name, shape)| (format!("model.layers.{layer}.{name}.weight"), shape)),
        );
    }
    tensors.push(("model.norm.weight".to_owned(), vec![c]));
    tensors
}

/// Writes a safetensors file of bf16: the header's length, the header, the values. Norms are 1, matrices N(0, 0.02).
/// Returns the number of values.
fn write(tensors: &[(String, Vec<usize>)], mut out: impl Write) -> Result<usize> {
    let mut header = Map::new();
    header.insert("__metadata__".into(), json!({ "format": "pt" }));
    let mut values = 0;
    for (name, shape) in tensors {
        let start = values * size_of::<bf16>();
        values += shape.iter().product::<usize>();
        let offsets = [start, values * size_of::<bf16>()];
        header.insert(name.clone(), json!({ "dtype": "BF16", "shape": shape, "data_offsets": offsets }));
    }
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    for (name, shape) in tensors {
        let mut rng = SeededRng::derive(0, 0, name, "random weights");
        for _ in 0..shape.iter().product() {
            let value = if shape.len() == 1 { 1.0 } else { rng.normal() * DEVIATION };
            out.write_all(&bf16::from_f64(value).to_le_bytes())?;
        }
    }
    out.flush()?;
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subject::matrix_parameters;
    use consilium_engine::LlamaConfig;

    #[test]
    fn shapes_have_their_published_parameters_and_configs() {
        for (shape, parameters) in
            [(Shape::M135, 134_515_008), (Shape::M360, 361_821_120), (Shape::B1p7, 1_711_376_384)]
        {
            let sizes = sizes(shape);
            let all: usize = tensors(&sizes).iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
            assert_eq!(all, parameters);
            let config = LlamaConfig::parse(&config(&sizes, &json!(0)).to_string()).unwrap();
            assert_eq!(config.hidden_size, sizes.hidden);
            let norms = (2 * sizes.layers + 1) * sizes.hidden;
            assert_eq!(matrix_parameters(&config) as usize, all - norms, "the tied head counts once");
        }
    }

    #[test]
    fn a_written_model_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let sizes = Sizes { hidden: 64, intermediate: 32, layers: 1, heads: 1, kv_heads: 1, rope_theta: 1e4 };
        let config = config(&sizes, &json!(3));
        fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        let file = File::create(dir.path().join("model.safetensors")).unwrap();
        let values = write(&tensors(&sizes), BufWriter::new(file)).unwrap();
        let model = consilium_engine::Model::load(dir.path()).unwrap();
        assert_eq!(model.info().parameters, values);
        assert_eq!(model.config().eos_ids, [3]);
        assert_eq!(end_of(dir.path()), Some(json!(3)));
    }
}
