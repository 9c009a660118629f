//! A server's folder copied while it runs, and brought back.
//!
//! The database is copied first: every adapter that it names was durable before it was named, so the adapters copied
//! after it are all that it needs.

use std::fs;
use std::path::Path;

use super::blobs::{Blobs, entries, is_part};
use super::store::Store;
use crate::durable;
use crate::error::NetError;

const DATABASE: &str = "consilium.db";
const KEY: &str = "signing.key";
const BLOBS: &str = "blobs";

/// What a copy holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    /// Rows of the audit log.
    pub audit_rows: i64,
    /// Adapters.
    pub blobs: usize,
}

/// Copies the server's folder `from` to the new folder `to`.
///
/// # Errors
/// [`NetError::Invalid`] when there is something at `to` or no database in `from`; a storage error.
pub fn backup(from: &Path, to: &Path) -> Result<Copied, NetError> {
    copy(from, to)
}

/// Brings a backup back as a new server's folder, after checking its audit log and every adapter.
///
/// # Errors
/// As [`backup`]; [`NetError::Corrupt`] for a backup that is damaged: then nothing is written.
pub fn restore(from: &Path, to: &Path) -> Result<Copied, NetError> {
    check(from)?;
    copy(from, to)
}

/// Checks every link of the audit log and every adapter against its hash; rows of the log.
///
/// # Errors
/// [`NetError::Corrupt`] with the first that does not fit.
pub fn check(folder: &Path) -> Result<(i64, String), NetError> {
    let checked = database(folder)?.verify_audit()?;
    match Blobs::open(folder)?.damaged()?.first() {
        Some(path) => Err(NetError::corrupt(path.display(), "its content does not have its name's hash")),
        None => Ok(checked),
    }
}

fn database(folder: &Path) -> Result<Store, NetError> {
    let path = folder.join(DATABASE);
    match path.is_file() {
        true => Store::open(&path),
        false => Err(NetError::Invalid(format!(
            "{} is no server's folder: it has no {DATABASE}",
            folder.display()
        ))),
    }
}

fn copy(from: &Path, to: &Path) -> Result<Copied, NetError> {
    let store = database(from)?;
    if to.exists() {
        return Err(NetError::Invalid(format!("there is something at {} already", to.display())));
    }
    durable::create_folder(to)?;
    let audit_rows = store.verify_audit()?.0;
    store.copy_to(&to.join(DATABASE))?;
    let read = |path: &Path| fs::read(path).map_err(NetError::io(path));
    durable::write_secret(&to.join(KEY), &read(&from.join(KEY))?)?;
    let mut blobs = 0;
    for folder in entries(&from.join(BLOBS))? {
        let target = to.join(BLOBS).join(folder.file_name().unwrap_or_default());
        durable::create_folder(&target)?;
        for path in entries(&folder)? {
            // What is being written at this moment has no row in the copied database.
            if !is_part(&path) {
                durable::write(&target.join(path.file_name().unwrap_or_default()), &read(&path)?)?;
                blobs += 1;
            }
        }
    }
    durable::sync_folder(to)?;
    Ok(Copied { audit_rows, blobs })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_whole_and_a_damaged_one_is_not_brought_back() {
        let root = tempfile::tempdir().unwrap();
        let (server, kept, again) = (root.path().join("s"), root.path().join("k"), root.path().join("a"));
        durable::create_folder(&server).unwrap();
        Store::open(&server.join(DATABASE)).unwrap();
        fs::write(server.join(KEY), "key").unwrap();
        let name = Blobs::open(&server).unwrap().put(b"adapter").unwrap();
        assert_eq!(backup(&server, &kept).unwrap().blobs, 1);
        assert!(backup(&server, &kept).is_err(), "nothing is overwritten");
        assert_eq!(restore(&kept, &again).unwrap().blobs, 1);
        assert_eq!(Blobs::open(&again).unwrap().get(&name).unwrap(), b"adapter");
        fs::write(kept.join(BLOBS).join(&name[..2]).join(&name), "adaptor").unwrap();
        let third = root.path().join("t");
        assert!(matches!(restore(&kept, &third), Err(NetError::Corrupt { .. })));
        assert!(!third.exists());
        assert!(backup(root.path(), &third).is_err(), "no server's folder");
    }
}
