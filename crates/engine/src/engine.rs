//! [`CpuEngine`]: a shared frozen model, one adapter, one optimiser.

use std::sync::Arc;
use std::time::Instant;

use consilium_core::adapter::Adapter;
use consilium_core::batch::Batch;
use consilium_core::engine::{
    Decoding, Engine, EngineError, Generation, Loss, ModelInfo, OptimiserState, StepStats, TrainSettings,
    Watcher,
};
use consilium_core::lora::LoraConfig;

use crate::backward::backward;
use crate::forward::{Pass, Workspace, fit, forward};
use crate::generate::generate;
use crate::kernels::adamw::{AdamStep, adamw};
use crate::kernels::dropout::DropoutKey;
use crate::kernels::loss::{Rows, head_loss};
use crate::kernels::rmsnorm::{rmsnorm_backward, rmsnorm_forward};
use crate::kernels::rope::RopeTable;
use crate::lora::LoraLayout;
use crate::model::Model;
use crate::threads::Threads;

/// Rates and clipped gradients up to here keep adapter and moments finite: their squares are below f32's 3.4e38.
const LARGEST: f64 = 1e18;

/// LoRA training and generation on the CPU.
pub struct CpuEngine {
    model: Arc<Model>,
    lora: LoraConfig,
    layout: LoraLayout,
    info: ModelInfo,
    threads: Threads,
    params: Vec<f32>,
    moments: [Vec<f32>; 2],
    settings: TrainSettings,
    step: u64,
    rope: RopeTable,
    work: Workspace,
    head: HeadWork,
}

/// Buffers around the head: the chosen rows, their targets and log-probabilities.
#[derive(Default)]
struct HeadWork {
    rows: Vec<usize>,
    targets: Vec<u32>,
    hidden: Vec<f32>,
    d_hidden: Vec<f32>,
    factors: Vec<f32>,
    log_probabilities: Vec<f32>,
    logits: Vec<f32>,
}

impl CpuEngine {
    /// An engine on `model` with an all-zero adapter of `lora`, which computes exactly the base model. Training
    /// starts from [`crate::initial_adapter`].
    ///
    /// # Errors
    /// When `lora` is out of range or the system refuses to start threads.
    pub fn new(model: Arc<Model>, lora: &LoraConfig, threads: usize) -> Result<Self, EngineError> {
        lora.validate().map_err(EngineError::Invalid)?;
        let config = model.config();
        let layout = LoraLayout::new(config, lora);
        let base = model.info();
        let info = ModelInfo {
            id: base.id,
            parameters: base.parameters,
            trainable: layout.total(),
            sha256: base.sha256,
            context: config.max_positions,
            vocab: config.vocab_size,
        };
        let threads = Threads::new(threads)
            .map_err(|e| EngineError::Invalid(format!("cannot start {threads} threads: {e}")))?;
        Ok(Self {
            rope: RopeTable::new(config.rope_frequencies()),
            params: vec![0.0; layout.total()],
            moments: [vec![0.0; layout.total()], vec![0.0; layout.total()]],
            lora: lora.clone(),
            settings: TrainSettings::default(),
            step: 0,
            work: Workspace::default(),
            head: HeadWork::default(),
            model,
            layout,
            info,
            threads,
        })
    }

    /// Checks ids and lengths of a batch, so that the kernels need not.
    fn check(&self, batch: &Batch) -> Result<(), EngineError> {
        let t = batch.tokens();
        let whole = batch.seq_starts.first() == Some(&0)
            && batch.seq_starts.last() == Some(&(t as u32))
            && batch.seq_starts.windows(2).all(|w| w[0] < w[1]);
        if !whole || batch.targets.len() != t || batch.weights.len() != t {
            return Err(EngineError::Invalid(
                "a batch's sequences, targets and weights must cover its tokens".into(),
            ));
        }
        if let Some(longest) = batch.ranges().map(|r| r.len()).max().filter(|&n| n > self.info.context) {
            return Err(EngineError::TooLong { tokens: longest, limit: self.info.context });
        }
        if let Some(i) = batch.weights.iter().position(|w| !w.is_finite() || *w < 0.0) {
            return Err(EngineError::Invalid(format!("loss weight {} at position {i}", batch.weights[i])));
        }
        let looked_at =
            batch.targets.iter().zip(&batch.weights).map(|(&id, &w)| if w == 0.0 { 0 } else { id });
        for (position, id) in batch.ids.iter().copied().enumerate().chain(looked_at.enumerate()) {
            if id as usize >= self.info.vocab {
                return Err(EngineError::TokenOutOfRange { id, position, vocab: self.info.vocab });
            }
        }
        Ok(())
    }

    /// Forward over the distinct tokens of `batch`, and with `total_weight` also the backward of
    /// `sum(w l) / total_weight`. Log-probabilities of the rows with weight are left in `self.head`, by their place in
    /// the plan. Returns the sum of `w l`.
    fn run(&mut self, batch: &Batch, dropout: Option<DropoutKey>, total_weight: Option<f64>) -> f64 {
        let longest = batch.ranges().map(|r| r.len()).max().unwrap_or(0);
        self.rope.grow(longest);
        let Self { model, lora, layout, threads, params, rope, work, head, .. } = self;
        let pass = Pass { model, layout, lora, params, dropout, threads };
        work.plan.lay(batch);
        forward(&pass, rope, work, total_weight.is_some());
        let sum = loss(&pass, work, head, total_weight);
        if total_weight.is_some() {
            backward(&pass, rope, work);
        }
        sum
    }
}

/// The head and the loss over the rows with weight; with `total_weight`, also the gradient of the stream after the
/// last block. Returns the sum of weight times loss.
fn loss(pass: &Pass, work: &mut Workspace, head: &mut HeadWork, total_weight: Option<f64>) -> f64 {
    let (c, threads) = (pass.model.config().hidden_size, pass.threads);
    let (norm, eps) = (&pass.model.norm, pass.model.config().rms_norm_eps);
    let (t, plan) = (work.plan.tokens(), &work.plan);
    let HeadWork { rows, targets, hidden, d_hidden, factors, log_probabilities, logits } = head;
    rows.clear();
    rows.extend((0..t).filter(|&i| plan.weights[i] > 0.0));
    targets.clear();
    targets.extend(rows.iter().map(|&i| plan.targets[i]));
    let n = rows.len();

    let normed = fit(&mut work.normed, t * c);
    rmsnorm_forward(threads, normed, &work.x[..t * c], norm, eps);
    let hidden = fit(hidden, n * c);
    for (to, &from) in hidden.chunks_exact_mut(c).zip(rows.iter()) {
        to.copy_from_slice(&normed[from * c..(from + 1) * c]);
    }
    let log_probabilities = fit(log_probabilities, n);
    let looked_at = Rows { hidden, targets };
    match total_weight {
        None => head_loss(threads, log_probabilities, &looked_at, &pass.model.head, None, logits),
        Some(total) => {
            factors.clear();
            factors.extend(rows.iter().map(|&i| (plan.weights[i] / total) as f32));
            let d_hidden = fit(d_hidden, n * c);
            let gradient = Some((&factors[..], &mut *d_hidden));
            head_loss(threads, log_probabilities, &looked_at, &pass.model.head, gradient, logits);
            let d_normed = fit(&mut work.grads.normed, t * c);
            d_normed.fill(0.0);
            for (from, &to) in d_hidden.chunks_exact(c).zip(rows.iter()) {
                d_normed[to * c..(to + 1) * c].copy_from_slice(from);
            }
            let dx = fit(&mut work.grads.x, t * c);
            dx.fill(0.0);
            rmsnorm_backward(threads, dx, d_normed, &work.x[..t * c], norm, eps);
        }
    }
    rows.iter().zip(&*log_probabilities).map(|(&i, &p)| -plan.weights[i] * f64::from(p)).sum()
}

impl Engine for CpuEngine {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn adapter(&self) -> Adapter {
        Adapter::new(self.layout.tensors(&self.params))
            .expect("steps that leave values not finite are refused")
    }

    fn set_adapter(&mut self, adapter: &Adapter) -> Result<(), EngineError> {
        self.params = self.layout.flatten(adapter)?;
        Ok(())
    }

    fn begin(&mut self, settings: &TrainSettings) {
        self.settings = *settings;
        self.step = 0;
        self.moments.iter_mut().for_each(|m| m.fill(0.0));
    }

    fn step(&mut self, micro_batches: &[Batch], rate: f64) -> Result<StepStats, EngineError> {
        let start = Instant::now();
        if !(0.0..=LARGEST).contains(&rate) {
            return Err(EngineError::Invalid(format!(
                "learning rate {rate}; it must be between 0 and {LARGEST:e}"
            )));
        }
        micro_batches.iter().try_for_each(|batch| self.check(batch))?;
        let total: f64 = micro_batches.iter().map(Batch::weight).sum();
        if total <= 0.0 {
            return Err(EngineError::Invalid("no token of this step carries loss".into()));
        }
        let grads = fit(&mut self.work.grads.params, self.params.len());
        grads.fill(0.0);
        let mut sum = 0.0;
        for (micro_batch, batch) in micro_batches.iter().enumerate() {
            let dropout = (self.lora.dropout > 0.0).then_some(DropoutKey {
                seed: self.settings.dropout_seed,
                step: self.step,
                micro_batch,
                p: self.lora.dropout,
            });
            sum += self.run(batch, dropout, Some(total));
        }
        let loss = sum / total;
        let grads = &self.work.grads.params;
        let grad_norm = grads.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>().sqrt();
        for (what, value) in [("loss", loss), ("gradient norm", grad_norm)] {
            if !value.is_finite() {
                return Err(EngineError::Diverged { what, value, step: self.step });
            }
        }
        let max_norm = self.settings.max_grad_norm;
        // PyTorch's clip_grad_norm_: max_norm / (norm + 1e-6), never above 1.
        let clip = if max_norm > 0.0 { (max_norm / (grad_norm + 1e-6)).min(1.0) } else { 1.0 };
        if grad_norm * clip > LARGEST {
            return Err(EngineError::Diverged { what: "gradient norm", value: grad_norm, step: self.step });
        }
        let constants = AdamStep::new(&self.settings, self.step + 1, rate, clip as f32);
        let [first, second] = &mut self.moments;
        adamw(&mut self.params, grads, first, second, &constants);
        self.step += 1;
        let tokens = micro_batches.iter().map(Batch::tokens).sum();
        Ok(StepStats { loss, grad_norm, tokens, seconds: start.elapsed().as_secs_f64() })
    }

    fn optimiser_state(&self) -> OptimiserState {
        let [first, second] = &self.moments;
        OptimiserState {
            step: self.step,
            first_moments: self.layout.tensors(first),
            second_moments: self.layout.tensors(second),
        }
    }

    fn restore_optimiser(&mut self, state: &OptimiserState) -> Result<(), EngineError> {
        let first = self.layout.flatten(&Adapter::new(state.first_moments.clone())?)?;
        let second = self.layout.flatten(&Adapter::new(state.second_moments.clone())?)?;
        self.moments = [first, second];
        self.step = state.step;
        Ok(())
    }

    fn loss(&mut self, batch: &Batch) -> Result<Loss, EngineError> {
        self.check(batch)?;
        Ok(Loss { sum: self.run(batch, None, None), weight: batch.weight() })
    }

    fn score(&mut self, batch: &Batch) -> Result<Vec<f32>, EngineError> {
        self.check(batch)?;
        self.run(batch, None, None);
        let plan = &self.work.plan;
        let mut of_token = vec![0.0; plan.tokens()];
        for (&row, &p) in self.head.rows.iter().zip(&self.head.log_probabilities) {
            of_token[row] = p;
        }
        let weighted = plan.places().zip(&batch.weights);
        Ok(weighted.map(|(place, &weight)| if weight > 0.0 { of_token[place] } else { 0.0 }).collect())
    }

    fn generate(
        &mut self,
        prompts: &[Vec<u32>],
        decoding: &Decoding,
        watch: Watcher<'_>,
    ) -> Result<Vec<Generation>, EngineError> {
        for (i, prompt) in prompts.iter().enumerate() {
            if prompt.is_empty() {
                return Err(EngineError::Invalid(format!("prompt {i} is empty; give at least one token")));
            }
            if prompt.len() >= self.info.context {
                return Err(EngineError::TooLong { tokens: prompt.len(), limit: self.info.context - 1 });
            }
            if let Some(position) = prompt.iter().position(|&id| id as usize >= self.info.vocab) {
                return Err(EngineError::TokenOutOfRange {
                    id: prompt[position],
                    position,
                    vocab: self.info.vocab,
                });
            }
        }
        let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
        self.rope.grow((longest + decoding.max_new_tokens).min(self.info.context));
        let Self { model, lora, layout, threads, params, rope, .. } = self;
        let pass = Pass { model, layout, lora, params, dropout: None, threads };
        Ok(generate(&pass, rope, prompts, decoding, watch))
    }
}
