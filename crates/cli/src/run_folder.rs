//! Where a run writes: the folder that the user names, or the next free one under `runs/`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// `out`, or `runs/<command>-<number>` with the first free number; made when it is not there.
///
/// # Errors
/// When the folder cannot be made.
pub fn choose(out: Option<&Path>, command: &str) -> Result<PathBuf> {
    let folder = out.map_or_else(|| next_free(Path::new("runs"), command), Path::to_owned);
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder)
}

fn next_free(parent: &Path, command: &str) -> PathBuf {
    let mut number = 1;
    loop {
        let folder = parent.join(format!("{command}-{number:03}"));
        if !folder.exists() {
            return folder;
        }
        number += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_free_number_is_taken() {
        let parent = tempfile::tempdir().unwrap();
        assert!(next_free(parent.path(), "demo").ends_with("demo-001"));
        std::fs::create_dir(parent.path().join("demo-001")).unwrap();
        assert!(next_free(parent.path(), "demo").ends_with("demo-002"));
    }
}
