//! Who a site is to its server, and by which key it knows this server again. One file, readable by its owner only.

use std::fmt;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::durable::write_secret;
use crate::error::NetError;
use crate::proto;

/// Bytes of an Ed25519 public key.
const KEY_BYTES: usize = 32;

/// What a site keeps about itself and its server.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    /// The server's URL, as it was last reached.
    pub server: String,
    /// The site's name.
    pub site: String,
    /// For every call; short-lived.
    pub access_token: String,
    /// For new tokens, once.
    pub refresh_token: String,
    /// When the access token expires, seconds since 1970 by this machine's clock. Shown to people; the server decides.
    pub expires_s: u64,
    /// The server's Ed25519 public key, 64 hexadecimal digits, as it was at the first contact.
    pub server_key: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("server", &self.server)
            .field("site", &self.site)
            .field("access_token", &"<secret>")
            .field("refresh_token", &"<secret>")
            .field("expires_s", &self.expires_s)
            .field("server_key", &self.server_key)
            .finish()
    }
}

impl Credentials {
    /// What the server gave out, with the key that it showed.
    pub(super) fn new(server: &str, server_key: &[u8], given: proto::Credentials) -> Self {
        let server_key = hex(server_key);
        let mut made = Self {
            server: server.to_owned(),
            site: String::new(),
            access_token: String::new(),
            refresh_token: String::new(),
            expires_s: 0,
            server_key,
        };
        made.renew(given);
        made
    }

    /// Takes over the tokens that the server gave out.
    pub(super) fn renew(&mut self, given: proto::Credentials) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.site = given.site;
        self.access_token = given.access_token;
        self.refresh_token = given.refresh_token;
        self.expires_s = now.saturating_add(Duration::from_secs(given.expires_in_s)).as_secs();
    }

    /// Reads the file at `path`; `None` when there is none.
    ///
    /// # Errors
    /// [`NetError::Io`], or [`NetError::Corrupt`] for a file that holds something else.
    pub fn load(path: &Path) -> Result<Option<Self>, NetError> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(NetError::io(path)(error)),
        };
        // serde's message could quote a token: only the place is told.
        let read: Self = serde_json::from_slice(&bytes).map_err(|e| {
            let place = format!("no credentials of this version (line {}, column {})", e.line(), e.column());
            NetError::corrupt(path.display(), place)
        })?;
        if unhex(&read.server_key).is_none_or(|key| key.len() != KEY_BYTES) {
            return Err(NetError::corrupt(path.display(), "server_key must be 64 hexadecimal digits"));
        }
        Ok(Some(read))
    }

    /// Writes the file at `path`, whole or not at all, readable by its owner only.
    ///
    /// # Errors
    /// [`NetError::Io`].
    pub fn save(&self, path: &Path) -> Result<(), NetError> {
        let mut text = serde_json::to_vec_pretty(self).map_err(|e| NetError::Internal(e.to_string()))?;
        text.push(b'\n');
        write_secret(path, &text)
    }

    /// The pinned key, 32 bytes.
    pub fn server_key(&self) -> Vec<u8> {
        unhex(&self.server_key).unwrap_or_default()
    }

    /// Checks that a server's key is the one that was seen at the first contact.
    ///
    /// # Errors
    /// [`NetError::Untrusted`] with both keys and what to do; `path` is the file to remove then.
    pub(super) fn check_key(&self, shown: &[u8], path: &Path) -> Result<(), NetError> {
        if self.server_key() == shown {
            return Ok(());
        }
        Err(NetError::Untrusted(format!(
            "the server at {} shows the key {}, at the first contact it was {}: another server answers there, or its data \
             directory was made anew; ask its operator, and only if the new key is right remove {} and enrol again",
            self.server,
            hex(shown),
            self.server_key,
            path.display()
        )))
    }
}

/// Checks that a server's key has a key's length.
pub(super) fn check_key_length(shown: &[u8]) -> Result<(), NetError> {
    match shown.len() {
        KEY_BYTES => Ok(()),
        found => Err(NetError::Protocol(format!("the server's key has {found} bytes, expected {KEY_BYTES}"))),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let value = |digit: u8| (digit as char).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let pair = |pair: &[u8]| Some(value(*pair.first()?)? << 4 | value(*pair.get(1)?)?);
    digits.chunks(2).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials() -> Credentials {
        let given = proto::Credentials {
            site: "north".into(),
            access_token: "access-secret".into(),
            refresh_token: "refresh-secret".into(),
            expires_in_s: 60,
        };
        Credentials::new("http://127.0.0.1:8092", &[7; 32], given)
    }

    #[test]
    fn what_is_saved_is_loaded_and_only_its_owner_can_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("credentials.json");
        assert_eq!(Credentials::load(&path).unwrap(), None);
        credentials().save(&path).unwrap();
        let loaded = Credentials::load(&path).unwrap().unwrap();
        assert_eq!(loaded.server_key(), [7; 32]);
        assert_eq!(loaded.refresh_token, "refresh-secret");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn no_message_shows_a_token() {
        let shown = format!("{:?}", credentials());
        assert!(!shown.contains("-secret"), "{shown}");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("credentials.json");
        fs::write(&path, r#"{"access_token": "access-secret", "expires_s": "access-secret"}"#).unwrap();
        let message = Credentials::load(&path).unwrap_err().to_string();
        assert!(!message.contains("-secret"), "{message}");
        let short = Credentials { server_key: "é0".into(), ..credentials() };
        short.save(&path).unwrap();
        assert!(matches!(Credentials::load(&path), Err(NetError::Corrupt { .. })));
    }

    #[test]
    fn another_key_is_not_trusted() {
        let kept = credentials();
        kept.check_key(&[7; 32], Path::new("c.json")).unwrap();
        let message = kept.check_key(&[8; 32], Path::new("c.json")).unwrap_err().to_string();
        assert!(message.contains("0808") && message.contains("0707") && message.contains("remove c.json"));
    }
}
