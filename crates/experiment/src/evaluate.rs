//! Asking the questions: batched generation, and how likely each model finds the right answer.

use consilium_core::engine::Finish;
use consilium_core::{Batch, Decoding, Engine, Event, Sink, StopFlag};
use consilium_data::plan::loss_weights;
use consilium_data::{Example, Template, TextTokenizer};
use consilium_eval::Prediction;

use crate::config::Config;
use crate::error::ExperimentError;
use crate::inputs::{Inputs, SiteData};

/// How questions are asked.
#[derive(Clone, Debug)]
pub struct Asking<'a> {
    /// The model's tokenizer.
    pub tokenizer: &'a TextTokenizer,
    /// How a question becomes a prompt.
    pub template: &'a Template,
    /// How the answer is continued.
    pub decoding: Decoding,
    /// Questions answered side by side.
    pub batch: usize,
}

impl<'a> Asking<'a> {
    /// As `config` says: greedy, to the end of text.
    ///
    /// # Errors
    /// When a training answer cannot be tokenised.
    pub fn new(config: &Config, inputs: &'a Inputs) -> Result<Self, ExperimentError> {
        let decoding = Decoding {
            max_new_tokens: inputs.max_new_tokens(config)?,
            repetition_penalty: config.eval.repetition_penalty,
            stop_ids: inputs.model.config().eos_ids.clone(),
            seed: config.seed,
            ..Decoding::default()
        };
        Ok(Self {
            tokenizer: &inputs.tokenizer,
            template: &inputs.template,
            decoding,
            batch: config.eval.batch,
        })
    }
}

/// The test rows of each site that are asked.
pub(crate) fn questions<'a>(
    config: &'a Config,
    inputs: &'a Inputs,
) -> impl Iterator<Item = (&'a SiteData, &'a [Example])> {
    let limit = config.eval.questions_per_site.unwrap_or(usize::MAX);
    inputs.shards.iter().map(move |shard| (shard, &shard.test[..shard.test.len().min(limit)]))
}

/// Lets `model`, whose adapter `engine` holds, answer every question of every site.
///
/// # Errors
/// A row that cannot be tokenised, an engine error, or [`ExperimentError::Stopped`] without a folder's name.
pub(crate) fn evaluate_all(
    engine: &mut dyn Engine,
    asking: &Asking<'_>,
    model: &str,
    config: &Config,
    inputs: &Inputs,
    hooks: (&dyn Sink, &StopFlag),
) -> Result<Vec<Prediction>, ExperimentError> {
    let total = questions(config, inputs).map(|(_, rows)| rows.len() as u64).sum();
    let mut progress = Progress { model, done: 0, total, sink: hooks.0, stop: hooks.1 };
    let mut predictions = Vec::new();
    for (shard, rows) in questions(config, inputs) {
        predictions.extend(answer_rows(engine, asking, model, &shard.name, rows, &mut progress)?);
    }
    Ok(predictions)
}

/// Lets the model whose adapter `engine` holds answer `rows`: predictions with the text, whether the limit cut it, and
/// the likelihood of the right answer.
///
/// # Errors
/// A row that cannot be tokenised, an engine error, or [`ExperimentError::Stopped`] when `stop` was raised.
pub fn answer(
    engine: &mut dyn Engine,
    asking: &Asking<'_>,
    model: &str,
    site: &str,
    rows: &[Example],
    sink: &dyn Sink,
    stop: &StopFlag,
) -> Result<Vec<Prediction>, ExperimentError> {
    let mut progress = Progress { model, done: 0, total: rows.len() as u64, sink, stop };
    answer_rows(engine, asking, model, site, rows, &mut progress)
}

struct Progress<'a> {
    model: &'a str,
    done: u64,
    total: u64,
    sink: &'a dyn Sink,
    stop: &'a StopFlag,
}

impl Progress<'_> {
    fn advance(&mut self, rows: usize) {
        self.done += rows as u64;
        self.sink.record(&Event::Progress {
            task: format!("evaluating {}", self.model),
            done: self.done,
            total: self.total,
            unit: "questions".into(),
        });
    }
}

fn answer_rows(
    engine: &mut dyn Engine,
    asking: &Asking<'_>,
    model: &str,
    site: &str,
    rows: &[Example],
    progress: &mut Progress<'_>,
) -> Result<Vec<Prediction>, ExperimentError> {
    let mut predictions = Vec::with_capacity(rows.len());
    for rows in rows.chunks(asking.batch.max(1)) {
        if progress.stop.is_raised() {
            return Err(ExperimentError::Stopped { out: std::path::PathBuf::new() });
        }
        let texts = continuations(engine, asking, model, rows)?;
        let likelihoods = likelihoods(engine, asking, model, rows)?;
        for ((row, (text, hit_limit)), likelihood) in rows.iter().zip(texts).zip(likelihoods) {
            predictions.push(Prediction {
                model: model.into(),
                site: site.into(),
                id: row.id.clone(),
                category: row.category.clone(),
                question: row.question.clone(),
                reference: row.answer.clone(),
                prediction: text,
                hit_limit,
                answer_nll: likelihood.map(|(nll, _)| nll),
                answer_tokens: likelihood.map(|(_, tokens)| tokens),
            });
        }
        progress.advance(rows.len());
    }
    Ok(predictions)
}

/// The generated text of each row and whether a limit ended it. A prompt that fills the context gets an empty one.
fn continuations(
    engine: &mut dyn Engine,
    asking: &Asking<'_>,
    model: &str,
    rows: &[Example],
) -> Result<Vec<(String, bool)>, ExperimentError> {
    let context = engine.info().context;
    let mut prompts = Vec::new();
    let mut places = Vec::new();
    for (place, row) in rows.iter().enumerate() {
        let prompt = asking.tokenizer.encode_prompt(&asking.template.prompt(&row.question))?;
        if prompt.len() < context {
            prompts.push(prompt);
            places.push(place);
        }
    }
    let mut texts = vec![(String::new(), true); rows.len()];
    if prompts.is_empty() {
        return Ok(texts);
    }
    let generations = engine
        .generate(&prompts, &asking.decoding, &mut |_, _| true)
        .map_err(ExperimentError::engine(format!("generating with {model}")))?;
    for (place, generation) in places.into_iter().zip(generations) {
        let text = asking.tokenizer.decode(&generation.ids).trim().to_owned();
        texts[place] = (text, generation.finish != Finish::Stop);
    }
    Ok(texts)
}

/// Mean negative log-likelihood of each right answer with its end of text, nats per token, and its tokens; `None`
/// where the context leaves no room for the answer.
fn likelihoods(
    engine: &mut dyn Engine,
    asking: &Asking<'_>,
    model: &str,
    rows: &[Example],
) -> Result<Vec<Option<(f64, usize)>>, ExperimentError> {
    let context = engine.info().context;
    let mut batch = Batch::new();
    for row in rows {
        let tokens = asking.tokenizer.encode_example(asking.template, row, context)?;
        batch.push(&tokens.ids, &loss_weights(&tokens, 0.0));
    }
    let scores = engine.score(&batch).map_err(ExperimentError::engine(format!("scoring with {model}")))?;
    let likelihood = |range: std::ops::Range<usize>| {
        let scored = range.filter(|&i| batch.weights[i] > 0.0);
        let (sum, tokens) = scored.fold((0.0, 0), |(sum, n), i| (sum - f64::from(scores[i]), n + 1));
        (tokens > 0).then(|| (sum / tokens as f64, tokens))
    };
    Ok(batch.ranges().map(likelihood).collect())
}
