//! `consilium completions`: a completion script for a shell.

use anyhow::Result;
use clap::CommandFactory;

use crate::args::Cli;

/// Prints the script of `shell`.
pub fn run(shell: clap_complete::Shell) -> Result<()> {
    clap_complete::generate(shell, &mut Cli::command(), "consilium", &mut std::io::stdout());
    Ok(())
}
