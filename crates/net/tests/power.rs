//! A loss of power at any moment: the page cache is gone, and everything that was acknowledged is still there.
//!
//! A server does its work under `strace`. Its writes and syncs are replayed onto a disk that forgets what was not synced;
//! at many moments, among them right after each acknowledgement, what would be left is opened as a server's folder. Where
//! there is no `strace` the test says so and passes.

mod common;
#[path = "power/disk.rs"]
mod disk;
#[path = "power/trace.rs"]
mod trace;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::program::{order, vector};
use common::{Site, start, until};
use consilium_core::npz;
use consilium_net::server::uploads::Outcome;
use consilium_net::server::{Core, backup};
use disk::Disk;
use trace::Op;

const SITES: [&str; 3] = ["east", "north", "west"];
const ROUNDS: u32 = 4;
const WIDTH: usize = ROUNDS as usize * SITES.len();
/// Names the folder of the server in the traced program.
const FOLDER: &str = "CONSILIUM_POWER_FOLDER";

/// Says a word that the trace shows in its place among the writes.
fn say(word: &str) {
    std::io::stderr().write_all(format!("{word}\n").as_bytes()).unwrap();
}

/// The base with one more 1 in the slot of this round and site.
fn update(site: &Site, round: u32, index: usize) -> consilium_core::Adapter {
    let model = site.core.session("study").unwrap().model;
    let bytes = site.core.model_piece(&model.archive, 0, usize::MAX).unwrap();
    let base = npz::decode(&bytes, &vec![("w".to_owned(), vec![WIDTH])]).unwrap();
    let mut values: Vec<f32> = base.flat().collect();
    values[(round as usize - 1) * SITES.len() + index] += 1.0;
    vector(values)
}

/// What is traced: a session from the first round to the last, each acknowledgement said aloud.
fn work(folder: &Path) {
    let server = start(folder);
    say("serving");
    let session = order(&server, "study", &SITES, ROUNDS, WIDTH);
    say("ordered");
    let sites = SITES.map(|site| Site::attend(&server, &session, site));
    say("began");
    for round in 1..=ROUNDS {
        for (index, site) in sites.iter().enumerate() {
            let task = site.task();
            assert_eq!(task.task.round, round);
            assert_eq!(site.send(&task, &update(site, round, index)).unwrap(), Outcome::Accepted);
            say(&format!("accepted {round} {}", site.me.name));
        }
    }
    until("the last round", || server.core().session("study").unwrap().status.is_over());
    say("over");
}

#[derive(Default)]
struct Promised {
    serving: bool,
    ordered: bool,
    accepted: BTreeSet<(u32, String)>,
}

impl Promised {
    fn hear(&mut self, said: &str) {
        match said.split_whitespace().collect::<Vec<_>>()[..] {
            ["serving"] => self.serving = true,
            ["ordered"] => self.ordered = true,
            ["accepted", round, site] => {
                self.accepted.insert((round.parse().unwrap(), site.to_owned()));
            }
            _ => {}
        }
    }

    /// Opens what is left and looks for everything that was promised; then, if `on`, lets the session go on to its end.
    fn check(&self, folder: &Path, moment: &str, on: bool) {
        let core = Core::open(folder, Default::default());
        let core = core.unwrap_or_else(|error| panic!("{moment}: the server does not open: {error}"));
        core.audit().unwrap_or_else(|error| panic!("{moment}: {error}"));
        drop(core);
        backup::check(folder).unwrap_or_else(|error| panic!("{moment}: {error}"));
        if !self.ordered {
            return;
        }
        let server = start(folder);
        let core = server.core();
        let id = core.session("study").unwrap_or_else(|error| panic!("{moment}: {error}")).id;
        let sites = SITES.map(|site| Site::attend(&server, &id, site));
        for (round, site) in &self.accepted {
            let view = core.session("study").unwrap();
            let ended = core.history("study").unwrap().rounds;
            let counted = match ended.iter().find(|record| record.round == *round) {
                Some(record) => record.accepted.iter().any(|c| c.site == *site),
                // Open, or sealed and about to be averaged again.
                None => view.round == *round && !view.awaited.contains(site),
            };
            assert!(counted, "{moment}: the update of {site} for round {round} was acknowledged and is gone");
        }
        if !on {
            return;
        }
        while !core.session("study").unwrap().status.is_over() {
            for (index, site) in sites.iter().enumerate() {
                let view = core.session("study").unwrap();
                if view.awaited.contains(&site.me.name) {
                    let task = site.task();
                    site.send(&task, &update(site, task.task.round, index)).unwrap();
                }
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let model = core.session("study").unwrap().model;
        let bytes = core.model_piece(&model.archive, 0, usize::MAX).unwrap();
        let last = npz::decode(&bytes, &vec![("w".to_owned(), vec![WIDTH])]).unwrap();
        let third = 1.0f32 / 3.0;
        assert!(
            last.flat().all(|value| (value - third).abs() < 1e-6),
            "{moment}: every update once: {last:?}"
        );
    }
}

/// A stream of coin flips that is the same in every run.
struct Coins(u64);

impl Coins {
    fn flip(&mut self) -> bool {
        let mut hasher = DefaultHasher::new();
        self.0.hash(&mut hasher);
        self.0 = hasher.finish();
        self.0 & 1 == 1
    }
}

fn traced(folder: &Path, trace: &Path) -> bool {
    let program = std::env::current_exe().unwrap();
    let strace = Command::new("strace")
        .args(["-ff", "-ttt", "-T", "-xx", "-s", "10000000", "-e", "trace=%file,%desc", "-o"])
        .arg(trace)
        .arg(program)
        .args(["--exact", "what_was_acknowledged_survives_a_loss_of_power", "--nocapture"])
        .env(FOLDER, folder)
        .output();
    match strace {
        Ok(done) if done.status.success() => true,
        Ok(done) => {
            let said = String::from_utf8_lossy(&done.stderr);
            assert!(!said.contains("panicked"), "{said}");
            println!("SKIPPED: strace cannot trace here: {}", said.lines().last().unwrap_or_default());
            false
        }
        Err(error) => {
            println!("SKIPPED: no strace: {error}");
            false
        }
    }
}

/// Every file with its bytes, but for SQLite's shared memory, which is written without system calls.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.to_string_lossy().ends_with("-shm") {
                found.insert(path.strip_prefix(folder).unwrap().to_owned(), std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

#[test]
fn what_was_acknowledged_survives_a_loss_of_power() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return work(Path::new(&folder));
    }
    let root = tempfile::tempdir().unwrap();
    let (folder, calls) = (root.path().join("server"), root.path().join("calls"));
    std::fs::create_dir(&folder).unwrap();
    if !traced(&folder, &calls) {
        return;
    }
    let ops = trace::read(&calls);
    let updates = |op: &&Op| matches!(op, Op::Said(word) if word.starts_with("accepted"));
    assert_eq!(ops.iter().filter(updates).count(), WIDTH, "the trace shows every acknowledgement");
    let mut all = Disk::default();
    ops.iter().for_each(|op| all.take(op, &folder));
    let whole = root.path().join("whole");
    std::fs::create_dir(&whole).unwrap();
    all.crash(&folder, &whole, &mut || true);
    assert_eq!(contents(&whole), contents(&folder), "the replay is what the program did");
    let (mut disk, mut promised, mut coins) = (Disk::default(), Promised::default(), Coins(1));
    let (mut crashes, mut completed) = (0, 0);
    for (index, op) in ops.iter().enumerate() {
        disk.take(op, &folder);
        let said = if let Op::Said(word) = op { Some(word.trim()) } else { None };
        promised.hear(said.unwrap_or_default());
        let promise = said.is_some_and(|word| word.starts_with("accepted") || word == "ordered");
        let synced = matches!(op, Op::Sync(path) if path.starts_with(&folder));
        if !(promise || synced) {
            continue;
        }
        for lucky in [false, true] {
            let left = root.path().join("left");
            std::fs::create_dir(&left).unwrap();
            disk.crash(&folder, &left, &mut || lucky && coins.flip());
            let moment = format!("a crash after call {index} ({op:.80?}), lucky: {lucky}");
            promised.check(&left, &moment, promise);
            std::fs::remove_dir_all(&left).unwrap();
            crashes += 1;
            completed += usize::from(promise);
        }
    }
    println!("{} calls, {crashes} crashes, {completed} sessions carried on to their end", ops.len());
    assert!(promised.serving && promised.accepted.len() == WIDTH && completed >= 2 * WIDTH);
}
