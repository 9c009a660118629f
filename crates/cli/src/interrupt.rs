//! Ctrl-C: the first one asks to stop after the current step, the second one stops at once.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use consilium_core::StopFlag;

use crate::failure::Exit;

/// A flag that Ctrl-C (or a termination signal) raises. `note` is said on standard error at the first one.
///
/// # Errors
/// When the system takes no handler.
pub fn stop_flag(note: &'static str) -> Result<StopFlag> {
    static SIGNALS: AtomicUsize = AtomicUsize::new(0);
    let flag = StopFlag::new();
    let raised = flag.clone();
    ctrlc::set_handler(move || {
        if SIGNALS.fetch_add(1, Ordering::SeqCst) > 0 {
            std::process::exit(Exit::Stopped as i32);
        }
        raised.raise();
        eprintln!("\n{note}");
    })
    .context("cannot listen for Ctrl-C")?;
    Ok(flag)
}

/// What is said when a run will leave a resumable state behind.
pub const RESUMABLE: &str =
    "stopping after the current step, and keeping what is done; press Ctrl-C again to stop at once";
