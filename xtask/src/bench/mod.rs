//! `cargo xtask bench`: the engine's speed beside PyTorch's, both sides run in turn on this machine.
//!
//! | file | what |
//! |---|---|
//! | `options` | the command line |
//! | `jobs` | every run that there is: its side, its command, what it costs |
//! | `session` | building, running in turn, collecting the lines |
//! | `comparison` | medians, ratios, ceilings |
//! | `table`, `json` | the same for people and for programs |
//! | `machine` | what it was measured on |

mod comparison;
mod jobs;
mod json;
mod machine;
mod options;
mod session;
mod table;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use comparison::Comparison;
use options::{JsonTo, Options};

/// Runs what `arguments` ask for. Progress goes to standard error, the table or JSON to standard output.
pub fn run(root: &Path, arguments: &[&str]) -> Result<()> {
    if arguments.iter().any(|word| ["-h", "--help", "help"].contains(word)) {
        println!("{}", options::USAGE);
        return Ok(());
    }
    let options = Options::parse(arguments)?;
    let session = session::run(root, &options)?;
    let comparison = Comparison::new(&session.runs);
    let machine = machine::describe(&session.runs);
    if options.json != Some(JsonTo::Stdout) {
        print!("{}", table::render(&comparison, &machine, &session));
    }
    match &options.json {
        None => {}
        Some(JsonTo::Stdout) => println!("{:#}", json::value(&comparison, &machine, &session)),
        Some(JsonTo::File(path)) => {
            let text = format!("{:#}\n", json::value(&comparison, &machine, &session));
            fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
        }
    }
    let failed = session.runs.iter().filter(|run| run.result.is_err()).count();
    if failed > 0 {
        bail!("{failed} of {} runs failed; each said why above", session.runs.len());
    }
    Ok(())
}
