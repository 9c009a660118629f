//! Adapters for sessions to start from: uploaded ones, and those that earlier sessions ended with.

use consilium_core::adapter::Schema;
use consilium_core::npz;
use serde::Serialize;

use super::core::{Core, Principal};
use super::spec::{SessionSpec, check_name};
use super::store::{Deed, LibraryRow, ModelRow};
use crate::clock::millis;
use crate::error::NetError;
use crate::limits;

/// An adapter that a session can start from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StartingPoint {
    /// SHA-256 over names, shapes and values.
    pub adapter: String,
    /// SHA-256 of the archive.
    pub archive: String,
    /// Length of the archive.
    pub bytes: u64,
}

impl Core {
    /// As [`Core::order`], from an adapter that is here already: an uploaded one by its name, or the last one of a session.
    ///
    /// # Errors
    /// As [`Core::order`]; [`NetError::NotFound`] for a name that is neither.
    pub fn order_from(&self, by: &Principal, spec: SessionSpec, from: &str) -> Result<String, NetError> {
        let archive = self.starting_point(from)?.archive;
        self.order(by, spec, &self.blobs.get(&archive)?)
    }

    /// The adapter that an order names: an uploaded one, or else the last one of a session.
    ///
    /// # Errors
    /// [`NetError::NotFound`] for a name that is neither, or a storage error.
    pub fn starting_point(&self, name: &str) -> Result<StartingPoint, NetError> {
        let inner = self.enter();
        let (adapter, archive, bytes) = match inner.store.uploaded(name)? {
            Some(row) => (row.adapter, row.archive, row.bytes),
            None => {
                let live = inner.find(name);
                let unknown =
                    |_| NetError::NotFound { what: "uploaded model or session", name: name.to_owned() };
                let ModelRow { adapter, archive, bytes, .. } = live.map_err(unknown)?.model.clone();
                (adapter, archive, bytes)
            }
        };
        Ok(StartingPoint { adapter, archive, bytes })
    }

    /// Keeps an adapter of this schema under a name, for sessions to start from.
    ///
    /// # Errors
    /// [`NetError::Invalid`] for a name that is taken or none, [`NetError::Adapter`] for an archive that does not hold
    /// such an adapter, or a storage error.
    pub fn upload_model(
        &self,
        by: &Principal,
        name: &str,
        schema: &Schema,
        archive: &[u8],
    ) -> Result<LibraryRow, NetError> {
        check_name("model", name)?;
        limits::value_bytes(schema).map_err(NetError::Invalid)?;
        let adapter = npz::decode(archive, schema)?;
        let now = self.now();
        let row = LibraryRow {
            name: name.to_owned(),
            adapter: adapter.sha256(),
            archive: self.blobs.put(archive)?,
            bytes: archive.len() as u64,
            schema: schema.clone(),
            uploaded: i64::try_from(millis(now)).unwrap_or(i64::MAX),
        };
        let words = serde_json::json!({ "name": name, "adapter": row.adapter, "archive": row.archive });
        let deed = Deed { at: now, actor: &by.name, action: "model_uploaded", detail: words.to_string() };
        let mut inner = self.enter();
        if inner.sessions.values().any(|live| live.row.spec.name == name) {
            return Err(NetError::Invalid(format!("a session is called {name} already")));
        }
        inner.change(&deed, |transaction| match row.insert(transaction)? {
            true => Ok(()),
            false => Err(NetError::Invalid(format!("there is a model called {name} already"))),
        })?;
        Ok(row)
    }

    /// Every uploaded adapter, in byte order of names.
    ///
    /// # Errors
    /// A storage error.
    pub fn library(&self) -> Result<Vec<LibraryRow>, NetError> {
        self.enter().store.library()
    }
}
