//! Sessions, their rounds, models and updates.

use std::sync::Arc;
use std::time::Duration;

use consilium_federation::{RoundRecord, Session};
use rusqlite::types::Type;
use rusqlite::{OptionalExtension, Row, Transaction, params};
use serde::{Deserialize, Serialize};

use super::{Store, at, signed};
use crate::error::NetError;
use crate::server::spec::SessionSpec;

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Waiting for its sites.
    Gathering,
    /// Rounds are under way.
    Running,
    /// Every round has ended.
    Finished,
    /// An operator ended it.
    Stopped,
}

impl Status {
    const ALL: [Self; 4] = [Self::Gathering, Self::Running, Self::Finished, Self::Stopped];

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Gathering => "gathering",
            Self::Running => "running",
            Self::Finished => "finished",
            Self::Stopped => "stopped",
        }
    }

    /// Whether no round will follow, unless an operator says so.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Finished | Self::Stopped)
    }
}

/// A session as it is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionRow {
    /// Id.
    pub id: String,
    /// What it is made of.
    pub spec: Arc<SessionSpec>,
    /// Where it stands.
    pub status: Status,
    /// The round machine; `None` while gathering.
    pub machine: Option<Session>,
    /// Changes so far.
    pub version: i64,
    /// When it was ordered, milliseconds since 1970.
    pub created: i64,
}

/// A committed model, or the seed as round 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModelRow {
    /// Its session.
    pub session: String,
    /// The round that made it; 0 is the seed.
    pub round: u32,
    /// SHA-256 over names, shapes and values.
    pub adapter: String,
    /// SHA-256 of the archive.
    pub archive: String,
    /// Length of the archive.
    pub bytes: u64,
    /// When, milliseconds since 1970.
    pub created: i64,
}

/// An accepted update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpdateRow {
    /// Its session.
    pub session: String,
    /// Its round.
    pub round: u32,
    /// Whose.
    pub site: String,
    /// SHA-256 of the archive.
    pub archive: String,
    /// Length of the archive.
    pub bytes: u64,
}

/// A number that a site has told about its own evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoreRow {
    /// Whose.
    pub site: String,
    /// `base`, `local` or `federated`.
    pub model: String,
    /// The metric.
    pub metric: String,
    /// Its value.
    pub value: f64,
    /// Rows behind it.
    pub rows: u64,
}

fn from_json<T: serde::de::DeserializeOwned>(column: usize, text: &str) -> rusqlite::Result<T> {
    serde_json::from_str(text)
        .map_err(|e| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(e)))
}

fn to_json(value: &impl Serialize) -> Result<String, NetError> {
    serde_json::to_string(value).map_err(|e| NetError::Internal(format!("writing JSON: {e}")))
}

fn session(row: &Row<'_>) -> rusqlite::Result<SessionRow> {
    let (spec, status): (String, String) = (row.get(1)?, row.get(2)?);
    let machine: Option<String> = row.get(3)?;
    let status = Status::ALL.into_iter().find(|s| s.word() == status).ok_or_else(|| {
        rusqlite::Error::FromSqlConversionFailure(2, Type::Text, format!("unknown status {status}").into())
    })?;
    Ok(SessionRow {
        id: row.get(0)?,
        spec: Arc::new(from_json(1, &spec)?),
        status,
        machine: machine.map(|text| from_json(3, &text)).transpose()?,
        version: row.get(4)?,
        created: row.get(5)?,
    })
}

fn model(row: &Row<'_>) -> rusqlite::Result<ModelRow> {
    Ok(ModelRow {
        session: row.get(0)?,
        round: row.get(1)?,
        adapter: row.get(2)?,
        archive: row.get(3)?,
        bytes: row.get::<_, i64>(4)?.unsigned_abs(),
        created: row.get(5)?,
    })
}

const MODEL_COLUMNS: &str = "session, round, adapter, archive, bytes, created";

impl SessionRow {
    /// Keeps a new session.
    pub(crate) fn insert(&self, transaction: &Transaction<'_>) -> Result<(), NetError> {
        let known: Option<String> = transaction
            .query_row("SELECT id FROM sessions WHERE name = ?1", [&self.spec.name], |row| row.get(0))
            .optional()?;
        if known.is_some() {
            return Err(NetError::Invalid(format!("there is a session called {} already", self.spec.name)));
        }
        transaction.execute(
            "INSERT INTO sessions (id, name, spec, status, machine, version, created)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![
                self.id,
                self.spec.name,
                to_json(self.spec.as_ref())?,
                self.status.word(),
                self.machine.as_ref().map(to_json).transpose()?,
                self.version,
                self.created
            ],
        )?;
        Ok(())
    }

    /// Keeps the status and the machine of this row over the version before it.
    pub(crate) fn save(&self, transaction: &Transaction<'_>, now: Duration) -> Result<(), NetError> {
        let ended = self.status.is_over().then(|| at(now));
        let changed = transaction.execute(
            "UPDATE sessions SET status = ?2, machine = ?3, version = ?4, ended = ?5
             WHERE id = ?1 AND version = ?4 - 1",
            params![
                self.id,
                self.status.word(),
                self.machine.as_ref().map(to_json).transpose()?,
                self.version,
                ended
            ],
        )?;
        match changed {
            1 => Ok(()),
            _ => Err(NetError::Internal(format!("session {} was changed by somebody else", self.id))),
        }
    }
}

impl ModelRow {
    /// Keeps it; at most one a round.
    pub(crate) fn insert(&self, transaction: &Transaction<'_>) -> Result<(), NetError> {
        transaction.execute(
            "INSERT INTO models (session, round, adapter, archive, bytes, created)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![self.session, self.round, self.adapter, self.archive, signed(self.bytes), self.created],
        )?;
        Ok(())
    }
}

impl UpdateRow {
    /// Keeps it; at most one for each session, round and site.
    pub(crate) fn insert(&self, transaction: &Transaction<'_>, now: Duration) -> Result<(), NetError> {
        transaction.execute(
            "INSERT INTO updates (session, round, site, archive, bytes, accepted) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![self.session, self.round, self.site, self.archive, signed(self.bytes), at(now)],
        )?;
        Ok(())
    }
}

/// Keeps how a round ended.
pub(crate) fn insert_round(
    transaction: &Transaction<'_>,
    session: &str,
    record: &RoundRecord,
    now: Duration,
) -> Result<(), NetError> {
    transaction.execute(
        "INSERT INTO rounds (session, round, record, ended) VALUES (?1, ?2, ?3, ?4)",
        params![session, record.round, to_json(record)?, at(now)],
    )?;
    Ok(())
}

/// Remembers that a site has reported for a session.
pub(crate) fn insert_attendance(
    transaction: &Transaction<'_>,
    session: &str,
    site: &str,
    now: Duration,
) -> Result<(), NetError> {
    transaction.execute(
        "INSERT INTO attendance (session, site, first) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
        params![session, site, at(now)],
    )?;
    Ok(())
}

/// Keeps a site's score, over an older one.
pub(crate) fn put_score(
    transaction: &Transaction<'_>,
    session: &str,
    score: &ScoreRow,
) -> Result<(), NetError> {
    transaction.execute(
        "INSERT OR REPLACE INTO scores (session, site, model, metric, value, rows) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![session, score.site, score.model, score.metric, score.value, signed(score.rows)],
    )?;
    Ok(())
}

impl Store {
    /// All sessions, oldest first.
    ///
    /// # Errors
    /// [`NetError::Database`].
    pub fn sessions(&self) -> Result<Vec<SessionRow>, NetError> {
        let mut query = self.connection.prepare(
            "SELECT id, spec, status, machine, version, created FROM sessions ORDER BY created, id",
        )?;
        let rows = query.query_map([], session)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Sites that have reported for a session, in byte order.
    ///
    /// # Errors
    /// [`NetError::Database`].
    pub fn attendance(&self, session: &str) -> Result<Vec<String>, NetError> {
        let mut query =
            self.connection.prepare_cached("SELECT site FROM attendance WHERE session = ?1 ORDER BY site")?;
        let rows = query.query_map([session], |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The models of a session, by round.
    ///
    /// # Errors
    /// [`NetError::Database`].
    pub fn models(&self, session: &str) -> Result<Vec<ModelRow>, NetError> {
        let sql = format!("SELECT {MODEL_COLUMNS} FROM models WHERE session = ?1 ORDER BY round");
        let mut query = self.connection.prepare_cached(&sql)?;
        let rows = query.query_map([session], model)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The accepted updates of a round, in byte order of site names.
    ///
    /// # Errors
    /// [`NetError::Database`].
    pub fn updates(&self, session: &str, round: u32) -> Result<Vec<UpdateRow>, NetError> {
        let mut query = self.connection.prepare_cached(
            "SELECT session, round, site, archive, bytes FROM updates
             WHERE session = ?1 AND round = ?2 ORDER BY site",
        )?;
        let rows = query.query_map(params![session, round], |row| {
            Ok(UpdateRow {
                session: row.get(0)?,
                round: row.get(1)?,
                site: row.get(2)?,
                archive: row.get(3)?,
                bytes: row.get::<_, i64>(4)?.unsigned_abs(),
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Archives of updates whose round has ended and that nothing else needs: neither a model nor an update of an open
    /// round has the same content. Of one session, or of all.
    ///
    /// # Errors
    /// [`NetError::Database`].
    pub fn spent_archives(&self, session: Option<&str>) -> Result<Vec<String>, NetError> {
        let mut query = self.connection.prepare_cached(
            "WITH over AS (SELECT u.archive, u.session FROM updates u JOIN rounds r USING (session, round)),
                  open AS (SELECT u.archive FROM updates u LEFT JOIN rounds r USING (session, round)
                           WHERE r.round IS NULL)
             SELECT DISTINCT archive FROM over WHERE (?1 IS NULL OR session = ?1)
             AND archive NOT IN (SELECT archive FROM open) AND archive NOT IN (SELECT archive FROM models)
             AND archive NOT IN (SELECT archive FROM library)",
        )?;
        let rows = query.query_map([session], |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// How the rounds of a session ended, in order.
    ///
    /// # Errors
    /// [`NetError::Database`].
    pub fn rounds(&self, session: &str) -> Result<Vec<RoundRecord>, NetError> {
        let mut query =
            self.connection.prepare_cached("SELECT record FROM rounds WHERE session = ?1 ORDER BY round")?;
        let rows = query.query_map([session], |row| {
            let text: String = row.get(0)?;
            from_json(0, &text)
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// What sites have told about their own evaluation.
    ///
    /// # Errors
    /// [`NetError::Database`].
    pub fn scores(&self, session: &str) -> Result<Vec<ScoreRow>, NetError> {
        let mut query = self.connection.prepare_cached(
            "SELECT site, model, metric, value, rows FROM scores WHERE session = ?1 ORDER BY site, model, metric",
        )?;
        let rows = query.query_map([session], |row| {
            Ok(ScoreRow {
                site: row.get(0)?,
                model: row.get(1)?,
                metric: row.get(2)?,
                value: row.get(3)?,
                rows: row.get::<_, i64>(4)?.unsigned_abs(),
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}
