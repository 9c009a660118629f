//! The server's clock: time since 1970, read from the system once and then steady.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Time since 1970 that never jumps while the program runs: a corrected system clock must not end a round.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    at_start: Duration,
    start: Instant,
}

impl Clock {
    /// Reads the system's clock.
    pub fn start() -> Self {
        let at_start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { at_start, start: Instant::now() }
    }

    /// Now.
    pub fn now(&self) -> Duration {
        self.at_start + self.start.elapsed()
    }
}

/// Whole milliseconds, as databases and manifests hold them.
pub fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
