//! The house rules that a program can check, one file per family of rules.

mod arrows;
mod links;
mod source;
mod text;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// A broken rule at a place.
#[derive(Debug)]
pub struct Finding {
    path: PathBuf,
    /// From 1; 0 where the whole file is meant.
    line: usize,
    message: String,
}

impl Finding {
    fn new(path: &Path, line: usize, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, message: message.into() }
    }
}

/// A text file of the project.
pub struct File {
    /// Relative to the root, with `/`.
    path: PathBuf,
    text: String,
}

impl File {
    fn has_extension(&self, extension: &str) -> bool {
        self.path.extension().is_some_and(|found| found == extension)
    }

    fn starts_with(&self, folder: &str) -> bool {
        self.path.starts_with(folder)
    }
}

/// Checks every rule over the files that git knows, and fails with all findings at once.
pub fn run(root: &Path) -> Result<()> {
    let files = read_files(root)?;
    let mut findings = Vec::new();
    findings.extend(source::check(&files));
    findings.extend(arrows::check(&files)?);
    findings.extend(links::check(&files, root));
    findings.extend(text::check(&files));
    findings.sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
    for Finding { path, line, message } in &findings {
        println!("{}:{line}: {message}", path.display());
    }
    for (path, lines) in source::long_files(&files) {
        println!("note: {} has {lines} lines; is there a second story in it?", path.display());
    }
    match findings.len() {
        0 => {
            println!("tidy: {} files, nothing to object to", files.len());
            Ok(())
        }
        count => bail!("tidy: {count} finding(s)"),
    }
}

/// All text files that are tracked or would be, were they added.
fn read_files(root: &Path) -> Result<Vec<File>> {
    let listing = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("tidy asks git which files belong to the project")?;
    if !listing.status.success() {
        bail!("git ls-files failed: {}", String::from_utf8_lossy(&listing.stderr).trim());
    }
    let mut paths: Vec<PathBuf> = listing
        .stdout
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| PathBuf::from(String::from_utf8_lossy(name).into_owned()))
        .collect();
    paths.sort();
    paths.dedup();
    // Binary files and files deleted but not yet committed have no text to check.
    Ok(paths
        .into_iter()
        .filter_map(|path| fs::read_to_string(root.join(&path)).ok().map(|text| File { path, text }))
        .collect())
}
