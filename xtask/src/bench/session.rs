//! Building the worker, then running all jobs in turn and collecting the line that each prints.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::jobs::{self, Job, Side};
use super::options::Options;

/// A job that was run.
pub struct Run {
    pub name: &'static str,
    /// Repetition, from 1.
    pub repetition: usize,
    /// The process's line of JSON, or why there is none.
    pub result: Result<Value, String>,
}

/// All runs and what they ran on.
pub struct Session {
    pub runs: Vec<Run>,
    pub model: PathBuf,
    pub rows: PathBuf,
    pub threads: usize,
    pub with_torch: bool,
    pub quick: bool,
}

/// Where things lie.
struct Places {
    root: PathBuf,
    worker: PathBuf,
    python: Option<PathBuf>,
    model: PathBuf,
    rows: PathBuf,
    threads: usize,
}

/// Runs everything `options` ask for. A run that fails is noted and does not stop the others.
pub fn run(root: &Path, options: &Options) -> Result<Session> {
    let python = options.torch.as_deref().map(python).transpose()?;
    let rows = rows(root, options)?;
    let worker = build(root)?;
    let model = model(root, options, &worker)?;
    let places = Places { root: root.to_owned(), worker, python, model, rows, threads: options.threads };
    let mut runs = Vec::new();
    let one = jobs::of_one_repetition(options);
    let probe = jobs::ceilings(options);
    let total = options.repeats * (one.len() + one.len().div_ceil(PROBE_EVERY) + 1);
    for repetition in 1..=options.repeats {
        for (index, job) in one.iter().enumerate() {
            if index % PROBE_EVERY == 0 {
                run_one(&places, &probe, repetition, total, &mut runs);
            }
            run_one(&places, job, repetition, total, &mut runs);
        }
        run_one(&places, &probe, repetition, total, &mut runs);
    }
    let Places { model, rows, threads, .. } = places;
    Ok(Session { runs, model, rows, threads, with_torch: options.torch.is_some(), quick: options.quick })
}

/// Jobs between two probes of the machine's limits.
const PROBE_EVERY: usize = 2;

fn run_one(places: &Places, job: &Job, repetition: usize, total: usize, runs: &mut Vec<Run>) {
    eprint!("[{:>3}/{total}] {} ... ", runs.len() + 1, job.name);
    let start = Instant::now();
    let result = measure(places, job);
    match &result {
        Ok(line) => eprintln!("{} ({:.0} s)", summary(line), start.elapsed().as_secs_f64()),
        Err(error) => eprintln!("failed: {error:#}"),
    }
    runs.push(Run { name: job.name, repetition, result: result.map_err(|error| format!("{error:#}")) });
}

/// The number that a run is about.
fn summary(line: &Value) -> String {
    if let Some(lengths) = line["lengths"].as_array() {
        let rates = lengths.iter().filter_map(|length| length["tokens_per_s"].as_f64());
        let rates: Vec<String> = rates.map(|rate| format!("{rate:.0}")).collect();
        return format!("{} tokens/s", rates.join(", "));
    }
    match (line["tokens_per_s"].as_f64(), line["fma_gflops"].as_f64(), line["read_gb_per_s"].as_f64()) {
        (Some(tokens), ..) => format!("{tokens:.1} tokens/s"),
        (_, Some(flops), Some(bytes)) => format!("{flops:.0} GFLOP/s, {bytes:.1} GB/s"),
        _ => "done".into(),
    }
}

fn measure(places: &Places, job: &Job) -> Result<Value> {
    let mut command = match job.side {
        Side::Ours => Command::new(&places.worker),
        Side::Peer => Command::new(places.python.as_ref().context("no Python for the peer's scripts")?),
    };
    let (what, rest) = job.arguments.split_first().context("a job without arguments")?;
    match job.side {
        Side::Ours => command.arg(what),
        Side::Peer => command.arg(places.root.join("bench").join(what)),
    };
    command.args(rest).current_dir(&places.root);
    if what != "ceilings" {
        command.arg("--model").arg(&places.model).args(["--threads", &places.threads.to_string()]);
        if what != "lengths" {
            command.arg("--rows").arg(&places.rows);
        }
    }
    if job.side == Side::Peer {
        // Before the interpreter starts, so that no library can have read them earlier.
        command.env("OMP_NUM_THREADS", places.threads.to_string());
        command.envs([
            ("HF_HUB_OFFLINE", "1"),
            ("CUDA_VISIBLE_DEVICES", ""),
            ("PYTHONDONTWRITEBYTECODE", "1"),
        ]);
    }
    let output = command.output().with_context(|| format!("starting {:?}", command.get_program()))?;
    last_json(&output)
}

/// The last line of standard output; libraries may have written others before.
fn last_json(output: &Output) -> Result<Value> {
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let tail: Vec<&str> = said.trim().lines().rev().take(3).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        bail!("{}: {}", output.status, tail.join(" | "));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.trim().lines().last().context("it printed nothing")?;
    serde_json::from_str(line).with_context(|| format!("no line of JSON but '{line}'"))
}

/// Builds the worker; cargo's own words go to standard error.
fn build(root: &Path) -> Result<PathBuf> {
    eprintln!("building consilium-bench in release mode");
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--release", "--quiet", "--package", "consilium-bench"])
        .current_dir(root)
        .status()
        .context("starting cargo")?;
    ensure!(status.success(), "consilium-bench does not build: {status}");
    let worker = target_dir(root).join("release").join(format!("consilium-bench{}", env::consts::EXE_SUFFIX));
    ensure!(worker.is_file(), "cargo built no {}", worker.display());
    Ok(worker)
}

fn target_dir(root: &Path) -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir))
}

/// The peer's interpreter. The path is kept as it is: a virtual environment is known by it.
fn python(dir: &Path) -> Result<PathBuf> {
    let python = if cfg!(windows) { "venv/Scripts/python.exe" } else { "venv/bin/python" };
    let python = std::path::absolute(dir.join(python))?;
    ensure!(
        python.is_file(),
        "{} is not there; 'bench/setup-torch.sh {}' makes it",
        python.display(),
        dir.display()
    );
    Ok(python)
}

fn rows(root: &Path, options: &Options) -> Result<PathBuf> {
    if let Some(rows) = &options.rows {
        ensure!(rows.is_file(), "--rows {}: no such file", rows.display());
        return Ok(std::path::absolute(rows)?);
    }
    let reference = env::var_os("CONSILIUM_REFERENCE_DIR")
        .map(|dir| PathBuf::from(dir).join("data/cardbiomed/rows.csv"))
        .filter(|path| path.is_file());
    Ok(match reference {
        Some(path) => std::path::absolute(path)?,
        None => root.join("demo/data/train.csv"),
    })
}

/// The given model, the peer's, or a random one that is made once.
fn model(root: &Path, options: &Options, worker: &Path) -> Result<PathBuf> {
    let given = options.model.clone().or_else(|| options.torch.as_ref().map(|dir| dir.join("model")));
    if let Some(model) = given {
        ensure!(
            model.join("config.json").is_file() && model.join("tokenizer.json").is_file(),
            "{} is no model: config.json and tokenizer.json are needed",
            model.display()
        );
        return Ok(std::path::absolute(model)?);
    }
    let model = target_dir(root).join("bench/model-135m");
    // The file that is written last.
    let done = model.join("complete");
    if !done.is_file() {
        eprintln!("making a random model of SmolLM2-135M's shape in {}", model.display());
        let output = Command::new(worker)
            .args(["make-model", "--shape", "135m", "--out"])
            .arg(&model)
            .arg("--tokenizer")
            .arg(root.join("demo/model"))
            .output()
            .context("starting consilium-bench")?;
        last_json(&output)?;
        std::fs::write(&done, "")?;
    }
    Ok(model)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(unix)]
    fn the_last_line_counts_and_a_failure_says_its_last_words() {
        let shell = |script: &str| Command::new("sh").args(["-c", script]).output().unwrap();
        assert_eq!(last_json(&shell("echo hello; echo '{\"a\":1}'")).unwrap()["a"], 1);
        assert!(last_json(&shell("echo hello")).unwrap_err().to_string().contains("hello"));
        assert!(last_json(&shell("true")).unwrap_err().to_string().contains("nothing"));
        let error = last_json(&shell("echo why >&2; exit 3")).unwrap_err().to_string();
        assert!(error.contains("why") && error.contains('3'), "{error}");
    }
}
