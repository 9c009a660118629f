//! The folder of a run: its configuration, its metrics, its adapters, and what is needed to go on after a stop.
//!
//! ```text
//! config.toml  origin.json  metrics.jsonl  predictions.jsonl  summary.json  report.html
//! adapters/{federated,pooled,local-<site>}/
//! state/       only while the run is unfinished
//! ```

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use consilium_core::{Adapter, Event, LoraConfig, Sink, peft};
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::durable;
use crate::error::ExperimentError;
use crate::inputs::folder_name;

/// A run's folder.
pub struct RunFolder {
    root: PathBuf,
}

/// What a run started from: it can only go on from the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// The base model's weights.
    pub model_sha256: String,
    /// Every row.
    pub rows_sha256: String,
    /// The adapter at the start.
    pub adapter_sha256: String,
}

impl RunFolder {
    /// Opens the folder of a run of `config` from `origin`, or begins one.
    ///
    /// # Errors
    /// [`ExperimentError::OtherConfig`] or [`ExperimentError::OtherInputs`] when it holds another run.
    pub fn open(root: &Path, config: &Config, origin: &Origin) -> Result<Self, ExperimentError> {
        let folder = Self { root: root.to_owned() };
        durable::create_dir(root)?;
        match durable::read(&folder.path("config.toml"))? {
            Some(text) => folder.check_same(&String::from_utf8_lossy(&text), config)?,
            None => {
                durable::create_dir(&folder.path("state"))?;
                durable::write_stamped(&folder.origin_path(), origin, b"")?;
                durable::write_file(&folder.path("config.toml"), config.to_toml().as_bytes())?;
            }
        }
        let before: Option<(Origin, _)> = durable::read_stamped(&folder.origin_path())?;
        if let Some((before, _)) = before {
            for (what, same) in [
                ("model", before.model_sha256 == origin.model_sha256),
                ("set of rows", before.rows_sha256 == origin.rows_sha256),
                ("adapter", before.adapter_sha256 == origin.adapter_sha256),
            ] {
                if !same {
                    return Err(ExperimentError::OtherInputs { out: root.to_owned(), what });
                }
            }
        }
        Ok(folder)
    }

    /// Whether the run has ended: nothing is left to go on with.
    pub fn is_finished(&self) -> bool {
        self.path("summary.json").is_file() && !self.path("state").exists()
    }

    fn origin_path(&self) -> PathBuf {
        self.path("origin.json")
    }

    /// A file or folder of the run.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The run's name: the folder's.
    pub fn name(&self) -> String {
        let absolute = std::path::absolute(&self.root).unwrap_or_else(|_| self.root.clone());
        absolute.file_name().map_or_else(|| "run".into(), |name| name.to_string_lossy().into_owned())
    }

    /// Where the state `name` of an unfinished run is kept.
    pub fn state(&self, name: &str) -> PathBuf {
        self.path("state").join(folder_name(name))
    }

    /// Where the adapter of `model` is kept.
    pub fn adapter_dir(&self, model: &str) -> PathBuf {
        self.path("adapters").join(folder_name(model))
    }

    /// The stop that leaves this folder resumable.
    pub fn stopped(&self) -> ExperimentError {
        ExperimentError::Stopped { out: self.root.clone() }
    }

    fn check_same(&self, before: &str, config: &Config) -> Result<(), ExperimentError> {
        let path = self.path("config.toml");
        let before: toml::Table = before.parse().map_err(|e| ExperimentError::broken(&path, e))?;
        let now: toml::Table = config.to_toml().parse().map_err(|e| ExperimentError::broken(&path, e))?;
        match first_difference("", &before, &now) {
            None => Ok(()),
            Some((key, before, now)) => {
                Err(ExperimentError::OtherConfig { out: self.root.clone(), key, before, now })
            }
        }
    }

    /// Saves the adapter of `model` as PEFT files.
    ///
    /// # Errors
    /// [`ExperimentError::Io`].
    pub fn save_adapter(
        &self,
        model: &str,
        adapter: &Adapter,
        lora: &LoraConfig,
        base: &str,
    ) -> Result<(), ExperimentError> {
        durable::create_dir(&self.path("adapters"))?;
        write_peft(&self.adapter_dir(model), adapter, lora, base)
    }

    /// The finished adapter of `model`, if it was saved.
    ///
    /// # Errors
    /// When the file is there and broken.
    pub fn load_adapter(&self, model: &str) -> Result<Option<Adapter>, ExperimentError> {
        let path = self.adapter_dir(model).join(peft::WEIGHTS_FILE);
        let Some(bytes) = durable::read(&path)? else { return Ok(None) };
        Ok(Some(peft::decode_weights(&bytes)?))
    }
}

/// Writes an adapter as the two PEFT files.
///
/// # Errors
/// [`ExperimentError::Io`].
pub fn write_peft(
    dir: &Path,
    adapter: &Adapter,
    lora: &LoraConfig,
    base: &str,
) -> Result<(), ExperimentError> {
    let config = peft::encode_config(lora, base);
    let weights = peft::encode_weights(adapter);
    durable::write_dir(dir, &[(peft::CONFIG_FILE, config.as_bytes()), (peft::WEIGHTS_FILE, &weights)])
}

/// The first key whose value differs, as `section.key` with both values. Results do not depend on `threads`.
fn first_difference(
    prefix: &str,
    before: &toml::Table,
    now: &toml::Table,
) -> Option<(String, String, String)> {
    let keys: std::collections::BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    let show = |value: Option<&toml::Value>| value.map_or("absent".into(), ToString::to_string);
    keys.into_iter().filter(|key| !(prefix.is_empty() && *key == "threads")).find_map(|key| {
        let name = format!("{prefix}{key}");
        match (before.get(key), now.get(key)) {
            (Some(toml::Value::Table(before)), Some(toml::Value::Table(now))) => {
                first_difference(&format!("{name}."), before, now)
            }
            (before, now) if before == now => None,
            (before, now) => Some((name, show(before), show(now))),
        }
    })
}

/// Appends events to `metrics.jsonl`, one JSON object a line. Progress is for the screen and left out.
pub struct JsonlSink {
    path: PathBuf,
    file: Mutex<Result<File, std::io::Error>>,
}

impl JsonlSink {
    /// Goes on with the file at `path`, keeping those of its lines that `keep` keeps: what was recorded of work that
    /// will be done again goes away, and so does a line that a crash has cut off.
    ///
    /// # Errors
    /// [`ExperimentError::Io`].
    pub fn resume(path: &Path, keep: impl Fn(&Event) -> bool) -> Result<Self, ExperimentError> {
        let mut kept = Vec::new();
        for event in read_events(path)?.iter().filter(|event| keep(event)) {
            write_line(&mut kept, event).map_err(ExperimentError::io(path))?;
        }
        durable::write_file(path, &kept)?;
        let file = OpenOptions::new().append(true).open(path).map_err(ExperimentError::io(path))?;
        Ok(Self { path: path.to_owned(), file: Mutex::new(Ok(file)) })
    }

    /// Whether everything could be written so far, a full disk for example.
    ///
    /// # Errors
    /// [`ExperimentError::Io`] with the first failure.
    pub fn check(&self) -> Result<(), ExperimentError> {
        let file = self.file.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match &*file {
            Ok(_) => Ok(()),
            Err(error) => {
                Err(ExperimentError::io(&self.path)(std::io::Error::new(error.kind(), error.to_string())))
            }
        }
    }
}

fn write_line(to: &mut impl Write, event: &Event) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    to.write_all(&line)
}

impl Sink for JsonlSink {
    fn record(&self, event: &Event) {
        if matches!(event, Event::Progress { .. }) {
            return;
        }
        let mut file = self.file.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Ok(open) = &mut *file
            && let Err(error) = write_line(open, event)
        {
            *file = Err(error);
        }
    }
}

/// The events in a `metrics.jsonl`; lines that are none are left out. Nothing when there is no file.
///
/// # Errors
/// [`ExperimentError::Io`].
pub fn read_events(path: &Path) -> Result<Vec<Event>, ExperimentError> {
    let bytes = durable::read(path)?.unwrap_or_default();
    Ok(bytes.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin() -> Origin {
        Origin { model_sha256: "m".into(), rows_sha256: "r".into(), adapter_sha256: "a".into() }
    }

    #[test]
    fn another_configuration_is_refused_by_key_and_other_threads_are_not() {
        let root = tempfile::tempdir().unwrap();
        let config = Config::default();
        RunFolder::open(root.path(), &config, &origin()).unwrap();
        let threads = Config { threads: 7, ..config.clone() };
        RunFolder::open(root.path(), &threads, &origin()).unwrap();
        let mut other = config.clone();
        other.train.micro_batch = 5;
        let error = RunFolder::open(root.path(), &other, &origin()).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("train.micro_batch was 4, now it is 5"), "{error}");
        let rows = Origin { rows_sha256: "x".into(), ..origin() };
        let error = RunFolder::open(root.path(), &config, &rows).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("another set of rows"), "{error}");
    }

    #[test]
    fn metrics_go_on_without_what_will_be_done_again_and_without_torn_lines() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("metrics.jsonl");
        let note = |text: &str| Event::Note { text: text.into() };
        let sink = JsonlSink::resume(&path, |_| true).unwrap();
        let progress = Event::Progress { task: "t".into(), done: 1, total: 2, unit: "rows".into() };
        [note("a"), progress, note("b")].iter().for_each(|event| sink.record(event));
        sink.check().unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend(b"{\"event\":\"no");
        std::fs::write(&path, bytes).unwrap();
        let sink = JsonlSink::resume(&path, |event| *event != note("b")).unwrap();
        sink.record(&note("c"));
        assert_eq!(read_events(&path).unwrap(), [note("a"), note("c")]);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_is_reported() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let sink = JsonlSink { path: "metrics.jsonl".into(), file: Mutex::new(Ok(full)) };
        sink.record(&Event::Note { text: "x".into() });
        assert!(sink.check().unwrap_err().to_string().contains("metrics.jsonl"));
    }
}
