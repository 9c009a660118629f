//! The frozen base model: weights in f32, shared by every engine that trains on it.

use std::path::{Path, PathBuf};

use consilium_core::adapter::{Adapter, AdapterError, Tensor};
use consilium_core::lora::{LoraConfig, Target};

use crate::config::LlamaConfig;
use crate::kernels::gemm::{Mat, MatMut, gemm};
use crate::lora::LoraLayout;
use crate::threads::Threads;
use crate::weights::{WeightFiles, WeightReader};

/// Why a model cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// `config.json` is broken or asks for something that is not computed here.
    #[error("config.json: {0}")]
    Config(String),
    /// The directory has no weights.
    #[error("{dir}: neither model.safetensors nor model.safetensors.index.json is there")]
    NoWeights {
        /// The directory.
        dir: PathBuf,
    },
    /// A weight file is broken.
    #[error("{file}: {reason}")]
    Weights {
        /// The file.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// A tensor is missing.
    #[error("tensor {name} is missing from the model's weights")]
    MissingTensor {
        /// Tensor name.
        name: String,
    },
    /// A tensor has another shape than config.json says.
    #[error("tensor {name}: config.json asks for shape {expected:?}, the file has {found:?}")]
    TensorShape {
        /// Tensor name.
        name: String,
        /// Expected shape.
        expected: Vec<usize>,
        /// Found shape.
        found: Vec<usize>,
    },
    /// A tensor that a Llama-family model does not have.
    #[error("tensor {name} has no place in a Llama-family model; is this another architecture?")]
    UnknownTensor {
        /// Tensor name.
        name: String,
    },
}

impl ModelError {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
}

/// Facts of a base model.
#[derive(Clone, Debug, PartialEq)]
pub struct BaseInfo {
    /// Directory name or hub id.
    pub id: String,
    /// Parameters; tied embeddings count once.
    pub parameters: usize,
    /// SHA-256 over the weight files, in name order.
    pub sha256: String,
}

/// One transformer block. Projections that share an input are stored as one matrix, `(outputs, inputs)`.
pub(crate) struct Block {
    /// `(c)`
    pub attention_norm: Vec<f32>,
    /// q, k and v under one another, `(w, c)`
    pub qkv: Vec<f32>,
    /// `(w)`, or empty
    pub qkv_bias: Vec<f32>,
    /// `(c, h d)`
    pub o: Vec<f32>,
    /// `(c)`, or empty
    pub o_bias: Vec<f32>,
    /// `(c)`
    pub mlp_norm: Vec<f32>,
    /// gate and up under one another, `(2 f, c)`
    pub gate_up: Vec<f32>,
    /// `(c, f)`
    pub down: Vec<f32>,
}

/// A frozen Llama-family model.
pub struct Model {
    config: LlamaConfig,
    info: BaseInfo,
    /// `(v, c)`
    pub(crate) embedding: Vec<f32>,
    pub(crate) blocks: Vec<Block>,
    /// `(c)`
    pub(crate) norm: Vec<f32>,
    /// `(v, c)`; `None` when the embedding serves
    untied_head: Option<Vec<f32>>,
}

impl Model {
    /// Loads `config.json` and the weights in `dir`; the id is the directory's name.
    ///
    /// # Errors
    /// See [`ModelError`]: each names the file, field or tensor.
    pub fn load(dir: &Path) -> Result<Self, ModelError> {
        let path = dir.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(|e| ModelError::io(&path, e))?;
        let id =
            dir.file_name().map_or_else(|| dir.display().to_string(), |n| n.to_string_lossy().into_owned());
        Self::assemble(&id, &text, &WeightFiles::open(dir)?)
    }

    /// A model from bytes in memory: the text of `config.json` and the safetensors files.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn from_parts(id: &str, config_json: &str, safetensors: Vec<Vec<u8>>) -> Result<Self, ModelError> {
        Self::assemble(id, config_json, &WeightFiles::from_bytes(safetensors))
    }

    fn assemble(id: &str, config_json: &str, files: &WeightFiles) -> Result<Self, ModelError> {
        let config = LlamaConfig::parse(config_json)?;
        let mut reader = files.parse()?;
        // Hashing takes about as long as converting; the two do not need each other.
        let (sha256, tensors) = std::thread::scope(|scope| {
            let hash = scope.spawn(|| files.sha256());
            let tensors = read_tensors(&config, &mut reader);
            (hash.join().expect("hashing does not panic"), tensors)
        });
        let (embedding, blocks, norm, untied_head) = tensors?;
        reader.finish()?;
        let block_parameters: usize = blocks.iter().map(Block::parameters).sum();
        let head_parameters = untied_head.as_ref().map_or(0, Vec::len);
        let parameters = embedding.len() + block_parameters + norm.len() + head_parameters;
        let info = BaseInfo { id: id.to_owned(), parameters, sha256 };
        Ok(Self { config, info, embedding, blocks, norm, untied_head })
    }

    /// The same model under another id, such as the hub id it was fetched by.
    #[must_use]
    pub fn with_id(mut self, id: &str) -> Self {
        self.info.id = id.to_owned();
        self
    }

    /// Sizes and constants.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// Id, parameter count and hash.
    pub fn info(&self) -> BaseInfo {
        self.info.clone()
    }

    /// The head's matrix, `(v, c)`.
    pub(crate) fn head(&self) -> &[f32] {
        self.untied_head.as_deref().unwrap_or(&self.embedding)
    }

    /// Every tensor by its Hugging Face name, with `W + s B A` where the adapter has factors, f32, in file order.
    ///
    /// # Errors
    /// When the adapter does not fit the model.
    pub fn merged(&self, adapter: &Adapter, lora: &LoraConfig) -> Result<Vec<Tensor>, AdapterError> {
        let layout = LoraLayout::new(&self.config, lora);
        let flat = layout.flatten(adapter)?;
        let c = self.config.hidden_size;
        let mut tensors = Vec::new();
        let mut push = |name: String, shape: &[usize], data: &[f32]| {
            tensors.push(Tensor { name, shape: shape.to_vec(), data: data.to_vec() });
        };
        push("model.embed_tokens.weight".into(), &[self.config.vocab_size, c], &self.embedding);
        for (layer, block) in self.blocks.iter().enumerate() {
            let prefix = format!("model.layers.{layer}");
            push(format!("{prefix}.input_layernorm.weight"), &[c], &block.attention_norm);
            push(format!("{prefix}.post_attention_layernorm.weight"), &[c], &block.mlp_norm);
            for target in Target::ALL {
                let shape = layout.shape(target);
                let rows = self.rows_of(target);
                let frozen = &block.matrix(target)[rows.start * shape.inputs..rows.end * shape.inputs];
                let mut merged = frozen.to_vec();
                if let Some(place) = layout.place(layer, target) {
                    let b = Mat::new(&flat[place.b.clone()], shape.outputs, lora.rank);
                    let a = Mat::new(&flat[place.a.clone()], lora.rank, shape.inputs);
                    gemm(
                        &Threads::one(),
                        MatMut::new(&mut merged, shape.outputs, shape.inputs),
                        b,
                        a,
                        lora.scale(),
                        true,
                    );
                }
                push(format!("{prefix}.{}.weight", target.path()), &[shape.outputs, shape.inputs], &merged);
                let bias = match target {
                    Target::Q | Target::K | Target::V if !block.qkv_bias.is_empty() => &block.qkv_bias[rows],
                    Target::O => &block.o_bias[..],
                    _ => &[],
                };
                if !bias.is_empty() {
                    push(format!("{prefix}.{}.bias", target.path()), &[bias.len()], bias);
                }
            }
        }
        push("model.norm.weight".into(), &[c], &self.norm);
        if let Some(head) = &self.untied_head {
            push("lm_head.weight".into(), &[self.config.vocab_size, c], head);
        }
        Ok(tensors)
    }

    /// The rows that `target` has in the stored matrix that holds it.
    pub(crate) fn rows_of(&self, target: Target) -> std::ops::Range<usize> {
        let (q, kv, f) = (self.config.q_dim(), self.config.kv_dim(), self.config.intermediate_size);
        match target {
            Target::Q => 0..q,
            Target::K => q..q + kv,
            Target::V => q + kv..q + 2 * kv,
            Target::Gate => 0..f,
            Target::Up => f..2 * f,
            Target::O | Target::Down => 0..self.config.hidden_size,
        }
    }
}

impl Block {
    fn parameters(&self) -> usize {
        [
            &self.attention_norm,
            &self.qkv,
            &self.qkv_bias,
            &self.o,
            &self.o_bias,
            &self.mlp_norm,
            &self.gate_up,
            &self.down,
        ]
        .iter()
        .map(|tensor| tensor.len())
        .sum()
    }

    fn matrix(&self, target: Target) -> &[f32] {
        match target {
            Target::Q | Target::K | Target::V => &self.qkv,
            Target::O => &self.o,
            Target::Gate | Target::Up => &self.gate_up,
            Target::Down => &self.down,
        }
    }
}

type Tensors = (Vec<f32>, Vec<Block>, Vec<f32>, Option<Vec<f32>>);

fn read_tensors(config: &LlamaConfig, reader: &mut WeightReader) -> Result<Tensors, ModelError> {
    let (v, c, f) = (config.vocab_size, config.hidden_size, config.intermediate_size);
    let (q, kv) = (config.q_dim(), config.kv_dim());
    let embedding = reader.take("model.embed_tokens.weight", &[v, c])?;
    let mut blocks = Vec::with_capacity(config.layers);
    for layer in 0..config.layers {
        let prefix = format!("model.layers.{layer}");
        let mut stack = |parts: &[(&str, usize)], inputs: Option<usize>, kind: &str| {
            let mut joint = Vec::new();
            for &(module, outputs) in parts {
                let name = format!("{prefix}.{module}.{kind}");
                match inputs {
                    Some(inputs) => joint.append(&mut reader.take(&name, &[outputs, inputs])?),
                    None => joint.append(&mut reader.take(&name, &[outputs])?),
                }
            }
            Ok::<_, ModelError>(joint)
        };
        let qkv_parts = [("self_attn.q_proj", q), ("self_attn.k_proj", kv), ("self_attn.v_proj", kv)];
        blocks.push(Block {
            attention_norm: stack(&[("input_layernorm", c)], None, "weight")?,
            qkv: stack(&qkv_parts, Some(c), "weight")?,
            qkv_bias: if config.qkv_bias { stack(&qkv_parts, None, "bias")? } else { Vec::new() },
            o: stack(&[("self_attn.o_proj", c)], Some(q), "weight")?,
            o_bias: if config.o_bias { stack(&[("self_attn.o_proj", c)], None, "bias")? } else { Vec::new() },
            mlp_norm: stack(&[("post_attention_layernorm", c)], None, "weight")?,
            gate_up: stack(&[("mlp.gate_proj", f), ("mlp.up_proj", f)], Some(c), "weight")?,
            down: stack(&[("mlp.down_proj", c)], Some(f), "weight")?,
        });
    }
    let norm = reader.take("model.norm.weight", &[c])?;
    let head = if config.tied { None } else { Some(reader.take("lm_head.weight", &[v, c])?) };
    Ok((embedding, blocks, norm, head))
}
