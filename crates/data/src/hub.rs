//! Hugging Face repositories through the cache that Python's `huggingface_hub` uses too.
//!
//! Every file of a repository is pinned to one commit. What the cache holds of that commit is not asked for again; what
//! it does not hold is downloaded by the crate `hf-hub`, checked, and only then visible. When the hub cannot be reached,
//! or must not be (`HF_HUB_OFFLINE`), the cache alone answers.

mod error;
mod repository;
mod settings;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use consilium_core::{Event, Sink};

pub use error::HubError;
pub use repository::Repository;
pub use settings::HubSettings;

/// What a repository holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A model.
    Model,
    /// A data set.
    Dataset,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Model => "model",
            Kind::Dataset => "data set",
        }
    }
}

/// Access to the hub and its cache.
#[derive(Clone, Default)]
pub struct Hub {
    settings: HubSettings,
    sink: Option<Arc<dyn Sink>>,
}

impl Hub {
    /// With these settings.
    pub fn new(settings: HubSettings) -> Self {
        Self { settings, sink: None }
    }

    /// As the environment says: `HF_HOME`, `HF_HUB_CACHE`, `HF_TOKEN`, `HF_ENDPOINT`, `HF_HUB_OFFLINE`.
    pub fn from_env() -> Self {
        Self::new(HubSettings::from_env())
    }

    /// Reports downloads to `sink`, as [`Event::Progress`] in bytes.
    #[must_use]
    pub fn with_sink(self, sink: Arc<dyn Sink>) -> Self {
        Self { sink: Some(sink), ..self }
    }

    /// The settings in force.
    pub fn settings(&self) -> &HubSettings {
        &self.settings
    }

    /// A repository at `revision`, a branch, tag or commit.
    ///
    /// # Errors
    /// When the hub refuses, or can't be asked and the cache does not know the repository.
    pub fn open(&self, kind: Kind, id: &str, revision: &str) -> Result<Repository, HubError> {
        Repository::open(self.clone(), kind, id, revision)
    }

    /// The directory that holds a model's `config.json`, `tokenizer.json` and safetensors weights, and
    /// `generation_config.json` and `tokenizer_config.json` if it has them.
    ///
    /// A directory is taken as it is. Anything else is a hub id, `owner/name` or `owner/name@revision`, whose files are
    /// brought into the cache.
    ///
    /// # Errors
    /// When there is no such directory or repository, it lacks a file, or the hub fails.
    pub fn model_dir(&self, id_or_dir: &str) -> Result<PathBuf, crate::DataError> {
        if Path::new(id_or_dir).is_dir() {
            return Ok(PathBuf::from(id_or_dir));
        }
        let (id, revision) = crate::source::hub_id(id_or_dir)
            .ok_or_else(|| crate::DataError::UnknownSource { given: id_or_dir.to_string() })?;
        let repository = self.open(Kind::Model, id, revision)?;
        repository.file("config.json")?;
        repository.file("tokenizer.json")?;
        for optional in ["generation_config.json", "tokenizer_config.json"] {
            if repository.has(optional) {
                repository.file(optional)?;
            }
        }
        if repository.has("model.safetensors") {
            repository.file("model.safetensors")?;
        } else {
            for shard in shards(&repository)? {
                repository.file(&shard)?;
            }
        }
        Ok(repository.dir())
    }

    fn record(&self, event: &Event) {
        if let Some(sink) = &self.sink {
            sink.record(event);
        }
    }
}

/// The files that a sharded model's index names, each once.
fn shards(repository: &Repository) -> Result<Vec<String>, crate::DataError> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let path = repository.file("model.safetensors.index.json")?;
    let bytes = std::fs::read(&path).map_err(|source| crate::DataError::Io { path: path.clone(), source })?;
    let index: Index = serde_json::from_slice(&bytes).map_err(|error| crate::DataError::Malformed {
        path,
        format: "JSON",
        reason: error.to_string(),
    })?;
    let mut names: Vec<String> = index.weight_map.into_values().collect();
    names.sort();
    names.dedup();
    Ok(names)
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").field("settings", &self.settings).finish_non_exhaustive()
    }
}
