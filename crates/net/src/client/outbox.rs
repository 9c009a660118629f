//! Finished updates on their way to the server. An update is durable here before its first byte leaves, and it goes
//! only after the server has answered: no crash on either side loses or repeats a training.
//!
//! Each is an archive (`.npz`) with a head (`.json`); the head is written last and removed first, so one with a head is
//! whole.

use std::fs;
use std::path::{Path, PathBuf};

use consilium_core::hash::sha256_hex;
use consilium_core::npz;
use consilium_federation::{Update, UpdateMetrics};
use serde::{Deserialize, Serialize};

use crate::durable;
use crate::error::NetError;

/// What is said about an update, beside its archive.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Head {
    pub session: String,
    pub round: u32,
    pub base_sha256: String,
    pub archive_sha256: String,
    pub bytes: u64,
    pub examples: u64,
    /// JSON has no NaN: absent stands for it.
    train_loss: Option<f64>,
    steps: u64,
    tokens: u64,
    seconds: Option<f64>,
}

impl Head {
    /// The head of `update` and its archive.
    pub fn of(session: &str, update: &Update) -> (Self, Vec<u8>) {
        let archive = npz::encode(&update.adapter);
        let UpdateMetrics { train_loss, steps, tokens, seconds } = update.metrics;
        let head = Self {
            session: session.to_owned(),
            round: update.round,
            base_sha256: update.base_sha256.clone(),
            archive_sha256: sha256_hex(&archive),
            bytes: archive.len() as u64,
            examples: update.examples,
            train_loss: Some(train_loss).filter(|value| value.is_finite()),
            steps,
            tokens,
            seconds: Some(seconds).filter(|value| value.is_finite()),
        };
        (head, archive)
    }

    /// The numbers for reports.
    pub fn metrics(&self) -> UpdateMetrics {
        UpdateMetrics {
            train_loss: self.train_loss.unwrap_or(f64::NAN),
            steps: self.steps,
            tokens: self.tokens,
            seconds: self.seconds.unwrap_or(f64::NAN),
        }
    }

    /// A file name of fixed letters: the session's id is the server's word and must not become a path.
    fn name(&self) -> String {
        let named = serde_json::json!([self.session, self.round, self.archive_sha256]).to_string();
        sha256_hex(named.as_bytes())[..32].to_owned()
    }
}

/// The folder of updates that have no answer yet.
pub(super) struct Outbox {
    folder: PathBuf,
}

impl Outbox {
    /// Opens the outbox in `folder`, or makes it, and removes what a crash has left half-written.
    ///
    /// # Errors
    /// [`NetError::Io`].
    pub fn open(folder: PathBuf) -> Result<Self, NetError> {
        durable::create_folder(&folder)?;
        let outbox = Self { folder };
        for path in outbox.files()? {
            let whole = match extension(&path) {
                "json" => true,
                "npz" => path.with_extension("json").exists(),
                _ => false,
            };
            if !whole {
                durable::remove(&path)?;
            }
        }
        Ok(outbox)
    }

    fn files(&self) -> Result<Vec<PathBuf>, NetError> {
        let listed = fs::read_dir(&self.folder)
            .and_then(|entries| entries.map(|entry| entry.map(|e| e.path())).collect());
        listed.map_err(NetError::io(&self.folder))
    }

    fn path(&self, head: &Head, extension: &str) -> PathBuf {
        self.folder.join(head.name()).with_extension(extension)
    }

    /// Keeps an update; it is durable when this returns.
    ///
    /// # Errors
    /// [`NetError::Io`]: then nothing may be sent.
    pub fn put(&self, head: &Head, archive: &[u8]) -> Result<(), NetError> {
        let text = serde_json::to_vec_pretty(head).map_err(|e| NetError::Internal(e.to_string()))?;
        durable::write(&self.path(head, "npz"), archive)?;
        durable::write(&self.path(head, "json"), &text)
    }

    /// The updates of `session` that have no answer yet, by round. Damaged ones are removed and named to `dropped`.
    ///
    /// # Errors
    /// [`NetError::Io`].
    pub fn waiting(
        &self,
        session: &str,
        dropped: &mut dyn FnMut(String),
    ) -> Result<Vec<(Head, Vec<u8>)>, NetError> {
        let mut waiting = Vec::new();
        for path in self.files()? {
            if extension(&path) != "json" {
                continue;
            }
            match read(&path) {
                Ok((head, archive)) if head.session == session => waiting.push((head, archive)),
                Ok(_) => {}
                Err(damage @ NetError::Corrupt { .. }) => {
                    durable::remove(&path)?;
                    durable::remove(&path.with_extension("npz"))?;
                    dropped(damage.to_string());
                }
                Err(error) => return Err(error),
            }
        }
        waiting.sort_by(|(a, _), (b, _)| (a.round, &a.archive_sha256).cmp(&(b.round, &b.archive_sha256)));
        Ok(waiting)
    }

    /// Forgets an update that has been answered.
    ///
    /// # Errors
    /// [`NetError::Io`].
    pub fn remove(&self, head: &Head) -> Result<(), NetError> {
        durable::remove(&self.path(head, "json"))?;
        durable::remove(&self.path(head, "npz"))?;
        durable::sync_folder(&self.folder)
    }
}

fn extension(path: &Path) -> &str {
    path.extension().and_then(|extension| extension.to_str()).unwrap_or_default()
}

fn read(path: &Path) -> Result<(Head, Vec<u8>), NetError> {
    let bytes = fs::read(path).map_err(NetError::io(path))?;
    let head: Head = serde_json::from_slice(&bytes).map_err(|e| NetError::corrupt(path.display(), e))?;
    let path = path.with_extension("npz");
    let archive = match fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(NetError::corrupt(path.display(), "the archive is missing"));
        }
        read => read.map_err(NetError::io(&path))?,
    };
    let found = sha256_hex(&archive);
    if found != head.archive_sha256 || archive.len() as u64 != head.bytes {
        return Err(NetError::corrupt(path.display(), format!("its content has SHA-256 {found}")));
    }
    Ok((head, archive))
}

#[cfg(test)]
mod tests {
    use super::*;
    use consilium_core::{Adapter, Tensor};

    fn adapter(values: &[f32]) -> Adapter {
        Adapter::new(vec![Tensor { name: "w".into(), shape: vec![values.len()], data: values.to_vec() }])
            .unwrap()
    }

    fn update(round: u32, value: f32) -> Update {
        Update {
            round,
            base_sha256: "base".into(),
            adapter: adapter(&[value]),
            examples: 3,
            metrics: UpdateMetrics { train_loss: 0.5, steps: 2, tokens: 10, seconds: 1.5 },
        }
    }

    fn waiting(outbox: &Outbox, session: &str) -> Vec<(Head, Vec<u8>)> {
        outbox.waiting(session, &mut |what| panic!("{what}")).unwrap()
    }

    #[test]
    fn what_was_put_waits_in_order_until_it_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = Outbox::open(folder.path().join("outbox")).unwrap();
        for round in [2, 1] {
            let (head, archive) = Head::of("../s", &update(round, round as f32));
            outbox.put(&head, &archive).unwrap();
        }
        let (other, archive) = Head::of("t", &update(7, 0.0));
        outbox.put(&other, &archive).unwrap();
        drop(outbox);
        let outbox = Outbox::open(folder.path().join("outbox")).unwrap();
        let found = waiting(&outbox, "../s");
        assert_eq!(found.iter().map(|(head, _)| head.round).collect::<Vec<_>>(), [1, 2]);
        assert_eq!((found[0].0.clone(), found[0].1.clone()), Head::of("../s", &update(1, 1.0)));
        assert_eq!(found[0].0.metrics(), update(1, 1.0).metrics);
        outbox.remove(&found[0].0).unwrap();
        assert_eq!(waiting(&outbox, "../s").len(), 1);
        assert_eq!(waiting(&outbox, "t").len(), 1, "another session's stays");
    }

    #[test]
    fn half_written_and_damaged_updates_are_never_sent() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = Outbox::open(folder.path().to_owned()).unwrap();
        let (head, archive) = Head::of("s", &update(1, 1.0));
        outbox.put(&head, &archive).unwrap();
        fs::write(folder.path().join("0.npz"), "no head").unwrap();
        fs::write(folder.path().join("1.json.part"), "{").unwrap();
        let outbox = Outbox::open(folder.path().to_owned()).unwrap();
        assert_eq!(outbox.files().unwrap().len(), 2, "only the whole one is left");

        let path = outbox.path(&head, "npz");
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
        let mut told = Vec::new();
        assert!(outbox.waiting("s", &mut |what| told.push(what)).unwrap().is_empty());
        assert!(told[0].contains("SHA-256"), "{told:?}");
        assert!(outbox.files().unwrap().is_empty());
    }

    #[test]
    fn numbers_that_are_none_survive() {
        let mut bad = update(1, 1.0);
        bad.metrics.train_loss = f64::NAN;
        let folder = tempfile::tempdir().unwrap();
        let outbox = Outbox::open(folder.path().to_owned()).unwrap();
        let (head, archive) = Head::of("s", &bad);
        outbox.put(&head, &archive).unwrap();
        assert!(waiting(&outbox, "s")[0].0.metrics().train_loss.is_nan());
    }
}
