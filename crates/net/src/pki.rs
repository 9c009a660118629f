//! A private certificate authority for one federation: its own certificate, the server's, and one for each site.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use tokio_rustls::rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

use crate::durable;
use crate::error::NetError;

/// The authority's certificate; everybody gets it.
pub const CA_CERTIFICATE: &str = "ca.pem";
/// The authority's private key; it stays where it was made.
pub const CA_KEY: &str = "ca.key";
/// How long the authority is good.
const CA_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How long a certificate of a server or site is good.
const LIFE: Duration = Duration::from_secs(2 * 365 * 24 * 3600);
/// Clocks differ: a certificate is good from an hour before it was made.
const SLACK: Duration = Duration::from_secs(3600);

/// Whom a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A server with these DNS names and IP addresses.
    Server(Vec<String>),
    /// A site, or whoever else connects: the certificate says whose it is, and only that one's tokens work with it.
    Site,
}

/// What a certificate says whose it is with: a URI among its subject's alternative names, for it may hold any letters.
const SITE_URI: &str = "consilium:site:";

fn site_uri(name: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let escaped =
        name.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") });
    escaped.fold(SITE_URI.to_owned(), |uri, part| uri + &part)
}

/// Whom a certificate (DER) that has been checked belongs to; `None` when it does not say, as those of other authorities
/// do not.
pub(crate) fn holder(certificate: &CertificateDer<'_>) -> Option<Holder> {
    let certificate = EndEntityCert::try_from(certificate).ok()?;
    let uri = certificate.valid_uri_names().find(|uri| uri.starts_with(SITE_URI))?;
    Some(Holder(uri.to_owned()))
}

/// Whose certificate a connection was opened with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holder(String);

impl Holder {
    /// Whether it is this site's.
    pub fn is(&self, name: &str) -> bool {
        self.0 == site_uri(name)
    }
}

fn failed(error: rcgen::Error) -> NetError {
    NetError::Internal(format!("making a certificate: {error}"))
}

fn named(name: &str, life: Duration) -> Result<CertificateParams, NetError> {
    let mut params = CertificateParams::new(Vec::<String>::new()).map_err(failed)?;
    params.distinguished_name.push(DnType::CommonName, name);
    let now = SystemTime::now();
    params.not_before = (now - SLACK).into();
    params.not_after = (now + life).into();
    Ok(params)
}

/// The authority, but for its key: its name is always the same, so that what it signs can be made without reading its
/// certificate.
fn authority() -> Result<CertificateParams, NetError> {
    let mut params = named("Consilium federation", CA_LIFE)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// Makes an authority in `folder`, unless there is one.
///
/// # Errors
/// [`NetError::Io`]; [`NetError::Invalid`] when `folder` holds an authority already.
pub fn make_authority(folder: &Path) -> Result<(), NetError> {
    let (certificate, key_file) = (folder.join(CA_CERTIFICATE), folder.join(CA_KEY));
    if certificate.exists() || key_file.exists() {
        return Err(NetError::Invalid(format!("{} holds an authority already", folder.display())));
    }
    durable::create_folder(folder)?;
    let key = KeyPair::generate().map_err(failed)?;
    let issuer = CertifiedIssuer::self_signed(authority()?, key).map_err(failed)?;
    durable::write_secret(&key_file, issuer.key().serialize_pem().as_bytes())?;
    durable::write(&certificate, issuer.pem().as_bytes())
}

/// Makes `<name>.pem` and `<name>.key` in `folder`, signed by the authority there.
///
/// # Errors
/// [`NetError::Io`] without an authority, [`NetError::Corrupt`] for one that cannot be read, [`NetError::Invalid`] for a
/// name that is no file name or names no host.
pub fn issue(folder: &Path, name: &str, subject: &Subject) -> Result<(), NetError> {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | ' ');
    if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) || name == "ca" {
        return Err(NetError::Invalid(format!("{name:?} cannot be a certificate's file name")));
    }
    let read = |file: &str| {
        let path = folder.join(file);
        std::fs::read_to_string(&path).map_err(NetError::io(&path))
    };
    let broken = |e: rcgen::Error| NetError::corrupt(folder.display(), format!("its authority: {e}"));
    let key = KeyPair::from_pem(&read(CA_KEY)?).map_err(broken)?;
    let authority = authority()?;
    let issuer = Issuer::from_params(&authority, key);

    let mut params = named(name, LIFE)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = match subject {
        Subject::Server(hosts) => {
            for host in hosts {
                params.subject_alt_names.push(match host.parse() {
                    Ok(address) => SanType::IpAddress(address),
                    Err(_) => SanType::DnsName(
                        host.as_str()
                            .try_into()
                            .map_err(|_| NetError::Invalid(format!("{host:?} is no DNS name")))?,
                    ),
                });
            }
            vec![ExtendedKeyUsagePurpose::ServerAuth]
        }
        Subject::Site => {
            let uri = site_uri(name).as_str().try_into().map_err(failed)?;
            params.subject_alt_names.push(SanType::URI(uri));
            vec![ExtendedKeyUsagePurpose::ClientAuth]
        }
    };
    let own = KeyPair::generate().map_err(failed)?;
    let signed = params.signed_by(&own, &issuer).map_err(failed)?;
    durable::write_secret(&folder.join(format!("{name}.key")), own.serialize_pem().as_bytes())?;
    durable::write(&folder.join(format!("{name}.pem")), signed.pem().as_bytes())
}
