//! Updates on their way in: bounded while they arrive, checked whole, durable before they are acknowledged.

use std::time::Instant;

use consilium_core::hash::sha256_hex;
use consilium_core::{AdapterError, npz};
use consilium_federation::{Answer, Offer, Refusal, UpdateMetrics};

use super::blobs::is_sha256;
use super::core::{Core, Inner, Principal};
use super::metrics::Timed;
use super::sessions::is_for;
use super::store::{Deed, SessionRow, Status, UpdateRow};
use crate::error::NetError;

/// A complete upload offered as an update.
#[derive(Clone, Debug, PartialEq)]
pub struct Submission {
    /// Id of the session.
    pub session: String,
    /// Round, from 1.
    pub round: u32,
    /// SHA-256 of the adapter that training started from.
    pub base_sha256: String,
    /// SHA-256 of the archive.
    pub archive_sha256: String,
    /// Training rows behind the update.
    pub examples: u64,
    /// Numbers for reports.
    pub metrics: UpdateMetrics,
}

/// What became of a submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Durable, and counted if the round commits.
    Accepted,
    /// An update of this site was accepted before.
    Duplicate,
    /// The round is over.
    Late,
    /// Not counted.
    Rejected {
        /// A fixed word for programs.
        reason: &'static str,
        /// A sentence for people.
        detail: String,
    },
}

impl Outcome {
    /// The word for it: `accepted`, `duplicate`, `late`, or the reason.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Duplicate => "duplicate",
            Self::Late => "late",
            Self::Rejected { reason, .. } => reason,
        }
    }

    fn rejected(reason: &'static str, detail: impl ToString) -> Self {
        Self::Rejected { reason, detail: detail.to_string() }
    }
}

impl From<Refusal> for Outcome {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Duplicate => Self::Duplicate,
            Refusal::Late => Self::Late,
            other => Self::rejected(other.code(), other),
        }
    }
}

/// The fixed word for what is wrong with an archive.
fn word(error: &AdapterError) -> &'static str {
    match error {
        AdapterError::NotFinite { .. } => "not_finite",
        AdapterError::Length { .. } | AdapterError::Shape { .. } => "shape",
        AdapterError::Missing { .. } | AdapterError::Unexpected { .. } | AdapterError::Duplicate { .. } => {
            "tensors"
        }
        AdapterError::Format { .. } => "format",
    }
}

/// Rows of the audit log that the refusals of one site in one round may take.
const AUDITED_REFUSALS: u32 = 16;

fn upload_id(site: &str, session: &str, round: u32, archive_sha256: &str) -> String {
    // JSON keeps the parts apart. One file for each content: a resumed upload finds what has arrived.
    let named = serde_json::json!([site, session, round, archive_sha256]).to_string();
    sha256_hex(named.as_bytes())
}

impl Core {
    /// Opens an upload, or finds the one that broke off: its id and the bytes that are here.
    ///
    /// # Errors
    /// [`NetError::Invalid`] for a size that no adapter of this session can have, [`NetError::Denied`], or a storage
    /// error.
    pub fn begin_upload(
        &self,
        by: &Principal,
        session: &str,
        round: u32,
        archive_sha256: &str,
        bytes: u64,
    ) -> Result<(String, u64), NetError> {
        if !is_sha256(archive_sha256) {
            return Err(NetError::Invalid("archive_sha256 must be 64 lower-case hexadecimal digits".into()));
        }
        let mut inner = self.enter();
        let live = inner.live(session)?;
        if !is_for(&live.row, &by.name) {
            return Err(NetError::Denied(format!("{} is not part of this session", by.name)));
        }
        let limit = live.row.spec.archive_limit();
        if bytes == 0 || bytes > limit {
            let detail =
                format!("an archive of {bytes} bytes; one of this session's adapter has 1 to {limit}");
            let rejected = Outcome::rejected("size", &detail);
            self.note_refusal(&mut inner, by, session, round, &rejected, true)?;
            return Err(NetError::Invalid(detail));
        }
        let id = upload_id(&by.name, session, round, archive_sha256);
        let known = inner.store.updates(session, round)?;
        if known.iter().any(|update| update.site == by.name && update.archive == archive_sha256) {
            return Ok((id, bytes));
        }
        let before = inner.uploads.insert(by.name.clone(), (id.clone(), bytes));
        drop(inner);
        // One half-sent upload a site: the disk that strangers can fill is bounded.
        if let Some((old, _)) = before.filter(|(old, _)| *old != id) {
            self.blobs.discard(&old)?;
        }
        Ok((id.clone(), self.blobs.received(&id)?))
    }

    /// Adds bytes to an upload that this site has begun; returns the bytes that are here.
    ///
    /// # Errors
    /// [`NetError::NotFound`] for an upload that was not begun since the server's start, [`NetError::Invalid`] for a gap
    /// or more bytes than announced, or a storage error.
    pub fn upload(&self, by: &Principal, id: &str, offset: u64, data: &[u8]) -> Result<u64, NetError> {
        let limit = match self.enter().uploads.get(&by.name) {
            Some((open, bytes)) if open == id => *bytes,
            _ => return Err(NetError::NotFound { what: "open upload", name: id.to_owned() }),
        };
        let received = self.blobs.append(id, offset, data, limit)?;
        self.metrics.count(|counters| counters.bytes_in += data.len() as u64);
        Ok(received)
    }

    /// Judges a complete upload. An accepted one is durable when this returns.
    ///
    /// # Errors
    /// [`NetError::NotFound`], or a storage error: then nothing is acknowledged and the site must ask again.
    pub fn submit(&self, by: &Principal, submission: &Submission) -> Result<Outcome, NetError> {
        if let Some(reason) = self.failure() {
            return Err(NetError::StoreDown(reason));
        }
        let started = Instant::now();
        let outcome = self.judge(by, submission)?;
        self.metrics.observe(Timed::Submit, started.elapsed());
        self.metrics.count(|counters| *counters.updates.entry(outcome.word()).or_default() += 1);
        let mut inner = self.enter();
        if let Outcome::Rejected { reason, .. } = &outcome {
            // Damage on the way is mended by sending again; everything else would come back the same.
            let final_word = *reason != "archive_hash";
            self.note_refusal(&mut inner, by, &submission.session, submission.round, &outcome, final_word)?;
        }
        drop(inner);
        self.stir();
        Ok(outcome)
    }

    fn judge(&self, by: &Principal, submission: &Submission) -> Result<Outcome, NetError> {
        let offer = Offer {
            round: submission.round,
            base_sha256: submission.base_sha256.clone(),
            examples: submission.examples,
            metrics: submission.metrics,
        };
        let spec = {
            let inner = self.enter();
            let live = inner.live(&submission.session)?;
            // The round may be over since it was accepted: its site must hear that it counted, not that it came late.
            let known = inner.store.updates(&submission.session, submission.round)?;
            let same =
                |update: &UpdateRow| update.site == by.name && update.archive == submission.archive_sha256;
            if known.iter().any(same) {
                return Ok(Outcome::Duplicate);
            }
            // Asked before the archive is read: most refusals need no look at it.
            if let Some(refused) = would_refuse(&live.row, by, &offer, self.now()) {
                return Ok(refused);
            }
            live.row.spec.clone()
        };
        if submission.examples > self.settings.max_examples {
            let most = self.settings.max_examples;
            let detail =
                format!("{} training rows claimed, at most {most} are believed", submission.examples);
            return Ok(Outcome::rejected("examples", detail));
        }
        let metrics = &submission.metrics;
        if !(metrics.train_loss.is_finite() && metrics.seconds.is_finite()) {
            return Ok(Outcome::rejected("metrics", "train_loss and seconds must be finite"));
        }
        let id = upload_id(&by.name, &submission.session, submission.round, &submission.archive_sha256);
        let archive = match self.blobs.whole(&id, &submission.archive_sha256) {
            Ok(archive) => archive,
            Err(NetError::Invalid(detail)) => {
                self.blobs.discard(&id)?;
                return Ok(Outcome::rejected("archive_hash", detail));
            }
            Err(NetError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Outcome::rejected("archive_hash", "no such upload is here; send it again"));
            }
            Err(error) => return Err(error),
        };
        let checked =
            npz::decode(&archive, &spec.schema).map_err(|error| Outcome::rejected(word(&error), error));
        let checked = checked.and_then(|adapter| {
            let most = self.settings.max_magnitude;
            match adapter.flat().find(|value| value.abs() > most) {
                Some(value) => {
                    Err(Outcome::rejected("magnitude", format!("a value of {value}, at most {most}")))
                }
                None => Ok(()),
            }
        });
        if let Err(rejected) = checked {
            self.blobs.discard(&id)?;
            return Ok(rejected);
        }
        self.blobs.keep(&id, &submission.archive_sha256)?;
        self.accept(by, submission, &offer, archive.len() as u64)
    }

    fn accept(
        &self,
        by: &Principal,
        submission: &Submission,
        offer: &Offer,
        bytes: u64,
    ) -> Result<Outcome, NetError> {
        let (now, site) = (self.now(), &by.name);
        let words = serde_json::json!({
            "session": submission.session, "round": submission.round, "archive": submission.archive_sha256,
            "bytes": bytes, "examples": submission.examples,
        });
        let deed = Deed { at: now, actor: site, action: "update_accepted", detail: words.to_string() };
        let mut inner = self.enter();
        if let Some(refused) = would_refuse(&inner.live(&submission.session)?.row, by, offer, now) {
            return Ok(refused);
        }
        // Another session may have forgotten the same content since it was kept.
        if !self.blobs.has(&submission.archive_sha256) {
            return Ok(Outcome::rejected("archive_hash", "the upload is no longer here; send it again"));
        }
        let update = UpdateRow {
            session: submission.session.clone(),
            round: submission.round,
            site: site.clone(),
            archive: submission.archive_sha256.clone(),
            bytes,
        };
        inner.change_session(
            &submission.session,
            &deed,
            |row| {
                let machine = row.machine.as_mut();
                match machine.map(|machine| machine.offer(now, site, offer)) {
                    Some(Answer::Accepted) => Ok(()),
                    _ => Err(NetError::Internal("the round changed under its lock".into())),
                }
            },
            |transaction, ()| update.insert(transaction, now),
        )?;
        Ok(Outcome::Accepted)
    }

    /// Writes a refusal down, and, where repeating will not mend it, stops waiting for the site in this round.
    fn note_refusal(
        &self,
        inner: &mut Inner,
        by: &Principal,
        session: &str,
        round: u32,
        outcome: &Outcome,
        final_word: bool,
    ) -> Result<(), NetError> {
        let Outcome::Rejected { reason, detail } = outcome else { return Ok(()) };
        let noted = inner.refusals.entry((session.to_owned(), round, by.name.clone())).or_default();
        *noted += 1;
        if *noted > AUDITED_REFUSALS {
            return Ok(());
        }
        let detail = crate::words::shortened(detail);
        let words =
            serde_json::json!({ "session": session, "round": round, "reason": reason, "detail": detail });
        let deed =
            Deed { at: self.now(), actor: &by.name, action: "update_rejected", detail: words.to_string() };
        let fail = |row: &mut SessionRow| {
            if let Some(machine) = row.machine.as_mut().filter(|_| final_word) {
                machine.fail(round, &by.name, &format!("rejected, {reason}: {detail}"));
            }
            Ok(())
        };
        inner.change_session(session, &deed, fail, |_, ()| Ok(()))
    }
}

/// What the round machine would say, without telling it.
fn would_refuse(
    row: &SessionRow,
    by: &Principal,
    offer: &Offer,
    now: std::time::Duration,
) -> Option<Outcome> {
    if row.status != Status::Running {
        return Some(Outcome::Late);
    }
    let mut machine = row.machine.clone()?;
    match machine.offer(now, &by.name, offer) {
        Answer::Accepted => None,
        Answer::Refused(refusal) => Some(refusal.into()),
    }
}
