//! A Llama-family language model with one trainable LoRA adapter, on a CPU, in f32.
//!
//! Forward and backward are written out by hand over flat buffers: a frozen matrix has no weight gradient by
//! construction, logits of a whole batch never exist at once, and no row is padded. The engine knows tokens and
//! tensors; it knows nothing of text, rounds, sites or files other than a model's own.
//!
//! # Letters
//!
//! Shapes in comments use one letter for each extent; buffers are row-major.
//!
//! | letter | extent |
//! |---|---|
//! | `t` | tokens of a packed batch, all sequences together |
//! | `c` | hidden size |
//! | `h`, `g` | query heads, key-value heads |
//! | `d` | head size |
//! | `w` | width of the joint projection, `(h + 2 g) d` |
//! | `f` | intermediate size |
//! | `v` | vocabulary |
//! | `r` | LoRA rank |
//!
//! # Where to look
//!
//! | module | what |
//! |---|---|
//! | [`config`] | `config.json` in both of Hugging Face's layouts |
//! | [`weights`] | safetensors, memory-mapped and checked name by name |
//! | [`model`] | the frozen base |
//! | `linear` | a frozen layer, packed in both orientations |
//! | [`lora`] | where each factor lies in the flat adapter |
//! | `kernels` | one file per operation: forward, backward, reference, test |
//! | `plan` | a batch's tokens, with a common beginning only once |
//! | `forward`, `backward` | the transformer on one screen each |
//! | [`engine`] | [`CpuEngine`]: steps, loss, scores |
//! | [`probe`] | what this machine could do at best, and each kernel alone |
//! | `generate` | decoding with a paged key-value cache; a shared beginning is computed once |
//!
//! # Determinism
//!
//! Work is cut into pieces by shape, never by thread count, and every sum has a fixed order: the same inputs give
//! the same bytes on one thread and on many.

mod backward;
pub mod config;
pub mod engine;
mod forward;
mod generate;
mod kernels;
mod linear;
pub mod lora;
pub mod model;
mod plan;
pub mod probe;
mod sampling;
mod threads;
pub mod weights;

pub use config::LlamaConfig;
pub use engine::CpuEngine;
pub use kernels::isa::Isa;
pub use lora::initial_adapter;
pub use model::{BaseInfo, Model, ModelError};
