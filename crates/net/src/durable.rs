//! Files that are whole or not there, and that survive a loss of power: temporary name, fsync, rename, fsync of the folder.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;

use crate::error::NetError;

/// What the name of a file ends with while it is written.
pub(crate) const PART: &str = "part";

/// Makes a rename or a new name in `folder` durable. Only Unix can open a folder for it.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), NetError> {
    if cfg!(unix) {
        File::open(folder).and_then(|opened| opened.sync_all()).map_err(NetError::io(folder))?;
    }
    Ok(())
}

/// Creates `folder` and those above it, and makes their names durable.
pub(crate) fn create_folder(folder: &Path) -> Result<(), NetError> {
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent.filter(|parent| !parent.is_dir()) {
        create_folder(parent)?;
    }
    match fs::create_dir(folder) {
        Err(_) if folder.is_dir() => {}
        made => made.map_err(NetError::io(folder))?,
    }
    // Also when it was there: whoever made it may have died before this.
    parent.map_or(Ok(()), sync_folder)
}

/// Writes `bytes` to `path`, replacing what was there; a crash leaves the old file or the new one.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), NetError> {
    write_as(path, bytes, false)
}

/// Writes `bytes` to `path`, whole or not at all, readable by its owner only.
///
/// # Errors
/// [`NetError::Io`].
pub fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), NetError> {
    write_as(path, bytes, true)
}

fn write_as(path: &Path, bytes: &[u8], secret: bool) -> Result<(), NetError> {
    let mut part = path.as_os_str().to_owned();
    part.push(".");
    part.push(PART);
    let part = Path::new(&part);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    if secret {
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    }
    #[cfg(not(unix))]
    let _ = secret;
    let mut file = options.open(part).map_err(NetError::io(part))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(NetError::io(part))?;
    fs::rename(part, path).map_err(NetError::io(path))?;
    path.parent().map_or(Ok(()), sync_folder)
}

/// Removes the file at `path`, if there is one.
pub(crate) fn remove(path: &Path) -> Result<(), NetError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(NetError::io(path)(error)),
        _ => Ok(()),
    }
}
