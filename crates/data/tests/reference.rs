//! Checks against material that is not part of the project, in the folder that `CONSILIUM_REFERENCE_DIR` names.
//!
//! Without the variable these tests say so and check nothing.

use std::path::PathBuf;

use consilium_data::inspect::Lengths;
use consilium_data::{
    Example, Hub, Partition, ReadOptions, Template, TextTokenizer, partition, permutation, read,
};
use serde_json::Value;

fn reference(name: &str) -> Option<PathBuf> {
    match std::env::var_os("CONSILIUM_REFERENCE_DIR") {
        Some(dir) => Some(PathBuf::from(dir).join("data").join(name)),
        None => {
            eprintln!("CONSILIUM_REFERENCE_DIR is not set: {name} not checked");
            None
        }
    }
}

fn json(path: PathBuf) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn large_permutations_have_the_published_hashes() {
    let Some(path) = reference("numpy_rng/vectors.json") else { return };
    let vectors = json(path);
    let permutations = vectors["permutation"].as_object().unwrap();
    assert!(permutations.len() >= 10);
    for (name, expected) in permutations {
        let (seed, n) = name.strip_prefix("seed").unwrap().split_once("_n").unwrap();
        let order = permutation(seed.parse().unwrap(), n.parse().unwrap());
        let bytes: Vec<u8> = order.iter().flat_map(|&index| (index as i64).to_le_bytes()).collect();
        assert_eq!(consilium_core::hash::sha256_hex(&bytes), expected["sha256_i64le"], "{name}");
    }
}

#[test]
fn the_real_tokenizer_encodes_and_decodes_as_published() {
    let Some(dir) = reference("smollm2-135m") else { return };
    let tokenizer = TextTokenizer::from_dir(&dir, 0).unwrap();
    tokenizer.check_fits(49_152).unwrap();
    let golden = json(dir.join("golden_encodings.json"));
    let cases = golden["encodings"].as_array().unwrap();
    assert!(!cases.is_empty());
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let expected = ids(&case["ids"]);
        assert_eq!(tokenizer.encode_prompt(text).unwrap(), expected, "{text:?}");
        // The published texts keep special tokens, ours leave them out.
        if expected.iter().all(|&id| id > 16) {
            assert_eq!(tokenizer.decode(&expected), case["decoded"].as_str().unwrap(), "{text:?}");
        }
    }
}

#[test]
fn real_rows_have_the_published_lengths_and_a_common_beginning() {
    let (Some(rows), Some(dir)) = (reference("cardbiomed/rows.csv"), reference("smollm2-135m")) else {
        return;
    };
    let tokenizer = TextTokenizer::from_dir(&dir, 0).unwrap();
    let report = read(rows.to_str().unwrap(), &ReadOptions::default(), &Hub::from_env()).unwrap();
    assert_eq!((report.examples.len(), report.bad_count), (6367, 0));
    let encoded = tokenizer.encode_all(&Template::workshop(), &report.examples, 8192).unwrap();
    assert_eq!(encoded.truncated, 0);
    let first = &encoded.rows[0].ids;
    for row in &encoded.rows {
        assert_eq!(row.ids[..22], first[..22], "the first 22 tokens are the template's");
        assert_eq!(row.ids.last(), Some(&0));
    }
    let published = &json(dir.join("golden_encodings.json"))["row_token_lengths"];
    let of_templates =
        ReadOptions { filter: vec![("status".into(), vec!["template".into()])], ..ReadOptions::default() };
    let templates = read(rows.to_str().unwrap(), &of_templates, &Hub::from_env()).unwrap();
    let encoded_templates = tokenizer.encode_all(&Template::workshop(), &templates.examples, 8192).unwrap();
    let lengths = Lengths::of(encoded_templates.rows.iter().map(|row| row.ids.len()).collect());
    for (name, value) in
        [("min", lengths.min), ("p50", lengths.p50), ("p95", lengths.p95), ("max", lengths.max)]
    {
        assert_eq!(published[name], value, "{name}");
    }
    // The lengths were taken of 6,208 rows, three more than the file has.
    let mean = published["mean"].as_f64().unwrap();
    assert!((mean - lengths.mean).abs() < 0.05, "mean {} instead of {mean}", lengths.mean);
    for (row, example) in encoded.rows.iter().zip(&report.examples).step_by(97) {
        let answer = tokenizer.decode(&row.ids[row.loss_from..]);
        assert_eq!(answer, example.answer.trim(), "the answer's tokens are the answer");
    }
}

#[test]
fn templates_of_questions_are_a_natural_five_site_split() {
    let Some(rows) = reference("cardbiomed/rows.csv") else { return };
    let mut options = ReadOptions::default();
    options.columns.category = Some("template_uuid".into());
    let report = read(rows.to_str().unwrap(), &options, &Hub::from_env()).unwrap();
    let sites: Vec<String> = ["Q2", "Q3", "Q5", "Q35", "Q42"].map(String::from).to_vec();
    let shards = partition(report.examples, &Partition::ByCategory, Some(&sites), 42).unwrap();
    let sizes: Vec<usize> = shards.iter().map(|shard| shard.examples.len()).collect();
    // Counted with Python's csv module.
    assert_eq!(sizes, [1001, 1001, 209, 1998, 2001]);
}

#[test]
fn stories260k_begins_with_bos_and_ends_with_the_id() {
    let Some(dir) = reference("stories260k") else { return };
    let config = json(dir.join("config.json"));
    let eos = config["eos_token_id"].as_u64().unwrap() as u32;
    let tokenizer = TextTokenizer::from_dir(&dir, eos).unwrap();
    tokenizer.check_fits(config["vocab_size"].as_u64().unwrap() as usize).unwrap();
    let example = Example {
        id: String::new(),
        question: "Who is Tim?".into(),
        answer: "A boy.".into(),
        category: String::new(),
    };
    let row = tokenizer.encode_example(&Template::workshop(), &example, 512).unwrap();
    assert_eq!((row.ids[0], row.ids[row.ids.len() - 1]), (1, eos));
    assert_eq!(tokenizer.decode(&row.ids[row.loss_from..]).trim(), "A boy.");
}
