//! `consilium data partition`: each site's rows in a file of its own.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use consilium_data::write_sites;
use serde::Serialize;

use super::{print_json, simulate};
use crate::args::Voice;
use crate::config::{self, Layer};
use crate::data_args::PartitionArgs;
use crate::failure::Failure;
use crate::{rows, words};

/// What is printed with `--json`.
#[derive(Serialize)]
struct Partitioned {
    out: PathBuf,
    sites: Vec<Site>,
    bad_rows: u64,
}

#[derive(Serialize)]
struct Site {
    site: String,
    file: PathBuf,
    rows: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    test_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    test_rows: Option<usize>,
}

/// Reads the rows, shares them out as `simulate` would, and writes them down before any split.
pub fn run(args: &PartitionArgs, voice: Voice) -> Result<()> {
    let out = out_folder(args.run.out.as_deref(), args.force, "consilium data partition --out sites")?;
    let mut flags = Layer::default();
    args.data.lower(&mut flags)?;
    let config = config::resolve(&args.run, &flags)?;
    let mut shared = rows::shared(&config)?;
    let skipped = simulate::skipped_rows(&shared.bad, shared.summary.bad_rows);
    std::fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;
    let tests = shared.tests.take().map(|(tests, _)| tests);
    let written = write_sites(&out, &shared.sites, tests.as_deref())?;
    let done = Partitioned {
        sites: written
            .into_iter()
            .map(|site| Site {
                site: site.site,
                file: out.join(site.file),
                rows: site.rows,
                test_rows: site.test.as_ref().map(|(_, rows)| *rows),
                test_file: site.test.map(|(file, _)| out.join(file)),
            })
            .collect(),
        bad_rows: shared.summary.bad_rows,
        out,
    };
    if voice.json {
        return print_json(&done);
    }
    if !voice.quiet {
        skipped.iter().for_each(|sentence| eprintln!("{sentence}"));
    }
    print(&done);
    Ok(())
}

fn print(done: &Partitioned) {
    let name = |site: &Site| words::clip(&site.site, 40);
    let width = done.sites.iter().map(|site| name(site).chars().count()).max().unwrap_or(0).max(4);
    println!("{:<width$}  {:>9}  {:>9}  file", "site", "rows", "test rows");
    for site in &done.sites {
        let tests = site.test_rows.map_or_else(|| "-".into(), |rows| words::count(rows as u64));
        let rows = words::count(site.rows as u64);
        println!("{:<width$}  {rows:>9}  {tests:>9}  {}", name(site), site.file.display());
    }
    println!(
        "\nEach file goes to its own hospital; join splits it with the session's seed, as simulate does."
    );
}

/// The folder that `--out` names, which must be empty unless `force`.
///
/// # Errors
/// When none is named, with `example` as the way out, or it holds something.
pub fn out_folder(out: Option<&Path>, force: bool, example: &str) -> Result<PathBuf> {
    let out = out.ok_or_else(|| Failure::usage("no folder to write to is named").hint(example))?;
    let used = match std::fs::read_dir(out) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Err(error) => return Err(error).with_context(|| format!("cannot look into {}", out.display())),
    };
    if used && !force {
        return Err(Failure::usage(format!("{} is not empty", out.display()))
            .hint("choose another --out, or write into it with --force")
            .into());
    }
    Ok(out.to_owned())
}
