//! `consilium serve`: one process that holds sessions, takes updates and folds them.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use consilium_core::npz;
use consilium_engine::initial_adapter;
use consilium_experiment::Config;
use consilium_experiment::hospital::SitePlan;
use consilium_net::server::store::{Role, Status};
use consilium_net::server::tls::TlsFiles;
use consilium_net::server::{CoreSettings, Principal, Roster, ServeOptions, Server, SessionSpec};

use super::print_json;
use crate::args::Voice;
use crate::config::{self, Layer};
use crate::failure::Failure;
use crate::inputs::{self, Base};
use crate::interrupt;
use crate::live::{Board, Seen};
use crate::net_args::{LogFormat, ServeArgs, SessionOptions};

/// How long the operator's token of this start is good: until the next one, in practice.
const TOKEN_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);
/// How often the screen and the stop flag are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a site must have been silent before `--until-finished` ends the server.
const FAREWELL: Duration = Duration::from_secs(5);
const STOPPING: &str = "stopping; everything acknowledged is kept, and open rounds go on at the next start";

/// Serves until Ctrl-C, or until the session has ended where that was asked for.
pub fn run(args: &ServeArgs, voice: Voice) -> Result<()> {
    let loopback = args.listen.ip().is_loopback();
    let tls = args.tls_cert.clone().zip(args.tls_key.clone());
    let tls = tls.map(|(certificate, key)| TlsFiles { certificate, key, client_ca: args.client_ca.clone() });
    if !loopback && tls.is_none() && !args.plaintext_beyond_loopback {
        return Err(Failure::usage(format!(
            "{} can be reached from other machines, and nothing would be encrypted",
            args.listen
        ))
        .hint(
            "give it a certificate with --tls-cert and --tls-key (`consilium pki` makes one), or listen on 127.0.0.1 \
             behind a proxy that adds TLS, or say --plaintext-beyond-loopback",
        )
        .into());
    }
    if !loopback && args.open {
        return Err(Failure::usage("--open is for a loopback address: anybody could become any hospital")
            .hint("leave it out, and hand out tokens with `consilium enroll SITE`")
            .into());
    }
    let open_enrolment = loopback && !args.closed;
    let settings =
        CoreSettings { open_enrolment, keep_updates: args.keep_updates, ..CoreSettings::default() };
    let options = ServeOptions { folder: args.folder.clone(), listen: args.listen, settings, tls };
    let stop = interrupt::stop_flag(STOPPING)?;
    use_small_pages();
    let server = Server::start(options)?;
    let token = server.core().staff_token("operator", Role::Operator, TOKEN_LIFE)?;
    let token_file = args.folder.join("operator.token");
    consilium_net::write_secret(&token_file, token.as_bytes())?;
    let operator = Principal { name: "operator".into(), role: Role::Operator };
    let known = server.core().sessions().iter().any(|session| session.name == args.session.name);
    if !args.no_session && !known {
        let (spec, archive) = spec_of(&args.session, None)?;
        server.core().order(&operator, spec, &archive)?;
    }
    let mut face = match args.log_format {
        _ if voice.quiet || voice.json => Face::Silent,
        LogFormat::Json => Face::Json,
        LogFormat::Text => {
            greet(&server, args, open_enrolment, &token_file);
            match std::io::stdout().is_terminal() {
                true => Face::Board(Board::new()),
                false => Face::Lines,
            }
        }
    };
    let watched = (!args.no_session).then_some(args.session.name.as_str());
    let mut told = Told::default();
    loop {
        told.tell(&server, &face)?;
        face.draw(&server)?;
        let over =
            watched.map(|name| server.core().session(name)).transpose()?.is_some_and(|s| s.status.is_over());
        if stop.is_raised() || (over && args.until_finished && all_gone(&server)?) {
            break;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    drop(face);
    if voice.json {
        let history = watched.map(|name| server.core().history(name)).transpose()?.unwrap_or_default();
        let mut shown = serde_json::json!(history);
        shown["sessions"] = serde_json::json!(server.core().sessions());
        print_json(&shown)?;
    }
    Ok(())
}

/// The allocator asks for pages of 2 MiB, which is good for training and doubles what a small server holds.
fn use_small_pages() {
    #[cfg(target_os = "linux")]
    {
        // Refused by some sandboxes, and then everything works as well, with more memory.
        let _ = rustix::thread::disable_transparent_huge_pages(true);
    }
}

/// Whether no site has been heard of for a while: until then some may still fetch the last model.
fn all_gone(server: &Server) -> Result<bool> {
    let sites = server.core().sites()?;
    Ok(sites.iter().all(|(_, ago)| ago.is_none_or(|ago| ago > FAREWELL)))
}

fn greet(server: &Server, args: &ServeArgs, open: bool, token_file: &Path) {
    let scheme = if args.tls_cert.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{}", server.address());
    println!("Consilium serves on {url}; its folder is {}", args.folder.display());
    for session in server.core().sessions() {
        let (name, status) = (&session.name, session.status.word());
        println!("session {name}: {status}, {} rounds, sites {}", session.rounds, session.roster.join(", "));
    }
    let ip = server.address().ip();
    if ip.is_unspecified() {
        println!("({ip} is every address of this machine: write its name instead)");
    }
    if args.tls_cert.is_some() {
        println!(
            "(add --ca with the authority's certificate, and --cert and --key where --client-ca wants them)"
        );
    }
    println!("\nHospitals join with:");
    if open {
        println!("  consilium join --server {url} --site NAME --data hospital.csv");
    } else {
        println!(
            "  consilium enroll NAME --server {url} --token-file {}   (here, once a hospital)",
            token_file.display()
        );
        println!("  CONSILIUM_TOKEN=... consilium join --server {url} --site NAME --data hospital.csv");
        if args.client_ca.is_some() {
            println!("  (no token for a site with its own certificate from `consilium pki site NAME`)");
        }
    }
    println!("\nLook: consilium session list --server {url} --token-file {}", token_file.display());
    println!("Stop with Ctrl-C; the same command goes on.\n");
}

/// How changes are told.
enum Face {
    Silent,
    /// One JSON object a line.
    Json,
    /// Sentences.
    Lines,
    /// Sentences above a board that is always true.
    Board(Board),
}

impl Face {
    fn say(&self, line: &str) {
        match self {
            Self::Silent => {}
            Self::Json | Self::Lines => println!("{line}"),
            Self::Board(board) => board.say(line),
        }
    }

    fn draw(&mut self, server: &Server) -> Result<()> {
        let Self::Board(board) = self else { return Ok(()) };
        let core = server.core();
        let sites = core.sites()?;
        let silent = sites.iter().filter_map(|(site, ago)| Some((site.name.clone(), (*ago)?)));
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let seen = Seen {
            sessions: core.sessions(),
            silent_ms: silent.map(|(site, ago)| (site, ago.as_secs_f64() * 1e3)).collect(),
            counters: core.counters(),
            trouble: core.failure(),
            now_ms,
        };
        board.draw(&seen.lines());
        Ok(())
    }
}

/// What has been told of each session.
#[derive(Default)]
struct Told(BTreeMap<String, (usize, Status, u32, usize, u32)>);

impl Told {
    /// A line for each change.
    fn tell(&mut self, server: &Server, face: &Face) -> Result<()> {
        for session in server.core().sessions() {
            let (came, waiting) = (session.attended.len(), session.awaited.len());
            let now = (came, session.status, session.round, waiting, session.commits);
            let before = self.0.insert(session.id.clone(), now);
            if before == Some(now) {
                continue;
            }
            if matches!(face, Face::Json) {
                face.say(&serde_json::to_string(&session)?);
                continue;
            }
            let name = &session.name;
            match session.status {
                // The board shows these better.
                Status::Gathering | Status::Running if matches!(face, Face::Board(_)) => {}
                Status::Gathering => {
                    let expected = session.roster.len().max(came);
                    face.say(&format!("{name}: {came} of {expected} sites have reported"));
                }
                Status::Running if waiting > 0 => face.say(&format!(
                    "{name}: round {} of {}, waiting for {}",
                    session.round,
                    session.rounds,
                    session.awaited.join(", ")
                )),
                Status::Running => {}
                Status::Finished | Status::Stopped => {
                    let rounds = server.core().history(name)?.rounds.len();
                    face.say(&format!(
                        "{name}: {} after {rounds} rounds, {} of them made a model; the last is {}",
                        session.status.word(),
                        session.commits,
                        session.model.adapter
                    ));
                }
            }
        }
        Ok(())
    }
}

/// The configuration of a session: the demo's, unless something else is named.
///
/// # Errors
/// As `simulate`'s.
pub fn configuration(options: &SessionOptions) -> Result<Config> {
    let mut flags = Layer::default();
    flags.number("federation.rounds", options.rounds)?;
    flags.number("federation.quorum", options.quorum)?;
    flags.real("federation.deadline_s", options.deadline);
    flags.list("data.sites", &options.sites);
    let run = options.run_options();
    match options.config.is_none() && options.preset.is_none() {
        true => config::resolve_over(config::demo()?, &run, &flags),
        false => config::resolve(&run, &flags),
    }
}

/// A session's specification and the archive of a fresh adapter for it, which needs the base model. A session that
/// starts from another adapter is told its hash.
///
/// # Errors
/// A configuration or model that cannot be used, or sites that are not named.
pub fn spec_of(options: &SessionOptions, given: Option<String>) -> Result<(SessionSpec, Vec<u8>)> {
    let config = configuration(options)?;
    let Base { model, .. } =
        inputs::base(&config.model.id, config.model.path.as_deref(), config.model.precision)?;
    let seed = initial_adapter(model.config(), &config.lora, config.seed);
    let (roster, sites) = match (options.first, config.data.sites.len()) {
        (Some(count), _) => (Roster::First(count), count),
        (None, 0) => {
            return Err(Failure::usage("the session names no sites")
                .hint("--sites north,south,east, or --first 3 for the first three that report")
                .into());
        }
        (None, count) => (Roster::Named(config.data.sites.clone()), count),
    };
    config.validate_for_sites(sites)?;
    let given_adapter = given.is_some();
    let first = given.unwrap_or_else(|| seed.sha256());
    let plan = SitePlan { given_adapter, ..SitePlan::of(&config, model.info().sha256, first.clone()) };
    plan.validate()?;
    let task = plan.task(1, first);
    let spec = SessionSpec {
        name: options.name.clone(),
        plan: plan.to_json(),
        settings: plan.session_settings(sites),
        weights: config.federation.weights,
        work: task.work,
        scope: task.scope,
        training: task.training,
        roster,
        schema: seed.schema(),
    };
    Ok((spec, npz::encode(&seed)))
}
