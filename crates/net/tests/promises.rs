//! What a server promises about rounds, restarts and credentials, seen from its public face.

mod common;

use std::time::{Duration, Instant};

use common::{Site, adapter, operator, order, spec, start, until};
use consilium_core::npz;
use consilium_net::NetError;
use consilium_net::server::store::Status;
use consilium_net::server::uploads::Outcome;
use consilium_net::server::{Principal, Server, SessionSpec};

fn model(server: &Server, session: &str) -> consilium_core::Adapter {
    let view = server.core().session(session).unwrap();
    let archive = server.core().model_piece(&view.model.archive, 0, 1 << 20).unwrap();
    npz::decode(&archive, &adapter(0.0).schema()).unwrap()
}

#[test]
fn an_accepted_update_survives_a_restart_and_the_session_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    let session = order(&server, spec("s", &["a", "b"], 2, 2, 600.0));
    let [a, b] = ["a", "b"].map(|name| Site::attend(&server, &session, name));
    let task = a.task();
    assert_eq!(a.send(&task, &adapter(1.0)).unwrap(), Outcome::Accepted);
    let (me, other) = (a.me.clone(), b.me.clone());
    drop((a, b, server));

    let server = start(folder.path());
    let again =
        |me: &Principal| Site { core: server.core().clone(), session: session.clone(), me: me.clone() };
    let (a, b) = (again(&me), again(&other));
    assert_eq!(a.send(&task, &adapter(1.0)).unwrap(), Outcome::Duplicate, "it is still known");
    assert_eq!(b.task().correlation_id(), b.task().correlation_id());
    b.send(&b.task(), &adapter(3.0)).unwrap();
    for (site, value) in [(&a, 5.0), (&b, 7.0)] {
        let task = site.task();
        assert_eq!(task.task.round, 2);
        site.send(&task, &adapter(value)).unwrap();
    }
    until("the end", || server.core().session(&session).unwrap().status == Status::Finished);
    assert_eq!(model(&server, &session), adapter(6.0));
    drop((a, b, server));
    let server = start(folder.path());
    assert_eq!(model(&server, &session), adapter(6.0), "a finished session stays");
    assert!(server.core().audit().unwrap().len() > 8);
}

#[test]
fn two_servers_do_not_share_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let _first = start(folder.path());
    let options = consilium_net::server::ServeOptions {
        folder: folder.path().to_owned(),
        listen: "127.0.0.1:0".parse().unwrap(),
        settings: Default::default(),
        tls: None,
    };
    assert!(matches!(Server::start(options), Err(NetError::Unavailable(_))));
}

#[test]
fn a_round_ends_at_its_deadline_with_quorum_and_without() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    let session = order(&server, spec("s", &["a", "b", "c"], 2, 2, 1.5));
    let [a, b, c] = ["a", "b", "c"].map(|name| Site::attend(&server, &session, name));
    let began = Instant::now();
    a.send(&a.task(), &adapter(1.0)).unwrap();
    b.send(&b.task(), &adapter(3.0)).unwrap();
    // c is dead: the round commits without it, not later than two seconds after the deadline.
    until("round 2", || server.core().session(&session).unwrap().round == 2);
    let took = began.elapsed();
    assert!(took < Duration::from_millis(3_500), "{took:?}");
    assert_eq!(model(&server, &session), adapter(2.0));
    // It comes back and has its task at once.
    assert_eq!(c.task().task.round, 2);
    c.send(&c.task(), &adapter(9.0)).unwrap();
    until("the end", || server.core().session(&session).unwrap().status == Status::Finished);
    assert_eq!(model(&server, &session), adapter(2.0), "one update is no quorum");
    let rounds = server.core().history(&session).unwrap().rounds;
    assert_eq!(rounds.iter().map(|r| r.committed).collect::<Vec<_>>(), [true, false]);
    assert!(rounds[0].reasons["c"].contains("deadline"), "{:?}", rounds[0].reasons);
    assert!(matches!(a.send(&c_task(&a, 2), &adapter(1.0)), Ok(Outcome::Late)));
}

/// A manifest that `site` no longer gets, for a round that is over.
fn c_task(site: &Site, round: u32) -> consilium_net::manifest::Manifest {
    consilium_net::manifest::Manifest {
        protocol: consilium_net::manifest::PROTOCOL,
        session: site.session.clone(),
        site: site.me.name.clone(),
        roster: Vec::new(),
        deadline_ms: 0,
        task: common::spec("x", &["a"], 2, 1, 1.0).task(round, "m"),
        archive_sha256: String::new(),
    }
}

#[test]
fn a_stopped_session_gives_no_tasks_until_it_is_continued() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    let session = order(&server, spec("s", &["a", "b"], 1, 2, 600.0));
    let [a, b] = ["a", "b"].map(|name| Site::attend(&server, &session, name));
    let task = a.task();
    assert_eq!(a.send(&task, &adapter(1.0)).unwrap(), Outcome::Accepted);
    server.core().stop_session(&operator(), "s").unwrap();
    assert_eq!(b.send(&task_of(&task, "b"), &adapter(1.0)).unwrap(), Outcome::Late);
    assert!(server.core().stop_session(&operator(), "s").is_err(), "it is stopped already");
    server.core().continue_session(&operator(), "s").unwrap();
    b.send(&b.task(), &adapter(3.0)).unwrap();
    until("the end", || server.core().session(&session).unwrap().status == Status::Finished);
    assert_eq!(model(&server, &session), adapter(2.0), "what was accepted before still counts");
}

fn task_of(task: &consilium_net::manifest::Manifest, site: &str) -> consilium_net::manifest::Manifest {
    consilium_net::manifest::Manifest { site: site.into(), ..task.clone() }
}

#[test]
fn tokens_are_single_use_bound_to_a_site_and_die_when_it_is_revoked() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    let core = server.core();
    let hour = Duration::from_secs(3600);
    let token = core.invite(&operator(), "north", hour).unwrap();
    assert!(matches!(core.enrol("south", &token), Err(NetError::Denied(_))), "it is for north");
    let tokens = core.enrol("north", &token).unwrap();
    assert!(matches!(core.enrol("north", &token), Err(NetError::Unauthenticated(_))), "used");
    assert_eq!(core.authenticate(&tokens.access).unwrap().name, "north");
    for wrong in [tokens.refresh.as_str(), token.as_str(), "", "nonsense"] {
        assert!(matches!(core.authenticate(wrong), Err(NetError::Unauthenticated(_))));
    }
    assert!(matches!(core.refresh(&tokens.access), Err(NetError::Unauthenticated(_))));
    let next = core.refresh(&tokens.refresh).unwrap();
    assert_eq!(core.authenticate(&next.access).unwrap().name, "north");
    core.revoke(&operator(), "north").unwrap();
    for dead in [&tokens.access, &next.access] {
        assert!(matches!(core.authenticate(dead), Err(NetError::Unauthenticated(_))));
    }
    assert!(matches!(core.refresh(&next.refresh), Err(NetError::Unauthenticated(_))));
    let expired = core.invite(&operator(), "east", Duration::ZERO).unwrap();
    assert!(matches!(core.enrol("east", &expired), Err(NetError::Unauthenticated(_))));
    // Nothing that was handed out can be read out of the server's files.
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap_or_default();
        for secret in [&tokens.access, &tokens.refresh, &next.access, &token] {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()));
        }
    }
}

#[test]
fn single_updates_are_gone_once_their_round_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    let session = order(&server, spec("s", &["a", "b"], 2, 2, 600.0));
    let [a, b] = ["a", "b"].map(|name| Site::attend(&server, &session, name));
    let kept = |value| {
        let archive = npz::encode(&adapter(value));
        server.core().model_piece(&consilium_core::hash::sha256_hex(&archive), 0, 1).is_ok()
    };
    a.send(&a.task(), &adapter(1.0)).unwrap();
    assert!(kept(1.0), "it is needed until the round is folded");
    b.send(&b.task(), &adapter(3.0)).unwrap();
    until("round 2", || server.core().session(&session).unwrap().round == 2);
    assert!(!kept(1.0) && !kept(3.0), "both are gone");
    assert!(kept(2.0), "the model stays");
    // An update that is the same as the model of another round stays as that model.
    a.send(&a.task(), &adapter(2.0)).unwrap();
    b.send(&b.task(), &adapter(6.0)).unwrap();
    until("the end", || server.core().session(&session).unwrap().status == Status::Finished);
    assert!(kept(2.0) && kept(4.0) && !kept(6.0));
}

#[test]
fn a_session_starts_from_an_uploaded_model_or_from_an_earlier_session() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    let (core, schema) = (server.core(), adapter(0.0).schema());
    let archive = npz::encode(&adapter(7.0));
    let uploaded = core.upload_model(&operator(), "spring", &schema, &archive).unwrap();
    assert_eq!(uploaded.adapter, adapter(7.0).sha256());
    let taken = core.upload_model(&operator(), "spring", &schema, &npz::encode(&adapter(8.0)));
    assert!(matches!(taken, Err(NetError::Invalid(_))), "{taken:?}");
    assert!(core.upload_model(&operator(), "broken", &schema, &archive[..100]).is_err());
    for extent in [usize::MAX, 1 << 40] {
        let huge = vec![("a".to_owned(), vec![extent, 3]), ("b".to_owned(), vec![4])];
        assert!(matches!(core.upload_model(&operator(), "huge", &huge, &archive), Err(NetError::Invalid(_))));
        let order = SessionSpec { schema: huge, ..spec("huge", &["a"], 1, 1, 600.0) };
        assert!(matches!(core.order(&operator(), order, &archive), Err(NetError::Invalid(_))));
    }

    let one = core.order_from(&operator(), spec("one", &["a"], 1, 1, 600.0), "spring").unwrap();
    let site = Site::attend(&server, &one, "a");
    assert_eq!(site.task().task.base_sha256, adapter(7.0).sha256());
    site.send(&site.task(), &adapter(9.0)).unwrap();
    until("the end", || core.session(&one).unwrap().status == Status::Finished);
    let two = core.order_from(&operator(), spec("two", &["a"], 1, 1, 600.0), "one").unwrap();
    assert_eq!(model(&server, &two), adapter(9.0), "what the session before it ended with");
    assert_eq!(core.session(&two).unwrap().seed.adapter, adapter(9.0).sha256());
    let nothing = core.order_from(&operator(), spec("three", &["a"], 1, 1, 600.0), "nothing");
    assert!(matches!(nothing, Err(NetError::NotFound { .. })), "{nothing:?}");

    // Its content is another round's update too, and outlives that round.
    let site = Site::attend(&server, &two, "a");
    site.send(&site.task(), &adapter(7.0)).unwrap();
    until("the end", || core.session(&two).unwrap().status == Status::Finished);
    drop((site, server));
    let server = start(folder.path());
    assert_eq!(server.core().library().unwrap()[..], *std::slice::from_ref(&uploaded));
    assert_eq!(server.core().model_piece(&uploaded.archive, 0, usize::MAX).unwrap(), archive);
    let shown = server.core().site("a").unwrap();
    let parts: Vec<(&str, &[u32])> =
        shown.sessions.iter().map(|part| (part.session.as_str(), &part.counted[..])).collect();
    assert_eq!(parts, [("one", &[1][..]), ("two", &[1][..])]);
}
