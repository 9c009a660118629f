//! Sessions as reports and dashboards show them.

use consilium_federation::{RoundRecord, Session};
use serde::Serialize;

use super::core::{Core, Live};
use super::spec::Roster;
use super::store::{ModelRow, ScoreRow, Status};
use crate::clock::millis;
use crate::error::NetError;

/// A session as reports show it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SessionView {
    /// Id.
    pub id: String,
    /// Name.
    pub name: String,
    /// Where it stands.
    pub status: Status,
    /// The open round, or the last one that ended.
    pub round: u32,
    /// Rounds in all.
    pub rounds: u32,
    /// Rounds that made a model.
    pub commits: u32,
    /// Sites that take part; while gathering, those that are expected or have come.
    pub roster: Vec<String>,
    /// Sites that have reported.
    pub attended: Vec<String>,
    /// Sites that the open round waits for.
    pub awaited: Vec<String>,
    /// When the open round ends at the latest, milliseconds since 1970.
    pub deadline_ms: Option<u64>,
    /// The last committed model.
    pub model: ModelRow,
    /// When it was ordered, milliseconds since 1970.
    pub created: i64,
}

/// What has become of a session so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct History {
    /// How its rounds ended, in order.
    pub rounds: Vec<RoundRecord>,
    /// Its models, the seed first.
    pub models: Vec<ModelRow>,
    /// What sites told about their scores.
    pub scores: Vec<ScoreRow>,
}

impl Core {
    /// Every session, oldest first.
    pub fn sessions(&self) -> Vec<SessionView> {
        let inner = self.enter();
        let mut views: Vec<SessionView> = inner.sessions.values().map(view).collect();
        views.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        views
    }

    /// One session by id or name.
    ///
    /// # Errors
    /// [`NetError::NotFound`].
    pub fn session(&self, name: &str) -> Result<SessionView, NetError> {
        self.enter().find(name).map(view)
    }

    /// How the rounds of a session ended, its models, and what sites told about their scores.
    ///
    /// # Errors
    /// [`NetError::NotFound`] or a storage error.
    pub fn history(&self, name: &str) -> Result<History, NetError> {
        let inner = self.enter();
        let id = &inner.find(name)?.row.id;
        let store = &inner.store;
        Ok(History { rounds: store.rounds(id)?, models: store.models(id)?, scores: store.scores(id)? })
    }
}

/// What is shown of a session.
pub(super) fn view(live: &Live) -> SessionView {
    let (row, machine) = (&live.row, live.row.machine.as_ref());
    let roster = match (machine, &row.spec.roster) {
        (Some(machine), _) => machine.roster().to_vec(),
        (None, Roster::Named(names)) => names.clone(),
        (None, Roster::First(_)) => live.attended.iter().cloned().collect(),
    };
    SessionView {
        id: row.id.clone(),
        name: row.spec.name.clone(),
        status: row.status,
        round: machine.map_or(0, Session::round),
        rounds: row.spec.settings.rounds,
        commits: machine.map_or(0, Session::commits),
        roster,
        attended: live.attended.iter().cloned().collect(),
        awaited: machine.map(|m| m.awaited().map(str::to_owned).collect()).unwrap_or_default(),
        deadline_ms: machine.and_then(Session::deadline).map(millis),
        model: live.model.clone(),
        created: row.created,
    }
}
