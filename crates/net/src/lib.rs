//! The federation between machines: a server that keeps every promise across crashes, and the hospital's way to it.
//!
//! This crate transports: it knows neither an engine nor a row of data, and what a session asks of a site is JSON text
//! that it carries without reading.
//!
//! | module | what |
//! |---|---|
//! | [`server`] | the core's commands, its store, the thread that moves rounds on, the gRPC and HTTP faces |
//! | [`client`] | the hospital's side: credentials, an outbox, the [`Transport`](consilium_federation::Transport) over the network |
//! | [`manifest`] | what a site is asked to do, signed by the server |
//! | [`proto`] | the messages of `consilium.v1`, generated from `proto/` |
//! | [`pki`] | a private certificate authority for one federation |
//! | [`clock`] | time since 1970 that never jumps |

pub mod client;
pub mod clock;
mod durable;
mod error;
mod failpoint;
mod limits;
pub mod manifest;
pub mod pki;
pub mod proto;
pub mod server;
mod words;

pub use durable::write_secret;
pub use error::NetError;

#[cfg(test)]
pub(crate) mod tests;
