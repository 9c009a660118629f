//! Files and folders that are either whole or not there: temporary name, write, fsync, rename, fsync of the parent.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::ExperimentError;

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    path.with_file_name(name)
}

/// Makes a rename durable. Only Unix can open a folder for it; elsewhere the system's own order must do.
fn sync_parent(path: &Path) -> Result<(), ExperimentError> {
    if cfg!(unix)
        && let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty())
    {
        File::open(parent).and_then(|folder| folder.sync_all()).map_err(ExperimentError::io(parent))?;
    }
    Ok(())
}

fn write_synced(
    path: &Path,
    content: impl FnOnce(&mut File) -> std::io::Result<()>,
) -> Result<(), ExperimentError> {
    let write = || {
        let mut file = File::create(path)?;
        content(&mut file)?;
        file.sync_all()
    };
    write().map_err(ExperimentError::io(path))
}

/// Creates the folder `dir` and those above it.
pub fn create_dir(dir: &Path) -> Result<(), ExperimentError> {
    fs::create_dir_all(dir).map_err(ExperimentError::io(dir))
}

/// Writes `bytes` to `path`, replacing what was there; a crash leaves the old file or the new one.
///
/// # Errors
/// [`ExperimentError::Io`] with the path.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), ExperimentError> {
    write_with(path, |file| file.write_all(bytes))
}

/// As [`write_file`], with content that is written piece by piece.
///
/// # Errors
/// [`ExperimentError::Io`] with the path.
pub fn write_with(
    path: &Path,
    content: impl FnOnce(&mut File) -> std::io::Result<()>,
) -> Result<(), ExperimentError> {
    let part = temporary(path);
    write_synced(&part, content)?;
    fs::rename(&part, path).map_err(ExperimentError::io(path))?;
    sync_parent(path)
}

/// Writes a folder of `files` (name and content) at `dir`, replacing what was there.
///
/// # Errors
/// [`ExperimentError::Io`] with the path.
pub fn write_dir(dir: &Path, files: &[(&str, &[u8])]) -> Result<(), ExperimentError> {
    let part = temporary(dir);
    remove(&part)?;
    create_dir(&part)?;
    for (name, bytes) in files {
        write_synced(&part.join(name), |file| file.write_all(bytes))?;
    }
    remove(dir)?;
    fs::rename(&part, dir).map_err(ExperimentError::io(dir))?;
    sync_parent(dir)
}

/// Removes the file or folder at `path`, if there is one.
///
/// # Errors
/// [`ExperimentError::Io`] with the path.
pub fn remove(path: &Path) -> Result<(), ExperimentError> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(ExperimentError::io(path)(error)),
        _ => Ok(()),
    }
}

/// The bytes of `path`; `None` when it is not there.
///
/// # Errors
/// [`ExperimentError::Io`] with the path.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, ExperimentError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ExperimentError::io(path)(error)),
    }
}

/// Writes one file of a line of JSON and, after it, `bytes`: a value and a blob that belong together.
///
/// # Errors
/// [`ExperimentError::Io`] with the path.
pub fn write_stamped(path: &Path, stamp: &impl Serialize, bytes: &[u8]) -> Result<(), ExperimentError> {
    let mut content = serde_json::to_vec(stamp).map_err(|e| ExperimentError::broken(path, e))?;
    content.push(b'\n');
    content.extend_from_slice(bytes);
    write_file(path, &content)
}

/// Reads what [`write_stamped`] wrote; `None` when it is not there.
///
/// # Errors
/// [`ExperimentError::Io`] or [`ExperimentError::Broken`] with the path.
pub fn read_stamped<T: DeserializeOwned>(path: &Path) -> Result<Option<(T, Vec<u8>)>, ExperimentError> {
    let Some(mut content) = read(path)? else { return Ok(None) };
    let line = content
        .iter()
        .position(|&byte| byte == b'\n')
        .ok_or_else(|| ExperimentError::broken(path, "has no first line"))?;
    let stamp =
        serde_json::from_slice(&content[..line]).map_err(|error| ExperimentError::broken(path, error))?;
    Ok(Some((stamp, content.split_off(line + 1))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_folders_are_replaced_as_a_whole() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("a.json");
        write_file(&file, b"old").unwrap();
        write_file(&file, b"new").unwrap();
        assert_eq!(read(&file).unwrap().unwrap(), b"new");
        let dir = root.path().join("adapter");
        write_dir(&dir, &[("old", b"1"), ("both", b"1")]).unwrap();
        write_dir(&dir, &[("both", b"2")]).unwrap();
        assert!(!dir.join("old").exists());
        assert_eq!(fs::read(dir.join("both")).unwrap(), b"2");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 2, "no temporary is left");
    }

    #[test]
    fn a_stamp_and_its_blob_come_back_and_a_broken_one_is_named() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("x");
        assert!(read_stamped::<u32>(&path).unwrap().is_none());
        write_stamped(&path, &7u32, b"\n\x00blob").unwrap();
        assert_eq!(read_stamped::<u32>(&path).unwrap(), Some((7, b"\n\x00blob".to_vec())));
        fs::write(&path, "no line").unwrap();
        assert!(read_stamped::<u32>(&path).unwrap_err().to_string().contains("no first line"));
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_named() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        write_file(&file, b"").unwrap();
        let error = write_file(&file.join("below"), b"").unwrap_err().to_string();
        assert!(error.contains("below"), "{error}");
    }
}
