//! How good the answers are, and whether joining helped: metrics, statistics, the verdict and its report.
//!
//! A [`Prediction`] is one answer of one model to one test question. From a list of them come, in this order,
//! a score for each row, means for each site and category, the verdict with its intervals, the cross-hospital
//! matrix, and finally a table for the terminal and one HTML file.
//!
//! | module | what |
//! |---|---|
//! | [`porter`] | the Porter stemmer in the variant that ROUGE's reference implementation uses |
//! | [`rouge`](mod@rouge) | ROUGE-1, ROUGE-2 and ROUGE-L as F1 |
//! | [`prediction`] | one answer, its scores, and the metrics there are |
//! | [`scores`] | means over rows: per site, per category, macro and all |
//! | [`bootstrap`] | paired, stratified, seeded resampling and its intervals |
//! | [`verdict`](mod@verdict) | did joining help my hospital? |
//! | [`matrix`](mod@matrix) | the model of site i on the test rows of site j |
//! | [`judgement`] | all of these at once, as `summary.json` wants them |
//! | [`summary`] | the types of `summary.json` |
//! | [`table`] | the verdict as plain text |
//! | [`report`] | the run as one self-contained HTML file |
//!
//! The crate opens no file and knows neither engine nor transport: predictions, events and the summary come in
//! as values, text goes out.

pub mod bootstrap;
mod error;
pub mod judgement;
pub mod matrix;
mod paired;
pub mod porter;
pub mod prediction;
pub mod report;
pub mod rouge;
pub mod scores;
pub mod summary;
pub mod table;
pub mod verdict;
mod words;

pub use bootstrap::Bootstrap;
pub use error::EvalError;
pub use judgement::{Judgement, judge};
pub use matrix::{Matrix, matrix};
pub use prediction::{Metric, Prediction, RowScore, exact_match, score};
pub use report::{ReportInput, render_html};
pub use rouge::{Rouge, rouge};
pub use scores::{GroupScores, ModelScores, Scores, corpus_scores};
pub use summary::Summary;

pub use table::{TableOptions, render_table};
pub use verdict::{Recovered, Verdict, VerdictRow, WorstSite, site_verdict, verdict};
