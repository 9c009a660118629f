//! Plain values, formats and seams that every other Consilium crate shares.
//!
//! Nothing here opens a file or a socket, starts a thread or reads a clock: functions map bytes to values and
//! back, and traits say what an engine or a sink must do. What crosses a crate border is defined here once.
//!
//! | module | what |
//! |---|---|
//! | [`adapter`] | the unit of exchange: ordered, named f32 tensors |
//! | [`lora`] | which LoRA is trained: rank, alpha, dropout, targets |
//! | [`peft`], [`npz`] | an adapter as PEFT files, as a numpy archive |
//! | [`gguf`] | a whole model as the one file that llama.cpp reads |
//! | [`batch`] | packed token sequences with targets and loss weights |
//! | [`engine`] | what a training engine can do, whatever device it runs on |
//! | [`schedule`] | the learning rate as a function of the step |
//! | [`metric`] | progress and numbers leave through one [`metric::Sink`] |
//! | [`rng`] | every random stream, derived from seed, round, site and purpose |
//! | [`stop`] | the polite request to stop after the current step |

pub mod adapter;
pub mod batch;
pub mod engine;
pub mod gguf;
pub mod hash;
pub mod lora;
pub mod metric;
pub mod npz;
pub mod peft;
pub mod rng;
pub mod schedule;
pub mod stop;

pub use adapter::{Adapter, AdapterError, Tensor};
pub use batch::Batch;
pub use engine::{Decoding, Engine, EngineError, Generation, ModelInfo, Precision, StepStats, TrainSettings};
pub use lora::{LoraConfig, Target};
pub use metric::{Event, Sink};
pub use rng::SeededRng;
pub use schedule::{Schedule, ScheduleKind};
pub use stop::StopFlag;
