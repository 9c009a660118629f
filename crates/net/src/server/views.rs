//! Sessions as reports and dashboards show them.

use std::collections::BTreeMap;

use consilium_federation::{RoundRecord, Session};
use serde::Serialize;

use super::core::{Core, Live};
use super::spec::Roster;
use super::store::{ModelRow, ScoreRow, SiteRow, Status};
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
    /// Sites whose update for the open round is here.
    pub arrived: Vec<String>,
    /// When the open round began, milliseconds since 1970.
    pub opened_ms: Option<u64>,
    /// When the open round ends at the latest, milliseconds since 1970.
    pub deadline_ms: Option<u64>,
    /// The model that it started from.
    pub seed: ModelRow,
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

/// A site as reports show it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SiteView {
    /// Name, and when it enrolled and was shut out.
    #[serde(flatten)]
    pub site: SiteRow,
    /// Time since it was last heard of, if it was since the server's start, seconds.
    pub seen_s_ago: Option<f64>,
    /// Its part in sessions, oldest first.
    pub sessions: Vec<Participation>,
}

/// What one site has done in one session.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Participation {
    /// Name of the session.
    pub session: String,
    /// Where the session stands.
    pub status: Status,
    /// Whether the site has reported for it.
    pub attended: bool,
    /// Whether the open round waits for it.
    pub awaited: bool,
    /// Rounds in which its update counted.
    pub counted: Vec<u32>,
    /// Rounds in which it did not, and why.
    pub missed: BTreeMap<u32, String>,
    /// What it told about its scores.
    pub scores: Vec<ScoreRow>,
}

impl Core {
    /// One site and its part in every session.
    ///
    /// # Errors
    /// [`NetError::NotFound`] for a site that never enrolled, or a storage error.
    pub fn site(&self, name: &str) -> Result<SiteView, NetError> {
        let now = self.now();
        let inner = self.enter();
        let site = inner.store.site(name)?;
        let site = site.ok_or_else(|| NetError::NotFound { what: "site", name: name.to_owned() })?;
        let mut lives: Vec<&Live> =
            inner.sessions.values().filter(|live| roster(live).iter().any(|site| site == name)).collect();
        lives.sort_by(|a, b| (a.row.created, &a.row.id).cmp(&(b.row.created, &b.row.id)));
        let part = |live: &&Live| -> Result<Participation, NetError> {
            let row = &live.row;
            let records = inner.store.rounds(&row.id)?;
            let counts = |record: &&RoundRecord| record.accepted.iter().any(|c| c.site == name);
            let missed = records.iter().filter_map(|record| {
                let why = record.reasons.get(name).filter(|_| !counts(&record))?;
                Some((record.round, why.clone()))
            });
            let mut scores = inner.store.scores(&row.id)?;
            scores.retain(|score| score.site == name);
            Ok(Participation {
                session: row.spec.name.clone(),
                status: row.status,
                attended: live.attended.contains(name),
                awaited: row.machine.as_ref().is_some_and(|machine| machine.awaits(name)),
                counted: records.iter().filter(counts).map(|record| record.round).collect(),
                missed: missed.collect(),
                scores,
            })
        };
        let seen_s_ago = inner.seen.get(name).map(|seen| now.saturating_sub(*seen).as_millis() as f64 / 1e3);
        Ok(SiteView { site, seen_s_ago, sessions: lives.iter().map(part).collect::<Result<_, _>>()? })
    }

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

/// Sites that take part; while gathering, those that are expected or have come.
fn roster(live: &Live) -> Vec<String> {
    match (&live.row.machine, &live.row.spec.roster) {
        (Some(machine), _) => machine.roster().to_vec(),
        (None, Roster::Named(names)) => names.clone(),
        (None, Roster::First(_)) => live.attended.iter().cloned().collect(),
    }
}

/// What is shown of a session.
pub(super) fn view(live: &Live) -> SessionView {
    let (row, machine) = (&live.row, live.row.machine.as_ref());
    SessionView {
        id: row.id.clone(),
        name: row.spec.name.clone(),
        status: row.status,
        round: machine.map_or(0, Session::round),
        rounds: row.spec.settings.rounds,
        commits: machine.map_or(0, Session::commits),
        roster: roster(live),
        attended: live.attended.iter().cloned().collect(),
        awaited: machine.map(|m| m.awaited().map(str::to_owned).collect()).unwrap_or_default(),
        arrived: machine.map(|m| m.arrived().map(str::to_owned).collect()).unwrap_or_default(),
        opened_ms: machine.and_then(Session::opened).map(millis),
        deadline_ms: machine.and_then(Session::deadline).map(millis),
        seed: live.seed.clone(),
        model: live.model.clone(),
        created: row.created,
    }
}
