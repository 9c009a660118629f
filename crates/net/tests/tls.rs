//! Encryption with a private authority: who has its certificates gets in, and nobody else.

mod common;

use std::path::Path;

use consilium_net::pki::{self, Subject};
use consilium_net::proto::HelloRequest;
use consilium_net::proto::federation_client::FederationClient;
use consilium_net::server::tls::TlsFiles;
use consilium_net::server::{CoreSettings, ServeOptions, Server};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

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
