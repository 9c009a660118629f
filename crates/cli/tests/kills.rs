//! The real server is killed with `kill -9`, at random moments and at named points, under clients that keep sending, and
//! what it had acknowledged is compared with what it counted.
//!
//! `CONSILIUM_KILLS=1000 CONSILIUM_SEED=7 cargo test -p consilium --test kills -- --nocapture` for more of it.

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{consilium, quiet_port};
use consilium_core::{Adapter, SeededRng, StopFlag, Tensor, npz};
use consilium_federation::{
    Answer, LocalWork, ScheduleScope, SessionSettings, Training, Transport, Update, UpdateMetrics, Weights,
};
use consilium_net::client::{ClientEvent, ConnectOptions, Remote};
use consilium_net::server::{Core, CoreSettings, Roster, SessionSpec};

const SITES: usize = 5;
const SESSION: &str = "nemesis";
/// Where a debug build can be told to die.
const POINTS: [&str; 5] = ["blob_synced", "blob_kept", "before_commit", "after_commit", "folded"];

fn site(k: usize) -> String {
    format!("site-{k}")
}

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// A vector with one value for each site.
fn vector(values: Vec<f32>) -> Adapter {
    Adapter::new(vec![Tensor { name: "counts".into(), shape: vec![SITES], data: values }]).unwrap()
}

fn spec() -> SessionSpec {
    SessionSpec {
        name: SESSION.into(),
        plan: "{}".into(),
        settings: SessionSettings {
            rounds: 100_000,
            sites_per_round: None,
            quorum: 3,
            deadline_s: 2.0,
            seed: 1,
        },
        weights: Weights::Uniform,
        work: LocalWork::Steps(1),
        scope: ScheduleScope::Session,
        training: Training::default(),
        roster: Roster::Named((0..SITES).map(site).collect()),
        schema: vector(vec![0.0; SITES]).schema(),
    }
}

/// The server of a folder: killed when it is dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Place {
    here: PathBuf,
    port: u16,
}

impl Place {
    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn start(&self, failpoint: Option<String>) -> Server {
        let mut command = consilium(&self.here);
        command.args(["serve", "--no-session", "--quiet", "--folder", "server"]);
        command.args(["--listen", &format!("127.0.0.1:{}", self.port)]);
        if let Some(point) = failpoint {
            command.env("CONSILIUM_FAILPOINT", point);
        }
        Server(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// Time until the server says that it is well; `None` when it died before.
    fn healthy(&self, server: &mut Server) -> Option<Duration> {
        let started = Instant::now();
        loop {
            let agent = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(1))).build();
            if agent.new_agent().get(format!("{}/health", self.url())).call().is_ok() {
                return Some(started.elapsed());
            }
            if server.0.try_wait().unwrap().is_some() {
                return None;
            }
            assert!(started.elapsed() < Duration::from_secs(30), "the server does not come back");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn post(&self, path: &str, body: &[u8]) {
        // The token's file is written a moment after the server is up.
        for _ in 0..200 {
            let token = std::fs::read_to_string(self.here.join("server/operator.token")).unwrap_or_default();
            let request = ureq::post(format!("{}{path}", self.url()))
                .header("authorization", format!("Bearer {token}"))
                .header("content-type", "application/json");
            match request.send(body) {
                Ok(_) => return,
                Err(ureq::Error::StatusCode(401)) => std::thread::sleep(Duration::from_millis(10)),
                Err(error) => panic!("{path}: {error}"),
            }
        }
        panic!("{path}: the operator's token never fitted");
    }
}

/// What the clients did and heard, as (round, site).
#[derive(Default)]
struct History {
    sent: BTreeSet<(u32, usize)>,
    acknowledged: BTreeSet<(u32, usize)>,
}

/// One site: trains at once, sends with its durable outbox, and is restarted whenever its flag is raised.
struct Client {
    k: usize,
    url: String,
    folder: PathBuf,
    flag: Arc<Mutex<StopFlag>>,
    over: Arc<AtomicBool>,
    history: Arc<Mutex<History>>,
}

impl Client {
    fn run(&self) {
        while !self.over.load(Ordering::SeqCst) {
            // An error is a stop, a takeover or a refusal: a new life begins with what lies on disk.
            let _ = self.live();
        }
    }

    fn live(&self) -> Result<(), Box<dyn std::error::Error>> {
        let stop = StopFlag::new();
        *self.flag.lock().unwrap() = stop.clone();
        let (k, history) = (self.k, self.history.clone());
        let remote = Remote::connect(ConnectOptions {
            url: self.url.clone(),
            state_dir: self.folder.clone(),
            program: "kills".into(),
            site: site(k),
            token: None,
            tls: Default::default(),
            stop,
            on_event: Box::new(move |event| {
                if let ClientEvent::Delivered { round, outcome } = event
                    && outcome == "accepted"
                {
                    history.lock().unwrap().acknowledged.insert((round, k));
                }
            }),
        })?;
        remote.wait_for_session(SESSION, &mut |_| ())?;
        let mut transport = &remote;
        while let Some(task) = transport.next_task()? {
            let mut values: Vec<f32> = transport.fetch(&task)?.flat().collect();
            values[k] += 1.0;
            self.history.lock().unwrap().sent.insert((task.round, k));
            let update = Update {
                round: task.round,
                base_sha256: task.base_sha256.clone(),
                adapter: vector(values),
                examples: 1,
                metrics: UpdateMetrics::default(),
            };
            if transport.send(update)? == Answer::Accepted {
                self.history.lock().unwrap().acknowledged.insert((task.round, k));
            }
        }
        Ok(())
    }
}

/// Compares what was acknowledged with what each committed model holds; returns rounds committed and failed.
fn check(server: &Path, history: &History) -> (usize, usize) {
    let core = Core::open(server, CoreSettings::default()).unwrap();
    let kept = core.history(SESSION).unwrap();
    let values = |round: u32| -> Vec<f32> {
        let model =
            kept.models.iter().find(|model| model.round == round).expect("a committed round has a model");
        let archive = core.model_piece(&model.archive, 0, 1 << 20).unwrap();
        npz::decode(&archive, &vector(vec![0.0; SITES]).schema()).unwrap().flat().collect()
    };
    let mut last = values(0);
    let mut failed = 0;
    for record in &kept.rounds {
        if !record.committed {
            failed += 1;
            continue;
        }
        let next = values(record.round);
        let counted = record.accepted.len();
        assert!(counted >= 3, "round {} committed below its quorum", record.round);
        for k in 0..SITES {
            let part = record.accepted.iter().any(|c| c.site == site(k));
            let step = next[k] - last[k];
            let expected = if part { 1.0 / counted as f32 } else { 0.0 };
            assert!(
                (step - expected).abs() < 1e-3,
                "round {}: site {k} moved by {step}, not {expected}",
                record.round
            );
            let heard = history.acknowledged.contains(&(record.round, k));
            assert!(
                part || !heard,
                "round {}: the update of site {k} was acknowledged and lost",
                record.round
            );
            assert!(
                !part || history.sent.contains(&(record.round, k)),
                "site {k} was counted and sent nothing"
            );
        }
        last = next;
    }
    core.audit().expect("the audit log holds together");
    (kept.rounds.len() - failed, failed)
}

#[test]
fn no_acknowledged_update_is_lost_and_none_is_counted_twice() {
    let (kills, seed) = (number("CONSILIUM_KILLS", 50), number("CONSILIUM_SEED", 1));
    let root = tempfile::tempdir().unwrap();
    let place = Place { here: root.path().to_owned(), port: quiet_port() };
    let mut rng = SeededRng::derive(seed, 0, "", "kills");

    // A database that is half made is made by the next start.
    let mut half = place.start(Some("migration".into()));
    assert!(place.healthy(&mut half).is_none(), "it dies while it makes its tables");
    let mut server = place.start(None);
    assert!(place.healthy(&mut server).is_some());
    let mut order = serde_json::to_vec(&serde_json::json!({ "spec": spec() })).unwrap();
    order.push(b'\n');
    order.extend(npz::encode(&vector(vec![0.0; SITES])));
    place.post("/v1/sessions", &order);

    let (over, history) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(History::default())));
    let flags: Vec<Arc<Mutex<StopFlag>>> = (0..SITES).map(|_| Arc::default()).collect();
    let clients: Vec<_> = (0..SITES)
        .map(|k| Client {
            k,
            url: place.url(),
            folder: place.here.join(site(k)),
            flag: flags[k].clone(),
            over: over.clone(),
            history: history.clone(),
        })
        .map(|client| std::thread::spawn(move || client.run()))
        .collect();

    let (mut worst, mut at_points) = (Duration::ZERO, 0);
    for kill in 0..kills {
        let pause = Duration::from_millis(1 + rng.next_u64() % 400);
        std::thread::sleep(pause);
        if rng.next_u64().is_multiple_of(4) {
            flags[(rng.next_u64() % SITES as u64) as usize].lock().unwrap().raise();
        }
        drop(server);
        let point = (kill % 3 == 2).then(|| {
            let name = POINTS[(rng.next_u64() % POINTS.len() as u64) as usize];
            format!("{name}:{}", 1 + rng.next_u64() % 6)
        });
        let dies_by_itself = point.is_some();
        server = place.start(point);
        match place.healthy(&mut server) {
            Some(took) => worst = worst.max(took),
            None => assert!(dies_by_itself, "it died without being told to"),
        }
        if dies_by_itself {
            let started = Instant::now();
            while server.0.try_wait().unwrap().is_none() && started.elapsed() < Duration::from_secs(3) {
                std::thread::sleep(Duration::from_millis(5));
            }
            at_points += u64::from(server.0.try_wait().unwrap().is_some());
        }
    }
    drop(server);
    let mut server = place.start(None);
    assert!(place.healthy(&mut server).is_some());
    std::thread::sleep(Duration::from_millis(500));
    place.post(&format!("/v1/sessions/{SESSION}/stop"), b"");
    over.store(true, Ordering::SeqCst);
    for (client, flag) in clients.into_iter().zip(&flags) {
        while !client.is_finished() {
            flag.lock().unwrap().raise();
            std::thread::sleep(Duration::from_millis(10));
        }
        client.join().unwrap();
    }
    drop(server);

    let history = history.lock().unwrap();
    let (committed, failed) = check(&place.here.join("server"), &history);
    println!(
        "seed {seed}: {kills} kills, {at_points} of them at named points; {} updates sent, {} acknowledged; {committed} rounds \
         committed, {failed} failed; serving again after at most {:.2} s",
        history.sent.len(),
        history.acknowledged.len(),
        worst.as_secs_f64()
    );
    // A promise, not a measurement: a round's time goes on while the server is away.
    assert!(worst < Duration::from_secs(2), "it was away for {worst:?}");
    assert!(committed >= 10 && history.acknowledged.len() >= 30, "too little happened to mean anything");
}
