//! `consilium join --dry-run`: every field and byte that would leave, and nothing sent.

use std::path::Path;

use anyhow::{Context, Result};
use consilium_core::Precision;
use consilium_engine::initial_adapter;
use consilium_experiment::Config;
use consilium_experiment::hospital::{Policy, SitePlan};
use consilium_net::client::{DryRunOptions, dry_run};

use super::print_json;
use crate::args::Voice;
use crate::inputs::{self, Base};
use crate::net_args::{JoinArgs, SessionOptions};
use crate::rows;

/// Lists what joining would send, for this site's rows and, where this site has seen it, the session's own adapter.
pub fn run(args: &JoinArgs, site: &str, data: &str, policy: &Policy, out: &Path, voice: Voice) -> Result<()> {
    let (config, known) = configuration(args, site, data, out)?;
    let rows = rows::for_site(&config, site)?;
    let Base { model, .. } = inputs::base(&config.model.id, None, Precision::F32)?;
    let list = dry_run(&DryRunOptions {
        site: site.to_owned(),
        program: super::join::PROGRAM.into(),
        schema: initial_adapter(model.config(), &config.lora, config.seed).schema(),
        rounds: config.federation.rounds,
        examples: rows.sites[0].train.len() as u64,
        share_scores: policy.share_scores,
    });
    if voice.json {
        return print_json(&list);
    }
    if !known {
        println!(
            "This site has not seen a session yet: sizes are those of {} rounds with rank {} on {}.\n",
            config.federation.rounds, config.lora.rank, config.model.id
        );
    }
    print!("{list}");
    Ok(())
}

/// The configuration of the session that this site has seen, else that of the demo, with --model where one is named.
fn configuration(args: &JoinArgs, site: &str, data: &str, out: &Path) -> Result<(Config, bool)> {
    let place = out.join("run").join("plan.json");
    let seen = place.is_file();
    let plan = if seen {
        let text =
            std::fs::read_to_string(&place).with_context(|| format!("cannot read {}", place.display()))?;
        SitePlan::from_json(&text).with_context(|| place.display().to_string())?
    } else {
        let usual = SessionOptions::default();
        let mut usual = super::serve::configuration(&usual)?;
        usual.data.test_rows = if args.test_data.is_some() { usual.data.test_rows } else { 0 };
        SitePlan::of(&usual, String::new(), String::new())
    };
    let mut config = super::join::configuration(args, &plan, site, data);
    if let Some(model) = &args.model {
        config.model.id.clone_from(model);
    }
    Ok((config, seen))
}
