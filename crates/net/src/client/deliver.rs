//! One update on its way out: an upload that goes on where it broke off, then the offer, until the server answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use consilium_federation::{Answer, Refusal};
use tonic::Code;

use super::ClientEvent;
use super::account::{ANSWER_LIMIT, Account};
use super::link::{Failed, Patience, while_moving};
use super::outbox::Head;
use crate::error::NetError;
use crate::proto::{self, Outcome};

/// Bytes of a piece of an upload.
pub(super) const PIECE: usize = 256 * 1024;
/// Longest time in which no piece leaves.
const STALLED: Duration = Duration::from_secs(60);
/// Longest wait for the judgement of an update: the server reads it, checks it and waits for its disk.
const JUDGEMENT_LIMIT: Duration = Duration::from_secs(120);
/// Uploads from zero, when the bytes arrive damaged.
const TRIES: u32 = 3;
/// Times that the server may forget an upload in a row: a restart forgets it once, more is another fault.
const FORGOTTEN: u32 = 10;

/// What became of an update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    /// An answer that a round machine gives.
    Answered(Answer),
    /// The server found something wrong with the update itself.
    Rejected {
        /// A fixed word.
        reason: String,
        /// A sentence.
        detail: String,
    },
}

impl Delivery {
    /// What became of it, for people.
    pub fn words(&self) -> String {
        match self {
            Self::Answered(Answer::Accepted) => "accepted".into(),
            Self::Answered(Answer::Refused(refusal)) => format!("{}: {refusal}", refusal.code()),
            Self::Rejected { reason, detail } => format!("{reason}: {detail}"),
        }
    }
}

fn refusal(reason: &str) -> Option<Refusal> {
    use Refusal::{Duplicate, Early, Foreign, Late, NoExamples, Stale};
    [Duplicate, Late, Stale, Foreign, Early, NoExamples].into_iter().find(|known| known.code() == reason)
}

/// Reads the server's answer. A duplicate of an offer whose answer may have been lost is that very offer, accepted.
fn judged(answer: proto::SubmitResponse, may_be_known: bool) -> Result<Delivery, NetError> {
    let shortened = crate::words::shortened;
    Ok(match answer.outcome() {
        Outcome::Accepted => Delivery::Answered(Answer::Accepted),
        Outcome::Duplicate if may_be_known => Delivery::Answered(Answer::Accepted),
        Outcome::Duplicate => Delivery::Answered(Answer::Refused(Refusal::Duplicate)),
        Outcome::Late => Delivery::Answered(Answer::Refused(Refusal::Late)),
        Outcome::Rejected => match refusal(&answer.reason) {
            Some(refusal) => Delivery::Answered(Answer::Refused(refusal)),
            None => {
                Delivery::Rejected { reason: shortened(&answer.reason), detail: shortened(&answer.detail) }
            }
        },
        Outcome::Unspecified => {
            return Err(NetError::Protocol(format!("an unknown outcome, {}", answer.outcome)));
        }
    })
}

/// Delivers one update. `may_be_known`: whether it may have been offered before, by an earlier run of the program.
pub(super) fn deliver(
    account: &Account,
    head: &Head,
    archive: Vec<u8>,
    mut may_be_known: bool,
) -> Result<Delivery, Failed> {
    let archive = Arc::new(archive);
    let mut tries = 1;
    loop {
        let upload_id = match upload(account, head, &archive)? {
            Ok(upload_id) => upload_id,
            Err(rejected) => return Ok(rejected),
        };
        let delivery = judged(submit(account, head, upload_id, &mut may_be_known)?, may_be_known)?;
        match delivery {
            Delivery::Rejected { reason, .. } if reason == "archive_hash" && tries < TRIES => tries += 1,
            delivery => return Ok(delivery),
        }
    }
}

fn submit(
    account: &Account,
    head: &Head,
    upload_id: String,
    may_be_known: &mut bool,
) -> Result<proto::SubmitResponse, Failed> {
    let metrics = head.metrics();
    let request = proto::SubmitRequest {
        session_id: head.session.clone(),
        round: head.round,
        base_sha256: head.base_sha256.clone(),
        upload_id,
        archive_sha256: head.archive_sha256.clone(),
        examples: head.examples,
        metrics: Some(proto::UpdateMetrics {
            train_loss: metrics.train_loss,
            steps: metrics.steps,
            tokens: metrics.tokens,
            seconds: metrics.seconds,
        }),
    };
    account.link.patiently(|| {
        let asked = account.call_once(JUDGEMENT_LIMIT, &request, |mut client, request| async move {
            client.submit(request).await
        });
        *may_be_known |= matches!(asked, Err(Failed::Lost(_)));
        asked
    })
}

/// Brings the whole archive to the server and returns the upload's id, or what the server has against it.
fn upload(
    account: &Account,
    head: &Head,
    archive: &Arc<Vec<u8>>,
) -> Result<Result<String, Delivery>, Failed> {
    let request = proto::BeginUploadRequest {
        session_id: head.session.clone(),
        round: head.round,
        archive_sha256: head.archive_sha256.clone(),
        bytes: head.bytes,
    };
    let (mut patience, mut forgotten, mut furthest) = (Patience::default(), 0, 0);
    let (sent, mut told) = (Arc::new(AtomicU64::new(0)), 0);
    loop {
        let begun: Result<proto::UploadState, Failed> =
            account.call(ANSWER_LIMIT, &request, |mut client, request| async move {
                client.begin_upload(request).await
            });
        let state = match begun {
            Err(Failed::Refused(Code::InvalidArgument, detail)) => {
                return Ok(Err(Delivery::Rejected { reason: "size".into(), detail }));
            }
            begun => begun?,
        };
        if state.received >= head.bytes {
            return Ok(Ok(state.upload_id));
        }
        if state.received > 0 {
            account.link.tell(ClientEvent::ResumedUpload { round: head.round, offset: state.received });
        }
        if state.received > furthest {
            (patience, forgotten, furthest) = (Patience::default(), 0, state.received);
        }
        let uploaded =
            account.renewing(|| send_from(account, &state.upload_id, archive, state.received, &sent));
        match uploaded {
            Ok(now) => {
                let total = sent.load(Ordering::Relaxed);
                account.link.tell(ClientEvent::Uploaded { round: head.round, bytes: total - told });
                told = total;
                if now.received >= head.bytes {
                    return Ok(Ok(state.upload_id));
                }
                // The server took less than everything without saying why.
                forgotten += 1;
            }
            Err(Failed::Lost(_)) => {}
            // Forgotten by a restart, or not where this side thinks it is: ask again where to go on.
            Err(Failed::Refused(Code::NotFound | Code::InvalidArgument, _)) if forgotten < FORGOTTEN => {
                forgotten += 1;
            }
            Err(failed) => return Err(failed),
        }
        if forgotten > FORGOTTEN {
            return Err(NetError::Protocol("the server does not keep the bytes of an upload".into()).into());
        }
        account.link.back_off(&mut patience)?;
    }
}

/// One attempt to send everything from `offset` on.
fn send_from(
    account: &Account,
    upload_id: &str,
    archive: &Arc<Vec<u8>>,
    offset: u64,
    sent: &Arc<AtomicU64>,
) -> Result<proto::UploadState, Failed> {
    let wire = account.link.wire.clone();
    let first = usize::try_from(offset).unwrap_or(usize::MAX).min(archive.len());
    let pieces = {
        let (wire, sent, archive, upload_id) =
            (wire.clone(), sent.clone(), archive.clone(), upload_id.to_owned());
        (first..archive.len()).step_by(PIECE).map(move |from| {
            let data = archive[from..archive.len().min(from + PIECE)].to_vec();
            sent.fetch_add(data.len() as u64, Ordering::Relaxed);
            let chunk = proto::UploadChunk { upload_id: upload_id.clone(), offset: from as u64, data };
            wire.up(&chunk);
            chunk
        })
    };
    let request = account.signed(tokio_stream::iter(pieces))?;
    let mut client = account.link.client();
    let state = account.link.run(while_moving(STALLED, sent, client.upload(request)))?.into_inner();
    wire.down(&state);
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(outcome: Outcome, reason: &str) -> proto::SubmitResponse {
        proto::SubmitResponse { outcome: outcome.into(), reason: reason.into(), detail: "because".into() }
    }

    #[test]
    fn every_answer_has_its_meaning() {
        let judge = |outcome, reason| judged(answer(outcome, reason), false).unwrap();
        assert_eq!(judge(Outcome::Accepted, ""), Delivery::Answered(Answer::Accepted));
        let refused = |refusal| Delivery::Answered(Answer::Refused(refusal));
        assert_eq!(judge(Outcome::Duplicate, "duplicate"), refused(Refusal::Duplicate));
        assert_eq!(judge(Outcome::Late, "late"), refused(Refusal::Late));
        assert_eq!(judge(Outcome::Rejected, "stale"), refused(Refusal::Stale));
        assert_eq!(judge(Outcome::Rejected, "no_examples"), refused(Refusal::NoExamples));
        let other = judge(Outcome::Rejected, "not_finite");
        assert_eq!(other.words(), "not_finite: because");
        assert!(judged(answer(Outcome::Unspecified, ""), false).is_err());
    }

    #[test]
    fn a_duplicate_of_an_offer_whose_answer_was_lost_is_accepted() {
        let known = judged(answer(Outcome::Duplicate, "duplicate"), true).unwrap();
        assert_eq!(known, Delivery::Answered(Answer::Accepted));
    }
}
