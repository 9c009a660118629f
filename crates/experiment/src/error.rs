//! Why a run could not go on.

use std::path::{Path, PathBuf};

use consilium_core::{AdapterError, EngineError};
use consilium_data::DataError;
use consilium_eval::EvalError;
use consilium_federation::{StrategyError, TrainError, TransportError};

use crate::config::ConfigError;
use crate::hospital::PolicyRefusal;

/// Why a run could not go on.
#[derive(Debug, thiserror::Error)]
pub enum ExperimentError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file or folder.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file of a run folder does not hold what it should.
    #[error("{path}: {reason}")]
    Broken {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Rows, template or tokenizer.
    #[error(transparent)]
    Data(#[from] DataError),
    /// An adapter that does not fit, or a file of one.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// The engine.
    #[error("{what}: {source}")]
    Engine {
        /// What it was asked for.
        what: String,
        /// Why it could not.
        source: EngineError,
    },
    /// Training.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// Aggregation.
    #[error(transparent)]
    Strategy(#[from] StrategyError),
    /// The connection to a session.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// This hospital's policy does not allow what a session asks.
    #[error(transparent)]
    Refused(#[from] PolicyRefusal),
    /// What is here is not what the session's plan says.
    #[error("the session's plan says {what} is {planned}, but here it is {found}")]
    NotThePlan {
        /// The plan's field.
        what: String,
        /// Its value in the plan.
        planned: String,
        /// Its value here.
        found: String,
    },
    /// Judging the answers.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// There is nothing to train on, or two sites cannot be told apart.
    #[error("sites: {0}")]
    Sites(String),
    /// No round of the federation made a model.
    #[error("no round of {rounds} made a model; the last one failed because {reason}")]
    NoRound {
        /// Rounds.
        rounds: u32,
        /// Why the last one failed, with each site's reason.
        reason: String,
    },
    /// The folder holds a run of another configuration.
    #[error(
        "{out} holds a run with another configuration: {key} was {before}, now it is {now}. Choose another folder, or the old value to go on"
    )]
    OtherConfig {
        /// The run's folder.
        out: PathBuf,
        /// `section.key`.
        key: String,
        /// Value in the folder.
        before: String,
        /// Value asked for.
        now: String,
    },
    /// The folder holds a run that started from another model, other rows or another adapter.
    #[error("{out} holds a run that started from another {what}; choose another folder")]
    OtherInputs {
        /// The run's folder.
        out: PathBuf,
        /// What differs.
        what: &'static str,
    },
    /// Somebody asked to stop; the same call goes on from here.
    #[error("stopped; {out} can be resumed")]
    Stopped {
        /// The run's folder.
        out: PathBuf,
    },
    /// An export that cannot be made.
    #[error("export: {0}")]
    Export(String),
}

impl ExperimentError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), source }
    }

    pub(crate) fn broken(path: &Path, reason: impl std::fmt::Display) -> Self {
        Self::Broken { path: path.to_owned(), reason: reason.to_string() }
    }

    pub(crate) fn engine(what: impl Into<String>) -> impl FnOnce(EngineError) -> Self {
        let what = what.into();
        move |source| Self::Engine { what, source }
    }
}
