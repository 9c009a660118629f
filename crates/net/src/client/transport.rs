//! A site's tasks over the network: asked for until one comes, believed only with the server's signature, answered
//! through the outbox.

use std::time::{Duration, Instant};

use consilium_core::Adapter;
use consilium_federation::{Answer, Task, Transport, TransportError, Update};

use super::ClientEvent;
use super::account::ANSWER_LIMIT;
use super::deliver::{Delivery, deliver};
use super::link::Failed;
use super::outbox::Head;
use super::remote::{AttendedSession, Ended, Remote};
use crate::error::NetError;
use crate::manifest::{self, Manifest};
use crate::proto::{self, next_task_response::Answer as Next};

/// How long the server may hold the question for a task, seconds.
pub(super) const WAIT_S: u32 = 20;
/// Longest wait for its answer.
const TASK_LIMIT: Duration = Duration::from_secs(WAIT_S as u64 + 10);
/// Least time from one question to the next.
const NEXT_QUESTION: Duration = Duration::from_secs(1);

impl From<NetError> for TransportError {
    fn from(error: NetError) -> Self {
        Self(error.to_string())
    }
}

impl From<Failed> for TransportError {
    fn from(failed: Failed) -> Self {
        NetError::from(failed).into()
    }
}

/// The manifest of `task`, if the server signed it for this site and session and it names the model at hand.
fn checked(
    task: &proto::Task,
    server_key: &[u8],
    session: &AttendedSession,
    site: &str,
) -> Result<(Manifest, proto::ModelRef), NetError> {
    let manifest = manifest::verify(server_key, &task.manifest, &task.signature)?;
    let untrusted = |what: &str, expected: &str, found: &str| {
        let found = crate::words::shortened(found);
        Err(NetError::Untrusted(format!("the round manifest is for {what} {found}, not {expected}")))
    };
    if manifest.site != site {
        return untrusted("site", site, &manifest.site);
    }
    if manifest.session != session.id {
        return untrusted("session", &session.id, &manifest.session);
    }
    let model = task.model.clone().unwrap_or_default();
    if model.archive_sha256 != manifest.archive_sha256 {
        return untrusted("the model", &model.archive_sha256, &manifest.archive_sha256);
    }
    if manifest.task.round == 0 || manifest.task.round > manifest.task.rounds {
        let Task { round, rounds, .. } = manifest.task;
        return Err(NetError::Protocol(format!("a task for round {round} of {rounds}")));
    }
    Ok((manifest, model))
}

impl Remote {
    /// Delivers what an earlier run of the program has left.
    fn empty_outbox(&self, session: &AttendedSession) -> Result<(), Failed> {
        let link = &self.account.link;
        let mut dropped = |what| link.tell(ClientEvent::Dropped { what });
        for (head, archive) in self.outbox.waiting(&session.id, &mut dropped)? {
            let delivery = deliver(&self.account, &head, archive, true)?;
            self.outbox.remove(&head)?;
            link.tell(ClientEvent::Delivered { round: head.round, outcome: delivery.words() });
        }
        Ok(())
    }

    fn wait_for_task(&self) -> Result<Option<Task>, Failed> {
        let session = self.attended()?;
        let request = proto::NextTaskRequest { session_id: session.id.clone(), wait_s: WAIT_S };
        let mut waiting_for = String::new();
        loop {
            // First what is finished: then the server never asks again for a training whose result lies here.
            self.empty_outbox(&session)?;
            let asked = Instant::now();
            let answer: proto::NextTaskResponse =
                self.account.call(TASK_LIMIT, &request, |mut client, request| async move {
                    client.next_task(request).await
                })?;
            match answer.answer {
                Some(Next::Task(task)) => {
                    let found = checked(&task, &self.account.server_key(), &session, &self.site())?;
                    let task = found.0.task.clone();
                    self.task.replace(Some(found));
                    return Ok(Some(task));
                }
                Some(Next::Finished(finished)) => {
                    let status = finished.status();
                    let proto::Finished { model, adapter_sha256, commits, .. } = finished;
                    let model = model.unwrap_or_default();
                    self.ended.replace(Some(Ended { status, commits, adapter_sha256, model }));
                    return Ok(None);
                }
                Some(Next::Wait(proto::Wait { why })) if why != waiting_for => {
                    self.account.link.tell(ClientEvent::Waiting { why: crate::words::shortened(&why) });
                    waiting_for = why;
                }
                Some(Next::Wait(_)) | None => {}
            }
            self.account.link.pause(NEXT_QUESTION.saturating_sub(asked.elapsed()))?;
        }
    }

    fn base_of(&self, task: &Task) -> Result<Adapter, Failed> {
        let session = self.attended()?;
        let held = self.task.borrow().clone();
        let held = held.filter(|(manifest, _)| manifest.task == *task);
        let (_, model) = held.ok_or_else(|| NetError::Invalid("this task is not the last one".into()))?;
        self.adapter(&session, &model, &task.base_sha256)
    }

    fn hand_in(&self, update: &Update) -> Result<Answer, TransportError> {
        let session = self.attended()?;
        let (head, archive) = Head::of(&session.id, update);
        self.outbox.put(&head, &archive)?;
        let delivery = deliver(&self.account, &head, archive, false)?;
        self.outbox.remove(&head)?;
        match delivery {
            Delivery::Answered(answer) => Ok(answer),
            rejected @ Delivery::Rejected { .. } => Err(TransportError(format!(
                "the server rejected the update of round {}: {}",
                update.round,
                rejected.words()
            ))),
        }
    }

    fn tell_failure(&self, round: u32, reason: &str) -> Result<(), Failed> {
        let reason = crate::words::shortened(reason);
        let request = proto::FailureReport { session_id: self.attended()?.id, round, reason };
        let _: proto::Acknowledgement =
            self.account.call(ANSWER_LIMIT, &request, |mut client, request| async move {
                client.report_failure(request).await
            })?;
        Ok(())
    }
}

impl Transport for &Remote {
    fn next_task(&mut self) -> Result<Option<Task>, TransportError> {
        Ok(self.wait_for_task()?)
    }

    fn fetch(&mut self, task: &Task) -> Result<Adapter, TransportError> {
        Ok(self.base_of(task)?)
    }

    fn send(&mut self, update: Update) -> Result<Answer, TransportError> {
        self.hand_in(&update)
    }

    fn report_failure(&mut self, round: u32, reason: &str) -> Result<(), TransportError> {
        Ok(self.tell_failure(round, reason)?)
    }
}

impl Transport for Remote {
    fn next_task(&mut self) -> Result<Option<Task>, TransportError> {
        (&*self).next_task()
    }

    fn fetch(&mut self, task: &Task) -> Result<Adapter, TransportError> {
        (&*self).fetch(task)
    }

    fn send(&mut self, update: Update) -> Result<Answer, TransportError> {
        (&*self).send(update)
    }

    fn report_failure(&mut self, round: u32, reason: &str) -> Result<(), TransportError> {
        (&*self).report_failure(round, reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{PROTOCOL, ServerKey};
    use crate::proto::SessionStatus;
    use crate::tests::task;

    #[test]
    fn only_a_task_signed_for_this_site_and_session_is_believed() {
        let folder = tempfile::tempdir().unwrap();
        let key = ServerKey::open(&folder.path().join("server.key")).unwrap();
        let other = ServerKey::open(&folder.path().join("other.key")).unwrap();
        let session = AttendedSession {
            id: "s".into(),
            name: "study".into(),
            plan: "{}".into(),
            schema: vec![("w".into(), vec![1])],
            roster: vec!["north".into()],
            status: SessionStatus::Running,
            seed: proto::ModelRef::default(),
        };
        let manifest = Manifest {
            protocol: PROTOCOL,
            session: "s".into(),
            site: "north".into(),
            roster: session.roster.clone(),
            deadline_ms: 1,
            task: task(1, "base"),
            archive_sha256: "a".into(),
        };
        let handed = |key: &ServerKey, manifest: &Manifest, archive: &str| {
            let (bytes, signature) = key.sign(manifest);
            let model = Some(proto::ModelRef { archive_sha256: archive.into(), bytes: 1 });
            proto::Task { manifest: bytes, signature, model, ..Default::default() }
        };
        let check = |task: &proto::Task| checked(task, &key.public(), &session, "north");
        assert_eq!(check(&handed(&key, &manifest, "a")).unwrap().0, manifest);
        let refused = [
            handed(&other, &manifest, "a"),
            handed(&key, &Manifest { site: "south".into(), ..manifest.clone() }, "a"),
            handed(&key, &Manifest { session: "t".into(), ..manifest.clone() }, "a"),
            handed(&key, &manifest, "b"),
            proto::Task { model: None, ..handed(&key, &manifest, "a") },
        ];
        for task in &refused {
            assert!(matches!(check(task), Err(NetError::Untrusted(_))));
        }
        let beyond = Manifest { task: Task { round: 9, ..task(1, "base") }, ..manifest.clone() };
        assert!(matches!(check(&handed(&key, &beyond, "a")), Err(NetError::Protocol(_))));
    }
}
