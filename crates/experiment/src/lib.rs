//! The driver: base, local, federated and pooled training compared on the same questions, in one run folder.
//!
//! This crate opens files and starts threads, and knows no socket, database or terminal.
//!
//! | module | what |
//! |---|---|
//! | [`config`] | the resolved configuration of a run, with presets and checks |

pub mod config;

pub use config::{Config, ConfigError, Preset};
