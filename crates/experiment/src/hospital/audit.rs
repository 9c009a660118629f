//! The hospital's own log of what was decided and what left the house: one JSON object a line, kept on disk before what
//! it tells of happens.
//!
//! Each line holds the SHA-256 of the line before it, so that a line that was changed, removed or put in later is
//! found. The chain can't show that its end was cut off, or that somebody wrote all of it anew: whoever wants to know
//! keeps the last line's hash ([`AuditLog::head`]; it is in `site-summary.json` too) somewhere else. No line holds the
//! text of a row.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use consilium_core::hash::sha256_hex;
use serde::{Deserialize, Serialize};

use crate::durable;
use crate::error::ExperimentError;

/// What a line tells of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum AuditEvent {
    /// The session's plan came.
    Plan {
        /// SHA-256 of the plan.
        plan_sha256: String,
        /// The base model's name.
        model: String,
        /// Training rows that this site would train on.
        training_rows: usize,
        /// Whether the policy allows it.
        allowed: bool,
        /// Why not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// A task came.
    Task {
        /// Its round.
        round: u32,
        /// The global adapter that it starts from.
        base_sha256: String,
        /// Whether the policy allows it.
        allowed: bool,
        /// Why not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// An update is about to leave.
    Update {
        /// Its round.
        round: u32,
        /// SHA-256 of the adapter.
        adapter_sha256: String,
        /// Number of training rows behind it, which is told too.
        examples: u64,
        /// Mean training loss, which is told too.
        train_loss: f64,
    },
    /// What the coordinator said to an update.
    Answer {
        /// Its round.
        round: u32,
        /// Whether it counts.
        accepted: bool,
        /// Why not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// The coordinator is told that no update will come.
    Failure {
        /// The round.
        round: u32,
        /// What it is told.
        reason: String,
    },
    /// The session's last adapter came.
    Final {
        /// Its SHA-256.
        adapter_sha256: String,
    },
    /// Whether the scores on this site's test rows are told to the coordinator.
    Scores {
        /// What the policy says.
        shared: bool,
    },
    /// The log ended in the middle of a line, as after a power cut, and that piece was removed.
    Repaired {
        /// Bytes of the piece.
        bytes: usize,
    },
}

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuditLine {
    /// Its number, from 1.
    pub line: u64,
    /// When, UTC, to the second: `2026-03-01T12:30:05Z`.
    pub at: String,
    /// SHA-256 of the line before, without its line break; 64 zeros in the first.
    pub previous: String,
    /// What happened.
    #[serde(flatten)]
    pub event: AuditEvent,
}

/// An audit log that is being written. One process at a time.
#[derive(Debug)]
pub struct AuditLog {
    path: PathBuf,
    file: File,
    lines: u64,
    head: String,
    /// A write failed: what the file holds is unknown until it is opened again.
    doubtful: bool,
}

/// What the first line says in place of a hash.
const NOTHING_BEFORE: &str = "0000000000000000000000000000000000000000000000000000000000000000";

impl AuditLog {
    /// Opens the log at `path`, or begins one there. `now` is the time, seconds since 1970 UTC.
    ///
    /// # Errors
    /// [`ExperimentError::Broken`] when its chain is broken, with the line, or another process writes it;
    /// [`ExperimentError::Io`].
    pub fn open(path: &Path, now: u64) -> Result<Self, ExperimentError> {
        let io = || ExperimentError::io(path);
        if durable::read(path)?.is_none() {
            path.parent().map_or(Ok(()), durable::create_dir)?;
            durable::write_file(path, b"")?;
        }
        let file = OpenOptions::new().append(true).open(path).map_err(io())?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(ExperimentError::broken(path, "is being written by another process"));
            }
            Err(TryLockError::Error(error)) => return Err(io()(error)),
        }
        let bytes = durable::read(path)?.unwrap_or_default();
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        let lines = check(path, &bytes[..whole])?;
        let head = match bytes[..whole].split(|&byte| byte == b'\n').rev().nth(1) {
            Some(last) => sha256_hex(last),
            None => NOTHING_BEFORE.into(),
        };
        let mut log = Self { path: path.to_owned(), file, lines: lines.len() as u64, head, doubtful: false };
        if whole < bytes.len() {
            log.file.set_len(whole as u64).and_then(|()| log.file.sync_all()).map_err(io())?;
            log.append(now, AuditEvent::Repaired { bytes: bytes.len() - whole })?;
        }
        Ok(log)
    }

    /// Adds a line and waits until it is on disk. `now` is the time, seconds since 1970 UTC.
    ///
    /// # Errors
    /// [`ExperimentError::Io`]; after one the log takes no more lines until it is opened again.
    pub fn append(&mut self, now: u64, event: AuditEvent) -> Result<(), ExperimentError> {
        if self.doubtful {
            return Err(ExperimentError::broken(
                &self.path,
                "could not be written before; nothing more is added",
            ));
        }
        let line = AuditLine { line: self.lines + 1, at: utc(now), previous: self.head.clone(), event };
        let mut bytes = serde_json::to_vec(&line).map_err(|e| ExperimentError::broken(&self.path, e))?;
        let head = sha256_hex(&bytes);
        bytes.push(b'\n');
        self.doubtful = true;
        let written = self.file.write_all(&bytes).and_then(|()| self.file.sync_all());
        written.map_err(ExperimentError::io(&self.path))?;
        (self.doubtful, self.lines, self.head) = (false, self.lines + 1, head);
        Ok(())
    }

    /// SHA-256 of the last line; 64 zeros before the first.
    pub fn head(&self) -> &str {
        &self.head
    }
}

/// The lines of the log at `path`, with their chain checked.
///
/// # Errors
/// [`ExperimentError::Broken`] with the first line that does not follow from the one before; [`ExperimentError::Io`].
pub fn read_audit(path: &Path) -> Result<Vec<AuditLine>, ExperimentError> {
    let bytes = durable::read(path)?.ok_or_else(|| ExperimentError::broken(path, "is missing"))?;
    check(path, &bytes)
}

fn check(path: &Path, bytes: &[u8]) -> Result<Vec<AuditLine>, ExperimentError> {
    let mut lines = Vec::new();
    let mut previous = NOTHING_BEFORE.to_owned();
    let Some(bytes) = bytes.strip_suffix(b"\n") else {
        let cut = |()| ExperimentError::broken(path, "ends in the middle of a line");
        return if bytes.is_empty() { Ok(lines) } else { Err(cut(())) };
    };
    for (index, text) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let number = index as u64 + 1;
        let line: AuditLine = serde_json::from_slice(text).map_err(|error| {
            ExperimentError::broken(path, format!("line {number} is no audit line: {error}"))
        })?;
        if line.line != number || line.previous != previous {
            let reason = format!(
                "line {number} does not follow from the one before: a line was changed, removed or put in"
            );
            return Err(ExperimentError::broken(path, reason));
        }
        previous = sha256_hex(text);
        lines.push(line);
    }
    Ok(lines)
}

/// `2026-03-01T12:30:05Z`, from seconds since 1970 (Hinnant, "chrono-compatible low-level date algorithms").
fn utc(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days since 1 March of the year 0; years then begin in March, so that leap days end them.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute) = (second / 3_600, second / 60 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}Z", second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(shared: bool) -> AuditEvent {
        AuditEvent::Scores { shared }
    }

    fn three_lines(path: &Path) -> String {
        let mut log = AuditLog::open(path, 0).unwrap();
        log.append(1, scores(false)).unwrap();
        log.append(2, AuditEvent::Failure { round: 3, reason: "policy max_rank".into() }).unwrap();
        drop(log);
        let mut log = AuditLog::open(path, 3).unwrap();
        log.append(3, scores(true)).unwrap();
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn the_chain_goes_on_when_it_is_opened_again() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("audit.jsonl");
        let text = three_lines(&path);
        let lines = read_audit(&path).unwrap();
        assert_eq!(lines.iter().map(|line| line.line).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!((lines[0].previous.as_str(), &lines[2].event), (NOTHING_BEFORE, &scores(true)));
        let second = text.lines().nth(1).unwrap();
        assert_eq!(lines[2].previous, sha256_hex(second.as_bytes()));
        let log = AuditLog::open(&path, 9).unwrap();
        assert_eq!(log.head(), sha256_hex(text.lines().nth(2).unwrap().as_bytes()));
        let error = AuditLog::open(&path, 9).unwrap_err().to_string();
        assert!(error.contains("another process"), "{error}");
    }

    #[test]
    fn a_line_that_was_changed_removed_or_put_in_is_found() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("audit.jsonl");
        let text = three_lines(&path);
        let lines: Vec<&str> = text.lines().collect();
        let forged = lines[1].replace("max_rank", "max_rang");
        let tampered = [
            ("changed", [lines[0], &forged, lines[2]].join("\n") + "\n", "line 3"),
            ("removed", [lines[0], lines[2]].join("\n") + "\n", "line 2"),
            ("put in", [lines[0], lines[0], lines[1], lines[2]].join("\n") + "\n", "line 2"),
            ("swapped", [lines[1], lines[0], lines[2]].join("\n") + "\n", "line 1"),
            ("no JSON", text.replacen('{', "[", 1), "line 1"),
        ];
        for (how, content, place) in tampered {
            std::fs::write(&path, content).unwrap();
            let error = read_audit(&path).unwrap_err().to_string();
            assert!(error.contains(place), "{how}: {error}");
            assert!(AuditLog::open(&path, 0).is_err(), "{how}");
        }
    }

    #[test]
    fn a_line_that_a_power_cut_tore_is_removed_and_that_is_said() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("audit.jsonl");
        let text = three_lines(&path);
        std::fs::write(&path, format!("{text}{{\"line\":4,")).unwrap();
        assert!(read_audit(&path).unwrap_err().to_string().contains("middle of a line"));
        drop(AuditLog::open(&path, 7).unwrap());
        let lines = read_audit(&path).unwrap();
        assert_eq!((lines.len(), &lines[3].event), (4, &AuditEvent::Repaired { bytes: 10 }));
    }

    #[test]
    fn times_are_calendar_dates() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_827_696), "2000-02-29T12:34:56Z");
        assert_eq!(utc(1_772_368_205), "2026-03-01T12:30:05Z");
        assert_eq!(utc(4_107_542_399), "2100-02-28T23:59:59Z");
    }
}
