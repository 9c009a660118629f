//! A table of hostile updates: each is refused with its word, and the committed model is that of the honest sites alone.

mod common;

use std::io::{Cursor, Write};

use common::{Site, adapter, order, spec, start, until};
use consilium_core::hash::sha256_hex;
use consilium_core::npz;
use consilium_net::NetError;
use consilium_net::manifest::Manifest;
use consilium_net::server::Server;
use consilium_net::server::uploads::{Outcome, Submission};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// What a hostile site does in its round; returns the word of the refusal.
type Attack = Box<dyn Fn(&Site, &Manifest) -> String>;

fn word(outcome: Result<Outcome, NetError>) -> String {
    match outcome {
        Ok(outcome) => outcome.word().to_owned(),
        Err(NetError::Invalid(_)) => "invalid".into(),
        Err(NetError::NotFound { .. }) => "not_found".into(),
        Err(NetError::Denied(_)) => "denied".into(),
        Err(other) => panic!("an unexpected error: {other}"),
    }
}

/// Uploads `archive` and submits it as an honest site would.
fn content(archive: Vec<u8>) -> Attack {
    Box::new(move |site, task| match site.upload(task.task.round, &archive) {
        Ok(sha256) => word(site.core.submit(&site.me, &site.submission(task, &sha256))),
        Err(error) => word(Err(error)),
    })
}

/// An honest upload with a lying submission.
fn claim(lie: impl Fn(&mut Submission) + 'static) -> Attack {
    Box::new(move |site, task| {
        let sha256 = site.upload(task.task.round, &npz::encode(&adapter(1.0))).unwrap();
        let mut submission = site.submission(task, &sha256);
        lie(&mut submission);
        word(site.core.submit(&site.me, &submission))
    })
}

fn npy(descr: &str, fortran: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let mut header = format!("{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}");
    while !(header.len() + 11).is_multiple_of(64) {
        header.push(' ');
    }
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

fn floats(count: usize) -> Vec<u8> {
    (0..count).flat_map(|i| (i as f32).to_le_bytes()).collect()
}

/// The honest second entry.
fn second() -> Vec<u8> {
    npy("'<f4'", "False", "(4,)", &floats(4))
}

fn archive(entries: &[(&str, Vec<u8>)], method: CompressionMethod) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        zip.start_file(*name, SimpleFileOptions::default().compression_method(method)).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// An archive whose first entry is `bytes`, honest but for that.
fn first(bytes: Vec<u8>) -> Vec<u8> {
    archive(&[("0.npy", bytes), ("1.npy", second())], CompressionMethod::Stored)
}

/// The honest archive with the first value overwritten.
fn with_value(value: f32) -> Vec<u8> {
    let mut data = floats(6);
    data[..4].copy_from_slice(&value.to_le_bytes());
    first(npy("'<f4'", "False", "(2, 3)", &data))
}

/// Zeros that deflate to a thousandth.
fn bomb(bytes: usize) -> Vec<u8> {
    let entry = npy("'<f4'", "False", "(2, 3)", &vec![0; bytes]);
    archive(&[("0.npy", entry), ("1.npy", second())], CompressionMethod::Deflated)
}

/// The honest archive with some bytes of it replaced, everywhere.
fn replaced(from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut bytes = npz::encode(&adapter(1.0));
    for start in 0..bytes.len() - from.len() {
        if &bytes[start..start + from.len()] == from {
            bytes[start..start + from.len()].copy_from_slice(to);
        }
    }
    bytes
}

fn attacks() -> Vec<(&'static str, &'static str, Attack)> {
    let good = npz::encode(&adapter(1.0));
    let stored = CompressionMethod::Stored;
    let plain = |shape: &str, values: usize| first(npy("'<f4'", "False", shape, &floats(values)));
    let typed = |descr: &str, width: usize| first(npy(descr, "False", "(2, 3)", &vec![0; 6 * width]));
    let honest_first = npy("'<f4'", "False", "(2, 3)", &floats(6));
    let mut version_2 = honest_first.clone();
    version_2[6] = 2;
    let mut no_magic = honest_first.clone();
    no_magic[0] = 0;
    vec![
        ("a NaN", "not_finite", content(with_value(f32::NAN))),
        ("plus infinity", "not_finite", content(with_value(f32::INFINITY))),
        ("minus infinity", "not_finite", content(with_value(f32::NEG_INFINITY))),
        ("a NaN with another payload", "not_finite", content(with_value(f32::from_bits(0x7f80_0001)))),
        ("the largest float", "magnitude", content(with_value(f32::MAX))),
        ("a value just too large", "magnitude", content(with_value(-10_001.0))),
        ("a transposed shape", "shape", content(plain("(3, 2)", 6))),
        ("a flat shape", "shape", content(plain("(6,)", 6))),
        ("one more extent", "shape", content(plain("(2, 3, 1)", 6))),
        ("a larger shape, small enough for the limit", "shape", content(plain("(2, 4)", 8))),
        ("an empty shape", "shape", content(plain("(0,)", 0))),
        ("a scalar", "shape", content(plain("()", 1))),
        ("a missing tensor", "format", content(archive(&[("0.npy", honest_first.clone())], stored))),
        (
            "a tensor too many",
            "format",
            content(archive(
                &[("0.npy", honest_first.clone()), ("1.npy", second()), ("2.npy", second())],
                stored,
            )),
        ),
        ("no tensor at all", "format", content(archive(&[], stored))),
        (
            "entries named after tensors",
            "format",
            content(archive(&[("a.npy", honest_first.clone()), ("b.npy", second())], stored)),
        ),
        (
            "a path upwards",
            "format",
            content(archive(&[("../0.npy", honest_first.clone()), ("1.npy", second())], stored)),
        ),
        (
            "an absolute path",
            "format",
            content(archive(&[("/0.npy", honest_first.clone()), ("1.npy", second())], stored)),
        ),
        (
            "numbers from one",
            "format",
            content(archive(&[("1.npy", honest_first.clone()), ("2.npy", second())], stored)),
        ),
        (
            "swapped tensors",
            "shape",
            content(archive(&[("1.npy", honest_first.clone()), ("0.npy", second())], stored)),
        ),
        ("an archive inside", "format", content(first(archive(&[("0.npy", honest_first.clone())], stored)))),
        ("64-bit floats", "format", content(typed("'<f8'", 8))),
        ("16-bit floats", "format", content(typed("'<f2'", 2))),
        ("integers", "format", content(typed("'<i4'", 4))),
        ("big-endian floats", "format", content(typed("'>f4'", 4))),
        ("pickled objects", "format", content(typed("'|O'", 4))),
        ("a structured type", "format", content(typed("[('x', '<f4')]", 4))),
        ("Fortran order", "format", content(first(npy("'<f4'", "True", "(2, 3)", &floats(6))))),
        ("npy version 2", "format", content(first(version_2))),
        ("no magic", "format", content(first(no_magic))),
        ("a header cut short", "format", content(first(honest_first[..20].to_vec()))),
        ("an overflowing shape", "format", content(plain("(18446744073709551615, 3)", 6))),
        ("a negative extent", "format", content(plain("(-2, -3)", 6))),
        ("too little data", "format", content(plain("(2, 3)", 5))),
        ("too much data", "format", content(plain("(2, 3)", 7))),
        ("an archive bomb", "format", content(bomb(2_000_000))),
        ("a bomb that is large before it goes off", "invalid", content(bomb(50_000_000))),
        (
            "noise",
            "format",
            content((0..500u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()),
        ),
        ("one byte", "format", content(vec![0])),
        ("half an archive", "format", content(good[..good.len() / 2].to_vec())),
        ("an archive without its end", "format", content(good[..good.len() - 30].to_vec())),
        (
            "a wrong checksum inside",
            "format",
            content(replaced(&1.0f32.to_le_bytes(), &1.5f32.to_le_bytes())),
        ),
        ("an archive far too large", "invalid", content(vec![7; 100_000])),
        ("an empty upload", "invalid", content(Vec::new())),
        (
            "more bytes than announced",
            "invalid",
            Box::new(|site, task| {
                let sha256 = sha256_hex(b"x");
                let begun = site.core.begin_upload(&site.me, &site.session, task.task.round, &sha256, 1);
                let sent = site.core.upload(&site.me, &begun.unwrap().0, 0, b"xy");
                // It may try something else, but it has nothing.
                site.core.report_failure(&site.me, &site.session, task.task.round, "gave up").unwrap();
                word(sent.map(|_| Outcome::Accepted))
            }),
        ),
        (
            "a gap in the upload",
            "invalid",
            Box::new(|site, task| {
                let sha256 = sha256_hex(b"xy");
                let begun = site.core.begin_upload(&site.me, &site.session, task.task.round, &sha256, 2);
                let sent = site.core.upload(&site.me, &begun.unwrap().0, 1, b"y");
                site.core.report_failure(&site.me, &site.session, task.task.round, "gave up").unwrap();
                word(sent.map(|_| Outcome::Accepted))
            }),
        ),
        (
            "writing into another site's upload",
            "not_found",
            Box::new(|site, task| {
                let honest = Site {
                    me: consilium_net::server::Principal { name: "a".into(), ..site.me.clone() },
                    ..site.clone()
                };
                let sha256 = sha256_hex(b"theirs");
                let (id, _) = honest
                    .core
                    .begin_upload(&honest.me, &honest.session, task.task.round, &sha256, 6)
                    .unwrap();
                let sent = site.core.upload(&site.me, &id, 0, b"poison");
                site.core.report_failure(&site.me, &site.session, task.task.round, "gave up").unwrap();
                word(sent.map(|_| Outcome::Accepted))
            }),
        ),
        (
            "a path for a hash",
            "invalid",
            Box::new(|site, task| {
                let begun = site.core.begin_upload(
                    &site.me,
                    &site.session,
                    task.task.round,
                    "../../../etc/passwd",
                    4,
                );
                site.core.report_failure(&site.me, &site.session, task.task.round, "gave up").unwrap();
                word(begun.map(|_| Outcome::Accepted))
            }),
        ),
        ("no training rows", "no_examples", claim(|s| s.examples = 0)),
        ("more rows than anybody has", "examples", claim(|s| s.examples = u64::MAX)),
        ("a loss that is no number", "metrics", claim(|s| s.metrics.train_loss = f64::NAN)),
        ("endless seconds", "metrics", claim(|s| s.metrics.seconds = f64::INFINITY)),
        ("another base model", "stale", claim(|s| s.base_sha256 = "0".repeat(64))),
        ("a future round", "early", claim(|s| s.round += 1)),
        ("a round that is over", "late", claim(|s| s.round -= 1)),
        ("an unknown session", "not_found", claim(|s| s.session = "elsewhere".into())),
        ("a hash that nothing has", "archive_hash", claim(|s| s.archive_sha256 = "0".repeat(64))),
    ]
}

/// Runs two rounds; in the second one `attack` is made by `c`. Returns its word and the committed model.
fn session_with(server: &Server, name: &str, attack: Option<&Attack>) -> (String, String) {
    let session = order(server, spec(name, &["a", "b", "c"], 2, 2, 600.0));
    let [a, b, c] = ["a", "b", "c"].map(|name| Site::attend(server, &session, name));
    for (site, value) in [(&a, 1.0), (&b, 2.0), (&c, 3.0)] {
        assert_eq!(site.send(&site.task(), &adapter(value)).unwrap(), Outcome::Accepted);
    }
    until("the second round", || server.core().session(&session).unwrap().round == 2);
    let task = c.task();
    let word = match attack {
        Some(attack) => attack(&c, &task),
        None => String::new(),
    };
    // Whatever the attack was, the site is not waited for any longer than an honest one that fails.
    c.core.report_failure(&c.me, &session, 2, "no more").unwrap();
    for (site, value) in [(&a, 5.0), (&b, 7.0)] {
        assert_eq!(site.send(&site.task(), &adapter(value)).unwrap(), Outcome::Accepted, "{name}");
    }
    until("the end", || server.core().session(&session).unwrap().status.is_over());
    let view = server.core().session(&session).unwrap();
    assert_eq!(view.commits, 2, "{name}");
    (word, view.model.adapter)
}

#[test]
fn hostile_updates_change_nothing_but_their_own_row() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    let (_, honest) = session_with(&server, "honest", None);
    let attacks = attacks();
    assert!(attacks.len() >= 40, "{} attacks", attacks.len());
    for (name, expected, attack) in &attacks {
        let (word, model) = session_with(&server, name, Some(attack));
        assert_eq!(word, *expected, "{name}");
        assert_eq!(model, honest, "{name}");
    }
    let log = server.core().audit().unwrap();
    let rejected = log.iter().filter(|entry| entry.action == "update_rejected" && entry.actor == "c").count();
    assert!(rejected >= 40, "{rejected} refusals are in the audit log");
    assert!(log.iter().all(|entry| entry.action != "update_rejected" || entry.actor == "c"));
}

#[test]
fn a_replayed_update_counts_once() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    let session = order(&server, spec("replay", &["a", "b"], 1, 2, 600.0));
    let [a, b] = ["a", "b"].map(|name| Site::attend(&server, &session, name));
    let task = a.task();
    assert_eq!(a.send(&task, &adapter(1.0)).unwrap(), Outcome::Accepted);
    for _ in 0..3 {
        assert_eq!(a.send(&task, &adapter(1.0)).unwrap(), Outcome::Duplicate);
        assert_eq!(a.send(&task, &adapter(9.0)).unwrap(), Outcome::Duplicate, "nor is it replaced");
    }
    b.send(&b.task(), &adapter(3.0)).unwrap();
    until("the end", || server.core().session(&session).unwrap().status.is_over());
    let view = server.core().session(&session).unwrap();
    let model = server.core().model_piece(&view.model.archive, 0, 1 << 20).unwrap();
    assert_eq!(npz::decode(&model, &adapter(0.0).schema()).unwrap(), adapter(2.0));
    assert_eq!(a.send(&task, &adapter(1.0)).unwrap(), Outcome::Duplicate, "it counted, and it is told so");
    assert_eq!(a.send(&task, &adapter(9.0)).unwrap(), Outcome::Late);
}
