//! From what the user wrote to what the program needs: preset, file, environment and flags, laid one over the other.
//!
//! Each source becomes a [`Layer`], a sparse TOML table. A layer replaces the keys it names; the result is checked
//! after each layer, so that an error names the source that brought it.

use std::path::Path;

use anyhow::{Context, Result};
use consilium_engine::Isa;
use consilium_experiment::{Config, ConfigError};
use toml::{Table, Value};

use crate::failure::Failure;
use crate::options::{PresetName, RunOptions};

/// Environment variables with our prefix that are not keys of the configuration.
const OTHER_VARIABLES: [&str; 5] =
    ["CONSILIUM_PRESET", "CONSILIUM_CONFIG", "CONSILIUM_OUT", "CONSILIUM_ISA", "CONSILIUM_REFERENCE_DIR"];
const PREFIX: &str = "CONSILIUM_";

/// Keys of which a layer may set one: the other, from a weaker layer, steps back.
const RIVALS: [(&str, &str); 3] = [
    ("federation.local_steps", "federation.local_epochs"),
    ("federation.sites_per_round", "federation.sample_fraction"),
    ("eval.parity", "eval.max_new_tokens"),
];

/// Keys that speak about one source of rows and mean nothing for another.
const OF_THE_SOURCE: [&str; 8] =
    ["split", "test_source", "test_split", "sites", "train_rows", "columns", "filter", "partition"];

/// Some keys of the configuration with their values.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Layer(Table);

impl Layer {
    /// Sets the dotted key.
    pub fn set(&mut self, key: &str, value: Value) {
        match key.rsplit_once('.') {
            Some((section, name)) => self.set_under(section, name, value),
            None => {
                self.0.insert(key.to_owned(), value);
            }
        }
    }

    /// Sets `name`, which may hold dots itself, in the dotted section.
    pub fn set_under(&mut self, section: &str, name: &str, value: Value) {
        let mut table = &mut self.0;
        for part in section.split('.') {
            let inner = table.entry(part).or_insert_with(|| Value::Table(Table::new()));
            if !inner.is_table() {
                *inner = Value::Table(Table::new());
            }
            table = inner.as_table_mut().expect("made a table on the line above");
        }
        table.insert(name.to_owned(), value);
    }

    /// Sets the key where there is a value.
    pub fn text(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.set(key, value.into());
        }
    }

    /// Sets the key where there is a whole number.
    ///
    /// # Errors
    /// When the number is larger than TOML can hold.
    pub fn number<N: TryInto<i64>>(&mut self, key: &str, value: Option<N>) -> Result<()> {
        if let Some(value) = value {
            let value = value.try_into().map_err(|_| {
                Failure::usage(format!("{key} is too large; at most {} is possible", i64::MAX))
            })?;
            self.set(key, value.into());
        }
        Ok(())
    }

    /// Sets the key where there is a real number.
    pub fn real(&mut self, key: &str, value: Option<f64>) {
        if let Some(value) = value {
            self.set(key, value.into());
        }
    }

    /// Sets the key to `meaning` where the flag is given.
    pub fn flag(&mut self, key: &str, given: bool, meaning: bool) {
        if given {
            self.set(key, meaning.into());
        }
    }

    /// Sets the key where the list is not empty.
    pub fn list(&mut self, key: &str, values: &[String]) {
        if !values.is_empty() {
            let values = values.iter().map(|value| Value::from(value.trim())).collect();
            self.set(key, Value::Array(values));
        }
    }

    /// The value at the dotted key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let mut parts = key.split('.');
        let first = self.0.get(parts.next()?)?;
        parts.try_fold(first, |value, part| value.as_table()?.get(part))
    }

    fn remove(&mut self, key: &str) {
        let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
        let table = match section {
            "" => Some(&mut self.0),
            _ => self.0.get_mut(section).and_then(Value::as_table_mut),
        };
        if let Some(table) = table {
            table.remove(name);
        }
    }

    /// Lays `stronger` over this layer.
    fn overlay(&mut self, stronger: &Layer) {
        for (one, other) in RIVALS {
            let (has_one, has_other) = (stronger.get(one).is_some(), stronger.get(other).is_some());
            if has_one && !has_other {
                self.remove(other);
            } else if has_other && !has_one {
                self.remove(one);
            }
        }
        if stronger.get("data.source").is_some_and(|source| Some(source) != self.get("data.source")) {
            for key in OF_THE_SOURCE {
                self.remove(&format!("data.{key}"));
            }
        }
        if stronger.get("model.id").is_some() {
            self.remove("model.path");
        }
        merge(&mut self.0, &stronger.0);
    }
}

fn merge(weaker: &mut Table, stronger: &Table) {
    for (key, value) in stronger {
        match (weaker.get_mut(key), value) {
            // A tagged value such as { kind = "iid", sites = 5 } is one thing.
            (Some(Value::Table(old)), Value::Table(new)) if !new.contains_key("kind") => merge(old, new),
            _ => {
                weaker.insert(key.clone(), value.clone());
            }
        }
    }
}

/// Resolves preset, file, environment, `flags` and `--set`, in this order, into a valid configuration.
///
/// # Errors
/// A file that cannot be read, an unknown key (with the nearest valid one), a value of the wrong type or out of
/// range; each with the source that brought it.
pub fn resolve(run: &RunOptions, flags: &Layer) -> Result<Config> {
    resolve_over(preset(run.preset), run, flags)
}

/// The same over a base of the caller's instead of a preset.
pub fn resolve_over(base: Layer, run: &RunOptions, flags: &Layer) -> Result<Config> {
    let mut layers = Vec::new();
    if let Some(path) = &run.config {
        layers.push((path.display().to_string(), read_file(path)?));
    }
    layers.push(("environment".to_owned(), from_environment(std::env::vars())));
    let mut given = flags.clone();
    run.lower(&mut given)?;
    layers.push(("command line".to_owned(), given));
    layers.push(("--set".to_owned(), from_assignments(&run.set)?));

    let mut whole = base;
    for (source, layer) in &layers {
        whole.overlay(layer);
        lower(&whole).with_context(|| format!("configuration from {source}"))?;
    }
    let config = lower(&whole)?;
    config.validate()?;
    Ok(config)
}

/// Makes the kernels run with the instruction set that `CONSILIUM_ISA` names, if it does.
///
/// # Errors
/// A name that is unknown or that this processor does not run.
pub fn force_isa() -> Result<()> {
    match std::env::var("CONSILIUM_ISA") {
        Ok(name) => {
            Isa::force(&name).map(drop).map_err(|why| Failure::usage(format!("CONSILIUM_ISA: {why}")).into())
        }
        Err(_) => Ok(()),
    }
}

/// A preset as the weakest layer; `default` where none is named.
pub fn preset(name: Option<PresetName>) -> Layer {
    let preset = match name.unwrap_or(PresetName::Default) {
        PresetName::Workshop => consilium_experiment::Preset::Workshop,
        PresetName::Default => consilium_experiment::Preset::Default,
    };
    Layer(Table::try_from(preset.config()).expect("a preset is plain TOML"))
}

/// The demo's configuration as the weakest layer.
pub fn demo() -> Result<Layer> {
    let mut layer = preset(None);
    layer.overlay(&from_text(crate::bundle::CONFIG)?);
    Ok(layer)
}

/// TOML text as a layer.
///
/// # Errors
/// When it is not TOML, with the line.
pub fn from_text(text: &str) -> Result<Layer> {
    let table =
        text.parse::<Table>().map_err(|error| Failure::usage(error.to_string().trim_end().to_owned()))?;
    Ok(Layer(table))
}

fn read_file(path: &Path) -> Result<Layer> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::usage(format!("cannot read the configuration {}: {error}", path.display())).hint(
            "a finished run's config.toml is a good start: consilium simulate --config runs/.../config.toml",
        )
    })?;
    from_text(&text).with_context(|| format!("configuration from {}", path.display()))
}

/// `CONSILIUM_TRAIN__LEARNING_RATE=1e-3` sets `train.learning_rate`; `CONSILIUM_SEED=7` sets `seed`.
fn from_environment(variables: impl Iterator<Item = (String, String)>) -> Layer {
    let mut layer = Layer::default();
    for (name, text) in variables {
        if OTHER_VARIABLES.contains(&name.as_str()) {
            continue;
        }
        if let Some(key) = name.strip_prefix(PREFIX) {
            layer.set(&key.to_lowercase().replace("__", "."), value(&text));
        }
    }
    layer
}

fn from_assignments(assignments: &[String]) -> Result<Layer> {
    let mut layer = Layer::default();
    for assignment in assignments {
        let (key, text) = assignment
            .split_once('=')
            .ok_or_else(|| Failure::usage(format!("--set '{assignment}': expected KEY=VALUE")))?;
        layer.set(key.trim(), value(text.trim()));
    }
    Ok(layer)
}

/// What the text means as TOML; text that means nothing there is text, so that quotes are not needed.
fn value(text: &str) -> Value {
    format!("value = {text}")
        .parse::<Table>()
        .ok()
        .filter(|table| table.len() == 1)
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| Value::from(text))
}

/// A layer as a configuration. Keys of [`OF_THE_SOURCE`] that no layer names are unset: their defaults belong to the
/// reference data, which a preset spells out.
fn lower(layer: &Layer) -> Result<Config, ConfigError> {
    let mut config = Config::from_table(layer.0.clone())?;
    let absent = |key: &str| layer.get(&format!("data.{key}")).is_none();
    let data = &mut config.data;
    data.split = data.split.take().filter(|_| !absent("split"));
    data.test_split = data.test_split.take().filter(|_| !absent("test_split"));
    data.train_rows = data.train_rows.filter(|_| !absent("train_rows"));
    data.columns.category = data.columns.category.take().filter(|_| !absent("columns.category"));
    if absent("sites") {
        data.sites.clear();
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(text: &str) -> Layer {
        from_text(text).unwrap()
    }

    fn resolved(layers: &[&str]) -> Config {
        let mut whole = preset(None);
        for text in layers {
            whole.overlay(&layer(text));
        }
        lower(&whole).unwrap()
    }

    #[test]
    fn a_stronger_layer_replaces_the_keys_it_names_and_no_other() {
        let config =
            resolved(&["[lora]\nrank = 4\nalpha = 8.0", "[lora]\nrank = 2\n[train]\nmicro_batch = 1"]);
        assert_eq!((config.lora.rank, config.lora.alpha, config.lora.dropout), (2, 8.0, 0.1));
        assert_eq!(config.train.micro_batch, 1);
    }

    #[test]
    fn another_source_of_rows_drops_what_was_said_about_the_former() {
        let config = resolved(&["[data]\nsource = 'rows.csv'"]);
        assert_eq!((config.data.source.as_str(), config.data.sites.len()), ("rows.csv", 0));
        assert_eq!(
            (config.data.split, config.data.test_split, config.data.columns.category),
            (None, None, None)
        );
        let same = resolved(&["[data]\nsource = 'NIH-CARD/CARDBiomedBench'\ntrain_rows = 9"]);
        assert_eq!((same.data.sites.len(), same.data.train_rows), (5, Some(9)));
    }

    #[test]
    fn rivals_of_a_weaker_layer_step_back() {
        let config = resolved(&["[federation]\nlocal_epochs = 2", "[federation]\nlocal_steps = 3"]);
        assert_eq!((config.federation.local_epochs, config.federation.local_steps), (None, Some(3)));
        let config =
            resolved(&["[data.partition]\nkind = 'iid'\nsites = 3", "[data.partition]\nkind = 'category'"]);
        assert_eq!(config.data.partition, consilium_experiment::config::PartitionConfig::Category);
    }

    #[test]
    fn the_environment_names_sections_with_two_underscores() {
        let variables = [
            ("CONSILIUM_TRAIN__LEARNING_RATE", "1e-3"),
            ("CONSILIUM_SEED", "7"),
            ("CONSILIUM_DATA__SOURCE", "rows of mine.csv"),
            ("CONSILIUM_OUT", "elsewhere"),
            ("PATH", "/bin"),
        ];
        let layer = from_environment(variables.map(|(k, v)| (k.to_owned(), v.to_owned())).into_iter());
        assert_eq!(layer.get("train.learning_rate"), Some(&Value::Float(1e-3)));
        assert_eq!(layer.get("seed"), Some(&Value::Integer(7)));
        assert_eq!(layer.get("data.source"), Some(&Value::from("rows of mine.csv")));
        assert_eq!(layer.0.len(), 3);
    }

    #[test]
    fn assigned_values_need_no_quotes() {
        let given =
            ["model.id=HuggingFaceTB/SmolLM2-360M", "lora.targets=[\"q\", \"k\"]", "eval.parity=true"];
        let layer = from_assignments(&given.map(String::from)).unwrap();
        assert_eq!(layer.get("model.id"), Some(&Value::from("HuggingFaceTB/SmolLM2-360M")));
        assert_eq!(layer.get("lora.targets").and_then(Value::as_array).map(Vec::len), Some(2));
        assert_eq!(layer.get("eval.parity"), Some(&Value::Boolean(true)));
        assert!(from_assignments(&["seed".to_owned()]).is_err());
    }
}
