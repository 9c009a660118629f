//! A site's side against a server that does wrong on purpose, as no real one would on demand.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use consilium_core::hash::sha256_hex;
use consilium_core::npz;
use consilium_federation::{
    Answer, LocalWork, Refusal, ScheduleScope, Task, Training, Transport, Update, UpdateMetrics,
};
use consilium_net::NetError;
use consilium_net::client::STOPPED;
use consilium_net::manifest::{Manifest, PROTOCOL, ServerKey};
use consilium_net::proto::federation_server::{Federation, FederationServer};
use consilium_net::proto::{self, Outcome, next_task_response};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use crate::common::program::{Program, vector};

type Answered<T> = Result<Response<T>, Status>;

/// What the server does wrong.
#[derive(Default)]
struct Script {
    /// The version it speaks, 0 for this one.
    version: Option<u32>,
    /// Uploads that it has never heard of.
    forgets: u32,
    /// Downloads with a flipped bit.
    damages: u32,
    /// Its answers to submissions; `None` is no answer.
    judgements: VecDeque<Option<(Outcome, &'static str)>>,
    /// What it holds of an upload.
    held: Vec<u8>,
    begun: u32,
}

#[derive(Clone)]
struct Fake {
    script: Arc<Mutex<Script>>,
    /// The key that it shows and the key that it signs with.
    keys: Arc<[ServerKey; 2]>,
}

fn base() -> (Vec<u8>, String) {
    (npz::encode(&vector(vec![0.0, 0.0])), vector(vec![0.0, 0.0]).sha256())
}

fn model() -> proto::ModelRef {
    let archive = base().0;
    proto::ModelRef { archive_sha256: sha256_hex(&archive), bytes: archive.len() as u64 }
}

fn task() -> Task {
    let (work, scope) = (LocalWork::Epochs(1), ScheduleScope::Session);
    Task { round: 1, rounds: 1, work, scope, training: Training::default(), base_sha256: base().1 }
}

fn update() -> Update {
    Update {
        round: 1,
        base_sha256: base().1,
        adapter: vector(vec![1.0, 0.0]),
        examples: 5,
        metrics: UpdateMetrics::default(),
    }
}

#[tonic::async_trait]
impl Federation for Fake {
    async fn hello(&self, _: Request<proto::HelloRequest>) -> Answered<proto::HelloResponse> {
        let version = self.script.lock().unwrap().version.unwrap_or(PROTOCOL);
        let (server_key, program) = (self.keys[0].public(), "fake 9".into());
        Ok(Response::new(proto::HelloResponse { version, program, server_key, open_enrolment: true }))
    }

    async fn enrol(&self, request: Request<proto::EnrolRequest>) -> Answered<proto::Credentials> {
        let (access_token, refresh_token) = ("access".into(), "refresh".into());
        let site = request.into_inner().site;
        Ok(Response::new(proto::Credentials { site, access_token, refresh_token, expires_in_s: 60 }))
    }

    async fn refresh(&self, _: Request<proto::RefreshRequest>) -> Answered<proto::Credentials> {
        Err(Status::unauthenticated("never"))
    }

    async fn attend(&self, _: Request<proto::AttendRequest>) -> Answered<proto::AttendResponse> {
        let session = proto::Session {
            id: "s".into(),
            name: "study".into(),
            schema: vec![proto::TensorShape { name: "w".into(), shape: vec![2] }],
            ..Default::default()
        };
        Ok(Response::new(proto::AttendResponse { session: Some(session) }))
    }

    async fn next_task(&self, _: Request<proto::NextTaskRequest>) -> Answered<proto::NextTaskResponse> {
        let manifest = Manifest {
            protocol: PROTOCOL,
            session: "s".into(),
            site: "north".into(),
            roster: vec!["north".into()],
            deadline_ms: u64::MAX,
            task: task(),
            archive_sha256: model().archive_sha256,
        };
        let (manifest, signature) = self.keys[1].sign(&manifest);
        let task = proto::Task { manifest, signature, model: Some(model()), ..Default::default() };
        let answer = Some(next_task_response::Answer::Task(task));
        Ok(Response::new(proto::NextTaskResponse { answer }))
    }

    type DownloadModelStream = Pin<Box<dyn Stream<Item = Result<proto::ModelChunk, Status>> + Send>>;

    async fn download_model(
        &self,
        request: Request<proto::DownloadRequest>,
    ) -> Answered<Self::DownloadModelStream> {
        let mut data = base().0.split_off(request.into_inner().offset as usize);
        let mut script = self.script.lock().unwrap();
        if script.damages > 0 {
            script.damages -= 1;
            data[0] ^= 1;
        }
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(proto::ModelChunk { data })))))
    }

    async fn begin_upload(&self, _: Request<proto::BeginUploadRequest>) -> Answered<proto::UploadState> {
        let mut script = self.script.lock().unwrap();
        script.begun += 1;
        let received = script.held.len() as u64;
        Ok(Response::new(proto::UploadState { upload_id: "u".into(), received }))
    }

    async fn upload(&self, request: Request<Streaming<proto::UploadChunk>>) -> Answered<proto::UploadState> {
        let mut chunks = request.into_inner();
        while let Some(chunk) = chunks.next().await {
            let (chunk, mut script) = (chunk?, self.script.lock().unwrap());
            if script.forgets > 0 {
                script.forgets -= 1;
                return Err(Status::not_found("no open upload called u"));
            }
            assert_eq!(chunk.offset, script.held.len() as u64);
            script.held.extend(chunk.data);
        }
        let received = self.script.lock().unwrap().held.len() as u64;
        Ok(Response::new(proto::UploadState { upload_id: "u".into(), received }))
    }

    async fn submit(&self, request: Request<proto::SubmitRequest>) -> Answered<proto::SubmitResponse> {
        let mut script = self.script.lock().unwrap();
        assert_eq!(sha256_hex(&script.held), request.into_inner().archive_sha256);
        let Some((outcome, reason)) = script.judgements.pop_front().flatten() else {
            return Err(Status::unavailable("the store is down"));
        };
        if reason == "archive_hash" {
            script.held.clear();
        }
        let detail = "because".into();
        Ok(Response::new(proto::SubmitResponse { outcome: outcome.into(), reason: reason.into(), detail }))
    }

    async fn report_failure(&self, _: Request<proto::FailureReport>) -> Answered<proto::Acknowledgement> {
        Ok(Response::new(proto::Acknowledgement {}))
    }

    async fn report_scores(&self, _: Request<proto::ScoreReport>) -> Answered<proto::Acknowledgement> {
        Ok(Response::new(proto::Acknowledgement {}))
    }

    async fn leave(&self, _: Request<proto::LeaveRequest>) -> Answered<proto::Acknowledgement> {
        Ok(Response::new(proto::Acknowledgement {}))
    }
}

/// The fake at work, with what it should do wrong.
struct Setting {
    root: tempfile::TempDir,
    address: SocketAddr,
    fake: Fake,
    _runtime: tokio::runtime::Runtime,
}

impl Setting {
    fn new(script: Script, signs_with_another_key: bool) -> Self {
        let root = tempfile::tempdir().unwrap();
        let key = |name: &str| ServerKey::open(&root.path().join(name)).unwrap();
        let signing = if signs_with_another_key { "other.key" } else { "server.key" };
        let keys = Arc::new([key("server.key"), key(signing)]);
        let fake = Fake { script: Arc::new(Mutex::new(script)), keys };
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let routes = tonic::service::Routes::new(FederationServer::new(fake.clone())).prepare();
        runtime.spawn(async move { axum::serve(listener, routes.into_axum_router()).await });
        Self { root, address, fake, _runtime: runtime }
    }

    fn program(&self) -> Program {
        let program = Program::start(self.address, &self.root.path().join("north"), "north");
        program.remote.attend("").unwrap().unwrap();
        program
    }
}

#[test]
fn an_update_gets_through_forgetting_damage_and_silence() {
    let judgements = [
        Some((Outcome::Rejected, "archive_hash")),
        None,
        Some((Outcome::Duplicate, "duplicate")),
        Some((Outcome::Duplicate, "duplicate")),
    ];
    let setting =
        Setting::new(Script { forgets: 2, judgements: judgements.into(), ..Script::default() }, false);
    let program = setting.program();
    let mut transport = &program.remote;
    assert_eq!(transport.next_task().unwrap().unwrap(), task());
    assert_eq!(transport.send(update()).unwrap(), Answer::Accepted, "its answer was lost, not the update");
    assert_eq!(setting.fake.script.lock().unwrap().begun, 4, "two forgotten, one damaged, one good");
    assert_eq!(transport.send(update()).unwrap(), Answer::Refused(Refusal::Duplicate));
}

#[test]
fn what_always_arrives_damaged_is_given_up() {
    let judgements = VecDeque::from([Some((Outcome::Rejected, "archive_hash")); 4]);
    let setting = Setting::new(Script { judgements, damages: 3, ..Script::default() }, false);
    let program = setting.program();
    let mut transport = &program.remote;
    let task = transport.next_task().unwrap().unwrap();
    let message = transport.fetch(&task).unwrap_err().0;
    assert!(message.contains("another content"), "{message}");
    assert_eq!(transport.fetch(&task).unwrap(), vector(vec![0.0, 0.0]), "the fourth is good");
    let message = transport.send(update()).unwrap_err().0;
    assert!(message.contains("archive_hash: because"), "{message}");
    assert_eq!(setting.fake.script.lock().unwrap().judgements.len(), 1, "three tries");
}

#[test]
fn an_upload_that_is_always_forgotten_leaves_its_update_where_it_was() {
    let setting = Setting::new(Script { forgets: u32::MAX, ..Script::default() }, false);
    let program = setting.program();
    let stop = program.stop.clone();
    std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_secs(1));
        stop.raise();
    });
    let message = (&program.remote).send(update()).unwrap_err().0;
    assert_eq!(message, STOPPED);
    let waiting = std::fs::read_dir(setting.root.path().join("north/outbox")).unwrap().count();
    assert_eq!(waiting, 2, "an update without an answer stays");
}

#[test]
fn a_task_that_another_key_signed_is_not_worked() {
    let setting = Setting::new(Script::default(), true);
    let program = setting.program();
    let message = (&program.remote).next_task().unwrap_err().0;
    assert!(message.contains("not signed by this server's key"), "{message}");
}

#[test]
fn a_server_of_another_version_is_named() {
    let setting = Setting::new(Script { version: Some(0), ..Script::default() }, false);
    let folder = setting.root.path().join("north");
    let error = Program::with_token(setting.address, &folder, "north", None).err().unwrap();
    assert!(matches!(&error, NetError::Protocol(text) if text.contains("fake 9")), "{error}");
}
