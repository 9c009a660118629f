//! Sites and coordinator in one process: updates travel as the same bytes that a network would carry.
//!
//! The [`Hall`] is where both meet. Sites come in through [`InProcess`], the [`Transport`] of this process; the
//! coordinator publishes tasks, looks at the session and takes the accepted updates out.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use consilium_core::adapter::Schema;
use consilium_core::{Adapter, npz};
use consilium_federation::{Answer, Offer, Session, Task, Transport, TransportError, Update};

/// Where sites and coordinator of one process meet.
pub(crate) struct Hall {
    state: Mutex<State>,
    changed: Condvar,
    schema: Schema,
    start: Instant,
}

/// What the hall holds.
pub(crate) struct State {
    pub session: Session,
    /// Accepted updates of the open round, as they came, by site.
    pub updates: BTreeMap<String, Vec<u8>>,
    /// Bytes of every update that came in this round, by site.
    pub bytes_up: BTreeMap<String, u64>,
    /// Bytes of the models sent in this round.
    pub bytes_down: u64,
    tasks: BTreeMap<String, Task>,
    global: Arc<Vec<u8>>,
    closed: bool,
}

impl Hall {
    pub fn new(session: Session, schema: Schema) -> Self {
        let state = State {
            session,
            updates: BTreeMap::new(),
            bytes_up: BTreeMap::new(),
            bytes_down: 0,
            tasks: BTreeMap::new(),
            global: Arc::default(),
            closed: false,
        };
        Self { state: Mutex::new(state), changed: Condvar::new(), schema, start: Instant::now() }
    }

    /// Time since the hall was opened: the session's clock.
    pub fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Looks at the state, and at what may be changed in it.
    pub fn enter(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a change, or for `limit`.
    pub fn wait<'a>(&self, state: MutexGuard<'a, State>, limit: Duration) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, limit).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Lays out `task` for `sites`, with the model that it starts from.
    pub fn publish(&self, state: &mut State, task: &Task, sites: &[String], global: &Adapter) {
        state.global = Arc::new(npz::encode(global));
        state.updates.clear();
        state.bytes_up.clear();
        state.bytes_down = 0;
        state.tasks = sites.iter().map(|site| (site.clone(), task.clone())).collect();
        self.changed.notify_all();
    }

    /// An accepted update as an adapter.
    pub fn decode(&self, bytes: &[u8]) -> Result<Adapter, consilium_core::AdapterError> {
        npz::decode(bytes, &self.schema)
    }

    /// Sends everybody home: no task will come any more.
    pub fn close(&self, state: &mut State) {
        state.closed = true;
        self.changed.notify_all();
    }
}

/// A site's way into the hall.
pub(crate) struct InProcess<'a> {
    pub hall: &'a Hall,
    pub site: &'a str,
}

impl Transport for InProcess<'_> {
    fn next_task(&mut self) -> Result<Option<Task>, TransportError> {
        let mut state = self.hall.enter();
        loop {
            if state.closed {
                return Ok(None);
            }
            if let Some(task) = state.tasks.remove(self.site) {
                return Ok(Some(task));
            }
            state = self.hall.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn fetch(&mut self, task: &Task) -> Result<Adapter, TransportError> {
        let bytes = {
            let mut state = self.hall.enter();
            state.bytes_down += state.global.len() as u64;
            state.global.clone()
        };
        let global = self.hall.decode(&bytes).map_err(|e| TransportError(e.to_string()))?;
        let found = global.sha256();
        if found != task.base_sha256 {
            return Err(TransportError(format!("asked for model {}, got {found}", task.base_sha256)));
        }
        Ok(global)
    }

    fn send(&mut self, update: Update) -> Result<Answer, TransportError> {
        let bytes = npz::encode(&update.adapter);
        // Whoever receives looks at content before it counts; here both ends are the same program.
        self.hall.decode(&bytes).map_err(|e| TransportError(e.to_string()))?;
        let offer = Offer {
            round: update.round,
            base_sha256: update.base_sha256,
            examples: update.examples,
            metrics: update.metrics,
        };
        let now = self.hall.now();
        let mut state = self.hall.enter();
        *state.bytes_up.entry(self.site.into()).or_default() += bytes.len() as u64;
        let answer = state.session.offer(now, self.site, &offer);
        if answer == Answer::Accepted {
            state.updates.insert(self.site.into(), bytes);
        }
        self.hall.changed.notify_all();
        Ok(answer)
    }

    fn report_failure(&mut self, round: u32, reason: &str) -> Result<(), TransportError> {
        self.hall.enter().session.fail(round, self.site, reason);
        self.hall.changed.notify_all();
        Ok(())
    }
}
