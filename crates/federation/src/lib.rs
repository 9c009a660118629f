//! Rounds, strategies and the hospital's runtime, free of I/O.
//!
//! Nothing here knows a socket, a file, a thread, a wall clock or an engine's inside: time and randomness come in
//! as arguments, actions and values go out. A simulation in one process and a federation over a network run the
//! same code of this crate; only the [`Transport`] differs.
//!
//! | module | what |
//! |---|---|
//! | [`settings`] | what a session is told: rounds, local work, weights, schedule, sampling, quorum, deadline |
//! | [`task`] | what travels: a [`Task`] to a site, an [`Update`] back |
//! | [`session`] | the round state machine: select, publish, collect, seal, aggregate, commit or fail |
//! | [`sampling`] | which sites a round asks |
//! | [`strategy`] | how updates become the next global adapter |
//! | [`transport`] | the seam between a site and whoever coordinates, and the site's loop over it |
//! | [`site`] | what a task makes a site do |
//! | [`train`](mod@train) | the one training loop: local, pooled and federated |

pub mod sampling;
pub mod session;
pub mod settings;
pub mod site;
pub mod strategy;
pub mod task;
pub mod train;
pub mod transport;

pub use session::{Action, Answer, Contribution, Offer, Refusal, RoundRecord, Session};
pub use settings::{LocalWork, ScheduleScope, SessionSettings, Weights};
pub use site::{SiteError, SiteRows};
pub use strategy::{FedAvg, Strategy, StrategyError};
pub use task::{Task, Training, Update, UpdateMetrics};
pub use train::{StepSource, TrainError, TrainHooks, TrainOutcome, TrainTask, train};
pub use transport::{Transport, TransportError, take_part};
