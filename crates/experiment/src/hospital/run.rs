//! One hospital's way through a session: it takes part, trains alone at equal budget, and asks both models and the base
//! its own test questions. Each stage leaves its result in the run folder, and a stopped or killed run goes on with
//! the first one missing; a round in which it was cut off is worked again, to the same bytes.
//!
//! ```text
//! config.toml  plan.json  origin.json  metrics.jsonl  predictions.jsonl  site-summary.json
//! adapters/{federated,local-<site>}/
//! state/       only while the run is unfinished
//! ```

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use consilium_core::adapter::Schema;
use consilium_core::metric::Fanout;
use consilium_core::{Adapter, Event, Sink, StopFlag};
use consilium_engine::{CpuEngine, initial_adapter};
use consilium_eval::Prediction;
use consilium_federation::{Transport, TransportError, site, take_part};

use super::audit::AuditEvent;
use super::gate::{Gate, Guarded, LateAnswer};
use super::plan::SitePlan;
use super::policy::first_difference;
use super::verdict::{Facts, SiteVerdict};
use crate::budget::{local_model, local_task};
use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::durable;
use crate::error::ExperimentError;
use crate::evaluate::Asking;
use crate::federated::guarded;
use crate::inputs::{Inputs, TrainRows};
use crate::machine;
use crate::run_folder::{JsonlSink, RunFolder, read_events};
use crate::simulate::{cut_rows, kept_answers, kept_or, origin, seconds_before, train_resumable};
use crate::summary::{jsonl, record_scores};

/// The file with a finished run's [`SiteVerdict`].
pub const SUMMARY_FILE: &str = "site-summary.json";

/// The ways to the coordinator.
pub struct Connection<'a> {
    /// Tasks one way, updates the other. Its waiting must end with an error once the stop flag is raised.
    pub transport: &'a mut dyn Transport,
    /// Answers since the last call to updates that an earlier run of the program had left.
    pub late_answers: &'a mut dyn FnMut() -> Vec<LateAnswer>,
    /// The adapter that the session starts from, where the plan says that it comes with the session.
    pub first_adapter: &'a mut dyn FnMut(&SitePlan) -> Result<Adapter, TransportError>,
    /// The session's last global adapter, with the names and shapes of the schema; called after the last task.
    pub final_adapter: &'a mut dyn FnMut(&Schema) -> Result<Adapter, TransportError>,
}

/// Takes part in the session whose plan `gate` let in, and judges it for this one site, in the folder `out`.
///
/// `config` is the plan's ([`SitePlan::config_for`]); `inputs` holds this site's rows and no others.
///
/// # Errors
/// [`ExperimentError::Stopped`] when `stop` was raised: calling again goes on. [`ExperimentError::NotThePlan`] when
/// model, rows or configuration are not those that the plan was let in for. [`ExperimentError::Transport`] when the
/// connection is lost for good; calling again goes on too. Else see [`ExperimentError`].
pub fn run(
    config: &Config,
    inputs: &Inputs,
    gate: &mut Gate<'_>,
    connection: Connection<'_>,
    out: &Path,
    sink: &dyn Sink,
    stop: &StopFlag,
) -> Result<SiteVerdict, ExperimentError> {
    let start = Instant::now();
    config.validate()?;
    inputs.check()?;
    let mut initial = initial_adapter(inputs.model.config(), &config.lora, config.seed);
    if gate.plan().given_adapter {
        let given = (connection.first_adapter)(gate.plan())?;
        initial = given.conform(&initial.schema())?;
    }
    check_plan(config, inputs, gate, &initial)?;
    let folder = RunFolder::open(out, config, &origin(inputs, &initial))?;
    if let Some(verdict) = finished(&folder)? {
        sink.record(&Event::Note { text: format!("{} holds this run already, finished", out.display()) });
        return Ok(verdict);
    }
    durable::write_file(&folder.path("plan.json"), gate.plan().to_json().as_bytes())?;
    let rows = inputs.tokenise(config)?.remove(0);
    let jsonl = JsonlSink::resume(&folder.path("metrics.jsonl"), still_done(&folder, &rows, &initial)?)?;
    let sink = Fanout(vec![sink, &jsonl]);
    if rows.truncated() > 0 {
        sink.record(&Event::Note { text: cut_rows(&rows, config.data.max_tokens) });
    }
    let engine = CpuEngine::new(inputs.model.clone(), &config.lora, machine::threads(config.threads))
        .map_err(ExperimentError::engine("starting"))?;
    let earlier = seconds_before(&folder)?;
    let mut visit =
        Visit { config, inputs, rows: &rows, initial: &initial, engine, folder: &folder, sink: &sink, stop };
    let stages = visit.all(gate, connection);
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
    let events = read_events(&folder.path("metrics.jsonl"))?;
    let data = &inputs.shards[0];
    let facts =
        Facts { config, data, rows: &rows, events: &events, predictions: &predictions, adapters: &adapters };
    let verdict = SiteVerdict {
        model_sha256: gate.plan().model_sha256.clone(),
        plan_sha256: gate.plan().sha256(),
        audit_sha256: gate.audit_head().into(),
        seconds,
        peak_rss_bytes: machine::peak_rss_bytes(),
        ..SiteVerdict::judge(&facts)?
    };
    for model in &verdict.scores {
        record_scores(&sink, &model.model, &data.name, &model.all);
    }
    jsonl.check()?;
    write_results(&folder, &verdict, &predictions)?;
    durable::remove(&folder.path("state"))?;
    Ok(verdict)
}

/// Model, rows and configuration must be those that the plan was let in for.
fn check_plan(
    config: &Config,
    inputs: &Inputs,
    gate: &Gate<'_>,
    initial: &Adapter,
) -> Result<(), ExperimentError> {
    let [data] = &inputs.shards[..] else {
        let count = inputs.shards.len();
        return Err(ExperimentError::Sites(format!(
            "a hospital takes part with its own rows, not as {count} sites"
        )));
    };
    let plan = gate.plan();
    let here = SitePlan {
        given_adapter: plan.given_adapter,
        ..SitePlan::of(config, inputs.model.info().sha256, initial.sha256())
    };
    let differs = |(what, planned, found)| Err(ExperimentError::NotThePlan { what, planned, found });
    if let Some(difference) = first_difference(plan, &here) {
        return differs(difference);
    }
    let rows = data.train.len();
    if rows != gate.training_rows() {
        return differs(("training rows".into(), gate.training_rows().to_string(), rows.to_string()));
    }
    if inputs.template.text() != plan.template {
        return differs(("template".into(), plan.template.clone(), inputs.template.text()));
    }
    Ok(())
}

fn finished(folder: &RunFolder) -> Result<Option<SiteVerdict>, ExperimentError> {
    let path = folder.path(SUMMARY_FILE);
    if folder.path("state").exists() {
        return Ok(None);
    }
    let Some(bytes) = durable::read(&path)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|e| ExperimentError::broken(&path, e))
}

/// Which recorded events are of work whose result is kept, and so will not be recorded again.
fn still_done(
    folder: &RunFolder,
    rows: &TrainRows,
    initial: &Adapter,
) -> Result<impl Fn(&Event) -> bool + use<>, ExperimentError> {
    let federated = folder.load_adapter("federated")?.is_some();
    let sent: BTreeSet<u32> = read_events(&folder.path("metrics.jsonl"))?
        .iter()
        .filter_map(|event| match event {
            Event::SiteRound { round, accepted: true, .. } => Some(*round),
            _ => None,
        })
        .collect();
    let model = local_model(&rows.name);
    let local = match folder.load_adapter(&model)? {
        Some(_) => u64::MAX,
        None => Checkpoint::load(&folder.state(&model), initial)?.map_or(0, |kept| kept.optimiser.step),
    };
    Ok(move |event: &Event| match event {
        Event::Step { round: Some(round), .. } => federated || sent.contains(round),
        Event::Step { step, .. } => *step <= local,
        Event::SiteRound { .. } | Event::Round { .. } | Event::Progress { .. } => true,
        Event::Score { .. } | Event::Note { .. } => false,
    })
}

struct Visit<'a> {
    config: &'a Config,
    inputs: &'a Inputs,
    rows: &'a TrainRows,
    initial: &'a Adapter,
    engine: CpuEngine,
    folder: &'a RunFolder,
    sink: &'a dyn Sink,
    stop: &'a StopFlag,
}

/// Adapters by model name, local first, as reports have them.
type Adapters = Vec<(String, Adapter)>;

impl Visit<'_> {
    /// Every stage, in order.
    fn all(
        &mut self,
        gate: &mut Gate<'_>,
        connection: Connection<'_>,
    ) -> Result<(Adapters, Vec<Prediction>), ExperimentError> {
        let (folder, config, initial) = (self.folder, self.config, self.initial);
        let federated = kept_or(folder, config, initial, "federated", || self.take_part(gate, connection))?;
        let model = local_model(&self.rows.name);
        let local = kept_or(folder, config, initial, &model, || self.train_alone(&model))?;
        let adapters = vec![local, federated];
        let predictions = self.ask(&adapters)?;
        Ok((adapters, predictions))
    }

    /// Works every task that the gate lets in, to the end of the session, and brings its last adapter home.
    fn take_part(
        &mut self,
        gate: &mut Gate<'_>,
        connection: Connection<'_>,
    ) -> Result<Adapter, ExperimentError> {
        let Self { config, rows, initial, engine, folder, sink, stop, .. } = self;
        let mut transport = Guarded {
            gate,
            inner: connection.transport,
            late_answers: connection.late_answers,
            site: &rows.name,
            sink: *sink,
            stop,
            failed: None,
        };
        let taken = take_part(&mut transport, &mut |task, global| {
            guarded(|| site::work(engine, &rows.as_site(), task, global, *sink, stop))
        });
        if let Err(lost) = taken {
            return Err(match transport.failed.take() {
                Some(error) => error,
                None if stop.is_raised() => folder.stopped(),
                None => lost.into(),
            });
        }
        let schema = initial.schema();
        let last = (connection.final_adapter)(&schema)?.conform(&schema)?;
        gate.log(AuditEvent::Final { adapter_sha256: last.sha256() })?;
        if last == **initial {
            let reason = "the session ended with the adapter that it began with".into();
            return Err(ExperimentError::NoRound { rounds: config.federation.rounds, reason });
        }
        Ok(last)
    }

    fn train_alone(&mut self, model: &str) -> Result<Adapter, ExperimentError> {
        let task = local_task(self.config, self.rows);
        let place = self.folder.state(model);
        train_resumable(&mut self.engine, self.rows, task, self.initial, &place, self.sink, self.stop)
    }

    /// Every model's answer to every own test question; models in the order base, local, federated.
    fn ask(&mut self, adapters: &Adapters) -> Result<Vec<Prediction>, ExperimentError> {
        let asking = Asking::new(self.config, self.inputs)?;
        let base = ("base".to_owned(), self.initial.clone());
        let mut predictions = Vec::new();
        for (model, adapter) in std::iter::once(&base).chain(adapters) {
            let run = (self.config, self.inputs, self.folder);
            let hooks = (self.sink, self.stop);
            predictions.extend(kept_answers(&mut self.engine, &asking, model, adapter, run, hooks)?);
        }
        Ok(predictions)
    }
}

/// Writes the answers, which stay here, and the verdict.
fn write_results(
    folder: &RunFolder,
    verdict: &SiteVerdict,
    predictions: &[Prediction],
) -> Result<(), ExperimentError> {
    let path = folder.path("predictions.jsonl");
    durable::write_file(&path, &jsonl(predictions).map_err(|e| ExperimentError::broken(&path, e))?)?;
    let path = folder.path(SUMMARY_FILE);
    let mut text = serde_json::to_string_pretty(verdict).map_err(|e| ExperimentError::broken(&path, e))?;
    text.push('\n');
    durable::write_file(&path, text.as_bytes())
}
