//! The cross-hospital matrix: the model that site i trained alone, on the test rows of site j.

use serde::{Deserialize, Serialize};

use crate::error::EvalError;
use crate::paired::Paired;
use crate::prediction::{Metric, Prediction};

/// Mean scores of every local model on every site, and of the shared models beside them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Matrix {
    /// What the scores are.
    pub metric: Metric,
    /// Row and column names, in order.
    pub sites: Vec<String>,
    /// `values[i][j]`: mean score of the model of site i on the test rows of site j.
    pub values: Vec<Vec<f64>>,
    /// The base model on the test rows of each site.
    #[serde(default)]
    pub base: Vec<f64>,
    /// The federated model on the test rows of each site.
    #[serde(default)]
    pub federated: Vec<f64>,
    /// The pooled model on the test rows of each site, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pooled: Option<Vec<f64>>,
}

/// Builds the matrix over `sites`, in their order.
///
/// # Errors
/// The same as [`crate::verdict()`]: a missing model or row, by name.
pub fn matrix(predictions: &[Prediction], sites: &[String], metric: Metric) -> Result<Matrix, EvalError> {
    let paired = Paired::new(predictions, sites, metric)?;
    let by_site = |values: &[f64]| -> Vec<f64> {
        (0..sites.len()).map(|site| paired.mean_on_site(values, site)).collect()
    };
    Ok(Matrix {
        metric,
        sites: sites.to_vec(),
        values: paired.locals.iter().map(|values| by_site(values)).collect(),
        base: by_site(&paired.base),
        federated: by_site(&paired.federated),
        pooled: paired.pooled.as_deref().map(by_site),
    })
}
