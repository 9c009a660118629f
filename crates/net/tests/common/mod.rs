//! A server on this machine and sites that talk to its core directly.
#![allow(dead_code)]

pub mod program;
pub mod proxy;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use consilium_core::hash::sha256_hex;
use consilium_core::{Adapter, Tensor, npz};
use consilium_federation::{LocalWork, ScheduleScope, SessionSettings, Training, UpdateMetrics, Weights};
use consilium_net::NetError;
use consilium_net::manifest::{Manifest, verify};
use consilium_net::server::sessions::NextTask;
use consilium_net::server::store::Role;
use consilium_net::server::uploads::{Outcome, Submission};
use consilium_net::server::{Core, CoreSettings, Principal, Roster, ServeOptions, Server, SessionSpec};

pub fn start(folder: &Path) -> Server {
    let settings = CoreSettings { open_enrolment: true, ..CoreSettings::default() };
    let listen = "127.0.0.1:0".parse().unwrap();
    Server::start(ServeOptions { folder: folder.to_owned(), listen, settings, tls: None }).unwrap()
}

pub fn operator() -> Principal {
    Principal { name: "operator".into(), role: Role::Operator }
}

/// An adapter of a square and a vector, filled from `value`.
pub fn adapter(value: f32) -> Adapter {
    let tensor = |name: &str, shape: &[usize]| Tensor {
        name: name.into(),
        shape: shape.to_vec(),
        data: (0..shape.iter().product()).map(|i| value + i as f32).collect(),
    };
    Adapter::new(vec![tensor("a", &[2, 3]), tensor("b", &[4])]).unwrap()
}

pub fn spec(name: &str, sites: &[&str], rounds: u32, quorum: usize, deadline_s: f64) -> SessionSpec {
    SessionSpec {
        name: name.into(),
        plan: "{}".into(),
        settings: SessionSettings { rounds, sites_per_round: None, quorum, deadline_s, seed: 1 },
        weights: Weights::Examples,
        work: LocalWork::Epochs(1),
        scope: ScheduleScope::Session,
        training: Training::default(),
        roster: Roster::Named(sites.iter().map(|site| (*site).to_owned()).collect()),
        schema: adapter(0.0).schema(),
    }
}

/// Orders a session and returns its id.
pub fn order(server: &Server, spec: SessionSpec) -> String {
    server.core().order(&operator(), spec, &npz::encode(&adapter(0.0))).unwrap()
}

/// A site that speaks to the core as the wire does.
#[derive(Clone)]
pub struct Site {
    pub core: Arc<Core>,
    pub session: String,
    pub me: Principal,
}

impl Site {
    /// Enrols, reports for duty.
    pub fn attend(server: &Server, session: &str, name: &str) -> Self {
        let core = server.core().clone();
        core.enrol(name, "").unwrap();
        let me = Principal { name: name.into(), role: Role::Site };
        core.attend(&me, session).unwrap().unwrap();
        Self { core, session: session.into(), me }
    }

    /// Waits for the task of any round, and returns its manifest.
    pub fn task(&self) -> Manifest {
        let start = Instant::now();
        loop {
            match self.core.next_task(&self.me, &self.session).unwrap() {
                NextTask::Task(task) => {
                    return verify(&self.core.server_key(), &task.manifest, &task.signature).unwrap();
                }
                other => assert!(start.elapsed() < Duration::from_secs(20), "no task came: {other:?}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Uploads `archive` for `round` and returns its hash.
    pub fn upload(&self, round: u32, archive: &[u8]) -> Result<String, NetError> {
        let sha256 = sha256_hex(archive);
        let (id, received) =
            self.core.begin_upload(&self.me, &self.session, round, &sha256, archive.len() as u64)?;
        if received < archive.len() as u64 {
            self.core.upload(&self.me, &id, received, &archive[received as usize..])?;
        }
        Ok(sha256)
    }

    /// An honest submission of what was uploaded as `sha256`.
    pub fn submission(&self, task: &Manifest, sha256: &str) -> Submission {
        Submission {
            session: self.session.clone(),
            round: task.task.round,
            base_sha256: task.task.base_sha256.clone(),
            archive_sha256: sha256.into(),
            examples: 10,
            metrics: UpdateMetrics::default(),
        }
    }

    /// Does the whole work of one task honestly.
    pub fn send(&self, task: &Manifest, adapter: &Adapter) -> Result<Outcome, NetError> {
        let sha256 = self.upload(task.task.round, &npz::encode(adapter))?;
        self.core.submit(&self.me, &self.submission(task, &sha256))
    }
}

/// Waits until `done`, at most 20 seconds.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(20), "waited too long for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
