//! Help, wrong usage and configuration: what the words are and which exit code they come with.

mod common;

use common::{consilium, run, said};

const COMMANDS: [&str; 12] = [
    "demo",
    "simulate",
    "train",
    "evaluate",
    "score",
    "ask",
    "export",
    "report",
    "data",
    "adapter",
    "doctor",
    "completions",
];

#[test]
fn help_names_every_command_and_the_exit_codes() {
    let dir = tempfile::tempdir().unwrap();
    let help = run(dir.path(), &["--help"]);
    assert_eq!(help.code, Some(0));
    for command in COMMANDS {
        assert!(help.out.contains(&format!("\n  {command}")), "{command} in {}", help.out);
        let own = run(dir.path(), &[command, "--help"]);
        assert_eq!(own.code, Some(0), "{command}");
    }
    assert!(help.out.contains("130  stopped by Ctrl-C"), "{}", help.out);
}

#[test]
fn every_command_shows_an_example_that_parses() {
    let dir = tempfile::tempdir().unwrap();
    for command in ["demo", "simulate", "train", "evaluate", "score", "ask", "export", "report", "doctor"] {
        let help = run(dir.path(), &[command, "--help"]).out;
        assert!(help.contains(&format!("consilium {command}")), "no example in the help of {command}");
    }
}

#[test]
fn the_promised_flags_exist() {
    let dir = tempfile::tempdir().unwrap();
    let simulate = run(dir.path(), &["simulate", "--help"]).out;
    for flag in [
        "--model",
        "--data",
        "--partition-by",
        "--sites",
        "--rounds",
        "--seed",
        "--out",
        "--preset",
        "--config",
        "--threads",
        "--json",
    ] {
        assert!(simulate.contains(flag), "{flag}");
    }
    let train = run(dir.path(), &["train", "--help"]).out;
    assert!(train.contains("--init-adapter") && train.contains("--no-shuffle"));
    assert!(run(dir.path(), &["evaluate", "--help"]).out.contains("--predictions"));
}

#[test]
fn wrong_usage_ends_with_2() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), &["simulate", "--no-such-flag"]).refused(2, &["--no-such-flag"]);
    run(dir.path(), &["simulate", "--rounds", "many"]).refused(2, &["many"]);
    run(dir.path(), &["federate"]).refused(2, &["federate"]);
    run::<&str>(dir.path(), &[]).refused(2, &[]);
}

#[test]
fn an_unknown_key_names_its_source_and_the_nearest_valid_one() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("mine.toml"), "[train]\nlearning_rat = 1e-3\n").unwrap();
    run(dir.path(), &["simulate", "--config", "mine.toml"])
        .refused(2, &["mine.toml", "learning_rat", "did you mean 'learning_rate'"]);
    run(dir.path(), &["simulate", "--set", "federation.round=3"]).refused(2, &["--set", "'rounds'"]);
    let environment =
        said(consilium(dir.path()).arg("simulate").env("CONSILIUM_SEDE", "3").output().unwrap());
    environment.refused(2, &["environment", "'seed'"]);
}

#[test]
fn configuration_that_makes_no_sense_ends_with_2_and_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), &["simulate", "--rounds", "0"]).refused(2, &["federation.rounds"]);
    run(dir.path(), &["simulate", "--config", "missing.toml"]).refused(2, &["missing.toml"]);
    std::fs::write(dir.path().join("broken.toml"), "[train\n").unwrap();
    run(dir.path(), &["simulate", "--config", "broken.toml"]).refused(2, &["broken.toml", "line 1"]);
    run(dir.path(), &["simulate", "--partition", "halves"]).refused(2, &["halves", "dirichlet"]);
    run(dir.path(), &["simulate", "--targets", "q,lm_head"]).refused(2, &["lm_head"]);
}

#[test]
fn completions_name_the_commands() {
    let dir = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = run(dir.path(), &["completions", shell]);
        assert_eq!(script.code, Some(0));
        assert!(script.out.contains("simulate"), "{shell}");
    }
    run(dir.path(), &["completions", "tcsh"]).refused(2, &["tcsh"]);
}
