//! The coordinator of a simulated federation: it does what the session says, keeps each round's result, and goes on
//! from the last kept round after a stop.

use std::path::PathBuf;
use std::sync::MutexGuard;
use std::time::Duration;

use consilium_core::{Adapter, Event, Sink, StopFlag, npz};
use consilium_federation::{
    Action, FedAvg, RoundRecord, Session, SiteError, Strategy, Task, Update, site, take_part,
};

use crate::config::Config;
use crate::durable;
use crate::engines::Engines;
use crate::error::ExperimentError;
use crate::inputs::{TrainRows, training};
use crate::run_folder::RunFolder;
use crate::transport::{Hall, InProcess, State};

/// How often the coordinator looks at the stop flag while nothing happens.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What a site does with a task.
pub(crate) type Work<'a> = dyn Fn(&TrainRows, &Task, &Adapter) -> Result<Update, SiteError> + Sync + 'a;

/// Trains the federated model on all `sites` and returns its adapter.
///
/// # Errors
/// [`ExperimentError::Stopped`] when the flag was raised: the open round will start anew. [`ExperimentError::NoRound`]
/// when no round made a model.
pub(crate) fn train(
    config: &Config,
    sites: &[TrainRows],
    initial: &Adapter,
    engines: &Engines,
    folder: &RunFolder,
    sink: &dyn Sink,
    stop: &StopFlag,
) -> Result<Adapter, ExperimentError> {
    let work = |rows: &TrainRows, task: &Task, global: &Adapter| {
        engines.with(|engine| site::work(engine, &rows.as_site(), task, global, sink, stop))
    };
    run(config, sites, initial, &work, folder, sink, stop)
}

/// As [`train`], with any kind of work.
pub(crate) fn run(
    config: &Config,
    sites: &[TrainRows],
    initial: &Adapter,
    work: &Work<'_>,
    folder: &RunFolder,
    sink: &dyn Sink,
    stop: &StopFlag,
) -> Result<Adapter, ExperimentError> {
    let (session, global) = begin_or_resume(config, sites, initial, folder)?;
    let hall = Hall::new(session, initial.schema());
    std::thread::scope(|scope| {
        for rows in sites {
            let hall = &hall;
            scope.spawn(move || attend(hall, rows, work, stop));
        }
        let mut coordinator = Coordinator {
            config,
            hall: &hall,
            global,
            strategy: Box::new(FedAvg::new(config.federation.weights)),
            last_failure: None,
            state_path: state_path(folder),
            sink,
        };
        let ended = coordinator.run(stop, folder);
        hall.close(&mut hall.enter());
        ended.map(|()| coordinator.global)
    })
}

fn state_path(folder: &RunFolder) -> PathBuf {
    folder.state("federated.session")
}

/// Rounds of the federated model that are kept, after a stop.
pub(crate) fn rounds_kept(folder: &RunFolder) -> Result<u32, ExperimentError> {
    let kept: Option<(Session, _)> = durable::read_stamped(&state_path(folder))?;
    Ok(kept.map_or(0, |(session, _)| session.round()))
}

fn begin_or_resume(
    config: &Config,
    sites: &[TrainRows],
    initial: &Adapter,
    folder: &RunFolder,
) -> Result<(Session, Adapter), ExperimentError> {
    if let Some((session, bytes)) = durable::read_stamped::<Session>(&state_path(folder))? {
        let global = npz::decode(&bytes, &initial.schema())
            .map_err(|e| ExperimentError::broken(&state_path(folder), e))?;
        return Ok((session, global));
    }
    let settings = config.federation.session_settings(sites.len(), config.seed);
    let roster = sites.iter().map(|site| site.name.clone()).collect();
    Ok((Session::new(settings, roster, initial.sha256()), initial.clone()))
}

/// A site's presence: it works until the session is over.
fn attend(hall: &Hall, rows: &TrainRows, work: &Work<'_>, stop: &StopFlag) {
    let mut transport = InProcess { hall, site: &rows.name };
    let mut work = |task: &Task, global: &Adapter| guarded(|| work(rows, task, global));
    // In one process the transport only breaks when a site's adapter does: the round goes on without the site.
    while let Err(lost) = take_part(&mut transport, &mut work) {
        let round = hall.enter().session.round();
        if stop.is_raised()
            || consilium_federation::Transport::report_failure(&mut transport, round, &lost.0).is_err()
        {
            break;
        }
    }
}

/// Does `work`; a panic in it becomes its failure.
pub(crate) fn guarded(work: impl FnOnce() -> Result<Update, SiteError>) -> Result<Update, SiteError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(SiteError::Other("the site's work panicked".into())))
}

struct Coordinator<'a> {
    config: &'a Config,
    hall: &'a Hall,
    global: Adapter,
    strategy: Box<dyn Strategy>,
    last_failure: Option<String>,
    state_path: PathBuf,
    sink: &'a dyn Sink,
}

impl Coordinator<'_> {
    fn run(&mut self, stop: &StopFlag, folder: &RunFolder) -> Result<(), ExperimentError> {
        let mut state = self.hall.enter();
        loop {
            // Asked before every move: sites that stopped report failures, and these must not end the round.
            if stop.is_raised() {
                return Err(folder.stopped());
            }
            match state.session.advance(self.hall.now()) {
                Some(Action::Publish { round, sites, base_sha256, .. }) => {
                    let task = self.config.federation.task(round, training(self.config), base_sha256);
                    self.hall.publish(&mut state, &task, &sites, &self.global);
                }
                Some(Action::Aggregate { contributions, .. }) => {
                    let record = match self.aggregate(&state, &contributions) {
                        Ok(next) => {
                            self.global = next;
                            state.session.commit(self.hall.now(), self.global.sha256())
                        }
                        Err(error) => state.session.abandon(self.hall.now(), &error.to_string()),
                    };
                    self.close_round(&mut state, record)?;
                }
                Some(Action::Failed(record)) => self.close_round(&mut state, Some(record))?,
                Some(Action::Finished) => return self.check_result(&state),
                None => {
                    let left = state.session.deadline().map(|at| at.saturating_sub(self.hall.now()));
                    state = self.hall.wait(state, left.unwrap_or(LOOK_EVERY).min(LOOK_EVERY));
                }
            }
        }
    }

    fn aggregate(
        &mut self,
        state: &State,
        contributions: &[consilium_federation::Contribution],
    ) -> Result<Adapter, ExperimentError> {
        self.strategy.begin(&self.global, contributions)?;
        for contribution in contributions {
            let update = self.hall.decode(&state.updates[&contribution.site])?;
            self.strategy.fold(&contribution.site, &update)?;
        }
        Ok(self.strategy.finish()?)
    }

    /// Tells of the round's end and keeps what is needed to go on from here.
    fn close_round(
        &mut self,
        state: &mut MutexGuard<'_, State>,
        record: Option<RoundRecord>,
    ) -> Result<(), ExperimentError> {
        let Some(record) = record else { return Ok(()) };
        self.tell(state, &record);
        if !record.committed {
            let reasons = record.reasons.iter();
            let reasons: Vec<String> = reasons
                .map(|(site, why)| if site.is_empty() { why.clone() } else { format!("{site}: {why}") })
                .collect();
            self.last_failure = Some(reasons.join("; "));
        }
        durable::write_stamped(&self.state_path, &state.session, &npz::encode(&self.global))
    }

    fn tell(&self, state: &State, record: &RoundRecord) {
        let sent = |site: &str| state.bytes_up.get(site).copied().unwrap_or(0);
        for contribution in &record.accepted {
            self.sink.record(&Event::SiteRound {
                round: record.round,
                site: contribution.site.clone(),
                accepted: record.committed,
                reason: record.reasons.get("").cloned(),
                examples: contribution.examples,
                train_loss: contribution.metrics.train_loss,
                seconds: contribution.metrics.seconds,
                bytes_up: sent(&contribution.site),
            });
        }
        for (site, reason) in record.reasons.iter().filter(|(site, _)| !site.is_empty()) {
            self.sink.record(&Event::SiteRound {
                round: record.round,
                site: site.clone(),
                accepted: false,
                reason: Some(reason.clone()),
                examples: 0,
                train_loss: 0.0,
                seconds: 0.0,
                bytes_up: sent(site),
            });
        }
        self.sink.record(&Event::Round {
            round: record.round,
            rounds: self.config.federation.rounds,
            committed: record.committed,
            accepted: record.accepted.iter().map(|c| c.site.clone()).collect(),
            train_loss: weighted_loss(self.config, record),
            seconds: record.took.as_secs_f64(),
            bytes_up: state.bytes_up.values().sum(),
            bytes_down: state.bytes_down,
            adapter_sha256: self.global.sha256(),
        });
    }

    /// A federation that never made a model has nothing to be judged.
    fn check_result(&self, state: &State) -> Result<(), ExperimentError> {
        if state.session.commits() > 0 {
            return Ok(());
        }
        let reason = self.last_failure.clone().unwrap_or_else(|| "of what metrics.jsonl says".into());
        Err(ExperimentError::NoRound { rounds: self.config.federation.rounds, reason })
    }
}

/// Mean of the accepted sites' training losses, weighed as their updates are.
fn weighted_loss(config: &Config, record: &RoundRecord) -> f64 {
    let weight = |examples: u64| match config.federation.weights {
        consilium_federation::Weights::Examples => examples as f64,
        consilium_federation::Weights::Uniform => 1.0,
    };
    let total: f64 = record.accepted.iter().map(|c| weight(c.examples)).sum();
    let sum: f64 = record.accepted.iter().map(|c| weight(c.examples) * c.metrics.train_loss).sum();
    if total > 0.0 { sum / total } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run_folder::Origin;
    use consilium_core::Tensor;
    use consilium_core::metric::MemorySink;
    use consilium_data::Tokens;
    use consilium_federation::UpdateMetrics;

    fn adapter(values: [f32; 3]) -> Adapter {
        Adapter::new(vec![Tensor { name: "w".into(), shape: vec![3], data: values.into() }]).unwrap()
    }

    fn sites(config: &Config) -> Vec<TrainRows> {
        let row = Tokens { ids: vec![1, 2], loss_from: 1, truncated: false };
        let site = |name| TrainRows::new(name, vec![row.clone(); 4], &training(config));
        ["a", "b", "c"].map(site).into()
    }

    /// Site i adds 1 to coordinate i.
    fn one_hot(rows: &TrainRows, task: &Task, global: &Adapter) -> Update {
        let mut values: Vec<f32> = global.flat().collect();
        values[usize::from(rows.name.as_bytes()[0] - b'a')] += 1.0;
        Update {
            round: task.round,
            base_sha256: task.base_sha256.clone(),
            adapter: adapter([values[0], values[1], values[2]]),
            examples: 4,
            metrics: UpdateMetrics { train_loss: 2.0, ..UpdateMetrics::default() },
        }
    }

    fn folder(root: &std::path::Path, config: &Config) -> RunFolder {
        let origin =
            Origin { model_sha256: String::new(), rows_sha256: String::new(), adapter_sha256: String::new() };
        RunFolder::open(root, config, &origin).unwrap()
    }

    #[test]
    fn a_site_that_fails_or_panics_in_mid_round_does_not_hurt_the_others() {
        let root = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.federation.rounds = 3;
        let sink = MemorySink::default();
        let work = |rows: &TrainRows, task: &Task, global: &Adapter| match (&*rows.name, task.round) {
            ("b", 1) => Err(SiteError::Other("power cut".into())),
            ("c", 2) => panic!("a bug at site c"),
            _ => Ok(one_hot(rows, task, global)),
        };
        let (rows, folder) = (sites(&config), folder(root.path(), &config));
        let initial = adapter([0.0; 3]);
        let end = run(&config, &rows, &initial, &work, &folder, &sink, &StopFlag::new()).unwrap();
        let third = 1.0 / 3.0;
        let expected = [0.5 + 0.5 + third, 0.5 + third, 0.5 + third];
        for (found, expected) in end.flat().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
        let events = sink.events();
        assert!(events.iter().any(|event| matches!(event,
            Event::SiteRound { round: 1, accepted: false, reason: Some(why), .. } if why == "power cut")));
        let rounds = events.iter().filter(|event| {
            matches!(event, Event::Round { committed: true, bytes_up, bytes_down, .. } if *bytes_up > 0 && *bytes_down > 0)
        });
        assert_eq!(rounds.count(), 3);
    }

    #[test]
    fn rounds_without_quorum_end_in_an_error_that_names_each_site() {
        let root = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.federation.rounds = 2;
        let work = |rows: &TrainRows, task: &Task, global: &Adapter| match &*rows.name {
            "a" => Ok(one_hot(rows, task, global)),
            name => Err(SiteError::Other(format!("no power at {name}"))),
        };
        let (rows, folder) = (sites(&config), folder(root.path(), &config));
        let sink = MemorySink::default();
        let error =
            run(&config, &rows, &adapter([0.0; 3]), &work, &folder, &sink, &StopFlag::new()).unwrap_err();
        assert!(error.to_string().contains("b: no power at b"), "{error}");
    }

    #[test]
    fn stopped_in_a_round_and_resumed_ends_as_if_unbroken() {
        let mut config = Config::default();
        config.federation.rounds = 4;
        config.federation.sites_per_round = Some(2);
        let rows = sites(&config);
        let go = |root: &std::path::Path, stop_in: Option<u32>| {
            let stop = StopFlag::new();
            let work = |rows: &TrainRows, task: &Task, global: &Adapter| {
                if stop_in == Some(task.round) {
                    stop.raise();
                    return Err(SiteError::Stopped { round: task.round, steps: 0 });
                }
                Ok(one_hot(rows, task, global))
            };
            let folder = folder(root, &config);
            run(&config, &rows, &adapter([0.0; 3]), &work, &folder, &MemorySink::default(), &stop)
        };
        let (whole, broken) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let expected = go(whole.path(), None).unwrap();
        assert!(matches!(go(broken.path(), Some(3)), Err(ExperimentError::Stopped { .. })));
        assert_eq!(rounds_kept(&folder(broken.path(), &config)).unwrap(), 2);
        assert_eq!(go(broken.path(), None).unwrap().sha256(), expected.sha256());
    }
}
