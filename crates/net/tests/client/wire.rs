//! A wire between a client and a server that can be cut, or swallow what it should carry.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// What all connections share.
#[derive(Default)]
struct Trouble {
    /// Bytes until the next cut; 0 or less means none is planned.
    left: AtomicI64,
    cuts: AtomicU64,
    opened: AtomicU64,
    /// Connections with a number below this swallow everything.
    swallowing: AtomicU64,
}

/// A relay on a port of its own.
pub struct Wire {
    address: SocketAddr,
    trouble: Arc<Trouble>,
}

impl Wire {
    /// Relays to `server` for the rest of the program.
    pub fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let trouble = Arc::new(Trouble::default());
        let shared = trouble.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(client) = client else { break };
                let Ok(server) = TcpStream::connect(server) else { continue };
                let number = shared.opened.fetch_add(1, Ordering::SeqCst);
                let ends = [client, server].map(Arc::new);
                for (from, to) in [(0, 1), (1, 0)] {
                    let (from, to, trouble) = (ends[from].clone(), ends[to].clone(), shared.clone());
                    std::thread::spawn(move || relay(&from, &to, number, &trouble));
                }
            }
        });
        Self { address, trouble }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts the connection that carries the byte after so many more, once.
    pub fn cut_after(&self, bytes: i64) {
        self.trouble.left.store(bytes, Ordering::SeqCst);
    }

    /// Connections cut so far.
    pub fn cuts(&self) -> u64 {
        self.trouble.cuts.load(Ordering::SeqCst)
    }

    /// Connections that are open now carry nothing any more and stay open; new ones work.
    pub fn swallow_open_connections(&self) {
        self.trouble.swallowing.store(self.trouble.opened.load(Ordering::SeqCst), Ordering::SeqCst);
    }
}

fn relay(mut from: &TcpStream, mut to: &TcpStream, number: u64, trouble: &Trouble) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if number < trouble.swallowing.load(Ordering::SeqCst) {
            continue;
        }
        let read = read as i64;
        let before = trouble.left.load(Ordering::SeqCst);
        if before > 0 && trouble.left.fetch_sub(read, Ordering::SeqCst) <= read {
            trouble.cuts.fetch_add(1, Ordering::SeqCst);
            trouble.left.store(0, Ordering::SeqCst);
            break;
        }
        if to.write_all(&buffer[..read as usize]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
