//! `consilium-bench`: one measurement of the engine in one process, printed as one line of JSON.
//!
//! `cargo xtask bench` runs it in turn with the peer's scripts beside this crate, whose lines have the same fields.

mod args;
mod ceilings;
mod error;
mod generate;
mod lengths;
mod make_model;
mod process;
mod rows;
mod subject;
mod train;

use std::process::ExitCode;

use clap::Parser;

use args::{Args, Measurement};

// As in the product, so that its memory is what is measured.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let measured = match Args::parse().measurement {
        Measurement::Train(args) => train::run(&args),
        Measurement::Generate(args) => generate::run(&args),
        Measurement::Lengths(args) => lengths::run(&args),
        Measurement::Error(args) => error::run(&args),
        Measurement::Ceilings(args) => ceilings::run(&args),
        Measurement::MakeModel(args) => make_model::run(&args),
    };
    match measured {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("consilium-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
