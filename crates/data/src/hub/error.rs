//! What the hub can refuse, and what a user can do about it.

use std::path::PathBuf;

use hf_hub::api::sync::ApiError;

/// An error of the hub or its cache.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// 401 or 403.
    #[error(
        "{what}: access denied ({status}). Check the id; if it is right, the repository is private or gated: accept its \
         terms on its page and set HF_TOKEN"
    )]
    Denied {
        /// Repository, or file of one.
        what: String,
        /// HTTP status.
        status: u16,
    },
    /// 404.
    #[error("{what}: not found (404); check the id{}", revision_hint(revision))]
    NotFound {
        /// Repository, or file of one.
        what: String,
        /// Revision asked for.
        revision: String,
    },
    /// Any other status that is no success.
    #[error("{what}: the hub answered with status {status}; try again later")]
    Status {
        /// Repository, or file of one.
        what: String,
        /// HTTP status.
        status: u16,
    },
    /// No connection, and the cache does not help.
    #[error("{what}: cannot reach {endpoint} ({reason}), and it is not in the cache {}", cache.display())]
    Unreachable {
        /// Repository, or file of one.
        what: String,
        /// Address of the hub.
        endpoint: String,
        /// What the client said.
        reason: String,
        /// The cache.
        cache: PathBuf,
    },
    /// Offline, and the cache does not have it.
    #[error(
        "{what}: not in the cache {}, and HF_HUB_OFFLINE forbids asking the hub; unset it, or copy the cache from a \
         machine that has it",
        cache.display()
    )]
    NotCached {
        /// Repository, or file of one.
        what: String,
        /// The cache.
        cache: PathBuf,
    },
    /// The repository has no such file.
    #[error("{what}: the repository has no file {name}")]
    NoFile {
        /// Repository.
        what: String,
        /// The file.
        name: String,
    },
    /// A download broke off, or came out wrong.
    #[error("{what}: the download is broken ({reason}). It was discarded; run the command again")]
    Broken {
        /// File of a repository.
        what: String,
        /// How it is broken.
        reason: String,
    },
    /// Something else between the hub and the cache.
    #[error("{what}: {reason}")]
    Other {
        /// Repository, or file of one.
        what: String,
        /// What was said.
        reason: String,
    },
}

fn revision_hint(revision: &str) -> String {
    if revision == "main" { String::new() } else { format!(" and the revision `{revision}`") }
}

/// What went wrong, sorted by what to do next.
pub(super) enum Cause {
    Status(u16),
    /// The hub was not reached at all.
    Unreachable(String),
    /// A transfer broke off.
    Interrupted(String),
    /// What an earlier run left behind does not fit.
    BadResume,
    Other(String),
}

impl Cause {
    pub(super) fn of_api(error: ApiError) -> Cause {
        match error {
            ApiError::RequestError(error) => Cause::of_request(*error),
            ApiError::TooManyRetries(error) => Cause::of_api(*error),
            ApiError::IoError(error) => Cause::of_io(&error),
            ApiError::InvalidResume => Cause::BadResume,
            ApiError::LockAcquisition(path) => {
                Cause::Other(format!("another process is downloading it ({} is locked)", path.display()))
            }
            other => Cause::Other(other.to_string()),
        }
    }

    pub(super) fn of_request(error: ureq::Error) -> Cause {
        match error {
            // Asking for what comes after the last byte: an earlier run had all of it.
            ureq::Error::StatusCode(416) => Cause::BadResume,
            ureq::Error::StatusCode(status) => Cause::Status(status),
            ureq::Error::Io(error) => Cause::of_io(&error),
            ureq::Error::HostNotFound | ureq::Error::ConnectionFailed | ureq::Error::Timeout(_) => {
                Cause::Unreachable(error.to_string())
            }
            other => Cause::Other(other.to_string()),
        }
    }

    fn of_io(error: &std::io::Error) -> Cause {
        use std::io::ErrorKind as Is;
        match error.kind() {
            Is::ConnectionRefused | Is::NetworkUnreachable | Is::HostUnreachable | Is::TimedOut => {
                Cause::Unreachable(error.to_string())
            }
            Is::UnexpectedEof | Is::ConnectionReset | Is::ConnectionAborted | Is::BrokenPipe => {
                Cause::Interrupted(error.to_string())
            }
            _ => Cause::Other(error.to_string()),
        }
    }
}
