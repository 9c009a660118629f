//! Sessions as operators and sites see them: ordering one, reporting for it, getting its tasks.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use consilium_core::npz;
use consilium_federation::Session;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::watch;

use super::board::Notice;
use super::core::{Core, Inner, Live, Principal, unknown_session};
use super::metrics::Timed;
use super::spec::{Roster, SessionSpec};
use super::store::sessions::{insert_attendance, put_score};
use super::store::{Deed, ModelRow, ScoreRow, SessionRow, Status};
use super::views::{SessionView, view};
use crate::clock::millis;
use crate::error::NetError;
use crate::manifest::{Manifest, PROTOCOL};

/// What a site gets when it asks for its next task.
#[derive(Clone, Debug, PartialEq)]
pub enum NextTask {
    /// Work.
    Task(Box<HandedTask>),
    /// Nothing yet, and why.
    Wait(&'static str),
    /// The session is over; its last model.
    Over {
        /// Finished or stopped.
        status: Status,
        /// The last committed model.
        model: ModelRow,
        /// Rounds that made a model.
        commits: u32,
    },
}

/// A task with the server's signature.
#[derive(Clone, Debug, PartialEq)]
pub struct HandedTask {
    /// The same however often the task is handed out.
    pub correlation_id: String,
    /// The signed bytes.
    pub manifest: Vec<u8>,
    /// Their signature.
    pub signature: Vec<u8>,
    /// The model to start from.
    pub model: ModelRow,
}

fn new_id() -> Result<String, NetError> {
    let mut bytes = [0u8; 8];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| NetError::Internal("the system gave no randomness for an id".into()))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

impl Core {
    /// Orders a session that starts from the adapter in `archive`; returns its id.
    ///
    /// # Errors
    /// [`NetError::Invalid`] or [`NetError::Adapter`] for an order that cannot be carried out, or a storage error.
    pub fn order(&self, by: &Principal, spec: SessionSpec, archive: &[u8]) -> Result<String, NetError> {
        spec.check()?;
        let seed = npz::decode(archive, &spec.schema)?;
        let (id, now) = (new_id()?, self.now());
        let created = i64::try_from(millis(now)).unwrap_or(i64::MAX);
        let model = ModelRow {
            session: id.clone(),
            round: 0,
            adapter: seed.sha256(),
            archive: self.blobs.put(archive)?,
            bytes: archive.len() as u64,
            created,
        };
        let row = SessionRow {
            id: id.clone(),
            spec: Arc::new(spec),
            status: Status::Gathering,
            machine: None,
            version: 0,
            created,
        };
        let words = serde_json::json!({ "session": id, "name": row.spec.name, "seed": model.adapter });
        let deed = Deed { at: now, actor: &by.name, action: "session_ordered", detail: words.to_string() };
        let mut inner = self.enter();
        inner.change(&deed, |transaction| {
            row.insert(transaction)?;
            model.insert(transaction)
        })?;
        inner.add(Live { row: Arc::new(row), attended: BTreeSet::new(), seed: model.clone(), model });
        drop(inner);
        self.stir();
        Ok(id)
    }

    /// A site reports for duty. Returns the session that it takes part in: the one called `wanted`, or the newest open one.
    ///
    /// # Errors
    /// [`NetError::NotFound`] for a named session without this site, or a storage error.
    pub fn attend(
        &self,
        by: &Principal,
        wanted: &str,
    ) -> Result<Option<(SessionView, Arc<SessionSpec>)>, NetError> {
        let (site, now) = (&by.name, self.now());
        let mut inner = self.enter();
        let id = match wanted {
            "" => {
                let mine = |live: &&Live| is_for(&live.row, site);
                let open = inner
                    .sessions
                    .values()
                    .filter(mine)
                    .max_by_key(|live| (!live.row.status.is_over(), live.row.created));
                match open {
                    Some(live) => live.row.id.clone(),
                    None => return Ok(None),
                }
            }
            wanted => {
                let live = inner.find(wanted)?;
                if !is_for(&live.row, site) {
                    return Err(NetError::Denied(format!("{site} is not part of session {wanted}")));
                }
                live.row.id.clone()
            }
        };
        if !inner.live(&id)?.attended.contains(site) && inner.live(&id)?.row.status == Status::Gathering {
            self.take_in(&mut inner, &id, site, now)?;
        }
        let live = inner.live(&id)?;
        let found = (view(live), live.row.spec.clone());
        drop(inner);
        self.stir();
        Ok(Some(found))
    }

    /// Notes that `site` has reported, and begins the session when everybody has.
    fn take_in(&self, inner: &mut Inner, id: &str, site: &str, now: Duration) -> Result<(), NetError> {
        let live = inner.live(id)?;
        let mut attended = live.attended.clone();
        attended.insert(site.to_owned());
        let complete = match &live.row.spec.roster {
            Roster::Named(names) => names.iter().all(|name| attended.contains(name)),
            Roster::First(count) => attended.len() >= *count,
        };
        let seed = live.model.adapter.clone();
        let roster: Vec<String> = attended.iter().cloned().collect();
        let action = if complete { "session_began" } else { "site_reported" };
        let words = serde_json::json!({ "session": id, "site": site }).to_string();
        let deed = Deed { at: now, actor: site, action, detail: words };
        inner.change_session(
            id,
            &deed,
            |row| {
                if complete {
                    row.status = Status::Running;
                    row.machine = Some(Session::new(row.spec.settings.clone(), roster, seed));
                }
                Ok(())
            },
            |transaction, ()| insert_attendance(transaction, id, site, now),
        )?;
        inner.live_mut(id)?.attended = attended;
        Ok(())
    }

    /// The site's task, if one waits for it. Answers at once, whatever else goes on; see `follow` for waiting.
    ///
    /// # Errors
    /// [`NetError::NotFound`] or [`NetError::Denied`].
    pub fn next_task(&self, by: &Principal, id: &str) -> Result<NextTask, NetError> {
        let notice = self.follow(id)?.borrow().clone();
        let Notice { row, model } = notice;
        if !is_for(&row, &by.name) {
            return Err(NetError::Denied(format!("{} is not part of this session", by.name)));
        }
        if row.status.is_over() {
            let commits = row.machine.as_ref().map_or(0, Session::commits);
            return Ok(NextTask::Over { status: row.status, model, commits });
        }
        let Some(machine) = &row.machine else {
            return Ok(NextTask::Wait("the session waits for its sites"));
        };
        if !machine.awaits(&by.name) {
            return Ok(NextTask::Wait("the round waits for other sites"));
        }
        let manifest = Manifest {
            protocol: PROTOCOL,
            session: row.id.clone(),
            site: by.name.clone(),
            roster: machine.roster().to_vec(),
            deadline_ms: machine.deadline().map_or(u64::MAX, millis),
            task: row.spec.task(machine.round(), machine.base_sha256()),
            archive_sha256: model.archive.clone(),
        };
        let (bytes, signature) = self.key.sign(&manifest);
        let correlation_id = manifest.correlation_id();
        if let Some(opened) = machine.opened() {
            self.metrics.observe(Timed::Dispatch, self.now().saturating_sub(opened));
        }
        Ok(NextTask::Task(Box::new(HandedTask { correlation_id, manifest: bytes, signature, model })))
    }

    /// Changes of a session that one of its sites may wait for: a round has opened, or the session has ended.
    ///
    /// # Errors
    /// [`NetError::NotFound`].
    pub(super) fn follow(&self, id: &str) -> Result<watch::Receiver<Notice>, NetError> {
        self.board.follow(id).ok_or_else(|| unknown_session(id))
    }

    /// No update of `round` will come from this site.
    ///
    /// # Errors
    /// [`NetError::NotFound`] or a storage error.
    pub fn report_failure(&self, by: &Principal, id: &str, round: u32, reason: &str) -> Result<(), NetError> {
        let reason = crate::words::shortened(reason);
        let mut inner = self.enter();
        let awaited =
            inner.live(id)?.row.machine.as_ref().is_some_and(|m| m.round() == round && m.awaits(&by.name));
        if awaited {
            let words = serde_json::json!({ "session": id, "round": round, "reason": reason }).to_string();
            let deed = Deed { at: self.now(), actor: &by.name, action: "site_failed", detail: words };
            let fail = |row: &mut SessionRow| {
                if let Some(machine) = &mut row.machine {
                    machine.fail(round, &by.name, &reason);
                }
                Ok(())
            };
            inner.change_session(id, &deed, fail, |_, ()| Ok(()))?;
        }
        drop(inner);
        self.stir();
        Ok(())
    }

    /// The site goes: the open round does not wait for it.
    ///
    /// # Errors
    /// As [`Core::report_failure`].
    pub fn leave(&self, by: &Principal, id: &str) -> Result<(), NetError> {
        let round = self.enter().live(id)?.row.machine.as_ref().map_or(0, Session::round);
        self.report_failure(by, id, round, "the site left")
    }

    /// Keeps what a site tells about its own evaluation.
    ///
    /// # Errors
    /// [`NetError::Denied`] for a site that is not part of the session, [`NetError::Invalid`] for values that are no
    /// numbers, or a storage error.
    pub fn report_scores(&self, by: &Principal, id: &str, scores: &[ScoreRow]) -> Result<(), NetError> {
        let mut inner = self.enter();
        if !is_for(&inner.live(id)?.row, &by.name) {
            return Err(NetError::Denied(format!("{} is not part of this session", by.name)));
        }
        if scores.len() > 64 || scores.iter().any(|score| !score.value.is_finite()) {
            return Err(NetError::Invalid("scores: at most 64 finite values".into()));
        }
        let words = serde_json::json!({ "session": id, "scores": scores.len() }).to_string();
        let deed = Deed { at: self.now(), actor: &by.name, action: "scores_reported", detail: words };
        inner.change(&deed, |transaction| {
            scores.iter().try_for_each(|score| {
                put_score(transaction, id, &ScoreRow { site: by.name.clone(), ..score.clone() })
            })
        })
    }

    /// Ends a session after the last committed round; the open round's updates are kept but not counted until it is continued.
    ///
    /// # Errors
    /// [`NetError::NotFound`], [`NetError::Invalid`] when it is over, or a storage error.
    pub fn stop_session(&self, by: &Principal, name: &str) -> Result<(), NetError> {
        self.set_status(by, name, "session_stopped", |row, _| match row.status.is_over() {
            true => Err(NetError::Invalid(format!("the session is {} already", row.status.word()))),
            false => {
                row.status = Status::Stopped;
                Ok(())
            }
        })
    }

    /// Goes on with a stopped session; its open round gets its whole time again.
    ///
    /// # Errors
    /// [`NetError::NotFound`], [`NetError::Invalid`] when it was not stopped, or a storage error.
    pub fn continue_session(&self, by: &Principal, name: &str) -> Result<(), NetError> {
        self.set_status(by, name, "session_continued", |row, now| {
            if row.status != Status::Stopped {
                return Err(NetError::Invalid(format!("the session is {}, not stopped", row.status.word())));
            }
            match &mut row.machine {
                Some(machine) => {
                    machine.restart_deadline(now);
                    row.status = Status::Running;
                }
                None => row.status = Status::Gathering,
            }
            Ok(())
        })
    }

    fn set_status(
        &self,
        by: &Principal,
        name: &str,
        action: &str,
        edit: impl FnOnce(&mut SessionRow, Duration) -> Result<(), NetError>,
    ) -> Result<(), NetError> {
        let now = self.now();
        let mut inner = self.enter();
        let id = inner.find(name)?.row.id.clone();
        let words = serde_json::json!({ "session": id }).to_string();
        let deed = Deed { at: now, actor: &by.name, action, detail: words };
        inner.change_session(&id, &deed, |row| edit(row, now), |_, ()| Ok(()))?;
        drop(inner);
        self.stir();
        Ok(())
    }

    /// A model of a session whose archive has this hash.
    ///
    /// # Errors
    /// [`NetError::NotFound`], [`NetError::Denied`] for a site that is not part of the session, or a storage error.
    pub fn model(&self, by: &Principal, id: &str, archive: &str) -> Result<ModelRow, NetError> {
        let inner = self.enter();
        let live = inner.find(id)?;
        if by.role == super::store::Role::Site && !is_for(&live.row, &by.name) {
            return Err(NetError::Denied(format!("{} is not part of this session", by.name)));
        }
        let found = inner.store.models(&live.row.id)?.into_iter().find(|model| model.archive == archive);
        found.ok_or_else(|| NetError::NotFound { what: "model", name: archive.to_owned() })
    }

    /// A piece of a model's archive.
    ///
    /// # Errors
    /// As [`super::blobs::Blobs::piece`].
    pub fn model_piece(&self, archive: &str, offset: u64, length: usize) -> Result<Vec<u8>, NetError> {
        let bytes = self.blobs.piece(archive, offset, length)?;
        self.metrics.count(|counters| counters.bytes_out += bytes.len() as u64);
        Ok(bytes)
    }
}

/// Whether `site` may take part.
pub(super) fn is_for(row: &SessionRow, site: &str) -> bool {
    match (&row.machine, &row.spec.roster) {
        (Some(machine), _) => machine.roster().iter().any(|name| name == site),
        (None, Roster::Named(names)) => names.iter().any(|name| name == site),
        (None, Roster::First(_)) => true,
    }
}
