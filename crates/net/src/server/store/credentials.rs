//! Sites and their tokens. A token is kept as its SHA-256 only.

use std::time::Duration;

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use serde::{Deserialize, Serialize};

use super::{Store, at};
use crate::error::NetError;

/// What a token is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Becoming a site, once.
    Enrolment,
    /// Every other call, for a short time.
    Access,
    /// New tokens, once.
    Refresh,
}

/// What a principal may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Take part in sessions.
    Site,
    /// Order sessions, enrol and revoke sites.
    Operator,
    /// Look.
    Viewer,
}

/// A token, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// SHA-256 of the token.
    pub hash: String,
    /// What it is good for.
    pub kind: Kind,
    /// What its bearer may do.
    pub role: Role,
    /// Who its bearer is.
    pub name: String,
    /// Until when, since 1970.
    pub expires: Duration,
}

/// A site that was enrolled or invited.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SiteRow {
    /// Name.
    pub name: String,
    /// When it was first enrolled, milliseconds since 1970.
    pub created: i64,
    /// When it was shut out, if it was.
    pub revoked: Option<i64>,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Enrolment => "enrolment",
            Self::Access => "access",
            Self::Refresh => "refresh",
        }
    }
}

impl Role {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Site => "site",
            Self::Operator => "operator",
            Self::Viewer => "viewer",
        }
    }
}

fn unknown(column: usize, word: &str) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, format!("unknown word {word}").into())
}

fn credential(row: &Row<'_>) -> rusqlite::Result<Credential> {
    let (kind, role): (String, String) = (row.get(1)?, row.get(2)?);
    let kinds = [Kind::Enrolment, Kind::Access, Kind::Refresh];
    let roles = [Role::Site, Role::Operator, Role::Viewer];
    Ok(Credential {
        hash: row.get(0)?,
        kind: kinds.into_iter().find(|k| k.word() == kind).ok_or_else(|| unknown(1, &kind))?,
        role: roles.into_iter().find(|r| r.word() == role).ok_or_else(|| unknown(2, &role))?,
        name: row.get(3)?,
        expires: Duration::from_millis(row.get::<_, i64>(4)?.try_into().unwrap_or(0)),
    })
}

impl Credential {
    /// Keeps it.
    pub(crate) fn insert(&self, transaction: &Transaction<'_>) -> Result<(), NetError> {
        transaction.execute(
            "INSERT INTO credentials (hash, kind, role, name, expires) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![self.hash, self.kind.word(), self.role.word(), self.name, at(self.expires)],
        )?;
        Ok(())
    }

    /// Takes it away; whether it was there. Of two that take the same token one gets it.
    pub(crate) fn take(&self, transaction: &Transaction<'_>) -> Result<bool, NetError> {
        Ok(transaction.execute("DELETE FROM credentials WHERE hash = ?1", [&self.hash])? == 1)
    }
}

/// Adds the site, unless it is known.
pub(crate) fn add_site(transaction: &Transaction<'_>, name: &str, now: Duration) -> Result<(), NetError> {
    transaction.execute(
        "INSERT INTO sites (name, created) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET revoked = NULL",
        params![name, at(now)],
    )?;
    Ok(())
}

/// Shuts a site out and forgets its tokens; whether it was known.
pub(crate) fn revoke_site(
    transaction: &Transaction<'_>,
    name: &str,
    now: Duration,
) -> Result<bool, NetError> {
    transaction.execute("DELETE FROM credentials WHERE name = ?1 AND role = 'site'", [name])?;
    let changed =
        transaction.execute("UPDATE sites SET revoked = ?2 WHERE name = ?1", params![name, at(now)])?;
    Ok(changed == 1)
}

/// Forgets the bearer's tokens of one kind: a new enrolment invitation replaces the old one.
pub(crate) fn forget(
    transaction: &Transaction<'_>,
    name: &str,
    kind: Kind,
    role: Role,
) -> Result<(), NetError> {
    transaction.execute(
        "DELETE FROM credentials WHERE name = ?1 AND kind = ?2 AND role = ?3",
        params![name, kind.word(), role.word()],
    )?;
    Ok(())
}

/// Forgets what has expired.
pub(crate) fn sweep(transaction: &Transaction<'_>, now: Duration) -> Result<(), NetError> {
    transaction.execute("DELETE FROM credentials WHERE expires <= ?1", [at(now)])?;
    Ok(())
}

impl Store {
    /// The token with this hash, expired or not.
    ///
    /// # Errors
    /// [`NetError::Database`].
    pub fn credential(&self, hash: &str) -> Result<Option<Credential>, NetError> {
        let found = self.connection.query_row(
            "SELECT hash, kind, role, name, expires FROM credentials WHERE hash = ?1",
            [hash],
            credential,
        );
        Ok(found.optional()?)
    }

    /// The site with this name.
    ///
    /// # Errors
    /// [`NetError::Database`].
    pub fn site(&self, name: &str) -> Result<Option<SiteRow>, NetError> {
        Ok(sites(&self.connection)?.into_iter().find(|site| site.name == name))
    }

    /// All sites, in byte order of names.
    ///
    /// # Errors
    /// [`NetError::Database`].
    pub fn sites(&self) -> Result<Vec<SiteRow>, NetError> {
        sites(&self.connection)
    }
}

fn sites(connection: &Connection) -> Result<Vec<SiteRow>, NetError> {
    let mut query = connection.prepare_cached("SELECT name, created, revoked FROM sites ORDER BY name")?;
    let rows = query
        .query_map([], |row| Ok(SiteRow { name: row.get(0)?, created: row.get(1)?, revoked: row.get(2)? }))?;
    Ok(rows.collect::<Result<_, _>>()?)
}
