//! Commands that look without training: `data inspect`, `doctor`, `score`, `ask`.

mod common;

use common::run;

const ROWS: &str =
    "question,answer,category\nWhat is it?,A test.,one\nWho is it?,\"Nobody, yet.\",two\nWhy?,,two\n";

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("rows.csv"), ROWS).unwrap();
    dir
}

#[test]
fn inspect_shows_categories_lengths_and_which_tokens_carry_loss() {
    let dir = folder();
    let all = ["data", "inspect", "rows.csv", "--max-bad-rows", "1", "--prompt-loss-weight", "0"];
    let text = run(dir.path(), &all);
    assert_eq!(text.code, Some(0), "{}", text.err);
    for word in ["2 rows", "1 bad", "rows.csv:4", "### Response:", "[A test.]", "one", "two"] {
        assert!(text.out.contains(word), "{word} in {}", text.out);
    }
    let seen = run(dir.path(), &[&all[..], &["--json"]].concat()).json();
    let tokens = seen["example"]["tokens"].as_array().unwrap();
    let carried: Vec<f64> = tokens.iter().map(|token| token["weight"].as_f64().unwrap()).collect();
    let answer = seen["answer_tokens"]["max"].as_u64().unwrap();
    assert!(carried.iter().filter(|&&weight| weight == 1.0).count() as u64 <= answer);
    assert_eq!((carried[0], carried[tokens.len() - 1]), (0.0, 1.0), "prompt 0, end of text 1");
}

#[test]
fn unusable_data_ends_with_3_and_says_what_to_mend() {
    let dir = folder();
    run(dir.path(), &["data", "inspect", "rows.csv"]).refused(3, &["rows.csv:4", "max_bad_rows"]);
    run(dir.path(), &["data", "inspect", "gone.csv"]).refused(3, &["gone.csv"]);
    run(dir.path(), &["data", "inspect", "rows.csv", "--answer-column", "anwser"])
        .refused(3, &["anwser", "`answer`"]);
    std::fs::write(dir.path().join("empty.csv"), "").unwrap();
    run(dir.path(), &["data", "inspect", "empty.csv"]).refused(3, &["empty.csv"]);
}

#[test]
fn a_hub_id_without_network_fails_clearly() {
    let dir = folder();
    run(dir.path(), &["data", "inspect", "rows.csv", "--max-bad-rows", "1", "--model", "nobody/nothing"])
        .refused(1, &["nobody/nothing"]);
    run(dir.path(), &["ask", "--model", "no-such-directory", "Why?"]).refused(3, &["no-such-directory"]);
}

#[test]
fn scores_of_tokens_add_up() {
    let dir = folder();
    let scored =
        run(dir.path(), &["score", "--model", "demo", "--text", "Name the gene of the drug.", "--json"])
            .json();
    let tokens = scored["by_token"].as_array().unwrap();
    let sum: f64 = tokens.iter().filter_map(|token| token["log_probability"].as_f64()).sum();
    let total = scored["log_probability"].as_f64().unwrap();
    assert!((sum - total).abs() < 1e-4 && total < 0.0, "{sum} against {total}");
    assert_eq!(scored["tokens"].as_u64().unwrap() as usize, tokens.len() - 1);
    let perplexity = (-total / (tokens.len() - 1) as f64).exp();
    assert!((scored["perplexity"].as_f64().unwrap() / perplexity - 1.0).abs() < 1e-6);
}

#[test]
fn answers_to_several_questions_come_in_order() {
    let dir = folder();
    let ask = ["ask", "--model", "demo", "--max-new-tokens", "4", "--json", "Why?", "Who is it?"];
    let asked = run(dir.path(), &ask).json();
    assert_eq!(asked[0]["question"], "Why?");
    assert_eq!(asked[1]["answers"][0]["model"], "base");
    run(dir.path(), &["ask", "--model", "demo", "--adapter", "nowhere", "Why?"])
        .refused(1, &["nowhere", "next:"]);
}

#[test]
fn the_doctor_counts_what_travels() {
    let dir = folder();
    let found =
        run(dir.path(), &["doctor", "--model", "demo", "--rank", "4", "--threads", "1", "--json"]).json();
    let needs = &found["needs"];
    // 5 sites, 5 rounds, both ways, 4 bytes a parameter.
    let travels = needs["trainable"].as_u64().unwrap() * 4 * 2 * 5 * 5;
    assert_eq!(needs["session_bytes"].as_u64(), Some(travels));
    assert!(found["training_flops_per_second"].as_f64().unwrap() > 1e6);
    assert!(found["checks"].as_array().unwrap().iter().all(|check| check["text"].is_string()));
    let words = run(dir.path(), &["doctor", "--model", "demo", "--threads", "1"]).out;
    assert!(words.contains("verdict") && words.contains("memory: about"), "{words}");
}
