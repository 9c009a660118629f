//! The `consilium` binary: arguments in, words and an exit code out. What it does lives in the libraries.

mod args;
mod bundle;
mod commands;
mod config;
mod data_args;
mod failure;
mod inputs;
mod interrupt;
mod live;
mod net_args;
mod options;
mod rows;
mod run_folder;
mod words;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command, DataCommand};

// Training allocates little, tokenising and reading much, from several threads: mimalloc keeps those apart.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // clap itself ends with 2 for wrong usage and 0 for help.
    let Cli { command, voice } = Cli::parse();
    match config::force_isa().and_then(|()| run(command, voice)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", failure::explain(&error));
            failure::exit_of(&error).into()
        }
    }
}

fn run(command: Command, voice: args::Voice) -> anyhow::Result<()> {
    match command {
        Command::Demo(args) => commands::demo::run(&args, voice),
        Command::Simulate(args) => commands::simulate::run(&args, voice),
        Command::Train(args) => commands::train::run(&args, voice),
        Command::Evaluate(args) => commands::evaluate::run(&args, voice),
        Command::Score(args) => commands::score::run(&args, voice),
        Command::Ask(args) => commands::ask::run(&args, voice),
        Command::Export(args) => commands::export::run(&args, voice),
        Command::Report(args) => commands::report::run(&args, voice),
        Command::Data { command: DataCommand::Inspect(args) } => commands::inspect::run(&args, voice),
        Command::Data { command: DataCommand::Partition(args) } => commands::partition::run(&args, voice),
        Command::Adapter { command } => commands::adapter::run(&command, voice),
        Command::Serve(args) => commands::serve::run(&args, voice),
        Command::Join(args) => commands::join::run(&args, voice),
        Command::Session { command } => commands::operate::session(&command, voice),
        Command::Clients { command } => commands::operate::clients(&command, voice),
        Command::Models { command } => commands::operate::models(&command, voice),
        Command::Enroll { site, hours, operator } => {
            commands::operate::enroll(&site, hours, &operator, voice)
        }
        Command::Pki { command } => commands::keep::pki(&command, voice),
        Command::Server { command } => commands::keep::server(&command, voice),
        Command::Audit { command } => commands::keep::audit(&command, voice),
        Command::Doctor(args) => commands::doctor::run(&args, voice),
        Command::Completions { shell } => commands::completions::run(shell),
    }
}
