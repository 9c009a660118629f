//! The round state machine: `select -> publish -> updates -> quorum and deadline -> seal -> aggregate -> commit or
//! fail -> next`.
//!
//! It takes time as an argument (a duration since any fixed point, the same for the whole session), keeps no
//! adapter, does no I/O and holds no lock. The caller asks [`Session::advance`] what to do next, tells it about
//! updates and failures, and keeps the updates' content wherever it likes until the round is aggregated.
//!
//! Promises: a round ends when all sites have answered, or at its deadline; it commits if and only if the quorum was
//! accepted; one site's update counts at most once; what is late, double, stale or foreign gets an answer and
//! is never counted; after a failed round the session goes on from the old model.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::sampling::sample;
use crate::settings::SessionSettings;
use crate::task::UpdateMetrics;

/// What the caller has to do now.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Give `sites` the task of `round`, starting from the model `base_sha256`.
    Publish {
        /// Round, from 1.
        round: u32,
        /// Sites asked, in byte order.
        sites: Vec<String>,
        /// The global adapter to start from.
        base_sha256: String,
        /// When the round ends at the latest.
        deadline: Duration,
    },
    /// Fold these updates, in this order (site names in byte order), then call [`Session::commit`] or
    /// [`Session::abandon`].
    Aggregate {
        /// Round, from 1.
        round: u32,
        /// Who is counted.
        contributions: Vec<Contribution>,
    },
    /// The round failed and the old model stays.
    Failed(RoundRecord),
    /// Every round has ended.
    Finished,
}

/// An update as the machine sees it: everything but its content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Offer {
    /// The round that it answers.
    pub round: u32,
    /// The global adapter that it started from.
    pub base_sha256: String,
    /// Training rows behind it.
    pub examples: u64,
    /// Numbers for reports.
    pub metrics: UpdateMetrics,
}

/// An accepted update.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Contribution {
    /// The site.
    pub site: String,
    /// Training rows behind its update.
    pub examples: u64,
    /// Numbers for reports.
    pub metrics: UpdateMetrics,
}

/// What became of an offered update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It will be counted if the round commits.
    Accepted,
    /// It is not counted.
    Refused(Refusal),
}

/// Why an update is not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// The site's update of this round was accepted before; that one counts.
    Duplicate,
    /// Its round is sealed or over.
    Late,
    /// It started from another model than this round's.
    Stale,
    /// The site was not asked in this round, or is not part of the session.
    Foreign,
    /// Its round has not begun.
    Early,
    /// It claims no training rows.
    NoExamples,
}

impl Refusal {
    /// A fixed word for programs.
    pub fn code(self) -> &'static str {
        match self {
            Self::Duplicate => "duplicate",
            Self::Late => "late",
            Self::Stale => "stale",
            Self::Foreign => "foreign",
            Self::Early => "early",
            Self::NoExamples => "no_examples",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Duplicate => "an update of this site was accepted in this round already",
            Self::Late => "the round is over",
            Self::Stale => "the update starts from another model than this round's",
            Self::Foreign => "the site was not asked in this round",
            Self::Early => "the round has not begun",
            Self::NoExamples => "the update claims no training rows",
        })
    }
}

/// How a round ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoundRecord {
    /// Round, from 1.
    pub round: u32,
    /// Whether a new global model was made.
    pub committed: bool,
    /// Who was counted, in byte order of names; in a failed round who would have been.
    pub accepted: Vec<Contribution>,
    /// Why each other asked site was not, and under the empty name why the round as a whole failed.
    pub reasons: BTreeMap<String, String>,
    /// Time from publication to end.
    pub took: Duration,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Open {
    asked: Vec<String>,
    published: Duration,
    accepted: BTreeMap<String, Contribution>,
    failures: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Phase {
    Between,
    Open(Open),
    Sealed(Open),
}

/// A federated session: the rounds of one global model. It can be written down and read back at any moment; what
/// was pending is then announced again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Session {
    settings: SessionSettings,
    roster: Vec<String>,
    /// The open round, or the last one that ended; 0 before the first.
    round: u32,
    /// Rounds that made a new model.
    commits: u32,
    base_sha256: String,
    phase: Phase,
    /// Whether the caller has heard of the present phase.
    #[serde(skip)]
    announced: bool,
}

impl Session {
    /// A session of the sites in `roster`, starting from the model `base_sha256`.
    pub fn new(settings: SessionSettings, mut roster: Vec<String>, base_sha256: String) -> Self {
        roster.sort_unstable();
        roster.dedup();
        Self { settings, roster, round: 0, commits: 0, base_sha256, phase: Phase::Between, announced: false }
    }

    /// The open round, or the last one that ended; 0 before the first.
    pub fn round(&self) -> u32 {
        self.round
    }

    /// Rounds that made a new model.
    pub fn commits(&self) -> u32 {
        self.commits
    }

    /// The present global adapter's SHA-256.
    pub fn base_sha256(&self) -> &str {
        &self.base_sha256
    }

    /// Whether no round is under way: the moment to write the session down, or to pause it.
    pub fn is_between_rounds(&self) -> bool {
        self.phase == Phase::Between
    }

    /// Whether every round has ended.
    pub fn is_finished(&self) -> bool {
        self.is_between_rounds() && self.round >= self.settings.rounds
    }

    /// Whether `site` was asked in the open round and has neither sent an update nor failed.
    pub fn awaits(&self, site: &str) -> bool {
        self.awaited().any(|name| name == site)
    }

    /// The sites of the open round that have neither sent an update nor failed, in byte order.
    pub fn awaited(&self) -> impl Iterator<Item = &str> {
        let open = match &self.phase {
            Phase::Open(open) => Some(open),
            _ => None,
        };
        open.into_iter().flat_map(|open| {
            let answered =
                |site: &&String| open.accepted.contains_key(*site) || open.failures.contains_key(*site);
            open.asked.iter().filter(move |site| !answered(site)).map(String::as_str)
        })
    }

    /// The sites of the open round whose update has been accepted, in byte order.
    pub fn arrived(&self) -> impl Iterator<Item = &str> {
        let open = match &self.phase {
            Phase::Open(open) => Some(open),
            _ => None,
        };
        open.into_iter().flat_map(|open| open.accepted.keys().map(String::as_str))
    }

    /// Sites of the session, in byte order.
    pub fn roster(&self) -> &[String] {
        &self.roster
    }

    /// Lets [`Session::advance`] say again what it has said of the present phase, as after a restart.
    pub fn announce_again(&mut self) {
        self.announced = false;
    }

    /// Gives the open round its whole time again, after a pause that was nobody's fault.
    pub fn restart_deadline(&mut self, now: Duration) {
        if let Phase::Open(open) = &mut self.phase {
            open.published = now;
        }
    }

    /// When the open round began, if one is open.
    pub fn opened(&self) -> Option<Duration> {
        match &self.phase {
            Phase::Open(open) => Some(open.published),
            _ => None,
        }
    }

    /// When the open round ends at the latest; `None` when none is open.
    pub fn deadline(&self) -> Option<Duration> {
        match &self.phase {
            Phase::Open(open) => Some(self.deadline_of(open)),
            _ => None,
        }
    }

    fn deadline_of(&self, open: &Open) -> Duration {
        let limit = Duration::try_from_secs_f64(self.settings.deadline_s).unwrap_or(Duration::MAX);
        open.published.saturating_add(limit)
    }

    /// Moves on as far as `now` allows and says what to do. Call it after every change and at the deadline, until it
    /// returns `None`, which means: wait.
    pub fn advance(&mut self, now: Duration) -> Option<Action> {
        match &self.phase {
            Phase::Between if self.round >= self.settings.rounds => self.announce_once(Action::Finished),
            Phase::Between => Some(self.open(now)),
            Phase::Open(open) if self.is_complete(open) || now >= self.deadline_of(open) => self.seal(now),
            Phase::Open(open) => {
                let publish = self.publication(open);
                self.announce_once(publish)
            }
            Phase::Sealed(open) => {
                let contributions = open.accepted.values().cloned().collect();
                self.announce_once(Action::Aggregate { round: self.round, contributions })
            }
        }
    }

    fn announce_once(&mut self, action: Action) -> Option<Action> {
        (!std::mem::replace(&mut self.announced, true)).then_some(action)
    }

    fn open(&mut self, now: Duration) -> Action {
        self.round += 1;
        let count = self.settings.sites_per_round.unwrap_or(self.roster.len());
        let open = Open {
            asked: sample(&self.roster, count, self.settings.seed, self.round),
            published: now,
            accepted: BTreeMap::new(),
            failures: BTreeMap::new(),
        };
        let publish = self.publication(&open);
        self.phase = Phase::Open(open);
        self.announced = true;
        publish
    }

    fn publication(&self, open: &Open) -> Action {
        Action::Publish {
            round: self.round,
            sites: open.asked.clone(),
            base_sha256: self.base_sha256.clone(),
            deadline: self.deadline_of(open),
        }
    }

    /// Every asked site has sent an update or has failed.
    fn is_complete(&self, open: &Open) -> bool {
        open.asked.iter().all(|site| open.accepted.contains_key(site) || open.failures.contains_key(site))
    }

    fn seal(&mut self, now: Duration) -> Option<Action> {
        let Phase::Open(open) = std::mem::replace(&mut self.phase, Phase::Between) else {
            return None;
        };
        if open.accepted.len() < self.settings.quorum.max(1) {
            let reason =
                format!("{} of {} needed updates arrived", open.accepted.len(), self.settings.quorum);
            return Some(Action::Failed(self.end(now, open, Some(reason))));
        }
        self.phase = Phase::Sealed(open);
        self.announced = false;
        self.advance(now)
    }

    /// An update of `site` (an identity proven by the transport, never a field of the message) has come and its
    /// content was found valid.
    pub fn offer(&mut self, now: Duration, site: &str, offer: &Offer) -> Answer {
        let deadline = self.deadline();
        match self.judge(now, deadline, site, offer) {
            Err(refusal) => Answer::Refused(refusal),
            Ok(open) => {
                open.failures.remove(site);
                let contribution =
                    Contribution { site: site.into(), examples: offer.examples, metrics: offer.metrics };
                open.accepted.insert(site.into(), contribution);
                Answer::Accepted
            }
        }
    }

    fn judge(
        &mut self,
        now: Duration,
        deadline: Option<Duration>,
        site: &str,
        offer: &Offer,
    ) -> Result<&mut Open, Refusal> {
        if !self.roster.iter().any(|known| known == site) {
            return Err(Refusal::Foreign);
        }
        if offer.round > self.round {
            return Err(Refusal::Early);
        }
        if offer.round < self.round || deadline.is_none_or(|deadline| now >= deadline) {
            return Err(Refusal::Late);
        }
        let Phase::Open(open) = &mut self.phase else { return Err(Refusal::Late) };
        if !open.asked.iter().any(|asked| asked == site) {
            return Err(Refusal::Foreign);
        }
        if offer.base_sha256 != self.base_sha256 {
            return Err(Refusal::Stale);
        }
        if open.accepted.contains_key(site) {
            return Err(Refusal::Duplicate);
        }
        if offer.examples == 0 {
            return Err(Refusal::NoExamples);
        }
        Ok(open)
    }

    /// `site` will send nothing in `round`, for `reason`. Others are not touched; an update that was accepted before
    /// stays, and a site that recovers may still send one while the round is open.
    pub fn fail(&mut self, round: u32, site: &str, reason: &str) {
        if round == self.round
            && let Phase::Open(open) = &mut self.phase
            && open.asked.iter().any(|asked| asked == site)
            && !open.accepted.contains_key(site)
        {
            open.failures.insert(site.into(), reason.into());
        }
    }

    /// The sealed round's updates became the model `model_sha256`. `None` when no round is sealed.
    pub fn commit(&mut self, now: Duration, model_sha256: String) -> Option<RoundRecord> {
        let open = self.take_sealed()?;
        self.base_sha256 = model_sha256;
        self.commits += 1;
        Some(self.end(now, open, None))
    }

    /// The sealed round's updates could not be aggregated, for `reason`; the old model stays. `None` when no round is
    /// sealed.
    pub fn abandon(&mut self, now: Duration, reason: &str) -> Option<RoundRecord> {
        let open = self.take_sealed()?;
        Some(self.end(now, open, Some(reason.into())))
    }

    fn take_sealed(&mut self) -> Option<Open> {
        match std::mem::replace(&mut self.phase, Phase::Between) {
            Phase::Sealed(open) => Some(open),
            other => {
                self.phase = other;
                None
            }
        }
    }

    /// Leaves the round; `failure` is why there is no new model.
    fn end(&mut self, now: Duration, open: Open, failure: Option<String>) -> RoundRecord {
        self.announced = false;
        let mut reasons = open.failures;
        for site in open.asked {
            if !open.accepted.contains_key(&site) {
                reasons.entry(site).or_insert_with(|| "nothing arrived before the deadline".into());
            }
        }
        let committed = failure.is_none();
        reasons.extend(failure.map(|reason| (String::new(), reason)));
        RoundRecord {
            round: self.round,
            committed,
            accepted: open.accepted.into_values().collect(),
            reasons,
            took: now.saturating_sub(open.published),
        }
    }
}

#[cfg(test)]
mod tests;
