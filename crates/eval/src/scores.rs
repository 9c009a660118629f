//! Means over rows: for each model over all rows, over each site and category, and as a macro mean.

use serde::{Deserialize, Serialize};

use crate::prediction::{Metric, Prediction, RowScore, score};

/// Mean scores of a set of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Rows behind the means.
    pub rows: usize,
    /// Mean ROUGE-1 F1, stemmed.
    pub rouge1: f64,
    /// Mean ROUGE-2 F1, stemmed.
    pub rouge2: f64,
    /// Mean ROUGE-L F1, stemmed.
    #[serde(rename = "rougeL")]
    pub rouge_l: f64,
    /// Share of answers equal to the reference.
    pub exact_match: f64,
    /// Mean negative log-likelihood over all answer tokens, nats; only where every row has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_nll: Option<f64>,
    /// exp of `answer_nll`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub perplexity: Option<f64>,
    /// Answers cut off by the limit on new tokens.
    pub hit_limit: usize,
}

impl Scores {
    /// The value of `metric`; `None` where it was not measured.
    pub fn get(&self, metric: Metric) -> Option<f64> {
        match metric {
            Metric::Rouge1 => Some(self.rouge1),
            Metric::Rouge2 => Some(self.rouge2),
            Metric::RougeL => Some(self.rouge_l),
            Metric::ExactMatch => Some(self.exact_match),
            Metric::AnswerNll => self.answer_nll,
        }
    }
}

/// Mean scores of one site or category.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupScores {
    /// Name of the site or category.
    pub name: String,
    /// Its means.
    #[serde(flatten)]
    pub scores: Scores,
}

/// Everything that one model scored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelScores {
    /// `base`, `local-<site>`, `federated`, `pooled`.
    pub model: String,
    /// Over all rows.
    pub all: Scores,
    /// Every category counts the same, however many rows it has. Likelihood is the plain mean of the categories'.
    pub macro_category: Scores,
    /// Every site counts the same.
    pub macro_site: Scores,
    /// For each site, in order of first appearance.
    pub sites: Vec<GroupScores>,
    /// For each category, in order of first appearance.
    pub categories: Vec<GroupScores>,
}

/// Means of every model in `predictions`, in order of first appearance.
pub fn corpus_scores(predictions: &[Prediction]) -> Vec<ModelScores> {
    let rows: Vec<Row> = predictions.iter().map(|p| Row { p, score: score(p) }).collect();
    group(rows.iter().collect(), |p| &p.model)
        .into_iter()
        .map(|(model, rows)| {
            let sites = means_by(&rows, |p| &p.site);
            let categories = means_by(&rows, |p| &p.category);
            ModelScores {
                model: model.to_owned(),
                all: means(&rows),
                macro_category: macro_mean(&categories),
                macro_site: macro_mean(&sites),
                sites,
                categories,
            }
        })
        .collect()
}

struct Row<'a> {
    p: &'a Prediction,
    score: RowScore,
}

fn group<'a>(rows: Vec<&'a Row<'a>>, key: fn(&Prediction) -> &str) -> Vec<(&'a str, Vec<&'a Row<'a>>)> {
    let mut order = std::collections::HashMap::new();
    let mut groups: Vec<(&str, Vec<&Row>)> = Vec::new();
    for row in rows {
        let name = key(row.p);
        let index = *order.entry(name).or_insert(groups.len());
        if index == groups.len() {
            groups.push((name, Vec::new()));
        }
        groups[index].1.push(row);
    }
    groups
}

fn means_by(rows: &[&Row], key: fn(&Prediction) -> &str) -> Vec<GroupScores> {
    group(rows.to_vec(), key)
        .into_iter()
        .map(|(name, rows)| GroupScores { name: name.to_owned(), scores: means(&rows) })
        .collect()
}

fn means(rows: &[&Row]) -> Scores {
    let n = rows.len() as f64;
    let mean = |value: fn(&RowScore) -> f64| rows.iter().map(|row| value(&row.score)).sum::<f64>() / n;
    let answer_nll = token_mean(rows);
    Scores {
        rows: rows.len(),
        rouge1: mean(|s| s.rouge.rouge1),
        rouge2: mean(|s| s.rouge.rouge2),
        rouge_l: mean(|s| s.rouge.rouge_l),
        exact_match: mean(|s| s.exact_match),
        answer_nll,
        perplexity: answer_nll.map(f64::exp),
        hit_limit: rows.iter().filter(|row| row.p.hit_limit).count(),
    }
}

/// Mean over answer tokens. A row without a token count weighs as one token.
fn token_mean(rows: &[&Row]) -> Option<f64> {
    let (mut sum, mut tokens) = (0.0, 0.0);
    for row in rows {
        let weight = row.p.answer_tokens.unwrap_or(1) as f64;
        sum += row.score.answer_nll? * weight;
        tokens += weight;
    }
    (tokens > 0.0).then(|| sum / tokens)
}

fn macro_mean(groups: &[GroupScores]) -> Scores {
    let n = groups.len() as f64;
    let mean = |value: fn(&Scores) -> f64| groups.iter().map(|g| value(&g.scores)).sum::<f64>() / n;
    let nll: Option<Vec<f64>> = groups.iter().map(|g| g.scores.answer_nll).collect();
    let answer_nll = nll.map(|values| values.iter().sum::<f64>() / n);
    Scores {
        rows: groups.iter().map(|g| g.scores.rows).sum(),
        rouge1: mean(|s| s.rouge1),
        rouge2: mean(|s| s.rouge2),
        rouge_l: mean(|s| s.rouge_l),
        exact_match: mean(|s| s.exact_match),
        answer_nll,
        perplexity: answer_nll.map(f64::exp),
        hit_limit: groups.iter().map(|g| g.scores.hit_limit).sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(model: &str, category: &str, right: bool, nll: f64, tokens: usize) -> Prediction {
        Prediction {
            model: model.into(),
            site: format!("site of {category}"),
            category: category.into(),
            reference: "alpha".into(),
            prediction: if right { "alpha" } else { "beta" }.into(),
            hit_limit: !right,
            answer_nll: Some(nll),
            answer_tokens: Some(tokens),
            ..Prediction::default()
        }
    }

    #[test]
    fn all_weighs_rows_and_macro_weighs_groups() {
        let rows = [
            row("m", "a", true, 1.0, 1),
            row("m", "a", true, 1.0, 1),
            row("m", "a", true, 1.0, 1),
            row("m", "b", false, 3.0, 5),
        ];
        let scores = corpus_scores(&rows);
        assert_eq!(scores.len(), 1);
        assert_eq!((scores[0].all.rouge_l, scores[0].macro_category.rouge_l), (0.75, 0.5));
        assert_eq!(scores[0].macro_site.exact_match, 0.5);
        assert_eq!((scores[0].all.rows, scores[0].all.hit_limit), (4, 1));
        assert_eq!(scores[0].categories.iter().map(|g| g.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn likelihood_is_a_mean_over_tokens_and_perplexity_its_exponential() {
        let rows = [row("m", "a", true, 1.0, 1), row("m", "a", true, 3.0, 3)];
        let all = corpus_scores(&rows)[0].all;
        assert_eq!(all.answer_nll, Some(2.5));
        assert_eq!(all.perplexity, Some(2.5f64.exp()));
        let mut partly = rows.to_vec();
        partly[1].answer_nll = None;
        assert_eq!(corpus_scores(&partly)[0].all.answer_nll, None, "a mean over some rows would mislead");
    }

    #[test]
    fn models_stay_apart_in_order_of_appearance() {
        let rows = [row("b", "x", true, 0.0, 1), row("a", "x", false, 0.0, 1), row("b", "x", false, 0.0, 1)];
        let scores = corpus_scores(&rows);
        assert_eq!(
            scores.iter().map(|s| (s.model.as_str(), s.all.rows)).collect::<Vec<_>>(),
            [("b", 2), ("a", 1)]
        );
        assert!(corpus_scores(&[]).is_empty());
    }
}
