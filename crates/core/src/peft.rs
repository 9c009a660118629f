//! An adapter as the two files that Hugging Face PEFT reads: `adapter_model.safetensors` and `adapter_config.json`.

use std::collections::BTreeMap;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::adapter::{Adapter, AdapterError, Tensor};
use crate::lora::{LoraConfig, Target};

/// PEFT's prefix for a causal language model's tensors; the short names of [`Adapter`] follow it.
const PREFIX: &str = "base_model.model.model.";
/// PEFT's name of the weights file.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";
/// PEFT's name of the configuration file.
pub const CONFIG_FILE: &str = "adapter_config.json";

fn bad_config(reason: impl Into<String>) -> AdapterError {
    AdapterError::Format { format: CONFIG_FILE, reason: reason.into() }
}

fn bad_weights(reason: impl Into<String>) -> AdapterError {
    AdapterError::Format { format: WEIGHTS_FILE, reason: reason.into() }
}

/// The short name of an adapter tensor: `layers.3.self_attn.q_proj.lora_A`.
pub fn tensor_name(layer: usize, target: Target, factor: char) -> String {
    format!("layers.{layer}.{}.lora_{factor}", target.path())
}

/// The safetensors file of `adapter`, f32, names as PEFT writes them. The same adapter gives the same bytes.
pub fn encode_weights(adapter: &Adapter) -> Vec<u8> {
    let bytes: Vec<(String, Vec<u8>)> = adapter
        .tensors()
        .iter()
        .map(|t| {
            (format!("{PREFIX}{}.weight", t.name), t.data.iter().flat_map(|v| v.to_le_bytes()).collect())
        })
        .collect();
    let views = bytes.iter().zip(adapter.tensors()).map(|((name, data), tensor)| {
        let view = TensorView::new(Dtype::F32, tensor.shape.clone(), data);
        (name.as_str(), view.expect("an Adapter's shapes fit its values"))
    });
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    safetensors::serialize(views, Some(metadata)).expect("views of f32 tensors always serialise")
}

/// The configuration file of `lora`, for a base called `base_model`.
pub fn encode_config(lora: &LoraConfig, base_model: &str) -> String {
    let modules: Vec<&str> = lora.targets.iter().map(|t| t.module()).collect();
    let alpha = if lora.alpha.fract() == 0.0 { json!(lora.alpha as i64) } else { json!(lora.alpha) };
    let dropout: f64 = lora.dropout.to_string().parse().expect("a float prints as a float");
    let config = json!({
        "alpha_pattern": {},
        "base_model_name_or_path": base_model,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": lora.rank,
        "rank_pattern": {},
        "target_modules": modules,
        "task_type": "CAUSAL_LM",
        "use_dora": false,
        "use_rslora": lora.rslora,
    });
    serde_json::to_string_pretty(&config).expect("plain JSON") + "\n"
}

#[derive(Deserialize)]
struct RawConfig {
    peft_type: String,
    #[serde(default)]
    base_model_name_or_path: Option<String>,
    r: usize,
    lora_alpha: f32,
    #[serde(default)]
    lora_dropout: f32,
    target_modules: Value,
    #[serde(default)]
    use_rslora: bool,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

/// Fields that change the computation and that this project does not compute, with the values that switch them off.
const UNSUPPORTED: [(&str, &[&str]); 14] = [
    ("use_dora", &["false"]),
    ("rank_pattern", &["{}"]),
    ("alpha_pattern", &["{}"]),
    ("lora_bias", &["false"]),
    ("modules_to_save", &["[]"]),
    ("bias", &["\"none\""]),
    ("fan_in_fan_out", &["false"]),
    ("layers_to_transform", &["[]"]),
    ("exclude_modules", &["[]"]),
    ("target_parameters", &["[]"]),
    ("trainable_token_indices", &["[]", "{}"]),
    ("layer_replication", &["[]"]),
    ("use_qalora", &["false"]),
    ("corda_config", &["{}"]),
];

/// Reads `adapter_config.json`: the LoRA configuration and the base model's name, if it says one.
///
/// # Errors
/// Names each feature that is switched on and not supported here (DoRA, rank patterns, biases and so on).
pub fn decode_config(text: &str) -> Result<(LoraConfig, Option<String>), AdapterError> {
    let raw: RawConfig = serde_json::from_str(text).map_err(|e| bad_config(e.to_string()))?;
    if raw.peft_type != "LORA" {
        return Err(bad_config(format!("peft_type {} is not supported, only LORA", raw.peft_type)));
    }
    for (field, off) in UNSUPPORTED {
        if let Some(value) = raw.rest.get(field)
            && !value.is_null()
            && !off.contains(&value.to_string().as_str())
        {
            return Err(bad_config(format!("{field} = {value} is not supported")));
        }
    }
    let targets = match &raw.target_modules {
        Value::Array(modules) => modules
            .iter()
            .map(|m| {
                // PEFT lists module names, or (for `all-linear`) the full path in every layer. Whether every layer
                // is covered shows when the tensors are checked against the model.
                let path = m.as_str().ok_or("target_modules holds something that is not text")?;
                path.rsplit('.').next().unwrap_or(path).parse()
            })
            .collect::<Result<_, String>>()
            .map_err(bad_config)?,
        Value::String(text) if text == "all-linear" => Target::ALL.into(),
        other => {
            return Err(bad_config(format!("target_modules = {other}; a list of module names is supported")));
        }
    };
    let config = LoraConfig {
        rank: raw.r,
        alpha: raw.lora_alpha,
        dropout: raw.lora_dropout,
        targets,
        rslora: raw.use_rslora,
    };
    config.validate().map_err(bad_config)?;
    Ok((config, raw.base_model_name_or_path))
}

/// Reads `adapter_model.safetensors` (f32, f16 or bf16) into an adapter ordered by layer, target and factor.
///
/// # Errors
/// A broken file, a tensor that is not a LoRA factor of a Llama block, another dtype, or a value that is not finite.
pub fn decode_weights(bytes: &[u8]) -> Result<Adapter, AdapterError> {
    let file = SafeTensors::deserialize(bytes).map_err(|e| bad_weights(e.to_string()))?;
    let mut ordered = BTreeMap::new();
    for (full_name, view) in file.iter() {
        let (name, key) = parse_name(full_name).ok_or_else(|| {
            bad_weights(format!("tensor {full_name} is not a LoRA factor of a Llama block, such as {PREFIX}layers.0.self_attn.q_proj.lora_A.weight"))
        })?;
        let data = to_f32(view.dtype(), view.data()).ok_or_else(|| {
            bad_weights(format!(
                "tensor {full_name}: dtype {:?} is not supported, only F32, F16 and BF16",
                view.dtype()
            ))
        })?;
        if ordered.insert(key, Tensor { name: name.clone(), shape: view.shape().to_vec(), data }).is_some() {
            return Err(AdapterError::Duplicate { name });
        }
    }
    Adapter::new(ordered.into_values().collect())
}

/// `base_model.model.model.layers.N.<path>.lora_X.weight` -> short name and sort key.
fn parse_name(full: &str) -> Option<(String, (usize, Target, char))> {
    let short = full.strip_prefix(PREFIX)?.strip_suffix(".weight")?;
    let (layer, rest) = short.strip_prefix("layers.")?.split_once('.')?;
    let layer: usize = layer.parse().ok()?;
    let (path, factor) = rest.split_once(".lora_")?;
    let target = Target::ALL.into_iter().find(|t| t.path() == path)?;
    let factor = match factor {
        "A" => 'A',
        "B" => 'B',
        _ => return None,
    };
    Some((tensor_name(layer, target, factor), (layer, target, factor)))
}

/// Little-endian bytes of a floating-point dtype as f32; `None` for other dtypes.
pub fn to_f32(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    let pairs = || bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    match dtype {
        Dtype::F32 => {
            Some(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
        }
        Dtype::BF16 => Some(pairs().map(|b| f32::from_bits(u32::from(b) << 16)).collect()),
        Dtype::F16 => Some(pairs().map(|b| half::f16::from_bits(b).to_f32()).collect()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::tests::tensor;

    fn sample() -> Adapter {
        let mut tensors = Vec::new();
        for layer in [0, 2, 10] {
            for target in [Target::Q, Target::V] {
                tensors.push(tensor(&tensor_name(layer, target, 'A'), &[2, 3], &[layer as f32; 6]));
                tensors.push(tensor(&tensor_name(layer, target, 'B'), &[4, 2], &[0.25; 8]));
            }
        }
        Adapter::new(tensors).unwrap()
    }

    #[test]
    fn weights_round_trip_in_layer_order_not_text_order() {
        let adapter = sample();
        assert_eq!(decode_weights(&encode_weights(&adapter)).unwrap(), adapter);
    }

    #[test]
    fn names_are_those_that_peft_writes() {
        let bytes = encode_weights(&sample());
        let file = SafeTensors::deserialize(&bytes).unwrap();
        assert!(file.tensor("base_model.model.model.layers.10.self_attn.q_proj.lora_A.weight").is_ok());
    }

    #[test]
    fn config_round_trips() {
        let lora = LoraConfig { alpha: 12.5, dropout: 0.1, rslora: true, ..LoraConfig::default() };
        let text = encode_config(&lora, "some/model");
        assert_eq!(decode_config(&text).unwrap(), (lora, Some("some/model".into())));
        assert!(text.contains("\"lora_dropout\": 0.1,"), "{text}");
    }

    #[test]
    fn what_is_not_computed_here_is_refused_by_name() {
        let text = encode_config(&LoraConfig::default(), "m");
        for (field, on) in [
            ("use_dora", "true"),
            ("rank_pattern", "{\"q_proj\": 4}"),
            ("modules_to_save", "[\"lm_head\"]"),
            ("bias", "\"all\""),
            ("lora_bias", "true"),
        ] {
            let mut value: Value = serde_json::from_str(&text).unwrap();
            value[field] = serde_json::from_str(on).unwrap();
            let error = decode_config(&value.to_string()).unwrap_err().to_string();
            assert!(error.contains(field), "{field}: {error}");
        }
        let other = text.replace("\"LORA\"", "\"IA3\"");
        assert!(decode_config(&other).unwrap_err().to_string().contains("IA3"));
    }

    #[test]
    fn foreign_tensors_and_dtypes_are_refused_by_name() {
        let bytes = encode_weights(&sample());
        let mut foreign = bytes.clone();
        let place = foreign.windows(6).position(|w| w == b"q_proj").unwrap();
        foreign[place..place + 6].copy_from_slice(b"x_proj");
        assert!(decode_weights(&foreign).unwrap_err().to_string().contains("x_proj"));
        assert!(decode_weights(&bytes[..40]).is_err());
    }

    #[test]
    fn half_precision_is_read_exactly() {
        assert_eq!(to_f32(Dtype::BF16, &[0x80, 0x3f, 0x00, 0xc0]), Some(vec![1.0, -2.0]));
        assert_eq!(to_f32(Dtype::F16, &[0x00, 0x3c, 0x00, 0xc0]), Some(vec![1.0, -2.0]));
        assert_eq!(to_f32(Dtype::I32, &[0; 4]), None);
    }
}
