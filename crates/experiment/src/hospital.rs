//! A hospital's part in a session that somebody else coordinates: what it is told, what it allows, and what came of it
//! on its own test rows.
//!
//! | module | what |
//! |---|---|
//! | [`plan`] | [`SitePlan`]: what a session tells every site, and nothing about where anybody's rows lie |
//! | [`policy`] | [`Policy`]: what this hospital allows a session to ask |
//! | [`audit`] | [`AuditLog`]: what was decided and sent, line by line, each holding the hash of the one before |
//! | [`gate`] | [`Gate`]: every task goes through the policy, every update into the log |
//! | [`run`](mod@run) | taking part, training alone at equal budget, answering the own test questions |
//! | [`verdict`] | [`SiteVerdict`]: did joining help this hospital? |

pub mod audit;
pub mod gate;
pub mod plan;
pub mod policy;
pub mod run;
pub mod verdict;

pub use audit::{AuditEvent, AuditLine, AuditLog, read_audit};
pub use gate::{Gate, LateAnswer};
pub use plan::SitePlan;
pub use policy::{Policy, PolicyRefusal};
pub use run::{Connection, run};
pub use verdict::{SiteRoundSummary, SiteVerdict};
