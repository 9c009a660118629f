//! The frozen base model, shared by every engine that trains on it.

use std::path::{Path, PathBuf};

use consilium_core::adapter::{Adapter, AdapterError, Tensor};
use consilium_core::engine::Precision;
use consilium_core::lora::{LoraConfig, Target};

use crate::config::LlamaConfig;
use crate::kernels::gemm::{Mat, MatMut, gemm};
use crate::kernels::packed::Frozen;
use crate::linear::Linear;
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
    pub qkv: Linear,
    /// `(w)`, or empty
    pub qkv_bias: Vec<f32>,
    /// `(c, h d)`
    pub o: Linear,
    /// `(c)`, or empty
    pub o_bias: Vec<f32>,
    /// `(c)`
    pub mlp_norm: Vec<f32>,
    /// gate and up under one another, `(2 f, c)`
    pub gate_up: Linear,
    /// `(c, f)`
    pub down: Linear,
}

/// A frozen Llama-family model.
pub struct Model {
    config: LlamaConfig,
    info: BaseInfo,
    precision: Precision,
    /// `(v, c)`
    pub(crate) embedding: Frozen,
    pub(crate) blocks: Vec<Block>,
    /// `(c)`
    pub(crate) norm: Vec<f32>,
    /// `(v, c)`; packed from the embedding when that serves
    pub(crate) head: Linear,
}

impl Model {
    /// Loads `config.json` and the weights in `dir`; the id is the directory's name.
    ///
    /// # Errors
    /// See [`ModelError`]: each names the file, field or tensor.
    pub fn load(dir: &Path) -> Result<Self, ModelError> {
        Self::load_as(dir, Precision::F32)
    }

    /// The same with the matrices in `precision`.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn load_as(dir: &Path, precision: Precision) -> Result<Self, ModelError> {
        let path = dir.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(|e| ModelError::io(&path, e))?;
        let id =
            dir.file_name().map_or_else(|| dir.display().to_string(), |n| n.to_string_lossy().into_owned());
        Self::assemble(&id, &text, &WeightFiles::open(dir)?, precision)
    }

    /// A model from bytes in memory: the text of `config.json` and the safetensors files.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn from_parts(
        id: &str,
        config_json: &str,
        safetensors: Vec<Vec<u8>>,
        precision: Precision,
    ) -> Result<Self, ModelError> {
        Self::assemble(id, config_json, &WeightFiles::from_bytes(safetensors), precision)
    }

    fn assemble(
        id: &str,
        config_json: &str,
        files: &WeightFiles,
        precision: Precision,
    ) -> Result<Self, ModelError> {
        let config = LlamaConfig::parse(config_json)?;
        let mut reader = files.parse()?;
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = Threads::new(threads).unwrap_or_else(|_| Threads::one());
        // Hashing takes longer than packing; the two do not need each other.
        let (sha256, tensors) = std::thread::scope(|scope| {
            let hash = scope.spawn(|| files.sha256());
            let tensors = read_tensors(&config, &mut reader, &threads, precision);
            (hash.join().expect("hashing does not panic"), tensors)
        });
        let (embedding, blocks, norm, head) = tensors?;
        reader.finish()?;
        let block_parameters: usize = blocks.iter().map(Block::parameters).sum();
        let head_parameters = if config.tied { 0 } else { head.parameters() };
        let parameters = embedding.len() + block_parameters + norm.len() + head_parameters;
        let info = BaseInfo { id: id.to_owned(), parameters, sha256 };
        Ok(Self { config, info, precision, embedding, blocks, norm, head })
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

    /// In what numbers its matrices take part in products.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Id, parameter count and hash.
    pub fn info(&self) -> BaseInfo {
        self.info.clone()
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
        push("model.embed_tokens.weight".into(), &[self.config.vocab_size, c], &self.embedding.to_f32());
        for (layer, block) in self.blocks.iter().enumerate() {
            let prefix = format!("model.layers.{layer}");
            push(format!("{prefix}.input_layernorm.weight"), &[c], &block.attention_norm);
            push(format!("{prefix}.post_attention_layernorm.weight"), &[c], &block.mlp_norm);
            for target in Target::ALL {
                let shape = layout.shape(target);
                let rows = self.rows_of(target);
                let mut merged = vec![0.0; shape.outputs * shape.inputs];
                for (row, to) in rows.clone().zip(merged.chunks_exact_mut(shape.inputs)) {
                    block.matrix(target).row(row, to);
                }
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
        if !self.config.tied {
            let mut head = vec![0.0; self.config.vocab_size * c];
            head.chunks_exact_mut(c).enumerate().for_each(|(row, to)| self.head.row(row, to));
            push("lm_head.weight".into(), &[self.config.vocab_size, c], &head);
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
        let vectors = [&self.attention_norm, &self.qkv_bias, &self.o_bias, &self.mlp_norm];
        let matrices = [&self.qkv, &self.o, &self.gate_up, &self.down];
        vectors.iter().map(|v| v.len()).sum::<usize>()
            + matrices.iter().map(|m| m.parameters()).sum::<usize>()
    }

    fn matrix(&self, target: Target) -> &Linear {
        match target {
            Target::Q | Target::K | Target::V => &self.qkv,
            Target::O => &self.o,
            Target::Gate | Target::Up => &self.gate_up,
            Target::Down => &self.down,
        }
    }
}

type Tensors = (Frozen, Vec<Block>, Vec<f32>, Linear);

fn read_tensors(
    config: &LlamaConfig,
    reader: &mut WeightReader,
    threads: &Threads,
    precision: Precision,
) -> Result<Tensors, ModelError> {
    let (v, c, f) = (config.vocab_size, config.hidden_size, config.intermediate_size);
    let (q, kv) = (config.q_dim(), config.kv_dim());
    let qkv_parts = [("self_attn.q_proj", q), ("self_attn.k_proj", kv), ("self_attn.v_proj", kv)];
    let embedding = reader.take_frozen("model.embed_tokens.weight", &[v, c])?;
    let mut blocks = Vec::with_capacity(config.layers);
    for layer in 0..config.layers {
        let prefix = format!("model.layers.{layer}");
        let mut vector = |name: &str, len| reader.take(&format!("{prefix}.{name}.weight"), &[len]);
        let (attention_norm, mlp_norm) =
            (vector("input_layernorm", c)?, vector("post_attention_layernorm", c)?);
        let mut biases = |wanted: bool, parts: &[(&str, usize)]| {
            let mut joint = Vec::new();
            for (module, outputs) in parts.iter().filter(|_| wanted) {
                joint.append(&mut reader.take(&format!("{prefix}.{module}.bias"), &[*outputs])?);
            }
            Ok::<_, ModelError>(joint)
        };
        let qkv_bias = biases(config.qkv_bias, &qkv_parts)?;
        let o_bias = biases(config.o_bias, &[("self_attn.o_proj", c)])?;
        // Projections that share an input lie under one another in one matrix.
        let mut matrix = |parts: &[(&str, usize)], inputs: usize| {
            let mut joint: Option<Frozen> = None;
            for (module, outputs) in parts {
                let part = reader.take_frozen(&format!("{prefix}.{module}.weight"), &[*outputs, inputs])?;
                joint = Some(match joint {
                    Some(above) => above.then(part),
                    None => part,
                });
            }
            let outputs = parts.iter().map(|(_, outputs)| outputs).sum();
            let joint = joint.expect("every matrix has a part");
            Ok::<_, ModelError>(Linear::new(threads, precision, &joint, outputs, inputs))
        };
        blocks.push(Block {
            attention_norm,
            qkv: matrix(&qkv_parts, c)?,
            qkv_bias,
            o: matrix(&[("self_attn.o_proj", c)], q)?,
            o_bias,
            mlp_norm,
            gate_up: matrix(&[("mlp.gate_proj", f), ("mlp.up_proj", f)], c)?,
            down: matrix(&[("mlp.down_proj", c)], f)?,
        });
    }
    let norm = reader.take("model.norm.weight", &[c])?;
    let head = if config.tied {
        Linear::new(threads, precision, &embedding, v, c)
    } else {
        Linear::new(threads, precision, &reader.take_frozen("lm_head.weight", &[v, c])?, v, c)
    };
    Ok((embedding, blocks, norm, head))
}
