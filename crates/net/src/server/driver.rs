//! The one thread that moves rounds on: opens them, seals them at quorum and deadline, folds, commits.
//!
//! It asks each session's machine what to do, and does nothing that the database does not know first. Killed at any
//! point it is asked the same question again after the restart, and gives the same answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use consilium_core::npz;
use consilium_federation::{Action, Contribution, FedAvg, RoundRecord, Session, Strategy};

use super::core::{Core, Inner};
use super::metrics::Timed;
use super::spec::SessionSpec;
use super::store::sessions::insert_round;
use super::store::{Deed, ModelRow, SessionRow, Status};
use crate::clock::millis;
use crate::error::NetError;

/// Longest sleep: deadlines are met to a quarter of a second even when nobody wakes the driver.
const NAP: Duration = Duration::from_millis(250);
/// Pause after the store has failed, before the same is tried again.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// What a session needs that takes longer than the lock may be held.
struct Fold {
    session: String,
    spec: Arc<SessionSpec>,
    base: ModelRow,
    round: u32,
    contributions: Vec<Contribution>,
    archives: Vec<String>,
}

impl Core {
    /// Drives every session until `stop` is raised. Meant for a thread of its own.
    pub fn drive(&self, stop: &AtomicBool) {
        /// Says that the driver is gone also when it panics.
        struct AtWork<'a>(&'a AtomicBool);
        impl Drop for AtWork<'_> {
            fn drop(&mut self) {
                self.0.store(false, Ordering::SeqCst);
            }
        }
        self.driving.store(true, Ordering::SeqCst);
        let _at_work = AtWork(&self.driving);
        while !stop.load(Ordering::SeqCst) {
            let nap = match self.move_on() {
                Ok(true) => continue,
                Ok(false) => self.nap(),
                Err(_) => AFTER_FAILURE,
            };
            drop(self.sleep(self.enter(), nap));
        }
    }

    /// Whether the driver is at work; it is not before it began and after it died.
    pub fn is_driven(&self) -> bool {
        self.driving.load(Ordering::SeqCst)
    }

    /// Time to the next deadline, at most [`NAP`].
    fn nap(&self) -> Duration {
        let now = self.now();
        let inner = self.enter();
        let machines = inner.sessions.values().filter(|live| live.row.status == Status::Running);
        let deadlines = machines.filter_map(|live| live.row.machine.as_ref().and_then(Session::deadline));
        let next = deadlines.min().map_or(NAP, |deadline| deadline.saturating_sub(now));
        next.clamp(Duration::from_millis(1), NAP)
    }

    /// Takes every running session one step on; whether any had something to do.
    fn move_on(&self) -> Result<bool, NetError> {
        let mut folds = Vec::new();
        let mut moved = false;
        {
            let mut inner = self.enter();
            let running = inner.sessions.values().filter(|live| live.row.status == Status::Running);
            let ids: Vec<String> = running.map(|live| live.row.id.clone()).collect();
            for id in ids {
                moved |= self.step(&mut inner, &id, &mut folds)?;
            }
        }
        for fold in folds {
            self.finish_fold(&fold)?;
        }
        if moved {
            self.stir();
        }
        Ok(moved)
    }

    /// One answer of one machine.
    fn step(&self, inner: &mut Inner, id: &str, folds: &mut Vec<Fold>) -> Result<bool, NetError> {
        let now = self.now();
        let live = inner.live(id)?;
        let Some(mut machine) = live.row.machine.clone() else { return Ok(false) };
        let (spec, base) = (live.row.spec.clone(), live.model.clone());
        let Some(action) = machine.advance(now) else { return Ok(false) };
        let words = |extra: serde_json::Value| {
            serde_json::json!({ "session": id, "round": machine.round(), "what": extra }).to_string()
        };
        let deed = |action, detail| Deed { at: now, actor: "server", action, detail };
        match action {
            Action::Publish { ref sites, .. } => {
                let deed = deed("round_opened", words(serde_json::json!({ "sites": sites })));
                inner.change_session(id, &deed, put(machine, Status::Running), |_, ()| Ok(()))?;
            }
            Action::Aggregate { round, contributions } => {
                let deed = deed("round_sealed", words(serde_json::json!({ "updates": contributions.len() })));
                let updates = inner.store.updates(id, round)?;
                let archive = |c: &Contribution| {
                    let kept = updates.iter().find(|update| update.site == c.site);
                    kept.map(|update| update.archive.clone()).unwrap_or_default()
                };
                let archives = contributions.iter().map(archive).collect();
                inner.change_session(id, &deed, put(machine, Status::Running), |_, ()| Ok(()))?;
                folds.push(Fold { session: id.to_owned(), spec, base, round, contributions, archives });
            }
            Action::Failed(record) => {
                let deed = deed("round_failed", words(serde_json::json!(record.reasons)));
                inner.change_session(id, &deed, put(machine, Status::Running), |transaction, ()| {
                    insert_round(transaction, id, &record, now)
                })?;
                self.round_ended(&record);
                self.forget_updates(inner, Some(id))?;
            }
            Action::Finished => {
                let deed = deed("session_finished", words(serde_json::json!({ "model": base.adapter })));
                inner.change_session(id, &deed, put(machine, Status::Finished), |_, ()| Ok(()))?;
            }
        }
        Ok(true)
    }

    /// Folds a sealed round outside the lock, and commits or abandons it.
    fn finish_fold(&self, fold: &Fold) -> Result<(), NetError> {
        let started = Instant::now();
        let folded = self.fold(fold);
        self.metrics.observe(Timed::Fold, started.elapsed());
        crate::failpoint::reach("folded");
        let id = &fold.session;
        let (now, created) = (self.now(), i64::try_from(millis(self.now())).unwrap_or(i64::MAX));
        match folded {
            Ok((archive, bytes, adapter)) => {
                let model =
                    ModelRow { session: id.clone(), round: fold.round, adapter, archive, bytes, created };
                let words = serde_json::json!({
                    "session": id, "round": fold.round, "model": model.adapter, "archive": model.archive,
                });
                let deed =
                    Deed { at: now, actor: "server", action: "round_committed", detail: words.to_string() };
                let mut inner = self.enter();
                let commit =
                    |row: &mut SessionRow| ended(row, |machine| machine.commit(now, model.adapter.clone()));
                let record = inner.change_session(id, &deed, commit, |transaction, record| {
                    insert_round(transaction, id, record, now)?;
                    model.insert(transaction)
                })?;
                inner.set_model(model)?;
                self.round_ended(&record);
                self.forget_updates(&inner, Some(id))?;
            }
            // Whether the disk gives its bytes another time is unknown; the round stays sealed until it does.
            Err(error) if matches!(error, NetError::Io { .. } | NetError::StoreDown(_)) => {
                self.enter().edit_machine(id, Session::announce_again)?;
                return Err(error);
            }
            Err(error) => {
                let reason = error.to_string();
                let words = serde_json::json!({ "session": id, "round": fold.round, "reason": reason });
                let deed =
                    Deed { at: now, actor: "server", action: "round_failed", detail: words.to_string() };
                let mut inner = self.enter();
                let abandon = |row: &mut SessionRow| ended(row, |machine| machine.abandon(now, &reason));
                let record = inner.change_session(id, &deed, abandon, |transaction, record| {
                    insert_round(transaction, id, record, now)
                })?;
                self.round_ended(&record);
                self.forget_updates(&inner, Some(id))?;
            }
        }
        Ok(())
    }

    fn round_ended(&self, record: &RoundRecord) {
        self.metrics.observe(Timed::Round, record.took);
        self.metrics.count(|counters| match record.committed {
            true => counters.rounds_committed += 1,
            false => counters.rounds_failed += 1,
        });
    }

    /// The next global adapter's archive, its length, and the adapter's hash. One update at a time is in memory.
    fn fold(&self, fold: &Fold) -> Result<(String, u64, String), NetError> {
        let schema = &fold.spec.schema;
        let global = npz::decode(&self.blobs.get(&fold.base.archive)?, schema)?;
        let mut strategy = FedAvg::new(fold.spec.weights);
        let fault = |error: consilium_federation::StrategyError| NetError::Internal(error.to_string());
        strategy.begin(&global, &fold.contributions).map_err(fault)?;
        for (contribution, archive) in fold.contributions.iter().zip(&fold.archives) {
            let update = npz::decode(&self.blobs.get(archive)?, schema)?;
            strategy.fold(&contribution.site, &update).map_err(fault)?;
        }
        let next = strategy.finish().map_err(fault)?;
        let archive = npz::encode(&next);
        let bytes = archive.len() as u64;
        Ok((self.blobs.put(&archive)?, bytes, next.sha256()))
    }
}

fn put(machine: Session, status: Status) -> impl FnOnce(&mut SessionRow) -> Result<(), NetError> {
    move |row| {
        row.machine = Some(machine);
        row.status = status;
        Ok(())
    }
}

fn ended(
    row: &mut SessionRow,
    end: impl FnOnce(&mut Session) -> Option<RoundRecord>,
) -> Result<RoundRecord, NetError> {
    row.machine.as_mut().and_then(end).ok_or_else(|| NetError::Internal("no round is sealed".into()))
}
