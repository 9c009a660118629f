//! The command line of `cargo xtask bench`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};

use super::jobs::Group;

pub const USAGE: &str = "\
usage: cargo xtask bench [options]

Measures training and generation of this engine and, where there is one, of PyTorch, in turn on this machine
(A B A B ...), with the machine's own limits probed in between. Leave the machine alone meanwhile.

  --with-torch DIR  also run PyTorch from DIR/venv (made by bench/setup-torch.sh DIR; several GB)
  --model DIR       the base model; default DIR/model, else a random one of SmolLM2-135M's shape
  --rows FILE       CSV of questions and answers; default $CONSILIUM_REFERENCE_DIR/data/cardbiomed/rows.csv,
                    else the demo's invented rows, which are shorter
  --only A,B,...    some of: train-f32, train-int8, all-f32, all-int8, generate, lengths, startup
  --repeats N       how often everything is run; default 3
  --samples N       rows of a training run; default 96
  --threads N       threads on either side; default 2
  --quick           once, with few rows: shows that everything runs, not how fast it is
  --json [FILE]     JSON to FILE beside the table, or to standard output instead of it";

/// Where JSON goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JsonTo {
    /// Instead of the table.
    Stdout,
    /// Beside it.
    File(PathBuf),
}

/// What to measure and with what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Folder with the peer's `venv`.
    pub torch: Option<PathBuf>,
    pub model: Option<PathBuf>,
    pub rows: Option<PathBuf>,
    /// All of them by default.
    pub groups: Vec<Group>,
    pub repeats: usize,
    /// Rows of a training run.
    pub samples: usize,
    /// New tokens of a generation.
    pub new_tokens: usize,
    pub threads: usize,
    pub quick: bool,
    pub json: Option<JsonTo>,
}

impl Options {
    /// Reads the words after `bench`.
    pub fn parse(arguments: &[&str]) -> Result<Self> {
        let quick = arguments.contains(&"--quick");
        let mut options = Self {
            torch: None,
            model: None,
            rows: None,
            groups: Group::ALL.to_vec(),
            repeats: if quick { 1 } else { 3 },
            samples: if quick { 32 } else { 96 },
            new_tokens: if quick { 10 } else { 100 },
            threads: 2,
            quick,
            json: None,
        };
        let mut words = arguments.iter().copied().peekable();
        while let Some(word) = words.next() {
            let mut value = || words.next_if(|next| !next.starts_with("--"));
            let mut must = || value().with_context(|| format!("{word} needs a value\n\n{USAGE}"));
            match word {
                "--with-torch" => options.torch = Some(must()?.into()),
                "--model" => options.model = Some(must()?.into()),
                "--rows" => options.rows = Some(must()?.into()),
                "--only" => {
                    options.groups = must()?.split(',').map(Group::parse).collect::<Result<_>>()?;
                }
                "--repeats" => options.repeats = count(word, must()?)?,
                "--samples" => options.samples = count(word, must()?)?,
                "--threads" => options.threads = count(word, must()?)?,
                "--json" => {
                    options.json = Some(value().map_or(JsonTo::Stdout, |path| JsonTo::File(path.into())));
                }
                "--quick" => {}
                _ => bail!("unknown argument '{word}'\n\n{USAGE}"),
            }
        }
        Ok(options)
    }
}

fn count(word: &str, value: &str) -> Result<usize> {
    let count = value.parse().with_context(|| format!("{word} {value}: not a number"))?;
    ensure!(count > 0, "{word} 0: at least 1");
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_optional_for_json_only() {
        let options = Options::parse(&["--json", "--only", "train-f32,generate", "--quick"]).unwrap();
        assert_eq!(options.json, Some(JsonTo::Stdout));
        assert_eq!(options.groups, [Group::TrainF32, Group::Generate]);
        assert_eq!((options.repeats, options.samples), (1, 32));
        let options = Options::parse(&["--quick", "--repeats", "2", "--json", "a.json"]).unwrap();
        assert_eq!(options.json, Some(JsonTo::File("a.json".into())));
        assert_eq!(options.repeats, 2);
        for (bad, reason) in [
            (&["--model"][..], "needs a value"),
            (&["--model", "--quick"], "needs a value"),
            (&["--repeats", "0"], "at least 1"),
            (&["--repeats", "x"], "not a number"),
            (&["--only", "speed"], "train-f32"),
            (&["--fast"], "unknown argument"),
        ] {
            let error = format!("{:#}", Options::parse(bad).unwrap_err());
            assert!(error.contains(reason), "{error}");
        }
    }
}
