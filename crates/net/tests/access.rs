//! Who may do what: every RPC and every route, with every kind of credential that is not the right one.

mod common;

use std::time::Duration;

use common::{Site, operator, order, spec, start};
use consilium_net::proto::Acknowledgement;
use consilium_net::server::Server;
use consilium_net::server::http::ROUTES;
use consilium_net::server::store::Role;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request};

const PROTO: &str = include_str!("../proto/consilium/v1/federation.proto");

/// Who may call what. An RPC that is missing here fails the test.
const RPCS: [(&str, Option<Role>); 12] = [
    ("Hello", None),
    ("Enrol", None),
    ("Refresh", None),
    ("Attend", Some(Role::Site)),
    ("NextTask", Some(Role::Site)),
    ("DownloadModel", Some(Role::Site)),
    ("BeginUpload", Some(Role::Site)),
    ("Upload", Some(Role::Site)),
    ("Submit", Some(Role::Site)),
    ("ReportFailure", Some(Role::Site)),
    ("ReportScores", Some(Role::Site)),
    ("Leave", Some(Role::Site)),
];

/// Calls an RPC with an empty message, which every message type can be read from.
fn call(server: &Server, rpc: &str, authorization: Option<&str>) -> Code {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let channel =
            tonic::transport::Endpoint::from_shared(format!("http://{}", server.address())).unwrap();
        let mut client = tonic::client::Grpc::new(channel.connect().await.unwrap());
        client.ready().await.unwrap();
        let mut request = Request::new(Acknowledgement {});
        if let Some(value) = authorization {
            request.metadata_mut().insert("authorization", value.parse().unwrap());
        }
        let path = PathAndQuery::try_from(format!("/consilium.v1.Federation/{rpc}")).unwrap();
        let codec = tonic_prost::ProstCodec::<Acknowledgement, Acknowledgement>::default();
        match client.unary(request, path, codec).await {
            Ok(_) => Code::Ok,
            Err(status) => status.code(),
        }
    })
}

fn http(server: &Server, method: &str, path: &str, authorization: Option<&str>) -> u16 {
    let path = path.replace("{name}", "nobody").replace("{session}", "none").replace("{archive}", "none");
    let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
    let mut request =
        ureq::http::Request::builder().method(method).uri(format!("http://{}{path}", server.address()));
    if let Some(value) = authorization {
        request = request.header("authorization", value);
    }
    let body = if method == "POST" { "{}" } else { "" };
    agent.run(request.body(body).unwrap()).unwrap().status().as_u16()
}

struct Tokens {
    site: String,
    operator: String,
    viewer: String,
    /// What is worth nothing: expired, for another purpose, revoked, malformed.
    bad: Vec<String>,
}

fn tokens(server: &Server) -> Tokens {
    let core = server.core();
    let hour = Duration::from_secs(3600);
    let (site, gone) = (core.enrol("north", "").unwrap(), core.enrol("gone", "").unwrap());
    core.revoke(&operator(), "gone").unwrap();
    let bearer = |token: &str| format!("Bearer {token}");
    Tokens {
        site: bearer(&site.access),
        operator: bearer(&core.staff_token("operator", Role::Operator, hour).unwrap()),
        viewer: bearer(&core.staff_token("viewer", Role::Viewer, hour).unwrap()),
        bad: vec![
            bearer(&core.staff_token("late", Role::Operator, Duration::ZERO).unwrap()),
            bearer(&site.refresh),
            bearer(&core.invite(&operator(), "east", hour).unwrap()),
            bearer(&gone.access),
            bearer("None"),
            bearer(""),
            site.access.clone(),
            format!("Basic {}", site.access),
            format!("bearer{}", site.access),
        ],
    }
}

#[test]
fn every_rpc_has_a_policy_and_keeps_it() {
    let declared: Vec<&str> =
        PROTO.lines().filter_map(|line| line.trim().strip_prefix("rpc ")?.split('(').next()).collect();
    assert_eq!(declared, RPCS.map(|(name, _)| name), "an RPC without a policy");
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    let tokens = tokens(&server);
    for (rpc, role) in RPCS {
        for bad in tokens.bad.iter().map(String::as_str).map(Some).chain([None]) {
            let code = call(&server, rpc, bad);
            let refused = code == Code::Unauthenticated;
            // Enrol and Refresh have tokens of their own, in the message; an empty one is none.
            assert!(refused || role.is_none(), "{rpc} with {bad:?}: {code:?}");
        }
        if role.is_some() {
            assert_eq!(call(&server, rpc, Some(&tokens.operator)), Code::PermissionDenied, "{rpc}");
            assert_eq!(call(&server, rpc, Some(&tokens.viewer)), Code::PermissionDenied, "{rpc}");
            let own = call(&server, rpc, Some(&tokens.site));
            assert!(!matches!(own, Code::Unauthenticated | Code::PermissionDenied), "{rpc}: {own:?}");
        }
    }
}

#[test]
fn every_route_keeps_its_policy() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    let tokens = tokens(&server);
    for route in ROUTES.iter().filter(|route| route.path != "/v1/events") {
        let status = |token: Option<&str>| http(&server, route.method, route.path, token);
        let name = format!("{} {}", route.method, route.path);
        let Some(role) = route.role else {
            assert_eq!(status(None), 200, "{name}");
            continue;
        };
        for bad in tokens.bad.iter().map(String::as_str).map(Some).chain([None]) {
            assert_eq!(status(bad), 401, "{name} with {bad:?}");
        }
        assert_eq!(status(Some(&tokens.site)), 403, "{name}: a site has no business here");
        assert!(!matches!(status(Some(&tokens.operator)), 401 | 403), "{name}");
        let viewer = status(Some(&tokens.viewer));
        match role {
            Role::Operator => assert_eq!(viewer, 403, "{name}"),
            _ => assert!(!matches!(viewer, 401 | 403), "{name}: {viewer}"),
        }
    }
}

#[test]
fn a_site_of_another_session_gets_nothing_of_this_one() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    let mine = order(&server, spec("mine", &["a", "b"], 1, 2, 600.0));
    let theirs = order(&server, spec("theirs", &["c"], 1, 1, 600.0));
    let (_a, _b) = (Site::attend(&server, &mine, "a"), Site::attend(&server, &mine, "b"));
    let mut stranger = Site::attend(&server, &theirs, "c");
    let task = stranger.task();
    stranger.session = mine.clone();
    let core = server.core();
    let archive = core.session(&mine).unwrap().model.archive;
    assert!(core.attend(&stranger.me, "mine").is_err());
    assert!(core.next_task(&stranger.me, &mine).is_err());
    assert!(core.model(&stranger.me, &mine, &archive).is_err());
    assert!(stranger.upload(1, b"x").is_err());
    assert!(core.report_scores(&stranger.me, &mine, &[]).is_err());
    let outcome = core.submit(&stranger.me, &stranger.submission(&task, &"0".repeat(64))).unwrap();
    assert_eq!(outcome.word(), "foreign");
    core.report_failure(&stranger.me, &mine, 1, "mischief").unwrap();
    assert_eq!(core.session(&mine).unwrap().awaited, ["a", "b"], "nothing has happened to the others");
}
