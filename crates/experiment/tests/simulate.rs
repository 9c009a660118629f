//! The whole comparison on a tiny model: what a run leaves behind, and that threads, stops and repeats change no byte.

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::{StopWhen, config, inputs};
use consilium_core::metric::{MemorySink, NullSink};
use consilium_core::{Event, StopFlag, npz, peft};
use consilium_experiment::run_folder::read_events;
use consilium_experiment::{Config, ExperimentError, simulate};

/// Whether an event is of the kind at which a run is stopped.
type Matches = fn(&Event) -> bool;

const MODELS: [&str; 4] = ["federated", "local-north", "local-south side", "pooled"];

/// Everything of a run whose bytes are promised: adapters and answers.
fn promised(out: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files: BTreeMap<String, Vec<u8>> = MODELS
        .iter()
        .map(|model| {
            let path = out.join("adapters").join(model).join(peft::WEIGHTS_FILE);
            ((*model).to_owned(), std::fs::read(&path).unwrap())
        })
        .collect();
    files.insert("predictions".into(), std::fs::read(out.join("predictions.jsonl")).unwrap());
    files
}

/// How often each step of each model is in `metrics.jsonl`.
fn steps(out: &Path) -> BTreeMap<(String, Option<String>, u64), usize> {
    let mut counts = BTreeMap::new();
    for event in read_events(&out.join("metrics.jsonl")).unwrap() {
        if let Event::Step { model, site, step, .. } = event {
            *counts.entry((model, site, step)).or_default() += 1;
        }
    }
    counts
}

#[test]
fn a_run_leaves_everything_it_promises() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("first");
    let sink = MemorySink::default();
    let (config, inputs) = (config(), inputs());
    let summary = simulate(&config, &inputs, &out, &sink, &StopFlag::new()).unwrap();

    for name in ["config.toml", "metrics.jsonl", "summary.json", "report.html", "predictions.jsonl"] {
        assert!(out.join(name).metadata().unwrap().len() > 0, "{name}");
    }
    assert!(!out.join("state").exists());
    assert_eq!(
        Config::from_toml(&std::fs::read_to_string(out.join("config.toml")).unwrap()).unwrap(),
        config
    );
    let written: consilium_eval::Summary =
        serde_json::from_slice(&std::fs::read(out.join("summary.json")).unwrap()).unwrap();
    assert_eq!(written, summary);
    assert_eq!(summary.run, "first");
    let rows: Vec<&str> = summary.verdict.rows.iter().map(|row| row.site.as_str()).collect();
    assert_eq!(rows, ["north", "south side", "all"]);
    assert_eq!(summary.rounds.len(), 2);
    assert!(summary.peak_rss_bytes > 0 || !cfg!(target_os = "linux"));

    // Real bytes: one npz for each site up, one for each site down.
    let adapter = peft::decode_weights(&promised(&out)["federated"]).unwrap();
    let one = npz::encode(&adapter).len() as u64;
    assert!(summary.rounds.iter().all(|round| round.bytes_up == 2 * one && round.bytes_down == 2 * one));
    assert_eq!(summary.adapter_sha256["federated"], adapter.sha256());
    assert_eq!(summary.adapter_sha256.len(), MODELS.len());

    // Equal budget: 8 and 6 rows, 4 a step, 2 rounds of 2 epochs; pooled takes 8 rows a step.
    let last = |model: &str, site: Option<&str>| {
        steps(&out).keys().filter(|(m, s, _)| m == model && s.as_deref() == site).map(|key| key.2).max()
    };
    assert_eq!(last("local-north", Some("north")), Some(8));
    assert_eq!(last("federated", Some("south side")), Some(8));
    assert_eq!(last("pooled", None), Some(8));
    assert!(steps(&out).values().all(|&count| count == 1));

    // Training must have done something, and the untrained base is there to compare with.
    let events = sink.events();
    let losses: Vec<f64> = events
        .iter()
        .filter_map(|event| match event {
            Event::Round { train_loss, committed: true, .. } => Some(*train_loss),
            _ => None,
        })
        .collect();
    assert!(losses[1] < losses[0], "{losses:?}");
    assert_eq!(summary.scores.iter().map(|s| s.model.as_str()).collect::<Vec<_>>().len(), 5);
    assert!(!std::fs::read_to_string(out.join("metrics.jsonl")).unwrap().contains("\"progress\""));
}

#[test]
fn threads_and_repeats_change_no_byte() {
    let root = tempfile::tempdir().unwrap();
    let inputs = inputs();
    let run = |name: &str, threads: usize| {
        let out = root.path().join(name);
        let config = Config { threads, ..config() };
        simulate(&config, &inputs, &out, &NullSink, &StopFlag::new()).unwrap();
        promised(&out)
    };
    let one = run("one", 1);
    assert!(one == run("two", 2), "one and two threads differ");
    assert!(one == run("again", 1), "two runs differ");
}

#[test]
fn a_run_stopped_anywhere_ends_with_the_bytes_of_an_unbroken_one() {
    let root = tempfile::tempdir().unwrap();
    let (config, inputs) = (config(), inputs());
    let whole = root.path().join("whole");
    let expected = simulate(&config, &inputs, &whole, &NullSink, &StopFlag::new()).unwrap();
    let stops: [(&str, usize, Matches); 4] = [
        ("local", 3, |e| matches!(e, Event::Step { model, .. } if model == "local-north")),
        ("second round", 6, |e| matches!(e, Event::Step { model, .. } if model == "federated")),
        ("pooled", 2, |e| matches!(e, Event::Step { model, .. } if model == "pooled")),
        ("answers", 3, |e| matches!(e, Event::Progress { .. })),
    ];
    for (place, count, matches) in stops {
        let out = root.path().join(place);
        let sink = StopWhen::new(count, matches);
        let stopped = simulate(&config, &inputs, &out, &sink, &sink.stop);
        assert!(
            matches!(&stopped, Err(ExperimentError::Stopped { out: o }) if *o == out),
            "{place}: {stopped:?}"
        );
        assert!(!out.join("summary.json").exists());
        let summary = simulate(&config, &inputs, &out, &NullSink, &StopFlag::new()).unwrap();
        assert!(promised(&out) == promised(&whole), "{place}: other bytes");
        assert_eq!(summary.verdict, expected.verdict, "{place}");
        assert_eq!(steps(&out), steps(&whole), "{place}: each step once");
    }
}

#[test]
fn another_configuration_or_other_rows_are_refused_and_a_finished_run_is_not_repeated() {
    let root = tempfile::tempdir().unwrap();
    let (config, mut inputs) = (config(), inputs());
    let go = |config: &Config, inputs: &_| simulate(config, inputs, root.path(), &NullSink, &StopFlag::new());
    let first = go(&config, &inputs).unwrap();
    assert_eq!(go(&config, &inputs).unwrap(), first);
    let mut other = config.clone();
    other.federation.rounds = 3;
    let error = go(&other, &inputs).unwrap_err().to_string();
    assert!(error.contains("federation.rounds was 2, now it is 3"), "{error}");
    inputs.shards[0].train.pop();
    assert!(matches!(go(&config, &inputs), Err(ExperimentError::OtherInputs { what: "set of rows", .. })));
    inputs.shards[1].name = "north".into();
    let error = go(&config, &inputs).unwrap_err().to_string();
    assert!(error.contains("share a folder"), "{error}");
}
