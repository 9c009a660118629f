//! The inspection of a small file: counts, lengths, and each token with its weight.

use consilium_data::{Hub, ReadOptions, Template, TextTokenizer, View, inspect, read};

const TOKENIZER: &[u8] = include_bytes!("../../../golden/tokenizer/spiece.json");

#[test]
fn an_inspection_shows_what_training_will_see() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.csv");
    let text = "question,answer,category\nHow many genes?,4,Genes\nWhich class?,None,Drugs\n,x,Drugs\nIs it?,Yes and more than that,Drugs\n";
    std::fs::write(&path, text).unwrap();
    let options = ReadOptions { max_bad_rows: 1, ..ReadOptions::default() };
    let report = read(path.to_str().unwrap(), &options, &Hub::from_env()).unwrap();
    let (template, tokenizer) = (
        Template::parse("Q: {question}\nA: {answer}").unwrap(),
        TextTokenizer::from_bytes(TOKENIZER, 2).unwrap(),
    );
    let whole =
        View { template: &template, tokenizer: &tokenizer, max_tokens: 512, prompt_loss_weight: 0.5, row: 0 };
    let seen = inspect(&report, &whole).unwrap();
    assert_eq!((seen.rows, seen.bad_count, seen.bad_rows[0].line), (3, 1, 4));
    let categories: Vec<(&str, usize)> = seen.categories.iter().map(|c| (c.name.as_str(), c.rows)).collect();
    assert_eq!(categories, [("Drugs", 2), ("Genes", 1)]);
    assert_eq!(
        (seen.example.prompt.as_str(), seen.example.completion.as_str()),
        ("Q: How many genes?\nA: ", "4")
    );
    assert_eq!(seen.truncated, 0);
    assert!(seen.row_tokens.min <= seen.row_tokens.p50 && seen.row_tokens.p50 <= seen.row_tokens.max);

    let tokens = &seen.example.tokens;
    let (bos, eos) = (&tokens[0], &tokens[tokens.len() - 1]);
    assert_eq!((bos.token.as_str(), bos.weight), ("<s>", 0.0));
    assert_eq!((eos.token.as_str(), eos.weight), ("</s>", 1.0));
    let learned: Vec<u32> = tokens.iter().filter(|token| token.weight == 1.0).map(|token| token.id).collect();
    assert_eq!(tokenizer.decode(&learned).trim(), "4");
    assert!(tokens[1..tokens.len() - learned.len()].iter().all(|token| token.weight == 0.5));

    let longest = seen.row_tokens.max;
    let cut = inspect(&report, &View { max_tokens: longest - 1, row: 2, ..whole }).unwrap();
    assert_eq!((cut.truncated, cut.answer_lost, cut.example.truncated), (1, 0, true));
    assert_eq!(cut.row_tokens, seen.row_tokens, "lengths are those before cutting");
    let error = inspect(&report, &View { row: 3, ..whole }).unwrap_err().to_string();
    assert_eq!(error, "there is no row 3: the data has 3, counted from 0");
    assert!(serde_json::to_value(&seen).unwrap()["example"]["tokens"][0]["weight"] == 0.0);
}
