//! The audit log: every change of state as a row that holds the hash of the row before it.

use consilium_core::hash::sha256_hex;
use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;

use crate::error::NetError;

/// What the first row's hash is chained to.
const ORIGIN: &str = "consilium audit log";

/// One change of state.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AuditEntry {
    /// Place in the log, from 1.
    pub seq: i64,
    /// When, milliseconds since 1970.
    pub at: i64,
    /// Who: a site, an operator, or `server`.
    pub actor: String,
    /// What, as one word.
    pub action: String,
    /// Which session, round and reason.
    pub detail: String,
    /// SHA-256 over the hash before it and this row.
    pub hash: String,
}

fn chained(before: &str, seq: i64, at: i64, words: [&str; 3]) -> String {
    // JSON keeps the parts apart: no two rows have the same text.
    let row = serde_json::json!([before, seq, at, words[0], words[1], words[2]]);
    sha256_hex(row.to_string().as_bytes())
}

fn last(connection: &Connection) -> Result<(i64, String), NetError> {
    let row = connection
        .query_row("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?;
    Ok(row.unwrap_or((0, ORIGIN.to_owned())))
}

/// Adds a row; in the same transaction as the change that it tells of.
pub(super) fn append(
    connection: &Connection,
    at: i64,
    actor: &str,
    action: &str,
    detail: &str,
) -> Result<(), NetError> {
    let (seq, before) = last(connection)?;
    let seq = seq + 1;
    let hash = chained(&before, seq, at, [actor, action, detail]);
    connection.execute(
        "INSERT INTO audit (seq, at, actor, action, detail, hash) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![seq, at, actor, action, detail, hash],
    )?;
    Ok(())
}

/// Reads the whole log and checks every link.
///
/// # Errors
/// [`NetError::Corrupt`] with the first row that does not fit the one before it.
pub(super) fn verify(connection: &Connection) -> Result<(i64, String), NetError> {
    let (mut count, mut before) = (0, ORIGIN.to_owned());
    for entry in all(connection)? {
        count += 1;
        let words = [entry.actor.as_str(), entry.action.as_str(), entry.detail.as_str()];
        if entry.seq != count || entry.hash != chained(&before, count, entry.at, words) {
            return Err(NetError::corrupt(
                format!("audit log, row {}", entry.seq),
                "it does not follow from the row before it",
            ));
        }
        before = entry.hash;
    }
    Ok((count, before))
}

/// The log from its beginning.
pub(super) fn all(connection: &Connection) -> Result<Vec<AuditEntry>, NetError> {
    let mut query =
        connection.prepare("SELECT seq, at, actor, action, detail, hash FROM audit ORDER BY seq")?;
    let rows = query.query_map([], |row| {
        Ok(AuditEntry {
            seq: row.get(0)?,
            at: row.get(1)?,
            actor: row.get(2)?,
            action: row.get(3)?,
            detail: row.get(4)?,
            hash: row.get(5)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}
