//! Hugging Face repositories through the local cache.

use std::path::{Path, PathBuf};

use crate::DataError;

/// Access to the hub and its cache.
#[derive(Clone, Debug, Default)]
pub struct Hub {}

impl Hub {
    /// As the environment says.
    pub fn from_env() -> Self {
        Self::default()
    }

    /// The directory of a model's files.
    ///
    /// # Errors
    /// When there is none.
    pub fn model_dir(&self, id_or_dir: &str) -> Result<PathBuf, DataError> {
        let dir = Path::new(id_or_dir);
        if dir.is_dir() {
            return Ok(dir.to_path_buf());
        }
        Err(DataError::UnknownSource { given: id_or_dir.to_string() })
    }
}
