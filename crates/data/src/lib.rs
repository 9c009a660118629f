//! Rows to token batches: reading, partitioning, templates, tokenising, packing.
//!
//! A question-answer row enters as a line of a file or of a hub dataset and leaves as packed tokens with loss weights:
//!
//! | step | in -> out | module |
//! |---|---|---|
//! | find | path or hub id -> data files of one split | [`source`], [`hub`], [`splits`], [`card`] |
//! | read | file -> [`Example`]s, bad rows counted | [`read`](mod@read), [`table`] |
//! | partition | examples -> one [`Shard`] per site | [`partition`](mod@partition) |
//! | carry | shards -> a CSV file for each site | [`write`](mod@write) |
//! | split | shard -> training, validation and test rows | [`split`](mod@split) |
//! | template | example -> prompt and completion | [`template`] |
//! | encode | text -> [`Tokens`] | [`tokenizer`] |
//! | pack | tokens -> [`Batch`](consilium_core::Batch)es, by step | [`plan`] |
//!
//! [`inspect`](mod@inspect) shows all of it for a data set. Orders that Python's `datasets` would give come from
//! [`numpy_rng`].
//!
//! This crate does not know models, gradients or rounds. Its rows stay here: no type that travels between sites can
//! hold the text of one.

pub mod card;
pub mod error;
pub mod example;
pub mod hub;
pub mod inspect;
pub mod numpy_rng;
pub mod partition;
pub mod plan;
pub mod read;
pub mod source;
pub mod split;
pub mod splits;
pub mod table;
pub mod template;
pub mod tokenizer;
pub mod write;

pub use error::DataError;
pub use example::{Columns, Example};
pub use hub::{Hub, HubError, HubSettings};
pub use inspect::{Inspection, View, inspect};
pub use numpy_rng::{permutation, select, shuffle};
pub use partition::{Partition, Shard, partition};
pub use plan::TrainingPlan;
pub use read::{BadRow, ColumnsUsed, ReadOptions, ReadReport, read};
pub use split::{Split, split};
pub use template::Template;
pub use tokenizer::{Encoded, TextTokenizer, Tokens};
pub use write::{SiteFiles, file_name, write_sites};
