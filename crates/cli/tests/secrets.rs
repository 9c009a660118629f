//! Markers planted in rows and tokens are looked for everywhere that somebody else may look.

mod common;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Stdio};

use common::consilium;

/// In every question and answer.
const ROW: &str = "xyzzymarker";

/// Ends the server whatever the test meets.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn contains(bytes: &[u8], marker: &str) -> bool {
    bytes.windows(marker.len()).any(|window| window == marker.as_bytes())
}

/// Every file below `folder`, but for those that hold this marker by design.
fn search(folder: &Path, marker: &str, allowed: &[&str]) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            search(&path, marker, allowed);
        } else if !allowed.iter().any(|name| path.ends_with(name)) {
            assert!(!contains(&std::fs::read(&path).unwrap(), marker), "{marker} lies in {}", path.display());
        }
    }
}

#[test]
fn no_row_and_no_secret_gets_where_it_does_not_belong() {
    let root = tempfile::tempdir().unwrap();
    let here = root.path();
    let mut rows = String::from("id,question,answer,category\n");
    for i in 0..24 {
        rows.push_str(&format!("{ROW}-{i},What does {ROW} number {i} do?,It is {ROW} {i}.,c\n"));
    }
    std::fs::write(here.join("north.csv"), rows).unwrap();

    let settings = ["rounds=1", "local_steps=2", "quorum=1"].map(|s| format!("federation.{s}"));
    let mut serve = consilium(here);
    serve.args(["serve", "--closed", "--until-finished", "--listen", "127.0.0.1:0", "--folder", "server"]);
    serve.args(["--sites", "north", "--set", "data.test_rows=4", "--set", "eval.max_new_tokens=4"]);
    for setting in &settings {
        serve.args(["--set", setting]);
    }
    let mut server = Running(serve.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(server.0.stdout.take().unwrap());
    let mut said = String::new();
    while !said.contains("Look: consilium session list") {
        assert!(lines.read_line(&mut said).unwrap() > 0, "the server ended: {said}");
    }
    let url = said.split_whitespace().find(|word| word.starts_with("http://")).unwrap().trim_end_matches(';');

    let mut enroll = consilium(here);
    enroll.args(["enroll", "north", "--server", url, "--token-file", "server/operator.token", "--json"]);
    let enrolled: serde_json::Value = serde_json::from_slice(&enroll.output().unwrap().stdout).unwrap();
    let token = enrolled["token"].as_str().unwrap().to_owned();

    let mut join = consilium(here);
    join.args(["join", "--server", url, "--site", "north", "--data", "north.csv", "--out", "site"]);
    let joined = join.env("CONSILIUM_TOKEN", &token).output().unwrap();
    let errors = String::from_utf8_lossy(&joined.stderr).into_owned();
    assert!(joined.status.success(), "{errors}");
    for path in ["/metrics", "/openapi.json", "/health"] {
        let text = ureq::get(format!("{url}{path}")).call().unwrap().body_mut().read_to_string().unwrap();
        assert!(!text.contains(ROW) && !text.contains(&token), "{path}");
    }
    let operator = std::fs::read_to_string(here.join("server/operator.token")).unwrap();
    for command in [["session", "show", "session-1"], ["models", "list", "session-1"]] {
        let mut shown = consilium(here);
        shown.args(command).args(["--server", url, "--token-file", "server/operator.token", "--json"]);
        let shown = shown.output().unwrap().stdout;
        assert!(!contains(&shown, ROW) && !contains(&shown, &operator), "{command:?}");
    }
    lines.read_to_string(&mut said).unwrap();
    server.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();

    let credentials = std::fs::read_to_string(here.join("site/connection/credentials.json")).unwrap();
    let credentials: serde_json::Value = serde_json::from_str(&credentials).unwrap();
    let secrets: Vec<String> = ["access_token", "refresh_token"]
        .map(|field| credentials[field].as_str().unwrap().to_owned())
        .into_iter()
        .chain([token, operator])
        .collect();
    for text in [said.as_bytes(), &joined.stdout, &joined.stderr] {
        assert!(!contains(text, ROW));
        assert!(!secrets.iter().any(|secret| contains(text, secret)));
    }
    search(&here.join("server"), ROW, &[]);
    // The hospital's own answers hold its rows, and nothing else of its folder does.
    search(&here.join("site"), ROW, &["run/predictions.jsonl"]);
    for secret in &secrets {
        search(&here.join("server"), secret, &["operator.token"]);
        search(&here.join("site"), secret, &["connection/credentials.json"]);
    }
}
