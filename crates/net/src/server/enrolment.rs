//! Who is who: enrolment tokens, short-lived access tokens, rotating refresh tokens.
//!
//! Tokens are 256 random bits and kept as hashes; there is no signature to forge and no claim to forget to
//! check, and a revoked token is worth nothing from that moment on.

use std::time::Duration;

use consilium_core::hash::sha256_hex;
use ring::rand::{SecureRandom, SystemRandom};

use super::board::Fence;
use super::core::{Core, Principal};
use super::spec::check_name;
use super::store::credentials::{add_site, forget, revoke_site, sweep};
use super::store::{Credential, Deed, Kind, Role, SiteRow};
use crate::error::NetError;
use crate::pki::Holder;

/// How long the refresh token before the last still works: its successor may have been lost on the way.
const REFRESH_GRACE: Duration = Duration::from_secs(600);

/// What a newly enrolled or refreshed site gets.
#[derive(Clone, PartialEq, Eq)]
pub struct Tokens {
    /// The site.
    pub site: String,
    /// For every call.
    pub access: String,
    /// For new tokens, once.
    pub refresh: String,
    /// How long the access token is good.
    pub expires_in: Duration,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").field("site", &self.site).finish_non_exhaustive()
    }
}

/// 256 random bits, with a word in front that says what they are for.
fn token(what: &str) -> Result<String, NetError> {
    let mut bytes = [0u8; 32];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| NetError::Internal("the system gave no randomness for a token".into()))?;
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("consilium-{what}-{digits}"))
}

fn kept(token: &str, kind: Kind, role: Role, name: &str, expires: Duration) -> Credential {
    Credential { hash: sha256_hex(token.as_bytes()), kind, role, name: name.to_owned(), expires }
}

fn unknown_token() -> NetError {
    NetError::Unauthenticated("the token is unknown, expired or revoked".into())
}

impl Core {
    /// Makes a one-time token with which somebody becomes `site`; an older one for the same site is forgotten.
    ///
    /// # Errors
    /// [`NetError::Invalid`] for a bad name, or a storage error.
    pub fn invite(&self, by: &Principal, site: &str, life: Duration) -> Result<String, NetError> {
        check_name("site", site)?;
        let (token, now) = (token("enrol")?, self.now());
        let deed = Deed { at: now, actor: &by.name, action: "site_invited", detail: detail(site) };
        self.enter().change(&deed, |transaction| {
            sweep(transaction, now)?;
            forget(transaction, site, Kind::Enrolment, Role::Site)?;
            kept(&token, Kind::Enrolment, Role::Site, site, now + life).insert(transaction)
        })?;
        Ok(token)
    }

    /// Turns a one-time token into the tokens of its site.
    ///
    /// # Errors
    /// [`NetError::Unauthenticated`], [`NetError::Denied`] or [`NetError::Invalid`], or a storage error.
    pub fn enrol(&self, site: &str, token: &str) -> Result<Tokens, NetError> {
        self.enrol_over(None, site, token)
    }

    /// The same over a connection. A certificate that says that it is the site's stands for a token, unless the site
    /// was shut out; one that says that it is somebody else's lets nobody in.
    pub(super) fn enrol_over(
        &self,
        certificate: Option<&Holder>,
        site: &str,
        token: &str,
    ) -> Result<Tokens, NetError> {
        check_name("site", site)?;
        check_holder(site, certificate)?;
        let now = self.now();
        let mut inner = self.enter();
        let shut_out = inner.store.site(site)?.is_some_and(|known| known.revoked.is_some());
        let invitation = match token {
            "" if self.settings.open_enrolment => None,
            "" if certificate.is_some() && !shut_out => None,
            "" => return Err(NetError::Unauthenticated("this server wants an enrolment token".into())),
            token => Some(inner.store.credential(&sha256_hex(token.as_bytes()))?.ok_or_else(unknown_token)?),
        };
        if let Some(found) = &invitation {
            if found.kind != Kind::Enrolment || found.expires <= now {
                return Err(unknown_token());
            }
            if found.name != site {
                let invited = &found.name;
                return Err(NetError::Denied(format!("the token is for {invited}, not for {site}")));
            }
        }
        let (tokens, pair) = self.pair(site, now)?;
        let deed = Deed { at: now, actor: site, action: "site_enrolled", detail: detail(site) };
        inner.change(&deed, |transaction| {
            if let Some(found) = &invitation
                && !found.take(transaction)?
            {
                return Err(unknown_token());
            }
            add_site(transaction, site, now)?;
            pair.iter().try_for_each(|credential| credential.insert(transaction))
        })?;
        Ok(tokens)
    }

    fn pair(&self, site: &str, now: Duration) -> Result<(Tokens, [Credential; 2]), NetError> {
        let settings = &self.settings;
        let tokens = Tokens {
            site: site.to_owned(),
            access: token("access")?,
            refresh: token("refresh")?,
            expires_in: settings.access_life,
        };
        let pair = [
            kept(&tokens.access, Kind::Access, Role::Site, site, now + settings.access_life),
            kept(&tokens.refresh, Kind::Refresh, Role::Site, site, now + settings.refresh_life),
        ];
        Ok((tokens, pair))
    }

    /// Turns a refresh token into new tokens. The old one works for ten minutes more, in case the answer is lost.
    ///
    /// # Errors
    /// [`NetError::Unauthenticated`], or a storage error.
    pub fn refresh(&self, token: &str) -> Result<Tokens, NetError> {
        let now = self.now();
        let mut inner = self.enter();
        let found = inner.store.credential(&sha256_hex(token.as_bytes()))?.ok_or_else(unknown_token)?;
        if found.kind != Kind::Refresh || found.expires <= now {
            return Err(unknown_token());
        }
        let (tokens, pair) = self.pair(&found.name, now)?;
        let site = &found.name;
        let deed = Deed { at: now, actor: site, action: "tokens_refreshed", detail: detail(site) };
        inner.change(&deed, |transaction| {
            sweep(transaction, now)?;
            if !found.take(transaction)? {
                return Err(unknown_token());
            }
            let expires = found.expires.min(now + REFRESH_GRACE);
            Credential { expires, ..found.clone() }.insert(transaction)?;
            pair.iter().try_for_each(|credential| credential.insert(transaction))
        })?;
        Ok(tokens)
    }

    /// Whose access token this is.
    ///
    /// # Errors
    /// [`NetError::Unauthenticated`], or a storage error.
    pub fn authenticate(&self, token: &str) -> Result<Principal, NetError> {
        let now = self.now();
        let mut inner = self.enter();
        let found = inner.store.credential(&sha256_hex(token.as_bytes()))?.ok_or_else(unknown_token)?;
        if found.kind != Kind::Access || found.expires <= now {
            return Err(unknown_token());
        }
        if found.role == Role::Site {
            inner.seen.insert(found.name.clone(), now);
        }
        Ok(Principal { name: found.name, role: found.role })
    }

    /// Makes an access token for an operator or viewer; the ones before it with this name and role are forgotten.
    ///
    /// # Errors
    /// A storage error.
    pub fn staff_token(&self, name: &str, role: Role, life: Duration) -> Result<String, NetError> {
        let (token, now) = (token(role.word())?, self.now());
        let detail = detail(name);
        let deed = Deed { at: now, actor: "server", action: "staff_token", detail };
        self.enter().change(&deed, |transaction| {
            forget(transaction, name, Kind::Access, role)?;
            kept(&token, Kind::Access, role, name, now + life).insert(transaction)
        })?;
        Ok(token)
    }

    /// Shuts a site out at once: its tokens are worth nothing from now on.
    ///
    /// # Errors
    /// [`NetError::NotFound`], or a storage error.
    pub fn revoke(&self, by: &Principal, site: &str) -> Result<(), NetError> {
        let now = self.now();
        let deed = Deed { at: now, actor: &by.name, action: "site_revoked", detail: detail(site) };
        self.enter().change(&deed, |transaction| match revoke_site(transaction, site, now)? {
            true => Ok(()),
            false => Err(NetError::NotFound { what: "site", name: site.to_owned() }),
        })?;
        self.board.end_call(site, Fence::Revoked);
        self.stir();
        Ok(())
    }

    /// Every site, with the time since it was last heard of, if it was since the start.
    ///
    /// # Errors
    /// A storage error.
    pub fn sites(&self) -> Result<Vec<(SiteRow, Option<Duration>)>, NetError> {
        let now = self.now();
        let inner = self.enter();
        let sites = inner.store.sites()?;
        let since = |site: &SiteRow| inner.seen.get(&site.name).map(|seen| now.saturating_sub(*seen));
        Ok(sites.into_iter().map(|site| (site.clone(), since(&site))).collect())
    }
}

fn check_holder(name: &str, certificate: Option<&Holder>) -> Result<(), NetError> {
    match certificate {
        Some(holder) if !holder.is(name) => {
            Err(NetError::Denied(format!("the connection's certificate is not that of {name}")))
        }
        _ => Ok(()),
    }
}

impl Principal {
    /// A token works only with its bearer's certificate, where the connection has one that says whose it is.
    pub(super) fn check(&self, certificate: Option<&Holder>) -> Result<(), NetError> {
        check_holder(&self.name, certificate)
    }
}

fn detail(site: &str) -> String {
    serde_json::json!({ "site": site }).to_string()
}
