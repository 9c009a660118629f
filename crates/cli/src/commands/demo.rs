//! `consilium demo`: five hospitals, a bundled model, no network.

use anyhow::Result;

use super::simulate;
use crate::args::{DemoArgs, Voice};
use crate::config::{self, Layer};
use crate::{bundle, rows, run_folder};

const GREETING: &str = "\
Five hospitals, one kind of question each. Every hospital fine-tunes a small adapter on its own rows, and only
adapters travel. All drugs, genes and diseases here are invented: nothing in this demo is medicine.
";

/// Runs the bundled experiment and prints the verdict.
pub fn run(args: &DemoArgs, voice: Voice) -> Result<()> {
    let mut flags = Layer::default();
    flags.number("federation.rounds", args.rounds)?;
    let config = config::resolve_over(config::demo()?, &args.run, &flags)?;
    let out = run_folder::choose(args.run.out.as_deref(), "demo")?;
    let talks = !voice.quiet && !voice.json;
    if talks {
        println!("{GREETING}");
    }
    // The rows go where the run goes, for whoever wants to look at them.
    let data = out.join("data");
    bundle::write_data(&data)?;
    let rows = rows::for_session(&bundle::with_data(&config, &data))?;

    let resume = format!("go on with: consilium demo{} --out {}", repeated(args), out.display());
    let summary = simulate::experiment(&config, rows, &out, voice, &resume)?;
    simulate::print(&summary, &out, voice)?;
    if talks {
        let out = out.display();
        println!("\nAsk the models yourself, with questions from {out}/data/test.csv:");
        println!("  consilium ask --base --adapter {out}/adapters/federated \"...\"");
    }
    Ok(())
}

/// The flags that decide what is computed, as the user gave them.
fn repeated(args: &DemoArgs) -> String {
    let seed = args.run.seed.map(|seed| format!(" --seed {seed}"));
    let rounds = args.rounds.map(|rounds| format!(" --rounds {rounds}"));
    seed.into_iter().chain(rounds).collect()
}
