//! What a task makes a site do: start from the global adapter, train on its own rows, hand back an update.

use consilium_core::{Adapter, Engine, EngineError, Sink, StopFlag};

use crate::task::{Task, Update, UpdateMetrics};
use crate::train::{StepSource, TrainError, TrainHooks, train};

/// A site's rows, as far as this crate needs to know them.
pub struct SiteRows<'a> {
    /// The site's name.
    pub name: &'a str,
    /// Number of training rows.
    pub examples: u64,
    /// Optimiser steps of one pass over them.
    pub steps_per_epoch: u64,
    /// Their batches.
    pub source: &'a dyn StepSource,
}

/// Why a site sends no update in a round.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// The global adapter does not fit this site's model.
    #[error("the global adapter of round {round} does not fit this site's model: {source}")]
    Misfit {
        /// Round, from 1.
        round: u32,
        /// Why.
        source: EngineError,
    },
    /// Training broke off.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// Somebody asked to stop.
    #[error("stopped after {steps} steps of round {round}")]
    Stopped {
        /// Round, from 1.
        round: u32,
        /// Steps done in it.
        steps: u64,
    },
    /// Something outside of training, such as a site that could not get an engine.
    #[error("{0}")]
    Other(String),
}

/// One site's part in one round, from the `global` adapter to its update. The optimiser starts fresh.
///
/// # Errors
/// [`SiteError`]: the round goes on without this site.
pub fn work(
    engine: &mut dyn Engine,
    site: &SiteRows<'_>,
    task: &Task,
    global: &Adapter,
    sink: &dyn Sink,
    stop: &StopFlag,
) -> Result<Update, SiteError> {
    engine.set_adapter(global).map_err(|source| SiteError::Misfit { round: task.round, source })?;
    let training = task.training_of(site.name, site.steps_per_epoch);
    let hooks = TrainHooks { sink, stop, on_checkpoint: None };
    let outcome = train(engine, site.source, &training, hooks)?;
    if outcome.stopped {
        return Err(SiteError::Stopped { round: task.round, steps: outcome.steps });
    }
    Ok(Update {
        round: task.round,
        base_sha256: task.base_sha256.clone(),
        adapter: engine.adapter(),
        examples: site.examples,
        metrics: UpdateMetrics {
            train_loss: outcome.mean_loss,
            steps: outcome.steps,
            tokens: outcome.tokens,
            seconds: outcome.seconds,
        },
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use consilium_core::engine::{Generation, Loss, OptimiserState, Watcher};
    use consilium_core::metric::NullSink;
    use consilium_core::{Batch, Decoding, ModelInfo, StepStats, Tensor, TrainSettings};

    use crate::task::tests::task;

    /// One parameter w with loss (w - target)^2 / 2 and heavy-ball momentum: small enough to check by hand, and with a
    /// state that a wrong resume would lose.
    pub(crate) struct FakeEngine {
        info: ModelInfo,
        w: f32,
        momentum: f32,
        step: u64,
        fail_at: Option<u64>,
    }

    impl Default for FakeEngine {
        fn default() -> Self {
            let info = ModelInfo {
                id: "fake".into(),
                parameters: 1,
                trainable: 1,
                sha256: String::new(),
                context: 8,
                vocab: 100,
            };
            Self { info, w: 0.0, momentum: 0.0, step: 0, fail_at: None }
        }
    }

    impl FakeEngine {
        pub(crate) fn failing_at(step: u64) -> Self {
            Self { fail_at: Some(step), ..Self::default() }
        }
    }

    fn tensor(value: f32) -> Tensor {
        Tensor { name: "w".into(), shape: vec![1], data: vec![value] }
    }

    impl Engine for FakeEngine {
        fn info(&self) -> &ModelInfo {
            &self.info
        }
        fn adapter(&self) -> Adapter {
            Adapter::new(vec![tensor(self.w)]).unwrap()
        }
        fn set_adapter(&mut self, adapter: &Adapter) -> Result<(), EngineError> {
            self.w = adapter.clone().conform(&self.adapter().schema())?.tensors()[0].data[0];
            Ok(())
        }
        fn begin(&mut self, _: &TrainSettings) {
            (self.momentum, self.step) = (0.0, 0);
        }
        fn step(&mut self, micro_batches: &[Batch], rate: f64) -> Result<StepStats, EngineError> {
            if self.fail_at == Some(self.step) {
                return Err(EngineError::Invalid("told to fail".into()));
            }
            let target = micro_batches[0].ids[0] as f32;
            let gradient = self.w - target;
            self.momentum = 0.5 * self.momentum + gradient;
            self.w -= 0.1 * rate as f32 * self.momentum;
            self.step += 1;
            let loss = f64::from(gradient * gradient) / 2.0;
            Ok(StepStats { loss, grad_norm: f64::from(gradient.abs()), tokens: 2, seconds: 0.5 })
        }
        fn optimiser_state(&self) -> OptimiserState {
            OptimiserState {
                step: self.step,
                first_moments: vec![tensor(self.momentum)],
                second_moments: vec![],
            }
        }
        fn restore_optimiser(&mut self, state: &OptimiserState) -> Result<(), EngineError> {
            (self.step, self.momentum) = (state.step, state.first_moments[0].data[0]);
            Ok(())
        }
        fn loss(&mut self, _: &Batch) -> Result<Loss, EngineError> {
            Ok(Loss::default())
        }
        fn score(&mut self, _: &Batch) -> Result<Vec<f32>, EngineError> {
            Ok(Vec::new())
        }
        fn generate(
            &mut self,
            _: &[Vec<u32>],
            _: &Decoding,
            _: Watcher<'_>,
        ) -> Result<Vec<Generation>, EngineError> {
            Ok(Vec::new())
        }
    }

    /// Rows whose step s pulls towards the s-th number, again and again.
    pub(crate) struct TargetRows(pub(crate) Vec<u32>);

    impl StepSource for TargetRows {
        fn batches(&self, step: u64) -> Vec<Batch> {
            let mut batch = Batch::new();
            batch.push(&[self.0[step as usize % self.0.len()], 1], &[1.0, 1.0]);
            vec![batch]
        }
    }

    fn rows(source: &TargetRows) -> SiteRows<'_> {
        SiteRows { name: "a", examples: 7, steps_per_epoch: 2, source }
    }

    #[test]
    fn a_round_starts_from_the_global_adapter_with_a_fresh_optimiser() {
        let source = TargetRows(vec![4]);
        let global = Adapter::new(vec![tensor(1.0)]).unwrap();
        let mut engine = FakeEngine { w: 99.0, momentum: 55.0, ..FakeEngine::default() };
        let round = task(1, 1);
        let update = work(&mut engine, &rows(&source), &round, &global, &NullSink, &StopFlag::new()).unwrap();
        assert_eq!((update.examples, update.metrics.steps, update.metrics.tokens), (7, 2, 4));
        assert_eq!(update.base_sha256, "seed");
        let again = work(&mut engine, &rows(&source), &round, &global, &NullSink, &StopFlag::new()).unwrap();
        assert_eq!(update, again, "nothing of the first round is left in the engine");
    }

    #[test]
    fn a_stopped_or_broken_site_sends_nothing() {
        let source = TargetRows(vec![4]);
        let global = Adapter::new(vec![tensor(1.0)]).unwrap();
        let stop = StopFlag::new();
        stop.raise();
        let mut engine = FakeEngine::default();
        let stopped = work(&mut engine, &rows(&source), &task(1, 1), &global, &NullSink, &stop);
        assert!(matches!(stopped, Err(SiteError::Stopped { round: 1, steps: 0 })));
        let other = Adapter::new(vec![Tensor { name: "v".into(), ..tensor(0.0) }]).unwrap();
        let misfit = work(&mut engine, &rows(&source), &task(1, 1), &other, &NullSink, &StopFlag::new());
        assert!(matches!(misfit, Err(SiteError::Misfit { .. })));
    }
}
