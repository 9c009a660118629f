//! TLS 1.3 for the server's one port: certificates from PEM files, client certificates where a CA for them is named.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use crate::error::NetError;

/// The files of a server's TLS.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// PEM with the server's certificate and those between it and its CA.
    pub certificate: PathBuf,
    /// PEM with its private key.
    pub key: PathBuf,
    /// PEM with the CA that signs clients' certificates; with it, nobody without one gets as far as a request.
    pub client_ca: Option<PathBuf>,
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, NetError> {
    let broken = |e| NetError::corrupt(path.display(), format!("no PEM certificates: {e}"));
    let found: Vec<_> =
        CertificateDer::pem_file_iter(path).map_err(broken)?.collect::<Result<_, _>>().map_err(broken)?;
    match found.is_empty() {
        true => Err(NetError::corrupt(path.display(), "it holds no certificate")),
        false => Ok(found),
    }
}

/// Reads the files and makes a server of them that speaks TLS 1.3 only.
///
/// # Errors
/// [`NetError::Corrupt`] with the file that cannot be used.
pub fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, NetError> {
    let unfit = |path: &Path, e: &dyn std::fmt::Display| NetError::corrupt(path.display(), e);
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|e| unfit(&files.key, &e))?;
    let provider = Arc::new(ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])
        .map_err(|e| NetError::Internal(e.to_string()))?;
    let config = match &files.client_ca {
        None => config.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|e| unfit(path, &e))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            config.with_client_cert_verifier(verifier.map_err(|e| unfit(path, &e))?)
        }
    };
    let mut config = config
        .with_single_cert(certificates(&files.certificate)?, key)
        .map_err(|e| unfit(&files.certificate, &e))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
