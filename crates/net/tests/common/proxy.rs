//! A TCP proxy that does to a connection what networks do: delay, slice, reset, swallow, close half, stand still.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// A direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// What happens to the bytes of one direction, on all connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// They pass.
    None,
    /// Every piece arrives so much later.
    Latency(Duration),
    /// They arrive in pieces of at most so many bytes, a moment apart.
    Slices(usize),
    /// The connection that carries the byte after so many more is reset, once.
    ResetAfter(usize),
    /// The connection that carries the byte after so many more is closed in this direction alone, once.
    CloseAfter(usize),
    /// They are taken and lost, and so is all that follows on the same connection.
    Swallow,
    /// Nothing is taken: the sender's buffers fill up.
    Freeze,
}

/// What all connections share.
struct Trouble {
    faults: watch::Sender<[Fault; 2]>,
    opened: AtomicU64,
    /// Connections with a number below this swallow everything.
    swallowing: AtomicU64,
    /// Connections with a number below this are reset when their turn comes.
    doomed: watch::Sender<u64>,
    struck: AtomicU64,
}

/// The connection was reset.
struct Reset;

/// A relay on a port of its own, until it is dropped.
pub struct Proxy {
    address: SocketAddr,
    trouble: Arc<Trouble>,
    _runtime: Runtime,
}

impl Proxy {
    /// Relays to `server`.
    pub fn to(server: SocketAddr) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let trouble = Arc::new(Trouble {
            faults: watch::Sender::new([Fault::None; 2]),
            opened: AtomicU64::new(0),
            swallowing: AtomicU64::new(0),
            doomed: watch::Sender::new(0),
            struck: AtomicU64::new(0),
        });
        let shared = trouble.clone();
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(server).await else { continue };
                let number = shared.opened.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(carry(client, server, number, shared.clone()));
            }
        });
        Self { address, trouble, _runtime: runtime }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What happens from now on in one direction.
    pub fn set(&self, way: Way, fault: Fault) {
        self.trouble.faults.send_modify(|faults| faults[way as usize] = fault);
    }

    /// What happens from now on in both directions.
    pub fn set_both(&self, fault: Fault) {
        self.trouble.faults.send_replace([fault; 2]);
    }

    /// Connections that are open now carry nothing any more, not even their end, and stay open; new ones work.
    pub fn swallow_open_connections(&self) {
        self.trouble.swallowing.store(self.trouble.opened.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    /// Resets the connections that are open now; new ones work.
    pub fn reset_open_connections(&self) {
        self.trouble.doomed.send_replace(self.trouble.opened.load(Ordering::SeqCst));
    }

    /// Connections that were reset or half closed so far.
    pub fn struck(&self) -> u64 {
        self.trouble.struck.load(Ordering::SeqCst)
    }
}

async fn carry(client: TcpStream, server: TcpStream, number: u64, trouble: Arc<Trouble>) {
    for end in [&client, &server] {
        let _ = end.set_nodelay(true);
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let doom = async {
        let mut doomed = trouble.doomed.subscribe();
        match doomed.wait_for(|&below| number < below).await {
            Ok(_) => Err::<(), _>(Reset),
            Err(_) => Ok(()),
        }
    };
    for end in [from_client.as_ref(), from_server.as_ref()] {
        // Whatever is dropped without a proper close is reset.
        let _ = end.set_zero_linger();
    }
    let up = relay(from_client, to_server, Way::Up, number, &trouble);
    let down = relay(from_server, to_client, Way::Down, number, &trouble);
    // A reset ends both directions at once; a close lets the other one go on.
    tokio::select! {
        _ = async { tokio::try_join!(up, down) } => {}
        _ = doom => {}
    }
}

async fn relay(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    way: Way,
    number: u64,
    trouble: &Trouble,
) -> Result<(), Reset> {
    let mut faults = trouble.faults.subscribe();
    let mut swallows = false;
    let mut buffer = vec![0; 16 * 1024];
    loop {
        while faults.borrow_and_update()[way as usize] == Fault::Freeze {
            faults.changed().await.map_err(|_| Reset)?;
        }
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            _ = faults.changed() => continue,
        };
        swallows |= number < trouble.swallowing.load(Ordering::SeqCst);
        match read {
            Ok(1..) if swallows => continue,
            _ if swallows => return std::future::pending().await,
            Ok(0) => return to.shutdown().await.map_err(|_| Reset),
            Ok(_) => {}
            Err(_) => return Err(Reset),
        }
        let read = read.unwrap_or_default();
        let fault = trouble.faults.borrow()[way as usize];
        let bytes = &buffer[..read];
        let passed = match fault {
            Fault::None | Fault::Freeze => to.write_all(bytes).await,
            Fault::Swallow => {
                swallows = true;
                Ok(())
            }
            Fault::Latency(delay) => {
                tokio::time::sleep(delay).await;
                to.write_all(bytes).await
            }
            Fault::Slices(most) => sliced(&mut to, bytes, most).await,
            Fault::ResetAfter(left) | Fault::CloseAfter(left) if left > read => {
                trouble.faults.send_if_modified(|faults| {
                    faults[way as usize] = match fault {
                        Fault::ResetAfter(_) => Fault::ResetAfter(left - read),
                        _ => Fault::CloseAfter(left - read),
                    };
                    false
                });
                to.write_all(bytes).await
            }
            Fault::ResetAfter(_) | Fault::CloseAfter(_) => {
                trouble.faults.send_modify(|faults| faults[way as usize] = Fault::None);
                trouble.struck.fetch_add(1, Ordering::SeqCst);
                if matches!(fault, Fault::CloseAfter(_)) {
                    let _ = to.shutdown().await;
                    // The sender does not learn of it: what it still sends is taken and lost.
                    while let Ok(1..) = from.read(&mut buffer).await {}
                    return Ok(());
                }
                return Err(Reset);
            }
        };
        passed.map_err(|_| Reset)?;
    }
}

async fn sliced(to: &mut OwnedWriteHalf, bytes: &[u8], most: usize) -> std::io::Result<()> {
    for slice in bytes.chunks(most) {
        to.write_all(slice).await?;
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    Ok(())
}
