//! Lines up what every model answered to the same questions, and refuses anything that is not a full pairing.

use std::collections::{BTreeMap, HashMap};

use crate::error::EvalError;
use crate::prediction::{Metric, Prediction, score};

/// One metric of every model on the same test rows, in the same order: by site as listed, then by row id, so the
/// order of the predictions changes nothing.
pub(crate) struct Paired {
    /// Index of each row's site.
    pub site: Vec<usize>,
    /// Category of each row.
    pub category: Vec<String>,
    pub base: Vec<f64>,
    pub federated: Vec<f64>,
    /// Nobody can train a pooled model where rows may not travel, so it alone may be absent.
    pub pooled: Option<Vec<f64>>,
    /// The model that each site trained alone, in site order.
    pub locals: Vec<Vec<f64>>,
}

/// Site index and row id.
type Key<'a> = (usize, &'a str);

impl Paired {
    /// Scores and aligns the predictions of `base`, `federated`, `pooled` and every `local-<site>`; other models
    /// are left alone.
    pub fn new(predictions: &[Prediction], sites: &[String], metric: Metric) -> Result<Self, EvalError> {
        let site_index = index_sites(sites)?;
        let local_names: Vec<String> = sites.iter().map(|site| format!("local-{site}")).collect();
        let known = |model: &str| {
            matches!(model, "base" | "federated" | "pooled") || local_names.iter().any(|name| name == model)
        };

        let mut questions: BTreeMap<Key, &Prediction> = BTreeMap::new();
        let mut answers: HashMap<&str, HashMap<Key, &Prediction>> = HashMap::new();
        for p in predictions.iter().filter(|p| known(&p.model)) {
            let Some(&site) = site_index.get(p.site.as_str()) else {
                return Err(EvalError::UnknownSite {
                    model: p.model.clone(),
                    site: p.site.clone(),
                    id: p.id.clone(),
                    known: sites.join(", "),
                });
            };
            let key = (site, p.id.as_str());
            if answers.entry(&p.model).or_default().insert(key, p).is_some() {
                return Err(EvalError::DuplicateRow {
                    model: p.model.clone(),
                    site: p.site.clone(),
                    id: p.id.clone(),
                });
            }
            let first = *questions.entry(key).or_insert(p);
            if first.reference != p.reference {
                return Err(EvalError::ReferenceDiffers {
                    model: p.model.clone(),
                    other: first.model.clone(),
                    site: p.site.clone(),
                    id: p.id.clone(),
                });
            }
        }
        for (index, site) in sites.iter().enumerate() {
            if !questions.keys().any(|&(of, _)| of == index) {
                return Err(EvalError::EmptySite { site: site.clone() });
            }
        }

        let series = |model: &str| -> Result<Vec<f64>, EvalError> {
            let answered = answers.get(model);
            questions
                .iter()
                .map(|(key, question)| {
                    let (model, site, id) = (model.to_owned(), question.site.clone(), question.id.clone());
                    let Some(answered) = answered else {
                        return Err(EvalError::MissingModel { model, site, id });
                    };
                    let Some(p) = answered.get(key) else {
                        return Err(EvalError::MissingRow { model, site, id });
                    };
                    let value = metric.of(&score(p)).filter(|value| value.is_finite());
                    value.ok_or(EvalError::NoValue { metric: metric.name(), model, site, id })
                })
                .collect()
        };
        Ok(Self {
            site: questions.keys().map(|&(site, _)| site).collect(),
            category: questions.values().map(|p| p.category.clone()).collect(),
            base: series("base")?,
            federated: series("federated")?,
            pooled: answers.contains_key("pooled").then(|| series("pooled")).transpose()?,
            locals: local_names.iter().map(|name| series(name)).collect::<Result<_, _>>()?,
        })
    }

    /// Indices of the rows of a site.
    pub fn rows_of(&self, site: usize) -> Vec<usize> {
        (0..self.site.len()).filter(|&row| self.site[row] == site).collect()
    }

    /// Mean of `values` over the rows of a site.
    pub fn mean_on_site(&self, values: &[f64], site: usize) -> f64 {
        let rows = self.rows_of(site);
        rows.iter().map(|&row| values[row]).sum::<f64>() / rows.len() as f64
    }

    /// For each row, the mean over the local models.
    pub fn mean_of_locals(&self) -> Vec<f64> {
        let n = self.locals.len() as f64;
        (0..self.site.len()).map(|row| self.locals.iter().map(|local| local[row]).sum::<f64>() / n).collect()
    }
}

fn index_sites(sites: &[String]) -> Result<HashMap<&str, usize>, EvalError> {
    if sites.is_empty() {
        return Err(EvalError::NoSites);
    }
    let mut index = HashMap::new();
    for (place, site) in sites.iter().enumerate() {
        if index.insert(site.as_str(), place).is_some() {
            return Err(EvalError::SiteTwice { site: site.clone() });
        }
    }
    Ok(index)
}
