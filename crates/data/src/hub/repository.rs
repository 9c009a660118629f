//! One repository at one commit: what it holds, and its files in the cache.

use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use consilium_core::Event;
use consilium_core::hash::Hasher;
use hf_hub::api::RepoInfo;
use hf_hub::api::sync::{ApiBuilder, ApiRepo};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};

use super::error::Cause;
use super::{Hub, HubError, Kind};

/// How long the hub may take to say what a repository holds.
const LISTING_TIMEOUT: Duration = Duration::from_secs(30);

/// A repository at one commit.
#[derive(Debug)]
pub struct Repository {
    hub: Hub,
    kind: Kind,
    id: String,
    revision: String,
    commit: String,
    names: Vec<String>,
    /// Whether the hub answered; else only the cache is asked.
    online: bool,
}

impl Repository {
    pub(super) fn open(hub: Hub, kind: Kind, id: &str, revision: &str) -> Result<Self, HubError> {
        let mut repository = Self {
            hub,
            kind,
            id: id.to_string(),
            revision: revision.to_string(),
            commit: String::new(),
            names: Vec::new(),
            online: false,
        };
        if repository.hub.settings.offline {
            let cache = repository.hub.settings.cache.clone();
            return match repository.open_cached() {
                true => Ok(repository),
                false => Err(HubError::NotCached { what: repository.what(), cache }),
            };
        }
        match repository.listing() {
            Ok(info) => {
                // A name that leads out of the repository's own folder is none that we could want.
                repository.names = info
                    .siblings
                    .into_iter()
                    .map(|file| file.rfilename)
                    .filter(|name| stays_inside(name))
                    .collect();
                repository.commit = info.sha;
                repository.online = true;
                repository.remember_listing();
                Ok(repository)
            }
            Err(Cause::Unreachable(reason) | Cause::Interrupted(reason)) => match repository.open_cached() {
                true => {
                    let what = repository.what();
                    repository.hub.record(&Event::Note {
                        text: format!("the hub cannot be reached ({reason}); {what} is taken from the cache"),
                    });
                    Ok(repository)
                }
                false => Err(repository.unreachable(reason)),
            },
            Err(cause) => Err(repository.error(repository.what(), cause)),
        }
    }

    /// Names of its files, with `/`; offline, as far as the cache knows them.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether it has a file.
    pub fn has(&self, name: &str) -> bool {
        self.names.iter().any(|known| known == name)
    }

    /// The commit that it is pinned to.
    pub fn commit(&self) -> &str {
        &self.commit
    }

    /// The folder in the cache that shows its files.
    pub fn dir(&self) -> PathBuf {
        self.cached().pointer_path(&self.commit)
    }

    /// The path of a file, downloaded if the cache does not have it.
    ///
    /// # Errors
    /// When the repository has no such file, or it can't be had.
    pub fn file(&self, name: &str) -> Result<PathBuf, HubError> {
        let path = self.dir().join(name);
        if stays_inside(name) && path.exists() {
            return Ok(path);
        }
        let what = format!("{}, file {name}", self.what());
        if !self.has(name) {
            return Err(HubError::NoFile { what: self.what(), name: name.to_string() });
        }
        if !self.online {
            let cache = self.hub.settings.cache.clone();
            return Err(match self.hub.settings.offline {
                true => HubError::NotCached { what, cache },
                false => self.unreachable("see above".to_string()),
            });
        }
        match self.download(name) {
            // The remains of an earlier run stood in the way and are gone now.
            Err(Cause::BadResume) => self.download(name),
            done => done,
        }
        .map_err(|cause| self.error(what, cause))
    }

    fn download(&self, name: &str) -> Result<PathBuf, Cause> {
        let expected = AtomicU64::new(0);
        let meter = Meter {
            hub: &self.hub,
            task: format!("downloading {}/{name}", self.id),
            expected: &expected,
            done: 0,
            told: 0,
        };
        let api = self.api(&self.commit).map_err(Cause::of_api)?;
        let outcome = api.download_with_progress(name, meter).map_err(Cause::of_api);
        let checked = outcome.and_then(|path| {
            check(&path, expected.load(Ordering::Relaxed)).inspect_err(|_| discard(&path))?;
            Ok(path)
        });
        match &checked {
            Ok(_) => self.remember_revision(),
            Err(Cause::BadResume) => self.remove_partial(|_| true),
            // What is named by its SHA-256 is checked against it in the end, so it may be continued by another run.
            Err(_) => self.remove_partial(|blob| !is_sha256(blob)),
        }
        checked
    }

    fn listing(&self) -> Result<RepoInfo, Cause> {
        let api = self.api(&self.revision).map_err(Cause::of_api)?;
        let request = api.info_request().config().timeout_global(Some(LISTING_TIMEOUT)).build();
        let mut response = request.call().map_err(Cause::of_request)?;
        response.body_mut().read_json().map_err(Cause::of_request)
    }

    fn api(&self, revision: &str) -> Result<ApiRepo, hf_hub::api::sync::ApiError> {
        let settings = &self.hub.settings;
        let api = ApiBuilder::from_cache(Cache::new(settings.cache.clone()))
            .with_endpoint(settings.endpoint.clone())
            .with_token(settings.token.clone())
            .with_retries(settings.retries)
            .with_progress(false)
            .with_user_agent("consilium", env!("CARGO_PKG_VERSION"))
            .build()?;
        Ok(api.repo(self.repo(revision)))
    }

    fn repo(&self, revision: &str) -> Repo {
        let kind = match self.kind {
            Kind::Model => RepoType::Model,
            Kind::Dataset => RepoType::Dataset,
        };
        Repo::with_revision(self.id.clone(), kind, revision.to_string())
    }

    fn cached(&self) -> CacheRepo {
        Cache::new(self.hub.settings.cache.clone()).repo(self.repo(&self.revision))
    }

    /// `<cache>/datasets--owner--name`.
    fn folder(&self) -> PathBuf {
        self.hub.settings.cache.join(self.repo(&self.revision).folder_name())
    }

    /// Takes commit and names from the cache; false when it does not know the revision.
    fn open_cached(&mut self) -> bool {
        let named = std::fs::read_to_string(self.folder().join("refs").join(&self.revision));
        // A revision that no ref names may be a commit itself.
        self.commit = named.map_or_else(|_| self.revision.clone(), |commit| commit.trim().to_string());
        if !stays_inside(&self.commit) || !(self.dir().is_dir() || self.listing_path().is_file()) {
            return false;
        }
        let listed =
            std::fs::read(self.listing_path()).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let names: Option<Vec<String>> = listed.or_else(|| crate::source::relative_files(&self.dir()).ok());
        self.names = names.unwrap_or_default();
        true
    }

    /// Keeps the whole list of names, so that a later look at the cache alone is not misled by the files it lacks. A
    /// cache that cannot be written to shows soon enough, with the first download.
    fn remember_listing(&self) {
        let path = self.listing_path();
        if let (Some(folder), Ok(json)) = (path.parent(), serde_json::to_vec(&self.names)) {
            let _ = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&path, json));
        }
        // A branch that the cache knows moves on with the first file of its new commit: until then the old commit's
        // files are the better ones to have offline.
        if !self.folder().join("refs").join(&self.revision).exists() {
            let _ = self.cached().create_ref(&self.commit);
        }
    }

    fn listing_path(&self) -> PathBuf {
        self.folder().join(".consilium").join(format!("{}.json", self.commit))
    }

    /// Lets the branch or tag point to the commit whose files are here now.
    fn remember_revision(&self) {
        if self.cached().create_ref(&self.commit).is_err() {
            self.hub.record(&Event::Note {
                text: format!("cannot note the revision of {} in the cache", self.what()),
            });
        }
    }

    fn remove_partial(&self, which: impl Fn(&str) -> bool) {
        let Ok(entries) = std::fs::read_dir(self.folder().join("blobs")) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            let blob = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or("");
            if path.extension().is_some_and(|extension| extension == "part") && which(blob) {
                let _ = std::fs::remove_file(&path);
            }
        }
    }

    fn what(&self) -> String {
        format!("{} {}", self.kind.word(), self.id)
    }

    fn unreachable(&self, reason: String) -> HubError {
        let settings = &self.hub.settings;
        let (endpoint, cache) = (settings.endpoint.clone(), settings.cache.clone());
        HubError::Unreachable { what: self.what(), endpoint, reason, cache }
    }

    fn error(&self, what: String, cause: Cause) -> HubError {
        match cause {
            Cause::Status(status @ (401 | 403)) => HubError::Denied { what, status },
            Cause::Status(404) => HubError::NotFound { what, revision: self.revision.clone() },
            Cause::Status(status) => HubError::Status { what, status },
            Cause::Unreachable(reason) => self.unreachable(reason),
            Cause::Interrupted(reason) => HubError::Broken { what, reason },
            Cause::BadResume => HubError::Broken { what, reason: "an earlier part does not fit".to_string() },
            Cause::Other(reason) => HubError::Other { what, reason },
        }
    }
}

/// Compares a downloaded file with its announced size and, where the blob is named by it, its SHA-256.
fn check(path: &Path, expected: u64) -> Result<(), Cause> {
    let other = |error: std::io::Error| Cause::Other(error.to_string());
    let found = std::fs::metadata(path).map_err(other)?.len();
    if found != expected {
        return Err(Cause::Interrupted(format!("{found} of {expected} bytes came")));
    }
    let blob = std::fs::canonicalize(path).map_err(other)?;
    let name = blob.file_name().and_then(|name| name.to_str()).unwrap_or("");
    if is_sha256(name) {
        let mut hasher = Hasher::default();
        crate::read::hash_file(path, &mut hasher).map_err(|error| Cause::Other(error.to_string()))?;
        if hasher.finish() != name {
            return Err(Cause::Interrupted("its SHA-256 is not the announced one".to_string()));
        }
    }
    Ok(())
}

/// Takes a file and the blob behind it out of the cache.
fn discard(path: &Path) {
    if let Ok(blob) = std::fs::canonicalize(path) {
        let _ = std::fs::remove_file(blob);
    }
    let _ = std::fs::remove_file(path);
}

fn is_sha256(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn stays_inside(name: &str) -> bool {
    !name.is_empty() && Path::new(name).components().all(|part| matches!(part, Component::Normal(_)))
}

/// Passes hf-hub's progress on, at most once every mebibyte, and notes the size that the hub announced.
struct Meter<'a> {
    hub: &'a Hub,
    task: String,
    expected: &'a AtomicU64,
    done: u64,
    told: u64,
}

impl Meter<'_> {
    fn tell(&mut self) {
        self.told = self.done;
        self.hub.record(&Event::Progress {
            task: self.task.clone(),
            done: self.done,
            total: self.expected.load(Ordering::Relaxed),
            unit: "bytes".to_string(),
        });
    }
}

impl hf_hub::api::Progress for Meter<'_> {
    fn init(&mut self, size: usize, _filename: &str) {
        self.expected.store(size as u64, Ordering::Relaxed);
        self.done = 0;
    }

    fn update(&mut self, size: usize) {
        self.done += size as u64;
        if self.done - self.told.min(self.done) >= 1 << 20 {
            self.tell();
        }
    }

    fn finish(&mut self) {
        self.tell();
    }
}
