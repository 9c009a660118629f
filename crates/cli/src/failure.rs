//! How a command ends badly: the exit code, the sentence, and what to do next.

use std::fmt;
use std::process::ExitCode;

use consilium_core::AdapterError;
use consilium_data::DataError;
use consilium_experiment::ConfigError;

/// Why the program ends, as scripts see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Something failed.
    Failed = 1,
    /// Wrong usage or configuration.
    Usage = 2,
    /// Unusable data.
    Data = 3,
    /// Stopped by Ctrl-C; the run can be resumed.
    Stopped = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// An error of the binary's own, with its exit code and a hint.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    what: String,
    hint: Option<String>,
}

impl Failure {
    /// Something failed.
    pub fn failed(what: impl Into<String>) -> Self {
        Self { exit: Exit::Failed, what: what.into(), hint: None }
    }

    /// Wrong usage or configuration.
    pub fn usage(what: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, what: what.into(), hint: None }
    }

    /// Unusable data.
    pub fn data(what: impl Into<String>) -> Self {
        Self { exit: Exit::Data, what: what.into(), hint: None }
    }

    /// A run that the user stopped, with the way to go on.
    pub fn stopped(resume: impl Into<String>) -> Self {
        Self { exit: Exit::Stopped, what: "stopped as you asked".into(), hint: Some(resume.into()) }
    }

    /// Says what to do next.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Failure {}

/// The exit code that `error` stands for.
pub fn exit_of(error: &anyhow::Error) -> Exit {
    for cause in error.chain() {
        if let Some(failure) = cause.downcast_ref::<Failure>() {
            return failure.exit;
        }
        if cause.is::<ConfigError>() {
            return Exit::Usage;
        }
        match cause.downcast_ref::<DataError>() {
            // The network, not the data, is what failed.
            Some(DataError::Hub(_)) => return Exit::Failed,
            Some(_) => return Exit::Data,
            None => {}
        }
    }
    Exit::Failed
}

/// One paragraph about `error`, and a line about what to do next where there is one.
pub fn explain(error: &anyhow::Error) -> String {
    // Errors of the libraries often quote their cause: say each fact once.
    let mut sentences: Vec<String> = Vec::new();
    for cause in error.chain().map(ToString::to_string) {
        if !sentences.iter().any(|said| said.contains(&cause)) {
            sentences.push(cause);
        }
    }
    let word = if exit_of(error) == Exit::Stopped { "" } else { "error: " };
    let mut text = format!("{word}{}", sentences.join(": "));
    if let Some(hint) = hint_for(error) {
        text.push_str("\nnext: ");
        text.push_str(&hint);
    }
    text
}

fn hint_for(error: &anyhow::Error) -> Option<String> {
    for cause in error.chain() {
        if let Some(failure) = cause.downcast_ref::<Failure>() {
            return failure.hint.clone();
        }
        if cause.is::<ConfigError>() {
            return Some("the keys and their meaning are listed by `consilium simulate --help`; a run's config.toml shows them all".into());
        }
        if let Some(error) = cause.downcast_ref::<DataError>()
            && let Some(hint) = hint_for_data(error)
        {
            return Some(hint.to_owned());
        }
        if let Some(error) = cause.downcast_ref::<AdapterError>()
            && !matches!(error, AdapterError::Format { .. })
        {
            return Some(
                "an adapter fits only the base it was trained on: name that one with --model".to_owned(),
            );
        }
        if let Some(error) = cause.downcast_ref::<std::io::Error>() {
            return hint_for_io(error);
        }
    }
    None
}

fn hint_for_data(error: &DataError) -> Option<&'static str> {
    match error {
        DataError::Hub(_) => Some(
            "check the id; HF_TOKEN opens private repositories; without network give a directory or file that is here, or run once where there is network: the cache under HF_HOME then serves",
        ),
        DataError::NotEnoughRows { .. } => Some(
            "set --train-rows, --validation-rows and --test-rows; without --train-rows all that is left is trained on",
        ),
        DataError::SiteName { .. } => Some("name the sites yourself with --sites, or rename the categories"),
        DataError::TooManyBadRows { .. } => Some("mend the rows, or skip some with --max-bad-rows N"),
        DataError::TokenizerDoesNotFit { .. } => {
            Some("the model's directory holds a tokenizer.json of another model: copy the right one there")
        }
        DataError::NoColumn { .. } => {
            Some("name columns with --question-column, --answer-column, --partition-by and --id-column")
        }
        _ => None,
    }
}

fn hint_for_io(error: &std::io::Error) -> Option<String> {
    use std::io::ErrorKind;
    let hint = match error.kind() {
        ErrorKind::NotFound => "check the path; relative paths start at the current directory",
        ErrorKind::PermissionDenied => {
            "check who may read and write there, or choose another folder with --out"
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "free some disk space or choose another folder with --out; a run goes on where it stopped"
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn the_innermost_known_cause_decides_the_exit_code() {
        let failed = |failure: Failure| Err::<(), _>(failure).context("while resolving").unwrap_err();
        assert_eq!(exit_of(&failed(Failure::usage("x"))), Exit::Usage);
        assert_eq!(exit_of(&failed(Failure::data("x"))), Exit::Data);
        assert_eq!(exit_of(&anyhow::anyhow!("x")), Exit::Failed);
        let config = Config::from_toml("sede = 1").context("file a.toml").unwrap_err();
        assert_eq!(exit_of(&config), Exit::Usage);
    }

    #[test]
    fn an_explanation_says_each_fact_once_and_what_to_do_next() {
        let error = anyhow::Error::from(Failure::usage("inner").hint("do this")).context("outer: inner");
        assert_eq!(explain(&error), "error: outer: inner\nnext: do this");
    }

    use consilium_experiment::Config;
}
