//! One connection to the server, and the patience to make it again.
//!
//! A call ends in one of three ways: an answer, a refusal that repeating will not change, or silence. Silence (no
//! connection, a broken one, UNAVAILABLE) is retried for ever with growing pauses; every wait ends within a moment when
//! the stop flag is raised.

use std::cell::Cell;
use std::collections::hash_map::RandomState;
use std::error::Error;
use std::future::Future;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use consilium_core::StopFlag;
use prost::Message;
use tokio::runtime::Runtime;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Response, Status};

use super::ClientEvent;
use crate::error::NetError;
use crate::proto::federation_client::FederationClient;

/// The text of an error that only means: the stop flag was raised.
pub const STOPPED: &str = "stopped";

/// Longest wait for a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Time between pings, and the longest wait for their answer: a peer that is gone is noticed in the sum of both.
const PING: Duration = Duration::from_secs(10);
/// Pauses between attempts grow from the first to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// How soon a wait notices the stop flag.
const STOP_NOTICED: Duration = Duration::from_millis(50);
/// Bytes that gRPC puts before each message.
pub(super) const FRAME_HEAD: u64 = 5;

/// The generated client.
pub(super) type Client = FederationClient<Channel>;

/// Whom this side trusts, and how it proves who it is. PEM texts; only `https://` uses them.
#[derive(Clone, Default)]
pub struct ClientTls {
    /// Authority of the server's certificate; `None` trusts the web's public ones.
    pub ca: Option<String>,
    /// This site's certificate and private key, where the server wants one.
    pub identity: Option<(String, String)>,
}

/// Why a call has no answer.
#[derive(Debug)]
pub(super) enum Failed {
    /// The stop flag was raised.
    Stopped,
    /// Nobody answered, or asked to come back later.
    Lost(String),
    /// The server said no.
    Refused(Code, String),
    /// Something on this machine.
    Broken(NetError),
}

impl From<NetError> for Failed {
    fn from(error: NetError) -> Self {
        Self::Broken(error)
    }
}

impl From<Failed> for NetError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Stopped => Self::Unavailable(STOPPED.into()),
            Failed::Lost(reason) => Self::Unavailable(reason),
            Failed::Broken(error) => error,
            Failed::Refused(code, message) => match code {
                Code::Unauthenticated => Self::Unauthenticated(message),
                Code::PermissionDenied | Code::Aborted => Self::Denied(message),
                Code::InvalidArgument | Code::NotFound => Self::Invalid(message),
                code => Self::Protocol(format!("the server answered {code:?}: {message}")),
            },
        }
    }
}

impl From<Status> for Failed {
    fn from(status: Status) -> Self {
        // A status that was made on this side of the wire has a source: a broken connection comes as several codes.
        let broken = status.source().map(root);
        let message = crate::words::shortened(status.message());
        match (broken, status.code()) {
            (Some(root), _) => Self::Lost(format!("{message}: {root}")),
            (None, Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded) => Self::Lost(message),
            (None, code) => Self::Refused(code, message),
        }
    }
}

/// The innermost cause: the one that says something, such as `Connection refused`.
fn root(error: &(dyn Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    crate::words::shortened(&innermost.to_string())
}

/// Bytes of gRPC messages with their frame heads. The headers of HTTP/2 and below are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct WireBytes {
    /// To the server.
    pub up: u64,
    /// From the server.
    pub down: u64,
}

/// The running count behind [`WireBytes`]; clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct WireCount(Arc<[AtomicU64; 2]>);

impl WireCount {
    pub fn up(&self, message: &impl Message) {
        self.0[0].fetch_add(message.encoded_len() as u64 + FRAME_HEAD, Ordering::Relaxed);
    }

    pub fn down(&self, message: &impl Message) {
        self.0[1].fetch_add(message.encoded_len() as u64 + FRAME_HEAD, Ordering::Relaxed);
    }

    pub fn bytes(&self) -> WireBytes {
        WireBytes { up: self.0[0].load(Ordering::Relaxed), down: self.0[1].load(Ordering::Relaxed) }
    }
}

/// A connection that is made when it is needed, and again when it is lost.
pub(super) struct Link {
    client: Client,
    stop: StopFlag,
    on_event: Box<dyn Fn(ClientEvent) + Send>,
    pub wire: WireCount,
    /// Whether the last attempt was answered; `None` before the first.
    answered: Cell<Option<bool>>,
    /// Its one thread answers pings while the caller trains. Last: the client needs it until it is gone.
    runtime: Runtime,
}

/// How the server is reached: the one place where a channel is set up.
fn endpoint(url: &str, tls: &ClientTls) -> Result<Endpoint, NetError> {
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|e| {
        NetError::Invalid(format!("{url} is no URL of a server, such as http://10.0.0.5:8092: {e}"))
    })?;
    let endpoint = endpoint
        .connect_timeout(CONNECT_LIMIT)
        .http2_keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .keep_alive_while_idle(true)
        .tcp_keepalive(Some(PING))
        .tcp_nodelay(true);
    if !url.starts_with("https://") {
        return Ok(endpoint);
    }
    let certificates = |pem: &str| CertificateDer::pem_slice_iter(pem.as_bytes()).flatten().count();
    let named = tls.ca.iter().chain(tls.identity.as_ref().map(|(certificate, _)| certificate));
    if named.into_iter().any(|pem| certificates(pem) == 0) {
        return Err(NetError::Invalid("a file of certificates holds none in PEM form".into()));
    }
    let config = match &tls.ca {
        Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
        None => ClientTlsConfig::new().with_webpki_roots(),
    };
    let config = match &tls.identity {
        Some((certificate, key)) => config.identity(Identity::from_pem(certificate, key)),
        None => config,
    };
    endpoint.tls_config(config).map_err(|e| NetError::Invalid(format!("certificates for {url}: {e}")))
}

/// The server's URL as it is kept: with a scheme, without a slash at the end.
pub(super) fn normal_url(url: &str) -> String {
    let url = url.trim().trim_end_matches('/');
    if url.contains("://") { url.to_owned() } else { format!("http://{url}") }
}

impl Link {
    /// A link to `url`; nothing is sent yet.
    pub fn new(
        url: &str,
        tls: &ClientTls,
        stop: StopFlag,
        on_event: Box<dyn Fn(ClientEvent) + Send>,
    ) -> Result<Self, NetError> {
        let endpoint = endpoint(url, tls)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .thread_name("consilium-link")
            .build()
            .map_err(|e| NetError::Internal(format!("starting tokio: {e}")))?;
        let client = {
            let _inside = runtime.enter();
            Client::new(endpoint.connect_lazy())
        };
        Ok(Self { client, stop, on_event, wire: WireCount::default(), answered: Cell::new(None), runtime })
    }

    /// Tells whoever watches.
    pub fn tell(&self, event: ClientEvent) {
        (self.on_event)(event);
    }

    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Waits for `pause`, or until the stop flag is raised.
    pub fn pause(&self, pause: Duration) -> Result<(), Failed> {
        self.until_stopped(async {
            tokio::time::sleep(pause).await;
            Ok(())
        })
    }

    fn until_stopped<T>(&self, future: impl Future<Output = Result<T, Failed>>) -> Result<T, Failed> {
        self.runtime.block_on(async {
            let raised = async {
                while !self.stop.is_raised() {
                    tokio::time::sleep(STOP_NOTICED).await;
                }
            };
            tokio::select! {
                biased;
                () = raised => Err(Failed::Stopped),
                done = future => done,
            }
        })
    }

    /// One attempt, which ends also when the stop flag is raised.
    pub fn run<T>(&self, attempt: impl Future<Output = Result<T, Failed>>) -> Result<T, Failed> {
        let done = self.until_stopped(attempt);
        match &done {
            Ok(_) | Err(Failed::Refused(..)) if self.answered.replace(Some(true)) != Some(true) => {
                self.tell(ClientEvent::Connected);
            }
            Err(Failed::Lost(reason)) if self.answered.replace(Some(false)) != Some(false) => {
                self.tell(ClientEvent::Lost { reason: reason.clone() });
            }
            _ => {}
        }
        done
    }

    /// Parting words: one attempt, also when the stop flag is raised.
    pub fn run_while_stopping<T>(
        &self,
        attempt: impl Future<Output = Result<T, Failed>>,
    ) -> Result<T, Failed> {
        self.runtime.block_on(attempt)
    }

    /// Attempts until one is not [`Failed::Lost`].
    pub fn patiently<T>(&self, mut attempt: impl FnMut() -> Result<T, Failed>) -> Result<T, Failed> {
        let mut patience = Patience::default();
        loop {
            match attempt() {
                Err(Failed::Lost(_)) => self.back_off(&mut patience)?,
                done => return done,
            }
        }
    }

    /// The pause after a lost attempt.
    pub fn back_off(&self, patience: &mut Patience) -> Result<(), Failed> {
        let pause = patience.next();
        self.tell(ClientEvent::Retrying { attempt: patience.attempts, pause });
        self.pause(pause)
    }

    /// A call with one request and one answer, without credentials.
    pub fn ask<Q, A, F>(
        &self,
        limit: Duration,
        request: &Q,
        rpc: impl Fn(Client, Request<Q>) -> F,
    ) -> Result<A, Failed>
    where
        Q: Message + Clone,
        A: Message,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        self.patiently(|| self.ask_once(limit, Request::new(request.clone()), &rpc))
    }

    /// One attempt of such a call.
    pub fn ask_once<Q, A, F>(
        &self,
        limit: Duration,
        request: Request<Q>,
        rpc: impl Fn(Client, Request<Q>) -> F,
    ) -> Result<A, Failed>
    where
        Q: Message,
        A: Message,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        self.wire.up(request.get_ref());
        let answer = self.run(bounded(limit, rpc(self.client(), request)))?.into_inner();
        self.wire.down(&answer);
        Ok(answer)
    }
}

/// The call's answer, if it comes within `limit`.
pub(super) async fn bounded<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, Failed> {
    match tokio::time::timeout(limit, call).await {
        Ok(done) => done.map_err(Failed::from),
        Err(_) => Err(Failed::Lost(format!("no answer within {} s", limit.as_secs()))),
    }
}

/// The call's answer, as long as `progress` moves or no more than `limit` passes without.
pub(super) async fn while_moving<T>(
    limit: Duration,
    progress: &AtomicU64,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, Failed> {
    tokio::pin!(call);
    let mut seen = progress.load(Ordering::Relaxed);
    loop {
        match tokio::time::timeout(limit, &mut call).await {
            Ok(done) => return done.map_err(Failed::from),
            Err(_) => {
                let now = progress.load(Ordering::Relaxed);
                if now == seen {
                    return Err(Failed::Lost(format!("nothing moved for {} s", limit.as_secs())));
                }
                seen = now;
            }
        }
    }
}

/// Pauses that double from one attempt to the next, with up to half of each left to chance: sites that lost the server
/// together must not come back together.
#[derive(Debug, Default)]
pub(super) struct Patience {
    attempts: u32,
}

impl Patience {
    fn next(&mut self) -> Duration {
        let (first, longest) = PAUSES;
        let whole = first.saturating_mul(1 << self.attempts.min(16)).min(longest);
        self.attempts = self.attempts.saturating_add(1);
        // A fresh hasher is keyed at random: chance enough, without a dependency.
        let chance = RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64;
        whole.mul_f64(0.5 + 0.5 * chance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_five_seconds_and_differ() {
        let mut patience = Patience::default();
        let pauses: Vec<Duration> = (0..40).map(|_| patience.next()).collect();
        assert!(pauses[0] >= PAUSES.0 / 2 && pauses[0] <= PAUSES.0);
        assert!(pauses[10..].iter().all(|pause| *pause >= PAUSES.1 / 2 && *pause <= PAUSES.1));
        assert!(pauses[10..].windows(2).any(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn a_wait_ends_when_the_flag_is_raised_and_nobody_answers() {
        let stop = StopFlag::new();
        let link =
            Link::new("http://127.0.0.1:9", &ClientTls::default(), stop.clone(), Box::new(|_| {})).unwrap();
        let started = std::time::Instant::now();
        let raise = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            stop.raise();
        });
        let request = crate::proto::HelloRequest::default();
        let asked = link
            .ask(CONNECT_LIMIT, &request, |mut client, request| async move { client.hello(request).await });
        raise.join().unwrap();
        assert!(matches!(asked, Err(Failed::Stopped)));
        assert!(started.elapsed() < Duration::from_secs(2));
        assert_eq!(NetError::from(Failed::Stopped).to_string(), STOPPED);
    }

    #[test]
    fn urls_are_read_as_people_write_them() {
        assert_eq!(normal_url("10.0.0.5:8092/"), "http://10.0.0.5:8092");
        assert_eq!(normal_url("http://server"), "http://server");
        let tls = ClientTls { ca: Some("no certificate".into()), identity: None };
        assert!(endpoint("https://server", &ClientTls::default()).is_ok());
        assert!(matches!(endpoint("https://server", &tls), Err(NetError::Invalid(_))));
        assert!(matches!(endpoint("http://a b", &ClientTls::default()), Err(NetError::Invalid(_))));
    }
}
