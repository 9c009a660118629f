//! A stopped training on disk: adapter, optimiser moments and the step, in one file, so that they always fit together.
//!
//! The schedule, the rows' order and the dropout masks are functions of configuration and step, so nothing else is needed.

use std::path::Path;

use consilium_core::engine::OptimiserState;
use consilium_core::{Adapter, Engine, Tensor, npz};
use serde::{Deserialize, Serialize};

use crate::durable;
use crate::error::ExperimentError;

/// A training that can go on.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// The adapter.
    pub adapter: Adapter,
    /// The optimiser, which knows the step.
    pub optimiser: OptimiserState,
}

#[derive(Serialize, Deserialize)]
struct Stamp {
    step: u64,
}

const PARTS: [&str; 3] = ["adapter", "first_moment", "second_moment"];

impl Checkpoint {
    /// What `engine` would need to go on.
    pub fn of(engine: &dyn Engine) -> Self {
        Self { adapter: engine.adapter(), optimiser: engine.optimiser_state() }
    }

    /// Writes it to `path`.
    ///
    /// # Errors
    /// [`ExperimentError::Io`], or moments that are not finite.
    pub fn save(&self, path: &Path) -> Result<(), ExperimentError> {
        let parts = [self.adapter.tensors(), &self.optimiser.first_moments, &self.optimiser.second_moments];
        let named = PARTS.iter().zip(parts).flat_map(|(part, tensors)| {
            tensors.iter().map(move |t| Tensor { name: format!("{part}.{}", t.name), ..t.clone() })
        });
        let all = Adapter::new(named.collect())?;
        durable::write_stamped(path, &Stamp { step: self.optimiser.step }, &npz::encode(&all))
    }

    /// Reads it back for an adapter with the names and shapes of `like`; `None` when there is none.
    ///
    /// # Errors
    /// When the file cannot be read or does not fit.
    pub fn load(path: &Path, like: &Adapter) -> Result<Option<Self>, ExperimentError> {
        let Some((stamp, bytes)) = durable::read_stamped::<Stamp>(path)? else { return Ok(None) };
        let schema = like.schema();
        let whole = PARTS
            .iter()
            .flat_map(|part| {
                schema.iter().map(move |(name, shape)| (format!("{part}.{name}"), shape.clone()))
            })
            .collect();
        let all = npz::decode(&bytes, &whole).map_err(|e| ExperimentError::broken(path, e))?;
        let part = |index: usize| -> Vec<Tensor> {
            let tensors = &all.tensors()[index * schema.len()..(index + 1) * schema.len()];
            let rename = tensors.iter().zip(&schema);
            rename.map(|(t, (name, _))| Tensor { name: name.clone(), ..t.clone() }).collect()
        };
        Ok(Some(Self {
            adapter: Adapter::new(part(0))?,
            optimiser: OptimiserState { step: stamp.step, first_moments: part(1), second_moments: part(2) },
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_comes_back_whole_and_a_cut_one_is_named() {
        let tensor = |value: f32| Tensor { name: "a".into(), shape: vec![2], data: vec![value, -value] };
        let checkpoint = Checkpoint {
            adapter: Adapter::new(vec![tensor(1.0)]).unwrap(),
            optimiser: OptimiserState {
                step: 1 << 40,
                first_moments: vec![tensor(2.0)],
                second_moments: vec![tensor(3.0)],
            },
        };
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("c");
        assert_eq!(Checkpoint::load(&path, &checkpoint.adapter).unwrap(), None);
        checkpoint.save(&path).unwrap();
        assert_eq!(Checkpoint::load(&path, &checkpoint.adapter).unwrap().as_ref(), Some(&checkpoint));
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 9]).unwrap();
        assert!(Checkpoint::load(&path, &checkpoint.adapter).is_err());
    }
}
