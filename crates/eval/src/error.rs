//! Why predictions cannot be judged, with the model, site and row at fault.

/// What is wrong with the predictions that a verdict or matrix was asked of.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EvalError {
    /// The list of sites is empty.
    #[error("no sites to judge: a verdict needs at least one site")]
    NoSites,
    /// A site is listed twice.
    #[error("site {site} is listed twice")]
    SiteTwice {
        /// The site.
        site: String,
    },
    /// A prediction for a site that is not listed.
    #[error(
        "model {model} answered row {id} of site {site}, which is not among the sites of the run ({known})"
    )]
    UnknownSite {
        /// The model that answered.
        model: String,
        /// The unlisted site.
        site: String,
        /// Row id.
        id: String,
        /// The listed sites, comma separated.
        known: String,
    },
    /// A site without a single test row.
    #[error("site {site} has no test rows, so nothing can be said about it")]
    EmptySite {
        /// The site.
        site: String,
    },
    /// A model without a single prediction.
    #[error("no predictions of model {model}; the first row it should have answered is {id} of site {site}")]
    MissingModel {
        /// The model.
        model: String,
        /// Site of the first row.
        site: String,
        /// Id of the first row.
        id: String,
    },
    /// A model answered other rows but not this one.
    #[error(
        "model {model} has no prediction for row {id} of site {site}; a paired comparison needs every model on every row"
    )]
    MissingRow {
        /// The model.
        model: String,
        /// Site of the row.
        site: String,
        /// Row id.
        id: String,
    },
    /// A model answered the same row twice.
    #[error(
        "model {model} has two predictions for row {id} of site {site}; ids must be unique within a site"
    )]
    DuplicateRow {
        /// The model.
        model: String,
        /// Site of the row.
        site: String,
        /// Row id.
        id: String,
    },
    /// Two models disagree on what the right answer to one question is.
    #[error("row {id} of site {site}: model {model} was judged by another reference than model {other}")]
    ReferenceDiffers {
        /// The second model.
        model: String,
        /// The first model.
        other: String,
        /// Site of the row.
        site: String,
        /// Row id.
        id: String,
    },
    /// The metric has no finite value on this row.
    #[error("model {model}, row {id} of site {site}: {metric} is missing or not a finite number")]
    NoValue {
        /// The metric's name.
        metric: &'static str,
        /// The model.
        model: String,
        /// Site of the row.
        site: String,
        /// Row id.
        id: String,
    },
    /// A bootstrap without resamples has no interval.
    #[error("the bootstrap was asked for 0 resamples; it needs at least 1 (10,000 is usual)")]
    NoResamples,
}
