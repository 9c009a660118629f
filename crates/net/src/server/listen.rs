//! One port for everything: gRPC and HTTP side by side, the driver in a thread of its own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use super::connections;
use super::core::{Core, CoreSettings};
use super::grpc::Service;
use super::http;
use super::tls::{TlsFiles, acceptor};
use crate::error::NetError;
use crate::proto::federation_server::FederationServer;

/// Largest message of the protocol; an upload's pieces are far smaller.
const LARGEST_MESSAGE: usize = 4 * 1024 * 1024;
/// How long open calls may take to end when the server stops.
const DRAIN: Duration = Duration::from_secs(3);

/// Where and how to serve.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Folder of the database, the blobs and the key.
    pub folder: PathBuf,
    /// Address to listen on; port 0 takes any.
    pub listen: SocketAddr,
    /// How the core behaves.
    pub settings: CoreSettings,
    /// Encryption; without it everything travels as it is.
    pub tls: Option<TlsFiles>,
}

/// A running server; it stops when it is dropped.
pub struct Server {
    core: Arc<Core>,
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
    quit: Option<oneshot::Sender<()>>,
    driver: Option<JoinHandle<()>>,
    /// Takes connections, and ends when those that are open have ended.
    serving: Option<tokio::task::JoinHandle<()>>,
    runtime: Option<Runtime>,
    /// Held while the server runs: two servers on one folder would each believe they are alone.
    _lock: std::fs::File,
}

impl Server {
    /// Opens the folder, takes up every session where it was left, and listens.
    ///
    /// # Errors
    /// [`NetError::Unavailable`] when another server uses the folder; an address that cannot be listened on; whatever
    /// [`Core::open`] meets.
    pub fn start(options: ServeOptions) -> Result<Self, NetError> {
        crate::durable::create_folder(&options.folder)?;
        let lock = lock(&options.folder)?;
        let acceptor = options.tls.as_ref().map(acceptor).transpose()?;
        let core = Arc::new(Core::open(&options.folder, options.settings)?);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(8)
            .enable_all()
            .thread_name("consilium-net")
            .build()
            .map_err(|e| NetError::Internal(format!("starting tokio: {e}")))?;
        let plain = runtime
            .block_on(TcpListener::bind(options.listen))
            .map_err(|e| NetError::Unavailable(format!("cannot listen on {}: {e}", options.listen)))?;
        let address = plain.local_addr().map_err(|e| NetError::Internal(e.to_string()))?;

        let stopping = Arc::new(AtomicBool::new(false));
        let driver = {
            let (core, stopping) = (core.clone(), stopping.clone());
            std::thread::Builder::new()
                .name("consilium-rounds".into())
                .spawn(move || core.drive(&stopping))
                .map_err(|e| NetError::Internal(format!("starting the rounds' thread: {e}")))?
        };
        let service = FederationServer::new(Service::new(core.clone()))
            .max_decoding_message_size(LARGEST_MESSAGE)
            .max_encoding_message_size(LARGEST_MESSAGE);
        let routes = tonic::service::Routes::new(service).prepare().into_axum_router();
        let router = http::router(core.clone()).merge(routes);
        let (quit, quitting) = oneshot::channel::<()>();
        let until = async {
            let _ = quitting.await;
        };
        let serving = runtime.spawn(connections::serve(plain, acceptor, router, until, DRAIN));
        Ok(Self {
            core,
            address,
            stopping,
            quit: Some(quit),
            driver: Some(driver),
            serving: Some(serving),
            runtime: Some(runtime),
            _lock: lock,
        })
    }

    /// The address that is listened on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the server knows, and its commands.
    pub fn core(&self) -> &Arc<Core> {
        &self.core
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        drop(self.quit.take());
        self.core.board.close();
        self.core.stir();
        if let Some(driver) = self.driver.take() {
            let _ = driver.join();
        }
        if let Some((runtime, serving)) = self.runtime.take().zip(self.serving.take()) {
            // It ends by itself, within DRAIN.
            let _ = runtime.block_on(serving);
            runtime.shutdown_timeout(DRAIN);
        }
    }
}

fn lock(folder: &std::path::Path) -> Result<std::fs::File, NetError> {
    let path = folder.join("lock");
    let file = std::fs::File::create(&path).map_err(NetError::io(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            Err(NetError::Unavailable(format!("another server uses {}", folder.display())))
        }
        Err(std::fs::TryLockError::Error(error)) => Err(NetError::io(&path)(error)),
    }
}
