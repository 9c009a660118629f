//! Did joining help my hospital? One row for each site and one for all of them, with intervals.
//!
//! Row s compares every model on the test rows of site s; `local` is the model that s trained alone. In row `all`
//! every test row counts, and `local` is the mean over sites of that site's model on all test rows: what a
//! hospital could expect, on average, had nobody joined.

use serde::{Deserialize, Serialize};

use crate::bootstrap::{Bootstrap, interval95, resampled_means, smallest_visible, strata};
use crate::error::EvalError;
use crate::paired::Paired;
use crate::prediction::{Metric, Prediction};

/// Name of the row over all sites.
pub const ALL: &str = "all";

/// The verdict of a run; `verdict` in `summary.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// What the scores are.
    pub metric: Metric,
    /// One row for each site in order, then `all`.
    pub rows: Vec<VerdictRow>,
    /// The site that gained least (or lost most) by joining.
    #[serde(default)]
    pub worst_site: Option<WorstSite>,
    /// Number of sites that are worse off.
    #[serde(default)]
    pub sites_worse_off: usize,
    /// How much of what pooling all rows would bring was reached without pooling; only where the interval of
    /// pooled - local on row `all` shows that pooling does bring something.
    #[serde(default)]
    pub recovered: Option<Recovered>,
    /// How the intervals were made.
    #[serde(default)]
    pub bootstrap: Bootstrap,
}

/// One row of the verdict.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VerdictRow {
    /// Site name or `all`.
    pub site: String,
    /// Test questions behind the row.
    #[serde(default)]
    pub questions: usize,
    /// Mean score of the base model.
    pub base: f64,
    /// Mean score of the site's own model; in row `all` the mean over the sites' models.
    pub local: f64,
    /// Mean score of the federated model.
    pub federated: f64,
    /// Mean score of the model trained on all rows in one place, where there is one.
    pub pooled: Option<f64>,
    /// federated - local.
    pub difference: f64,
    /// 95 % interval of the difference, by the paired bootstrap over questions.
    pub ci95: [f64; 2],
    /// The whole interval lies on the worse side of zero: for scores, its upper end is below 0.
    pub worse_off: bool,
    /// The whole interval lies on the better side of zero.
    #[serde(default)]
    pub better_off: bool,
    /// The interval contains zero: these questions can't tell the two models apart.
    #[serde(default)]
    pub spans_zero: bool,
    /// The smallest true difference that this many questions would show four times out of five.
    #[serde(default)]
    pub smallest_visible: f64,
}

/// The site that gained least.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WorstSite {
    /// Its name.
    pub site: String,
    /// Its federated - local.
    pub difference: f64,
    /// The difference's interval.
    pub ci95: [f64; 2],
}

/// (federated - local) / (pooled - local) on row `all`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Recovered {
    /// The share; 1 is as good as pooling.
    pub share: f64,
    /// Its 95 % interval, from the same resamples as the differences.
    pub ci95: [f64; 2],
}

impl Verdict {
    /// The row over all sites.
    pub fn all(&self) -> Option<&VerdictRow> {
        self.rows.iter().find(|row| row.site == ALL)
    }

    /// The rows of the sites, without `all`.
    pub fn sites(&self) -> impl Iterator<Item = &VerdictRow> {
        self.rows.iter().filter(|row| row.site != ALL)
    }
}

/// Judges the run by `metric`.
///
/// Needs `base`, `federated` and every `local-<site>` on every test row of every site; `pooled` too, unless it
/// is absent altogether. Where lower is better (likelihood) the sign of the difference stays federated - local
/// and only its meaning turns round.
///
/// # Errors
/// [`EvalError`] with model, site and row id: a missing model or row, a duplicate, an unlisted site, a row
/// without a value of this metric.
pub fn verdict(
    predictions: &[Prediction],
    sites: &[String],
    metric: Metric,
    bootstrap: &Bootstrap,
) -> Result<Verdict, EvalError> {
    let paired = Paired::new(predictions, sites, metric)?;
    let mut rows = Vec::with_capacity(sites.len() + 1);
    for (index, site) in sites.iter().enumerate() {
        let on_site = paired.rows_of(index);
        rows.push(
            Comparison::new(&paired, site, &on_site, &paired.locals[index]).judge(metric, bootstrap)?.0,
        );
    }
    let everything: Vec<usize> = (0..paired.site.len()).collect();
    let locals = paired.mean_of_locals();
    let (all, recovered) = Comparison::new(&paired, ALL, &everything, &locals).judge(metric, bootstrap)?;

    let sign = if metric.higher_is_better() { 1.0 } else { -1.0 };
    let worst_site = rows
        .iter()
        .min_by(|a, b| (sign * a.difference).total_cmp(&(sign * b.difference)))
        .map(|row| WorstSite { site: row.site.clone(), difference: row.difference, ci95: row.ci95 });
    let sites_worse_off = rows.iter().filter(|row| row.worse_off).count();
    rows.push(all);
    Ok(Verdict { metric, rows, worst_site, sites_worse_off, recovered, bootstrap: *bootstrap })
}

/// Judges one site alone, by its own test rows: the row that [`verdict`] gives this site, bit for bit, without a row
/// over all sites. For where the other sites' answers are not to be had, and with them no pooled model and no matrix.
///
/// # Errors
/// As [`verdict`]: `base`, `federated` and `local-<site>` must have answered every test row of `site`, and of no other.
pub fn site_verdict(
    predictions: &[Prediction],
    site: &str,
    metric: Metric,
    bootstrap: &Bootstrap,
) -> Result<Verdict, EvalError> {
    let paired = Paired::new(predictions, &[site.to_owned()], metric)?;
    let comparison = Comparison::new(&paired, site, &paired.rows_of(0), &paired.locals[0]);
    let row = comparison.judge(metric, bootstrap)?.0;
    let sites_worse_off = usize::from(row.worse_off);
    Ok(Verdict { metric, rows: vec![row], sites_worse_off, bootstrap: *bootstrap, ..Verdict::default() })
}

/// The models on the questions of one row of the table.
struct Comparison<'a> {
    name: &'a str,
    strata: Vec<Vec<usize>>,
    base: Vec<f64>,
    local: Vec<f64>,
    federated: Vec<f64>,
    pooled: Option<Vec<f64>>,
}

impl<'a> Comparison<'a> {
    fn new(paired: &Paired, name: &'a str, rows: &[usize], local: &[f64]) -> Self {
        let pick = |values: &[f64]| rows.iter().map(|&row| values[row]).collect();
        Self {
            name,
            strata: strata(rows.iter().map(|&row| (paired.site[row], paired.category[row].as_str()))),
            base: pick(&paired.base),
            local: pick(local),
            federated: pick(&paired.federated),
            pooled: paired.pooled.as_deref().map(pick),
        }
    }

    fn judge(
        &self,
        metric: Metric,
        bootstrap: &Bootstrap,
    ) -> Result<(VerdictRow, Option<Recovered>), EvalError> {
        let gain =
            |values: &[f64]| -> Vec<f64> { values.iter().zip(&self.local).map(|(v, l)| v - l).collect() };
        let joined = gain(&self.federated);
        let pooled = self.pooled.as_deref().map(gain);
        let series: Vec<&[f64]> = std::iter::once(&joined).chain(&pooled).map(Vec::as_slice).collect();
        let mut resampled = resampled_means(&series, &self.strata, bootstrap, self.name)?.into_iter();
        let joined_means = resampled.next().unwrap_or_default();
        let recovered = match (&pooled, resampled.next()) {
            (Some(pooled), Some(means)) => recovered(metric, &joined, pooled, &joined_means, means),
            _ => None,
        };

        let difference = mean(&joined);
        let ci95 = interval95(joined_means);
        // One question resampled is always itself: its interval is a point and shows nothing.
        let side = if joined.len() > 1 { side_of_zero(metric, ci95) } else { Side::Spans };
        let row = VerdictRow {
            site: self.name.to_owned(),
            questions: joined.len(),
            base: mean(&self.base),
            local: mean(&self.local),
            federated: mean(&self.federated),
            pooled: self.pooled.as_deref().map(mean),
            difference,
            ci95,
            worse_off: side == Side::Worse,
            better_off: side == Side::Better,
            spans_zero: side == Side::Spans,
            smallest_visible: smallest_visible(&joined, &self.strata),
        };
        Ok((row, recovered))
    }
}

/// The share of the pooled model's gain that the federated one reached, where pooling clearly gains.
fn recovered(
    metric: Metric,
    joined: &[f64],
    pooled: &[f64],
    joined_means: &[f64],
    pooled_means: Vec<f64>,
) -> Option<Recovered> {
    let shares: Vec<f64> =
        joined_means.iter().zip(&pooled_means).map(|(joined, pooled)| joined / pooled).collect();
    if pooled.len() < 2 || side_of_zero(metric, interval95(pooled_means)) != Side::Better {
        return None;
    }
    // A resample in which pooling gains exactly nothing has no share.
    let finite: Vec<f64> = shares.into_iter().filter(|share| share.is_finite()).collect();
    Some(Recovered { share: mean(joined) / mean(pooled), ci95: interval95(finite) })
}

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Better,
    Worse,
    Spans,
}

fn side_of_zero(metric: Metric, [low, high]: [f64; 2]) -> Side {
    let (below, above) =
        if metric.higher_is_better() { (Side::Worse, Side::Better) } else { (Side::Better, Side::Worse) };
    if high < 0.0 {
        below
    } else if low > 0.0 {
        above
    } else {
        Side::Spans
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}
