//! A Llama-family model in GGUF's terms: metadata keys, tensor names, and query and key rows in ggml's rotary order.

use std::borrow::Cow;

use consilium_core::Tensor;
use consilium_core::gguf::{Encoding, Gguf, GgufTensor, Value};
use consilium_engine::config::RopeScaling;
use consilium_engine::{LlamaConfig, Model};

use super::vocabulary;
use crate::error::ExperimentError;

/// How matrices are stored; vectors are always f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GgufType {
    /// 2 bytes a value.
    F16,
    /// A little over 1 byte a value; rows that are no multiple of 32 values long stay f16.
    Q8_0,
}

impl std::str::FromStr for GgufType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "f16" => Ok(Self::F16),
            "q8_0" => Ok(Self::Q8_0),
            _ => Err(format!("unknown GGUF type '{text}'; known are f16, q8_0")),
        }
    }
}

impl GgufType {
    /// `general.file_type`, llama.cpp's `LLAMA_FTYPE_MOSTLY_F16` and `LLAMA_FTYPE_MOSTLY_Q8_0`.
    fn file_type(self) -> u32 {
        match self {
            Self::F16 => 1,
            Self::Q8_0 => 7,
        }
    }

    fn encoding(self, shape: &[usize]) -> Encoding {
        match (self, shape) {
            (_, [_]) => Encoding::F32,
            (Self::Q8_0, [.., inner]) if inner.is_multiple_of(32) => Encoding::Q8_0,
            _ => Encoding::F16,
        }
    }
}

/// The file of `tensors`, which are those of `model` by their Hugging Face names.
pub(super) fn build(
    model: &Model,
    tensors: Vec<Tensor>,
    tokenizer_json: &[u8],
    kind: GgufType,
) -> Result<Gguf<'static>, ExperimentError> {
    let config = model.config();
    let mut metadata = metadata(&model.info().id, config, kind)?;
    metadata.extend(vocabulary::metadata(tokenizer_json, config)?);
    let mut renamed = Vec::with_capacity(tensors.len() + 1);
    if let RopeScaling::Llama3 { factor, low, high, original_context } = config.rope_scaling {
        let data = rope_factors(config, factor, low, high, original_context);
        renamed.push(GgufTensor {
            name: "rope_freqs.weight".into(),
            shape: vec![data.len()],
            encoding: Encoding::F32,
            data: Cow::Owned(data),
        });
    }
    for tensor in tensors {
        let name = gguf_name(&tensor.name)
            .ok_or_else(|| ExperimentError::Export(format!("tensor {} has no name in GGUF", tensor.name)))?;
        let data = match rotated_heads(&tensor.name, config) {
            Some(heads) => interleave(&tensor.data, heads, config.head_dim),
            None => tensor.data,
        };
        let encoding = kind.encoding(&tensor.shape);
        renamed.push(GgufTensor { name, shape: tensor.shape, encoding, data: Cow::Owned(data) });
    }
    Ok(Gguf { metadata, tensors: renamed })
}

fn metadata(id: &str, config: &LlamaConfig, kind: GgufType) -> Result<Vec<(String, Value)>, ExperimentError> {
    let size = |value: usize| Value::U32(value as u32);
    let mut pairs = vec![
        ("general.architecture", "llama".into()),
        ("general.name", id.into()),
        ("general.file_type", Value::U32(kind.file_type())),
        ("general.quantization_version", Value::U32(2)),
        ("llama.vocab_size", size(config.vocab_size)),
        ("llama.context_length", size(config.max_positions)),
        ("llama.embedding_length", size(config.hidden_size)),
        ("llama.block_count", size(config.layers)),
        ("llama.feed_forward_length", size(config.intermediate_size)),
        ("llama.attention.head_count", size(config.heads)),
        ("llama.attention.head_count_kv", size(config.kv_heads)),
        ("llama.attention.key_length", size(config.head_dim)),
        ("llama.attention.value_length", size(config.head_dim)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(config.rms_norm_eps)),
        ("llama.rope.dimension_count", size(config.head_dim)),
        ("llama.rope.freq_base", Value::F32(config.rope_theta as f32)),
    ];
    if let RopeScaling::Linear { factor } = config.rope_scaling {
        pairs.push(("llama.rope.scaling.type", "linear".into()));
        pairs.push(("llama.rope.scaling.factor", Value::F32(factor as f32)));
    }
    Ok(pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

/// `model.layers.3.self_attn.q_proj.weight` -> `blk.3.attn_q.weight`.
fn gguf_name(name: &str) -> Option<String> {
    let whole = match name {
        "model.embed_tokens.weight" => Some("token_embd.weight"),
        "model.norm.weight" => Some("output_norm.weight"),
        "lm_head.weight" => Some("output.weight"),
        _ => None,
    };
    if let Some(whole) = whole {
        return Some(whole.into());
    }
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (module, kind) = rest.rsplit_once('.')?;
    let short = match module {
        "input_layernorm" => "attn_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "post_attention_layernorm" => "ffn_norm",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        _ => return None,
    };
    Some(format!("blk.{layer}.{short}.{kind}"))
}

/// The heads of a tensor whose rows the rotary embedding turns; `None` for all others.
fn rotated_heads(name: &str, config: &LlamaConfig) -> Option<usize> {
    if name.contains(".q_proj.") {
        Some(config.heads)
    } else if name.contains(".k_proj.") {
        Some(config.kv_heads)
    } else {
        None
    }
}

/// Hugging Face turns row `i` of a head with row `i + d/2`; ggml's llama turns neighbours. Row `s d/2 + i` becomes row
/// `2 i + s`, for matrices as for biases.
fn interleave(data: &[f32], heads: usize, head_dim: usize) -> Vec<f32> {
    let row = data.len() / (heads * head_dim);
    let half = head_dim / 2;
    let mut out = Vec::with_capacity(data.len());
    for head in 0..heads {
        for i in 0..half {
            for s in 0..2 {
                let from = (head * head_dim + s * half + i) * row;
                out.extend_from_slice(&data[from..from + row]);
            }
        }
    }
    out
}

/// What each rotary frequency is divided by under Llama 3.1's rule.
fn rope_factors(config: &LlamaConfig, factor: f64, low: f64, high: f64, original: f64) -> Vec<f32> {
    let half = config.head_dim / 2;
    let of = |i: usize| {
        let frequency = config.rope_theta.powf(-(2.0 * i as f64) / config.head_dim as f64);
        let waves = original * frequency / (2.0 * std::f64::consts::PI);
        if waves > high {
            1.0
        } else if waves < low {
            factor
        } else {
            let kept = (waves - low) / (high - low);
            1.0 / ((1.0 - kept) / factor + kept)
        }
    };
    (0..half).map(|i| of(i) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_llama_cpp() {
        assert_eq!(gguf_name("model.layers.12.mlp.down_proj.weight").unwrap(), "blk.12.ffn_down.weight");
        assert_eq!(gguf_name("model.layers.0.self_attn.q_proj.bias").unwrap(), "blk.0.attn_q.bias");
        assert_eq!(gguf_name("model.layers.0.mlp.router.weight"), None);
    }

    #[test]
    fn rotary_rows_are_interleaved_inside_each_head() {
        // Two heads of size 4, rows of one value: 0 1 | 2 3 become 0 2 1 3.
        let data: Vec<f32> = (0..8).map(|i| i as f32).collect();
        assert_eq!(interleave(&data, 2, 4), [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
        let wide: Vec<f32> = (0..8).map(|i| i as f32).collect();
        assert_eq!(interleave(&wide, 1, 4), [0.0, 1.0, 4.0, 5.0, 2.0, 3.0, 6.0, 7.0]);
    }

    #[test]
    fn vectors_stay_f32_and_short_rows_f16() {
        assert_eq!(GgufType::Q8_0.encoding(&[64]), Encoding::F32);
        assert_eq!(GgufType::Q8_0.encoding(&[8, 64]), Encoding::Q8_0);
        assert_eq!(GgufType::Q8_0.encoding(&[64, 172]), Encoding::F16);
        assert_eq!(GgufType::F16.encoding(&[8, 64]), Encoding::F16);
    }
}
