//! Rows encoded as Hugging Face's `tokenizers` does from Python; fixtures by `golden/make_tokenizer.py`.

use consilium_data::plan::{loss_weights, pack};
use consilium_data::{Example, Template, TextTokenizer};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    tokenizer: String,
    question: String,
    answer: String,
    prompt_ids: Vec<u32>,
    ids: Vec<u32>,
    loss_from: usize,
    decoded: String,
}

const BYTE_LEVEL: &[u8] = include_bytes!("../../../golden/tokenizer/bytelevel.json");
const SPIECE: &[u8] = include_bytes!("../../../golden/tokenizer/spiece.json");

fn tokenizer(name: &str) -> TextTokenizer {
    match name {
        "bytelevel" => TextTokenizer::from_bytes(BYTE_LEVEL, 0).unwrap(),
        _ => TextTokenizer::from_bytes(SPIECE, 2).unwrap(),
    }
}

fn cases() -> Vec<(Case, TextTokenizer, Example)> {
    let golden: Golden =
        serde_json::from_str(include_str!("../../../golden/tokenizer/encodings.json")).unwrap();
    assert_eq!(golden.cases.len(), 10);
    golden
        .cases
        .into_iter()
        .map(|case| {
            let example = Example {
                id: String::new(),
                question: case.question.clone(),
                answer: case.answer.clone(),
                category: String::new(),
            };
            let tokenizer = tokenizer(&case.tokenizer);
            (case, tokenizer, example)
        })
        .collect()
}

#[test]
fn ids_and_answer_borders_equal_pythons() {
    for (case, tokenizer, example) in cases() {
        let template = Template::workshop();
        let tokens = tokenizer.encode_example(&template, &example, 1024).unwrap();
        assert_eq!(tokens.ids, case.ids, "{}: {:?}", case.tokenizer, case.answer);
        assert_eq!(tokens.loss_from, case.loss_from, "{}: {:?}", case.tokenizer, case.answer);
        assert!(!tokens.truncated);
        let prompt = tokenizer.encode_prompt(&template.prompt(&case.question)).unwrap();
        assert_eq!(prompt, case.prompt_ids);
        assert_eq!(tokenizer.decode(&case.ids), case.decoded);
    }
}

#[test]
fn the_answer_part_decodes_to_the_answer() {
    for (case, tokenizer, example) in cases() {
        let tokens = tokenizer.encode_example(&Template::workshop(), &example, 1024).unwrap();
        assert_eq!(tokenizer.decode(&tokens.ids[tokens.loss_from..]).trim(), case.answer.trim());
    }
}

#[test]
fn only_a_tokenizer_with_the_rule_begins_with_bos() {
    assert_eq!(tokenizer("spiece").encode_prompt("fever").unwrap()[0], 1);
    let ids = tokenizer("bytelevel").encode_prompt("fever").unwrap();
    assert_eq!(tokenizer("bytelevel").decode(&ids), "fever");
}

#[test]
fn a_cut_row_says_so_and_has_no_end_of_text() {
    let (case, tokenizer, example) = cases().swap_remove(0);
    let template = Template::workshop();
    let whole = case.ids.len();
    assert!(!tokenizer.encode_example(&template, &example, whole).unwrap().truncated);

    let cut = tokenizer.encode_example(&template, &example, whole - 1).unwrap();
    assert!(cut.truncated);
    assert_eq!(cut.ids, case.ids[..whole - 1], "only the end of text is lost");

    let examples = [example.clone(), example];
    let encoded = tokenizer.encode_all(&template, &examples, case.loss_from).unwrap();
    assert_eq!((encoded.truncated, encoded.answer_lost), (2, 2));
    assert_eq!(encoded.rows[0].loss_from, encoded.rows[0].ids.len());
    assert_eq!(tokenizer.encode_all(&template, &examples, case.loss_from + 1).unwrap().answer_lost, 0);
}

#[test]
fn answer_and_end_of_text_carry_full_weight() {
    let (case, tokenizer, example) = cases().swap_remove(5);
    let tokens = tokenizer.encode_example(&Template::workshop(), &example, 1024).unwrap();
    let weights = loss_weights(&tokens, 0.1);
    assert_eq!(weights[..case.loss_from], vec![0.1; case.loss_from]);
    assert!(weights[case.loss_from..].iter().all(|&weight| weight == 1.0));
    let batch = pack(&[&tokens], 0.0);
    assert_eq!(batch.weight(), (case.ids.len() - case.loss_from) as f64);
    assert_eq!(batch.targets[case.ids.len() - 2], 2, "the end of text is learned");
}

#[test]
fn a_tokenizer_of_another_model_is_refused() {
    let error = TextTokenizer::from_bytes(BYTE_LEVEL, 90_000).unwrap_err().to_string();
    assert!(error.contains("it has no token 90000"), "{error}");
    let error = tokenizer("bytelevel").check_fits(100).unwrap_err().to_string();
    assert_eq!(
        error,
        "the tokenizer has ids up to 399, but the model's vocabulary holds 100: they do not belong together"
    );
    tokenizer("bytelevel").check_fits(400).unwrap();
    assert!(TextTokenizer::from_bytes(b"{}", 0).is_err());
}
