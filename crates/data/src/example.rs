//! One question with its answer, and which columns of a source hold it.

use serde::{Deserialize, Serialize};

/// A question-answer row as read, before any template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    /// From the id column, else `row-<number>` counted from 1 over all files read.
    pub id: String,
    /// The question as it stands in the file.
    pub question: String,
    /// The answer as it stands in the file.
    pub answer: String,
    /// From the category column, by which sites can be formed; empty when there is none.
    pub category: String,
}

/// Which column holds what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Columns {
    /// The question; default `question`.
    pub question: String,
    /// The answer; default `answer`.
    pub answer: String,
    /// The column to form sites by. Default: `bio_category` or `category`, whichever is there; none is no error.
    pub category: Option<String>,
    /// The row's name. Default: `uuid` or `id`, whichever is there; none is no error.
    pub id: Option<String>,
}

impl Columns {
    /// What stands in for [`Columns::category`] when it is not set, first match wins.
    pub const CATEGORY_DEFAULTS: [&str; 2] = ["bio_category", "category"];
    /// What stands in for [`Columns::id`] when it is not set, first match wins.
    pub const ID_DEFAULTS: [&str; 2] = ["uuid", "id"];
}

impl Default for Columns {
    fn default() -> Self {
        Self { question: "question".to_string(), answer: "answer".to_string(), category: None, id: None }
    }
}
