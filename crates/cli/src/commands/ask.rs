//! `consilium ask`: questions to a model, with and without adapters, side by side.

use std::io::BufRead;
use std::sync::Arc;

use anyhow::{Context, Result};
use consilium_core::engine::Finish;
use consilium_core::{Decoding, Engine, LoraConfig};
use consilium_data::Template;
use consilium_engine::CpuEngine;
use serde::Serialize;

use super::print_json;
use crate::args::{AskArgs, Voice};
use crate::failure::Failure;
use crate::inputs::{self, Base, SavedAdapter};

/// One question with the answers of all models, in the order asked for.
#[derive(Serialize)]
struct Asked {
    question: String,
    answers: Vec<Answer>,
}

#[derive(Clone, Serialize)]
struct Answer {
    model: String,
    text: String,
    finish: Finish,
}

/// Asks every question of every model.
pub fn run(args: &AskArgs, voice: Voice) -> Result<()> {
    let questions = questions(args)?;
    let adapters =
        args.adapters.iter().map(|dir| inputs::saved_adapter(dir)).collect::<Result<Vec<SavedAdapter>>>()?;
    let base =
        inputs::chosen_base(args.choice.model.as_deref(), adapters.first(), args.numbers.precision.into())?;
    let prompts = prompts(args, &base, &questions)?;

    let mut by_model = Vec::new();
    if args.base || adapters.is_empty() {
        by_model.push(answers(args, &base, None, &prompts)?);
    }
    for adapter in &adapters {
        by_model.push(answers(args, &base, Some(adapter), &prompts)?);
    }
    let asked: Vec<Asked> = questions
        .into_iter()
        .enumerate()
        .map(|(place, question)| Asked {
            question,
            answers: by_model.iter().map(|answers| answers[place].clone()).collect(),
        })
        .collect();
    if voice.json {
        return print_json(&asked);
    }
    print(&asked);
    Ok(())
}

fn print(asked: &[Asked]) {
    let alone = asked.iter().all(|one| one.answers.len() == 1);
    let width = asked.iter().flat_map(|one| &one.answers).map(|a| a.model.chars().count()).max().unwrap_or(0);
    for (place, Asked { question, answers }) in asked.iter().enumerate() {
        if alone && asked.len() == 1 {
            println!("{}", answers[0].text);
            continue;
        }
        if place > 0 {
            println!();
        }
        println!("{question}");
        for Answer { model, text, finish } in answers {
            let cut = if *finish == Finish::Stop { "" } else { " [cut off]" };
            println!("  {model:<width$}  {text}{cut}");
        }
    }
}

fn questions(args: &AskArgs) -> Result<Vec<String>> {
    let questions = match args.questions.is_empty() {
        false => args.questions.clone(),
        true => std::io::stdin()
            .lock()
            .lines()
            .collect::<Result<Vec<String>, _>>()
            .context("cannot read questions from standard input")?
            .into_iter()
            .filter(|line| !line.trim().is_empty())
            .collect(),
    };
    match questions.is_empty() {
        true => Err(Failure::usage("no question").hint("consilium ask --model demo \"A question?\"").into()),
        false => Ok(questions),
    }
}

fn prompts(args: &AskArgs, base: &Base, questions: &[String]) -> Result<Vec<Vec<u32>>> {
    let template = match &args.template {
        Some(path) => Template::parse(
            &std::fs::read_to_string(path)
                .with_context(|| format!("cannot read the template {}", path.display()))?,
        )?,
        None => Template::workshop(),
    };
    questions
        .iter()
        .map(|question| {
            let text = if args.raw { question.clone() } else { template.prompt(question) };
            Ok(base.tokenizer.encode_prompt(&text)?)
        })
        .collect()
}

fn answers(
    args: &AskArgs,
    base: &Base,
    saved: Option<&SavedAdapter>,
    prompts: &[Vec<u32>],
) -> Result<Vec<Answer>> {
    let lora = saved.map_or_else(LoraConfig::default, |saved| saved.lora.clone());
    let mut engine = CpuEngine::new(Arc::clone(&base.model), &lora, args.choice.threads)?;
    if let Some(saved) = saved {
        engine.set_adapter(&saved.adapter).with_context(|| format!("adapter {}", saved.name))?;
    }
    let options = &args.decoding;
    let decoding = Decoding {
        max_new_tokens: options.max_new_tokens,
        temperature: options.temperature,
        top_k: options.top_k,
        top_p: options.top_p,
        repetition_penalty: options.repetition_penalty,
        stop_ids: base.model.config().eos_ids.clone(),
        seed: options.seed,
    };
    let stopped = |text: &str| options.stop.iter().filter_map(|stop| text.find(stop.as_str())).min();
    let mut watch =
        |_: usize, ids: &[u32]| options.stop.is_empty() || stopped(&base.tokenizer.decode(ids)).is_none();
    let generations = engine.generate(prompts, &decoding, &mut watch)?;
    let model = saved.map_or_else(|| "base".to_owned(), |saved| saved.name.clone());
    Ok(generations
        .into_iter()
        .map(|generation| {
            let mut text = base.tokenizer.decode(&generation.ids);
            if let Some(end) = stopped(&text) {
                text.truncate(end);
            }
            Answer { model: model.clone(), text: text.trim().to_owned(), finish: generation.finish }
        })
        .collect())
}
