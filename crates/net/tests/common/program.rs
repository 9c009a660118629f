//! A site's program and the server it speaks to.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use consilium_core::{Adapter, StopFlag, Tensor, npz};
use consilium_federation::{Task, Update, UpdateMetrics, Weights};
use consilium_net::NetError;
use consilium_net::client::{ClientEvent, ConnectOptions, Remote};
use consilium_net::server::{CoreSettings, ServeOptions, Server, SessionSpec};

use super::{operator, spec};

pub const ANY: &str = "127.0.0.1:0";

pub fn serve(folder: &Path, listen: SocketAddr, settings: CoreSettings) -> Server {
    let start = Instant::now();
    loop {
        let options =
            ServeOptions { folder: folder.to_owned(), listen, settings: settings.clone(), tls: None };
        match Server::start(options) {
            Ok(server) => return server,
            Err(error) => assert!(start.elapsed() < Duration::from_secs(10), "{error}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub fn open() -> CoreSettings {
    CoreSettings { open_enrolment: true, ..CoreSettings::default() }
}

pub fn vector(values: Vec<f32>) -> Adapter {
    Adapter::new(vec![Tensor { name: "w".into(), shape: vec![values.len()], data: values }]).unwrap()
}

/// Orders a session over a vector of `width` zeros in which every update counts alike.
pub fn order(server: &Server, name: &str, sites: &[&str], rounds: u32, width: usize) -> String {
    let seed = vector(vec![0.0; width]);
    let order = SessionSpec {
        weights: Weights::Uniform,
        schema: seed.schema(),
        ..spec(name, sites, rounds, sites.len(), 600.0)
    };
    server.core().order(&operator(), order, &npz::encode(&seed)).unwrap()
}

/// The base with one more 1 in the slot of this round and site.
pub fn one_hot(task: &Task, base: &Adapter, sites: usize, site: usize) -> Update {
    let mut values = base.tensors()[0].data.clone();
    values[(task.round as usize - 1) * sites + site] += 1.0;
    Update {
        round: task.round,
        base_sha256: task.base_sha256.clone(),
        adapter: vector(values),
        examples: 5,
        metrics: UpdateMetrics { train_loss: 0.5, steps: 1, tokens: 10, seconds: 0.1 },
    }
}

/// A site's program: its connection, what it was told, and the flag that stops it.
pub struct Program {
    pub remote: Remote,
    pub told: Arc<Mutex<Vec<ClientEvent>>>,
    pub stop: StopFlag,
}

impl Program {
    pub fn start(address: SocketAddr, folder: &Path, site: &str) -> Self {
        Self::with_token(address, folder, site, None).unwrap()
    }

    pub fn with_token(
        address: SocketAddr,
        folder: &Path,
        site: &str,
        token: Option<&str>,
    ) -> Result<Self, NetError> {
        let (stop, told) = (StopFlag::new(), Arc::new(Mutex::new(Vec::new())));
        let hears = told.clone();
        let options = ConnectOptions {
            tls: Default::default(),
            url: format!("http://{address}"),
            state_dir: folder.to_owned(),
            program: "test 1.0".into(),
            site: site.into(),
            token: token.map(str::to_owned),
            stop: stop.clone(),
            on_event: Box::new(move |event| hears.lock().unwrap().push(event)),
        };
        Ok(Self { remote: Remote::connect(options)?, told, stop })
    }

    pub fn heard(&self, wanted: impl Fn(&ClientEvent) -> bool) -> bool {
        self.told.lock().unwrap().iter().any(wanted)
    }
}
