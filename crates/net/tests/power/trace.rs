//! What a program did to its files, from strace, in the order in which it was done.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// One system call that changes files, or a word that the program said on standard error.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    Folder(PathBuf),
    /// A file was opened; `truncates` empties it.
    Open {
        path: PathBuf,
        creates: bool,
        truncates: bool,
    },
    Write {
        path: PathBuf,
        offset: u64,
        bytes: Vec<u8>,
    },
    Resize {
        path: PathBuf,
        length: u64,
    },
    Sync(PathBuf),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    Said(String),
}

/// A call as strace wrote it.
struct Call<'a> {
    done: f64,
    name: &'a str,
    arguments: Vec<&'a str>,
    result: i64,
}

/// An open file.
struct Handle {
    path: PathBuf,
    position: u64,
    appends: bool,
}

/// The calls of all threads of one traced program; `prefix` is what was given to `strace -ff -o`.
pub fn read(prefix: &Path) -> Vec<Op> {
    let name = prefix.file_name().unwrap().to_string_lossy().into_owned();
    let mut texts = Vec::new();
    for entry in std::fs::read_dir(prefix.parent().unwrap()).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with(&name) {
            texts.push(std::fs::read_to_string(path).unwrap());
        }
    }
    let mut calls: Vec<Call> = texts.iter().flat_map(|text| text.lines()).filter_map(call).collect();
    calls.sort_by(|a, b| a.done.total_cmp(&b.done));
    let mut handles = HashMap::new();
    let mut lengths = HashMap::new();
    calls.iter().filter_map(|call| op(call, &mut handles, &mut lengths)).collect()
}

/// `1700000000.123456 write(3, "\x41", 1) = 1 <0.000012>`
fn call(line: &str) -> Option<Call<'_>> {
    let (start, rest) = line.split_once(' ')?;
    let (name, rest) = rest.split_once('(')?;
    let (rest, took) = rest.strip_suffix('>')?.rsplit_once(" <")?;
    let (arguments, result) = rest.rsplit_once(" = ")?;
    let arguments = arguments.trim_end().strip_suffix(')')?;
    Some(Call {
        done: start.parse::<f64>().ok()? + took.parse::<f64>().ok()?,
        name,
        // Texts are in hexadecimal: no comma is inside one.
        arguments: arguments.split(", ").collect(),
        result: result.split(' ').next()?.parse().ok()?,
    })
}

fn text(quoted: &str) -> Vec<u8> {
    let digits = quoted.trim_matches('"').split("\\x").skip(1);
    digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

fn path(quoted: &str) -> PathBuf {
    PathBuf::from(String::from_utf8(text(quoted)).unwrap())
}

fn op(
    call: &Call<'_>,
    handles: &mut HashMap<i64, Handle>,
    lengths: &mut HashMap<PathBuf, u64>,
) -> Option<Op> {
    if call.result < 0 {
        return None;
    }
    let handle = |index: usize| call.arguments[index].parse::<i64>().unwrap_or(-1);
    let number = |index: usize| call.arguments[index].parse::<u64>().unwrap();
    match call.name {
        "openat" | "open" => {
            let (name, flags) = if call.name == "open" { (0, 1) } else { (1, 2) };
            let has = |flag: &str| call.arguments[flags].split('|').any(|found| found == flag);
            let path = path(call.arguments[name]);
            let (creates, truncates) = (has("O_CREAT"), has("O_TRUNC"));
            if truncates {
                lengths.insert(path.clone(), 0);
            }
            let opened = Handle { path: path.clone(), position: 0, appends: has("O_APPEND") };
            handles.insert(call.result, opened);
            Some(Op::Open { path, creates, truncates })
        }
        "close" => {
            handles.remove(&handle(0));
            None
        }
        "lseek" => {
            handles.get_mut(&handle(0))?.position = call.result as u64;
            None
        }
        "write" if handle(0) == 2 => Some(Op::Said(String::from_utf8_lossy(&text(call.arguments[1])).into())),
        "write" | "pwrite64" => {
            let open = handles.get_mut(&handle(0))?;
            let bytes = text(call.arguments[1])[..call.result as usize].to_vec();
            let length = lengths.entry(open.path.clone()).or_default();
            let offset = match call.name {
                "pwrite64" => number(3),
                _ if open.appends => *length,
                _ => open.position,
            };
            if call.name == "write" {
                open.position = offset + bytes.len() as u64;
            }
            *length = (*length).max(offset + bytes.len() as u64);
            Some(Op::Write { path: open.path.clone(), offset, bytes })
        }
        "ftruncate" => {
            let path = handles.get(&handle(0))?.path.clone();
            lengths.insert(path.clone(), number(1));
            Some(Op::Resize { path, length: number(1) })
        }
        "fsync" | "fdatasync" => Some(Op::Sync(handles.get(&handle(0))?.path.clone())),
        "mkdir" => Some(Op::Folder(path(call.arguments[0]))),
        "mkdirat" => Some(Op::Folder(path(call.arguments[1]))),
        "rename" | "renameat" | "renameat2" => {
            let (from, to) = if call.name == "rename" { (0, 1) } else { (1, 3) };
            let (from, to) = (path(call.arguments[from]), path(call.arguments[to]));
            let length = lengths.remove(&from).unwrap_or(0);
            lengths.insert(to.clone(), length);
            Some(Op::Rename(from, to))
        }
        "unlink" | "unlinkat" => {
            let gone = path(call.arguments[usize::from(call.name == "unlinkat")]);
            lengths.remove(&gone);
            Some(Op::Remove(gone))
        }
        "writev" | "pwritev" | "pwritev2" | "copy_file_range" | "fallocate" | "truncate"
        | "sync_file_range" | "link" | "linkat" | "symlink" | "rmdir" | "dup" | "dup2" | "dup3" => {
            let known = handles.contains_key(&handle(0));
            assert!(!known, "{} on a file of the server: this reader does not know it", call.name);
            None
        }
        _ => None,
    }
}
