//! `consilium evaluate`: scores of answers, made by a model here or by any tool.

use std::path::Path;

use anyhow::Result;
use consilium_eval::{GroupScores, ModelScores, Prediction, Scores, corpus_scores, rouge};
use serde::Serialize;

use super::{print_json, report};
use crate::args::{EvaluateArgs, Voice};
use crate::failure::Failure;

/// What is printed with `--json`: the means over all rows stand at the top level.
#[derive(Serialize)]
struct Evaluated<'a> {
    #[serde(flatten)]
    all: &'a Scores,
    stemmed: bool,
    /// Every category counts the same.
    macro_category: &'a Scores,
    categories: &'a [GroupScores],
    #[serde(skip_serializing_if = "str::is_empty")]
    model: &'a str,
}

/// Scores the answers and prints a table or a document.
pub fn run(args: &EvaluateArgs, voice: Voice) -> Result<()> {
    let predictions = match &args.predictions {
        Some(path) => read(path)?,
        None => super::answer::run(args, voice)?,
    };
    let scores = scores(&predictions, !args.no_stem);
    if voice.json {
        let documents: Vec<Evaluated> = scores.iter().map(|scores| document(scores, !args.no_stem)).collect();
        return match &documents[..] {
            [one] => print_json(one),
            several => print_json(&serde_json::json!({ "models": several })),
        };
    }
    for model in &scores {
        print_table(model);
    }
    Ok(())
}

fn document(scores: &ModelScores, stemmed: bool) -> Evaluated<'_> {
    Evaluated {
        all: &scores.all,
        stemmed,
        macro_category: &scores.macro_category,
        categories: &scores.categories,
        model: &scores.model,
    }
}

fn read(path: &Path) -> Result<Vec<Prediction>> {
    let predictions: Vec<Prediction> = report::lines(path)?;
    match predictions.is_empty() {
        true => Err(Failure::data(format!("{} holds no answer", path.display()))
            .hint("a line is {\"prediction\": \"..\", \"reference\": \"..\", \"category\": \"..\"}")
            .into()),
        false => Ok(predictions),
    }
}

/// Means by model and category. The library's ROUGE is stemmed; without stemming its means are put in its place.
fn scores(predictions: &[Prediction], stem: bool) -> Vec<ModelScores> {
    let mut all = corpus_scores(predictions);
    if !stem {
        for model in &mut all {
            let of_model: Vec<&Prediction> = predictions.iter().filter(|p| p.model == model.model).collect();
            for category in &mut model.categories {
                let rows: Vec<&Prediction> =
                    of_model.iter().copied().filter(|p| p.category == category.name).collect();
                unstem(&mut category.scores, &rows);
            }
            unstem(&mut model.all, &of_model);
            let mean = |of: fn(&Scores) -> f64| {
                model.categories.iter().map(|c| of(&c.scores)).sum::<f64>() / model.categories.len() as f64
            };
            model.macro_category.rouge1 = mean(|s| s.rouge1);
            model.macro_category.rouge2 = mean(|s| s.rouge2);
            model.macro_category.rouge_l = mean(|s| s.rouge_l);
        }
    }
    all
}

fn unstem(scores: &mut Scores, rows: &[&Prediction]) {
    let plain: Vec<_> = rows.iter().map(|p| rouge(&p.prediction, &p.reference, false)).collect();
    let count = plain.len() as f64;
    scores.rouge1 = plain.iter().map(|r| r.rouge1).sum::<f64>() / count;
    scores.rouge2 = plain.iter().map(|r| r.rouge2).sum::<f64>() / count;
    scores.rouge_l = plain.iter().map(|r| r.rouge_l).sum::<f64>() / count;
}

fn print_table(model: &ModelScores) {
    let width = model.categories.iter().map(|c| c.name.chars().count()).max().unwrap_or(0).max(20);
    let head = if model.model.is_empty() { "category" } else { &model.model };
    println!("{head:<width$}  {:>5}  ROUGE-1  ROUGE-2  ROUGE-L  exact", "rows");
    let line = |name: &str, s: &Scores| {
        println!(
            "{name:<width$}  {:>5}  {:>7.4}  {:>7.4}  {:>7.4}  {:>5.3}",
            s.rows, s.rouge1, s.rouge2, s.rouge_l, s.exact_match
        );
    };
    for category in &model.categories {
        line(if category.name.is_empty() { "(no category)" } else { &category.name }, &category.scores);
    }
    if model.categories.len() > 1 {
        line("mean of categories", &model.macro_category);
    }
    line("all rows", &model.all);
    if let (Some(nll), Some(perplexity)) = (model.all.answer_nll, model.all.perplexity) {
        println!("answers: {nll:.4} nats a token, perplexity {perplexity:.3}");
    }
    if model.all.hit_limit > 0 {
        println!("{} answer(s) were cut off by the limit on new tokens", model.all.hit_limit);
    }
}
