//! Calls as a site: the first contact, enrolment, and an access token that is renewed when it has expired.

use std::cell::RefCell;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use prost::Message;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Code, Request, Response, Status};

use super::ClientEvent;
use super::credentials::{Credentials, check_key_length};
use super::link::{Client, Failed, Link};
use super::remote::ServerHello;
use crate::error::NetError;
use crate::manifest::PROTOCOL;
use crate::proto;

/// Longest wait for an ordinary answer.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// A site's identity on a link.
pub(super) struct Account {
    pub link: Link,
    path: PathBuf,
    /// Used when the refresh token is worth nothing any more, once.
    token: RefCell<Option<String>>,
    credentials: RefCell<Credentials>,
}

/// The server's introduction, if it speaks this version.
fn hello(link: &Link, program: &str) -> Result<proto::HelloResponse, Failed> {
    let request = proto::HelloRequest { versions: vec![PROTOCOL], program: program.to_owned() };
    let answer: proto::HelloResponse =
        link.ask(ANSWER_LIMIT, &request, |mut client, request| async move { client.hello(request).await })?;
    if answer.version != PROTOCOL {
        let server = crate::words::shortened(&answer.program);
        return Err(NetError::Protocol(format!(
            "{program} speaks version {PROTOCOL} of the protocol, the server ({server}) does not: one of them must be updated"
        ))
        .into());
    }
    check_key_length(&answer.server_key)?;
    Ok(answer)
}

fn enrol(link: &Link, site: &str, token: &str) -> Result<proto::Credentials, Failed> {
    let request = proto::EnrolRequest { site: site.to_owned(), token: token.to_owned() };
    let given: proto::Credentials = link
        .ask(ANSWER_LIMIT, &request, |mut client, request| async move { client.enrol(request).await })
        .map_err(|failed| match failed {
            Failed::Refused(Code::Unauthenticated, message) => NetError::Unauthenticated(format!(
                "{site} could not enrol: {message}; an enrolment token works once, ask the server's operator for a new one"
            ))
            .into(),
            failed => failed,
        })?;
    if given.site != site {
        let found = crate::words::shortened(&given.site);
        return Err(NetError::Protocol(format!("asked to enrol {site}, the server enrolled {found}")).into());
    }
    Ok(given)
}

impl Account {
    /// Says hello and finds this site's credentials at `path`, or enrols and keeps them there.
    pub fn open(
        link: Link,
        url: &str,
        path: PathBuf,
        program: &str,
        site: &str,
        token: Option<&str>,
    ) -> Result<(Self, ServerHello), Failed> {
        let kept = Credentials::load(&path)?;
        if let Some(other) = kept.as_ref().filter(|kept| kept.site != site) {
            return Err(NetError::Invalid(format!(
                "{} holds the credentials of {}, not of {site}: give each site a folder of its own",
                path.display(),
                other.site
            ))
            .into());
        }
        let shown = hello(&link, program)?;
        let (credentials, token) = match kept {
            Some(mut kept) => {
                kept.check_key(&shown.server_key, &path)?;
                if kept.server != url {
                    kept.server = url.to_owned();
                    kept.save(&path)?;
                }
                (kept, token.map(str::to_owned))
            }
            None => {
                // Without a token too: the server may be open, or this site's certificate say enough.
                let given = enrol(&link, site, token.unwrap_or_default()).map_err(|failed| match failed {
                    Failed::Refused(Code::Unauthenticated, _) if token.is_none() => {
                        Failed::from(NetError::Unauthenticated(format!(
                            "{site} is not enrolled yet: the server wants an enrolment token, which its operator makes"
                        )))
                    }
                    failed => failed,
                })?;
                let made = Credentials::new(url, &shown.server_key, given);
                made.save(&path)?;
                (made, None)
            }
        };
        let hello = ServerHello {
            program: crate::words::shortened(&shown.program),
            open_enrolment: shown.open_enrolment,
        };
        let (token, credentials) = (RefCell::new(token), RefCell::new(credentials));
        Ok((Self { link, path, token, credentials }, hello))
    }

    /// The site's name.
    pub fn site(&self) -> String {
        self.credentials.borrow().site.clone()
    }

    /// The server's pinned key.
    pub fn server_key(&self) -> Vec<u8> {
        self.credentials.borrow().server_key()
    }

    /// The request with this site's access token.
    pub fn signed<Q>(&self, message: Q) -> Result<Request<Q>, Failed> {
        let bearer = format!("Bearer {}", self.credentials.borrow().access_token);
        let mut value: MetadataValue<Ascii> = bearer.parse().map_err(|_| {
            NetError::corrupt(self.path.display(), "the access token cannot stand in a header")
        })?;
        value.set_sensitive(true);
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", value);
        Ok(request)
    }

    /// Runs an attempt; when the access token is refused, renews it and runs the attempt once more.
    pub fn renewing<T>(&self, mut attempt: impl FnMut() -> Result<T, Failed>) -> Result<T, Failed> {
        match attempt() {
            Err(Failed::Refused(Code::Unauthenticated, _)) => {
                self.renew()?;
                attempt()
            }
            done => done,
        }
    }

    fn renew(&self) -> Result<(), Failed> {
        let (refresh_token, site) = {
            let kept = self.credentials.borrow();
            (kept.refresh_token.clone(), kept.site.clone())
        };
        let request = proto::RefreshRequest { refresh_token };
        let renewed = self
            .link
            .ask(ANSWER_LIMIT, &request, |mut client, request| async move { client.refresh(request).await });
        let given = match renewed {
            Err(Failed::Refused(Code::Unauthenticated, message)) => match self.token.take() {
                Some(token) => enrol(&self.link, &site, &token)?,
                None => {
                    return Err(NetError::Unauthenticated(format!(
                        "the server no longer knows {site} by what is in {} ({message}): ask its operator for a new \
                         enrolment token",
                        self.path.display()
                    ))
                    .into());
                }
            },
            renewed => renewed?,
        };
        if given.site != site {
            return Err(NetError::Protocol("the server renewed the tokens of another site".into()).into());
        }
        self.credentials.borrow_mut().renew(given);
        self.credentials.borrow().save(&self.path)?;
        self.link.tell(ClientEvent::Refreshed);
        Ok(())
    }

    /// A call with one request and one answer, as this site.
    pub fn call<Q, A, F>(
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
        self.link.patiently(|| self.call_once(limit, request, &rpc))
    }

    /// One attempt of such a call; [`Failed::Lost`] is the caller's to retry.
    pub fn call_once<Q, A, F>(
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
        self.renewing(|| self.link.ask_once(limit, self.signed(request.clone())?, &rpc))
    }
}
