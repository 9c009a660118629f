//! A site's side against a real server: what a hospital sees when networks, servers and programs break.
//!
//! Sites send unit vectors on top of the model they were given, each round and site in a slot of its own, so the last
//! model shows who was counted, and how often.

mod common;
#[path = "client/faults.rs"]
mod faults;

use std::time::{Duration, Instant};

use common::program::{ANY, Program, one_hot, open, order, serve, vector};
use common::proxy::{Fault, Proxy, Way};
use common::{operator, until};
use consilium_core::Adapter;
use consilium_federation::{Answer, Refusal, Transport, TransportError, Update, take_part};
use consilium_net::NetError;
use consilium_net::client::{ClientEvent, Credentials, STOPPED, Score, SessionStatus};
use consilium_net::server::CoreSettings;

#[test]
fn three_sites_take_part_and_each_update_counts_once() {
    let root = tempfile::tempdir().unwrap();
    let server = serve(&root.path().join("server"), ANY.parse().unwrap(), open());
    let sites = ["east", "north", "west"];
    let id = order(&server, "study", &sites, 3, 9);
    let models: Vec<Adapter> = std::thread::scope(|scope| {
        let work = |(index, site): (usize, &&'static str)| {
            let (address, folder, site, id) = (server.address(), root.path().join(site), *site, id.clone());
            scope.spawn(move || {
                let program = Program::start(address, &folder, site);
                let attended = program.remote.wait_for_session("", &mut |_| {}).unwrap();
                assert_eq!((attended.id, attended.name, attended.plan), (id, "study".into(), "{}".into()));
                assert_eq!(attended.roster, ["east", "north", "west"]);
                let mut transport = &program.remote;
                take_part(&mut transport, &mut |task, base| Ok(one_hot(task, base, 3, index))).unwrap();
                let ended = program.remote.ended().unwrap();
                assert_eq!((ended.status, ended.commits), (SessionStatus::Finished, 3));
                let score = Score { model: "base".into(), metric: "loss".into(), value: 1.5, rows: 4 };
                program.remote.report_scores(&[score]).unwrap();
                let wire = program.remote.wire();
                assert!(wire.up > 3 * 36 && wire.down > 3 * 36, "{wire:?}");
                program.remote.final_model().unwrap()
            })
        };
        let running: Vec<_> = sites.iter().enumerate().map(work).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let third = 1.0f32 / 3.0;
    for model in &models {
        let counted: Vec<f32> = model.flat().collect();
        assert!(counted.iter().all(|value| (value - third).abs() < 1e-6), "{counted:?}");
    }
    assert_eq!(models[0].sha256(), models[2].sha256());
    let scores = server.core().history("study").unwrap().scores;
    assert_eq!(scores.len(), 3);
}

#[test]
fn transfers_that_break_off_go_on_where_they_were() {
    let root = tempfile::tempdir().unwrap();
    let server = serve(&root.path().join("server"), ANY.parse().unwrap(), open());
    let width = 1_000_000;
    order(&server, "study", &["north"], 1, width);
    let wire = Proxy::to(server.address());
    let program = Program::start(wire.address(), &root.path().join("north"), "north");
    program.remote.attend("study").unwrap().unwrap();
    let mut transport = &program.remote;
    let task = transport.next_task().unwrap().unwrap();

    wire.set(Way::Down, Fault::ResetAfter(1_500_000));
    let base = transport.fetch(&task).unwrap();
    assert_eq!(wire.struck(), 1);
    let down = program.remote.wire().down;
    assert!(down < 4_000_000 + 1_000_000, "only what was missing came again: {down} bytes");

    wire.set(Way::Up, Fault::ResetAfter(2_000_000));
    let before = program.remote.wire().up;
    assert_eq!(transport.send(one_hot(&task, &base, 1, 0)).unwrap(), Answer::Accepted);
    assert_eq!(wire.struck(), 2);
    let up = program.remote.wire().up - before;
    assert!(up < 4_000_000 + 1_500_000, "only what was missing went again: {up} bytes");
    let resumed =
        |event: &ClientEvent| matches!(event, ClientEvent::ResumedUpload { offset, .. } if *offset > 0);
    assert!(program.heard(resumed), "{:?}", program.told.lock().unwrap());
    assert!(program.heard(|event| matches!(event, ClientEvent::Lost { .. })));
    assert!(transport.next_task().unwrap().is_none());
    assert_eq!(program.remote.final_model().unwrap().flat().sum::<f32>(), 1.0);
}

#[test]
fn a_restarted_server_goes_on_with_the_same_round() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("server");
    let server = serve(&folder, ANY.parse().unwrap(), open());
    let address = server.address();
    order(&server, "study", &["north"], 2, 2);
    let program = Program::start(address, &root.path().join("north"), "north");
    program.remote.attend("").unwrap().unwrap();
    let mut transport = &program.remote;
    let task = transport.next_task().unwrap().unwrap();
    let base = transport.fetch(&task).unwrap();

    drop(server);
    let restart = {
        let folder = folder.clone();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(700));
            serve(&folder, address, open())
        })
    };
    assert_eq!(transport.send(one_hot(&task, &base, 1, 0)).unwrap(), Answer::Accepted);
    let server = restart.join().unwrap();
    assert!(program.heard(|event| matches!(event, ClientEvent::Retrying { .. })));

    let task = transport.next_task().unwrap().unwrap();
    assert_eq!(task.round, 2);
    drop(server);
    let _server = serve(&folder, address, open());
    let base = transport.fetch(&task).unwrap();
    assert_eq!(transport.send(one_hot(&task, &base, 1, 0)).unwrap(), Answer::Accepted);
    assert!(transport.next_task().unwrap().is_none());
    assert_eq!(program.remote.final_model().unwrap().flat().collect::<Vec<_>>(), [1.0, 1.0]);
}

#[test]
fn an_update_that_was_finished_survives_the_death_of_both_sides() {
    let root = tempfile::tempdir().unwrap();
    let (folder, home) = (root.path().join("server"), root.path().join("north"));
    let server = serve(&folder, ANY.parse().unwrap(), open());
    let address = server.address();
    order(&server, "study", &["north"], 1, 1);
    {
        let program = Program::start(address, &home, "north");
        program.remote.attend("").unwrap().unwrap();
        let mut transport = &program.remote;
        let task = transport.next_task().unwrap().unwrap();
        let base = transport.fetch(&task).unwrap();
        drop(server);
        let stop = program.stop.clone();
        let raise = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            stop.raise();
        });
        let sent = transport.send(one_hot(&task, &base, 1, 0));
        assert_eq!(sent, Err(TransportError(STOPPED.into())));
        raise.join().unwrap();
    }
    let _server = serve(&folder, address, open());
    let program = Program::start(address, &home, "north");
    program.remote.attend("").unwrap().unwrap();
    let mut transport = &program.remote;
    assert!(transport.next_task().unwrap().is_none(), "nothing is trained again");
    let delivered = ClientEvent::Delivered { round: 1, outcome: "accepted".into() };
    assert!(program.heard(|event| *event == delivered), "{:?}", program.told.lock().unwrap());
    assert_eq!(program.remote.final_model().unwrap().flat().collect::<Vec<_>>(), [1.0]);
    assert_eq!(std::fs::read_dir(home.join("outbox")).unwrap().count(), 0);
}

#[test]
fn a_second_update_and_a_bad_one_are_told_apart() {
    let root = tempfile::tempdir().unwrap();
    let server = serve(&root.path().join("server"), ANY.parse().unwrap(), open());
    order(&server, "study", &["north", "south"], 1, 2);
    let [north, south] = ["north", "south"].map(|site| {
        let program = Program::start(server.address(), &root.path().join(site), site);
        program.remote.attend("").unwrap().unwrap();
        program
    });
    let mut transport = &north.remote;
    let task = transport.next_task().unwrap().unwrap();
    let base = transport.fetch(&task).unwrap();
    let update = one_hot(&task, &base, 2, 0);
    let early = Update { round: 2, ..update.clone() };
    assert_eq!(transport.send(early).unwrap(), Answer::Refused(Refusal::Early));
    let stale = Update { base_sha256: "other".into(), ..update.clone() };
    assert_eq!(transport.send(stale).unwrap(), Answer::Refused(Refusal::Stale));
    assert_eq!(transport.send(update.clone()).unwrap(), Answer::Accepted);
    assert_eq!(transport.send(update).unwrap(), Answer::Refused(Refusal::Duplicate));

    let mut transport = &south.remote;
    let task = transport.next_task().unwrap().unwrap();
    let huge = Update { adapter: vector(vec![1e9, 0.0]), ..one_hot(&task, &base, 2, 1) };
    let message = transport.send(huge).unwrap_err().0;
    assert!(message.contains("magnitude") && message.contains("round 1"), "{message}");
    let larger = Update { adapter: vector(vec![0.0; 100_000]), ..one_hot(&task, &base, 2, 1) };
    let message = transport.send(larger).unwrap_err().0;
    assert!(message.contains("size") && message.contains("bytes"), "{message}");
    assert_eq!(std::fs::read_dir(root.path().join("south/outbox")).unwrap().count(), 0, "answered is gone");
}

#[test]
fn another_server_at_the_same_address_is_not_trusted() {
    let root = tempfile::tempdir().unwrap();
    let home = root.path().join("north");
    let server = serve(&root.path().join("one"), ANY.parse().unwrap(), open());
    let address = server.address();
    drop(Program::start(address, &home, "north"));
    drop(Program::start(address, &home, "north"));
    drop(server);
    let _other = serve(&root.path().join("two"), address, open());
    let error = Program::with_token(address, &home, "north", None).err().unwrap();
    assert!(matches!(error, NetError::Untrusted(_)), "{error}");
    assert!(error.to_string().contains("credentials.json"), "{error}");
}

#[test]
fn an_expired_token_is_renewed_and_a_revoked_site_is_told() {
    let root = tempfile::tempdir().unwrap();
    let home = root.path().join("north");
    let settings = CoreSettings { access_life: Duration::from_secs(1), ..open() };
    let server = serve(&root.path().join("server"), ANY.parse().unwrap(), settings);
    order(&server, "study", &["north"], 1, 1);
    let program = Program::start(server.address(), &home, "north");
    let kept = || Credentials::load(&home.join("credentials.json")).unwrap().unwrap();
    let before = kept();
    std::thread::sleep(Duration::from_millis(1200));
    assert!(program.remote.attend("").unwrap().is_some());
    assert!(program.heard(|event| *event == ClientEvent::Refreshed));
    assert_ne!(before.access_token, kept().access_token);
    assert_ne!(before.refresh_token, kept().refresh_token);
    assert_eq!(before.server_key, kept().server_key);

    server.core().revoke(&operator(), "north").unwrap();
    let error = program.remote.attend("").err().unwrap();
    assert!(matches!(error, NetError::Unauthenticated(_)), "{error}");
    assert!(error.to_string().contains("ask its operator"), "{error}");
}

#[test]
fn a_waiting_site_that_is_shut_out_hears_it_at_once() {
    let root = tempfile::tempdir().unwrap();
    let server = serve(&root.path().join("server"), ANY.parse().unwrap(), open());
    order(&server, "study", &["north", "south"], 1, 2);
    let program = Program::start(server.address(), &root.path().join("north"), "north");
    program.remote.attend("").unwrap().unwrap();
    let waiting = std::thread::spawn(move || (&program.remote).next_task());
    std::thread::sleep(Duration::from_millis(300));
    assert!(!waiting.is_finished(), "it waits for south");
    let started = Instant::now();
    server.core().revoke(&operator(), "north").unwrap();
    let message = waiting.join().unwrap().unwrap_err().0;
    assert!(message.contains("ask its operator"), "{message}");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[test]
fn an_enrolment_token_makes_one_site_once() {
    let root = tempfile::tempdir().unwrap();
    let server = serve(&root.path().join("server"), ANY.parse().unwrap(), CoreSettings::default());
    let hour = Duration::from_secs(3600);
    let token = server.core().invite(&operator(), "north", hour).unwrap();
    let address = server.address();
    let enrol = |folder: &str, site: &str, token: Option<&str>| {
        Program::with_token(address, &root.path().join(folder), site, token)
    };
    assert!(
        matches!(enrol("a", "north", None).err(), Some(NetError::Unauthenticated(_))),
        "a token is needed"
    );
    assert!(matches!(enrol("a", "south", Some(&token)).err(), Some(NetError::Denied(_))), "not its token");
    let program = enrol("a", "north", Some(&token)).unwrap();
    assert!(!program.remote.server().open_enrolment);
    assert!(
        matches!(enrol("a", "north", None).err(), Some(NetError::Unavailable(_))),
        "the folder is in use"
    );
    drop(program);
    assert!(matches!(enrol("b", "north", Some(&token)).err(), Some(NetError::Unauthenticated(_))), "used up");
    assert!(matches!(enrol("a", "south", None).err(), Some(NetError::Invalid(_))), "another site's folder");

    server.core().revoke(&operator(), "north").unwrap();
    let token = server.core().invite(&operator(), "north", hour).unwrap();
    let program = enrol("a", "north", Some(&token)).unwrap();
    assert!(program.remote.attend("").unwrap().is_none(), "a new invitation lets a site in again");
}

#[test]
fn a_second_program_of_the_same_site_takes_over() {
    let root = tempfile::tempdir().unwrap();
    let server = serve(&root.path().join("server"), ANY.parse().unwrap(), open());
    order(&server, "study", &["north", "south"], 1, 2);
    let first = Program::start(server.address(), &root.path().join("first"), "north");
    let second = Program::start(server.address(), &root.path().join("second"), "north");
    first.remote.attend("").unwrap().unwrap();
    second.remote.attend("").unwrap().unwrap();
    let stop = second.stop.clone();
    let waiting = std::thread::spawn(move || (&first.remote).next_task());
    std::thread::sleep(Duration::from_millis(300));
    let newer = std::thread::spawn(move || (&second.remote).next_task());
    let message = waiting.join().unwrap().unwrap_err().0;
    assert!(message.contains("took over"), "{message}");
    stop.raise();
    let start = Instant::now();
    assert_eq!(newer.join().unwrap(), Err(TransportError(STOPPED.into())));
    assert!(start.elapsed() < Duration::from_secs(1), "a raised flag ends a wait at once");
}

#[test]
fn a_failure_and_a_farewell_end_the_waiting_for_a_site() {
    let root = tempfile::tempdir().unwrap();
    let server = serve(&root.path().join("server"), ANY.parse().unwrap(), open());
    order(&server, "study", &["north"], 2, 2);
    let program = Program::start(server.address(), &root.path().join("north"), "north");
    program.remote.attend("").unwrap().unwrap();
    let mut transport = &program.remote;
    let task = transport.next_task().unwrap().unwrap();
    transport.report_failure(task.round, "out of memory").unwrap();
    assert_eq!(transport.next_task().unwrap().unwrap().round, 2);
    program.stop.raise();
    program.remote.leave().unwrap();
    until("the session ends", || server.core().session("study").unwrap().status.is_over());
    let rounds = server.core().history("study").unwrap().rounds;
    assert_eq!(rounds[0].reasons["north"], "out of memory");
    assert_eq!(rounds[1].reasons["north"], "the site left");
}

#[test]
fn a_site_waits_for_a_server_and_a_session_that_are_not_there_yet() {
    let root = tempfile::tempdir().unwrap();
    let address = {
        let listener = std::net::TcpListener::bind(ANY).unwrap();
        listener.local_addr().unwrap()
    };
    let folder = root.path().join("server");
    let serving = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(500));
        serve(&folder, address, open())
    });
    let program = Program::start(address, &root.path().join("north"), "north");
    let server = serving.join().unwrap();
    assert!(program.heard(|event| matches!(event, ClientEvent::Retrying { .. })));
    let mut told = Vec::new();
    let waited = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(500));
            order(&server, "study", &["north"], 1, 1);
        });
        program.remote.wait_for_session("study", &mut |why| told.push(why.to_owned())).unwrap()
    });
    assert_eq!(waited.name, "study");
    assert_eq!(told.len(), 1, "{told:?}");
}
