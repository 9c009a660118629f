//! What a configuration will need: parameters, memory, bytes on the wire, arithmetic. All counted, nothing measured.

use consilium_core::{LoraConfig, Precision};
use consilium_engine::LlamaConfig;
use consilium_experiment::Config;
use consilium_experiment::config::PartitionConfig;
use consilium_federation::LocalWork;
use serde::Serialize;

/// Needs of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Needs {
    /// Parameters of the base.
    pub parameters: u64,
    /// Parameters of one adapter.
    pub trainable: u64,
    /// The base in f32.
    pub base_f32_bytes: u64,
    /// The base in bf16, as it is usually published.
    pub base_bf16_bytes: u64,
    /// The base in 8 bits.
    pub base_int8_bytes: u64,
    /// The base as training holds it: packed for both directions, 16 bits wide (a file of f32 takes twice that) or 8, and
    /// the embedding once more.
    pub base_held_bytes: u64,
    /// Adapter, gradient and both moments of the optimiser.
    pub optimiser_bytes: u64,
    /// Activations of one micro-batch, kept for the backward pass.
    pub activation_bytes: u64,
    /// Keys and values while answering questions.
    pub cache_bytes: u64,
    /// The most of all this at one time.
    pub peak_bytes: u64,
    /// One update of one site.
    pub update_bytes: u64,
    /// All updates and all models sent, over all rounds.
    pub session_bytes: u64,
    /// What the session would send if whole models travelled.
    pub full_model_session_bytes: u64,
    /// Row passes through training: federated, local and pooled.
    pub row_passes: u64,
    /// Questions to answer, all models together.
    pub questions: u64,
    /// Tokens of a row.
    pub tokens_per_row: u64,
    /// Floating-point operations of training.
    pub training_flops: f64,
    /// Floating-point operations of answering, a lower bound: decoding is bound by memory.
    pub answering_flops: f64,
}

/// Sizes of the work.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// Sites of the session.
    pub sites: u64,
    /// Training rows of each.
    pub rows_per_site: u64,
    /// Tokens of a row, on average.
    pub tokens_per_row: u64,
    /// Tokens of an answer, on average.
    pub tokens_per_answer: u64,
}

impl Needs {
    /// Counts what `config` needs on a model of shape `model`.
    pub fn of(model: &LlamaConfig, config: &Config, work: Work) -> Self {
        let parameters = parameters(model);
        let trainable = trainable(model, &config.lora);
        let adapter_bytes = trainable * 4;
        let rounds = u64::from(config.federation.rounds);
        let asked = config.federation.asked(work.sites as usize) as u64;
        let passes = match config.federation.local_work() {
            LocalWork::Epochs(epochs) => rounds * u64::from(epochs) * work.rows_per_site,
            LocalWork::Steps(steps) => {
                rounds * steps * (config.train.micro_batch * config.train.accumulation) as u64
            }
        };
        // Each site for itself, in the federation, and in the pooled model at equal budget.
        let row_passes = 3 * work.sites * passes;
        let asked_of_each = config.eval.questions_per_site.unwrap_or(config.data.test_rows) as u64;
        // Base, federated, pooled and every local model answer all questions.
        let questions = (3 + work.sites) * work.sites * asked_of_each;

        let micro_tokens = config.train.micro_batch as u64 * work.tokens_per_row;
        let activation_bytes = activation_bytes(model, &config.lora, micro_tokens);
        let cached = config.eval.batch as u64 * (work.tokens_per_row + work.tokens_per_answer);
        let cache_bytes = cached * 2 * (model.layers * model.kv_dim()) as u64 * 4;
        let optimiser_bytes = 4 * adapter_bytes;
        let base_f32_bytes = parameters * 4;
        let base_held_bytes = base_held_bytes(model, config.model.precision);
        let flops_per_token = 2.0 * matmul_parameters(model) as f64;
        let exchanges = 2 * rounds * asked;
        Self {
            parameters,
            trainable,
            base_f32_bytes,
            base_bf16_bytes: parameters * 2,
            base_int8_bytes: parameters,
            base_held_bytes,
            optimiser_bytes,
            activation_bytes,
            cache_bytes,
            peak_bytes: base_held_bytes + optimiser_bytes + activation_bytes.max(cache_bytes),
            update_bytes: adapter_bytes,
            session_bytes: exchanges * adapter_bytes,
            full_model_session_bytes: exchanges * base_f32_bytes,
            row_passes,
            questions,
            tokens_per_row: work.tokens_per_row,
            // Forward once, backward once through activations only: frozen weights have no gradient.
            training_flops: 2.0 * flops_per_token * (row_passes * work.tokens_per_row) as f64,
            answering_flops: flops_per_token
                * (questions * (work.tokens_per_row + work.tokens_per_answer)) as f64,
        }
    }
}

/// Sites that the configuration names or makes; `None` when only the data can tell.
pub fn sites(config: &Config) -> Option<u64> {
    match &config.data.partition {
        PartitionConfig::Category if config.data.sites.is_empty() => None,
        PartitionConfig::Category => Some(config.data.sites.len() as u64),
        PartitionConfig::Iid { sites } | PartitionConfig::Dirichlet { sites, .. } => Some(*sites as u64),
        PartitionConfig::Sizes { rows } => Some(rows.len() as u64),
    }
}

/// Parameters in matrices that a token is multiplied with: all but the embedding's look-up and the norms.
fn matmul_parameters(model: &LlamaConfig) -> u64 {
    let (c, f) = (model.hidden_size, model.intermediate_size);
    let block = c * model.qkv_dim() + model.q_dim() * c + 3 * c * f;
    (model.layers * block + model.vocab_size * c) as u64
}

/// What the frozen base takes while something trains on it.
fn base_held_bytes(model: &LlamaConfig, precision: Precision) -> u64 {
    let each = match precision {
        Precision::F32 => 2,
        Precision::Int8 => 1,
    };
    2 * each * matmul_parameters(model) + 2 * (model.vocab_size * model.hidden_size) as u64
}

/// All parameters of the base; a tied head counts once.
pub fn parameters(model: &LlamaConfig) -> u64 {
    let c = model.hidden_size;
    let norms = (2 * model.layers + 1) * c;
    let biases =
        model.layers * (if model.qkv_bias { model.qkv_dim() } else { 0 } + if model.o_bias { c } else { 0 });
    let embedding = if model.tied { 0 } else { model.vocab_size * c };
    matmul_parameters(model) + (norms + biases + embedding) as u64
}

fn trainable(model: &LlamaConfig, lora: &LoraConfig) -> u64 {
    use consilium_core::Target;
    let (c, f, q, kv) = (model.hidden_size, model.intermediate_size, model.q_dim(), model.kv_dim());
    let extents = |target: &Target| match target {
        Target::Q => c + q,
        Target::K | Target::V => c + kv,
        Target::O => q + c,
        Target::Gate | Target::Up | Target::Down => c + f,
    };
    (model.layers * lora.rank * lora.targets.iter().map(extents).sum::<usize>()) as u64
}

/// What the forward pass keeps for the backward pass, and the buffers of one block's gradient, in f32.
fn activation_bytes(model: &LlamaConfig, lora: &LoraConfig, tokens: u64) -> u64 {
    let (c, f, w, q) = (model.hidden_size, model.intermediate_size, model.qkv_dim(), model.q_dim());
    let kept = 2 * c + w + q + model.heads + 2 * f + lora.rank * lora.targets.len();
    let passing = 6 * c + w + q + 3 * f;
    tokens * (model.layers * kept + passing) as u64 * 4
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMOLLM2: &str = super::super::SMOLLM2_135M;

    #[test]
    fn the_reference_experiment_counts_as_published() {
        let model = LlamaConfig::parse(SMOLLM2).unwrap();
        let work = Work { sites: 5, rows_per_site: 150, tokens_per_row: 120, tokens_per_answer: 30 };
        let needs = Needs::of(&model, &Config::default(), work);
        assert_eq!((needs.parameters, needs.trainable), (134_515_008, 460_800));
        assert_eq!(needs.update_bytes, 1_843_200);
        assert_eq!(needs.session_bytes, 2 * 5 * 5 * 1_843_200);
        assert_eq!(needs.row_passes, 3 * 5 * 5 * 150);
        assert_eq!(needs.questions, 8 * 500);
    }

    #[test]
    fn sampled_sites_send_less() {
        let model = LlamaConfig::parse(SMOLLM2).unwrap();
        let work = Work { sites: 5, rows_per_site: 10, tokens_per_row: 10, tokens_per_answer: 10 };
        let mut config = Config::default();
        config.federation.sites_per_round = Some(2);
        assert_eq!(Needs::of(&model, &config, work).session_bytes, 2 * 2 * 5 * 1_843_200);
    }
}
