//! The one training loop: a site alone, all rows pooled, and a site's share of a federated round run this code.

use consilium_core::engine::OptimiserState;
use consilium_core::metric::Event;
use consilium_core::{Batch, Engine, EngineError, Schedule, Sink, StopFlag, TrainSettings};

/// Gives the batches of any optimiser step, in any order: a pure function, so that training can go on anywhere.
pub trait StepSource {
    /// The micro-batches of optimiser step `step`, counted from 0 over all epochs.
    fn batches(&self, step: u64) -> Vec<Batch>;
}

/// One run of the loop.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainTask {
    /// Which model this trains, for events: `local-<site>`, `federated`, `pooled`.
    pub model: String,
    /// The site that trains, for events.
    pub site: Option<String>,
    /// Federated round, for events.
    pub round: Option<u32>,
    /// The step of [`StepSource`] with which this run begins.
    pub first_step: u64,
    /// Optimiser steps of this run.
    pub steps: u64,
    /// Optimiser steps of this model over all its runs, for events.
    pub total_steps: u64,
    /// The learning rate.
    pub schedule: Schedule,
    /// The schedule's step with which this run begins.
    pub schedule_from: u64,
    /// Optimiser and dropout.
    pub settings: TrainSettings,
    /// Go on from here instead of with a fresh optimiser; its `step` counts the steps of this run that are done. The
    /// engine's adapter must be the one kept with it.
    pub resume: Option<OptimiserState>,
}

/// Called after each step with the engine and the number of steps done; `true` in the last place says that the
/// loop ends here because somebody asked it to stop.
pub type Checkpoint<'a> = dyn FnMut(&dyn Engine, u64, bool) -> Result<(), CheckpointError> + 'a;

/// Why a checkpoint could not be kept.
pub type CheckpointError = Box<dyn std::error::Error + Send + Sync>;

/// What the loop tells the outside, and hears from it.
pub struct TrainHooks<'a> {
    /// Hears of every step.
    pub sink: &'a dyn Sink,
    /// Polled after every step.
    pub stop: &'a StopFlag,
    /// Keeps what is needed to go on later.
    pub on_checkpoint: Option<&'a mut Checkpoint<'a>>,
}

/// How the loop ended.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TrainOutcome {
    /// Optimiser steps of the run that are done, those before a resume included.
    pub steps: u64,
    /// Whether the stop flag ended it before the last step.
    pub stopped: bool,
    /// Mean loss over the steps of this call, nats per token; 0 without any step.
    pub mean_loss: f64,
    /// Tokens of this call.
    pub tokens: u64,
    /// Time spent in the steps of this call, seconds.
    pub seconds: f64,
}

/// Why the loop broke off.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The engine refused a step.
    #[error("training {model}, step {step}: {source}")]
    Engine {
        /// Which model.
        model: String,
        /// Optimiser step of the model, from 1.
        step: u64,
        /// Why.
        source: EngineError,
    },
    /// The checkpoint hook failed.
    #[error("keeping a checkpoint of {model} at step {step}: {source}")]
    Checkpoint {
        /// Which model.
        model: String,
        /// Steps done.
        step: u64,
        /// Why.
        source: CheckpointError,
    },
}

/// Trains `engine`'s adapter by `task` on `rows`, with a fresh optimiser unless the task resumes one.
///
/// # Errors
/// [`TrainError`]; adapter and optimiser are then those of the last good step.
pub fn train(
    engine: &mut dyn Engine,
    rows: &dyn StepSource,
    task: &TrainTask,
    mut hooks: TrainHooks<'_>,
) -> Result<TrainOutcome, TrainError> {
    let failed = |done, source| TrainError::Engine {
        model: task.model.clone(),
        step: task.first_step + done + 1,
        source,
    };
    engine.begin(&task.settings);
    let mut outcome = TrainOutcome::default();
    if let Some(state) = &task.resume {
        engine.restore_optimiser(state).map_err(|e| failed(state.step, e))?;
        outcome.steps = state.step;
    }
    let mut losses = Mean::default();
    outcome.stopped = outcome.steps < task.steps && hooks.stop.is_raised();
    while outcome.steps < task.steps && !outcome.stopped {
        let done = outcome.steps;
        let rate = task.schedule.rate_at(task.schedule_from + done);
        let batches = rows.batches(task.first_step + done);
        let stats = engine.step(&batches, rate).map_err(|e| failed(done, e))?;
        outcome.steps += 1;
        outcome.tokens += stats.tokens as u64;
        outcome.seconds += stats.seconds;
        losses.add(stats.loss);
        hooks.sink.record(&Event::Step {
            model: task.model.clone(),
            site: task.site.clone(),
            round: task.round,
            step: task.first_step + outcome.steps,
            steps: task.total_steps,
            loss: stats.loss,
            lr: rate,
            grad_norm: stats.grad_norm,
            tokens: stats.tokens,
            seconds: stats.seconds,
        });
        outcome.stopped = outcome.steps < task.steps && hooks.stop.is_raised();
        if let Some(keep) = hooks.on_checkpoint.as_deref_mut() {
            keep(engine, outcome.steps, outcome.stopped).map_err(|source| TrainError::Checkpoint {
                model: task.model.clone(),
                step: outcome.steps,
                source,
            })?;
        }
    }
    outcome.mean_loss = losses.value();
    Ok(outcome)
}

#[derive(Default)]
struct Mean {
    sum: f64,
    count: u64,
}

impl Mean {
    fn add(&mut self, value: f64) {
        self.sum += value;
        self.count += 1;
    }

    fn value(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum / self.count as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::site::tests::{FakeEngine, TargetRows};
    use crate::task::tests::task;
    use consilium_core::metric::{MemorySink, NullSink};

    fn plan() -> TrainTask {
        task(1, 1).training_of("a", 6)
    }

    #[test]
    fn it_steps_by_the_schedule_and_says_so() {
        let mut engine = FakeEngine::default();
        let sink = MemorySink::default();
        let hooks = TrainHooks { sink: &sink, stop: &StopFlag::new(), on_checkpoint: None };
        let outcome = train(&mut engine, &TargetRows(vec![4]), &plan(), hooks).unwrap();
        assert_eq!((outcome.steps, outcome.stopped), (6, false));
        let steps: Vec<(u64, f64)> = sink
            .events()
            .iter()
            .map(|event| match event {
                Event::Step { step, lr, steps: 6, .. } => (*step, *lr),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(steps.len(), 6);
        assert_eq!(steps[0], (1, 1.0));
        assert_eq!(steps[5], (6, 1.0 - 5.0 / 6.0));
    }

    /// Raises the flag when it hears of a given step.
    struct StopAt(u64, StopFlag);

    impl Sink for StopAt {
        fn record(&self, event: &Event) {
            if matches!(event, Event::Step { step, .. } if *step == self.0) {
                self.1.raise();
            }
        }
    }

    #[test]
    fn stopped_and_resumed_gives_the_same_bytes() {
        let rows = TargetRows(vec![4, 9]);
        let never = StopFlag::new();
        let mut whole = FakeEngine::default();
        let hooks = TrainHooks { sink: &NullSink, stop: &never, on_checkpoint: None };
        train(&mut whole, &rows, &plan(), hooks).unwrap();

        let mut first = FakeEngine::default();
        let sink = StopAt(3, StopFlag::new());
        let mut kept = None;
        let mut keep = |engine: &dyn Engine, _: u64, stopping: bool| {
            if stopping {
                kept = Some((engine.adapter(), engine.optimiser_state()));
            }
            Ok(())
        };
        let hooks = TrainHooks { sink: &sink, stop: &sink.1, on_checkpoint: Some(&mut keep) };
        let outcome = train(&mut first, &rows, &plan(), hooks).unwrap();
        assert_eq!((outcome.steps, outcome.stopped), (3, true));
        let (adapter, state) = kept.expect("a checkpoint at the stop");

        let mut second = FakeEngine::default();
        second.set_adapter(&adapter).unwrap();
        let rest = TrainTask { resume: Some(state), ..plan() };
        let hooks = TrainHooks { sink: &NullSink, stop: &never, on_checkpoint: None };
        train(&mut second, &rows, &rest, hooks).unwrap();
        assert_eq!(second.adapter().sha256(), whole.adapter().sha256());
        assert_ne!(adapter.sha256(), whole.adapter().sha256(), "the test must be able to fail");
    }

    #[test]
    fn a_broken_step_is_named() {
        let mut engine = FakeEngine::failing_at(2);
        let hooks = TrainHooks { sink: &NullSink, stop: &StopFlag::new(), on_checkpoint: None };
        let error = train(&mut engine, &TargetRows(vec![4]), &plan(), hooks).unwrap_err();
        assert!(error.to_string().starts_with("training federated, step 3:"), "{error}");
    }
}
