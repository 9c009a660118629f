//! The driver: base, local, federated and pooled training compared on the same questions, in one run folder.
//!
//! This crate opens files and starts threads, and knows no socket, database or terminal.
//!
//! | module | what |
//! |---|---|
//! | [`config`] | the resolved configuration of a run, with presets and checks |
//! | [`inputs`] | the base model, its tokenizer, the rows of each site |
//! | [`budget`] | equal budgets for the models that are compared |
//! | [`engines`] | engines that threads borrow |
//! | `transport`, `federated` | sites and coordinator in one process |
//! | [`evaluate`] | asking the questions |
//! | [`simulate`](mod@simulate) | the whole comparison, stage by stage |
//! | [`train`](mod@train) | one training without a federation |
//! | [`hospital`] | one site's part in a session that somebody else coordinates |
//! | [`export`] | adapters and merged models for other programs |
//! | `checkpoint`, [`run_folder`], [`durable`] | what is kept, and how it survives a stop |
//! | `summary` | predictions and events become `summary.json` and the report |
//! | [`machine`] | memory used, and what machine this is |

pub mod budget;
mod checkpoint;
pub mod config;
pub mod durable;
pub mod engines;
mod error;
pub mod evaluate;
pub mod export;
mod federated;
pub mod hospital;
pub mod inputs;
pub mod machine;
pub mod run_folder;
pub mod simulate;
mod summary;
pub mod train;
mod transport;

pub use config::{Config, ConfigError, Preset};
pub use error::ExperimentError;
pub use evaluate::{Asking, answer};
pub use inputs::{Inputs, SiteData};
pub use simulate::simulate;
pub use train::{TrainInputs, Trained, train};
