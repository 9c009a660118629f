//! What a user sees of a run while it goes on: bars on a terminal, a line now and then elsewhere.

mod board;
mod clock;
mod lines;
mod screen;

use std::io::IsTerminal;

use consilium_core::{Sink, metric::NullSink};

use crate::args::Voice;

pub use board::{Board, Seen};
pub use clock::Plan;

/// The view that fits where standard error goes: bars on a terminal, lines in a file or pipe, nothing when quiet.
pub fn view(voice: Voice, plan: Plan) -> Box<dyn Sink> {
    if voice.quiet {
        Box::new(NullSink)
    } else if std::io::stderr().is_terminal() {
        Box::new(screen::Screen::new(plan))
    } else {
        Box::new(lines::Lines::new(plan))
    }
}
