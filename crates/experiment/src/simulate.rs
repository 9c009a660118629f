//! The whole comparison: every site alone, all sites federated, all rows pooled, the same questions to all, the
//! verdict. Each stage leaves its result in the run folder, and a stopped run goes on with the first one missing.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use consilium_core::metric::Fanout;
use consilium_core::{Adapter, Engine, Event, Sink, StopFlag};
use consilium_engine::{CpuEngine, initial_adapter};
use consilium_eval::{Prediction, Summary};
use consilium_federation::{TrainHooks, TrainTask, train};

use crate::budget::{local_model, local_task, pooled_task};
use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::durable;
use crate::engines::Engines;
use crate::error::ExperimentError;
use crate::evaluate::{Asking, evaluate_all};
use crate::federated;
use crate::inputs::{Inputs, TrainRows, training};
use crate::machine;
use crate::run_folder::{JsonlSink, Origin, RunFolder, read_events};
use crate::summary::{Facts, summarise, write_results};

/// Runs `config` on `inputs` into the folder `out`, or goes on with the unfinished run there. A finished run is not
/// repeated: its summary is returned.
///
/// # Errors
/// [`ExperimentError::Stopped`] when `stop` was raised: calling again goes on and ends with the same bytes. Else see
/// [`ExperimentError`].
pub fn simulate(
    config: &Config,
    inputs: &Inputs,
    out: &Path,
    sink: &dyn Sink,
    stop: &StopFlag,
) -> Result<Summary, ExperimentError> {
    let start = Instant::now();
    config.validate()?;
    config.validate_for_sites(inputs.shards.len())?;
    inputs.check()?;
    let initial = initial_adapter(inputs.model.config(), &config.lora, config.seed);
    let folder = RunFolder::open(out, config, &origin(inputs, &initial))?;
    if folder.is_finished() {
        sink.record(&Event::Note { text: format!("{} holds this run already, finished", out.display()) });
        return finished_summary(&folder);
    }
    let threads = machine::threads(config.threads);
    let sites = inputs.tokenise(config)?;
    let jsonl = JsonlSink::resume(&folder.path("metrics.jsonl"), still_done(&folder, &sites, &initial)?)?;
    let sink = Fanout(vec![sink, &jsonl]);
    let run = Run {
        config,
        inputs,
        sites: &sites,
        initial: &initial,
        engines: Engines::new(&inputs.model, &config.lora, threads, sites.len())?,
        folder: &folder,
        sink: &sink,
        stop,
    };
    run.tell_of_cut_rows();
    let earlier = seconds_before(&folder)?;
    let stages = run.all();
    let seconds = earlier + start.elapsed().as_secs_f64();
    let (adapters, predictions) = match stages {
        Ok(results) => results,
        Err(error) => {
            // Time spent so far belongs to the run; that it could not be kept must not hide why the run ended.
            let _ = durable::write_file(&folder.state("seconds"), seconds.to_string().as_bytes());
            return Err(match error {
                ExperimentError::Stopped { .. } => folder.stopped(),
                other => other,
            });
        }
    };
    jsonl.check()?;
    let facts = Facts { config, inputs, sites: &sites, adapters: &adapters, threads, seconds };
    let events = read_events(&folder.path("metrics.jsonl"))?;
    let summary = summarise(&facts, &folder.name(), &events, &predictions, &sink)?;
    jsonl.check()?;
    write_results(&folder, &summary, &predictions)?;
    durable::remove(&folder.path("state"))?;
    Ok(summary)
}

/// What a run on `inputs` starts from.
pub(crate) fn origin(inputs: &Inputs, initial: &Adapter) -> Origin {
    Origin {
        model_sha256: inputs.model.info().sha256,
        rows_sha256: inputs.rows_sha256(),
        adapter_sha256: initial.sha256(),
    }
}

fn finished_summary(folder: &RunFolder) -> Result<Summary, ExperimentError> {
    let path = folder.path("summary.json");
    let bytes = durable::read(&path)?.unwrap_or_default();
    serde_json::from_slice(&bytes).map_err(|e| ExperimentError::broken(&path, e))
}

/// Seconds that earlier calls worked on the run in `folder`.
pub(crate) fn seconds_before(folder: &RunFolder) -> Result<f64, ExperimentError> {
    let text = durable::read(&folder.state("seconds"))?;
    Ok(text.and_then(|bytes| String::from_utf8_lossy(&bytes).parse().ok()).unwrap_or(0.0))
}

/// Which recorded events are of work whose result is kept, and so will not be recorded again.
fn still_done(
    folder: &RunFolder,
    sites: &[TrainRows],
    initial: &Adapter,
) -> Result<impl Fn(&Event) -> bool + use<>, ExperimentError> {
    let federated =
        if folder.load_adapter("federated")?.is_some() { u32::MAX } else { federated::rounds_kept(folder)? };
    let mut steps = BTreeMap::new();
    for model in sites.iter().map(|site| local_model(&site.name)).chain(["pooled".into()]) {
        let done = match folder.load_adapter(&model)? {
            Some(_) => u64::MAX,
            None => Checkpoint::load(&folder.state(&model), initial)?.map_or(0, |kept| kept.optimiser.step),
        };
        steps.insert(model, done);
    }
    Ok(move |event: &Event| match event {
        Event::Step { round: Some(round), .. }
        | Event::SiteRound { round, .. }
        | Event::Round { round, .. } => *round <= federated,
        Event::Step { model, step, .. } => steps.get(model).is_some_and(|done| step <= done),
        Event::Score { .. } | Event::Note { .. } => false,
        Event::Progress { .. } => true,
    })
}

struct Run<'a> {
    config: &'a Config,
    inputs: &'a Inputs,
    sites: &'a [TrainRows],
    initial: &'a Adapter,
    engines: Engines,
    folder: &'a RunFolder,
    sink: &'a dyn Sink,
    stop: &'a StopFlag,
}

/// Adapters by model name, in the order of reports.
pub(crate) type Adapters = Vec<(String, Adapter)>;

impl Run<'_> {
    /// Every stage, in order.
    fn all(&self) -> Result<(Adapters, Vec<Prediction>), ExperimentError> {
        let pooled = TrainRows::pooled(self.sites, &training(self.config));
        // The pooled training is the longest: begun first, it runs beside the sites' where engines run side by side.
        let mut alone = vec![("pooled".to_owned(), &pooled, pooled_task(self.config, &pooled))];
        alone.extend(self.sites.iter().map(|s| (local_model(&s.name), s, local_task(self.config, s))));
        let mut adapters = self.engines.for_each(&alone, |engine, (model, rows, task)| {
            self.kept_or(model, || self.train_alone(engine, rows, task.clone()))
        })?;
        let pooled = adapters.remove(0);
        adapters.push(self.kept_or("federated", || self.train_federated())?);
        adapters.push(pooled);
        let predictions = self.ask_everybody(&adapters)?;
        Ok((adapters, predictions))
    }

    fn tell_of_cut_rows(&self) {
        for site in self.sites.iter().filter(|site| site.truncated() > 0) {
            self.sink.record(&Event::Note { text: cut_rows(site, self.config.data.max_tokens) });
        }
    }

    fn kept_or(
        &self,
        model: &str,
        make: impl FnOnce() -> Result<Adapter, ExperimentError>,
    ) -> Result<(String, Adapter), ExperimentError> {
        kept_or(self.folder, self.config, self.initial, model, make)
    }

    fn train_alone(
        &self,
        engine: &mut CpuEngine,
        rows: &TrainRows,
        task: TrainTask,
    ) -> Result<Adapter, ExperimentError> {
        let place = self.folder.state(&task.model);
        train_resumable(engine, rows, task, self.initial, &place, self.sink, self.stop)
    }

    fn train_federated(&self) -> Result<Adapter, ExperimentError> {
        federated::train(
            self.config,
            self.sites,
            self.initial,
            &self.engines,
            self.folder,
            self.sink,
            self.stop,
        )
    }

    /// Every model's answer to every question; models in the order base, local, federated, pooled.
    fn ask_everybody(&self, adapters: &Adapters) -> Result<Vec<Prediction>, ExperimentError> {
        let asking = Asking::new(self.config, self.inputs)?;
        let base = ("base".to_owned(), self.initial.clone());
        let models: Vec<&(String, Adapter)> = std::iter::once(&base).chain(adapters).collect();
        let answers = self.engines.for_each(&models, |engine, (model, adapter)| {
            let hooks = (self.sink, self.stop);
            kept_answers(engine, &asking, model, adapter, (self.config, self.inputs, self.folder), hooks)
        })?;
        Ok(answers.into_iter().flatten().collect())
    }
}

/// The adapter of `model` from the run folder, or made by `make` and saved there.
pub(crate) fn kept_or(
    folder: &RunFolder,
    config: &Config,
    initial: &Adapter,
    model: &str,
    make: impl FnOnce() -> Result<Adapter, ExperimentError>,
) -> Result<(String, Adapter), ExperimentError> {
    if let Some(adapter) = folder.load_adapter(model)? {
        return Ok((model.into(), adapter.conform(&initial.schema())?));
    }
    let adapter = make()?;
    folder.save_adapter(model, &adapter, &config.lora, &config.model.id)?;
    durable::remove(&folder.state(model))?;
    Ok((model.into(), adapter))
}

/// The answers of `model` to every question from the run's state, or given by `adapter` and kept there.
pub(crate) fn kept_answers(
    engine: &mut CpuEngine,
    asking: &Asking<'_>,
    model: &str,
    adapter: &Adapter,
    (config, inputs, folder): (&Config, &Inputs, &RunFolder),
    hooks: (&dyn Sink, &StopFlag),
) -> Result<Vec<Prediction>, ExperimentError> {
    let place = folder.state(&format!("{model}.predictions"));
    if let Some(bytes) = durable::read(&place)? {
        return serde_json::from_slice(&bytes).map_err(|e| ExperimentError::broken(&place, e));
    }
    engine.set_adapter(adapter).map_err(ExperimentError::engine(format!("evaluating {model}")))?;
    let answers = evaluate_all(engine, asking, model, config, inputs, hooks)?;
    let bytes = serde_json::to_vec(&answers).map_err(|e| ExperimentError::broken(&place, e))?;
    durable::write_file(&place, &bytes)?;
    Ok(answers)
}

/// The sentence about a site's rows that were cut.
pub(crate) fn cut_rows(site: &TrainRows, limit: usize) -> String {
    format!(
        "{}: {} of {} training rows were cut to {limit} tokens",
        site.name,
        site.truncated(),
        site.rows.len()
    )
}

/// Trains by `task` from `initial`, or goes on from the checkpoint at `place`; leaves one there when stopped.
pub(crate) fn train_resumable(
    engine: &mut CpuEngine,
    rows: &TrainRows,
    mut task: TrainTask,
    initial: &Adapter,
    place: &Path,
    sink: &dyn Sink,
    stop: &StopFlag,
) -> Result<Adapter, ExperimentError> {
    let unfit = |model: &str| ExperimentError::engine(format!("training {model}"));
    let from = match Checkpoint::load(place, initial)? {
        Some(kept) => {
            task.resume = Some(kept.optimiser);
            kept.adapter
        }
        None => initial.clone(),
    };
    engine.set_adapter(&from).map_err(unfit(&task.model))?;
    let failed = Mutex::new(None);
    let mut keep = |engine: &dyn Engine, _: u64, stopping: bool| {
        if stopping && let Err(error) = Checkpoint::of(engine).save(place) {
            let text = error.to_string();
            *failed.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(error);
            return Err(text.into());
        }
        Ok(())
    };
    let hooks = TrainHooks { sink, stop, on_checkpoint: Some(&mut keep) };
    let outcome = train(engine, rows, &task, hooks);
    if let Some(error) = failed.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()) {
        return Err(error);
    }
    if outcome?.stopped {
        return Err(ExperimentError::Stopped { out: place.to_owned() });
    }
    Ok(engine.adapter())
}
