//! Preparing a federation between machines: each site's rows in a file of its own, and the first adapter.

mod common;

use std::path::Path;

use common::run;
use consilium_data::{Example, Hub, ReadOptions, read};

const ROWS: &str = "\
question,answer,ward,id
\"What is \"\"it\"\", then?\",\"First line
second, line\",north/1,a
Plain?,\" spaced \",south ward,b
\"Comma, comma\",\"\"\"\",north/1,c
";

fn back(path: &Path) -> Vec<Example> {
    read(&path.to_string_lossy(), &ReadOptions::default(), &Hub::from_env()).unwrap().examples
}

#[test]
fn each_site_gets_its_own_rows_and_they_read_back_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    std::fs::write(here.join("rows.csv"), ROWS).unwrap();
    let partition = ["data", "partition", "--data", "rows.csv", "--partition-by", "ward", "--out", "sites"];
    let said = run(here, &[&partition[..], &["--json"]].concat()).json();
    let sites: Vec<(&str, &str, u64)> = said["sites"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| (s["site"].as_str().unwrap(), s["file"].as_str().unwrap(), s["rows"].as_u64().unwrap()))
        .collect();
    assert_eq!(sites, [("north/1", "sites/north_1.csv", 2), ("south ward", "sites/south_ward.csv", 1)]);

    let row = |id: &str, question: &str, answer: &str, category: &str| Example {
        id: id.into(),
        question: question.into(),
        answer: answer.into(),
        category: category.into(),
    };
    let north = [
        row("a", "What is \"it\", then?", "First line\nsecond, line", "north/1"),
        row("c", "Comma, comma", "\"", "north/1"),
    ];
    assert_eq!(back(&here.join("sites/north_1.csv")), north);
    assert_eq!(back(&here.join("sites/south_ward.csv")), [row("b", "Plain?", " spaced ", "south ward")]);

    run(here, &partition).refused(2, &["sites is not empty", "--force"]);
    let forced = run(here, &[&partition[..], &["--force"]].concat());
    assert_eq!(forced.code, Some(0), "{}", forced.err);
    for words in ["site", "north/1", "south ward", "sites/south_ward.csv"] {
        assert!(forced.out.contains(words), "{words} in {}", forced.out);
    }
    run(here, &partition[..6]).refused(2, &["no folder to write to is named", "--out"]);
}

#[test]
fn sites_that_would_share_a_file_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("rows.csv"), ROWS.replace("south ward", "north_1")).unwrap();
    run(dir.path(), &["data", "partition", "--data", "rows.csv", "--partition-by", "ward", "--out", "sites"])
        .refused(3, &["north/1", "north_1", "rename"]);
    assert_eq!(std::fs::read_dir(dir.path().join("sites")).unwrap().count(), 0);
}

#[test]
fn the_demo_s_rows_come_apart_by_hospital_with_their_tests() {
    let dir = tempfile::tempdir().unwrap();
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo");
    let path = |name: &str| demo.join(name).to_string_lossy().into_owned();
    let (config, train, test) = (path("consilium.toml"), path("data/train.csv"), path("data/test.csv"));
    let partition = ["data", "partition", "--config", &config, "--data", &train, "--test-data", &test];
    let said = run(dir.path(), &[&partition[..], &["--out", "sites", "--json"]].concat()).json();
    let sites = said["sites"].as_array().unwrap();
    assert_eq!(sites.len(), 5);
    let (all, all_tests) = (back(Path::new(&train)), back(Path::new(&test)));
    for site in sites {
        let name = site["site"].as_str().unwrap();
        for (key, all) in [("file", &all), ("test_file", &all_tests)] {
            let own: Vec<Example> = all.iter().filter(|row| row.category == name).cloned().collect();
            assert!(!own.is_empty());
            assert_eq!(back(&dir.path().join(site[key].as_str().unwrap())), own, "{name}");
        }
    }
}

#[test]
fn the_first_adapter_is_the_same_everywhere_and_reads_as_peft() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    let init = ["adapter", "init", "--model", "demo", "--rank", "2", "--seed", "7", "--json"];
    let make = |more: &[&str]| run(here, &[&init[..], more].concat());
    let first = make(&["--out", "one"]).json();
    let again = make(&["--out", "two"]).json();
    assert_eq!(first["adapter_sha256"], again["adapter_sha256"]);
    let weights = std::fs::read(here.join("one/adapter_model.safetensors")).unwrap();
    assert_eq!(first["adapter_sha256"], consilium_core::peft::decode_weights(&weights).unwrap().sha256());
    assert!(here.join("one/adapter_config.json").is_file());
    let other =
        run(here, &["adapter", "init", "--model", "demo", "--rank", "2", "--seed", "8", "--out", "b"]);
    assert!(!other.out.contains(first["adapter_sha256"].as_str().unwrap()), "{}", other.out);
    make(&["--out", "one"]).refused(2, &["one is not empty", "--force"]);
    make(&[]).refused(2, &["no folder"]);
}
