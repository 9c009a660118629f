//! The hospital's side of the wire.
//!
//! A [`Remote`] blocks its caller and keeps its own small runtime, so that the thread that trains can use it as the
//! [`Transport`](consilium_federation::Transport) that it is. It gives up only when the server says something final or
//! somebody asks it to stop; a server that cannot be reached is waited for.
//!
//! | module | what |
//! |---|---|
//! | `credentials` | who this site is and which server it trusts, in a file |
//! | `link` | one connection, and the patience to make it again |
//! | `account` | calls as a site: enrolment, tokens and their renewal |
//! | `remote` | what a caller sees: connect, attend, report, the last model |
//! | `transport` | tasks: asked for, checked against the server's key, answered |
//! | `models` | models on their way in, resumable and checked |
//! | `outbox` | finished updates that no crash loses |
//! | `deliver` | an update on its way out, resumable and exactly once |
//! | `dry_run` | every field that would leave, without leaving |

mod account;
mod credentials;
mod deliver;
mod dry_run;
mod link;
mod models;
mod outbox;
mod remote;
mod transport;

use std::fmt;
use std::time::Duration;

pub use credentials::Credentials;
pub use dry_run::{DryField, DryMessage, DryRun, DryRunOptions, dry_run};
pub use link::{ClientTls, STOPPED, WireBytes};
pub use remote::{AttendedSession, ConnectOptions, Ended, Remote, ServerHello};

pub use crate::proto::{Score, SessionStatus};

/// What a connection goes through, for progress lines and logs. Holds no secret.
#[derive(Clone, Debug, PartialEq)]
pub enum ClientEvent {
    /// The server answers, for the first time or again.
    Connected,
    /// The server no longer answers.
    Lost {
        /// Why, for people.
        reason: String,
    },
    /// It is asked again after a pause.
    Retrying {
        /// Attempts since it last answered.
        attempt: u32,
        /// The pause.
        pause: Duration,
    },
    /// The access token had expired and was replaced.
    Refreshed,
    /// The server has no task yet.
    Waiting {
        /// Why, in the server's words.
        why: String,
    },
    /// A model is here, whole and checked.
    Downloaded {
        /// Bytes that came over the wire for it; fewer than its size when a part was here already.
        bytes: u64,
    },
    /// An upload that had broken off goes on.
    ResumedUpload {
        /// Round of the update.
        round: u32,
        /// First byte that is sent.
        offset: u64,
    },
    /// An update's bytes are at the server.
    Uploaded {
        /// Round of the update.
        round: u32,
        /// Bytes of its archive that were sent since the last such event.
        bytes: u64,
    },
    /// An update that lay in the outbox from an earlier run of the program was answered.
    Delivered {
        /// Round of the update.
        round: u32,
        /// `accepted`, or the reason's word with what the server said.
        outcome: String,
    },
    /// A file in the outbox was damaged and is gone; its round is trained again if it is still open.
    Dropped {
        /// The file and what was wrong with it.
        what: String,
    },
}

impl fmt::Display for ClientEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connected => f.write_str("connected"),
            Self::Lost { reason } => write!(f, "connection lost: {reason}"),
            Self::Retrying { attempt, pause } => {
                write!(f, "attempt {attempt} in {:.1} s", pause.as_secs_f64())
            }
            Self::Refreshed => f.write_str("access token renewed"),
            Self::Waiting { why } => write!(f, "waiting: {why}"),
            Self::Downloaded { bytes } => write!(f, "model received, {bytes} bytes"),
            Self::ResumedUpload { round, offset } => {
                write!(f, "upload of round {round} goes on at byte {offset}")
            }
            Self::Uploaded { round, bytes } => write!(f, "update of round {round} sent, {bytes} bytes"),
            Self::Delivered { round, outcome } => {
                write!(f, "update of round {round} from an earlier run: {outcome}")
            }
            Self::Dropped { what } => write!(f, "outbox: {what}; dropped"),
        }
    }
}
