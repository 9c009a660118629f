//! The server's core: what it knows, and how it changes. Transports call its commands; it knows none of them.
//!
//! Everything lies behind one lock. A change is worked out on a copy, written to the database in one transaction,
//! and only then becomes what the server knows: if the write fails, nothing has happened. Work that takes
//! long, such as reading an archive or folding a round, is done outside the lock, and sites that wait for a task are
//! answered from the `board`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use consilium_federation::Session;
use rusqlite::{ErrorCode, Transaction};
use tokio::sync::watch;

use super::blobs::Blobs;
use super::board::{Board, Notice};
use super::metrics::{Counters, Metrics};
use super::store::{AuditEntry, Deed, ModelRow, Role, SessionRow, Store};
use crate::clock::Clock;
use crate::error::NetError;
use crate::manifest::ServerKey;

/// How a server behaves.
#[derive(Clone, Debug)]
pub struct CoreSettings {
    /// Whether a site may enrol without a token.
    pub open_enrolment: bool,
    /// Time after which a task that nobody asked about again is shown as lost, seconds.
    pub lease_s: u32,
    /// How long an access token is good.
    pub access_life: Duration,
    /// How long a refresh token is good.
    pub refresh_life: Duration,
    /// Largest magnitude of a value in an update.
    pub max_magnitude: f32,
    /// Most training rows that one site may claim.
    pub max_examples: u64,
    /// Whether single sites' updates are kept after their round. They can give away training rows; the mean says less.
    pub keep_updates: bool,
}

impl Default for CoreSettings {
    fn default() -> Self {
        Self {
            open_enrolment: false,
            lease_s: 60,
            access_life: Duration::from_secs(3600),
            refresh_life: Duration::from_secs(30 * 24 * 3600),
            max_magnitude: 1e4,
            max_examples: 100_000_000,
            keep_updates: false,
        }
    }
}

/// Who calls: proven by a credential, never by a field of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// Name of the site, or of the operator's token.
    pub name: String,
    /// What it may do.
    pub role: Role,
}

/// A session in memory.
pub(super) struct Live {
    pub row: Arc<SessionRow>,
    /// Sites that have reported.
    pub attended: BTreeSet<String>,
    /// The model that it started from.
    pub seed: ModelRow,
    /// The last committed model.
    pub model: ModelRow,
}

/// What lies behind the lock.
pub(super) struct Inner {
    pub store: Store,
    pub sessions: BTreeMap<String, Live>,
    /// When each site was last heard of, since 1970.
    pub seen: BTreeMap<String, Duration>,
    /// The half-sent upload of each site: its id and announced bytes.
    pub uploads: BTreeMap<String, (String, u64)>,
    /// Refused updates of each session, round and site that are in the audit log.
    pub refusals: BTreeMap<(String, u32, String), u32>,
    /// Why the database takes nothing more, if it has failed.
    pub down: Option<String>,
    /// Where changed sessions are put up for their sites.
    board: Arc<Board>,
}

/// The state of one server and its commands.
pub struct Core {
    inner: Mutex<Inner>,
    /// Wakes the driver.
    wake: Condvar,
    /// Raised with every change that somebody who watches might want to see.
    changed: watch::Sender<u64>,
    pub(super) board: Arc<Board>,
    pub(super) metrics: Metrics,
    pub(super) blobs: Blobs,
    pub(super) key: ServerKey,
    pub(super) clock: Clock,
    pub(super) settings: CoreSettings,
    /// Whether the driver is at work.
    pub(super) driving: AtomicBool,
}

impl Core {
    /// Opens the server's data directory, or makes it, and takes up every session where it was left.
    ///
    /// # Errors
    /// [`NetError::Io`], [`NetError::Database`], or [`NetError::Corrupt`].
    pub fn open(folder: &Path, settings: CoreSettings) -> Result<Self, NetError> {
        crate::durable::create_folder(folder)?;
        let store = Store::open(&folder.join("consilium.db"))?;
        let board = Arc::new(Board::default());
        let mut sessions = BTreeMap::new();
        for row in store.sessions()? {
            let models = store.models(&row.id)?;
            let (Some(seed), Some(model)) = (models.first().cloned(), models.last().cloned()) else {
                let session = format!("session {}", row.spec.name);
                return Err(NetError::corrupt(session, "it has no model, not even a seed"));
            };
            let attended = store.attendance(&row.id)?.into_iter().collect();
            let live = Live { row: Arc::new(row), attended, seed, model };
            board.post(live.notice());
            sessions.insert(live.row.id.clone(), live);
        }
        let inner = Inner {
            store,
            sessions,
            seen: BTreeMap::new(),
            uploads: BTreeMap::new(),
            refusals: BTreeMap::new(),
            down: None,
            board: board.clone(),
        };
        let core = Self {
            inner: Mutex::new(inner),
            wake: Condvar::new(),
            changed: watch::Sender::new(0),
            board,
            metrics: Metrics::default(),
            blobs: Blobs::open(folder)?,
            key: ServerKey::open(&folder.join("signing.key"))?,
            clock: Clock::start(),
            settings,
            driving: AtomicBool::new(false),
        };
        core.blobs.sweep()?;
        core.forget_updates(&core.enter(), None)?;
        Ok(core)
    }

    /// Removes the updates of rounds that have ended, of one session or of all, unless they are to be kept.
    pub(super) fn forget_updates(&self, inner: &Inner, session: Option<&str>) -> Result<(), NetError> {
        if self.settings.keep_updates {
            return Ok(());
        }
        inner.store.spent_archives(session)?.iter().try_for_each(|archive| self.blobs.remove(archive))
    }

    /// The public half of the key that signs round manifests.
    pub fn server_key(&self) -> Vec<u8> {
        self.key.public()
    }

    /// Whether a site may enrol without a token.
    pub fn open_enrolment(&self) -> bool {
        self.settings.open_enrolment
    }

    pub(super) fn now(&self) -> Duration {
        self.clock.now()
    }

    pub(super) fn enter(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps until something changes, or for `limit`.
    pub(super) fn sleep<'a>(&self, inner: MutexGuard<'a, Inner>, limit: Duration) -> MutexGuard<'a, Inner> {
        self.wake.wait_timeout(inner, limit).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Something has changed that the driver or somebody who watches might be waiting for.
    pub(super) fn stir(&self) {
        self.wake.notify_all();
        self.changed.send_modify(|times| *times += 1);
    }

    /// A receiver that sees every change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// What has been counted since the start of the program.
    pub fn counters(&self) -> Counters {
        self.metrics.counters().clone()
    }

    /// The audit log, after checking every link.
    ///
    /// # Errors
    /// [`NetError::Corrupt`] with the first row that does not fit, or a storage error.
    pub fn audit(&self) -> Result<Vec<AuditEntry>, NetError> {
        let inner = self.enter();
        inner.store.verify_audit()?;
        inner.store.audit_log()
    }

    /// Why nothing can be acknowledged at the moment, if so.
    pub fn failure(&self) -> Option<String> {
        let down = self.enter().down.clone();
        down.or_else(|| self.blobs.failure())
    }
}

impl Inner {
    /// One transaction with its row of the audit log.
    pub fn change<T>(
        &mut self,
        deed: &Deed<'_>,
        change: impl FnOnce(&Transaction<'_>) -> Result<T, NetError>,
    ) -> Result<T, NetError> {
        if let Some(reason) = &self.down {
            return Err(NetError::StoreDown(reason.clone()));
        }
        self.store.change(deed, change).inspect_err(|error| {
            // Whether a failed write has reached the disk is unknown: nothing may be promised after it.
            if let NetError::Database(rusqlite::Error::SqliteFailure(code, _)) = error
                && matches!(code.code, ErrorCode::SystemIoFailure | ErrorCode::DatabaseCorrupt)
            {
                self.down = Some(error.to_string());
            }
        })
    }

    /// Changes a session: `edit` works on a copy, which becomes what the server knows once it is written together with
    /// what `also` writes.
    pub fn change_session<T>(
        &mut self,
        id: &str,
        deed: &Deed<'_>,
        edit: impl FnOnce(&mut SessionRow) -> Result<T, NetError>,
        also: impl FnOnce(&Transaction<'_>, &T) -> Result<(), NetError>,
    ) -> Result<T, NetError> {
        let mut next = SessionRow::clone(&self.live(id)?.row);
        next.version += 1;
        let value = edit(&mut next)?;
        self.change(deed, |transaction| {
            next.save(transaction, deed.at)?;
            also(transaction, &value)
        })?;
        let live = self.live_mut(id)?;
        live.row = Arc::new(next);
        let notice = live.notice();
        self.board.post(notice);
        Ok(value)
    }

    /// A session that has just been written for the first time.
    pub fn add(&mut self, live: Live) {
        self.board.post(live.notice());
        self.sessions.insert(live.row.id.clone(), live);
    }

    /// Changes what nobody needs to remember of a session's machine.
    pub fn edit_machine(&mut self, id: &str, edit: impl FnOnce(&mut Session)) -> Result<(), NetError> {
        let row = Arc::make_mut(&mut self.live_mut(id)?.row);
        row.machine.as_mut().map(edit);
        Ok(())
    }

    /// The model of a round that has just been written.
    pub fn set_model(&mut self, model: ModelRow) -> Result<(), NetError> {
        let live = self.live_mut(&model.session)?;
        live.model = model;
        let notice = live.notice();
        self.board.post(notice);
        Ok(())
    }

    pub fn live(&self, id: &str) -> Result<&Live, NetError> {
        self.sessions.get(id).ok_or_else(|| unknown_session(id))
    }

    pub fn live_mut(&mut self, id: &str) -> Result<&mut Live, NetError> {
        self.sessions.get_mut(id).ok_or_else(|| unknown_session(id))
    }

    /// The session with this id or name.
    pub fn find(&self, id_or_name: &str) -> Result<&Live, NetError> {
        self.sessions
            .values()
            .find(|live| live.row.id == id_or_name || live.row.spec.name == id_or_name)
            .ok_or_else(|| unknown_session(id_or_name))
    }
}

impl Live {
    fn notice(&self) -> Notice {
        Notice { row: self.row.clone(), model: self.model.clone() }
    }
}

pub(super) fn unknown_session(name: &str) -> NetError {
    NetError::NotFound { what: "session", name: name.to_owned() }
}
