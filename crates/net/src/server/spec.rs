//! What a session is made of, as an operator orders it and as the database keeps it.

use consilium_core::adapter::Schema;
use consilium_federation::{LocalWork, ScheduleScope, SessionSettings, Task, Training, Weights};
use serde::{Deserialize, Serialize};

use crate::error::NetError;
use crate::limits;

/// Who takes part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Roster {
    /// These sites; the session begins when all of them have reported.
    Named(Vec<String>),
    /// The first so many sites that report.
    First(usize),
}

/// Everything about a session that does not change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionSpec {
    /// A name for people, unique on the server.
    pub name: String,
    /// What every site must do alike: JSON text that this crate carries without reading it.
    pub plan: String,
    /// Rounds, quorum, deadline, sampling and seed.
    pub settings: SessionSettings,
    /// How much each update counts.
    pub weights: Weights,
    /// How much a site trains in one round.
    pub work: LocalWork,
    /// What one learning-rate schedule spans.
    pub scope: ScheduleScope,
    /// How a site trains.
    pub training: Training,
    /// Who takes part.
    pub roster: Roster,
    /// Names and shapes of the adapter, in the order of its archive.
    pub schema: Schema,
}

/// Longest name of a site or a session, characters.
const LONGEST_NAME: usize = 64;

/// Checks a name of a site or session: it is shown on screens and stands in logs.
///
/// # Errors
/// [`NetError::Invalid`] with what is wrong.
pub fn check_name(what: &str, name: &str) -> Result<(), NetError> {
    let reason = if name.is_empty() {
        "is empty".to_owned()
    } else if name.chars().count() > LONGEST_NAME {
        format!("is longer than {LONGEST_NAME} characters")
    } else if name.trim() != name || name.chars().any(char::is_control) {
        "has control characters, or spaces at an end".to_owned()
    } else {
        return Ok(());
    };
    Err(NetError::Invalid(format!("the name {name:?} of a {what} {reason}")))
}

impl SessionSpec {
    /// Checks what can be checked before a site has reported.
    ///
    /// # Errors
    /// [`NetError::Invalid`] with the field and what it must be.
    pub fn check(&self) -> Result<(), NetError> {
        let refuse = |what: String| Err(NetError::Invalid(what));
        check_name("session", &self.name)?;
        let sites = match &self.roster {
            Roster::Named(names) => {
                for name in names {
                    check_name("site", name)?;
                }
                let mut distinct = names.clone();
                distinct.sort_unstable();
                distinct.dedup();
                if distinct.len() != names.len() {
                    return refuse("roster: a site is named twice".into());
                }
                names.len()
            }
            Roster::First(count) => *count,
        };
        if sites == 0 {
            return refuse("roster: a session needs at least one site".into());
        }
        if self.settings.rounds == 0 {
            return refuse("rounds: at least 1".into());
        }
        let asked = self.settings.sites_per_round.unwrap_or(sites);
        if self.settings.quorum == 0 || self.settings.quorum > asked {
            let quorum = self.settings.quorum;
            return refuse(format!("quorum: {quorum} updates of {asked} sites asked; must be 1 to {asked}"));
        }
        if !(self.settings.deadline_s.is_finite() && self.settings.deadline_s > 0.0) {
            return refuse(format!("deadline_s: {} must be above 0", self.settings.deadline_s));
        }
        if self.schema.is_empty() {
            return refuse("schema: the adapter has no tensors".into());
        }
        limits::value_bytes(&self.schema).map_err(|why| NetError::Invalid(format!("schema: {why}")))?;
        Ok(())
    }

    /// The task of `round`.
    pub fn task(&self, round: u32, base_sha256: &str) -> Task {
        Task {
            round,
            rounds: self.settings.rounds,
            work: self.work,
            scope: self.scope,
            training: self.training.clone(),
            base_sha256: base_sha256.to_owned(),
        }
    }

    /// Most bytes that an archive of this adapter can honestly have.
    pub fn archive_limit(&self) -> u64 {
        limits::archive_limit(&self.schema)
    }
}
