//! Whole runs with the bundled model, cut short: demo, training, stopping and going on, and the use of what came out.

mod common;

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{consilium, run, said};
use serde_json::Value;

/// A few rows of two sites, in the style of nothing in particular.
fn rows(path: &Path, rows: usize) {
    let mut text = String::from("question,answer,ward\n");
    for row in 0..rows {
        let ward = if row % 2 == 0 { "north" } else { "south" };
        text.push_str(&format!("What is number {row}?,It is {} in the {ward}.,{ward}\n", row * 7 % 10));
    }
    std::fs::write(path, text).unwrap();
}

/// A federation of the two sites that takes seconds.
const SMALL: [&str; 24] = [
    "simulate",
    "--model",
    "demo",
    "--data",
    "rows.csv",
    "--partition-by",
    "ward",
    "--sites",
    "north,south",
    "--test-rows",
    "4",
    "--rounds",
    "2",
    "--rank",
    "2",
    "--micro-batch",
    "4",
    "--accumulation",
    "1",
    "--max-new-tokens",
    "4",
    "--resamples",
    "100",
    "--quiet",
];

fn small(dir: &Path, more: &[&str]) -> common::Said {
    run(dir, &[&SMALL[..], more].concat())
}

#[test]
fn a_simulation_writes_everything_it_promises_and_what_follows_can_use_it() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    rows(&here.join("rows.csv"), 32);
    let summary = small(here, &["--out", "run", "--json"]).json();

    let sites: Vec<&Value> =
        summary["verdict"]["rows"].as_array().unwrap().iter().map(|row| &row["site"]).collect();
    assert_eq!(sites, ["north", "south", "all"]);
    assert_eq!(summary["rounds"].as_array().unwrap().len(), 2);
    assert_eq!(summary["sites"][0]["train_rows"], 12);
    for file in ["config.toml", "metrics.jsonl", "summary.json", "report.html", "predictions.jsonl"] {
        assert!(here.join("run").join(file).is_file(), "{file}");
    }
    for adapter in ["federated", "pooled", "local-north", "local-south"] {
        assert!(here.join("run/adapters").join(adapter).join("adapter_config.json").is_file(), "{adapter}");
    }

    // The same command again repeats nothing.
    let again = small(here, &["--out", "run", "--json"]).json();
    assert_eq!(again["adapter_sha256"], summary["adapter_sha256"]);
    // Another configuration does not mix with it.
    small(here, &["--out", "run", "--seed", "9"]).refused(1, &["run", "seed"]);

    std::fs::remove_file(here.join("run/report.html")).unwrap();
    assert_eq!(run(here, &["report", "run"]).code, Some(0));
    assert!(std::fs::read_to_string(here.join("run/report.html")).unwrap().contains("north"));

    let ask = [
        "ask",
        "--base",
        "--adapter",
        "run/adapters/federated",
        "--adapter",
        "run/adapters/local-north",
        "--max-new-tokens",
        "3",
        "--json",
        "What?",
    ];
    let answers = run(here, &ask).json()[0]["answers"].clone();
    let models: Vec<&Value> = answers.as_array().unwrap().iter().map(|answer| &answer["model"]).collect();
    assert_eq!(models, ["base", "federated", "local-north"]);

    let evaluate = [
        "evaluate",
        "--adapter",
        "run/adapters/federated",
        "--data",
        "rows.csv",
        "--partition-by",
        "ward",
        "--questions-per-site",
        "3",
        "--max-new-tokens",
        "3",
        "--json",
        "--quiet",
    ];
    let scores = run(here, &evaluate).json();
    assert_eq!(scores["rows"], 6);
    assert!(scores["answer_nll"].as_f64().unwrap() > 0.0);

    for (form, out) in [("peft", "peft"), ("merged", "merged"), ("gguf", "model.gguf")] {
        let export =
            run(here, &["export", "--adapter", "run/adapters/federated", "--format", form, "--out", out]);
        assert_eq!(export.code, Some(0), "{}", export.err);
        assert!(here.join(out).exists());
    }
    // The merged model is a model like any other, and scores as base and adapter do together.
    let text = ["--text", "What is number 3?", "--json"];
    let merged = run(here, &[&["score", "--model", "merged"], &text[..]].concat()).json();
    let adapted = run(here, &[&["score", "--adapter", "run/adapters/federated"], &text[..]].concat()).json();
    let nll = |scored: &Value| scored["nll"].as_f64().unwrap();
    assert!((nll(&merged) - nll(&adapted)).abs() < 0.02, "{} and {}", nll(&merged), nll(&adapted));
}

#[test]
fn threads_do_not_change_the_adapters() {
    let dir = tempfile::tempdir().unwrap();
    rows(&dir.path().join("rows.csv"), 24);
    let one = small(dir.path(), &["--out", "one", "--threads", "1", "--json"]).json();
    let two = small(dir.path(), &["--out", "two", "--threads", "2", "--json"]).json();
    assert_eq!(one["adapter_sha256"], two["adapter_sha256"]);
}

#[test]
fn training_goes_on_from_an_adapter_with_its_shape() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    rows(&here.join("rows.csv"), 16);
    let train = [
        "train",
        "--model",
        "demo",
        "--data",
        "rows.csv",
        "--epochs",
        "1",
        "--micro-batch",
        "4",
        "--accumulation",
        "1",
        "--no-shuffle",
        "--quiet",
        "--json",
    ];
    let with = |more: &[&str]| run(here, &[&train[..], more].concat());
    let first = with(&["--rank", "3", "--targets", "q,down", "--out", "first"]).json();
    assert_eq!((&first["steps"], &first["rows"]), (&4.into(), &16.into()));
    let lines = std::fs::read_to_string(here.join("first/metrics.jsonl")).unwrap();
    let steps: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(steps.iter().filter(|event| event["event"] == "step").count(), 4);
    for field in ["step", "loss", "lr", "grad_norm", "tokens", "seconds"] {
        assert!(steps[0][field].is_number(), "{field}");
    }

    let adapter = first["adapter"].as_str().unwrap();
    with(&["--init-adapter", adapter, "--out", "second"]).json();
    let text = std::fs::read_to_string(here.join("second/adapter/adapter_config.json")).unwrap();
    let config: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&config["r"], &config["target_modules"]),
        (&3.into(), &serde_json::json!(["q_proj", "down_proj"]))
    );
    with(&["--init-adapter", adapter, "--rank", "4", "--out", "third"]).refused(2, &["--init-adapter"]);
    with(&["--test-rows", "4", "--out", "fourth"]).refused(2, &["holds no rows back"]);
}

#[test]
fn the_demo_runs_offline_and_names_its_files() {
    let dir = tempfile::tempdir().unwrap();
    // A whole evaluation takes a minute without optimisation: one round, few questions, short answers.
    let quick = [
        "demo",
        "--rounds",
        "1",
        "--out",
        "run",
        "--set",
        "data.train_rows=16",
        "--set",
        "eval.questions_per_site=2",
        "--set",
        "eval.max_new_tokens=4",
        "--set",
        "eval.resamples=50",
    ];
    let demo = run(dir.path(), &quick);
    assert_eq!(demo.code, Some(0), "{}", demo.err);
    for words in [
        "invented",
        "Drug Gene Relations",
        "SMR Gene Disease Relations",
        "all",
        "report.html",
        "adapters",
        "consilium ask",
    ] {
        assert!(demo.out.contains(words), "{words} in {}", demo.out);
    }
    assert!(demo.err.contains("round 1 of 1"), "{}", demo.err);
    assert!(dir.path().join("run/data/test.csv").is_file());
}

#[test]
fn bad_input_is_one_clear_paragraph() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    rows(&here.join("rows.csv"), 8);
    run(here, &["simulate", "--model", "demo", "--data", "gone.csv"]).refused(3, &["gone.csv"]);
    let by = |column: &str, sites: &str| {
        run(
            here,
            &[
                "simulate",
                "--model",
                "demo",
                "--data",
                "rows.csv",
                "--partition-by",
                column,
                "--sites",
                sites,
                "--test-rows",
                "1",
            ],
        )
    };
    by("wrad", "north").refused(3, &["wrad", "`ward`"]);
    by("ward", "nroth").refused(3, &["nroth", "`north`"]);
    run(here, &["simulate", "--model", "demo", "--data", "rows.csv", "--partition-by", "ward"])
        .refused(3, &["100 test rows"]);
    std::fs::create_dir(here.join("broken")).unwrap();
    std::fs::write(here.join("broken/config.json"), "{").unwrap();
    std::fs::write(here.join("broken/model.safetensors"), "short").unwrap();
    run(here, &["score", "--model", "broken", "--text", "a b"]).refused(1, &["broken", "next:"]);
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_a_run_that_goes_on_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    rows(&here.join("rows.csv"), 64);
    let long = ["--set", "federation.rounds=6", "--threads", "1"];
    let unbroken = small(here, &[&long[..], &["--out", "unbroken", "--json"]].concat()).json();

    let mut child = consilium(here)
        .args(SMALL)
        .args(long)
        .args(["--out", "broken"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Stop it once training has begun.
    let metrics = here.join("broken/metrics.jsonl");
    let started = Instant::now();
    while !std::fs::read_to_string(&metrics).is_ok_and(|text| text.lines().count() >= 3) {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it could be stopped");
        assert!(started.elapsed() < Duration::from_secs(120), "no step in two minutes");
        std::thread::sleep(Duration::from_millis(2));
    }
    let killed = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let stopped = said(child.wait_with_output().unwrap());
    stopped.refused(130, &["stopping after the current step", "--out broken"]);
    assert!(!here.join("broken/summary.json").exists());

    let resumed = small(here, &[&long[..], &["--out", "broken", "--json"]].concat()).json();
    assert_eq!(resumed["adapter_sha256"], unbroken["adapter_sha256"]);
    let cells = |summary: &Value| summary["verdict"]["rows"].clone();
    assert_eq!(cells(&resumed), cells(&unbroken));
}
