//! Rounds, strategies and the hospital's runtime, free of I/O.
//!
//! Nothing here knows a socket, a file, a thread, a wall clock or an engine's inside: time and randomness come in
//! as arguments, actions and values go out. A simulation in one process and a federation over a network run the
//! same code of this crate; only the transport differs.
//!
//! | module | what |
//! |---|---|
//! | [`settings`] | what a session is told: rounds, local work, weights, schedule, sampling, quorum, deadline |

pub mod settings;

pub use settings::{LocalWork, ScheduleScope, SessionSettings, Weights};
