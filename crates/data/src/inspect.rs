//! A look at a data set as training will see it.

use serde::Serialize;

use crate::plan::loss_weights;
use crate::read::ReadReport;
use crate::{BadRow, DataError, Template, TextTokenizer};

/// What to look with.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// How rows become text.
    pub template: &'a Template,
    /// How text becomes tokens.
    pub tokenizer: &'a TextTokenizer,
    /// Token limit of a row.
    pub max_tokens: usize,
    /// Loss weight of prompt tokens.
    pub prompt_loss_weight: f32,
    /// Which row to show token by token, from 0.
    pub row: usize,
}

/// What there is to see.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Inspection {
    /// Usable rows.
    pub rows: usize,
    /// Rows that the filter dropped.
    pub filtered: usize,
    /// Bad rows.
    pub bad_count: usize,
    /// The first of them.
    pub bad_rows: Vec<BadRow>,
    /// SHA-256 of the files.
    pub sha256: String,
    /// Categories, the largest first, then by name.
    pub categories: Vec<Category>,
    /// Tokens of a row, uncut, end of text included.
    pub row_tokens: Lengths,
    /// Tokens of a row's answer, uncut, end of text included: what generation has to reach.
    pub answer_tokens: Lengths,
    /// The token limit in force.
    pub max_tokens: usize,
    /// Rows that it cuts.
    pub truncated: usize,
    /// Rows of which it leaves no token of the answer.
    pub answer_lost: usize,
    /// One row as training sees it.
    pub example: Rendered,
}

/// A category and its rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Category {
    /// Value of the category column.
    pub name: String,
    /// Rows that have it.
    pub rows: usize,
}

/// Quantiles of lengths in tokens, by nearest rank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Lengths {
    /// Shortest.
    pub min: usize,
    /// Median.
    pub p50: usize,
    /// 95 of 100 are not longer.
    pub p95: usize,
    /// 99 of 100 are not longer.
    pub p99: usize,
    /// Longest.
    pub max: usize,
    /// Mean.
    pub mean: f64,
    /// Sum.
    pub total: usize,
}

impl Lengths {
    /// Of `lengths`, in any order; all zero when there are none.
    pub fn of(mut lengths: Vec<usize>) -> Self {
        lengths.sort_unstable();
        let rank = |percent: usize| lengths[(lengths.len() * percent).div_ceil(100).max(1) - 1];
        let total = lengths.iter().sum();
        match lengths.as_slice() {
            [] => Self::default(),
            [min, ..] => Self {
                min: *min,
                p50: rank(50),
                p95: rank(95),
                p99: rank(99),
                max: rank(100),
                mean: total as f64 / lengths.len() as f64,
                total,
            },
        }
    }
}

/// One row as text and as tokens.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rendered {
    /// Its id.
    pub id: String,
    /// The prompt, up to where generation begins.
    pub prompt: String,
    /// What is to follow.
    pub completion: String,
    /// Every token, in order.
    pub tokens: Vec<TokenView>,
    /// Whether the limit cut the row.
    pub truncated: bool,
}

/// One token of a row.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TokenView {
    /// Its id.
    pub id: u32,
    /// As the vocabulary spells it.
    pub token: String,
    /// Weight of the loss for predicting it; the first token of a row is never predicted and has 0.
    pub weight: f32,
}

/// Looks at what was read.
///
/// # Errors
/// When `view.row` is beyond the rows, or the tokenizer cannot express a row.
pub fn inspect(report: &ReadReport, view: &View) -> Result<Inspection, DataError> {
    let encoded = view.tokenizer.encode_all(view.template, &report.examples, usize::MAX)?;
    let cut = |row: &&crate::Tokens| row.ids.len() > view.max_tokens;
    let lost = |row: &&crate::Tokens| cut(row) && row.loss_from >= view.max_tokens;
    Ok(Inspection {
        rows: report.examples.len(),
        filtered: report.filtered,
        bad_count: report.bad_count,
        bad_rows: report.bad_rows.clone(),
        sha256: report.sha256.clone(),
        categories: categories(report),
        row_tokens: Lengths::of(encoded.rows.iter().map(|row| row.ids.len()).collect()),
        answer_tokens: Lengths::of(encoded.rows.iter().map(|row| row.ids.len() - row.loss_from).collect()),
        max_tokens: view.max_tokens,
        truncated: encoded.rows.iter().filter(cut).count(),
        answer_lost: encoded.rows.iter().filter(lost).count(),
        example: render(report, view)?,
    })
}

fn categories(report: &ReadReport) -> Vec<Category> {
    let mut counts = std::collections::BTreeMap::<&str, usize>::new();
    for example in &report.examples {
        *counts.entry(&example.category).or_default() += 1;
    }
    let mut categories: Vec<Category> =
        counts.into_iter().map(|(name, rows)| Category { name: name.to_string(), rows }).collect();
    categories.sort_by_key(|category| std::cmp::Reverse(category.rows));
    categories
}

fn render(report: &ReadReport, view: &View) -> Result<Rendered, DataError> {
    let example = report
        .examples
        .get(view.row)
        .ok_or(DataError::NoRow { row: view.row, rows: report.examples.len() })?;
    let row = view.tokenizer.encode_example(view.template, example, view.max_tokens)?;
    let mut weights = loss_weights(&row, view.prompt_loss_weight);
    if let Some(first) = weights.first_mut() {
        *first = 0.0;
    }
    let token = |(&id, weight)| TokenView { id, token: view.tokenizer.token(id), weight };
    Ok(Rendered {
        id: example.id.clone(),
        prompt: view.template.prompt(&example.question),
        completion: view.template.completion(&example.answer),
        tokens: row.ids.iter().zip(weights).map(token).collect(),
        truncated: row.truncated,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_lengths_that_occur() {
        let lengths = Lengths::of((1..=200).rev().collect());
        assert_eq!(
            (lengths.min, lengths.p50, lengths.p95, lengths.p99, lengths.max),
            (1, 100, 190, 198, 200)
        );
        assert_eq!((lengths.mean, lengths.total), (100.5, 20_100));
        assert_eq!(Lengths::of(vec![7]).p99, 7);
        assert_eq!(Lengths::of(Vec::new()), Lengths::default());
    }
}
