//! What can go wrong between machines, with what was found and where.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use consilium_core::AdapterError;

/// Why a server or a client could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// A file or folder.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The database.
    #[error("database: {0}")]
    Database(#[from] rusqlite::Error),
    /// Something kept does not read back as it was written.
    #[error("{what} is damaged: {reason}")]
    Corrupt {
        /// The file or row.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The store has failed before; until a restart nothing is acknowledged.
    #[error("the store failed and takes nothing more until the server is restarted: {0}")]
    StoreDown(String),
    /// An adapter does not fit.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// No such session, site or model.
    #[error("no {what} called {name}")]
    NotFound {
        /// `session`, `site` or `model`.
        what: &'static str,
        /// The name that was asked for.
        name: String,
    },
    /// The request makes no sense, or not now.
    #[error("{0}")]
    Invalid(String),
    /// The credential does not allow it.
    #[error("{0}")]
    Denied(String),
    /// No credential, or one that is unknown, expired or revoked.
    #[error("{0}")]
    Unauthenticated(String),
    /// The other side's signature or certificate is not the expected one.
    #[error("{0}")]
    Untrusted(String),
    /// The other side speaks another language.
    #[error("protocol: {0}")]
    Protocol(String),
    /// The other side cannot be reached, or asked to come back later.
    #[error("{0}")]
    Unavailable(String),
    /// A fault of this program.
    #[error("internal: {0}")]
    Internal(String),
}

impl NetError {
    /// Names the path of an I/O error.
    pub fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    /// Something kept that does not read back.
    pub fn corrupt(what: impl Display, reason: impl Display) -> Self {
        Self::Corrupt { what: what.to_string(), reason: reason.to_string() }
    }

    /// Whether the store itself is in doubt: nothing may be acknowledged then.
    pub fn is_storage(&self) -> bool {
        matches!(self, Self::Io { .. } | Self::Database(_) | Self::Corrupt { .. } | Self::StoreDown(_))
    }
}
