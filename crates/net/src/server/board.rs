//! What sites wait for, apart from the core's lock: a waiting call is answered from here while a change of somebody else
//! is on its way to the disk.
//!
//! A notice is put up only after what it says is durable. It wakes the calls that wait for its session when a round
//! opens or the session's status changes, not with every update that arrives.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use consilium_federation::Session;
use tokio::sync::{oneshot, watch};

use super::store::{ModelRow, SessionRow};

/// A session as its sites may know it.
#[derive(Clone, Debug)]
pub(super) struct Notice {
    pub row: Arc<SessionRow>,
    /// The last committed model.
    pub model: ModelRow,
}

impl Notice {
    /// What a waiting call waits for a change of.
    fn turn(&self) -> impl PartialEq {
        let machine = self.row.machine.as_ref();
        (self.row.status, machine.map(Session::round), machine.and_then(Session::deadline))
    }
}

/// Why a waiting call must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fence {
    /// The same site has opened a newer call.
    TakenOver,
    /// The site has been shut out.
    Revoked,
    /// The server stops.
    Closing,
}

/// Notices by session, and the newest waiting call of each site.
#[derive(Default)]
pub(super) struct Board(Mutex<Posts>);

#[derive(Default)]
struct Posts {
    sessions: BTreeMap<String, watch::Sender<Notice>>,
    calls: BTreeMap<String, oneshot::Sender<Fence>>,
    closed: bool,
}

impl Board {
    fn posts(&self) -> MutexGuard<'_, Posts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts up what is durable now.
    pub fn post(&self, notice: Notice) {
        let mut posts = self.posts();
        let Some(sender) = posts.sessions.get(&notice.row.id) else {
            posts.sessions.insert(notice.row.id.clone(), watch::Sender::new(notice));
            return;
        };
        sender.send_if_modified(|old| {
            let wakes = old.turn() != notice.turn();
            *old = notice;
            wakes
        });
    }

    /// The notices of a session, if there is one with this id.
    pub fn follow(&self, session: &str) -> Option<watch::Receiver<Notice>> {
        self.posts().sessions.get(session).map(watch::Sender::subscribe)
    }

    /// Notes a waiting call of `site`; an older one of the same site ends. The receiver tells when this one must.
    pub fn open_call(&self, site: &str) -> oneshot::Receiver<Fence> {
        let (sender, receiver) = oneshot::channel();
        let mut posts = self.posts();
        if posts.closed {
            let _ = sender.send(Fence::Closing);
        } else if let Some(older) = posts.calls.insert(site.to_owned(), sender) {
            let _ = older.send(Fence::TakenOver);
        }
        receiver
    }

    /// Ends the waiting call of `site`, if there is one.
    pub fn end_call(&self, site: &str, why: Fence) {
        if let Some(call) = self.posts().calls.remove(site) {
            let _ = call.send(why);
        }
    }

    /// Ends every waiting call, also those that come later.
    pub fn close(&self) {
        let mut posts = self.posts();
        posts.closed = true;
        for call in std::mem::take(&mut posts.calls).into_values() {
            let _ = call.send(Fence::Closing);
        }
    }
}
