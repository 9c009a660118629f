//! A coordinator in memory: the session machine, the mean, and a door for each site.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use consilium_core::adapter::Schema;
use consilium_core::{Adapter, npz};
use consilium_experiment::hospital::{LateAnswer, SitePlan};
use consilium_federation::{
    Action, Answer, FedAvg, Offer, Session, Strategy, Task, Transport, TransportError, Update,
};

/// Where the sites of a session meet.
pub struct Room {
    state: Mutex<State>,
    changed: Condvar,
    plan: SitePlan,
    /// What the session starts from.
    pub first: Adapter,
    /// Answers to updates of an earlier run, for whoever asks first.
    pub late_answers: Mutex<Vec<LateAnswer>>,
    /// Changes every task before it is given out.
    tamper: fn(&mut Task),
}

struct State {
    session: Session,
    global: Adapter,
    open: Option<Task>,
    awaited: BTreeSet<String>,
    updates: BTreeMap<String, Adapter>,
    failures: Vec<(u32, String, String)>,
    over: bool,
    start: Instant,
}

impl Room {
    /// A session of `plan` among `sites`, from `initial`.
    pub fn new(plan: &SitePlan, sites: &[&str], initial: Adapter, tamper: fn(&mut Task)) -> Self {
        let first = initial.clone();
        let roster: Vec<String> = sites.iter().map(|site| (*site).to_owned()).collect();
        let state = State {
            session: Session::new(plan.session_settings(roster.len()), roster, initial.sha256()),
            global: initial,
            open: None,
            awaited: BTreeSet::new(),
            updates: BTreeMap::new(),
            failures: Vec::new(),
            over: false,
            start: Instant::now(),
        };
        let room = Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            plan: plan.clone(),
            first,
            late_answers: Mutex::default(),
            tamper,
        };
        room.move_on(room.enter());
        room
    }

    fn enter(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn move_on(&self, mut state: MutexGuard<'_, State>) {
        let state = &mut *state;
        while let Some(action) = state.session.advance(state.start.elapsed()) {
            match action {
                Action::Publish { round, sites, base_sha256, .. } => {
                    let mut task = self.plan.task(round, base_sha256);
                    (self.tamper)(&mut task);
                    state.open = Some(task);
                    state.awaited = sites.into_iter().collect();
                }
                Action::Aggregate { contributions, .. } => {
                    let mut mean = FedAvg::new(self.plan.federation.weights);
                    mean.begin(&state.global, &contributions).unwrap();
                    for contribution in &contributions {
                        mean.fold(&contribution.site, &state.updates[&contribution.site]).unwrap();
                    }
                    state.global = mean.finish().unwrap();
                    state.session.commit(state.start.elapsed(), state.global.sha256());
                    state.updates.clear();
                }
                Action::Failed(_) => state.updates.clear(),
                Action::Finished => state.over = true,
            }
        }
        self.changed.notify_all();
    }

    /// The global adapter as it is now, as a site gets it.
    pub fn adapter(&self, schema: &Schema) -> Result<Adapter, TransportError> {
        npz::decode(&npz::encode(&self.enter().global), schema).map_err(|e| TransportError(e.to_string()))
    }

    /// Round, site and reason of every failure that was reported.
    pub fn failures(&self) -> Vec<(u32, String, String)> {
        self.enter().failures.clone()
    }
}

/// A site's door.
pub struct Door<'a> {
    pub room: &'a Room,
    pub site: &'a str,
    /// Sends that are lost on the way before one arrives.
    pub lost: usize,
}

impl Transport for Door<'_> {
    fn next_task(&mut self) -> Result<Option<Task>, TransportError> {
        let mut state = self.room.enter();
        let begun = Instant::now();
        loop {
            if state.over {
                return Ok(None);
            }
            if state.awaited.contains(self.site) {
                return Ok(state.open.clone());
            }
            assert!(begun.elapsed() < Duration::from_secs(120), "{} waits for nothing", self.site);
            state = self.room.changed.wait_timeout(state, Duration::from_secs(1)).unwrap().0;
        }
    }

    fn fetch(&mut self, task: &Task) -> Result<Adapter, TransportError> {
        let schema = self.room.enter().global.schema();
        let global = self.room.adapter(&schema)?;
        assert_eq!(global.sha256(), task.base_sha256);
        Ok(global)
    }

    fn send(&mut self, update: Update) -> Result<Answer, TransportError> {
        if self.lost > 0 {
            self.lost -= 1;
            return Err(TransportError("the line is dead".into()));
        }
        let mut state = self.room.enter();
        let offer = Offer {
            round: update.round,
            base_sha256: update.base_sha256,
            examples: update.examples,
            metrics: update.metrics,
        };
        let now = state.start.elapsed();
        let answer = state.session.offer(now, self.site, &offer);
        if answer == Answer::Accepted {
            state.updates.insert(self.site.into(), update.adapter);
            state.awaited.remove(self.site);
        }
        self.room.move_on(state);
        Ok(answer)
    }

    fn report_failure(&mut self, round: u32, reason: &str) -> Result<(), TransportError> {
        let mut state = self.room.enter();
        state.session.fail(round, self.site, reason);
        state.awaited.remove(self.site);
        state.failures.push((round, self.site.into(), reason.into()));
        self.room.move_on(state);
        Ok(())
    }
}
