//! From what a user calls the data to the files of one split.

use std::path::{Path, PathBuf};

use crate::{DataError, Hub, ReadOptions};

/// The data files of `given`, in the order to read them.
///
/// # Errors
/// When there are none.
pub fn files(given: &str, _options: &ReadOptions, _hub: &Hub) -> Result<Vec<PathBuf>, DataError> {
    let path = Path::new(given);
    if path.is_file() {
        return Ok(vec![path.to_path_buf()]);
    }
    Err(DataError::NotFound { path: path.to_path_buf() })
}
