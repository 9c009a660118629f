//! The one test target that looks at real material: models, tokenizers, rows and scores in the folder that
//! `CONSILIUM_REFERENCE_DIR` names. None of it is part of this project; where the variable is unset, every test here
//! says so and checks nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use consilium_core::engine::Engine;
use consilium_core::hash::sha256_hex;
use consilium_core::{Batch, Decoding, LoraConfig};
use consilium_data::{Columns, Hub, ReadOptions, ReadReport, Template, TextTokenizer, permutation, read};
use consilium_engine::{CpuEngine, Model};
use consilium_eval::{porter, rouge};
use serde_json::Value;

/// `data/{path}` in the reference folder, or `None`, said aloud, when there is no such folder.
fn reference(path: &str) -> Option<PathBuf> {
    match std::env::var_os("CONSILIUM_REFERENCE_DIR") {
        Some(folder) => Some(PathBuf::from(folder).join("data").join(path)),
        None => {
            eprintln!("CONSILIUM_REFERENCE_DIR is unset: nothing was checked against data/{path}");
            None
        }
    }
}

fn json(path: &str) -> Option<Value> {
    reference(path).map(|file| {
        let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        serde_json::from_str(&text).unwrap()
    })
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

// ---- stories260K: a small Llama that was really trained --------------------------------------------------------

fn stories() -> Option<(CpuEngine, TextTokenizer, Value)> {
    let folder = reference("stories260k")?;
    let model = Arc::new(Model::load(&folder).unwrap());
    let tokenizer = TextTokenizer::from_dir(&folder, model.config().eos_ids[0]).unwrap();
    let engine = CpuEngine::new(model, &LoraConfig::default(), 1).unwrap();
    Some((engine, tokenizer, json("stories260k/golden.json").unwrap()))
}

/// The log-probability of each id of the vocabulary after `prompt`.
fn next(engine: &mut dyn Engine, prompt: &[u32]) -> Vec<f64> {
    let mut batch = Batch::new();
    let row: Vec<u32> = prompt.iter().copied().chain([0]).collect();
    let mut weights = vec![0.0; row.len()];
    weights[prompt.len()] = 1.0;
    batch.push(&row, &weights);
    let mut score = |id: usize| {
        batch.targets[prompt.len() - 1] = id as u32;
        f64::from(engine.score(&batch).unwrap()[prompt.len() - 1])
    };
    (0..512).map(&mut score).collect()
}

#[test]
fn stories260k_logits() {
    let Some((mut engine, _, golden)) = stories() else { return };
    for case in golden["cases"].as_array().unwrap() {
        let found = next(&mut engine, &ids(&case["prompt_ids"]));
        let top = case["last_logits_top5"].as_array().unwrap();
        let (best, best_logit) = (top[0][0].as_u64().unwrap() as usize, top[0][1].as_f64().unwrap());
        // Logits from log-probabilities: they differ by one number for the whole row.
        let shift = best_logit - found[best];
        let close = |id: usize, logit: f64| {
            assert!(
                (found[id] + shift - logit).abs() < 2e-4,
                "id {id}: {} instead of {logit}",
                found[id] + shift
            );
        };
        for pair in top {
            close(pair[0].as_u64().unwrap() as usize, pair[1].as_f64().unwrap());
        }
        for (id, logit) in numbers(&case["last_logits_first8"]).into_iter().enumerate() {
            close(id, logit);
        }
        let sum: f64 = found.iter().map(|f| f + shift).sum();
        let expected = case["last_logits_sum"].as_f64().unwrap();
        assert!((sum - expected).abs() < 5e-5 * expected.abs(), "sum of logits {sum} instead of {expected}");
    }
}

#[test]
fn stories260k_likelihood() {
    let Some((mut engine, tokenizer, golden)) = stories() else { return };
    let row = ids(&golden["loss"]["ids"]);
    assert_eq!(tokenizer.encode_prompt(golden["loss"]["text"].as_str().unwrap()).unwrap(), row);
    let mut batch = Batch::new();
    batch.push(&row, &vec![1.0; row.len()]);
    let scores = engine.score(&batch).unwrap();
    for (score, expected) in scores.iter().zip(numbers(&golden["loss"]["per_token_nll"])) {
        assert!((f64::from(-score) - expected).abs() < 5e-5, "{} instead of {expected}", -score);
    }
    let (mean, expected) =
        (engine.loss(&batch).unwrap().mean(), golden["loss"]["mean_nll"].as_f64().unwrap());
    assert!((mean - expected).abs() < 5e-5, "{mean} instead of {expected}");
}

#[test]
fn stories260k_greedy_text() {
    let Some((mut engine, tokenizer, golden)) = stories() else { return };
    let cases = golden["cases"].as_array().unwrap();
    let prompts: Vec<Vec<u32>> =
        cases.iter().map(|c| tokenizer.encode_prompt(c["prompt"].as_str().unwrap()).unwrap()).collect();
    let decoding = Decoding { max_new_tokens: 60, ..Decoding::default() };
    let found = engine.generate(&prompts, &decoding, &mut |_, _| true).unwrap();
    for ((case, prompt), found) in cases.iter().zip(&prompts).zip(found) {
        assert_eq!(*prompt, ids(&case["prompt_ids"]));
        assert_eq!(found.ids, ids(&case["greedy_ids"]), "after {:?}", case["prompt"]);
        let all: Vec<u32> = prompt.iter().chain(&found.ids).copied().collect();
        assert_eq!(tokenizer.decode(&all), case["text"].as_str().unwrap());
    }
}

// ---- SmolLM2's tokenizer and the CARDBiomedBench rows ----------------------------------------------------------

fn smollm2() -> Option<TextTokenizer> {
    reference("smollm2-135m").map(|folder| TextTokenizer::from_dir(&folder, 0).unwrap())
}

#[test]
fn smollm2_encodings() {
    let Some(tokenizer) = smollm2() else { return };
    let golden = json("smollm2-135m/golden_encodings.json").unwrap();
    for case in golden["encodings"].as_array().unwrap() {
        let (text, expected) = (case["text"].as_str().unwrap(), ids(&case["ids"]));
        assert_eq!(tokenizer.encode_prompt(text).unwrap(), expected, "{text:?}");
        // Ids 0 to 16 are special and leave no text behind; the golden file spells them out.
        if expected.iter().all(|&id| id > 16) {
            assert_eq!(tokenizer.decode(&expected), case["decoded"].as_str().unwrap());
        }
    }
}

fn rows(category: &str, filter: Vec<(String, Vec<String>)>) -> Option<ReadReport> {
    let file = reference("cardbiomed/rows.csv")?;
    let columns = Columns { category: Some(category.to_owned()), ..Columns::default() };
    let options = ReadOptions { columns, filter, ..ReadOptions::default() };
    Some(read(file.to_str().unwrap(), &options, &Hub::from_env()).unwrap())
}

fn count_categories(report: &ReadReport) -> BTreeMap<&str, u64> {
    let mut counts = BTreeMap::new();
    for example in &report.examples {
        *counts.entry(example.category.as_str()).or_insert(0) += 1;
    }
    counts
}

#[test]
fn cardbiomed_counts() {
    let Some(report) = rows("bio_category", Vec::new()) else { return };
    let golden = json("cardbiomed/counts.json").unwrap();
    let expected = |key: &str| -> BTreeMap<String, u64> {
        let pairs = golden[key].as_array().unwrap().iter();
        pairs.map(|p| (p[0].as_str().unwrap().to_owned(), p[1].as_u64().unwrap())).collect()
    };
    let owned = |report: &ReadReport| -> BTreeMap<String, u64> {
        count_categories(report).into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
    };
    assert_eq!((report.rows, report.examples.len(), report.bad_count), (6367, 6367, 0));
    assert_eq!(owned(&report), expected("all"));
    assert_eq!(owned(&rows("status", Vec::new()).unwrap()), expected("status"));
    let shown = ["template", "expert"].map(String::from).to_vec();
    let filtered = rows("bio_category", vec![("status".into(), shown)]).unwrap();
    assert_eq!(owned(&filtered), expected("template_and_expert_only"));
    assert_eq!(filtered.filtered + filtered.examples.len(), 6367);

    let template = vec![("status".to_owned(), vec!["template".to_owned()])];
    let sites = rows("template_uuid", template).unwrap();
    assert_eq!(
        count_categories(&sites).into_iter().collect::<Vec<_>>(),
        [("Q2", 1000), ("Q3", 1000), ("Q35", 1997), ("Q42", 2000), ("Q5", 208)]
    );
    let names: std::collections::HashSet<&str> = report.examples.iter().map(|e| e.id.as_str()).collect();
    assert!(names.len() > 6000, "{} different ids", names.len());
}

#[test]
fn cardbiomed_token_statistics() {
    let Some(tokenizer) = smollm2() else { return };
    let template = vec![("status".to_owned(), vec!["template".to_owned()])];
    let examples = rows("bio_category", template).unwrap().examples;
    let workshop = Template::workshop();
    let encoded: Vec<_> =
        examples.iter().map(|e| tokenizer.encode_example(&workshop, e, 1024).unwrap()).collect();
    assert!(encoded.iter().all(|row| !row.truncated && row.ids.last() == Some(&0)));
    let mut lengths: Vec<usize> = encoded.iter().map(|row| row.ids.len()).collect();
    lengths.sort_unstable();
    assert_eq!(
        (lengths.len(), lengths[0], lengths[lengths.len() / 2], lengths[lengths.len() - 1]),
        (6205, 62, 119, 270)
    );
    let first = &encoded[0].ids;
    let shared = (0..62).take_while(|&i| encoded.iter().all(|row| row.ids[i] == first[i])).count();
    assert_eq!(shared, 22);
    for (row, example) in encoded.iter().zip(&examples).step_by(97) {
        let answer = &row.ids[row.loss_from..row.ids.len() - 1];
        assert_eq!(tokenizer.decode(answer), example.answer.trim());
        assert_eq!(
            row.ids[..row.loss_from],
            tokenizer.encode_prompt(&workshop.prompt(&example.question)).unwrap()
        );
    }
}

// ---- numpy and rouge_score -------------------------------------------------------------------------------------

#[test]
fn numpy_permutations() {
    let Some(golden) = json("numpy_rng/vectors.json") else { return };
    let cases = golden["permutation"].as_object().unwrap();
    assert!(cases.len() >= 10);
    for (name, case) in cases {
        let (seed, n) = name.strip_prefix("seed").unwrap().split_once("_n").unwrap();
        let found = permutation(seed.parse().unwrap(), n.parse().unwrap());
        let first: Vec<u32> = found.iter().take(20).map(|&i| i as u32).collect();
        assert_eq!(first, ids(&case["first20"]), "{name}");
        let bytes: Vec<u8> = found.iter().flat_map(|&i| (i as i64).to_le_bytes()).collect();
        assert_eq!(sha256_hex(&bytes), case["sha256_i64le"].as_str().unwrap(), "{name}");
    }
}

#[test]
fn rouge_of_published_answers() {
    let (Some(pairs), Some(golden)) = (json("rouge/pairs.json"), json("rouge/vectors.json")) else { return };
    let pairs = pairs.as_array().unwrap();
    assert_eq!(pairs.len(), 500);
    let text = |pair: &Value, field: &str| pair[field].as_str().unwrap().to_owned();
    for (set, by_stemming) in golden["sets"].as_object().unwrap() {
        for (key, stemmed) in [("stemmer_true", true), ("stemmer_false", false)] {
            let expected = &by_stemming[key];
            let found: Vec<_> =
                pairs.iter().map(|p| rouge(&text(p, set), &text(p, "reference"), stemmed)).collect();
            for name in ["rouge1", "rouge2", "rougeL"] {
                let values: Vec<f64> = found
                    .iter()
                    .map(|r| match name {
                        "rouge1" => r.rouge1,
                        "rouge2" => r.rouge2,
                        _ => r.rouge_l,
                    })
                    .collect();
                for (i, (value, want)) in
                    values.iter().zip(numbers(&expected["per_pair_fmeasure"][name])).enumerate()
                {
                    assert!(
                        (value - want).abs() < 1e-12,
                        "{set} {key} {name}, pair {i}: {value} instead of {want}"
                    );
                }
                for (category, want) in expected["mean_per_category"].as_object().unwrap() {
                    let of = pairs.iter().zip(&values).filter(|(p, _)| p["bio_category"] == **category);
                    let chosen: Vec<f64> = of.map(|(_, value)| *value).collect();
                    let mean = chosen.iter().sum::<f64>() / chosen.len() as f64;
                    let want = want[name].as_f64().unwrap();
                    assert!(
                        (mean - want).abs() < 1e-12,
                        "{set} {key} {name}, {category}: {mean} instead of {want}"
                    );
                }
                let mean = values.iter().sum::<f64>() / values.len() as f64;
                assert!(
                    (mean - expected["mean"][name].as_f64().unwrap()).abs() < 1e-12,
                    "{set} {key} {name}, mean"
                );
            }
        }
    }
}

#[test]
fn porter_stems_and_words() {
    let Some(golden) = json("rouge/stems.json") else { return };
    for (word, expected) in golden["stems"].as_object().unwrap() {
        let found = if word.len() > 3 { porter::stem(word) } else { word.clone() };
        assert_eq!(found, expected.as_str().unwrap(), "stem of {word}");
    }
    let words = |value: &Value| -> Vec<String> {
        value.as_array().unwrap().iter().map(|w| w.as_str().unwrap().to_owned()).collect()
    };
    for case in golden["tokenize"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        assert_eq!(rouge::tokenize(text, true), words(&case["stemmed"]));
        assert_eq!(rouge::tokenize(text, false), words(&case["plain"]));
    }
}
