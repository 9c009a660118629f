//! `config.json` of a Llama-family model, in the old and the new layout of Hugging Face `transformers`.

use serde::Deserialize;
use serde_json::Value;

use crate::model::ModelError;

/// How rotary frequencies are stretched for long contexts.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All frequencies divided by a factor.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3.1's rule: long waves divided, short ones kept, a smooth passage between.
    Llama3 {
        /// Divisor of the long waves.
        factor: f64,
        /// Waves longer than `original_context / low` are divided.
        low: f64,
        /// Waves shorter than `original_context / high` are kept.
        high: f64,
        /// Context that the model was first trained with.
        original_context: f64,
    },
}

/// The sizes and constants of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct LlamaConfig {
    /// v: size of the vocabulary.
    pub vocab_size: usize,
    /// c: hidden size.
    pub hidden_size: usize,
    /// f: intermediate size of the MLP.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub layers: usize,
    /// h: query heads.
    pub heads: usize,
    /// g: key-value heads.
    pub kv_heads: usize,
    /// d: size of a head.
    pub head_dim: usize,
    /// Longest sequence, tokens.
    pub max_positions: usize,
    /// Epsilon of RMSNorm.
    pub rms_norm_eps: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Stretching of the rotary frequencies.
    pub rope_scaling: RopeScaling,
    /// Whether the head is the embedding, transposed.
    pub tied: bool,
    /// Whether q, k and v have biases.
    pub qkv_bias: bool,
    /// Whether the attention's output projection has a bias.
    pub o_bias: bool,
    /// Ids that end a text, at least one where the file names any; the first is the one to append.
    pub eos_ids: Vec<u32>,
    /// Id that begins a text, where the file names one.
    pub bos_id: Option<u32>,
}

#[derive(Deserialize)]
struct Raw {
    model_type: String,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    max_position_embeddings: usize,
    rms_norm_eps: f64,
    hidden_act: String,
    rope_theta: Option<f64>,
    rope_scaling: Option<Value>,
    rope_parameters: Option<Value>,
    #[serde(default)]
    tie_word_embeddings: Option<bool>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    use_sliding_window: Option<bool>,
    #[serde(default)]
    sliding_window: Option<usize>,
    #[serde(default)]
    eos_token_id: Value,
    #[serde(default)]
    bos_token_id: Option<u32>,
}

impl LlamaConfig {
    /// Reads `config.json`.
    ///
    /// # Errors
    /// Names the field that is missing, or the feature that this engine does not compute.
    pub fn parse(text: &str) -> Result<Self, ModelError> {
        let raw: Raw = serde_json::from_str(text).map_err(|e| ModelError::Config(e.to_string()))?;
        let refuse = |what: String| Err(ModelError::Config(what));
        if !["llama", "mistral", "qwen2"].contains(&raw.model_type.as_str()) {
            return refuse(format!(
                "model_type '{}' is not of the Llama family (llama, mistral, qwen2)",
                raw.model_type
            ));
        }
        if raw.hidden_act != "silu" {
            return refuse(format!("hidden_act '{}' is not supported, only silu", raw.hidden_act));
        }
        if raw.mlp_bias {
            return refuse("mlp_bias = true is not supported".into());
        }
        let windowed = raw.use_sliding_window.unwrap_or(raw.sliding_window.is_some());
        if windowed && raw.sliding_window.is_some_and(|w| w < raw.max_position_embeddings) {
            return refuse("sliding-window attention is not supported".into());
        }
        let heads = raw.num_attention_heads;
        let kv_heads = raw.num_key_value_heads.unwrap_or(heads);
        if heads == 0 || kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            return refuse(format!("{heads} attention heads cannot share {kv_heads} key-value heads evenly"));
        }
        let head_dim = match raw.head_dim {
            Some(d) => d,
            None if raw.hidden_size.is_multiple_of(heads) => raw.hidden_size / heads,
            None => {
                return refuse(format!("hidden_size {} is no multiple of {heads} heads", raw.hidden_size));
            }
        };
        if head_dim == 0 || head_dim % 2 != 0 {
            return refuse(format!("head size {head_dim} is not a positive even number"));
        }
        for (name, value) in [
            ("vocab_size", raw.vocab_size),
            ("hidden_size", raw.hidden_size),
            ("intermediate_size", raw.intermediate_size),
            ("num_hidden_layers", raw.num_hidden_layers),
            ("max_position_embeddings", raw.max_position_embeddings),
        ] {
            if value == 0 {
                return refuse(format!("{name} is 0"));
            }
        }
        let (rope_theta, rope_scaling) = rope(&raw)?;
        let qwen = raw.model_type == "qwen2";
        Ok(Self {
            vocab_size: raw.vocab_size,
            hidden_size: raw.hidden_size,
            intermediate_size: raw.intermediate_size,
            layers: raw.num_hidden_layers,
            heads,
            kv_heads,
            head_dim,
            max_positions: raw.max_position_embeddings,
            rms_norm_eps: raw.rms_norm_eps as f32,
            rope_theta,
            rope_scaling,
            // Transformers' default where the file is silent.
            tied: raw.tie_word_embeddings.unwrap_or(false),
            qkv_bias: raw.attention_bias || qwen,
            o_bias: raw.attention_bias && !qwen,
            eos_ids: ids(&raw.eos_token_id)?,
            bos_id: raw.bos_token_id,
        })
    }

    /// h d, the width of the queries.
    pub fn q_dim(&self) -> usize {
        self.heads * self.head_dim
    }

    /// g d, the width of the keys and of the values.
    pub fn kv_dim(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// w, the width of queries, keys and values side by side.
    pub fn qkv_dim(&self) -> usize {
        self.q_dim() + 2 * self.kv_dim()
    }

    /// The `d / 2` rotary frequencies, radians per position, computed in f32 as `transformers` does.
    pub fn rope_frequencies(&self) -> Vec<f32> {
        (0..self.head_dim / 2)
            .map(|i| {
                let exponent = (2 * i) as f32 / self.head_dim as f32;
                let plain = 1.0 / (self.rope_theta as f32).powf(exponent);
                scale_frequency(plain, &self.rope_scaling)
            })
            .collect()
    }
}

/// Llama 3.1's rule (`_compute_llama3_parameters` in `transformers`) or a plain division.
fn scale_frequency(plain: f32, scaling: &RopeScaling) -> f32 {
    match *scaling {
        RopeScaling::None => plain,
        RopeScaling::Linear { factor } => plain / factor as f32,
        RopeScaling::Llama3 { factor, low, high, original_context } => {
            let wave = 2.0 * std::f64::consts::PI / f64::from(plain);
            if wave > original_context / low {
                plain / factor as f32
            } else if wave < original_context / high {
                plain
            } else {
                let smooth = ((original_context / wave - low) / (high - low)) as f32;
                (1.0 - smooth) * plain / factor as f32 + smooth * plain
            }
        }
    }
}

fn rope(raw: &Raw) -> Result<(f64, RopeScaling), ModelError> {
    let scaling = raw.rope_parameters.as_ref().or(raw.rope_scaling.as_ref()).filter(|v| !v.is_null());
    let number = |key: &str| scaling.and_then(|v| v.get(key)).and_then(Value::as_f64);
    let theta = number("rope_theta").or(raw.rope_theta).ok_or_else(|| {
        ModelError::Config("no rope_theta, neither at the top nor in rope_parameters".into())
    })?;
    let Some(section) = scaling else { return Ok((theta, RopeScaling::None)) };
    let kind =
        section.get("rope_type").or_else(|| section.get("type")).and_then(Value::as_str).unwrap_or("default");
    let need = |key: &str| {
        number(key).ok_or_else(|| ModelError::Config(format!("rope scaling '{kind}' has no number '{key}'")))
    };
    let scaling = match kind {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: need("factor")? },
        "llama3" => RopeScaling::Llama3 {
            factor: need("factor")?,
            low: need("low_freq_factor")?,
            high: need("high_freq_factor")?,
            original_context: need("original_max_position_embeddings")?,
        },
        other => {
            return Err(ModelError::Config(format!(
                "rope scaling '{other}' is not supported (default, linear, llama3)"
            )));
        }
    };
    Ok((theta, scaling))
}

/// One id, a list of ids, or nothing.
fn ids(value: &Value) -> Result<Vec<u32>, ModelError> {
    let one = |v: &Value| {
        v.as_u64()
            .and_then(|id| u32::try_from(id).ok())
            .ok_or_else(|| ModelError::Config(format!("eos_token_id holds {v}, not a token id")))
    };
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(list) => list.iter().map(one).collect(),
        single => Ok(vec![one(single)?]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(extra: &str) -> Result<LlamaConfig, ModelError> {
        let text = format!(
            r#"{{"model_type": "llama", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "hidden_act": "silu", {extra}
            "eos_token_id": [3, 5]}}"#
        );
        LlamaConfig::parse(&text)
    }

    const LLAMA3: &str = r#""factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64"#;

    #[test]
    fn both_layouts_give_the_same_rope() {
        let old =
            with(&format!(r#""rope_theta": 5e5, "rope_scaling": {{"rope_type": "llama3", {LLAMA3}}},"#))
                .unwrap();
        let new =
            with(&format!(r#""rope_parameters": {{"rope_theta": 5e5, "rope_type": "llama3", {LLAMA3}}},"#))
                .unwrap();
        assert_eq!(old, new);
        assert_eq!(old.eos_ids, [3, 5]);
        assert_eq!((old.head_dim, old.qkv_dim()), (8, 64));
        let frequencies = old.rope_frequencies();
        assert_eq!(frequencies[0], 1.0, "the shortest wave is kept");
        let plain = 1.0 / 5e5f32.powf(0.75);
        assert_eq!(frequencies[3], plain / 8.0, "the longest wave is divided");
    }

    #[test]
    fn what_is_not_computed_here_is_refused_by_name() {
        let reason = |extra: &str| with(extra).unwrap_err().to_string();
        assert!(reason("").contains("rope_theta"));
        assert!(reason(r#""rope_theta": 1e4, "mlp_bias": true,"#).contains("mlp_bias"));
        assert!(
            reason(r#""rope_theta": 1e4, "rope_scaling": {"type": "yarn", "factor": 2},"#).contains("yarn")
        );
        assert!(
            reason(r#""rope_theta": 1e4, "rope_scaling": {"type": "llama3", "factor": 2},"#)
                .contains("low_freq_factor")
        );
        assert!(reason(r#""rope_theta": 1e4, "head_dim": 7,"#).contains("head size 7"));
    }
}
