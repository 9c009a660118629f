//! The operator's commands, `session`, `clients`, `models` and `enroll`: words around the server's HTTP interface.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use consilium_core::npz;
use serde_json::{Value, json};
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};

use super::print_json;
use super::serve::spec_of;
use crate::args::Voice;
use crate::failure::Failure;
use crate::inputs;
use crate::net_args::{ClientsCommand, ModelsCommand, Operator, SessionCommand};

/// Longest wait for an answer of the server.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server as its operator reaches it.
struct Desk {
    agent: ureq::Agent,
    url: String,
    token: String,
}

impl Desk {
    fn open(operator: &Operator) -> Result<Self> {
        let path = &operator.token_file;
        let token = std::fs::read_to_string(path).map_err(|error| {
            Failure::usage(format!("operator's token {}: {error}", path.display())).hint(
                "`consilium serve` writes it into its folder as operator.token; name it with --token-file",
            )
        })?;
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            .http_status_as_error(false)
            .tls_config(tls(operator)?);
        Ok(Self {
            agent: config.build().new_agent(),
            url: operator.server.trim_end_matches('/').to_owned(),
            token: token.trim().to_owned(),
        })
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.token)
    }

    fn get(&self, path: &str) -> Result<Vec<u8>> {
        let request = self.agent.get(format!("{}{path}", self.url)).header("authorization", self.bearer());
        self.read(request.call())
    }

    fn json(&self, path: &str) -> Result<Value> {
        parse(&self.get(path)?)
    }

    /// SHA-256 of the adapter that this name stands for: an uploaded model's, or the last one of a session.
    fn adapter_of(&self, name: &str) -> Result<String> {
        Ok(text(&self.json(&format!("/v1/models/{}", escaped(name)))?["adapter"]))
    }

    fn post(&self, path: &str, body: &[u8]) -> Result<Value> {
        let request = self
            .agent
            .post(format!("{}{path}", self.url))
            .header("authorization", self.bearer())
            .header("content-type", "application/json");
        parse(&self.read(request.send(body))?)
    }

    fn delete(&self, path: &str) -> Result<Value> {
        let request = self.agent.delete(format!("{}{path}", self.url)).header("authorization", self.bearer());
        parse(&self.read(request.call())?)
    }

    fn read(&self, answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Vec<u8>> {
        let answer = answer.map_err(|error| {
            Failure::failed(format!("{}: {error}", self.url)).hint("is `consilium serve` running there?")
        })?;
        let status = answer.status();
        let body =
            answer.into_body().with_config().limit(1 << 31).read_to_vec().context("the server's answer")?;
        if status.is_success() {
            return Ok(body);
        }
        let told: Value = serde_json::from_slice(&body).unwrap_or_default();
        let reason = told["message"].as_str().unwrap_or("no reason given");
        Err(Failure::failed(format!("the server answered {status}: {reason}")).into())
    }
}

/// The certificates that were named.
fn tls(operator: &Operator) -> Result<TlsConfig> {
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let certificate = |path: &Path| {
        Certificate::from_pem(&read(path)?)
            .with_context(|| format!("{} holds no certificate", path.display()))
    };
    let mut config = TlsConfig::builder();
    if let Some(path) = &operator.ca {
        config = config.root_certs(RootCerts::from(std::iter::once(certificate(path)?)));
    }
    if let Some((path, key)) = operator.cert.as_ref().zip(operator.key.as_ref()) {
        let own =
            PrivateKey::from_pem(&read(key)?).with_context(|| format!("{} holds no key", key.display()))?;
        config = config.client_cert(Some(ClientCert::new_with_certs(&[certificate(path)?], own)));
    }
    Ok(config.build())
}

fn parse(bytes: &[u8]) -> Result<Value> {
    serde_json::from_slice(bytes).context("the server's answer is no JSON")
}

/// A line of JSON, and the bytes that follow it.
fn line_and_rest(line: &Value, rest: &[u8]) -> Result<Vec<u8>> {
    let mut body = serde_json::to_vec(line).context("writing the request")?;
    body.push(b'\n');
    body.extend_from_slice(rest);
    Ok(body)
}

/// A name as a part of a path.
fn escaped(name: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
    name.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".into(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// Rows of `values` with the named fields as columns.
fn table(values: &[Value], columns: &[&str]) {
    let mut rows: Vec<Vec<String>> = vec![columns.iter().map(|c| (*c).to_owned()).collect()];
    rows.extend(values.iter().map(|value| columns.iter().map(|c| text(&value[*c])).collect()));
    let width = |i: usize| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
        println!("{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

const SESSION_COLUMNS: [&str; 7] = ["name", "status", "round", "rounds", "commits", "roster", "awaited"];

/// `consilium session`
pub fn session(command: &SessionCommand, voice: Voice) -> Result<()> {
    let said = |value: &Value, words: String| match voice.json {
        true => print_json(value),
        false => {
            println!("{words}");
            Ok(())
        }
    };
    match command {
        SessionCommand::Start { from, session, operator } => {
            let desk = Desk::open(operator)?;
            let given = from.as_deref().map(|name| desk.adapter_of(name)).transpose()?;
            let (spec, archive) = spec_of(session, given)?;
            let archive = if from.is_none() { &archive[..] } else { &[] };
            let body = line_and_rest(&json!({ "spec": spec, "from": from }), archive)?;
            let made = desk.post("/v1/sessions", &body)?;
            said(&made, format!("session {} is waiting for its sites", text(&made["name"])))
        }
        SessionCommand::List { operator } => {
            let sessions = Desk::open(operator)?.json("/v1/sessions")?;
            if voice.json {
                return print_json(&sessions);
            }
            table(list(&sessions), &SESSION_COLUMNS);
            Ok(())
        }
        SessionCommand::Show { name, operator } => {
            let found = Desk::open(operator)?.json(&format!("/v1/sessions/{}", escaped(name)))?;
            if voice.json {
                return print_json(&found);
            }
            table(std::slice::from_ref(&found["session"]), &SESSION_COLUMNS);
            println!();
            table(&rounds(&found["rounds"]), &["round", "committed", "accepted", "seconds", "reasons"]);
            if !list(&found["scores"]).is_empty() {
                println!();
                table(list(&found["scores"]), &["site", "model", "metric", "value", "rows"]);
            }
            Ok(())
        }
        SessionCommand::Stop { name, operator } => {
            let done = Desk::open(operator)?.post(&format!("/v1/sessions/{}/stop", escaped(name)), b"")?;
            said(&done, format!("{name} is stopped; go on with: consilium session continue {name}"))
        }
        SessionCommand::Continue { name, operator } => {
            let done =
                Desk::open(operator)?.post(&format!("/v1/sessions/{}/continue", escaped(name)), b"")?;
            said(&done, format!("{name} goes on"))
        }
    }
}

/// Rounds as rows of a table.
fn rounds(records: &Value) -> Vec<Value> {
    let row = |record: &Value| {
        let sites: Vec<Value> = list(&record["accepted"]).iter().map(|c| c["site"].clone()).collect();
        let seconds = record["took"]["secs"].as_f64().unwrap_or(0.0)
            + record["took"]["nanos"].as_f64().unwrap_or(0.0) / 1e9;
        let reasons = record["reasons"].as_object().into_iter().flatten();
        let reasons: Vec<String> = reasons
            .map(|(site, why)| if site.is_empty() { text(why) } else { format!("{site}: {}", text(why)) })
            .collect();
        json!({
            "round": record["round"], "committed": record["committed"], "accepted": sites,
            "seconds": format!("{seconds:.1}"), "reasons": reasons.join("; "),
        })
    };
    list(records).iter().map(row).collect()
}

/// `consilium clients`
pub fn clients(command: &ClientsCommand, voice: Voice) -> Result<()> {
    match command {
        ClientsCommand::List { operator } => {
            let sites = Desk::open(operator)?.json("/v1/sites")?;
            if voice.json {
                return print_json(&sites);
            }
            table(list(&sites), &["name", "seen_s_ago", "revoked"]);
            Ok(())
        }
        ClientsCommand::Show { name, operator } => {
            let site = Desk::open(operator)?.json(&format!("/v1/sites/{}", escaped(name)))?;
            if voice.json {
                return print_json(&site);
            }
            table(std::slice::from_ref(&site), &["name", "seen_s_ago", "revoked"]);
            for part in list(&site["sessions"]) {
                println!();
                table(std::slice::from_ref(part), &["session", "status", "attended", "awaited", "counted"]);
                for (round, why) in part["missed"].as_object().into_iter().flatten() {
                    println!("round {round} without it: {}", text(why));
                }
                for score in list(&part["scores"]) {
                    println!(
                        "{} {}: {}",
                        text(&score["model"]),
                        text(&score["metric"]),
                        text(&score["value"])
                    );
                }
            }
            Ok(())
        }
        ClientsCommand::Revoke { name, operator } => {
            let done = Desk::open(operator)?.delete(&format!("/v1/sites/{}", escaped(name)))?;
            if voice.json {
                return print_json(&done);
            }
            println!("{name} is shut out; its tokens are worth nothing from now on");
            Ok(())
        }
    }
}

/// `consilium models`
pub fn models(command: &ModelsCommand, voice: Voice) -> Result<()> {
    match command {
        ModelsCommand::List { session: None, operator } => {
            let found = Desk::open(operator)?.json("/v1/models")?;
            if voice.json {
                return print_json(&found);
            }
            table(list(&found), &["name", "adapter", "archive", "bytes"]);
            Ok(())
        }
        ModelsCommand::Upload { adapter, name, operator } => {
            let saved = inputs::saved_adapter(adapter)?;
            let name = name.as_ref().unwrap_or(&saved.name);
            let head = json!({ "name": name, "schema": saved.adapter.schema() });
            let body = line_and_rest(&head, &npz::encode(&saved.adapter))?;
            let made = Desk::open(operator)?.post("/v1/models", &body)?;
            if voice.json {
                return print_json(&made);
            }
            println!("{name} is there; use it with: consilium session start --from '{name}'");
            Ok(())
        }
        ModelsCommand::List { session: Some(session), operator } => {
            let found = Desk::open(operator)?.json(&format!("/v1/sessions/{}", escaped(session)))?;
            if voice.json {
                return print_json(&found["models"]);
            }
            table(list(&found["models"]), &["round", "adapter", "archive", "bytes"]);
            Ok(())
        }
        ModelsCommand::Download { session, round, out, operator } => {
            let desk = Desk::open(operator)?;
            let chosen = match round {
                None => desk.json(&format!("/v1/models/{}", escaped(session)))?,
                Some(round) => {
                    let found = desk.json(&format!("/v1/sessions/{}", escaped(session)))?;
                    let made = list(&found["models"]).iter().find(|model| model["round"] == *round);
                    made.cloned()
                        .ok_or_else(|| Failure::usage(format!("{session} has no model of that round")))?
                }
            };
            let archive = text(&chosen["archive"]);
            let bytes = desk.get(&format!("/v1/models/{}/{archive}", escaped(session)))?;
            if consilium_core::hash::sha256_hex(&bytes) != archive {
                return Err(Failure::failed("the archive arrived damaged; try again").into());
            }
            std::fs::write(out, &bytes).with_context(|| format!("cannot write {}", out.display()))?;
            if voice.json {
                return print_json(&chosen);
            }
            println!("adapter {} of {session}: {}", text(&chosen["adapter"]), out.display());
            Ok(())
        }
    }
}

/// `consilium enroll`
pub fn enroll(site: &str, hours: Option<u64>, operator: &Operator, voice: Voice) -> Result<()> {
    let desk = Desk::open(operator)?;
    let body = serde_json::to_vec(&json!({ "site": site, "hours": hours })).context("writing the request")?;
    let made = desk.post("/v1/invitations", &body)?;
    if voice.json {
        return print_json(&made);
    }
    println!("A token with which one computer can become {site}, once. Hand it over by a safe way:\n");
    println!("  {}\n", text(&made["token"]));
    println!("There: CONSILIUM_TOKEN=... consilium join --server {} --site '{site}' --data FILE", desk.url);
    Ok(())
}
