//! A disk that forgets at a loss of power whatever was not synced: contents by file, names by folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::trace::Op;

/// A change of a file's content that no sync has followed yet.
#[derive(Clone, Debug)]
enum Change {
    Write(u64, Vec<u8>),
    Resize(u64),
}

#[derive(Clone, Debug, Default)]
struct File {
    synced: Vec<u8>,
    since: Vec<Change>,
}

/// Files by number, and the names by which they are known now and would be known after a crash.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    files: Vec<File>,
    names: BTreeMap<PathBuf, usize>,
    synced_names: BTreeMap<PathBuf, usize>,
    folders: BTreeSet<PathBuf>,
    synced_folders: BTreeSet<PathBuf>,
}

/// Decides what of the unsynced has reached the disk all the same.
pub type Chance<'a> = &'a mut dyn FnMut() -> bool;

fn apply(content: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Resize(length) => content.resize(*length as usize, 0),
        Change::Write(offset, bytes) => {
            let end = *offset as usize + bytes.len();
            if content.len() < end {
                content.resize(end, 0);
            }
            content[*offset as usize..end].copy_from_slice(bytes);
        }
    }
}

impl Disk {
    /// Does what the program did; `root` is the only folder that is looked at.
    pub fn take(&mut self, op: &Op, root: &Path) {
        match op {
            Op::Folder(path) if path.starts_with(root) => {
                self.folders.insert(path.clone());
            }
            Op::Open { path, creates, truncates } if path.starts_with(root) => {
                if *creates && !self.names.contains_key(path) {
                    self.names.insert(path.clone(), self.files.len());
                    self.files.push(File::default());
                } else if *truncates {
                    self.change(path, Change::Resize(0));
                }
            }
            Op::Write { path, offset, bytes } => self.change(path, Change::Write(*offset, bytes.clone())),
            Op::Resize { path, length } => self.change(path, Change::Resize(*length)),
            Op::Sync(path) if self.folders.contains(path) || path == root => self.sync_folder(path),
            Op::Sync(path) => {
                if let Some(&number) = self.names.get(path) {
                    let file = &mut self.files[number];
                    let changes = std::mem::take(&mut file.since);
                    changes.iter().for_each(|change| apply(&mut file.synced, change));
                }
            }
            Op::Rename(from, to) => {
                if let Some(number) = self.names.remove(from) {
                    self.names.insert(to.clone(), number);
                }
            }
            Op::Remove(path) => {
                self.names.remove(path);
            }
            _ => {}
        }
    }

    fn change(&mut self, path: &Path, change: Change) {
        if let Some(&number) = self.names.get(path) {
            self.files[number].since.push(change);
        }
    }

    fn sync_folder(&mut self, folder: &Path) {
        let inside = |path: &Path| path.parent() == Some(folder);
        self.synced_names.retain(|path, _| !inside(path));
        let known = self.names.iter().filter(|(path, _)| inside(path));
        self.synced_names.extend(known.map(|(path, number)| (path.clone(), *number)));
        self.synced_folders.extend(self.folders.iter().filter(|path| inside(path)).cloned());
    }

    /// Writes to `to` what a crash at this moment leaves of `root`, and by chance more.
    pub fn crash(&self, root: &Path, to: &Path, chance: Chance<'_>) {
        let place = |path: &Path| to.join(path.strip_prefix(root).unwrap());
        let mut left = self.clone();
        for folder in std::iter::once(root).chain(self.folders.iter().map(PathBuf::as_path)) {
            // Names of one folder reach the disk in order: here all of them, or those of the last sync.
            if chance() {
                left.sync_folder(folder);
            }
        }
        for folder in &left.synced_folders {
            // A folder whose own name is lost takes everything in it along.
            if folder.parent().is_some_and(|parent| place(parent).is_dir()) {
                fs::create_dir(place(folder)).unwrap();
            }
        }
        for (path, number) in &left.synced_names {
            let file = &self.files[*number];
            let mut content = file.synced.clone();
            for change in &file.since {
                if chance() {
                    apply(&mut content, change);
                }
            }
            if path.parent().is_some_and(|parent| place(parent).is_dir()) {
                fs::write(place(path), content).unwrap();
            }
        }
    }
}
