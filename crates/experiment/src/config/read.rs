//! Configuration from TOML and back.

use super::{Config, ConfigError};

impl Config {
    /// Reads TOML; absent keys take their defaults. Call [`Config::validate`] afterwards.
    ///
    /// # Errors
    /// [`ConfigError::Syntax`] or [`ConfigError::UnknownKey`].
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error: toml::de::Error| unknown_key(error.message(), &error))
    }

    /// Reads a TOML table, such as a preset overlaid with what the user wrote.
    ///
    /// # Errors
    /// As [`Config::from_toml`].
    pub fn from_table(table: toml::Table) -> Result<Self, ConfigError> {
        table.try_into().map_err(|error: toml::de::Error| unknown_key(error.message(), &error))
    }

    /// The whole configuration as TOML.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("every field has a form in TOML")
    }
}

/// Turns serde's "unknown field `x`, expected one of `a`, `b`" into the key and its nearest neighbour; `whole` is the
/// error with its place.
pub(crate) fn unknown_key(message: &str, whole: &dyn std::fmt::Display) -> ConfigError {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let key = match message.strip_prefix("unknown field") {
        Some(_) => quoted.next(),
        None => None,
    };
    let Some(key) = key else { return ConfigError::Syntax(whole.to_string().trim_end().to_owned()) };
    let nearest = quoted
        .map(|valid| (edit_distance(key, valid), valid))
        .min()
        .filter(|(distance, valid)| *distance <= valid.len().max(key.len()) / 2)
        .map(|(_, valid)| valid.to_owned());
    ConfigError::UnknownKey { key: key.to_owned(), nearest }
}

/// Levenshtein distance: insertions, deletions and replacements of bytes.
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{PartitionConfig, Preset};

    #[test]
    fn presets_are_valid_and_survive_toml() {
        for preset in [Preset::Workshop, Preset::Default] {
            let config = preset.config();
            config.validate().unwrap();
            assert_eq!(Config::from_toml(&config.to_toml()).unwrap(), config);
        }
        assert_eq!(Config::from_toml("").unwrap(), Config::default());
    }

    #[test]
    fn a_full_config_survives_toml() {
        let mut config = Config::default();
        config.data.filter.insert("bio_category".into(), vec!["a".into()]);
        config.data.partition = PartitionConfig::Dirichlet { sites: 5, alpha: 0.5 };
        config.federation.local_steps = Some(3);
        config.eval.max_new_tokens = Some(40);
        config.model.path = Some("models/tiny".into());
        assert_eq!(Config::from_toml(&config.to_toml()).unwrap(), config);
    }

    #[test]
    fn an_unknown_key_names_the_nearest() {
        let error = Config::from_toml("[train]\nlearning_rat = 1.0\n").unwrap_err();
        assert_eq!(error.to_string(), "unknown key 'learning_rat'; did you mean 'learning_rate'?");
        let error = Config::from_toml("fedration = 1").unwrap_err();
        assert!(error.to_string().contains("'federation'"), "{error}");
        let error = Config::from_toml("[lora]\nrank = 4\nalpha = 8\ndropout = 0\ntargets = []\nrnak = 4")
            .unwrap_err();
        assert!(error.to_string().contains("'rank'"), "{error}");
        assert!(matches!(Config::from_toml("seed = \"x\""), Err(ConfigError::Syntax(_))));
    }
}
