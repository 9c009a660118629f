//! How accepted updates become the next global adapter.
//!
//! Updates are folded one after the other in byte order of their sites' names, so the result is a pure function of
//! the accepted set and memory does not grow with the number of sites.

mod fedavg;

use consilium_core::{Adapter, AdapterError};

pub use fedavg::FedAvg;

use crate::session::Contribution;

/// Why updates could not be aggregated.
#[derive(Debug, thiserror::Error)]
pub enum StrategyError {
    /// An update does not have the global adapter's names and shapes.
    #[error("update of {site}: {source}")]
    Misfit {
        /// Whose update.
        site: String,
        /// What does not fit.
        source: AdapterError,
    },
    /// A caller folded other sites, or another order, than it announced.
    #[error("expected the update of {expected}, got that of {found}")]
    Order {
        /// The next announced site, or `nobody`.
        expected: String,
        /// The site that was folded.
        found: String,
    },
    /// The weights of the announced updates sum to zero, or nobody was announced.
    #[error("there is nothing to average: the weights of {sites} updates sum to 0")]
    NoWeight {
        /// Announced updates.
        sites: usize,
    },
    /// The result holds a value that is not finite.
    #[error("the aggregate is not finite: {0}")]
    NotFinite(AdapterError),
}

/// A rule that turns updates into the next global adapter.
///
/// Calls come as `begin`, one `fold` for each announced contribution in the announced order, `finish`; `begin` may
/// be called again at any time and forgets what was folded.
pub trait Strategy: Send {
    /// Starts a round from the `global` adapter; `contributions` lie in byte order of site names.
    ///
    /// # Errors
    /// [`StrategyError::NoWeight`], or [`StrategyError::Order`] when names do not rise.
    fn begin(&mut self, global: &Adapter, contributions: &[Contribution]) -> Result<(), StrategyError>;

    /// Adds the update of `site`.
    ///
    /// # Errors
    /// [`StrategyError::Order`] or [`StrategyError::Misfit`].
    fn fold(&mut self, site: &str, update: &Adapter) -> Result<(), StrategyError>;

    /// The next global adapter.
    ///
    /// # Errors
    /// [`StrategyError::Order`] when announced updates are missing, [`StrategyError::NotFinite`].
    fn finish(&mut self) -> Result<Adapter, StrategyError>;
}
