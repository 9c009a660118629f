//! The same federation in one process and between processes, some of them killed: the same bytes.

mod common;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use common::{consilium, quiet_port, run};

const SITES: [&str; 3] = ["Drug Meta", "Pharmacology", "Drug Gene Relations"];

/// A process that ends with the test.
struct Running(Option<Child>);

impl Running {
    fn start(command: &mut Command) -> Self {
        Self(Some(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts")))
    }

    /// Waits for its end and returns what it said, if it ended well.
    fn finish(mut self) -> String {
        let mut child = self.0.take().expect("it runs");
        let started = Instant::now();
        while child.try_wait().unwrap().is_none() {
            assert!(started.elapsed() < Duration::from_secs(240), "a process does not end");
            std::thread::sleep(Duration::from_millis(50));
        }
        let said = common::said(child.wait_with_output().unwrap());
        assert_eq!(said.code, Some(0), "{}\n{}", said.out, said.err);
        said.out
    }
}

/// As by `kill -9`.
impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A configuration small enough for a test, and the rows of three sites.
fn prepare(here: &Path) {
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/../../demo");
    let config = format!(
        "seed = 5\n[model]\nid = \"consilium-demo\"\n\
         [data]\nsource = \"{demo}/data/train.csv\"\nsites = {SITES:?}\ntrain_rows = 24\ntest_rows = 4\n\
         max_tokens = 128\ncolumns = {{ category = \"bio_category\", id = \"uuid\" }}\n\
         [lora]\nrank = 4\nalpha = 8.0\ndropout = 0.1\ntargets = [\"q_proj\", \"v_proj\"]\n\
         [train]\nmicro_batch = 4\naccumulation = 1\nlearning_rate = 5e-3\n\
         [federation]\nrounds = 3\nlocal_steps = 6\nweights = \"examples\"\ndeadline_s = 600.0\n\
         [eval]\nmax_new_tokens = 4\nresamples = 100\n"
    );
    std::fs::write(here.join("fed.toml"), config).unwrap();
    let parts = run(here, &["data", "partition", "--config", "fed.toml", "--out", "sites"]);
    assert_eq!(parts.code, Some(0), "{}", parts.err);
}

/// The federated adapter's hash, as `simulate` makes it.
fn simulated(here: &Path) -> String {
    let said = run(here, &["simulate", "--config", "fed.toml", "--out", "simulated", "--json", "--quiet"]);
    said.json()["adapter_sha256"]["federated"].as_str().unwrap().to_owned()
}

/// Starts the server on `port`, or any; its first lines name the port.
fn serve(here: &Path, port: u16) -> (Running, u16) {
    let mut command = consilium(here);
    command.args(["serve", "--config", "fed.toml", "--folder", "server", "--until-finished"]);
    command.args(["--listen", &format!("127.0.0.1:{port}")]);
    let mut server = Running::start(&mut command);
    let mut lines = BufReader::new(server.0.as_mut().and_then(|child| child.stdout.take()).unwrap());
    let mut first = String::new();
    lines.read_line(&mut first).unwrap();
    let port = first.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(';').next()?.parse().ok());
    drain(lines);
    (server, port.unwrap_or_else(|| panic!("no address in {first:?}")))
}

/// Reads on, so that the server never waits for a reader.
fn drain(mut lines: BufReader<ChildStdout>) {
    std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
}

fn folder(site: &str) -> String {
    format!("at-{}", site.replace(' ', "_"))
}

fn join(here: &Path, site: &str, port: u16) -> Running {
    let mut command = consilium(here);
    command.args([
        "join",
        "--server",
        &format!("http://127.0.0.1:{port}"),
        "--site",
        site,
        "--json",
        "--quiet",
    ]);
    command.args(["--data", &format!("sites/{}.csv", site.replace(' ', "_")), "--out", &folder(site)]);
    Running::start(command.env("CONSILIUM_THREADS", "1"))
}

/// The hash of the federated adapter that a site ended with.
fn adapter_of(verdict: &str) -> String {
    let verdict: serde_json::Value = serde_json::from_str(verdict).unwrap();
    verdict["adapter_sha256"]["federated"].as_str().unwrap_or_else(|| panic!("{verdict}")).to_owned()
}

/// Waits until `site` has the plan and works, or has a file called `name` below its folder.
fn until_there(here: &Path, site: &str, name: &str) {
    let started = Instant::now();
    let place: PathBuf = here.join(folder(site)).join(name);
    while !place.exists() {
        assert!(started.elapsed() < Duration::from_secs(120), "{} never came", place.display());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn processes_end_with_the_bytes_of_the_simulation() {
    let root = tempfile::tempdir().unwrap();
    let here = root.path();
    prepare(here);
    let expected = simulated(here);
    let (server, port) = serve(here, 0);
    let sites = SITES.map(|site| join(here, site, port));
    for site in sites {
        assert_eq!(adapter_of(&site.finish()), expected);
    }
    server.finish();
}

#[test]
fn killed_processes_end_with_them_too() {
    let root = tempfile::tempdir().unwrap();
    let here = root.path();
    prepare(here);
    let expected = simulated(here);
    let (server, port) = serve(here, quiet_port());
    let [first, second, third] = SITES.map(|site| join(here, site, port));
    until_there(here, SITES[0], "run/metrics.jsonl");
    drop(first);
    drop(server);
    let (server, _) = serve(here, port);
    let first = join(here, SITES[0], port);
    until_there(here, SITES[1], "run/adapters");
    drop(second);
    let second = join(here, SITES[1], port);
    for site in [first, second, third] {
        assert_eq!(adapter_of(&site.finish()), expected);
    }
    server.finish();
    let log = run(here, &["audit", "verify", "--folder", "server", "--json"]);
    assert!(log.json()["rows"].as_u64().unwrap() > 10);
}

#[test]
fn what_cannot_be_is_said_at_once() {
    let root = tempfile::tempdir().unwrap();
    let here = root.path();
    prepare(here);
    run(here, &["join", "--server", "http://127.0.0.1:1", "--site", "a", "--data", "nothing.csv"])
        .refused(3, &["nothing.csv"]);
    run(here, &["serve", "--listen", "0.0.0.0:0"]).refused(2, &["nothing would be encrypted", "--tls-cert"]);
    run(here, &["join", "--server", "http://10.1.2.3:8092", "--site", "a", "--data", "fed.toml"])
        .refused(2, &["nothing would be encrypted"]);
    std::fs::write(here.join("policy.toml"), "max_rnk = 3\n").unwrap();
    run(
        here,
        &[
            "join",
            "--server",
            "http://127.0.0.1:1",
            "--site",
            "a",
            "--data",
            "fed.toml",
            "--policy",
            "policy.toml",
        ],
    )
    .refused(2, &["max_rank"]);
    let (_server, port) = serve(here, 0);
    let url = format!("http://127.0.0.1:{port}");
    std::fs::write(here.join("policy.toml"), "max_rank = 1\n").unwrap();
    let data = "sites/Pharmacology.csv";
    let asked =
        ["join", "--server", &url, "--site", "Pharmacology", "--data", data, "--policy", "policy.toml"];
    run(here, &asked).refused(1, &["max_rank", "4"]);
    let listed = run(here, &["join", "--server", &url, "--site", "Drug Meta", "--data", data, "--dry-run"]);
    assert_eq!(listed.code, Some(0), "{}", listed.err);
    assert!(listed.out.contains("Submit") && listed.out.contains("examples"), "{}", listed.out);
    let sites =
        run(here, &["clients", "list", "--server", &url, "--token-file", "server/operator.token", "--json"]);
    assert!(!sites.out.contains("Drug Meta"), "a dry run reaches nobody: {}", sites.out);
}
