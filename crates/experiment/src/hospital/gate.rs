//! The door between a hospital and its session: the plan and every task go through the policy, and what was decided,
//! asked and sent goes into the audit log.

use consilium_core::{Adapter, Event, Sink, StopFlag, npz};
use consilium_federation::{Answer, Task, Transport, TransportError, Update};

use super::audit::{AuditEvent, AuditLog};
use super::plan::SitePlan;
use super::policy::{Policy, PolicyRefusal};
use crate::error::ExperimentError;

/// A plan that the policy has let in, and the log of what happens under it.
pub struct Gate<'a> {
    plan: &'a SitePlan,
    policy: &'a Policy,
    training_rows: usize,
    audit: AuditLog,
    clock: &'a dyn Fn() -> u64,
}

impl<'a> Gate<'a> {
    /// Lets `plan` in for a site with `training_rows` rows to train on, or refuses it; `audit` hears of it either way.
    /// `clock` tells the time, seconds since 1970 UTC.
    ///
    /// # Errors
    /// [`ExperimentError::Config`] for a plan that makes no sense, [`ExperimentError::Refused`] with the policy's limit,
    /// [`ExperimentError::Io`] for a log that cannot be written.
    pub fn open(
        plan: &'a SitePlan,
        policy: &'a Policy,
        training_rows: usize,
        audit: AuditLog,
        clock: &'a dyn Fn() -> u64,
    ) -> Result<Self, ExperimentError> {
        plan.validate()?;
        let mut gate = Self { plan, policy, training_rows, audit, clock };
        let checked = policy.check_plan(plan, training_rows);
        gate.log(AuditEvent::Plan {
            plan_sha256: plan.sha256(),
            model: plan.model_id.clone(),
            training_rows,
            allowed: checked.is_ok(),
            reason: checked.as_ref().err().map(ToString::to_string),
        })?;
        checked?;
        Ok(gate)
    }

    /// The plan that was let in.
    pub fn plan(&self) -> &'a SitePlan {
        self.plan
    }

    /// Training rows that it was let in for.
    pub fn training_rows(&self) -> usize {
        self.training_rows
    }

    /// Whether the policy lets the coordinator hear this site's scores. The answer is logged: ask only to act on it.
    ///
    /// # Errors
    /// [`ExperimentError::Io`] for a log that cannot be written.
    pub fn share_scores(&mut self) -> Result<bool, ExperimentError> {
        self.log(AuditEvent::Scores { shared: self.policy.share_scores })?;
        Ok(self.policy.share_scores)
    }

    /// SHA-256 of the audit log's last line.
    pub fn audit_head(&self) -> &str {
        self.audit.head()
    }

    pub(super) fn log(&mut self, event: AuditEvent) -> Result<(), ExperimentError> {
        self.audit.append((self.clock)(), event)
    }

    fn admit(&mut self, task: &Task) -> Result<Result<(), PolicyRefusal>, ExperimentError> {
        let checked = self.policy.check(self.plan, task, self.training_rows);
        self.log(AuditEvent::Task {
            round: task.round,
            base_sha256: task.base_sha256.clone(),
            allowed: checked.is_ok(),
            reason: checked.as_ref().err().map(ToString::to_string),
        })?;
        Ok(checked)
    }
}

/// What the coordinator said to an update that an earlier run of the program had left unanswered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LateAnswer {
    /// Round of the update.
    pub round: u32,
    /// Why it does not count, if it does not.
    pub refused: Option<String>,
}

/// A transport seen through the gate: a refused task is answered here and never reaches the site's work, and what
/// cannot be logged is not sent.
pub(super) struct Guarded<'g, 'a> {
    pub gate: &'g mut Gate<'a>,
    pub inner: &'g mut dyn Transport,
    pub late_answers: &'g mut dyn FnMut() -> Vec<LateAnswer>,
    pub site: &'g str,
    pub sink: &'g dyn Sink,
    pub stop: &'g StopFlag,
    /// Why it broke off, when that was not the connection.
    pub failed: Option<ExperimentError>,
}

impl Guarded<'_, '_> {
    /// A site that is stopped says nothing more: its round goes on when it comes back.
    fn unless_stopped(&self) -> Result<(), TransportError> {
        if self.stop.is_raised() { Err(TransportError("stopped".into())) } else { Ok(()) }
    }

    fn log(&mut self, event: AuditEvent) -> Result<(), TransportError> {
        let logged = self.gate.log(event);
        self.kept(logged)
    }

    fn kept<T>(&mut self, result: Result<T, ExperimentError>) -> Result<T, TransportError> {
        result.map_err(|error| {
            let lost = TransportError(error.to_string());
            self.failed = Some(error);
            lost
        })
    }

    fn tell(&self, round: u32, refused: Option<String>, update: Option<(&Update, u64)>) {
        let metrics = update.map(|(update, _)| update.metrics).unwrap_or_default();
        self.sink.record(&Event::SiteRound {
            round,
            site: self.site.into(),
            accepted: refused.is_none(),
            reason: refused,
            examples: update.map_or(0, |(update, _)| update.examples),
            train_loss: metrics.train_loss,
            seconds: metrics.seconds,
            bytes_up: update.map_or(0, |(_, bytes)| bytes),
        });
    }
}

impl Transport for Guarded<'_, '_> {
    fn next_task(&mut self) -> Result<Option<Task>, TransportError> {
        loop {
            self.unless_stopped()?;
            let next = self.inner.next_task();
            for LateAnswer { round, refused } in (self.late_answers)() {
                self.log(AuditEvent::Answer { round, accepted: refused.is_none(), reason: refused })?;
            }
            let Some(task) = next? else { return Ok(None) };
            let admitted = self.gate.admit(&task);
            match self.kept(admitted)? {
                Ok(()) => return Ok(Some(task)),
                Err(refusal) => self.report_failure(task.round, &refusal.to_string())?,
            }
        }
    }

    fn fetch(&mut self, task: &Task) -> Result<Adapter, TransportError> {
        self.inner.fetch(task)
    }

    fn send(&mut self, update: Update) -> Result<Answer, TransportError> {
        let round = update.round;
        self.log(AuditEvent::Update {
            round,
            adapter_sha256: update.adapter.sha256(),
            examples: update.examples,
            train_loss: update.metrics.train_loss,
        })?;
        let answer = self.inner.send(update.clone())?;
        let refused = match answer {
            Answer::Accepted => None,
            Answer::Refused(refusal) => Some(refusal.to_string()),
        };
        self.log(AuditEvent::Answer { round, accepted: refused.is_none(), reason: refused.clone() })?;
        let bytes = npz::encode(&update.adapter).len() as u64;
        self.tell(round, refused, Some((&update, bytes)));
        Ok(answer)
    }

    fn report_failure(&mut self, round: u32, reason: &str) -> Result<(), TransportError> {
        self.unless_stopped()?;
        self.log(AuditEvent::Failure { round, reason: reason.into() })?;
        self.inner.report_failure(round, reason)?;
        self.tell(round, Some(reason.into()), None);
        Ok(())
    }
}
