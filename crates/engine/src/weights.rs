//! Model weights from safetensors: one file, or shards with an index. Files are memory-mapped; tensors of f32, f16
//! or bf16 keep their format or come out as f32, each checked by name and shape.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::tensor::{Dtype, SafeTensors};
use serde::Deserialize;

use crate::kernels::map_file;
use crate::kernels::packed::Frozen;
use crate::model::ModelError;

/// The file that lists the shards of a large model.
const INDEX_FILE: &str = "model.safetensors.index.json";
/// The only file of a small model.
const SINGLE_FILE: &str = "model.safetensors";

enum Bytes {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl Bytes {
    fn as_slice(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Owned(bytes) => bytes,
        }
    }
}

/// The weight files of one model.
pub struct WeightFiles {
    files: Vec<(String, Bytes)>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: HashMap<String, String>,
}

impl WeightFiles {
    /// Maps the weight files in `dir`.
    ///
    /// # Errors
    /// When neither `model.safetensors` nor a readable index with all its shards is there.
    pub fn open(dir: &Path) -> Result<Self, ModelError> {
        let index_path = dir.join(INDEX_FILE);
        let names = if dir.join(SINGLE_FILE).exists() {
            vec![SINGLE_FILE.to_owned()]
        } else if index_path.exists() {
            let text = std::fs::read_to_string(&index_path).map_err(|e| ModelError::io(&index_path, e))?;
            let index: Index = serde_json::from_str(&text)
                .map_err(|e| ModelError::Weights { file: INDEX_FILE.into(), reason: e.to_string() })?;
            let mut names: Vec<String> = index.weight_map.into_values().collect();
            names.sort();
            names.dedup();
            if let Some(bad) = names.iter().find(|n| Path::new(n).file_name().is_none_or(|f| f != n.as_str()))
            {
                return Err(ModelError::Weights {
                    file: INDEX_FILE.into(),
                    reason: format!("shard name '{bad}' is not a plain file name"),
                });
            }
            names
        } else {
            return Err(ModelError::NoWeights { dir: dir.to_owned() });
        };
        let files = names
            .into_iter()
            .map(|name| {
                let path: PathBuf = dir.join(&name);
                let file = File::open(&path).map_err(|e| ModelError::io(&path, e))?;
                let map = map_file(&file).map_err(|e| ModelError::io(&path, e))?;
                Ok((name, Bytes::Mapped(map)))
            })
            .collect::<Result<_, ModelError>>()?;
        Ok(Self { files })
    }

    /// Weights that are in memory already, such as a bundled model's.
    pub fn from_bytes(files: Vec<Vec<u8>>) -> Self {
        let name = |i: usize| if i == 0 { SINGLE_FILE.to_owned() } else { format!("part {i}") };
        Self {
            files: files.into_iter().enumerate().map(|(i, bytes)| (name(i), Bytes::Owned(bytes))).collect(),
        }
    }

    /// SHA-256 over the files' bytes, in name order.
    pub fn sha256(&self) -> String {
        let mut context = ring::digest::Context::new(&ring::digest::SHA256);
        for (_, bytes) in &self.files {
            context.update(bytes.as_slice());
        }
        context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Parses the headers, ready to hand out tensors.
    ///
    /// # Errors
    /// When a file is cut off or is no safetensors file.
    pub fn parse(&self) -> Result<WeightReader<'_>, ModelError> {
        let files = self
            .files
            .iter()
            .map(|(name, bytes)| {
                SafeTensors::deserialize(bytes.as_slice())
                    .map(|tensors| (name.as_str(), tensors))
                    .map_err(|e| ModelError::Weights { file: name.clone(), reason: e.to_string() })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let mut place = HashMap::new();
        for (i, (file, tensors)) in files.iter().enumerate() {
            for name in tensors.names() {
                if place.insert(name.to_owned(), i).is_some() {
                    return Err(ModelError::Weights {
                        file: (*file).to_owned(),
                        reason: format!("tensor {name} is in two shards"),
                    });
                }
            }
        }
        Ok(WeightReader { files, place, taken: Vec::new() })
    }
}

/// Hands out tensors by name and remembers which were taken.
pub struct WeightReader<'a> {
    files: Vec<(&'a str, SafeTensors<'a>)>,
    place: HashMap<String, usize>,
    taken: Vec<String>,
}

impl WeightReader<'_> {
    /// The tensor `name` of exactly `shape` as f32.
    ///
    /// # Errors
    /// Missing, misshapen or of a dtype other than F32, F16 and BF16; a NaN or infinity.
    pub fn take(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        self.take_frozen(name, shape).map(|frozen| frozen.to_f32())
    }

    /// The tensor `name` of exactly `shape`, in the format of its file.
    ///
    /// # Errors
    /// As [`WeightReader::take`].
    pub(crate) fn take_frozen(&mut self, name: &str, shape: &[usize]) -> Result<Frozen, ModelError> {
        let &i = self.place.get(name).ok_or_else(|| ModelError::MissingTensor { name: name.to_owned() })?;
        let (file, tensors) = &self.files[i];
        let wrong = |reason: String| ModelError::Weights { file: (*file).to_owned(), reason };
        let view = tensors.tensor(name).map_err(|e| wrong(e.to_string()))?;
        if view.shape() != shape {
            return Err(ModelError::TensorShape {
                name: name.to_owned(),
                expected: shape.to_vec(),
                found: view.shape().to_vec(),
            });
        }
        let bits = || view.data().as_chunks().0.iter().map(|&pair| u16::from_le_bytes(pair)).collect();
        let frozen = match view.dtype() {
            Dtype::BF16 => Frozen::Bf16(bits()),
            Dtype::F16 => Frozen::F16(bits()),
            Dtype::F32 => {
                Frozen::F32(view.data().as_chunks().0.iter().map(|&four| f32::from_le_bytes(four)).collect())
            }
            other => return Err(wrong(format!("tensor {name}: dtype {other:?} is not F32, F16 or BF16"))),
        };
        if let Some((at, value)) = frozen.first_not_finite() {
            return Err(wrong(format!("tensor {name}: value {value} at index {at} is not finite")));
        }
        self.taken.push(name.to_owned());
        Ok(frozen)
    }

    /// Checks that nothing but known leftovers was left behind.
    ///
    /// # Errors
    /// Names the first tensor that the model has no place for.
    pub fn finish(self) -> Result<(), ModelError> {
        let mut left: Vec<String> = self
            .place
            .into_keys()
            .filter(|name| !self.taken.contains(name))
            // Old exports keep the rotary table; tied models may repeat the embedding as a head.
            .filter(|name| !name.ends_with("rotary_emb.inv_freq") && name != "lm_head.weight")
            .collect();
        left.sort();
        match left.into_iter().next() {
            Some(name) => Err(ModelError::UnknownTensor { name }),
            None => Ok(()),
        }
    }
}
