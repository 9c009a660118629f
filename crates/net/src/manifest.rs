//! The signed round manifest: what a site is asked to do, and proof that the server asked it.
//!
//! The manifest travels as the bytes that were signed, so that no re-encoding can part them from their signature.

use std::path::Path;

use consilium_federation::Task;
use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

use crate::durable;
use crate::error::NetError;

/// Version of the protocol `consilium.v1` that this program speaks.
pub const PROTOCOL: u32 = 1;

/// One round of one session, for one site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the protocol.
    pub protocol: u32,
    /// Id of the session.
    pub session: String,
    /// The site that is asked: a manifest for one site means nothing to another.
    pub site: String,
    /// Sites of the session, in byte order.
    pub roster: Vec<String>,
    /// When the round ends at the latest, milliseconds since 1970.
    pub deadline_ms: u64,
    /// The work, with the round and the SHA-256 of the adapter to start from.
    pub task: Task,
    /// SHA-256 of the archive that holds this adapter.
    pub archive_sha256: String,
}

impl Manifest {
    /// A name for the task that is the same however often it is handed out.
    pub fn correlation_id(&self) -> String {
        let named = format!("{}\n{}\n{}", self.session, self.task.round, self.site);
        consilium_core::hash::sha256_hex(named.as_bytes())[..32].to_owned()
    }
}

/// The server's Ed25519 key, made once and kept in its data directory.
pub struct ServerKey(Ed25519KeyPair);

impl ServerKey {
    /// Reads the key at `path`, or makes one there that only its owner can read.
    ///
    /// # Errors
    /// [`NetError::Io`], or [`NetError::Corrupt`] for a file that is no key.
    pub fn open(path: &Path) -> Result<Self, NetError> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
                    .map_err(|_| NetError::Internal("the system gave no randomness for a key".into()))?;
                durable::write_secret(path, made.as_ref())?;
                made.as_ref().to_vec()
            }
            Err(error) => return Err(NetError::io(path)(error)),
        };
        Ed25519KeyPair::from_pkcs8(&bytes)
            .map(Self)
            .map_err(|e| NetError::corrupt(path.display(), format!("no Ed25519 key: {e}")))
    }

    /// The public half, 32 bytes.
    pub fn public(&self) -> Vec<u8> {
        self.0.public_key().as_ref().to_vec()
    }

    /// The manifest's bytes and their signature.
    pub fn sign(&self, manifest: &Manifest) -> (Vec<u8>, Vec<u8>) {
        let bytes = serde_json::to_vec(manifest).unwrap_or_default();
        let signature = self.0.sign(&bytes).as_ref().to_vec();
        (bytes, signature)
    }
}

/// Checks the signature of `bytes` against the server's public key and reads the manifest.
///
/// # Errors
/// [`NetError::Untrusted`] when the signature is not this key's; [`NetError::Protocol`] when the bytes are no manifest
/// of this version.
pub fn verify(server_key: &[u8], bytes: &[u8], signature: &[u8]) -> Result<Manifest, NetError> {
    UnparsedPublicKey::new(&ED25519, server_key)
        .verify(bytes, signature)
        .map_err(|_| NetError::Untrusted("the round manifest is not signed by this server's key".into()))?;
    let manifest: Manifest =
        serde_json::from_slice(bytes).map_err(|e| NetError::Protocol(format!("round manifest: {e}")))?;
    if manifest.protocol != PROTOCOL {
        let found = manifest.protocol;
        return Err(NetError::Protocol(format!("round manifest of version {found}, expected {PROTOCOL}")));
    }
    Ok(manifest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::task;

    fn manifest() -> Manifest {
        Manifest {
            protocol: PROTOCOL,
            session: "s".into(),
            site: "north".into(),
            roster: vec!["north".into(), "south".into()],
            deadline_ms: 1_000,
            task: task(2, "m1"),
            archive_sha256: "a".into(),
        }
    }

    #[test]
    fn a_signed_manifest_is_read_back_and_a_changed_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server.key");
        let key = ServerKey::open(&path).unwrap();
        let (bytes, signature) = key.sign(&manifest());
        assert_eq!(verify(&key.public(), &bytes, &signature).unwrap(), manifest());
        let text = String::from_utf8(bytes.clone()).unwrap().replace("north", "north2");
        assert!(matches!(verify(&key.public(), text.as_bytes(), &signature), Err(NetError::Untrusted(_))));
        let again = ServerKey::open(&path).unwrap();
        assert_eq!(again.public(), key.public(), "the key is kept");
        let other = ServerKey::open(&folder.path().join("other.key")).unwrap();
        assert!(matches!(verify(&other.public(), &bytes, &signature), Err(NetError::Untrusted(_))));
    }

    #[test]
    fn the_correlation_id_depends_on_session_round_and_site_only() {
        let one = manifest();
        let later = Manifest { deadline_ms: 9_000, ..manifest() };
        assert_eq!(one.correlation_id(), later.correlation_id());
        assert_ne!(one.correlation_id(), Manifest { site: "south".into(), ..manifest() }.correlation_id());
    }
}
