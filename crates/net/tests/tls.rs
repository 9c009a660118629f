//! Encryption with a private authority: who has its certificates gets in, and nobody else.

mod common;

use std::path::Path;
use std::time::Duration;

use consilium_net::pki::{self, Subject};
use consilium_net::proto::federation_client::FederationClient;
use consilium_net::proto::{AttendRequest, EnrolRequest, HelloRequest};
use consilium_net::server::store::Role;
use consilium_net::server::tls::TlsFiles;
use consilium_net::server::{CoreSettings, Principal, ServeOptions, Server};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request};

fn server(folder: &Path, pki: &Path, client_ca: bool) -> Server {
    let tls = TlsFiles {
        certificate: pki.join("server.pem"),
        key: pki.join("server.key"),
        client_ca: client_ca.then(|| pki.join(pki::CA_CERTIFICATE)),
    };
    let listen = "127.0.0.1:0".parse().unwrap();
    let settings = CoreSettings::default();
    Server::start(ServeOptions { folder: folder.to_owned(), listen, settings, tls: Some(tls) }).unwrap()
}

fn authority(folder: &Path) {
    pki::make_authority(folder).unwrap();
    pki::issue(folder, "server", &Subject::Server(vec!["localhost".into(), "127.0.0.1".into()])).unwrap();
    pki::issue(folder, "north", &Subject::Site).unwrap();
}

fn read(folder: &Path, file: &str) -> String {
    std::fs::read_to_string(folder.join(file)).unwrap()
}

/// Says hello; whether that came through.
fn hello(server: &Server, scheme: &str, tls: Option<ClientTlsConfig>) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let address = format!("{scheme}://localhost:{}", server.address().port());
        let mut endpoint = Endpoint::from_shared(address).unwrap();
        if let Some(tls) = tls {
            endpoint = endpoint.tls_config(tls).unwrap();
        }
        let Ok(channel) = endpoint.connect().await else { return false };
        let request = HelloRequest { versions: vec![1], program: "test".into() };
        FederationClient::new(channel).hello(request).await.is_ok()
    })
}

#[test]
fn the_server_is_known_by_its_authority() {
    let root = tempfile::tempdir().unwrap();
    let (pki, other) = (root.path().join("pki"), root.path().join("other"));
    authority(&pki);
    authority(&other);
    let server = server(&root.path().join("server"), &pki, false);
    let trust = |folder: &Path| {
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(folder, pki::CA_CERTIFICATE)))
    };
    assert!(hello(&server, "https", Some(trust(&pki))));
    assert!(!hello(&server, "https", Some(trust(&other))), "another authority's server");
    assert!(!hello(&server, "http", None), "nothing is served without encryption");
}

#[test]
fn with_a_client_authority_only_its_certificates_get_in() {
    let root = tempfile::tempdir().unwrap();
    let (pki, other) = (root.path().join("pki"), root.path().join("other"));
    authority(&pki);
    authority(&other);
    let server = server(&root.path().join("server"), &pki, true);
    let trust = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(&pki, pki::CA_CERTIFICATE)));
    let identity = |folder: &Path, name: &str| {
        Identity::from_pem(read(folder, &format!("{name}.pem")), read(folder, &format!("{name}.key")))
    };
    assert!(hello(&server, "https", Some(trust.clone().identity(identity(&pki, "north")))));
    assert!(!hello(&server, "https", Some(trust.clone())), "no certificate");
    assert!(
        !hello(&server, "https", Some(trust.clone().identity(identity(&other, "north")))),
        "a stranger's"
    );
    assert!(
        !hello(&server, "https", Some(trust.identity(identity(&pki, "server")))),
        "one that is for servers"
    );
}

/// Enrols as `site` with `token`, over a connection with `identity`, and asks once; the code where one call is refused.
fn enrol(server: &Server, tls: ClientTlsConfig, site: &str, token: &str) -> Result<String, Code> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let address = format!("https://localhost:{}", server.address().port());
        let endpoint = Endpoint::from_shared(address).unwrap().tls_config(tls).unwrap();
        let mut client = FederationClient::new(endpoint.connect().await.unwrap());
        let access = match token.strip_prefix("Bearer ") {
            Some(access) => access.to_owned(),
            None => {
                let request = EnrolRequest { site: site.into(), token: token.into() };
                client.enrol(request).await.map_err(|status| status.code())?.into_inner().access_token
            }
        };
        let mut request = Request::new(AttendRequest::default());
        request.metadata_mut().insert("authorization", format!("Bearer {access}").parse().unwrap());
        client.attend(request).await.map_err(|status| status.code())?;
        Ok(format!("Bearer {access}"))
    })
}

#[test]
fn a_certificate_says_whose_tokens_work_with_it() {
    let root = tempfile::tempdir().unwrap();
    let pki = root.path().join("pki");
    authority(&pki);
    let far = "Klinik Süd 2";
    pki::issue(&pki, far, &Subject::Site).unwrap();
    let server = server(&root.path().join("server"), &pki, true);
    let with = |name: &str| {
        let own = Identity::from_pem(read(&pki, &format!("{name}.pem")), read(&pki, &format!("{name}.key")));
        ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(read(&pki, pki::CA_CERTIFICATE)))
            .identity(own)
    };
    let operator = Principal { name: "operator".into(), role: Role::Operator };
    let invite = |site: &str| server.core().invite(&operator, site, Duration::from_secs(60)).unwrap();

    let north = enrol(&server, with("north"), "north", "").expect("its certificate stands for a token");
    enrol(&server, with(far), far, "").expect("any name will do");
    assert_eq!(enrol(&server, with(far), "north", &north), Err(Code::PermissionDenied), "a stolen token");
    assert_eq!(enrol(&server, with(far), "north", ""), Err(Code::PermissionDenied), "somebody else's name");
    let invited = invite("north");
    assert_eq!(enrol(&server, with(far), "north", &invited), Err(Code::PermissionDenied), "nor with a token");
    assert_eq!(enrol(&server, with("north"), "north", &north), Ok(north.clone()), "still good");

    server.core().revoke(&operator, "north").unwrap();
    assert_eq!(enrol(&server, with("north"), "north", &north), Err(Code::Unauthenticated), "shut out");
    assert_eq!(enrol(&server, with("north"), "north", ""), Err(Code::Unauthenticated), "and stays so");
    enrol(&server, with("north"), "north", &invite("north")).expect("until it is invited again");
}

#[test]
fn keys_are_for_their_owner_only_and_an_authority_is_never_overwritten() {
    let root = tempfile::tempdir().unwrap();
    authority(root.path());
    assert!(pki::make_authority(root.path()).is_err());
    for name in ["../x", "", ".hidden", "ca", "a/b"] {
        assert!(pki::issue(root.path(), name, &Subject::Site).is_err(), "{name:?}");
    }
    #[cfg(unix)]
    for file in ["ca.key", "server.key", "north.key"] {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(root.path().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}
