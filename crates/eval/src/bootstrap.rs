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
                let row = stratum[draw_below(&mut rng, stratum.len())];
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

/// Uniform in `0..n` without bias (Lemire 2019, arXiv:1805.10941): 5 million draws a verdict are worth a version
/// that needs no division except once in 2^32 / n draws.
fn draw_below(rng: &mut SeededRng, n: usize) -> usize {
    let n = u32::try_from(n).expect("a stratum of test questions has fewer than 2^32 rows");
    loop {
        let product = u64::from(rng.next_u32()) * u64::from(n);
        let low = product as u32;
        if low >= n || low >= n.wrapping_neg() % n {
            return (product >> 32) as usize;
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(seed: u64, n: usize, mean: f64, sd: f64) -> Vec<f64> {
        let mut rng = SeededRng::derive(seed, 0, "", "sample");
        (0..n).map(|_| mean + sd * rng.normal()).collect()
    }

    fn interval(values: &[f64], strata: &[Vec<usize>], bootstrap: &Bootstrap) -> [f64; 2] {
        interval95(resampled_means(&[values], strata, bootstrap, "test").unwrap().remove(0))
    }

    #[test]
    fn the_interval_is_that_of_the_normal_approximation_on_normal_data() {
        let values = normal(1, 500, 0.03, 0.179);
        let mean = values.iter().sum::<f64>() / 500.0;
        let [low, high] = interval(&values, &[(0..500).collect()], &Bootstrap::default());
        let half = 1.96 * 0.179 / 500f64.sqrt();
        assert!(
            (mean - low - half).abs() < 0.1 * half && (high - mean - half).abs() < 0.1 * half,
            "{low} {mean} {high}"
        );
    }

    #[test]
    fn about_95_of_100_intervals_cover_the_true_mean() {
        let bootstrap = Bootstrap { resamples: 1000, seed: 3 };
        let covered = (0..200)
            .filter(|&seed| {
                let [low, high] = interval(&normal(seed, 60, 0.5, 0.2), &[(0..60).collect()], &bootstrap);
                (low..=high).contains(&0.5)
            })
            .count();
        assert!((180..=198).contains(&covered), "{covered} of 200 at a nominal 190");
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes_and_another_seed_does_not() {
        let values = normal(2, 40, 0.0, 1.0);
        let means = |seed, stream| {
            let bootstrap = Bootstrap { resamples: 50, seed };
            resampled_means(&[&values], &[(0..40).collect()], &bootstrap, stream).unwrap()
        };
        assert_eq!(means(1, "a"), means(1, "a"));
        assert_ne!(means(1, "a"), means(2, "a"));
        assert_ne!(means(1, "a"), means(1, "b"));
    }

    #[test]
    fn series_are_read_at_the_same_draws() {
        let values = normal(4, 30, 0.0, 1.0);
        let doubled: Vec<f64> = values.iter().map(|v| 2.0 * v).collect();
        let all = [(0..30).collect()];
        let means =
            resampled_means(&[&values, &doubled], &all, &Bootstrap { resamples: 20, seed: 0 }, "s").unwrap();
        assert!(means[0].iter().zip(&means[1]).all(|(one, two)| (2.0 * one - two).abs() < 1e-12));
    }

    #[test]
    fn a_difference_between_strata_does_not_widen_the_interval() {
        // Two categories, each without any spread of its own: every stratified resample is the same.
        let values: Vec<f64> = (0..20).map(|i| if i < 10 { 0.0 } else { 1.0 }).collect();
        let groups = strata(values.iter().map(|v| v.to_bits()));
        assert_eq!(interval(&values, &groups, &Bootstrap::default()), [0.5, 0.5]);
        let [low, high] = interval(&values, &[(0..20).collect()], &Bootstrap::default());
        assert!(high - low > 0.3, "without strata the interval is wide: {low} {high}");
        assert_eq!(smallest_visible(&values, &groups), 0.0);
    }

    #[test]
    fn small_strata_are_merged_so_that_no_row_only_draws_itself() {
        assert_eq!(strata(["a"; 5]), [vec![0, 1, 2, 3, 4]]);
        assert_eq!(strata(["a", "b", "c"]), [vec![0, 1, 2]]);
        let labels = ["a", "a", "a", "a", "a", "b", "a"];
        assert_eq!(
            strata(labels),
            [vec![0, 1, 2, 3, 4, 6, 5]],
            "one odd row joins the smallest large stratum"
        );
        let labels: Vec<usize> = (0..20).map(|i| if i < 12 { 99 } else { i }).collect();
        assert_eq!(strata(labels).iter().map(Vec::len).collect::<Vec<_>>(), [12, 8]);
    }

    #[test]
    fn five_hundred_questions_see_a_difference_of_022() {
        let values = normal(5, 500, 0.0, 0.179);
        let visible = smallest_visible(&values, &[(0..500).collect()]);
        assert!((visible - 0.022).abs() < 0.0015, "{visible}");
    }

    #[test]
    fn draws_reach_every_row_equally_often() {
        let mut rng = SeededRng::derive(6, 0, "", "draws");
        let mut seen = [0u32; 7];
        for _ in 0..70_000 {
            seen[draw_below(&mut rng, 7)] += 1;
        }
        assert!(seen.iter().all(|count| (9_600..10_400).contains(count)), "{seen:?}");
    }

    #[test]
    fn quantiles_interpolate_and_no_resamples_is_an_error() {
        assert_eq!(quantile(&[0.0, 1.0, 2.0, 3.0], 0.5), 1.5);
        assert_eq!(interval95(vec![7.0]), [7.0, 7.0]);
        let none = Bootstrap { resamples: 0, seed: 0 };
        assert_eq!(resampled_means(&[&[1.0]], &[vec![0]], &none, "s"), Err(EvalError::NoResamples));
    }
}
