//! `consilium data inspect`: rows as training will see them.

use anyhow::Result;
use consilium_data::inspect::{Inspection, Lengths};
use consilium_data::{Hub, View};

use super::print_json;
use crate::args::{InspectArgs, Voice};
use crate::config::{self, Layer};
use crate::failure::Failure;
use crate::{bundle, inputs, rows, words};

/// Reads the data and prints what there is to see.
pub fn run(args: &InspectArgs, voice: Voice) -> Result<()> {
    let mut flags = Layer::default();
    args.data.lower(&mut flags)?;
    flags.text("data.source", args.file.as_deref());
    // Without a model in mind the bundled tokenizer shows what it can: no download for a look.
    flags.text("model.id", args.model.model.as_deref().or((args.run.config.is_none()).then_some(bundle::ID)));
    flags.real("train.prompt_loss_weight", args.prompt_loss_weight);
    let config = config::resolve(&args.run, &flags)?;
    if args.file.is_none() && args.data.source.is_none() && args.run.config.is_none() {
        return Err(Failure::usage("no data is named").hint("consilium data inspect rows.csv").into());
    }

    let options = rows::read_options(&config.data, config.data.split.as_deref());
    let report = consilium_data::read(&config.data.source, &options, &Hub::from_env())?;
    let template = inputs::template(&config.data)?;
    let tokenizer = inputs::tokenizer(&config)?;
    let view = View {
        template: &template,
        tokenizer: &tokenizer,
        max_tokens: config.data.max_tokens,
        prompt_loss_weight: config.train.prompt_loss_weight,
        row: args.row,
    };
    let inspection = consilium_data::inspect(&report, &view)?;
    if voice.json {
        return print_json(&inspection);
    }
    print(&inspection, &config.model.id);
    Ok(())
}

fn print(seen: &Inspection, tokenizer: &str) {
    println!(
        "{} rows, {} filtered out, {} bad; sha256 {}",
        words::count(seen.rows as u64),
        seen.filtered,
        seen.bad_count,
        &seen.sha256[..16]
    );
    for bad in &seen.bad_rows {
        println!("  {bad}");
    }
    println!("\ncategories");
    for category in &seen.categories {
        let name = if category.name.is_empty() { "(none)" } else { &category.name };
        println!("  {:>7}  {name}", words::count(category.rows as u64));
    }
    println!("\ntokens (tokenizer of {tokenizer})  {:>6} {:>6} {:>6} {:>6}", "min", "median", "95 %", "max");
    let line = |name: &str, l: &Lengths| {
        let width = 23 + tokenizer.chars().count();
        println!("  {name:<width$}  {:>6} {:>6} {:>6} {:>6}", l.min, l.p50, l.p95, l.max);
    };
    line("row", &seen.row_tokens);
    line("answer", &seen.answer_tokens);
    println!(
        "  limit {}: cuts {} rows, {} of them lose their whole answer",
        seen.max_tokens, seen.truncated, seen.answer_lost
    );
    println!(
        "\nrow {} as the model sees it\n----\n{}[{}]\n----",
        seen.example.id, seen.example.prompt, seen.example.completion
    );
    println!("\nloss weight of each token");
    for token in &seen.example.tokens {
        println!("  {:>5.2}  {:>6}  {}", token.weight, token.id, token.token);
    }
}
