//! The unit of exchange: an ordered list of named f32 tensors.
//!
//! Every shape mismatch, NaN and infinity is refused here, where bytes become values, with the tensor's name in
//! the error; code behind this border need not look again.

use serde::{Deserialize, Serialize};

use crate::hash::Hasher;

/// What can be wrong with an adapter.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum AdapterError {
    /// The number of values does not fit the shape.
    #[error("tensor {name}: shape {shape:?} needs {expected} values, found {found}")]
    Length {
        /// Tensor name.
        name: String,
        /// Claimed shape.
        shape: Vec<usize>,
        /// Product of the shape.
        expected: usize,
        /// Values there are.
        found: usize,
    },
    /// A NaN or infinity.
    #[error("tensor {name}: value {value} at index {index}; every value must be finite")]
    NotFinite {
        /// Tensor name.
        name: String,
        /// Flat index of the first bad value.
        index: usize,
        /// The bad value.
        value: f32,
    },
    /// Shapes differ from the expected schema.
    #[error("tensor {name}: expected shape {expected:?}, found {found:?}")]
    Shape {
        /// Tensor name.
        name: String,
        /// Expected shape.
        expected: Vec<usize>,
        /// Found shape.
        found: Vec<usize>,
    },
    /// A tensor that the schema has is missing.
    #[error("tensor {name} is missing")]
    Missing {
        /// Tensor name.
        name: String,
    },
    /// A tensor that the schema does not have.
    #[error("tensor {name} is not part of this adapter; expected only {expected} known tensors")]
    Unexpected {
        /// Tensor name.
        name: String,
        /// Number of tensors of the schema.
        expected: usize,
    },
    /// A name occurs twice.
    #[error("tensor {name} occurs twice")]
    Duplicate {
        /// Tensor name.
        name: String,
    },
    /// The surrounding format is broken.
    #[error("{format}: {reason}")]
    Format {
        /// `npz`, `safetensors` or `adapter_config.json`.
        format: &'static str,
        /// What is wrong, with the entry's name where there is one.
        reason: String,
    },
}

/// A named f32 tensor in row-major order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tensor {
    /// Short name inside an adapter, `layers.0.self_attn.q_proj.lora_A` for example.
    pub name: String,
    /// Extents, outermost first.
    pub shape: Vec<usize>,
    /// Row-major values.
    pub data: Vec<f32>,
}

/// Names and shapes of an adapter, in order: what an upload is checked against.
pub type Schema = Vec<(String, Vec<usize>)>;

/// Named f32 tensors in a fixed order: for each layer, for each target in forward order, `lora_A` then `lora_B`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Adapter {
    tensors: Vec<Tensor>,
}

impl Adapter {
    /// An adapter of `tensors`, in the given order.
    ///
    /// # Errors
    /// [`AdapterError::Length`], [`AdapterError::NotFinite`] or [`AdapterError::Duplicate`] with the tensor's name.
    pub fn new(tensors: Vec<Tensor>) -> Result<Self, AdapterError> {
        let mut names = std::collections::HashSet::new();
        for tensor in &tensors {
            let expected: usize = tensor.shape.iter().product();
            if expected != tensor.data.len() {
                return Err(AdapterError::Length {
                    name: tensor.name.clone(),
                    shape: tensor.shape.clone(),
                    expected,
                    found: tensor.data.len(),
                });
            }
            if let Some(index) = tensor.data.iter().position(|v| !v.is_finite()) {
                return Err(AdapterError::NotFinite {
                    name: tensor.name.clone(),
                    index,
                    value: tensor.data[index],
                });
            }
            if !names.insert(tensor.name.as_str()) {
                return Err(AdapterError::Duplicate { name: tensor.name.clone() });
            }
        }
        Ok(Self { tensors })
    }

    /// The tensors in order.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The tensor called `name`.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|t| t.name == name)
    }

    /// Names and shapes in order.
    pub fn schema(&self) -> Schema {
        self.tensors.iter().map(|t| (t.name.clone(), t.shape.clone())).collect()
    }

    /// Number of values in all tensors.
    pub fn parameters(&self) -> usize {
        self.tensors.iter().map(|t| t.data.len()).sum()
    }

    /// Puts the tensors into the order of `schema` and checks that names and shapes are exactly those.
    ///
    /// # Errors
    /// The first missing, unexpected or misshapen tensor, by name.
    pub fn conform(self, schema: &[(String, Vec<usize>)]) -> Result<Self, AdapterError> {
        let mut by_name: std::collections::HashMap<String, Tensor> =
            self.tensors.into_iter().map(|t| (t.name.clone(), t)).collect();
        let mut tensors = Vec::with_capacity(schema.len());
        for (name, shape) in schema {
            let tensor = by_name.remove(name).ok_or_else(|| AdapterError::Missing { name: name.clone() })?;
            if tensor.shape != *shape {
                return Err(AdapterError::Shape {
                    name: name.clone(),
                    expected: shape.clone(),
                    found: tensor.shape,
                });
            }
            tensors.push(tensor);
        }
        match by_name.into_keys().min() {
            Some(name) => Err(AdapterError::Unexpected { name, expected: schema.len() }),
            None => Ok(Self { tensors }),
        }
    }

    /// SHA-256 over names, shapes and the little-endian bytes of the values, in order. Independent of any file format.
    pub fn sha256(&self) -> String {
        let mut hasher = Hasher::default();
        for tensor in &self.tensors {
            hasher.update(&(tensor.name.len() as u64).to_le_bytes());
            hasher.update(tensor.name.as_bytes());
            hasher.update(&(tensor.shape.len() as u64).to_le_bytes());
            for &extent in &tensor.shape {
                hasher.update(&(extent as u64).to_le_bytes());
            }
            for value in &tensor.data {
                hasher.update(&value.to_le_bytes());
            }
        }
        hasher.finish()
    }

    /// All values, tensor after tensor.
    pub fn flat(&self) -> impl Iterator<Item = f32> + '_ {
        self.tensors.iter().flat_map(|t| t.data.iter().copied())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn tensor(name: &str, shape: &[usize], data: &[f32]) -> Tensor {
        Tensor { name: name.into(), shape: shape.to_vec(), data: data.to_vec() }
    }

    #[test]
    fn bad_values_are_refused_with_name_and_place() {
        let error = Adapter::new(vec![tensor("a", &[2], &[1.0, f32::NAN])]).unwrap_err();
        assert!(error.to_string().contains("tensor a: value NaN at index 1"), "{error}");
        let error = Adapter::new(vec![tensor("a", &[2, 2], &[1.0])]).unwrap_err();
        assert!(error.to_string().contains("needs 4 values, found 1"), "{error}");
        let twice = vec![tensor("a", &[1], &[1.0]), tensor("a", &[1], &[1.0])];
        assert_eq!(Adapter::new(twice), Err(AdapterError::Duplicate { name: "a".into() }));
    }

    #[test]
    fn conform_reorders_and_names_what_does_not_fit() {
        let a = tensor("a", &[1], &[1.0]);
        let b = tensor("b", &[2], &[2.0, 3.0]);
        let schema = Adapter::new(vec![a.clone(), b.clone()]).unwrap().schema();
        let swapped = Adapter::new(vec![b.clone(), a.clone()]).unwrap();
        assert_eq!(swapped.conform(&schema).unwrap().tensors()[0].name, "a");
        let missing = Adapter::new(vec![a.clone()]).unwrap().conform(&schema);
        assert_eq!(missing, Err(AdapterError::Missing { name: "b".into() }));
        let extra = Adapter::new(vec![a, b, tensor("c", &[1], &[0.0])]).unwrap().conform(&schema);
        assert_eq!(extra, Err(AdapterError::Unexpected { name: "c".into(), expected: 2 }));
    }

    #[test]
    fn the_hash_sees_names_shapes_and_values() {
        let hash = |t: Tensor| Adapter::new(vec![t]).unwrap().sha256();
        let base = hash(tensor("a", &[1, 2], &[1.0, 2.0]));
        assert_ne!(base, hash(tensor("b", &[1, 2], &[1.0, 2.0])));
        assert_ne!(base, hash(tensor("a", &[2, 1], &[1.0, 2.0])));
        assert_ne!(base, hash(tensor("a", &[1, 2], &[1.0, -2.0])));
    }
}
