//! Paired bootstrap over questions: seeded, stratified, with percentile intervals (Efron and Tibshirani 1993, ch. 13).
//!
//! A resample draws, inside every stratum, as many questions as it has, with replacement. All series are read at
//! the same draws, so differences between models stay paired, and ratios of differences get their own interval.

use consilium_core::SeededRng;
use serde::{Deserialize, Serialize};

use crate::error::EvalError;

/// How intervals are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bootstrap {
    /// Resamples for each interval.
    pub resamples: usize,
    /// Seed; the same seed and data give the same bytes.
    pub seed: u64,
}

impl Default for Bootstrap {
    /// 10,000 resamples, seed 0.
    fn default() -> Self {
        Self { resamples: 10_000, seed: 0 }
    }
}

/// Two-sided 95 %.
const TAIL: f64 = 0.025;

/// A stratum smaller than this has too few rows to resample on its own (one row would always draw itself) and
/// joins the other small ones.
const SMALLEST_STRATUM: usize = 5;

/// Standard errors that a true difference must measure for a 95 % interval to exclude zero in 80 % of
/// experiments: 1.96 + 0.84.
const DETECTABLE: f64 = 2.8;

/// Groups row indices by their label, in order of first appearance; small groups are merged into one.
pub fn strata<L: Eq + std::hash::Hash>(labels: impl IntoIterator<Item = L>) -> Vec<Vec<usize>> {
    let mut order = std::collections::HashMap::new();
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (row, label) in labels.into_iter().enumerate() {
        let index = *order.entry(label).or_insert(groups.len());
        if index == groups.len() {
            groups.push(Vec::new());
        }
        groups[index].push(row);
    }
    let (mut kept, small): (Vec<_>, Vec<_>) = groups.into_iter().partition(|g| g.len() >= SMALLEST_STRATUM);
    let mut rest: Vec<usize> = small.into_iter().flatten().collect();
    if rest.len() < SMALLEST_STRATUM
        && let Some(smallest) = kept.iter_mut().min_by_key(|g| g.len())
    {
        smallest.append(&mut rest);
    }
    if !rest.is_empty() {
        kept.push(rest);
    }
    kept
}

/// Means of each of `series` in every resample, `(series, resamples)`.
///
/// `stream` names the random stream, a site's name for example, so that intervals of different sites are
/// independent of each other's row counts.
///
/// # Errors
/// [`EvalError::NoResamples`].
pub fn resampled_means(
    series: &[&[f64]],
    strata: &[Vec<usize>],
    bootstrap: &Bootstrap,
    stream: &str,
) -> Result<Vec<Vec<f64>>, EvalError> {
    if bootstrap.resamples == 0 {
        return Err(EvalError::NoResamples);
    }
    let rows: usize = strata.iter().map(Vec::len).sum();
    let mut rng = SeededRng::derive(bootstrap.seed, 0, stream, "bootstrap");
    let mut means = vec![Vec::with_capacity(bootstrap.resamples); series.len()];
    let mut sums = vec![0.0; series.len()];
    for _ in 0..bootstrap.resamples {
        sums.fill(0.0);
        for stratum in strata {
            for _ in 0..stratum.len() {
                let row = stratum[rng.below(stratum.len())];
                for (sum, values) in sums.iter_mut().zip(series) {
                    *sum += values[row];
                }
            }
        }
        for (means, sum) in means.iter_mut().zip(&sums) {
            means.push(sum / rows as f64);
        }
    }
    Ok(means)
}

/// The 95 % percentile interval of resampled values; quantiles interpolate linearly.
///
/// # Panics
/// When `values` is empty.
pub fn interval95(mut values: Vec<f64>) -> [f64; 2] {
    values.sort_unstable_by(f64::total_cmp);
    [quantile(&values, TAIL), quantile(&values, 1.0 - TAIL)]
}

fn quantile(sorted: &[f64], q: f64) -> f64 {
    let place = q * (sorted.len() - 1) as f64;
    let (low, high) = (place.floor() as usize, place.ceil() as usize);
    sorted[low] + (sorted[high] - sorted[low]) * (place - low as f64)
}

/// The smallest true mean of `differences` that an interval from this many rows would show to differ from zero
/// four times out of five: 2.8 standard errors of the stratified mean.
pub fn smallest_visible(differences: &[f64], strata: &[Vec<usize>]) -> f64 {
    let rows: usize = strata.iter().map(Vec::len).sum();
    let variance_of_sum: f64 = strata
        .iter()
        .filter(|stratum| stratum.len() > 1)
        .map(|stratum| {
            let n = stratum.len() as f64;
            let mean = stratum.iter().map(|&row| differences[row]).sum::<f64>() / n;
            let squares: f64 = stratum.iter().map(|&row| (differences[row] - mean).powi(2)).sum();
            n * squares / (n - 1.0)
        })
        .sum();
    DETECTABLE * variance_of_sum.sqrt() / rows as f64
}
