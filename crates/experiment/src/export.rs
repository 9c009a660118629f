//! A trained adapter for other programs: PEFT files, a merged model in Hugging Face's layout, or one GGUF file.

mod gguf;
mod vocabulary;

use std::borrow::Cow;
use std::io::{BufWriter, Write};
use std::path::Path;

use consilium_core::{Adapter, LoraConfig, Tensor};
use consilium_engine::Model;
use safetensors::tensor::{Dtype, View};
use serde_json::Value;

pub use gguf::GgufType;

use crate::durable;
use crate::error::ExperimentError;

/// Files of a model's directory that go with its weights.
const COMPANIONS: [&str; 6] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "added_tokens.json",
    "chat_template.jinja",
];

/// A model with what stands beside its weights.
pub struct ModelFiles<'a> {
    /// The frozen base.
    pub model: &'a Model,
    /// Its directory: `config.json`, `tokenizer.json` and so on.
    pub dir: &'a Path,
}

/// Writes `adapter` as the two files that Python's PEFT loads, for a base called `base`.
///
/// # Errors
/// [`ExperimentError::Io`].
pub fn peft(adapter: &Adapter, lora: &LoraConfig, base: &str, out: &Path) -> Result<(), ExperimentError> {
    parent(out)?;
    crate::run_folder::write_peft(out, adapter, lora, base)
}

/// Writes the model with the adapter merged into its weights, f32 safetensors, and the base's configuration and
/// tokenizer beside it: a directory that loads without PEFT.
///
/// # Errors
/// When the adapter does not fit the model, or a file cannot be read or written.
pub fn merged(
    files: &ModelFiles<'_>,
    adapter: &Adapter,
    lora: &LoraConfig,
    out: &Path,
) -> Result<(), ExperimentError> {
    let tensors = files.model.merged(adapter, lora)?;
    let weights = encode_safetensors(&tensors)?;
    drop(tensors);
    let config = merged_config(&read_needed(&files.dir.join("config.json"))?)?;
    let mut written: Vec<(&str, Vec<u8>)> = vec![("config.json", config), ("model.safetensors", weights)];
    for name in COMPANIONS {
        if let Some(bytes) = durable::read(&files.dir.join(name))? {
            written.push((name, bytes));
        }
    }
    parent(out)?;
    let borrowed: Vec<(&str, &[u8])> =
        written.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
    durable::write_dir(out, &borrowed)
}

/// Writes the merged model with its vocabulary as one GGUF file.
///
/// # Errors
/// When the adapter does not fit, the tokenizer is of a kind that GGUF readers don't know, or a file cannot be written.
pub fn gguf(
    files: &ModelFiles<'_>,
    adapter: &Adapter,
    lora: &LoraConfig,
    kind: GgufType,
    out: &Path,
) -> Result<(), ExperimentError> {
    let tokenizer = read_needed(&files.dir.join("tokenizer.json"))?;
    let file = gguf::build(files.model, files.model.merged(adapter, lora)?, &tokenizer, kind)?;
    parent(out)?;
    durable::write_with(out, |to| {
        let mut to = BufWriter::new(to);
        file.write(&mut to)?;
        to.flush()
    })
}

fn parent(out: &Path) -> Result<(), ExperimentError> {
    match out.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        Some(dir) => durable::create_dir(dir),
        None => Ok(()),
    }
}

fn read_needed(path: &Path) -> Result<Vec<u8>, ExperimentError> {
    durable::read(path)?.ok_or_else(|| ExperimentError::broken(path, "is missing"))
}

/// A safetensors file of `tensors` in f32. Each is turned into bytes when its turn comes.
fn encode_safetensors(tensors: &[Tensor]) -> Result<Vec<u8>, ExperimentError> {
    struct F32View<'a>(&'a Tensor);
    impl View for F32View<'_> {
        fn dtype(&self) -> Dtype {
            Dtype::F32
        }
        fn shape(&self) -> &[usize] {
            &self.0.shape
        }
        fn data(&self) -> Cow<'_, [u8]> {
            self.0.data.iter().flat_map(|v| v.to_le_bytes()).collect()
        }
        fn data_len(&self) -> usize {
            self.0.data.len() * 4
        }
    }
    let views = tensors.iter().map(|tensor| (tensor.name.as_str(), F32View(tensor)));
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    safetensors::serialize(views, Some(metadata))
        .map_err(|e| ExperimentError::Export(format!("model.safetensors: {e}")))
}

/// The base's `config.json`, saying that the weights are f32.
fn merged_config(bytes: &[u8]) -> Result<Vec<u8>, ExperimentError> {
    let broken = |e: serde_json::Error| ExperimentError::Export(format!("config.json: {e}"));
    let mut config: Value = serde_json::from_slice(bytes).map_err(broken)?;
    let known: Vec<&str> =
        ["dtype", "torch_dtype"].into_iter().filter(|key| config.get(key).is_some()).collect();
    for key in if known.is_empty() { vec!["torch_dtype"] } else { known } {
        config[key] = "float32".into();
    }
    serde_json::to_vec_pretty(&config).map_err(broken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_merged_config_says_f32_in_either_layout() {
        let new = String::from_utf8(merged_config(b"{\"dtype\": \"bfloat16\"}").unwrap()).unwrap();
        assert!(new.contains("\"dtype\": \"float32\"") && !new.contains("torch_dtype"), "{new}");
        let old = String::from_utf8(merged_config(b"{\"torch_dtype\": \"bfloat16\"}").unwrap()).unwrap();
        assert!(old.contains("\"torch_dtype\": \"float32\""), "{old}");
    }
}
