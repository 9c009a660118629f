//! How a server bears many sites: time from a round's opening to the task in a site's hands, rounds a second, memory.
//!
//! `cargo run --release -p consilium-net --example load -- 5 100 500` starts a server of its own for each number of
//! sites. Sites are tasks of one program with a connection each; they train nothing and send adapters of SmolLM2-135M's
//! size (rank 8, q and v: 460,800 values; `VALUES=1000 ROUNDS=2` before the command for others, and other than four rounds), so what is measured is the server
//! and this program together on one machine.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use consilium_core::hash::sha256_hex;
use consilium_core::{Adapter, Tensor, npz};
use consilium_federation::{LocalWork, ScheduleScope, SessionSettings, Training, Weights};
use consilium_net::manifest::{Manifest, verify};
use consilium_net::proto::federation_client::FederationClient;
use consilium_net::proto::next_task_response::Answer;
use consilium_net::proto::{self, SubmitRequest, UploadChunk};
use consilium_net::server::store::Role;
use consilium_net::server::{CoreSettings, Principal, Roster, ServeOptions, Server, SessionSpec};
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

/// The allocator of `consilium serve`, which this stands for.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Fault = Box<dyn std::error::Error + Send + Sync>;

const DEADLINE_S: f64 = 600.0;
const CHUNK: usize = 256 * 1024;

fn main() -> Result<(), Fault> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, folder, sites] = &words[..]
        && mode == "--server"
    {
        return serve(Path::new(folder), sites.parse()?);
    }
    let mut out = std::io::stdout();
    writeln!(out, "sites  dispatch p50  p99 (ms)  rounds/s  updates/s  server's peak memory (MiB)")?;
    for word in if words.is_empty() { vec!["5".into(), "100".into(), "500".into()] } else { words } {
        let sites: usize = word.parse()?;
        let figures = measure(sites)?;
        writeln!(out, "{figures}")?;
    }
    Ok(())
}

/// A number from the environment.
fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn rounds() -> u32 {
    u32::try_from(setting("ROUNDS", 4)).unwrap_or(u32::MAX)
}

fn adapter(first: f32) -> Adapter {
    let values = setting("VALUES", 460_800);
    let mut data = vec![0.01; values];
    data[0] = first;
    Adapter::new(vec![Tensor { name: "w".into(), shape: vec![values], data }]).expect("finite values")
}

/// The server, until its standard input ends.
fn serve(folder: &Path, sites: usize) -> Result<(), Fault> {
    // As `consilium serve` does.
    #[cfg(target_os = "linux")]
    rustix::thread::disable_transparent_huge_pages(true)?;
    let settings = CoreSettings { open_enrolment: true, ..CoreSettings::default() };
    let listen = "127.0.0.1:0".parse()?;
    let server = Server::start(ServeOptions { folder: folder.to_owned(), listen, settings, tls: None })?;
    let settings = SessionSettings {
        rounds: rounds(),
        sites_per_round: None,
        quorum: sites,
        deadline_s: DEADLINE_S,
        seed: 1,
    };
    let seed = adapter(0.0);
    let spec = SessionSpec {
        name: "load".into(),
        plan: "{}".into(),
        settings,
        weights: Weights::Uniform,
        work: LocalWork::Steps(1),
        scope: ScheduleScope::Session,
        training: Training::default(),
        roster: Roster::First(sites),
        schema: seed.schema(),
    };
    let operator = Principal { name: "operator".into(), role: Role::Operator };
    server.core().order(&operator, spec, &npz::encode(&seed))?;
    writeln!(std::io::stdout(), "{}", server.address())?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// Runs one session with `sites` sites; a row of the table.
fn measure(sites: usize) -> Result<String, Fault> {
    let folder = std::env::temp_dir().join(format!("consilium-load-{}-{sites}", std::process::id()));
    let mut server = Command::new(std::env::current_exe()?)
        .args(["--server", &folder.to_string_lossy(), &sites.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut address = String::new();
    BufReader::new(server.stdout.take().ok_or("no output")?).read_line(&mut address)?;
    let url = format!("http://{}", address.trim());

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let waits = Arc::new(Mutex::new(Vec::new()));
    let started = Instant::now();
    runtime.block_on(async {
        let tasks: Vec<_> =
            (0..sites).map(|k| tokio::spawn(take_part(url.clone(), k, waits.clone()))).collect();
        for task in tasks {
            task.await??;
        }
        Ok::<_, Fault>(())
    })?;
    let seconds = started.elapsed().as_secs_f64();
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.id())).unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak_mib =
        peak.and_then(|text| text.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0;
    drop(server.stdin.take());
    server.wait()?;
    std::fs::remove_dir_all(&folder)?;
    let mut waits = std::mem::take(&mut *waits.lock().map_err(|_| "a site panicked")?);
    waits.sort_by(f64::total_cmp);
    let at = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize];
    let rounds = f64::from(rounds());
    Ok(format!(
        "{sites:>5}  {:>12.1}  {:>8.1}  {:>8.2}  {:>9.1}  {peak_mib:>26.1}",
        at(0.5),
        at(0.99),
        rounds / seconds,
        rounds * sites as f64 / seconds
    ))
}

/// One site: enrols, reports, and answers every task at once.
async fn take_part(url: String, k: usize, waits: Arc<Mutex<Vec<f64>>>) -> Result<(), Fault> {
    // Made before the clock runs: a site's own work is not what is measured.
    let archive = npz::encode(&adapter(k as f32));
    let archive_sha256 = sha256_hex(&archive);
    let channel = Endpoint::from_shared(url)?.connect().await?;
    let mut client = FederationClient::new(channel);
    let hello = client.hello(proto::HelloRequest { versions: vec![1], program: "load".into() }).await?;
    let key = hello.into_inner().server_key;
    let enrolled =
        client.enrol(proto::EnrolRequest { site: format!("site-{k:04}"), token: String::new() }).await?;
    let token = format!("Bearer {}", enrolled.into_inner().access_token);
    let attended = client.attend(with_token(proto::AttendRequest::default(), &token)?).await?.into_inner();
    let session_id = attended.session.ok_or("no session")?.id;
    loop {
        let asked = proto::NextTaskRequest { session_id: session_id.clone(), wait_s: 60 };
        let task = match client.next_task(with_token(asked, &token)?).await?.into_inner().answer {
            Some(Answer::Task(task)) => task,
            Some(Answer::Finished(_)) => return Ok(()),
            _ => continue,
        };
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64() * 1000.0;
        let manifest = verify(&key, &task.manifest, &task.signature)?;
        let opened_ms = manifest.deadline_ms as f64 - DEADLINE_S * 1000.0;
        waits.lock().map_err(|_| "a site panicked")?.push(now_ms - opened_ms);
        send(&mut client, &token, &manifest, &archive, &archive_sha256).await?;
    }
}

fn with_token<T>(message: T, token: &str) -> Result<Request<T>, Fault> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", token.parse()?);
    Ok(request)
}

async fn send(
    client: &mut FederationClient<Channel>,
    token: &str,
    manifest: &Manifest,
    archive: &[u8],
    archive_sha256: &str,
) -> Result<(), Fault> {
    let (session_id, round) = (manifest.session.clone(), manifest.task.round);
    let archive_sha256 = archive_sha256.to_owned();
    let begin = proto::BeginUploadRequest {
        session_id: session_id.clone(),
        round,
        archive_sha256: archive_sha256.clone(),
        bytes: archive.len() as u64,
    };
    let upload_id = client.begin_upload(with_token(begin, token)?).await?.into_inner().upload_id;
    let chunks: Vec<UploadChunk> = archive
        .chunks(CHUNK)
        .enumerate()
        .map(|(i, data)| UploadChunk {
            upload_id: upload_id.clone(),
            offset: (i * CHUNK) as u64,
            data: data.to_vec(),
        })
        .collect();
    client.upload(with_token(tokio_stream::iter(chunks), token)?).await?;
    let submit = SubmitRequest {
        session_id,
        round,
        base_sha256: manifest.task.base_sha256.clone(),
        upload_id,
        archive_sha256,
        examples: 1,
        metrics: None,
    };
    let answer = client.submit(with_token(submit, token)?).await?.into_inner();
    match answer.outcome() {
        proto::Outcome::Accepted => Ok(()),
        other => Err(format!("{other:?}: {}", answer.detail).into()),
    }
}
