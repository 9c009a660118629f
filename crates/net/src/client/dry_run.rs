//! Everything that would leave a hospital, without leaving: each message, each field, an example of its value, its bytes.
//!
//! The list is made from the messages themselves, taken apart field by field: one that gains a field does not compile
//! here until the field is listed.

use std::fmt;

use consilium_core::{Adapter, Tensor, adapter::Schema, npz};
use prost::Message;
use prost::encoding::{bytes, double, message, string, uint32, uint64};
use serde::Serialize;

use super::deliver::PIECE;
use super::link::FRAME_HEAD;
use super::transport::WAIT_S;
use crate::manifest::PROTOCOL;
use crate::proto;

/// What is said of rows, in one sentence.
const NO_ROW: &str = "No row, no text of a row and no token of one is in any of these messages: there is no field for \
     them. What leaves is the trained adapter, counts, and the numbers below.";

/// What goes with every call of a known site.
const HEADER: &str = "authorization: Bearer <this site's access token>";

/// What to suppose.
#[derive(Clone, Debug, PartialEq)]
pub struct DryRunOptions {
    /// The site's name.
    pub site: String,
    /// Name and version of the program.
    pub program: String,
    /// Names and shapes of the adapter.
    pub schema: Schema,
    /// Rounds of the session.
    pub rounds: u32,
    /// Training rows, whose number (and nothing else of them) is sent.
    pub examples: u64,
    /// Whether the site's policy lets scores out.
    pub share_scores: bool,
}

/// A field of a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DryField {
    /// Its name in `consilium.v1`.
    pub name: &'static str,
    /// An example of its value; secrets are not shown.
    pub example: String,
    /// Its bytes.
    pub bytes: u64,
}

/// A message that would be sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DryMessage {
    /// The call that carries it.
    pub call: &'static str,
    /// When it is sent.
    pub when: &'static str,
    /// How often, when nothing goes wrong; waiting adds more of `NextTask`.
    pub times: u64,
    /// Bytes of one, with its frame head.
    pub bytes: u64,
    /// All of its fields.
    pub fields: Vec<DryField>,
}

/// Everything that would leave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DryRun {
    /// What is said of rows.
    pub statement: &'static str,
    /// What goes with every call but Hello, Enrol and Refresh.
    pub header: &'static str,
    /// The messages, in the order in which they are first sent.
    pub messages: Vec<DryMessage>,
    /// Bytes of all messages of a session in which nothing goes wrong.
    pub total_bytes: u64,
}

fn field(name: &'static str, example: impl ToString, bytes: usize) -> DryField {
    DryField { name, example: example.to_string(), bytes: bytes as u64 }
}

fn text(name: &'static str, tag: u32, value: &String) -> DryField {
    field(name, value, if value.is_empty() { 0 } else { string::encoded_len(tag, value) })
}

fn secret(name: &'static str, tag: u32, value: &String) -> DryField {
    DryField { example: "<secret>".into(), ..text(name, tag, value) }
}

fn whole(name: &'static str, tag: u32, value: &u64) -> DryField {
    field(name, value, if *value == 0 { 0 } else { uint64::encoded_len(tag, value) })
}

fn small(name: &'static str, tag: u32, value: &u32) -> DryField {
    field(name, value, if *value == 0 { 0 } else { uint32::encoded_len(tag, value) })
}

fn real(name: &'static str, tag: u32, value: &f64) -> DryField {
    field(name, value, if *value == 0.0 { 0 } else { double::encoded_len(tag, value) })
}

/// A nested message: the bytes around it, and its own fields.
fn nested<M: Message>(name: &'static str, tag: u32, value: &M, inner: Vec<DryField>) -> Vec<DryField> {
    let held: u64 = inner.iter().map(|field| field.bytes).sum();
    let around = message::encoded_len(tag, value) as u64 - held;
    let mut fields = vec![DryField { name, example: "the following together".into(), bytes: around }];
    fields.extend(inner);
    fields
}

fn sent<M: Message>(
    call: &'static str,
    when: &'static str,
    times: u64,
    message: &M,
    fields: Vec<DryField>,
) -> DryMessage {
    DryMessage { call, when, times, bytes: message.encoded_len() as u64 + FRAME_HEAD, fields }
}

/// What would leave a site that takes part in a whole session, with names and sizes as they would be and values that
/// are examples. Nothing is sent and no file is touched.
pub fn dry_run(options: &DryRunOptions) -> DryRun {
    let rounds = u64::from(options.rounds);
    let session = "0123456789abcdef".to_owned();
    let archive = archive(&options.schema);
    let sha256 = consilium_core::hash::sha256_hex(&archive);
    let size = archive.len() as u64;
    let mut messages = vec![
        hello(options),
        enrol(options),
        refresh(),
        attend(),
        next_task(&session, rounds),
        download(&session, &sha256, rounds),
        begin_upload(&session, &sha256, size, rounds),
    ];
    messages.extend(uploads(&archive, &sha256, rounds));
    messages.extend([submit(options, &session, &sha256, rounds), failure(&session)]);
    if options.share_scores {
        messages.push(scores(&session));
    }
    messages.push(leave(&session));
    let total_bytes = messages.iter().map(|message| message.times * message.bytes).sum();
    DryRun { statement: NO_ROW, header: HEADER, messages, total_bytes }
}

/// An archive of this shape; its values are zeros, and any others take as many bytes.
fn archive(schema: &Schema) -> Vec<u8> {
    let tensor = |(name, shape): &(String, Vec<usize>)| Tensor {
        name: name.clone(),
        shape: shape.clone(),
        data: vec![0.0; shape.iter().product()],
    };
    Adapter::new(schema.iter().map(tensor).collect()).map(|adapter| npz::encode(&adapter)).unwrap_or_default()
}

fn hello(options: &DryRunOptions) -> DryMessage {
    let message = proto::HelloRequest { versions: vec![PROTOCOL], program: options.program.clone() };
    let proto::HelloRequest { versions, program } = &message;
    let fields = vec![
        field("versions", PROTOCOL, uint32::encoded_len_packed(1, versions)),
        text("program", 2, program),
    ];
    sent("Hello", "at the start of the program", 1, &message, fields)
}

fn enrol(options: &DryRunOptions) -> DryMessage {
    let token = format!("consilium-enrol-{}", "0".repeat(64));
    let message = proto::EnrolRequest { site: options.site.clone(), token };
    let proto::EnrolRequest { site, token } = &message;
    let fields = vec![text("site", 1, site), secret("token", 2, token)];
    sent("Enrol", "once in the life of a site", 1, &message, fields)
}

fn refresh() -> DryMessage {
    let message = proto::RefreshRequest { refresh_token: format!("consilium-refresh-{}", "0".repeat(64)) };
    let proto::RefreshRequest { refresh_token } = &message;
    let fields = vec![secret("refresh_token", 1, refresh_token)];
    sent("Refresh", "when the access token has expired", 0, &message, fields)
}

fn attend() -> DryMessage {
    let message = proto::AttendRequest { session: "study".into() };
    let proto::AttendRequest { session } = &message;
    let fields = vec![text("session", 1, session)];
    sent("Attend", "at the start of the program", 1, &message, fields)
}

fn next_task(session: &str, rounds: u64) -> DryMessage {
    let message = proto::NextTaskRequest { session_id: session.to_owned(), wait_s: WAIT_S };
    let proto::NextTaskRequest { session_id, wait_s } = &message;
    let fields = vec![text("session_id", 1, session_id), small("wait_s", 2, wait_s)];
    sent("NextTask", "for each round, and at the end", rounds + 1, &message, fields)
}

fn download(session: &str, sha256: &str, rounds: u64) -> DryMessage {
    let message = proto::DownloadRequest {
        session_id: session.to_owned(),
        archive_sha256: sha256.to_owned(),
        offset: 0,
    };
    let proto::DownloadRequest { session_id, archive_sha256, offset } = &message;
    let fields = vec![
        text("session_id", 1, session_id),
        text("archive_sha256", 2, archive_sha256),
        whole("offset", 3, offset),
    ];
    sent("DownloadModel", "for each round, and for the last model", rounds + 1, &message, fields)
}

fn begin_upload(session: &str, sha256: &str, size: u64, rounds: u64) -> DryMessage {
    let message = proto::BeginUploadRequest {
        session_id: session.to_owned(),
        round: 1,
        archive_sha256: sha256.to_owned(),
        bytes: size,
    };
    let proto::BeginUploadRequest { session_id, round, archive_sha256, bytes } = &message;
    let fields = vec![
        text("session_id", 1, session_id),
        small("round", 2, round),
        text("archive_sha256", 3, archive_sha256),
        whole("bytes", 4, bytes),
    ];
    sent("BeginUpload", "for each update", rounds, &message, fields)
}

/// The pieces of an archive: whole ones and the rest.
fn uploads(archive: &[u8], upload_id: &str, rounds: u64) -> Vec<DryMessage> {
    let piece = |when, times, from: usize| {
        let data = archive[from..archive.len().min(from + PIECE)].to_vec();
        let message = proto::UploadChunk { upload_id: upload_id.to_owned(), offset: from as u64, data };
        let proto::UploadChunk { upload_id, offset, data } = &message;
        let shown = format!("{} bytes of the adapter's archive (npz, f32)", data.len());
        let fields = vec![
            text("upload_id", 1, upload_id),
            whole("offset", 2, offset),
            field("data", shown, bytes::encoded_len(3, data)),
        ];
        sent("Upload", when, times, &message, fields)
    };
    let last = archive.len().saturating_sub(1) / PIECE;
    let mut pieces = Vec::new();
    if last > 0 {
        pieces.push(piece("the other pieces of each update", rounds * last as u64, (last - 1) * PIECE));
    }
    pieces.push(piece("the last piece of each update", rounds, last * PIECE));
    pieces
}

fn submit(options: &DryRunOptions, session: &str, sha256: &str, rounds: u64) -> DryMessage {
    let metrics = proto::UpdateMetrics { train_loss: 1.25, steps: 100, tokens: 50_000, seconds: 60.5 };
    let message = proto::SubmitRequest {
        session_id: session.to_owned(),
        round: 1,
        base_sha256: sha256.to_owned(),
        upload_id: sha256.to_owned(),
        archive_sha256: sha256.to_owned(),
        examples: options.examples,
        metrics: Some(metrics),
    };
    let proto::SubmitRequest {
        session_id,
        round,
        base_sha256,
        upload_id,
        archive_sha256,
        examples,
        metrics: _,
    } = &message;
    let proto::UpdateMetrics { train_loss, steps, tokens, seconds } = &metrics;
    let inner = vec![
        real("metrics.train_loss", 1, train_loss),
        whole("metrics.steps", 2, steps),
        whole("metrics.tokens", 3, tokens),
        real("metrics.seconds", 4, seconds),
    ];
    let mut fields = vec![
        text("session_id", 1, session_id),
        small("round", 2, round),
        text("base_sha256", 3, base_sha256),
        text("upload_id", 4, upload_id),
        text("archive_sha256", 5, archive_sha256),
        whole("examples", 6, examples),
    ];
    fields.extend(nested("metrics", 7, &metrics, inner));
    sent("Submit", "for each update", rounds, &message, fields)
}

fn failure(session: &str) -> DryMessage {
    let message = proto::FailureReport {
        session_id: session.to_owned(),
        round: 1,
        reason: "the policy allows 4 rounds, the plan has 10".into(),
    };
    let proto::FailureReport { session_id, round, reason } = &message;
    let fields = vec![text("session_id", 1, session_id), small("round", 2, round), text("reason", 3, reason)];
    sent(
        "ReportFailure",
        "instead of an update, when training failed or the policy refused",
        0,
        &message,
        fields,
    )
}

fn scores(session: &str) -> DryMessage {
    let score = proto::Score { model: "federated".into(), metric: "rouge_l".into(), value: 0.5, rows: 100 };
    let message = proto::ScoreReport { session_id: session.to_owned(), scores: vec![score.clone()] };
    let proto::ScoreReport { session_id, scores: _ } = &message;
    let proto::Score { model, metric, value, rows } = &score;
    let inner = vec![
        text("scores.model", 1, model),
        text("scores.metric", 2, metric),
        real("scores.value", 3, value),
        whole("scores.rows", 4, rows),
    ];
    let mut fields = vec![text("session_id", 1, session_id)];
    fields.extend(nested("scores", 2, &score, inner));
    sent("ReportScores", "after the session, one `scores` for each model and metric", 1, &message, fields)
}

fn leave(session: &str) -> DryMessage {
    let message = proto::LeaveRequest { session_id: session.to_owned() };
    let proto::LeaveRequest { session_id } = &message;
    let fields = vec![text("session_id", 1, session_id)];
    sent("Leave", "when the site goes before the end", 0, &message, fields)
}

impl fmt::Display for DryRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.statement)?;
        writeln!(f, "With every call but Hello, Enrol and Refresh goes the header\n  {}", self.header)?;
        for message in &self.messages {
            let DryMessage { call, when, times, bytes, fields } = message;
            let often = match times {
                0 => "if ever".to_owned(),
                1 => "once".to_owned(),
                times => format!("{times} times"),
            };
            writeln!(f, "\n{call}: {when}; {bytes} bytes, {often}")?;
            for DryField { name, example, bytes } in fields {
                writeln!(f, "  {name:<20} {bytes:>8} B  {example}")?;
            }
        }
        writeln!(f, "\n{} bytes in all when nothing goes wrong, HTTP headers not counted.", self.total_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(values: usize) -> DryRunOptions {
        DryRunOptions {
            site: "north".into(),
            program: "consilium 0.1.0".into(),
            schema: vec![("a".into(), vec![values]), ("b".into(), vec![2, 3])],
            rounds: 3,
            examples: 120,
            share_scores: true,
        }
    }

    #[test]
    fn the_fields_of_a_message_are_all_of_its_bytes() {
        for message in [1, 300_000].into_iter().flat_map(|values| dry_run(&options(values)).messages) {
            let fields: u64 = message.fields.iter().map(|field| field.bytes).sum();
            assert_eq!(fields + FRAME_HEAD, message.bytes, "{}", message.call);
        }
    }

    #[test]
    fn the_pieces_of_an_update_are_its_archive() {
        let run = dry_run(&options(300_000));
        let data = |message: &DryMessage| {
            let held = message.fields.iter().find(|field| field.name == "data").unwrap();
            held.example.split(' ').next().unwrap().parse::<u64>().unwrap() * message.times
        };
        let sent: u64 = run.messages.iter().filter(|message| message.call == "Upload").map(data).sum();
        assert_eq!(sent, 3 * archive(&options(300_000).schema).len() as u64);
        assert!(run.total_bytes > sent);
    }

    #[test]
    fn it_says_that_no_row_leaves_and_shows_no_secret() {
        let shown = dry_run(&options(1)).to_string();
        assert!(shown.contains("No row") && shown.contains("examples") && shown.contains("120"), "{shown}");
        assert!(shown.contains("<secret>") && !shown.contains("consilium-enrol-0"), "{shown}");
        let closed = DryRunOptions { share_scores: false, ..options(1) };
        assert!(dry_run(&closed).messages.iter().all(|message| message.call != "ReportScores"));
    }
}
