//! What the demo promises, read back from its run folder.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// ROUGE-L that may be noise: pooled training may fall this far below the federation, and a local model below another
/// on its own questions.
const NOISE: f64 = 0.05;

/// Checks the verdict of the run in `dir`: federation beats the mean local model on all questions with an interval
/// that excludes zero, pooled training is at least as good within noise, and every file is where it should be.
pub fn check(dir: &Path) -> Result<()> {
    let path = dir.join("summary.json");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let summary: Value =
        serde_json::from_str(&text).with_context(|| format!("{} is no JSON", path.display()))?;
    let rows = summary["verdict"]["rows"].as_array().context("summary.json has no verdict.rows")?;
    let all = rows.iter().find(|row| row["site"] == "all").context("the verdict has no row 'all'")?;
    ensure!(rows.len() == 6, "the verdict has {} rows; five hospitals and 'all' make 6", rows.len());

    let cell = |name: &str| all[name].as_f64().with_context(|| format!("row 'all' has no number '{name}'"));
    let (base, local, federated, pooled) =
        (cell("base")?, cell("local")?, cell("federated")?, cell("pooled")?);
    let low = all["ci95"][0].as_f64().context("row 'all' has no interval")?;
    println!("all: base {base:.3}  local {local:.3}  federated {federated:.3}  pooled {pooled:.3}");
    println!("federated - local = {:.3}, lower end of the 95 % interval {low:.3}", federated - local);
    ensure!(federated > local && low > 0.0, "federation does not beat the mean local model beyond doubt");
    ensure!(pooled > federated - NOISE, "pooled training falls {:.3} below federation", federated - pooled);

    check_matrix(&summary["matrix"])?;

    for file in ["config.toml", "metrics.jsonl", "predictions.jsonl", "report.html"] {
        ensure!(dir.join(file).metadata().is_ok_and(|m| m.len() > 0), "{file} is missing or empty");
    }
    let sites = summary["sites"].as_array().context("summary.json has no sites")?;
    let locals = sites.iter().filter_map(|site| site["name"].as_str()).map(|name| format!("local-{name}"));
    for adapter in ["federated".to_owned(), "pooled".to_owned()].into_iter().chain(locals) {
        if !adapter_exists(dir, &adapter) {
            bail!("the PEFT adapter '{adapter}' is missing under adapters/");
        }
    }
    match summary["seconds"].as_f64() {
        Some(seconds) => println!("the run took {seconds:.0} s"),
        None => bail!("summary.json has no 'seconds'"),
    }
    Ok(())
}

/// Each local model is best, or near best, on the questions of its own site: row i, column j of the matrix is the
/// model of site i on the questions of site j.
fn check_matrix(matrix: &Value) -> Result<()> {
    let rows = matrix["values"].as_array().context("summary.json has no matrix.values")?;
    let value = |model: usize, site: usize| rows[model][site].as_f64();
    for site in 0..rows.len() {
        let own = value(site, site).with_context(|| format!("the matrix has no value at {site}, {site}"))?;
        let best = (0..rows.len()).filter_map(|model| value(model, site)).fold(own, f64::max);
        ensure!(
            own > best - NOISE,
            "on the questions of {} another hospital's model scores {best:.3}, its own {own:.3}",
            matrix["sites"][site]
        );
    }
    Ok(())
}

/// Folder names may be made safe for file systems, so letters and digits decide.
fn adapter_exists(dir: &Path, name: &str) -> bool {
    let plain =
        |text: &str| text.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
    let Ok(entries) = fs::read_dir(dir.join("adapters")) else { return false };
    entries.flatten().any(|entry| {
        plain(&entry.file_name().to_string_lossy()) == plain(name)
            && entry.path().join("adapter_model.safetensors").is_file()
            && entry.path().join("adapter_config.json").is_file()
    })
}
