//! Connections: accepted, encrypted where that is asked for, served as HTTP/1.1 or HTTP/2, and given up when their other
//! end is gone.
//!
//! What one connection may hold is bounded here, because there are as many as there are sites.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::pki::{self, Holder};

/// How long a client may take for its handshake, or for the head of a request.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Time between pings, and the longest wait for their answer: a client that is gone costs nothing after both.
const PING: Duration = Duration::from_secs(20);
/// Calls at once on one connection; a site needs two.
const STREAMS: u32 = 16;
/// Bytes that one call may send before the server has taken them up; and all calls of one connection together.
const WINDOWS: (u32, u32) = (512 * 1024, 512 * 1024);
/// Bytes of an answer that wait for the wire.
const SEND_BUFFER: usize = 64 * 1024;
/// Bytes of the headers of one call.
const HEADERS: u32 = 16 * 1024;
/// Pause after an accept that failed: out of file handles, usually, and others will be given back.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// Serves `router` on `listener` until `quit` resolves; then open calls have `drain` to end.
pub(super) async fn serve(
    listener: TcpListener,
    acceptor: Option<TlsAcceptor>,
    router: Router,
    quit: impl Future<Output = ()>,
    drain: Duration,
) {
    let builder = Arc::new(builder());
    let graceful = GracefulShutdown::new();
    tokio::pin!(quit);
    loop {
        let accepted = tokio::select! {
            () = &mut quit => break,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(AFTER_FAILURE).await;
            continue;
        };
        // Without it small answers wait 40 ms for an acknowledgement of the ones before them.
        let _ = stream.set_nodelay(true);
        let (builder, acceptor, router) = (builder.clone(), acceptor.clone(), router.clone());
        let watcher = graceful.watcher();
        tokio::spawn(async move {
            match acceptor {
                None => converse(&builder, stream, router, None, watcher).await,
                Some(acceptor) => {
                    // Handshakes run beside each other: a silent client holds up nobody.
                    let Ok(Ok(stream)) = timeout(HANDSHAKE, acceptor.accept(stream)).await else { return };
                    let certificates = stream.get_ref().1.peer_certificates();
                    let holder = certificates.and_then(|chain| pki::holder(chain.first()?));
                    converse(&builder, stream, router, holder, watcher).await;
                }
            }
        });
    }
    drop(listener);
    let _ = timeout(drain, graceful.shutdown()).await;
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HANDSHAKE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(HEADERS);
    builder
}

/// Serves one connection to its end. Each request carries whose certificate it came with.
async fn converse<S>(
    builder: &Builder<TokioExecutor>,
    stream: S,
    router: Router,
    holder: Option<Holder>,
    watcher: Watcher,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        if let Some(holder) = &holder {
            request.extensions_mut().insert(holder.clone());
        }
        router.call(request)
    });
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    // However it ends, its site opens another one.
    let _ = watcher.watch(connection.into_owned()).await;
}
