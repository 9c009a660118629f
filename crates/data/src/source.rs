//! From what a user calls the data to the files to read: a file, a folder, or a hub data set.

use std::path::{Path, PathBuf};

use crate::card::{self, CardConfig};
use crate::hub::{Kind, Repository};
use crate::splits::{self, SplitFiles};
use crate::{DataError, Hub, ReadOptions};

/// The branch on which the hub keeps data sets that it has converted to Parquet, as `<config>/<split>/0000.parquet`.
const CONVERTED: &str = "refs/convert/parquet";

/// The data files of `given`, in the order to read them; those of a hub data set are in the cache afterwards.
///
/// # Errors
/// When the source, the configuration or the split is not there, or the hub fails.
pub fn files(given: &str, options: &ReadOptions, hub: &Hub) -> Result<Vec<PathBuf>, DataError> {
    let path = Path::new(given);
    if path.is_file() {
        let alone = vec![SplitFiles { split: "train".to_string(), files: vec![given.to_string()] }];
        return Ok(one_split(given, alone, options)?.into_iter().map(PathBuf::from).collect());
    }
    if path.is_dir() {
        let names = relative_files(path)?;
        let card = std::fs::read_to_string(path.join("README.md")).ok();
        let chosen = choose(given, &names, card.as_deref(), options)?;
        return Ok(chosen.into_iter().map(|name| path.join(name)).collect());
    }
    match hub_id(given) {
        Some((id, revision)) => from_hub(given, id, revision, options, hub),
        None if splits::is_data(given) || given.contains(['/', '\\']) => {
            Err(DataError::NotFound { path: path.to_path_buf() })
        }
        None => Err(DataError::UnknownSource { given: given.to_string() }),
    }
}

/// `owner/name`, perhaps with `@revision`; not what looks like a path to a data file.
pub(crate) fn hub_id(given: &str) -> Option<(&str, &str)> {
    let (id, revision) = given.split_once('@').unwrap_or((given, "main"));
    let (owner, name) = id.split_once('/')?;
    let word = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    (word(owner) && word(name) && !revision.is_empty() && !splits::is_data(id)).then_some((id, revision))
}

fn from_hub(
    given: &str,
    id: &str,
    revision: &str,
    options: &ReadOptions,
    hub: &Hub,
) -> Result<Vec<PathBuf>, DataError> {
    let repository = hub.open(Kind::Dataset, id, revision)?;
    let card = match repository.has("README.md") {
        true => std::fs::read_to_string(repository.file("README.md")?).ok(),
        false => None,
    };
    match choose(given, repository.names(), card.as_deref(), options) {
        Ok(chosen) => fetch(&repository, &chosen),
        Err(DataError::NoDataFiles { .. }) => {
            let converted =
                hub.open(Kind::Dataset, id, CONVERTED).map_err(|error| DataError::NoDataFiles {
                    given: given.to_string(),
                    reason: format!(", nor a branch {CONVERTED}: {error}"),
                })?;
            fetch(&converted, &choose_converted(given, converted.names(), options)?)
        }
        Err(error) => Err(error),
    }
}

fn fetch(repository: &Repository, names: &[String]) -> Result<Vec<PathBuf>, DataError> {
    names.iter().map(|name| Ok(repository.file(name)?)).collect()
}

/// Chooses among the files of a repository or folder: by the card if it says, else by their names.
fn choose(
    given: &str,
    names: &[String],
    card: Option<&str>,
    options: &ReadOptions,
) -> Result<Vec<String>, DataError> {
    let configs = card
        .map_or(Ok(Vec::new()), card::configs)
        .map_err(|reason| DataError::Card { path: Path::new(given).join("README.md"), reason })?;
    let found = match one_config(given, &configs, options)? {
        Some(config) => splits_of(config, names),
        None => splits::by_name(names),
    };
    if found.is_empty() {
        return Err(DataError::NoDataFiles { given: given.to_string(), reason: String::new() });
    }
    one_split(given, found, options)
}

/// The configuration asked for; else the one marked or named default, or the only one. `None` when there are none.
fn one_config<'a>(
    given: &str,
    configs: &'a [CardConfig],
    options: &ReadOptions,
) -> Result<Option<&'a CardConfig>, DataError> {
    let asked = options.config.as_deref();
    let chosen = match (asked, configs) {
        (None | Some("default"), []) => return Ok(None),
        (Some(name), _) => configs.iter().find(|config| config.name == name),
        (None, [only]) => Some(only),
        (None, _) => configs.iter().find(|config| config.default || config.name == "default"),
    };
    let names = || configs.iter().map(|config| config.name.clone()).collect();
    chosen.map(Some).ok_or_else(|| DataError::NoConfig {
        given: given.to_string(),
        asked: options.config.clone(),
        configs: names(),
    })
}

fn splits_of(config: &CardConfig, names: &[String]) -> Vec<SplitFiles> {
    let prefix = config.data_dir.as_ref().map_or(String::new(), |dir| format!("{dir}/"));
    if config.data_files.is_empty() {
        let inside: Vec<String> =
            names.iter().filter_map(|name| name.strip_prefix(&prefix)).map(str::to_string).collect();
        let mut found = splits::by_name(&inside);
        for name in found.iter_mut().flat_map(|split| &mut split.files) {
            name.insert_str(0, &prefix);
        }
        return found;
    }
    let data: Vec<String> = names.iter().filter(|name| splits::is_data(name)).cloned().collect();
    config
        .data_files
        .iter()
        .map(|(split, patterns)| {
            let patterns: Vec<String> = patterns.iter().map(|pattern| format!("{prefix}{pattern}")).collect();
            SplitFiles { split: split.clone(), files: splits::matching(&data, &patterns) }
        })
        .filter(|found| !found.files.is_empty())
        .collect()
}

/// The files of the asked split; else of `train`, or of the only one.
fn one_split(
    given: &str,
    mut found: Vec<SplitFiles>,
    options: &ReadOptions,
) -> Result<Vec<String>, DataError> {
    let asked = options.split.as_deref();
    if asked == Some("all") {
        return Ok(found.into_iter().flat_map(|split| split.files).collect());
    }
    let place = match (asked, found.as_slice()) {
        (None, [_]) => Some(0),
        _ => found.iter().position(|split| split.split == asked.unwrap_or("train")),
    };
    match place {
        Some(place) => Ok(found.swap_remove(place).files),
        None => Err(DataError::NoSplit {
            given: given.to_string(),
            split: asked.unwrap_or("train").to_string(),
            splits: found.into_iter().map(|split| split.split).collect(),
        }),
    }
}

/// Chooses on the converted branch, where folders name configuration and split (`partial-<split>` when cut short).
fn choose_converted(given: &str, names: &[String], options: &ReadOptions) -> Result<Vec<String>, DataError> {
    let mut configs: Vec<CardConfig> = Vec::new();
    let mut names: Vec<&String> = names.iter().filter(|name| splits::is_data(name)).collect();
    names.sort();
    for name in names {
        let [config, split, _file] = name.split('/').collect::<Vec<_>>()[..] else { continue };
        let split = split.strip_prefix("partial-").unwrap_or(split);
        let place = configs.iter().position(|known| known.name == config).unwrap_or_else(|| {
            configs.push(CardConfig { name: config.to_string(), ..CardConfig::default() });
            configs.len() - 1
        });
        let splits = &mut configs[place].data_files;
        match splits.iter_mut().find(|(known, _)| known == split) {
            Some((_, files)) => files.push(name.clone()),
            None => splits.push((split.to_string(), vec![name.clone()])),
        }
    }
    let empty = || DataError::NoDataFiles {
        given: given.to_string(),
        reason: format!(", not even on its branch {CONVERTED}"),
    };
    let config = one_config(given, &configs, options)?.ok_or_else(empty)?;
    let found = config
        .data_files
        .iter()
        .map(|(split, files)| SplitFiles { split: split.clone(), files: files.clone() });
    one_split(given, found.collect(), options)
}

/// Every file below `dir`, relative to it, with `/` between the parts.
pub(crate) fn relative_files(dir: &Path) -> Result<Vec<String>, DataError> {
    let mut names = Vec::new();
    let mut folders = vec![(dir.to_path_buf(), String::new())];
    while let Some((folder, prefix)) = folders.pop() {
        let io = |source| DataError::Io { path: folder.clone(), source };
        for entry in std::fs::read_dir(&folder).map_err(io)? {
            let entry = entry.map_err(io)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            // Follows links: in a hub cache every file is one.
            if entry.path().is_dir() {
                folders.push((entry.path(), format!("{prefix}{name}/")));
            } else {
                names.push(format!("{prefix}{name}"));
            }
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hub_ids_are_told_from_paths() {
        assert_eq!(hub_id("NIH-CARD/CARDBiomedBench"), Some(("NIH-CARD/CARDBiomedBench", "main")));
        assert_eq!(hub_id("owner/name@refs/pr/1"), Some(("owner/name", "refs/pr/1")));
        for path in ["data/rows.csv", "rows", "../owner/name", "/owner/name", "a/b/c", "owner/na me", "./a"] {
            assert_eq!(hub_id(path), None, "{path}");
        }
    }

    fn strings(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_string()).collect()
    }

    #[test]
    fn the_card_decides_before_names_do() {
        let names = strings(&["README.md", "train.csv", "rows/a.csv", "rows/b.csv", "more/dev.jsonl"]);
        let card = "---\nconfigs:\n- config_name: one\n  data_files:\n  - split: train\n    path: rows/*.csv\n- config_name: two\n  data_dir: more\n---\n";
        let ask = |config: Option<&str>, split: Option<&str>| {
            let options = ReadOptions {
                config: config.map(str::to_string),
                split: split.map(str::to_string),
                ..ReadOptions::default()
            };
            choose("x/y", &names, Some(card), &options).map_err(|error| error.to_string())
        };
        assert_eq!(ask(Some("one"), None), Ok(strings(&["rows/a.csv", "rows/b.csv"])));
        assert_eq!(ask(Some("two"), None), Ok(strings(&["more/dev.jsonl"])), "the only split there");
        assert_eq!(ask(Some("one"), Some("test")), Err("x/y: no split `test`; splits: train".to_string()));
        assert_eq!(
            ask(None, None),
            Err("x/y: several configurations, choose one; configurations: one, two".to_string())
        );
        assert_eq!(
            ask(Some("three"), None),
            Err("x/y: no configuration `three`; configurations: one, two".to_string())
        );
    }

    #[test]
    fn converted_folders_name_configuration_and_split() {
        let names = strings(&[
            "default/test/0000.parquet",
            "default/partial-train/0001.parquet",
            "default/partial-train/0000.parquet",
            "other/train/0000.parquet",
        ]);
        let chosen = choose_converted("x/y", &names, &ReadOptions::default()).unwrap();
        assert_eq!(
            chosen,
            strings(&["default/partial-train/0000.parquet", "default/partial-train/0001.parquet"])
        );
    }
}
