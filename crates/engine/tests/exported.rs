//! An adapter that this project wrote, which Python's PEFT has loaded: `golden/exported`, checked by
//! `golden/check_peft.py`. Here we check that the files are still the ones we would write and mean the same to us.

mod common;

use std::path::PathBuf;

use common::{Case, Row, engine_with, fill_b, golden_dir, pack};
use consilium_core::{Adapter, Engine, LoraConfig, Target, peft};
use consilium_engine::initial_adapter;
use serde::{Deserialize, Serialize};

/// What `check_peft.py` compares: the log-probability of each next token.
#[derive(Serialize, Deserialize)]
struct Scores {
    ids: Vec<u32>,
    log_probs: Vec<f32>,
}

fn folder() -> PathBuf {
    golden_dir().join("exported")
}

fn lora() -> LoraConfig {
    LoraConfig { rank: 3, alpha: 4.5, dropout: 0.1, targets: Target::ALL.into(), rslora: true }
}

/// Random numbers only: training would give other bytes on other instruction sets.
fn adapter(case: &Case) -> Adapter {
    fill_b(&initial_adapter(case.model.config(), &lora(), 11), 0.3, 11)
}

fn scores(case: &Case, rows: &[Row]) -> Vec<Scores> {
    let mut engine = engine_with(&case.model, &lora(), &adapter(case), 1);
    let mut score = |row: &Row| {
        let mut log_probs = engine.score(&pack([row], 1.0)).unwrap();
        log_probs.pop();
        Scores { ids: row.ids.clone(), log_probs }
    };
    rows.iter().map(&mut score).collect()
}

#[test]
fn the_exported_files_are_still_what_we_write() {
    let case = Case::load("all_linear");
    let read = |name: &str| std::fs::read(folder().join(name)).unwrap();
    assert!(read(peft::WEIGHTS_FILE) == peft::encode_weights(&adapter(&case)));
    assert_eq!(
        String::from_utf8(read(peft::CONFIG_FILE)).unwrap(),
        peft::encode_config(&lora(), "all_linear")
    );
}

#[test]
fn the_exported_adapter_means_what_it_meant_to_peft() {
    let case = Case::load("all_linear");
    let text = std::fs::read_to_string(folder().join("scores.json")).unwrap();
    let expected: Vec<Scores> = serde_json::from_str(&text).unwrap();
    for (found, expected) in scores(&case, &case.expected.rows).iter().zip(&expected) {
        assert_eq!(found.ids, expected.ids);
        for (a, b) in found.log_probs.iter().zip(&expected.log_probs) {
            assert!((a - b).abs() < 1e-4, "{a} instead of {b}");
        }
    }
}

/// Writes `golden/exported`. Run `golden/check_peft.py` afterwards.
#[test]
#[ignore = "writes golden/exported anew"]
fn write_exported() {
    let case = Case::load("all_linear");
    std::fs::create_dir_all(folder()).unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder().join(name), bytes).unwrap();
    write(peft::WEIGHTS_FILE, &peft::encode_weights(&adapter(&case)));
    write(peft::CONFIG_FILE, peft::encode_config(&lora(), "all_linear").as_bytes());
    let lines: Vec<String> =
        scores(&case, &case.expected.rows).iter().map(|s| serde_json::to_string(s).unwrap()).collect();
    write("scores.json", format!("[\n{}\n]\n", lines.join(",\n")).as_bytes());
}
