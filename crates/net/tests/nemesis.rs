//! A session through a network that does its worst: every update still counts exactly once, and nobody waits for ever.

mod common;

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use common::program::{ANY, Program, one_hot, open, order, serve, vector};
use common::proxy::{Fault, Proxy, Way};
use common::{operator, spec};
use consilium_core::npz;
use consilium_federation::{Answer, Transport, Weights, take_part};
use consilium_net::client::ClientEvent;
use consilium_net::server::{Server, SessionSpec};

/// Serves in `folder`.
fn server(folder: &Path) -> Server {
    serve(&folder.join("server"), ANY.parse().unwrap(), open())
}

/// Takes part from the first task to the last.
fn work(address: SocketAddr, folder: &Path, site: &str, sites: usize, index: usize) -> Program {
    let program = Program::start(address, &folder.join(site), site);
    program.remote.attend("").unwrap().unwrap();
    take_part(&mut &program.remote, &mut |task, base| Ok(one_hot(task, base, sites, index))).unwrap();
    program
}

/// What happens to a connection, by name: at once or before a round's upload, and what undoes it after a while.
type Trial = (&'static str, fn(&Proxy, u32));

/// Bytes of an update in the trials, about: the middle of a transfer lies at half of it.
const WIDTH: usize = 30_000;
const HALF: usize = WIDTH * 2;
const MS: fn(u64) -> Duration = Duration::from_millis;

const TRIALS: [Trial; 9] = [
    ("latency", |proxy, _| proxy.set_both(Fault::Latency(MS(20)))),
    ("slices", |proxy, _| proxy.set_both(Fault::Slices(150))),
    ("reset in an upload", |proxy, _| proxy.set(Way::Up, Fault::ResetAfter(HALF))),
    ("reset in a download", |proxy, _| proxy.set(Way::Down, Fault::ResetAfter(HALF))),
    ("reset in a head", |proxy, round| proxy.set_both(Fault::ResetAfter(5 + 40 * round as usize))),
    ("half close up", |proxy, _| proxy.set(Way::Up, Fault::CloseAfter(HALF))),
    ("half close down", |proxy, _| proxy.set(Way::Down, Fault::CloseAfter(HALF))),
    ("blackhole up", |proxy, round| proxy.set(Way::Up, once(round, Fault::Swallow))),
    ("blackhole down", |proxy, round| proxy.set(Way::Down, once(round, Fault::Swallow))),
];

/// A fault that costs 20 seconds of unanswered pings is enough in one round.
fn once(round: u32, fault: Fault) -> Fault {
    if round == 2 { fault } else { Fault::None }
}

#[test]
fn a_session_outlives_whatever_a_network_does() {
    const ROUNDS: u32 = 3;
    std::thread::scope(|scope| {
        for (name, fault) in TRIALS {
            scope.spawn(move || {
                let root = tempfile::tempdir().unwrap();
                let server = server(root.path());
                order(&server, "study", &["north", "south"], ROUNDS, WIDTH);
                let proxy = Proxy::to(server.address());
                std::thread::scope(|scope| {
                    scope.spawn(|| work(server.address(), root.path(), "south", 2, 1));
                    let program = Program::start(proxy.address(), &root.path().join("north"), "north");
                    program.remote.attend("").unwrap().unwrap();
                    take_part(&mut &program.remote, &mut |task, base| {
                        fault(&proxy, task.round);
                        if name.starts_with("blackhole") {
                            // The way is free again for new connections, long before the old one is given up.
                            let trouble = &proxy;
                            scope.spawn(move || {
                                std::thread::sleep(MS(1500));
                                trouble.set_both(Fault::None);
                            });
                        }
                        Ok(one_hot(task, base, 2, 0))
                    })
                    .unwrap();
                    let model = program.remote.final_model().unwrap();
                    let counted: Vec<f32> = model.flat().take(6).collect();
                    assert_eq!(counted, [0.5; 6], "{name}: every update once");
                    assert_eq!(model.flat().sum::<f32>(), 3.0, "{name}: and nothing else");
                    let lost = program.heard(|event| matches!(event, ClientEvent::Lost { .. }));
                    assert_eq!(lost, !matches!(name, "latency" | "slices"), "{name}");
                    if name.starts_with("reset") || name.starts_with("half") {
                        assert!(proxy.struck() >= 2, "{name}: {} times", proxy.struck());
                    }
                });
            });
        }
    });
}

#[test]
fn a_connection_that_stands_still_for_a_while_goes_on() {
    let root = tempfile::tempdir().unwrap();
    let server = server(root.path());
    order(&server, "study", &["north"], 1, 1_000_000);
    let proxy = Proxy::to(server.address());
    let program = Program::start(proxy.address(), &root.path().join("north"), "north");
    program.remote.attend("").unwrap().unwrap();
    let mut transport = &program.remote;
    let task = transport.next_task().unwrap().unwrap();
    let base = transport.fetch(&task).unwrap();
    proxy.set_both(Fault::Freeze);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_secs(3));
            proxy.set_both(Fault::None);
        });
        let started = Instant::now();
        assert_eq!(transport.send(one_hot(&task, &base, 1, 0)).unwrap(), Answer::Accepted);
        assert!(started.elapsed() >= Duration::from_secs(3), "it did stand still");
    });
}

/// How a site dies.
#[derive(Clone, Copy, Debug)]
enum Death {
    /// Its program ends, and with it the connection.
    Killed,
    /// Its program stands still and its connection stays.
    Stopped,
    /// Its packets vanish both ways.
    Blackholed,
}

#[test]
fn two_dead_of_five_delay_a_round_to_its_deadline_and_no_longer() {
    const DEADLINE_S: f64 = 3.0;
    const LIVING: [&str; 3] = ["a", "b", "c"];
    let deaths = [[Death::Killed, Death::Stopped], [Death::Stopped, Death::Blackholed]];
    std::thread::scope(|scope| {
        for pair in deaths {
            scope.spawn(move || {
                let root = tempfile::tempdir().unwrap();
                let server = server(root.path());
                let seed = vector(vec![0.0; 10]);
                let sites = ["a", "b", "c", "d", "e"];
                let spec = SessionSpec {
                    weights: Weights::Uniform,
                    schema: seed.schema(),
                    ..spec("study", &sites, 2, 3, DEADLINE_S)
                };
                server.core().order(&operator(), spec, &npz::encode(&seed)).unwrap();
                let address = server.address();
                std::thread::scope(|scope| {
                    for (index, site) in LIVING.into_iter().enumerate() {
                        let folder = root.path();
                        scope.spawn(move || work(address, folder, site, 5, index));
                    }
                    let dying: Vec<_> = ["d", "e"]
                        .into_iter()
                        .map(|site| {
                            let proxy = Proxy::to(address);
                            let program = Program::start(proxy.address(), &root.path().join(site), site);
                            program.remote.attend("").unwrap().unwrap();
                            (proxy, program)
                        })
                        .collect();
                    let mut corpses = Vec::new();
                    for ((proxy, program), death) in dying.into_iter().zip(pair) {
                        assert_eq!((&program.remote).next_task().unwrap().unwrap().round, 1);
                        match death {
                            Death::Killed => drop(program),
                            Death::Stopped => {
                                proxy.set_both(Fault::Freeze);
                                corpses.push(program);
                            }
                            Death::Blackholed => {
                                proxy.swallow_open_connections();
                                proxy.set_both(Fault::Swallow);
                                corpses.push(program);
                            }
                        }
                        std::mem::forget(proxy);
                    }
                    drop(corpses);
                });
                let rounds = server.core().history("study").unwrap().rounds;
                assert_eq!(rounds.len(), 2);
                for round in rounds {
                    let counted: Vec<&str> = round.accepted.iter().map(|c| c.site.as_str()).collect();
                    assert!(round.committed && counted == LIVING, "{pair:?}: {counted:?}");
                    let took = round.took.as_secs_f64();
                    assert!((DEADLINE_S..=DEADLINE_S + 2.0).contains(&took), "{pair:?}: {took} s");
                }
            });
        }
    });
}

/// How a site's program vanishes without a word, over and over.
fn vanish(program: Program, proxy: &Proxy, times: usize) {
    match times % 3 {
        // Its machine is gone: the server has a connection on which nothing comes, not even an end.
        0 => {
            proxy.swallow_open_connections();
            drop(program);
        }
        // A firewall has forgotten the connection.
        1 => {
            proxy.reset_open_connections();
            drop(program);
        }
        _ => vanish_waiting(program, proxy),
    }
    // The oldest of the dead go, so that a thousand of them need no thousand file handles.
    if times.is_multiple_of(12) {
        proxy.reset_open_connections();
    }
}

/// It vanishes while it asks for a task.
fn vanish_waiting(program: Program, proxy: &Proxy) {
    let stop = program.stop.clone();
    let waiting = std::thread::spawn(move || drop((&program.remote).next_task()));
    std::thread::sleep(MS(3));
    proxy.swallow_open_connections();
    stop.raise();
    waiting.join().unwrap();
}

#[test]
fn none_of_a_thousand_reconnects_loses_a_task() {
    const SITES: [&str; 4] = ["east", "north", "south", "west"];
    const ROUNDS: u32 = 50;
    const EACH: usize = 5;
    let root = tempfile::tempdir().unwrap();
    let server = server(root.path());
    order(&server, "study", &SITES, ROUNDS, ROUNDS as usize * SITES.len());
    let (address, folder) = (server.address(), root.path());
    let site = |index: usize| {
        let proxy = Proxy::to(address);
        let (mut vanished, mut slowest) = (0, Duration::ZERO);
        let name = SITES[index];
        for round in 1..=ROUNDS {
            for attempt in 1..=EACH {
                let came = Instant::now();
                let program = Program::start(proxy.address(), &folder.join(name), name);
                program.remote.attend("").unwrap().unwrap();
                let reported = came.elapsed();
                // The task is there, or comes when the other sites are done: until then the clock does not run.
                while server.core().session("study").unwrap().round < round {
                    std::thread::sleep(MS(1));
                }
                let asked = Instant::now();
                let mut transport = &program.remote;
                let task = transport.next_task().unwrap().unwrap();
                slowest = slowest.max(reported + asked.elapsed());
                assert_eq!(task.round, round, "{name}");
                vanished += 1;
                if attempt < EACH {
                    vanish(program, &proxy, vanished);
                    continue;
                }
                let base = transport.fetch(&task).unwrap();
                let answer = transport.send(one_hot(&task, &base, SITES.len(), index)).unwrap();
                assert_eq!(answer, Answer::Accepted, "{name}, round {round}");
                vanish_waiting(program, &proxy);
            }
        }
        (vanished, slowest)
    };
    let seen: Vec<(usize, Duration)> = std::thread::scope(|scope| {
        let site = &site;
        let running: Vec<_> = (0..SITES.len()).map(|index| scope.spawn(move || site(index))).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let vanished: usize = seen.iter().map(|(count, _)| count).sum();
    let slowest = seen.iter().map(|(_, slowest)| *slowest).max().unwrap();
    println!("{vanished} times a site vanished and came back; the slowest task came after {slowest:?}");
    assert_eq!(vanished, 1000);
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    common::until("the last round", || server.core().session("study").unwrap().status.is_over());
    let model = server.core().session("study").unwrap().model;
    let bytes = server.core().model_piece(&model.archive, 0, usize::MAX).unwrap();
    let schema = vec![("w".to_owned(), vec![ROUNDS as usize * SITES.len()])];
    let counted = npz::decode(&bytes, &schema).unwrap();
    assert!(counted.flat().all(|value| value == 0.25), "every site once in every round");
}
