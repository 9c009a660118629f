//! The seam between a site and whoever coordinates, seen from the site, and the site's loop over it.
//!
//! Calls block, so that an engine's own thread can make them; an asynchronous transport waits inside. What crosses
//! holds no row and no text of one.

use consilium_core::Adapter;

use crate::session::Answer;
use crate::site::SiteError;
use crate::task::{Task, Update};

/// The connection is lost for good, beyond what the transport itself retries.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("transport: {0}")]
pub struct TransportError(pub String);

/// A site's connection to its session. The transport knows and proves the site's identity.
pub trait Transport {
    /// Waits for the next task of this site; `None` when the session is over.
    ///
    /// # Errors
    /// When no task can be had any more.
    fn next_task(&mut self) -> Result<Option<Task>, TransportError>;

    /// The global adapter that `task` starts from.
    ///
    /// # Errors
    /// When it cannot be had, or is not the one that the task names.
    fn fetch(&mut self, task: &Task) -> Result<Adapter, TransportError>;

    /// Sends an update and returns what became of it.
    ///
    /// # Errors
    /// When it could not be delivered.
    fn send(&mut self, update: Update) -> Result<Answer, TransportError>;

    /// Says that no update of `round` will come, and why.
    ///
    /// # Errors
    /// When it could not be delivered.
    fn report_failure(&mut self, round: u32, reason: &str) -> Result<(), TransportError>;
}

/// Takes part in a session until it is over: each task's work is done by `work`; a round in which it fails is
/// reported and the next one waited for.
///
/// # Errors
/// [`TransportError`] when the connection is lost for good.
pub fn take_part(
    transport: &mut dyn Transport,
    work: &mut dyn FnMut(&Task, &Adapter) -> Result<Update, SiteError>,
) -> Result<(), TransportError> {
    while let Some(task) = transport.next_task()? {
        let global = transport.fetch(&task)?;
        match work(&task, &global) {
            Ok(update) => {
                transport.send(update)?;
            }
            Err(error) => transport.report_failure(task.round, &error.to_string())?,
        }
    }
    Ok(())
}
