//! What the server knows, in SQLite: write-ahead log, `synchronous = FULL`, one writer.
//!
//! Each change is one transaction together with its row of the audit log, and a change of a session names the version
//! that it started from: of two writers one changes nothing.

mod audit;
pub(super) mod credentials;
mod library;
pub(super) mod sessions;

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, Transaction, TransactionBehavior};

pub use audit::AuditEntry;
pub use credentials::{Credential, Kind, Role, SiteRow};
pub use library::LibraryRow;
pub use sessions::{ModelRow, ScoreRow, SessionRow, Status, UpdateRow};

use crate::clock::millis;
use crate::error::NetError;

/// The steps from an empty database to the present schema, in order; `user_version` counts those done.
const MIGRATIONS: [&str; 2] = [include_str!("schema.sql"), include_str!("schema-2.sql")];

/// The server's database.
pub struct Store {
    connection: Connection,
}

/// Who changed what, for the audit log.
#[derive(Clone, Debug)]
pub struct Deed<'a> {
    /// When, since 1970.
    pub at: Duration,
    /// A site, an operator, or `server`.
    pub actor: &'a str,
    /// One word.
    pub action: &'a str,
    /// Session, round, reason; never a row or a secret.
    pub detail: String,
}

/// A number as SQLite holds it.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn at(time: Duration) -> i64 {
    signed(millis(time))
}

impl Store {
    /// Opens the database at `path`, makes it if it is not there, and brings its schema up to date.
    ///
    /// # Errors
    /// [`NetError::Database`], or [`NetError::Corrupt`] for a database of a newer program.
    pub fn open(path: &Path) -> Result<Self, NetError> {
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "foreign_keys", "ON")?;
        migrate(&mut connection, path)?;
        Ok(Self { connection })
    }

    /// Makes one change and its row of the audit log, both or none; durable when this returns.
    ///
    /// # Errors
    /// Whatever `change` returns, or [`NetError::Database`].
    pub fn change<T>(
        &mut self,
        deed: &Deed<'_>,
        change: impl FnOnce(&Transaction<'_>) -> Result<T, NetError>,
    ) -> Result<T, NetError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let value = change(&transaction)?;
        audit::append(&transaction, at(deed.at), deed.actor, deed.action, &deed.detail)?;
        crate::failpoint::reach("before_commit");
        transaction.commit()?;
        crate::failpoint::reach("after_commit");
        Ok(value)
    }

    /// Rows of the audit log and the hash of the last one, after checking every link.
    ///
    /// # Errors
    /// [`NetError::Corrupt`] with the first row that does not fit.
    pub fn verify_audit(&self) -> Result<(i64, String), NetError> {
        audit::verify(&self.connection)
    }

    /// The audit log from its beginning.
    ///
    /// # Errors
    /// [`NetError::Database`].
    pub fn audit_log(&self) -> Result<Vec<AuditEntry>, NetError> {
        audit::all(&self.connection)
    }

    /// Writes a consistent copy of the database to `path`, while the server runs.
    ///
    /// # Errors
    /// [`NetError::Database`], also when there is a file at `path`.
    pub fn copy_to(&self, path: &Path) -> Result<(), NetError> {
        self.connection.execute("VACUUM INTO ?1", [path.to_string_lossy()])?;
        Ok(())
    }
}

/// Each step is a transaction that also raises `user_version`: a crash leaves the old schema or the new one.
fn migrate(connection: &mut Connection, path: &Path) -> Result<(), NetError> {
    loop {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let version: u32 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        let done = version as usize;
        if done > MIGRATIONS.len() {
            let known = MIGRATIONS.len();
            return Err(NetError::corrupt(
                path.display(),
                format!("it is of schema {done}, and this program knows {known}: use a newer program"),
            ));
        }
        let Some(step) = MIGRATIONS.get(done) else { return Ok(()) };
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "user_version", version + 1)?;
        crate::failpoint::reach("migration");
        transaction.commit()?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deed(action: &str) -> Deed<'_> {
        Deed { at: Duration::from_secs(1), actor: "server", action, detail: "{}".into() }
    }

    #[test]
    fn the_bundled_sqlite_is_new_enough() {
        // Older ones can lose a WAL reset (https://sqlite.org/wal.html, "the WAL-reset bug").
        assert!(rusqlite::version_number() >= 3_051_003, "{}", rusqlite::version());
    }

    #[test]
    fn a_change_and_its_audit_row_come_together_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let mut store = Store::open(&path).unwrap();
        let insert = "INSERT INTO sites (name, created) VALUES ('a', 1)";
        store.change(&deed("one"), |t| Ok(t.execute(insert, [])?)).unwrap();
        let failed: Result<(), _> = store.change(&deed("two"), |t| {
            t.execute("INSERT INTO sites (name, created) VALUES ('b', 1)", [])?;
            Err(NetError::Invalid("no".into()))
        });
        assert!(failed.is_err());
        drop(store);
        let store = Store::open(&path).unwrap();
        let sites: i64 = store.connection.query_row("SELECT count(*) FROM sites", [], |r| r.get(0)).unwrap();
        assert_eq!((sites, store.verify_audit().unwrap().0), (1, 1));
        let mode: String = store.connection.query_row("PRAGMA journal_mode", [], |r| r.get(0)).unwrap();
        let synchronous: i64 = store.connection.query_row("PRAGMA synchronous", [], |r| r.get(0)).unwrap();
        assert_eq!((mode.as_str(), synchronous), ("wal", 2));
    }

    #[test]
    fn a_changed_or_removed_audit_row_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(&folder.path().join("db")).unwrap();
        for action in ["one", "two", "three"] {
            store.change(&deed(action), |_| Ok(())).unwrap();
        }
        assert_eq!(store.verify_audit().unwrap().0, 3);
        store.connection.execute("UPDATE audit SET detail = '{\"x\":1}' WHERE seq = 2", []).unwrap();
        let error = store.verify_audit().unwrap_err().to_string();
        assert!(error.contains("row 2"), "{error}");
        store.connection.execute("UPDATE audit SET detail = '{}' WHERE seq = 2", []).unwrap();
        assert!(store.verify_audit().is_ok());
        store.connection.execute("DELETE FROM audit WHERE seq = 1", []).unwrap();
        assert!(store.verify_audit().is_err());
    }

    #[test]
    fn a_database_of_the_first_version_is_brought_up_to_date_with_all_it_holds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let old = Connection::open(&path).unwrap();
        old.execute_batch(MIGRATIONS[0]).unwrap();
        old.execute("INSERT INTO sites (name, created) VALUES ('north', 7)", []).unwrap();
        old.pragma_update(None, "user_version", 1).unwrap();
        drop(old);
        let store = Store::open(&path).unwrap();
        assert_eq!(store.sites().unwrap()[0].name, "north");
        assert_eq!(store.library().unwrap(), []);
        let version: u32 = store.connection.query_row("PRAGMA user_version", [], |r| r.get(0)).unwrap();
        assert_eq!(version as usize, MIGRATIONS.len());
    }

    #[test]
    fn a_database_of_a_newer_program_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        Store::open(&path).unwrap().connection.pragma_update(None, "user_version", 99).unwrap();
        assert!(matches!(Store::open(&path), Err(NetError::Corrupt { .. })));
    }
}
