//! The server of a federation.
//!
//! [`core`] holds what the server knows; its commands are spread over `enrolment`, `sessions` and `uploads`, and
//! `driver` moves the rounds on. `grpc` and `http` translate between the wire and these commands.

pub mod backup;
mod blobs;
mod board;
mod connections;
pub mod core;
mod driver;
pub mod enrolment;
mod grpc;
pub mod http;
pub mod library;
mod listen;
mod metrics;
pub mod sessions;
pub mod spec;
pub mod store;
pub mod tls;
pub mod uploads;
pub mod views;

pub use blobs::Blobs;
pub use core::{Core, CoreSettings, Principal};
pub use listen::{ServeOptions, Server};
pub use metrics::Counters;
pub use spec::{Roster, SessionSpec};
