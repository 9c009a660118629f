//! Content by its hash, in a local folder: `blobs/ab/abcdef..`, and half-sent uploads beside it.
//!
//! A blob is whole and durable before its name is known to anybody. A failed fsync is never retried: whether
//! the bytes reached the disk is unknown from then on, so the store takes nothing more until a restart.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use consilium_core::hash::{Hasher, sha256_hex};

use crate::durable;
use crate::error::NetError;

/// The blob store of one server.
pub struct Blobs {
    blobs: PathBuf,
    uploads: PathBuf,
    failed: Mutex<Option<String>>,
}

/// Whether `name` is a SHA-256 as this project writes it: nothing else may become a path.
pub fn is_sha256(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

impl Blobs {
    /// Opens the store in `folder`.
    ///
    /// # Errors
    /// [`NetError::Io`].
    pub fn open(folder: &Path) -> Result<Self, NetError> {
        let (blobs, uploads) = (folder.join("blobs"), folder.join("uploads"));
        durable::create_folder(&blobs)?;
        durable::create_folder(&uploads)?;
        Ok(Self { blobs, uploads, failed: Mutex::new(None) })
    }

    /// Why the store takes nothing more, if it has failed.
    pub fn failure(&self) -> Option<String> {
        self.failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Runs a write; once one has failed, all later ones are refused.
    fn writing<T>(&self, write: impl FnOnce() -> Result<T, NetError>) -> Result<T, NetError> {
        if let Some(reason) = self.failure() {
            return Err(NetError::StoreDown(reason));
        }
        write().inspect_err(|error| {
            let mut failed = self.failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            failed.get_or_insert_with(|| error.to_string());
        })
    }

    fn path(&self, sha256: &str) -> PathBuf {
        self.blobs.join(&sha256[..2]).join(sha256)
    }

    /// Keeps `bytes` and returns their SHA-256; they are durable when this returns.
    ///
    /// # Errors
    /// [`NetError::Io`] or [`NetError::StoreDown`].
    pub fn put(&self, bytes: &[u8]) -> Result<String, NetError> {
        let sha256 = sha256_hex(bytes);
        let path = self.path(&sha256);
        self.writing(|| {
            durable::create_folder(path.parent().unwrap_or(&self.blobs))?;
            durable::write(&path, bytes)
        })?;
        Ok(sha256)
    }

    /// The bytes called `sha256`, checked against their name.
    ///
    /// # Errors
    /// [`NetError::NotFound`], or [`NetError::Corrupt`] when a bit has changed since they were kept.
    pub fn get(&self, sha256: &str) -> Result<Vec<u8>, NetError> {
        let missing = || NetError::NotFound { what: "model", name: sha256.to_owned() };
        if !is_sha256(sha256) {
            return Err(missing());
        }
        let path = self.path(sha256);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(missing()),
            read => read.map_err(NetError::io(&path))?,
        };
        let found = sha256_hex(&bytes);
        if found != sha256 {
            return Err(NetError::corrupt(path.display(), format!("its content has SHA-256 {found}")));
        }
        Ok(bytes)
    }

    /// Whether there is a blob called `sha256`.
    pub fn has(&self, sha256: &str) -> bool {
        is_sha256(sha256) && self.path(sha256).is_file()
    }

    /// Removes the blob called `sha256`, if it is there.
    ///
    /// # Errors
    /// [`NetError::Io`].
    pub fn remove(&self, sha256: &str) -> Result<(), NetError> {
        match is_sha256(sha256) {
            true => durable::remove(&self.path(sha256)),
            false => Ok(()),
        }
    }

    fn upload_path(&self, upload_id: &str) -> PathBuf {
        self.uploads.join(upload_id)
    }

    /// Bytes of the half-sent upload that have arrived.
    ///
    /// # Errors
    /// [`NetError::Io`].
    pub fn received(&self, upload_id: &str) -> Result<u64, NetError> {
        let path = self.upload_path(upload_id);
        match fs::metadata(&path) {
            Ok(found) => Ok(found.len()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(NetError::io(&path)(error)),
        }
    }

    /// Adds `data` at `offset` of an upload that may grow to `limit` bytes. Bytes that are there already are kept, so a
    /// piece may be sent twice.
    ///
    /// # Errors
    /// [`NetError::Invalid`] for a gap or too many bytes; [`NetError::Io`] or [`NetError::StoreDown`].
    pub fn append(&self, upload_id: &str, offset: u64, data: &[u8], limit: u64) -> Result<u64, NetError> {
        let path = self.upload_path(upload_id);
        let held = self.received(upload_id)?;
        let end = offset.saturating_add(data.len() as u64);
        if offset > held {
            return Err(NetError::Invalid(format!("{held} bytes are here, the next ones start at {offset}")));
        }
        if end > limit {
            return Err(NetError::Invalid(format!("the upload was announced with {limit} bytes, not {end}")));
        }
        if let Some(reason) = self.failure() {
            return Err(NetError::StoreDown(reason));
        }
        let fresh = &data[usize::try_from(held - offset).unwrap_or(usize::MAX).min(data.len())..];
        // Nothing is promised about these bytes yet: a full disk here is a reason to come back, not to stop.
        let mut file =
            OpenOptions::new().create(true).append(true).open(&path).map_err(NetError::io(&path))?;
        file.write_all(fresh).map_err(NetError::io(&path))?;
        Ok(held + fresh.len() as u64)
    }

    /// The whole upload, if its SHA-256 is `sha256`.
    ///
    /// # Errors
    /// [`NetError::Invalid`] when it is another content; [`NetError::Io`].
    pub fn whole(&self, upload_id: &str, sha256: &str) -> Result<Vec<u8>, NetError> {
        let path = self.upload_path(upload_id);
        let bytes = fs::read(&path).map_err(NetError::io(&path))?;
        let found = sha256_hex(&bytes);
        if found != sha256 {
            return Err(NetError::Invalid(format!("the upload has SHA-256 {found}, announced was {sha256}")));
        }
        Ok(bytes)
    }

    /// Gives a whole upload its lasting name; durable when this returns.
    ///
    /// # Errors
    /// [`NetError::Io`] or [`NetError::StoreDown`].
    pub fn keep(&self, upload_id: &str, sha256: &str) -> Result<(), NetError> {
        let (from, to) = (self.upload_path(upload_id), self.path(sha256));
        self.writing(|| {
            let folder = to.parent().unwrap_or(&self.blobs);
            durable::create_folder(folder)?;
            File::open(&from).and_then(|file| file.sync_all()).map_err(NetError::io(&from))?;
            crate::failpoint::reach("blob_synced");
            fs::rename(&from, &to).map_err(NetError::io(&to))?;
            durable::sync_folder(folder)?;
            crate::failpoint::reach("blob_kept");
            Ok(())
        })
    }

    /// Forgets a half-sent upload.
    ///
    /// # Errors
    /// [`NetError::Io`].
    pub fn discard(&self, upload_id: &str) -> Result<(), NetError> {
        durable::remove(&self.upload_path(upload_id))
    }

    /// Reads at most `length` bytes of a blob from `offset`, for a download in pieces.
    ///
    /// # Errors
    /// [`NetError::NotFound`] or [`NetError::Io`].
    pub fn piece(&self, sha256: &str, offset: u64, length: usize) -> Result<Vec<u8>, NetError> {
        if !is_sha256(sha256) {
            return Err(NetError::NotFound { what: "model", name: sha256.to_owned() });
        }
        let path = self.path(sha256);
        let read = || {
            let mut file = File::open(&path)?;
            file.seek(SeekFrom::Start(offset))?;
            let mut bytes = Vec::new();
            file.take(length as u64).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        read().map_err(NetError::io(&path))
    }

    /// Every blob whose content does not have its name's hash.
    ///
    /// # Errors
    /// [`NetError::Io`].
    pub fn damaged(&self) -> Result<Vec<PathBuf>, NetError> {
        let mut found = Vec::new();
        for folder in entries(&self.blobs)? {
            for path in entries(&folder)?.into_iter().filter(|path| !is_part(path)) {
                let mut file = File::open(&path).map_err(NetError::io(&path))?;
                let mut hasher = Hasher::default();
                let mut buffer = vec![0; 1 << 16];
                loop {
                    let read = file.read(&mut buffer).map_err(NetError::io(&path))?;
                    if read == 0 {
                        break;
                    }
                    hasher.update(&buffer[..read]);
                }
                if path.file_name().is_none_or(|name| name.to_string_lossy() != hasher.finish()) {
                    found.push(path);
                }
            }
        }
        Ok(found)
    }

    /// Removes what a crash left half written. Only the one program that writes here may do this.
    ///
    /// # Errors
    /// [`NetError::Io`].
    pub fn sweep(&self) -> Result<(), NetError> {
        for folder in entries(&self.blobs)? {
            entries(&folder)?
                .iter()
                .filter(|path| is_part(path))
                .try_for_each(|path| durable::remove(path))?;
        }
        Ok(())
    }
}

/// Whether a file is on its way to be a blob, or was when a crash came.
pub(super) fn is_part(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == durable::PART)
}

pub(super) fn entries(folder: &Path) -> Result<Vec<PathBuf>, NetError> {
    let listed = fs::read_dir(folder).and_then(|all| all.map(|entry| entry.map(|e| e.path())).collect());
    let mut paths: Vec<PathBuf> = listed.map_err(NetError::io(folder))?;
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_in_pieces_some_sent_twice_becomes_a_blob() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path()).unwrap();
        let sha256 = sha256_hex(b"hello world");
        assert_eq!(blobs.append("u", 0, b"hello", 11).unwrap(), 5);
        assert_eq!(blobs.append("u", 3, b"lo wor", 11).unwrap(), 9, "an overlap adds what is new");
        assert_eq!(blobs.append("u", 0, b"hell", 11).unwrap(), 9, "old bytes stay");
        assert!(matches!(blobs.append("u", 10, b"d", 11), Err(NetError::Invalid(_))), "a gap");
        assert!(matches!(blobs.append("u", 9, b"ld!", 11), Err(NetError::Invalid(_))), "too long");
        assert!(matches!(blobs.whole("u", &sha256), Err(NetError::Invalid(_))), "not whole yet");
        blobs.append("u", 9, b"ld", 11).unwrap();
        assert_eq!(blobs.whole("u", &sha256).unwrap(), b"hello world");
        blobs.keep("u", &sha256).unwrap();
        assert_eq!(blobs.get(&sha256).unwrap(), b"hello world");
        assert_eq!(blobs.piece(&sha256, 6, 3).unwrap(), b"wor");
        assert_eq!(blobs.received("u").unwrap(), 0);
    }

    #[test]
    fn a_flipped_bit_is_found_and_a_name_is_never_a_path() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path()).unwrap();
        let sha256 = blobs.put(b"model").unwrap();
        assert!(blobs.damaged().unwrap().is_empty());
        fs::write(blobs.path(&sha256), b"modem").unwrap();
        assert!(matches!(blobs.get(&sha256), Err(NetError::Corrupt { .. })));
        assert_eq!(blobs.damaged().unwrap(), [blobs.path(&sha256)]);
        assert!(matches!(blobs.get("../../etc/passwd"), Err(NetError::NotFound { .. })));
    }

    #[test]
    fn after_a_failed_write_nothing_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path()).unwrap();
        fs::remove_dir_all(folder.path().join("blobs")).unwrap();
        fs::write(folder.path().join("blobs"), "in the way").unwrap();
        assert!(matches!(blobs.put(b"x"), Err(NetError::Io { .. })));
        fs::remove_file(folder.path().join("blobs")).unwrap();
        assert!(matches!(blobs.put(b"y"), Err(NetError::StoreDown(_))), "never retried");
        assert!(matches!(blobs.append("u", 0, b"x", 1), Err(NetError::StoreDown(_))));
        assert!(blobs.failure().is_some());
    }
}
