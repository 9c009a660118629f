//! Project chores: `cargo xtask tidy` checks the house rules, `cargo xtask check-demo DIR` a demo's verdict, and
//! `cargo xtask bench` measures the engine, on request beside PyTorch.

mod bench;
mod demo;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask <command>

  tidy              check the house rules over all tracked files
  check-demo DIR    check that the run folder of a demo holds what the demo promises
  bench [options]   measure training and generation; `bench --help` lists the options";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["tidy"] => tidy::run(&workspace_root()),
        ["check-demo", dir] => demo::check(Path::new(dir)),
        ["bench", ref options @ ..] => bench::run(&workspace_root(), options),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The folder above xtask's own.
fn workspace_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_owned()
}
