//! The YAML header of a data set card: which configurations there are and which files they consist of.

use yaml_rust2::{Yaml, YamlLoader};

/// One entry of the card's `configs`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CardConfig {
    /// `config_name`.
    pub name: String,
    /// Whether the card marks it as the default.
    pub default: bool,
    /// `data_dir`, without a slash at its end; the other paths are relative to it.
    pub data_dir: Option<String>,
    /// `data_files`: split and glob patterns; empty when the card leaves it to the files' names.
    pub data_files: Vec<(String, Vec<String>)>,
}

/// The `configs` of a card (a README.md); none when it has no header or the header has no such key.
///
/// # Errors
/// What is wrong, in words, when the header is no YAML or `configs` is not of the documented form.
pub fn configs(card: &str) -> Result<Vec<CardConfig>, String> {
    let Some(header) = header(card) else { return Ok(Vec::new()) };
    let documents = YamlLoader::load_from_str(&header).map_err(|error| error.to_string())?;
    let Some(document) = documents.first() else { return Ok(Vec::new()) };
    match &document["configs"] {
        Yaml::BadValue | Yaml::Null => Ok(Vec::new()),
        Yaml::Array(entries) => entries.iter().map(config).collect(),
        _ => Err("`configs` is not a list".to_string()),
    }
}

/// The lines between a first line `---` and the next such line.
fn header(card: &str) -> Option<String> {
    let mut lines = card.trim_start_matches('\u{feff}').lines();
    if lines.next()?.trim_end() != "---" {
        return None;
    }
    let mut header = String::new();
    for line in lines {
        if line.trim_end() == "---" {
            return Some(header);
        }
        header.push_str(line);
        header.push('\n');
    }
    None
}

fn config(entry: &Yaml) -> Result<CardConfig, String> {
    let name = entry["config_name"].as_str().unwrap_or("default").to_string();
    let files = &entry["data_files"];
    let data_files = match files {
        Yaml::BadValue | Yaml::Null => Vec::new(),
        Yaml::Array(items) if items.iter().any(|item| item.as_hash().is_some()) => {
            let mut splits = Vec::new();
            for item in items {
                let split = item["split"].as_str().unwrap_or("train").to_string();
                let paths = paths(&item["path"])
                    .ok_or_else(|| format!("configuration `{name}`, split `{split}`: no usable `path`"))?;
                splits.push((split, paths));
            }
            splits
        }
        Yaml::Hash(splits) => {
            let mut found = Vec::new();
            for (split, value) in splits {
                match (split.as_str(), paths(value)) {
                    (Some(split), Some(paths)) => found.push((split.to_string(), paths)),
                    _ => return Err(format!("configuration `{name}`: `data_files` holds no paths")),
                }
            }
            found
        }
        other => {
            let paths =
                paths(other).ok_or_else(|| format!("configuration `{name}`: `data_files` holds no paths"))?;
            vec![("train".to_string(), paths)]
        }
    };
    let data_dir = entry["data_dir"].as_str().map(|dir| dir.trim_matches('/').to_string());
    Ok(CardConfig { name, default: entry["default"].as_bool().unwrap_or(false), data_dir, data_files })
}

/// One path or a list of paths.
fn paths(value: &Yaml) -> Option<Vec<String>> {
    match value {
        Yaml::String(path) => Some(vec![path.clone()]),
        Yaml::Array(items) => items.iter().map(|item| item.as_str().map(str::to_string)).collect(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_paths_and_defaults_are_read() {
        let card = "---\nlicense: apache-2.0\nconfigs:\n- config_name: rows\n  default: true\n  data_files:\n  - split: train\n    path: data/train-*\n  - split: test\n    path:\n      - \"b.csv\"\n      - a.csv\n- config_name: extra\n  data_dir: more/\n---\n# Title\n";
        let found = configs(card).unwrap();
        assert_eq!(found[0].name, "rows");
        assert!(found[0].default);
        assert_eq!(
            found[0].data_files,
            [
                ("train".to_string(), vec!["data/train-*".to_string()]),
                ("test".to_string(), vec!["b.csv".to_string(), "a.csv".to_string()]),
            ]
        );
        assert_eq!((found[1].name.as_str(), found[1].data_dir.as_deref()), ("extra", Some("more")));
        assert!(found[1].data_files.is_empty());
    }

    #[test]
    fn bare_paths_are_the_training_split() {
        for files in ["rows.csv", "[rows.csv]", "{train: rows.csv}"] {
            let card = format!("---\nconfigs: [{{config_name: default, data_files: {files}}}]\n---");
            assert_eq!(
                configs(&card).unwrap()[0].data_files,
                [("train".to_string(), vec!["rows.csv".to_string()])]
            );
        }
    }

    #[test]
    fn cards_without_configs_say_nothing_and_broken_ones_say_why() {
        assert_eq!(configs("# Title\n---\n").unwrap(), []);
        assert_eq!(configs("---\npretty_name: Rows\n---\n").unwrap(), []);
        assert_eq!(configs("---\nno end").unwrap(), []);
        assert_eq!(configs("---\nconfigs: rows\n---\n").unwrap_err(), "`configs` is not a list");
        assert!(configs("---\na: [1\n---\n").is_err());
        assert!(
            configs("---\nconfigs:\n- data_files:\n  - split: train\n---\n").unwrap_err().contains("`path`")
        );
    }
}
