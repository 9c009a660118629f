//! Adapters that an operator has uploaded, by name.

use consilium_core::adapter::Schema;
use rusqlite::types::Type;
use rusqlite::{OptionalExtension, Row, Transaction, params};
use serde::Serialize;

use super::{Store, signed};
use crate::error::NetError;

/// An uploaded adapter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LibraryRow {
    /// Its name.
    pub name: String,
    /// SHA-256 over names, shapes and values.
    pub adapter: String,
    /// SHA-256 of the archive.
    pub archive: String,
    /// Length of the archive.
    pub bytes: u64,
    /// Names and shapes, in the order of the archive.
    #[serde(skip)]
    pub schema: Schema,
    /// When, milliseconds since 1970.
    pub uploaded: i64,
}

const COLUMNS: &str = "name, adapter, archive, bytes, schema, uploaded";

fn read(row: &Row<'_>) -> rusqlite::Result<LibraryRow> {
    let (bytes, schema): (i64, String) = (row.get(3)?, row.get(4)?);
    let schema = serde_json::from_str(&schema)
        .map_err(|e| rusqlite::Error::FromSqlConversionFailure(4, Type::Text, e.into()))?;
    Ok(LibraryRow {
        name: row.get(0)?,
        adapter: row.get(1)?,
        archive: row.get(2)?,
        bytes: u64::try_from(bytes).unwrap_or(0),
        schema,
        uploaded: row.get(5)?,
    })
}

impl LibraryRow {
    /// Keeps it; whether the name was free.
    pub(crate) fn insert(&self, transaction: &Transaction<'_>) -> Result<bool, NetError> {
        let schema = serde_json::to_string(&self.schema).unwrap_or_default();
        let values =
            params![self.name, self.adapter, self.archive, signed(self.bytes), schema, self.uploaded];
        let statement =
            format!("INSERT INTO library ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING");
        Ok(transaction.execute(&statement, values)? == 1)
    }
}

impl Store {
    /// The uploaded adapter with this name.
    ///
    /// # Errors
    /// [`NetError::Database`].
    pub fn uploaded(&self, name: &str) -> Result<Option<LibraryRow>, NetError> {
        let query = format!("SELECT {COLUMNS} FROM library WHERE name = ?1");
        Ok(self.connection.query_row(&query, [name], read).optional()?)
    }

    /// Every uploaded adapter, in byte order of names.
    ///
    /// # Errors
    /// [`NetError::Database`].
    pub fn library(&self) -> Result<Vec<LibraryRow>, NetError> {
        let query = format!("SELECT {COLUMNS} FROM library ORDER BY name");
        let mut query = self.connection.prepare_cached(&query)?;
        let rows = query.query_map([], read)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}
