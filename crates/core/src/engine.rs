//! What a training engine can do, whatever device it runs on.
//!
//! The trait is coarse on purpose (whole steps, whole generations), so that an engine on another device can stand
//! beside the CPU one. It knows tokens, not text, and tasks, not rounds.

use serde::{Deserialize, Serialize};

use crate::adapter::{Adapter, AdapterError, Tensor};
use crate::batch::Batch;

/// Why an engine could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The adapter does not fit the model.
    #[error("adapter does not fit the model: {0}")]
    Adapter(#[from] AdapterError),
    /// A token id beyond the vocabulary.
    #[error("token id {id} at position {position} is outside the vocabulary of {vocab}")]
    TokenOutOfRange {
        /// The id.
        id: u32,
        /// Its place in the batch or prompt.
        position: usize,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// A sequence longer than the model's context.
    #[error("sequence of {tokens} tokens exceeds the model's context of {limit}")]
    TooLong {
        /// Tokens in the sequence.
        tokens: usize,
        /// `max_position_embeddings`.
        limit: usize,
    },
    /// The loss or a gradient became NaN or infinite; the step was not applied.
    #[error(
        "{what} is {value} at optimiser step {step}; the step was not applied. Lower the learning rate or check the data"
    )]
    Diverged {
        /// `loss` or `gradient norm`.
        what: &'static str,
        /// The value.
        value: f64,
        /// Optimiser step, from 0.
        step: u64,
    },
    /// A call that makes no sense, such as a step without any token that carries loss.
    #[error("{0}")]
    Invalid(String),
}

/// What is being trained, for reports and checks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// Directory name or hub id.
    pub id: String,
    /// Parameters of the frozen base; tied embeddings count once.
    pub parameters: usize,
    /// Parameters of the adapter.
    pub trainable: usize,
    /// SHA-256 of the base: over the weight files, in name order.
    pub sha256: String,
    /// Longest sequence, tokens.
    pub context: usize,
    /// Size of the vocabulary.
    pub vocab: usize,
}

/// In what numbers the frozen base takes part in products. Adapters, activations between products and the optimiser
/// are f32 in both cases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Exactly as the model's files have it, multiplied in f32.
    #[default]
    F32,
    /// 8-bit weights and, inside each product, 8-bit activations and output gradients: faster and smaller, with an
    /// error of its own.
    Int8,
}

/// AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) and the rest of what one training run holds fixed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainSettings {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Clip the gradient's global L2 norm to this; 0 switches clipping off.
    pub max_grad_norm: f64,
    /// Seed of the dropout masks; masks depend on it and on the optimiser step, micro-batch, layer and module only.
    pub dropout_seed: u64,
}

impl Default for TrainSettings {
    /// PyTorch's AdamW and Hugging Face Trainer's clip: (0.9, 0.999), 1e-8, weight decay 0, norm 1.
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            dropout_seed: 0,
        }
    }
}

/// What one optimiser step did.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepStats {
    /// Weighted mean of the token losses over the accumulated batch, nats, before the update.
    pub loss: f64,
    /// Global L2 norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Tokens of the batches as given; an engine may compute what rows have in common once.
    pub tokens: usize,
    /// Wall time, seconds.
    pub seconds: f64,
}

/// Loss over some batches without training (dropout off).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Loss {
    /// Sum over tokens of weight times cross-entropy, nats.
    pub sum: f64,
    /// Sum of the weights.
    pub weight: f64,
}

impl Loss {
    /// The weighted mean, nats per token; NaN when no token carries weight.
    pub fn mean(&self) -> f64 {
        self.sum / self.weight
    }
}

/// How text is continued. The defaults are greedy without a penalty.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decoding {
    /// Tokens to add at most, per prompt.
    pub max_new_tokens: usize,
    /// 0 is greedy; otherwise logits are divided by it before sampling.
    pub temperature: f32,
    /// Sample among the k most likely tokens; 0 is all.
    pub top_k: usize,
    /// Sample among the fewest tokens whose probabilities reach this; 1 is all.
    pub top_p: f32,
    /// Divide positive and multiply negative logits of tokens already seen by this (Keskar et al. 2019,
    /// arXiv:1909.05858, in the form of `transformers`); 1 is off.
    pub repetition_penalty: f32,
    /// Ids that end the text; they are not part of the result.
    pub stop_ids: Vec<u32>,
    /// Seed for sampling; each prompt has its own stream, so results do not depend on the batch.
    pub seed: u64,
}

impl Default for Decoding {
    fn default() -> Self {
        Self {
            max_new_tokens: 128,
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            repetition_penalty: 1.0,
            stop_ids: Vec::new(),
            seed: 0,
        }
    }
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// A stop id, or the caller's watcher said so.
    Stop,
    /// `max_new_tokens` was reached.
    Length,
    /// The model's context is full.
    Context,
}

/// The continuation of one prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Generation {
    /// New ids, without the prompt and without the stop id.
    pub ids: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
}

/// Everything besides the adapter that a stopped run needs to go on with the same bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct OptimiserState {
    /// Optimiser steps done.
    pub step: u64,
    /// First moments, named as the adapter's tensors.
    pub first_moments: Vec<Tensor>,
    /// Second moments, named as the adapter's tensors.
    pub second_moments: Vec<Tensor>,
}

/// Sees each new token: `(prompt index, ids so far)`; returning `false` ends that prompt.
pub type Watcher<'a> = &'a mut dyn FnMut(usize, &[u32]) -> bool;

/// A frozen language model with one trainable LoRA adapter.
pub trait Engine: Send {
    /// Facts of the model.
    fn info(&self) -> &ModelInfo;

    /// The adapter as it is now.
    fn adapter(&self) -> Adapter;

    /// Replaces the adapter; the optimiser's state stays.
    ///
    /// # Errors
    /// When names or shapes are not exactly this model's.
    fn set_adapter(&mut self, adapter: &Adapter) -> Result<(), EngineError>;

    /// Starts a training run: fresh optimiser state, step 0.
    fn begin(&mut self, settings: &TrainSettings);

    /// One optimiser step over the accumulated `micro_batches` at learning rate `rate`. The loss is
    /// `sum(w l) / sum(w)` over all of them together.
    ///
    /// # Errors
    /// Bad tokens or lengths, no token with weight, or divergence; in every case adapter and optimiser are unchanged.
    fn step(&mut self, micro_batches: &[Batch], rate: f64) -> Result<StepStats, EngineError>;

    /// The optimiser's state, to be kept beside the adapter.
    fn optimiser_state(&self) -> OptimiserState;

    /// Goes on from a kept state, after [`Engine::begin`] and [`Engine::set_adapter`].
    ///
    /// # Errors
    /// When names or shapes are not exactly this adapter's.
    fn restore_optimiser(&mut self, state: &OptimiserState) -> Result<(), EngineError>;

    /// Loss of `batch` with dropout off.
    ///
    /// # Errors
    /// Bad tokens or lengths.
    fn loss(&mut self, batch: &Batch) -> Result<Loss, EngineError>;

    /// Log-probability (nats) of each target, `(t)`; 0 where the weight is 0.
    ///
    /// # Errors
    /// Bad tokens or lengths.
    fn score(&mut self, batch: &Batch) -> Result<Vec<f32>, EngineError>;

    /// Continues every prompt; results in prompt order. `watch` sees every new token, including a stop id's absence:
    /// it is called after each appended token and may end that prompt.
    ///
    /// # Errors
    /// An empty prompt, bad tokens, or a prompt that fills the context.
    fn generate(
        &mut self,
        prompts: &[Vec<u32>],
        decoding: &Decoding,
        watch: Watcher<'_>,
    ) -> Result<Vec<Generation>, EngineError>;
}
