//! Named points at which a debug build dies as by `kill -9`, for tests of what is durable.

/// Ends the process without any clean-up when `CONSILIUM_FAILPOINT` names this point; does nothing in release builds.
/// `name:3` dies at the third time.
#[cfg(debug_assertions)]
pub(crate) fn reach(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    static CHOSEN: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static TIMES: AtomicU64 = AtomicU64::new(0);
    let chosen = CHOSEN.get_or_init(|| {
        let value = std::env::var("CONSILIUM_FAILPOINT").ok()?;
        let (name, times) = value.split_once(':').unwrap_or((&value, "1"));
        Some((name.to_owned(), times.parse().ok()?))
    });
    if let Some((_, times)) = chosen.as_ref().filter(|(chosen, _)| chosen == name)
        && TIMES.fetch_add(1, Ordering::SeqCst) + 1 == *times
    {
        std::process::abort();
    }
}

/// Nothing, in a release build.
#[cfg(not(debug_assertions))]
pub(crate) fn reach(_: &str) {}
