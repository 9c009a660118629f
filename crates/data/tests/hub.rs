//! The hub client against a fake hub on loopback: downloads, cache hits, offline use, refusals, broken transfers.

mod fake_hub;

use std::path::Path;
use std::sync::Arc;

use consilium_core::Event;
use consilium_core::metric::MemorySink;
use consilium_data::{Hub, HubSettings, ReadOptions, read};
use fake_hub::{FakeHub, File, Mood, commit};

const ID: &str = "hospital/rows";
const TRAIN: &str = "question,answer,category\nWhat is Zorvin?,A drug.,Drugs\n";

fn file(name: &'static str, bytes: impl Into<Vec<u8>>) -> File {
    File { branch: "main", name, bytes: bytes.into() }
}

fn dataset() -> FakeHub {
    FakeHub::serve(
        "datasets",
        ID,
        vec![
            file("README.md", "# Rows\n"),
            file("bench_test.csv", "question,answer\nQ?,Held out.\n"),
            file("bench_train.csv", TRAIN),
            file("notes.txt", "not read"),
        ],
    )
}

fn hub(fake: &FakeHub, cache: &Path) -> Hub {
    Hub::new(HubSettings { retries: 0, offline: false, token: None, ..settings(fake, cache) })
}

fn offline(fake: &FakeHub, cache: &Path) -> Hub {
    Hub::new(HubSettings { offline: true, ..settings(fake, cache) })
}

fn settings(fake: &FakeHub, cache: &Path) -> HubSettings {
    let (endpoint, home) = (fake.endpoint.clone(), cache.display().to_string());
    HubSettings::from_vars(move |name| match name {
        "HF_ENDPOINT" => Some(endpoint.clone()),
        "HF_HOME" => Some(home.clone()),
        _ => None,
    })
}

/// Every file and link below `folder`, except our own notes and hf-hub's lock files.
fn left_in(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut found = Vec::new();
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            found.extend(left_in(&path));
        } else if path.extension().is_none_or(|extension| extension != "lock")
            && !path.components().any(|part| part.as_os_str() == ".consilium")
        {
            found.push(path.display().to_string());
        }
    }
    found
}

#[test]
fn a_split_is_downloaded_once_and_then_comes_from_the_cache() {
    let (fake, cache) = (dataset(), tempfile::tempdir().unwrap());
    let report = read(ID, &ReadOptions::default(), &hub(&fake, cache.path())).unwrap();
    assert_eq!(report.examples[0].answer, "A drug.");
    assert_eq!(report.sha256, consilium_core::hash::sha256_hex(TRAIN.as_bytes()));
    let log = fake.take_log();
    assert_eq!(log[0], "/api/datasets/hospital/rows/revision/main");
    assert!(!log.iter().any(|path| path.contains("bench_test") || path.contains("notes")), "{log:?}");

    let repository = cache.path().join("hub/datasets--hospital--rows");
    assert_eq!(std::fs::read_to_string(repository.join("refs/main")).unwrap(), commit("main"));
    let snapshot = repository.join("snapshots").join(commit("main"));
    assert_eq!(std::fs::read_to_string(snapshot.join("bench_train.csv")).unwrap(), TRAIN);

    read(ID, &ReadOptions::default(), &hub(&fake, cache.path())).unwrap();
    assert_eq!(fake.take_log(), ["/api/datasets/hospital/rows/revision/main"], "no file is asked for again");

    read(ID, &ReadOptions::default(), &offline(&fake, cache.path())).unwrap();
    assert!(fake.take_log().is_empty(), "offline means no request at all");
}

#[test]
fn the_cache_answers_when_the_hub_cannot_be_reached() {
    let (fake, cache) = (dataset(), tempfile::tempdir().unwrap());
    read(ID, &ReadOptions::default(), &hub(&fake, cache.path())).unwrap();
    // A port that was just free refuses connections.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let sink = Arc::new(MemorySink::default());
    let unreachable = HubSettings { endpoint: format!("http://{port}"), ..settings(&fake, cache.path()) };
    let away = Hub::new(unreachable.clone()).with_sink(sink.clone());
    assert_eq!(read(ID, &ReadOptions::default(), &away).unwrap().examples.len(), 1);
    assert!(matches!(&sink.events()[0], Event::Note { text } if text.contains("taken from the cache")));

    let empty = tempfile::tempdir().unwrap();
    let nowhere = Hub::new(HubSettings { cache: empty.path().into(), ..unreachable });
    let error = read(ID, &ReadOptions::default(), &nowhere).unwrap_err().to_string();
    assert!(error.starts_with("data set hospital/rows: cannot reach http://127.0.0.1:"), "{error}");
}

#[test]
fn offline_names_what_the_cache_lacks() {
    let (fake, cache) = (dataset(), tempfile::tempdir().unwrap());
    let error = read(ID, &ReadOptions::default(), &offline(&fake, cache.path())).unwrap_err().to_string();
    assert!(error.starts_with("data set hospital/rows: not in the cache"), "{error}");
    assert!(error.contains("HF_HUB_OFFLINE"), "{error}");

    let test = ReadOptions { split: Some("test".into()), ..ReadOptions::default() };
    read(ID, &test, &hub(&fake, cache.path())).unwrap();
    // Only the test split is there now. That must not turn it into the split that nobody asked for.
    let error = read(ID, &ReadOptions::default(), &offline(&fake, cache.path())).unwrap_err().to_string();
    assert!(error.starts_with("data set hospital/rows, file bench_train.csv: not in the cache"), "{error}");
    assert_eq!(read(ID, &test, &offline(&fake, cache.path())).unwrap().examples[0].answer, "Held out.");
}

#[test]
fn refusals_say_what_to_do() {
    let (fake, cache) = (dataset(), tempfile::tempdir().unwrap());
    let ask = |mood, id: &str| {
        fake.set(mood);
        read(id, &ReadOptions::default(), &hub(&fake, cache.path())).unwrap_err().to_string()
    };
    let denied = ask(Mood::Status(401), ID);
    assert!(denied.starts_with("data set hospital/rows: access denied (401)"), "{denied}");
    assert!(denied.contains("set HF_TOKEN"), "{denied}");
    assert_eq!(ask(Mood::Status(404), ID), "data set hospital/rows: not found (404); check the id");
    assert!(ask(Mood::Well, "hospital/rows@v9").ends_with("check the id and the revision `v9`"));
    assert!(ask(Mood::Status(503), ID).contains("status 503"));
    assert!(left_in(cache.path()).is_empty());
}

#[test]
fn the_token_is_sent() {
    let (fake, cache) = (dataset(), tempfile::tempdir().unwrap());
    let settings = HubSettings { token: Some("hf_secret".into()), ..settings(&fake, cache.path()) };
    read(ID, &ReadOptions::default(), &Hub::new(settings)).unwrap();
    assert!(fake.tokens().len() >= 3 && fake.tokens().iter().all(|token| token == "Bearer hf_secret"));
}

#[test]
fn a_truncated_download_leaves_nothing_and_can_be_repeated() {
    for mood in [Mood::HangUp, Mood::Short] {
        let (fake, cache) = (dataset(), tempfile::tempdir().unwrap());
        fake.set(mood);
        let error = read(ID, &ReadOptions::default(), &hub(&fake, cache.path())).unwrap_err().to_string();
        assert!(error.contains("the download is broken"), "{error}");
        assert!(error.contains("run the command again"), "{error}");
        assert_eq!(left_in(cache.path()).iter().filter(|path| !path.contains("refs")).count(), 0);
        fake.set(Mood::Well);
        assert_eq!(read(ID, &ReadOptions::default(), &hub(&fake, cache.path())).unwrap().examples.len(), 1);
    }
}

#[test]
fn a_broken_transfer_is_taken_up_where_it_stopped() {
    let (fake, cache) = (dataset(), tempfile::tempdir().unwrap());
    fake.set(Mood::HangUpOnce);
    let settings = HubSettings { retries: 1, ..settings(&fake, cache.path()) };
    assert_eq!(read(ID, &ReadOptions::default(), &Hub::new(settings)).unwrap().examples.len(), 1);
    let card =
        cache.path().join("hub/datasets--hospital--rows/snapshots").join(commit("main")).join("README.md");
    assert_eq!(std::fs::read_to_string(card).unwrap(), "# Rows\n", "the two halves fit");
}

#[test]
fn without_data_files_the_converted_branch_is_read() {
    let parquet =
        std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/parquet/snappy.parquet"))
            .unwrap();
    let fake = FakeHub::serve(
        "datasets",
        ID,
        vec![
            file("rows.py", "# a loading script"),
            File { branch: "refs/convert/parquet", name: "default/train/0000.parquet", bytes: parquet },
        ],
    );
    let cache = tempfile::tempdir().unwrap();
    let report = read(ID, &ReadOptions::default(), &hub(&fake, cache.path())).unwrap();
    assert_eq!(report.examples.len(), 12);
    assert_eq!(report.columns.category.as_deref(), Some("bio_category"));
    read(ID, &ReadOptions::default(), &offline(&fake, cache.path())).unwrap();

    let bare = FakeHub::serve("datasets", ID, vec![file("rows.py", "")]);
    let error = read(ID, &ReadOptions::default(), &hub(&bare, tempfile::tempdir().unwrap().path()));
    let error = error.unwrap_err().to_string();
    assert!(error.contains("no csv, tsv, json, jsonl or parquet file found, nor a branch"), "{error}");
}

const INDEX: &str = r#"{"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors","c":"model-00001-of-00002.safetensors"}}"#;

fn model() -> FakeHub {
    FakeHub::serve(
        "models",
        "lab/tiny",
        vec![
            file("config.json", "{}"),
            file("generation_config.json", "{}\n"),
            file("tokenizer.json", "{\"t\":1}"),
            file("model.safetensors.index.json", INDEX),
            file("model-00001-of-00002.safetensors", vec![1u8; 3 << 20]),
            file("model-00002-of-00002.safetensors", vec![2u8; 1000]),
            file("pytorch_model.bin", "never asked for"),
        ],
    )
}

#[test]
fn a_sharded_model_is_brought_into_one_folder() {
    let (fake, cache, sink) = (model(), tempfile::tempdir().unwrap(), Arc::new(MemorySink::default()));
    let dir = hub(&fake, cache.path()).with_sink(sink.clone()).model_dir("lab/tiny").unwrap();
    let mut names: Vec<_> =
        std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(
        names,
        [
            "config.json",
            "generation_config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "tokenizer.json",
        ]
    );
    let last = sink.events().into_iter().rfind(|event| {
        matches!(event, Event::Progress { task, .. } if task == "downloading lab/tiny/model-00001-of-00002.safetensors")
    });
    assert!(matches!(last, Some(Event::Progress { done, total, .. }) if done == 3 << 20 && total == 3 << 20));

    fake.take_log();
    assert_eq!(offline(&fake, cache.path()).model_dir("lab/tiny").unwrap(), dir);
    assert_eq!(hub(&fake, cache.path()).model_dir("lab/tiny").unwrap(), dir);
    assert_eq!(fake.take_log(), ["/api/models/lab/tiny/revision/main"]);
    assert_eq!(
        hub(&fake, cache.path()).model_dir(dir.to_str().unwrap()).unwrap(),
        dir,
        "a folder is taken as it is"
    );
}

#[test]
fn weights_are_checked_against_their_sha256() {
    let (fake, cache) = (model(), tempfile::tempdir().unwrap());
    let client = hub(&fake, cache.path());
    let repository = client.open(consilium_data::hub::Kind::Model, "lab/tiny", "main").unwrap();
    fake.set(Mood::Corrupt);
    let error = repository.file("model-00002-of-00002.safetensors").unwrap_err().to_string();
    assert!(error.contains("its SHA-256 is not the announced one"), "{error}");
    assert!(left_in(cache.path()).iter().all(|path| path.contains("refs")));
    fake.set(Mood::Well);
    let path = repository.file("model-00002-of-00002.safetensors").unwrap();
    assert_eq!(std::fs::read(path).unwrap(), vec![2u8; 1000]);
}

#[test]
fn an_interrupted_download_of_weights_goes_on_in_the_next_run() {
    let (fake, cache) = (model(), tempfile::tempdir().unwrap());
    let client = hub(&fake, cache.path());
    let repository = client.open(consilium_data::hub::Kind::Model, "lab/tiny", "main").unwrap();
    fake.set(Mood::HangUp);
    assert!(repository.file("model-00001-of-00002.safetensors").is_err());
    let left = left_in(cache.path());
    assert!(left.iter().any(|path| path.ends_with(".part")), "{left:?}");
    fake.set(Mood::Well);
    let path = repository.file("model-00001-of-00002.safetensors").unwrap();
    assert_eq!(std::fs::metadata(path).unwrap().len(), 3 << 20);

    // A complete part that never got its name: the hub has nothing to send after the last byte.
    let part = cache
        .path()
        .join("hub/models--lab--tiny/blobs")
        .join(format!("{}.part", consilium_core::hash::sha256_hex(&[2u8; 1000])));
    std::fs::write(&part, [2u8; 1000]).unwrap();
    repository.file("model-00002-of-00002.safetensors").unwrap();
}

#[test]
fn a_model_without_what_it_needs_is_refused() {
    let fake = FakeHub::serve("models", "lab/bare", vec![file("config.json", "{}"), file("model.bin", "")]);
    let cache = tempfile::tempdir().unwrap();
    let error = hub(&fake, cache.path()).model_dir("lab/bare").unwrap_err().to_string();
    assert_eq!(error, "model lab/bare: the repository has no file tokenizer.json");
    let error = hub(&fake, cache.path()).model_dir("nowhere").unwrap_err().to_string();
    assert!(error.contains("neither a file or folder here nor a hub id"), "{error}");
}
