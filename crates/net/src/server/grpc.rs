//! `consilium.v1` over gRPC: the wire on one side, the core's commands on the other.
//!
//! The core blocks (it waits for the disk), so its commands run on tokio's blocking threads.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use consilium_federation::UpdateMetrics;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use tokio_stream::{Stream, StreamExt};
use tonic::{Code, Request, Response, Status, Streaming};

use super::board::Fence;
use super::core::{Core, Principal};
use super::enrolment::Tokens;
use super::sessions::NextTask;
use super::spec::SessionSpec;
use super::store::{self, ModelRow, Role, ScoreRow};
use super::uploads::{Outcome, Submission};
use super::views::SessionView;
use crate::error::NetError;
use crate::manifest::PROTOCOL;
use crate::pki::Holder;
use crate::proto::federation_server::Federation;
use crate::proto::{self, next_task_response::Answer};

/// Bytes of a piece of a model on its way to a site.
const PIECE: usize = 256 * 1024;
/// Longest wait for a task, whatever the site asks for.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Uploads that are read and checked at once: bounds memory, whatever the number of sites.
const CHECKED_AT_ONCE: usize = 2;
/// Uploads on their way at once; the others wait their turn before their first byte, which bounds memory too.
const UPLOADED_AT_ONCE: usize = 8;
/// How long a site may take from its turn to its first byte.
const TURN: Duration = Duration::from_secs(10);

/// The name and version of this program, as it tells the other side.
pub const PROGRAM: &str = concat!("consilium ", env!("CARGO_PKG_VERSION"));

/// The gRPC face of a core.
#[derive(Clone)]
pub struct Service {
    core: Arc<Core>,
    checking: Arc<Semaphore>,
    uploading: Arc<Semaphore>,
    /// Whose turn to upload it is.
    turns: Arc<Mutex<BTreeMap<String, Turn>>>,
}

/// A reserved place among the uploads, until a moment.
struct Turn {
    _place: OwnedSemaphorePermit,
    until: Instant,
}

type Answered<T> = Result<Response<T>, Status>;

impl From<NetError> for Status {
    fn from(error: NetError) -> Self {
        let code = match &error {
            // The store is in doubt: nothing was acknowledged, come back later.
            error if error.is_storage() => Code::Unavailable,
            NetError::Unavailable(_) => Code::Unavailable,
            NetError::NotFound { .. } => Code::NotFound,
            NetError::Denied(_) => Code::PermissionDenied,
            NetError::Unauthenticated(_) => Code::Unauthenticated,
            NetError::Adapter(_) | NetError::Invalid(_) => Code::InvalidArgument,
            _ => Code::Internal,
        };
        Status::new(code, crate::words::shortened(&error.to_string()))
    }
}

/// The token of `authorization: Bearer <token>`.
fn bearer<T>(request: &Request<T>) -> Result<String, Status> {
    let header = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
    let token = header.and_then(|value| value.strip_prefix("Bearer "));
    token.map(str::to_owned).ok_or_else(|| Status::unauthenticated("a bearer token is needed"))
}

impl Service {
    /// The face of `core`.
    pub fn new(core: Arc<Core>) -> Self {
        Self {
            core,
            checking: Arc::new(Semaphore::new(CHECKED_AT_ONCE)),
            uploading: Arc::new(Semaphore::new(UPLOADED_AT_ONCE)),
            turns: Arc::default(),
        }
    }

    /// Waits for the site's turn to upload and reserves it for a while.
    async fn reserve_turn(&self, site: &str) -> Result<(), Status> {
        let place = self.uploading.clone().acquire_owned().await;
        let place = place.map_err(|_| Status::unavailable("shutting down"))?;
        let until = Instant::now() + TURN;
        self.turns().insert(site.to_owned(), Turn { _place: place, until });
        let service = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep_until(until).await;
            service.turns().retain(|_, turn| turn.until > until);
        });
        Ok(())
    }

    /// The site's turn, if it has one reserved or nobody else waits.
    fn take_turn(&self, site: &str) -> Result<Turn, Status> {
        let reserved = self.turns().remove(site);
        let free =
            || Some(Turn { _place: self.uploading.clone().try_acquire_owned().ok()?, until: Instant::now() });
        reserved.or_else(free).ok_or_else(|| Status::unavailable("too many uploads at once; begin again"))
    }

    fn turns(&self) -> MutexGuard<'_, BTreeMap<String, Turn>> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a command of the core where it may block.
    async fn ask<T: Send + 'static>(
        &self,
        command: impl FnOnce(&Core) -> Result<T, NetError> + Send + 'static,
    ) -> Result<T, Status> {
        let core = self.core.clone();
        let done = tokio::task::spawn_blocking(move || command(&core)).await;
        // It breaks off when the server shuts down: what it would have said is asked again.
        done.map_err(|_| Status::unavailable("the command broke off"))?.map_err(Status::from)
    }

    /// Who calls. Every call but `hello`, `enrol` and `refresh` begins with this; only sites have any business here.
    async fn site<T>(&self, request: &Request<T>) -> Result<Principal, Status> {
        let token = bearer(request)?;
        let principal = self.ask(move |core| core.authenticate(&token)).await?;
        principal.check(request.extensions().get::<Holder>())?;
        match principal.role {
            Role::Site => Ok(principal),
            _ => Err(Status::permission_denied("only a site takes part in a session")),
        }
    }
}

impl From<Tokens> for proto::Credentials {
    fn from(tokens: Tokens) -> Self {
        Self {
            site: tokens.site,
            access_token: tokens.access,
            refresh_token: tokens.refresh,
            expires_in_s: tokens.expires_in.as_secs(),
        }
    }
}

impl From<store::Status> for proto::SessionStatus {
    fn from(status: store::Status) -> Self {
        match status {
            store::Status::Gathering => Self::Gathering,
            store::Status::Running => Self::Running,
            store::Status::Finished => Self::Finished,
            store::Status::Stopped => Self::Stopped,
        }
    }
}

/// What a waiting call hears whose time is over.
fn fenced(why: Fence, site: &str) -> Status {
    match why {
        Fence::TakenOver => Status::aborted(format!("another program took over as {site}")),
        Fence::Revoked => Status::unauthenticated("the token is unknown, expired or revoked"),
        Fence::Closing => Status::unavailable("the server stops"),
    }
}

fn session(view: SessionView, spec: &SessionSpec) -> proto::Session {
    let tensor = |(name, shape): &(String, Vec<usize>)| proto::TensorShape {
        name: name.clone(),
        shape: shape.iter().map(|&extent| extent as u64).collect(),
    };
    proto::Session {
        id: view.id,
        name: view.name,
        plan: spec.plan.clone().into_bytes(),
        schema: spec.schema.iter().map(tensor).collect(),
        roster: view.roster,
        seed: Some(model_ref(&view.seed)),
        status: proto::SessionStatus::from(view.status).into(),
    }
}

fn model_ref(model: &ModelRow) -> proto::ModelRef {
    proto::ModelRef { archive_sha256: model.archive.clone(), bytes: model.bytes }
}

fn answer(next: NextTask, lease_s: u32) -> Answer {
    match next {
        NextTask::Task(task) => Answer::Task(proto::Task {
            model: Some(model_ref(&task.model)),
            correlation_id: task.correlation_id,
            manifest: task.manifest,
            signature: task.signature,
            lease_s,
        }),
        NextTask::Wait(why) => Answer::Wait(proto::Wait { why: why.into() }),
        NextTask::Over { status, model, commits } => Answer::Finished(proto::Finished {
            status: proto::SessionStatus::from(status).into(),
            model: Some(model_ref(&model)),
            adapter_sha256: model.adapter,
            commits,
        }),
    }
}

impl From<Outcome> for proto::SubmitResponse {
    fn from(outcome: Outcome) -> Self {
        let (kind, reason, detail) = match outcome {
            Outcome::Accepted => (proto::Outcome::Accepted, "", String::new()),
            Outcome::Duplicate => {
                (proto::Outcome::Duplicate, "duplicate", "an update of this site was accepted before".into())
            }
            Outcome::Late => (proto::Outcome::Late, "late", "the round is over".into()),
            Outcome::Rejected { reason, detail } => {
                (proto::Outcome::Rejected, reason, crate::words::shortened(&detail))
            }
        };
        Self { outcome: kind.into(), reason: reason.into(), detail }
    }
}

fn submission(request: proto::SubmitRequest) -> Submission {
    let metrics = request.metrics.unwrap_or_default();
    Submission {
        session: request.session_id,
        round: request.round,
        base_sha256: request.base_sha256,
        archive_sha256: request.archive_sha256,
        examples: request.examples,
        metrics: UpdateMetrics {
            train_loss: metrics.train_loss,
            steps: metrics.steps,
            tokens: metrics.tokens,
            seconds: metrics.seconds,
        },
    }
}

#[tonic::async_trait]
impl Federation for Service {
    async fn hello(&self, request: Request<proto::HelloRequest>) -> Answered<proto::HelloResponse> {
        let spoken = request.into_inner().versions;
        Ok(Response::new(proto::HelloResponse {
            version: if spoken.contains(&PROTOCOL) { PROTOCOL } else { 0 },
            program: PROGRAM.into(),
            server_key: self.core.server_key(),
            open_enrolment: self.core.open_enrolment(),
        }))
    }

    async fn enrol(&self, request: Request<proto::EnrolRequest>) -> Answered<proto::Credentials> {
        let holder = request.extensions().get::<Holder>().cloned();
        let asked = request.into_inner();
        let tokens =
            self.ask(move |core| core.enrol_over(holder.as_ref(), &asked.site, &asked.token)).await?;
        Ok(Response::new(tokens.into()))
    }

    async fn refresh(&self, request: Request<proto::RefreshRequest>) -> Answered<proto::Credentials> {
        let token = request.into_inner().refresh_token;
        let tokens = self.ask(move |core| core.refresh(&token)).await?;
        Ok(Response::new(tokens.into()))
    }

    async fn attend(&self, request: Request<proto::AttendRequest>) -> Answered<proto::AttendResponse> {
        let by = self.site(&request).await?;
        let wanted = request.into_inner().session;
        let found = self.ask(move |core| core.attend(&by, &wanted)).await?;
        let session = found.map(|(view, spec)| session(view, &spec));
        Ok(Response::new(proto::AttendResponse { session }))
    }

    async fn next_task(&self, request: Request<proto::NextTaskRequest>) -> Answered<proto::NextTaskResponse> {
        let by = self.site(&request).await?;
        let token = bearer(&request)?;
        let proto::NextTaskRequest { session_id, wait_s } = request.into_inner();
        let until = Instant::now() + Duration::from_secs(wait_s.into()).min(LONGEST_WAIT);
        let lease_s = self.core.settings.lease_s;
        let mut notices = self.core.follow(&session_id)?;
        let mut fence = self.core.board.open_call(&by.name);
        // Again, for the site may have been shut out before there was a call to end.
        self.ask(move |core| core.authenticate(&token)).await?;
        loop {
            notices.mark_unchanged();
            let next = self.core.next_task(&by, &session_id)?;
            if matches!(next, NextTask::Wait(_)) {
                tokio::select! {
                    biased;
                    why = &mut fence => return Err(fenced(why.unwrap_or(Fence::Closing), &by.name)),
                    changed = timeout_at(until, notices.changed()) => if changed.is_ok() { continue },
                }
            } else if let Ok(why) = fence.try_recv() {
                return Err(fenced(why, &by.name));
            }
            return Ok(Response::new(proto::NextTaskResponse { answer: Some(answer(next, lease_s)) }));
        }
    }

    type DownloadModelStream = Pin<Box<dyn Stream<Item = Result<proto::ModelChunk, Status>> + Send>>;

    async fn download_model(
        &self,
        request: Request<proto::DownloadRequest>,
    ) -> Answered<Self::DownloadModelStream> {
        let by = self.site(&request).await?;
        let asked = request.into_inner();
        let (id, archive) = (asked.session_id, asked.archive_sha256.clone());
        let model = self.ask(move |core| core.model(&by, &id, &archive)).await?;
        let (sender, receiver) = tokio::sync::mpsc::channel(2);
        let service = self.clone();
        tokio::spawn(async move {
            let mut offset = asked.offset;
            while offset < model.bytes {
                let archive = model.archive.clone();
                let piece = service.ask(move |core| core.model_piece(&archive, offset, PIECE)).await;
                let length = piece.as_ref().map_or(0, Vec::len) as u64;
                let chunk = match piece {
                    Ok(piece) if piece.is_empty() => {
                        Err(Status::unavailable("the model's file is cut short"))
                    }
                    piece => piece.map(|data| proto::ModelChunk { data }),
                };
                let broken = chunk.is_err();
                if sender.send(chunk).await.is_err() || broken {
                    break;
                }
                offset += length;
            }
        });
        Ok(Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(receiver))))
    }

    async fn begin_upload(
        &self,
        request: Request<proto::BeginUploadRequest>,
    ) -> Answered<proto::UploadState> {
        let by = self.site(&request).await?;
        let asked = request.into_inner();
        let (site, bytes) = (by.name.clone(), asked.bytes);
        let (upload_id, received) = self
            .ask(move |core| {
                core.begin_upload(&by, &asked.session_id, asked.round, &asked.archive_sha256, asked.bytes)
            })
            .await?;
        if received < bytes {
            self.reserve_turn(&site).await?;
        }
        Ok(Response::new(proto::UploadState { upload_id, received }))
    }

    async fn upload(&self, request: Request<Streaming<proto::UploadChunk>>) -> Answered<proto::UploadState> {
        let by = self.site(&request).await?;
        let _turn = self.take_turn(&by.name)?;
        let mut chunks = request.into_inner();
        let mut state = proto::UploadState::default();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk?;
            let (by, id) = (by.clone(), chunk.upload_id.clone());
            state.received = self.ask(move |core| core.upload(&by, &id, chunk.offset, &chunk.data)).await?;
            state.upload_id = chunk.upload_id;
        }
        Ok(Response::new(state))
    }

    async fn submit(&self, request: Request<proto::SubmitRequest>) -> Answered<proto::SubmitResponse> {
        let by = self.site(&request).await?;
        let submission = submission(request.into_inner());
        let _turn = self.checking.acquire().await.map_err(|_| Status::unavailable("shutting down"))?;
        let outcome = self.ask(move |core| core.submit(&by, &submission)).await?;
        Ok(Response::new(outcome.into()))
    }

    async fn report_failure(
        &self,
        request: Request<proto::FailureReport>,
    ) -> Answered<proto::Acknowledgement> {
        let by = self.site(&request).await?;
        let report = request.into_inner();
        self.ask(move |core| core.report_failure(&by, &report.session_id, report.round, &report.reason))
            .await?;
        Ok(Response::new(proto::Acknowledgement {}))
    }

    async fn report_scores(&self, request: Request<proto::ScoreReport>) -> Answered<proto::Acknowledgement> {
        let by = self.site(&request).await?;
        let report = request.into_inner();
        let score = |score: proto::Score| ScoreRow {
            site: String::new(),
            model: crate::words::shortened(&score.model),
            metric: crate::words::shortened(&score.metric),
            value: score.value,
            rows: score.rows,
        };
        let scores: Vec<ScoreRow> = report.scores.into_iter().map(score).collect();
        self.ask(move |core| core.report_scores(&by, &report.session_id, &scores)).await?;
        Ok(Response::new(proto::Acknowledgement {}))
    }

    async fn leave(&self, request: Request<proto::LeaveRequest>) -> Answered<proto::Acknowledgement> {
        let by = self.site(&request).await?;
        let id = request.into_inner().session_id;
        self.ask(move |core| core.leave(&by, &id)).await?;
        Ok(Response::new(proto::Acknowledgement {}))
    }
}
