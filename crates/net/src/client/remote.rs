//! A site's view of its server: connect, attend, report, and the last model. Every call blocks.

use std::cell::RefCell;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use consilium_core::adapter::Schema;
use consilium_core::{Adapter, StopFlag, npz};
use tonic::Code;

use super::account::{ANSWER_LIMIT, Account};
use super::link::{ClientTls, Failed, Link, WireBytes, bounded, normal_url};
use super::models::Models;
use super::outbox::Outbox;
use super::{ClientEvent, Score, SessionStatus};
use crate::durable;
use crate::error::NetError;
use crate::limits::{archive_limit, value_bytes};
use crate::manifest::Manifest;
use crate::proto;

/// Pause between two questions for a session.
const NO_SESSION: Duration = Duration::from_secs(2);
/// Longest time for parting words.
const PARTING: Duration = Duration::from_secs(5);

/// How to reach a server, and as whom.
pub struct ConnectOptions {
    /// The server, such as `https://fed.example.org:8092`.
    pub url: String,
    /// Folder of this site's credentials, outbox and models; one site, one process.
    pub state_dir: PathBuf,
    /// Name and version of the program, for the server's logs.
    pub program: String,
    /// The site's name.
    pub site: String,
    /// One-time enrolment token, where the site is not enrolled yet.
    pub token: Option<String>,
    /// Certificates, for an `https://` server.
    pub tls: ClientTls,
    /// Ends every wait when it is raised.
    pub stop: StopFlag,
    /// Hears what the connection goes through, on the thread that calls.
    pub on_event: Box<dyn Fn(ClientEvent) + Send>,
}

/// What the server says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerHello {
    /// Its program and version.
    pub program: String,
    /// Whether sites may enrol without a token.
    pub open_enrolment: bool,
}

/// A session that this site takes part in.
#[derive(Clone, Debug, PartialEq)]
pub struct AttendedSession {
    /// Id.
    pub id: String,
    /// Name.
    pub name: String,
    /// What every site must do alike: JSON text.
    pub plan: String,
    /// Names and shapes of the adapter, in the order of its archive.
    pub schema: Schema,
    /// Sites that take part, as far as they are known.
    pub roster: Vec<String>,
    /// Where it stands.
    pub status: SessionStatus,
    /// The archive that it starts from.
    pub(super) seed: proto::ModelRef,
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// Finished, or stopped by an operator.
    pub status: SessionStatus,
    /// Rounds that made a model.
    pub commits: u32,
    /// SHA-256 of the last adapter's names, shapes and values.
    pub adapter_sha256: String,
    /// The archive that holds it.
    pub(super) model: proto::ModelRef,
}

/// A site's connection to its server. Calls block and must not be made from within a tokio runtime; whatever takes
/// long ends with [`super::STOPPED`] when the stop flag is raised.
///
/// All methods take `&self`, and `&Remote` is a [`Transport`](consilium_federation::Transport) too: one value can serve
/// as the transport and answer for the final model at the same time.
pub struct Remote {
    pub(super) account: Account,
    pub(super) outbox: Outbox,
    pub(super) models: Models,
    hello: ServerHello,
    pub(super) session: RefCell<Option<AttendedSession>>,
    /// The task at hand.
    pub(super) task: RefCell<Option<(Manifest, proto::ModelRef)>>,
    pub(super) ended: RefCell<Option<Ended>>,
    /// Held while this value lives: two programs on one outbox would send each other's updates.
    _lock: File,
}

impl Remote {
    /// Waits for the server, agrees on a version, and enrols unless `state_dir` holds credentials of this site.
    ///
    /// # Errors
    /// [`NetError::Invalid`] for a URL or folder of another kind, [`NetError::Unavailable`] when another program uses
    /// the folder or the stop flag was raised, [`NetError::Protocol`] for a server of another version,
    /// [`NetError::Untrusted`] when its key is not the one pinned at the first contact, [`NetError::Unauthenticated`]
    /// or [`NetError::Denied`] when it does not want this site, and storage errors.
    pub fn connect(options: ConnectOptions) -> Result<Self, NetError> {
        let ConnectOptions { url, state_dir, program, site, token, tls, stop, on_event } = options;
        durable::create_folder(&state_dir)?;
        let lock = lock(&state_dir)?;
        let outbox = Outbox::open(state_dir.join("outbox"))?;
        let models = Models::open(state_dir.join("models"))?;
        let url = normal_url(&url);
        let link = Link::new(&url, &tls, stop, on_event)?;
        let path = state_dir.join("credentials.json");
        let (account, hello) = Account::open(link, &url, path, &program, &site, token.as_deref())?;
        let (session, task, ended) = (RefCell::new(None), RefCell::new(None), RefCell::new(None));
        Ok(Self { account, outbox, models, hello, session, task, ended, _lock: lock })
    }

    /// What the server said about itself.
    pub fn server(&self) -> &ServerHello {
        &self.hello
    }

    /// The site that this connection proves to be.
    pub fn site(&self) -> String {
        self.account.site()
    }

    /// Bytes that went over the wire so far, lost attempts included.
    pub fn wire(&self) -> WireBytes {
        self.account.link.wire.bytes()
    }

    /// Reports for duty for the session called `wanted` (name or id), or with an empty text for the newest one that has
    /// this site; `None` when there is none. The session is the one that all other calls are about from then on.
    ///
    /// # Errors
    /// [`NetError::Invalid`] for a session that does not exist, [`NetError::Denied`] for one without this site; else as
    /// [`Remote::connect`].
    pub fn attend(&self, wanted: &str) -> Result<Option<AttendedSession>, NetError> {
        Ok(self.attend_as_told(wanted)?)
    }

    fn attend_as_told(&self, wanted: &str) -> Result<Option<AttendedSession>, Failed> {
        let request = proto::AttendRequest { session: wanted.to_owned() };
        let answer: proto::AttendResponse =
            self.account.call(ANSWER_LIMIT, &request, |mut client, request| async move {
                client.attend(request).await
            })?;
        let Some(found) = answer.session else { return Ok(None) };
        let attended = session(found)?;
        let before = self.session.replace(Some(attended.clone()));
        if before.is_none_or(|before| before.id != attended.id) {
            self.task.replace(None);
            self.ended.replace(None);
        }
        Ok(Some(attended))
    }

    /// As [`Remote::attend`], asking again until the session exists; `on_wait` hears once what is waited for.
    ///
    /// # Errors
    /// As [`Remote::attend`], but a session that does not exist yet is waited for.
    pub fn wait_for_session(
        &self,
        wanted: &str,
        on_wait: &mut dyn FnMut(&str),
    ) -> Result<AttendedSession, NetError> {
        let mut told = false;
        loop {
            let why = match self.attend_as_told(wanted) {
                Ok(Some(session)) => return Ok(session),
                Ok(None) => format!("no session has {} yet", self.site()),
                Err(Failed::Refused(Code::NotFound, message)) if !wanted.is_empty() => message,
                Err(failed) => return Err(failed.into()),
            };
            if !std::mem::replace(&mut told, true) {
                on_wait(&why);
            }
            self.account.link.pause(NO_SESSION)?;
        }
    }

    /// The session that was attended.
    pub(super) fn attended(&self) -> Result<AttendedSession, NetError> {
        self.session.borrow().clone().ok_or_else(|| NetError::Invalid("no session was attended yet".into()))
    }

    /// Tells the server how the models did on this site's test rows. Ask the site's policy first.
    ///
    /// # Errors
    /// As [`Remote::attend`].
    pub fn report_scores(&self, scores: &[Score]) -> Result<(), NetError> {
        let request = proto::ScoreReport { session_id: self.attended()?.id, scores: scores.to_vec() };
        let _: proto::Acknowledgement =
            self.account.call(ANSWER_LIMIT, &request, |mut client, request| async move {
                client.report_scores(request).await
            })?;
        Ok(())
    }

    /// Tells the server that this site goes: the open round does not wait for it. Said once and for at most five seconds,
    /// also when the stop flag is raised.
    ///
    /// # Errors
    /// [`NetError`] when it was not heard.
    pub fn leave(&self) -> Result<(), NetError> {
        let message = proto::LeaveRequest { session_id: self.attended()?.id };
        self.account.link.wire.up(&message);
        let request = self.account.signed(message)?;
        let mut client = self.account.link.client();
        self.account.link.run_while_stopping(bounded(PARTING, client.leave(request)))?;
        Ok(())
    }

    /// How the session ended; `None` while the server has not said that it did.
    pub fn ended(&self) -> Option<Ended> {
        self.ended.borrow().clone()
    }

    /// The session's last adapter, checked against the hash that the server named when it said that the session is over.
    ///
    /// # Errors
    /// [`NetError::Invalid`] while it is not over; [`NetError::Untrusted`] for another adapter; else as
    /// [`Remote::attend`].
    pub fn final_model(&self) -> Result<Adapter, NetError> {
        let session = self.attended()?;
        let ended = self.ended().ok_or_else(|| NetError::Invalid("the session is not over".into()))?;
        Ok(self.adapter(&session, &ended.model, &ended.adapter_sha256)?)
    }

    /// The adapter that the session starts from, if it is the one with this hash.
    ///
    /// # Errors
    /// As [`Remote::final_model`].
    pub fn first_model(&self, adapter_sha256: &str) -> Result<Adapter, NetError> {
        let session = self.attended()?;
        Ok(self.adapter(&session, &session.seed, adapter_sha256)?)
    }

    /// A model of `session`, whole and checked.
    pub(super) fn adapter(
        &self,
        session: &AttendedSession,
        model: &proto::ModelRef,
        adapter_sha256: &str,
    ) -> Result<Adapter, Failed> {
        let limit = archive_limit(&session.schema);
        let archive = self.models.fetch(&self.account, &session.id, model, limit)?;
        let adapter = npz::decode(&archive, &session.schema).map_err(NetError::from)?;
        let found = adapter.sha256();
        if found != adapter_sha256 {
            let expected = crate::words::shortened(adapter_sha256);
            return Err(NetError::Untrusted(format!(
                "the server sent the adapter {found} instead of {expected}"
            ))
            .into());
        }
        Ok(adapter)
    }
}

fn lock(folder: &Path) -> Result<File, NetError> {
    let path = folder.join("lock");
    let file = File::create(&path).map_err(NetError::io(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            Err(NetError::Unavailable(format!("another program uses {}", folder.display())))
        }
        Err(std::fs::TryLockError::Error(error)) => Err(NetError::io(&path)(error)),
    }
}

/// Reads the server's words about a session; a schema that no machine could hold is not believed.
fn session(found: proto::Session) -> Result<AttendedSession, NetError> {
    let status = found.status();
    let seed = found.seed.unwrap_or_default();
    let plan = String::from_utf8(found.plan)
        .map_err(|_| NetError::Protocol("the session's plan is no UTF-8 text".into()))?;
    let shape = |tensor: proto::TensorShape| {
        let extents = tensor.shape.into_iter().map(|extent| usize::try_from(extent).ok());
        Some((tensor.name, extents.collect::<Option<Vec<usize>>>()?))
    };
    let schema: Option<Schema> = found.schema.into_iter().map(shape).collect();
    let schema = schema.ok_or_else(|| NetError::Protocol("a tensor too large for this machine".into()))?;
    value_bytes(&schema).map_err(NetError::Protocol)?;
    Ok(AttendedSession { id: found.id, name: found.name, plan, schema, roster: found.roster, status, seed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_that_no_machine_can_hold_is_refused() {
        let tensor = |shape: &[u64]| proto::TensorShape { name: "w".into(), shape: shape.to_vec() };
        let with = |schema| session(proto::Session { plan: b"{}".to_vec(), schema, ..Default::default() });
        assert_eq!(with(vec![tensor(&[2, 3])]).unwrap().schema, [("w".to_owned(), vec![2, 3])]);
        assert!(with(vec![tensor(&[1 << 20, 1 << 20])]).is_err());
        assert!(with(vec![tensor(&[u64::MAX, 2])]).is_err());
        assert!(with(vec![tensor(&[0, u64::MAX]), tensor(&[1 << 30]), tensor(&[1])]).is_err());
    }
}
