//! `consilium join`: a hospital's part in a federation between machines, from enrolment to its own verdict.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use consilium_core::adapter::Schema;
use consilium_core::{Event, Sink, StopFlag};
use consilium_eval::TableOptions;
use consilium_experiment::hospital::{
    self, AuditLog, Connection, Gate, LateAnswer, Policy, SitePlan, SiteVerdict,
};
use consilium_experiment::{Config, Inputs};
use consilium_federation::TransportError;
use consilium_net::NetError;
use consilium_net::client::{
    AttendedSession, ClientEvent, ClientTls, ConnectOptions, Remote, STOPPED, Score, SessionStatus,
};

use super::simulate::explain;
use super::{dry_run, print_json};
use crate::args::Voice;
use crate::failure::Failure;
use crate::inputs::{self, Base};
use crate::live::{self, Plan};
use crate::net_args::JoinArgs;
use crate::rows::{self, Rows};
use crate::{interrupt, words};

/// What the server is told of this program.
pub const PROGRAM: &str = concat!("consilium ", env!("CARGO_PKG_VERSION"));

/// Takes part from beginning to end, and prints what joining came to for this hospital.
pub fn run(args: &JoinArgs, voice: Voice) -> Result<()> {
    if args.print_policy {
        print!("{}", Policy::example_toml());
        return Ok(());
    }
    let given = |value: &Option<String>, flag: &str| {
        value.clone().ok_or_else(|| Failure::usage(format!("{flag} is needed")))
    };
    let (server, site) = (given(&args.server, "--server")?, given(&args.site, "--site")?);
    let data = given(&args.data, "--data")?;
    let policy = policy(args.policy.as_deref())?;
    let out = match &args.out {
        Some(out) => out.clone(),
        None => PathBuf::from(format!("consilium-{}", consilium_data::file_name(&site)?)),
    };
    if !Path::new(&data).is_file() {
        return Err(Failure::data(format!("{data} is no file"))
            .hint("--data names the file with this hospital's rows")
            .into());
    }

    if args.dry_run {
        return dry_run::run(args, &site, &data, &policy, &out, voice);
    }

    if !is_private(&server) && !args.plaintext_beyond_loopback {
        return Err(Failure::usage(format!("{server} is another machine, and nothing would be encrypted"))
            .hint("use https://, or say --plaintext-beyond-loopback where something else encrypts")
            .into());
    }
    let resume = format!("the same command goes on; what is done lies in {}", out.display());
    let stop = interrupt::stop_flag(interrupt::RESUMABLE)?;
    let view: Arc<dyn Sink> = Arc::from(live::view(voice, Plan::default()));
    let told = view.clone();
    let (delivered, late) = mpsc::channel();
    let remote = Remote::connect(ConnectOptions {
        url: server,
        state_dir: out.join("connection"),
        program: PROGRAM.into(),
        site: site.clone(),
        token: args.token.clone(),
        tls: tls(args)?,
        stop: stop.clone(),
        on_event: Box::new(move |event| {
            told.record(&Event::Note { text: event.to_string() });
            if let ClientEvent::Delivered { round, outcome } = event {
                // Nobody listens any more once the session is over, and then there is nothing left to deliver.
                let _ =
                    delivered.send(LateAnswer { round, refused: (outcome != "accepted").then_some(outcome) });
            }
        }),
    })
    .map_err(|error| stopped_or(error, &stop, &resume))?;
    let mut waiting = |why: &str| view.record(&Event::Note { text: format!("waiting: {why}") });
    let session = remote
        .wait_for_session(&args.session, &mut waiting)
        .map_err(|error| stopped_or(error, &stop, &resume))?;
    let plan = SitePlan::from_json(&session.plan).context("the session's plan")?;
    view.record(&Event::Note { text: invitation(&session, &plan) });

    let config = configuration(args, &plan, &site, &data);
    let rows = rows::for_site(&config, &site)?;
    tell_rows(&rows, view.as_ref());
    let audit = AuditLog::open(&out.join("audit.jsonl"), now())?;
    let clock = now;
    // Asked before the model is fetched: a plan that is refused costs nothing.
    let mut gate =
        Gate::open(&plan, &policy, rows.sites[0].train.len(), audit, &clock).inspect_err(|_| {
            // Nobody needs to wait for this site; that it could not be said changes nothing here.
            let _ = remote.leave();
        })?;
    let inputs = inputs_of(args, &plan, &config, rows)?;
    let mut transport = &remote;
    let lost = |error: NetError| TransportError(error.to_string());
    let mut first = |plan: &SitePlan| remote.first_model(&plan.adapter_sha256).map_err(lost);
    let mut last = |_: &Schema| remote.final_model().map_err(lost);
    let connection = Connection {
        transport: &mut transport,
        late_answers: &mut || late.try_iter().collect(),
        first_adapter: &mut first,
        final_adapter: &mut last,
    };
    let folder = out.join("run");
    let verdict = hospital::run(&config, &inputs, &mut gate, connection, &folder, view.as_ref(), &stop)
        .map_err(|error| explain(error, &resume))?;
    drop(view);
    print(&verdict, &folder, &remote, voice)?;
    // Last, since a server that is gone for good would be waited for.
    if gate.share_scores()? {
        remote.report_scores(&scores(&verdict)).map_err(|error| stopped_or(error, &stop, &resume))?;
    }
    Ok(())
}

/// The certificates that were named.
fn tls(args: &JoinArgs) -> Result<ClientTls> {
    let read = |path: &PathBuf| {
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
    };
    let ca = args.ca.as_ref().map(read).transpose()?;
    let pair = args.cert.as_ref().zip(args.key.as_ref());
    let identity = pair.map(|(certificate, key)| anyhow::Ok((read(certificate)?, read(key)?))).transpose()?;
    Ok(ClientTls { ca, identity })
}

/// Whether `url` names this machine, or its traffic is encrypted.
fn is_private(url: &str) -> bool {
    let rest = match url.split_once("://") {
        Some(("https", _)) => return true,
        Some((_, rest)) => rest,
        None => url,
    };
    let host = rest.split('/').next().unwrap_or(rest);
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host).trim_matches(['[', ']']);
    host == "localhost" || host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

fn policy(path: Option<&Path>) -> Result<Policy> {
    let Some(path) = path else { return Ok(Policy::default()) };
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Policy::from_toml(&text).with_context(|| path.display().to_string())
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A wait that ended because the user asked for it is no failure of the server's.
fn stopped_or(error: NetError, stop: &StopFlag, resume: &str) -> anyhow::Error {
    match stop.is_raised() && error.to_string().contains(STOPPED) {
        true => Failure::stopped(resume).into(),
        false => error.into(),
    }
}

fn invitation(session: &AttendedSession, plan: &SitePlan) -> String {
    let status = match session.status {
        SessionStatus::Gathering => "waiting for its sites",
        SessionStatus::Running => "running",
        SessionStatus::Finished => "finished",
        _ => "stopped",
    };
    let start = match plan.given_adapter {
        true => format!(", from the adapter {} (its model is the base here)", plan.adapter_sha256),
        false => String::new(),
    };
    format!(
        "session {} ({status}): {} rounds on {}, rank {}{start}, sites {}",
        session.name,
        plan.federation.rounds,
        plan.model_id,
        plan.lora.rank,
        session.roster.join(", ")
    )
}

/// The session's configuration for this site.
pub fn configuration(args: &JoinArgs, plan: &SitePlan, site: &str, data: &str) -> Config {
    let mut config = plan.config_for(site, data, args.test_data.as_deref(), args.threads);
    config.data.columns.question.clone_from(&args.question_column);
    config.data.columns.answer.clone_from(&args.answer_column);
    config.data.columns.id.clone_from(&args.id_column);
    config
}

/// What this site works on: the session's base model, its tokenizer, this site's rows.
fn inputs_of(args: &JoinArgs, plan: &SitePlan, config: &Config, rows: Rows) -> Result<Inputs> {
    let id = args.model.as_deref().unwrap_or(&plan.model_id);
    let Base { model, tokenizer, .. } = inputs::base(id, None, plan.precision)?;
    let found = model.info().sha256;
    if found != plan.model_sha256 {
        return Err(Failure::failed(format!(
            "the session trains a base model with SHA-256 {}, and {id} has {found}",
            plan.model_sha256
        ))
        .hint("bring exactly the session's model here, and name it with --model")
        .into());
    }
    let template = inputs::template(&config.data)?;
    Ok(Inputs { model, tokenizer, template, shards: rows.sites, data: rows.summary })
}

fn tell_rows(rows: &Rows, view: &dyn Sink) {
    let data = &rows.sites[0];
    let (train, test) = (data.train.len(), data.test.len());
    let text = format!("{train} rows to train on, {test} to judge by; they stay here");
    view.record(&Event::Note { text });
}

/// What the server is told where the policy allows it: means on this site's test rows, no text.
fn scores(verdict: &SiteVerdict) -> Vec<Score> {
    verdict
        .scores
        .iter()
        .flat_map(|model| {
            consilium_eval::Metric::ALL.into_iter().filter_map(move |metric| {
                Some(Score {
                    model: model.model.clone(),
                    metric: metric.name().into(),
                    value: model.all.get(metric)?,
                    rows: model.all.rows as u64,
                })
            })
        })
        .collect()
}

fn print(verdict: &SiteVerdict, folder: &Path, remote: &Remote, voice: Voice) -> Result<()> {
    if voice.json {
        return print_json(verdict);
    }
    let color = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    print!("{}", verdict.render(&TableOptions { color, ascii: false }));
    let wire = remote.wire();
    println!(
        "\n{} went to the server and {} came; no row did",
        words::bytes(wire.up),
        words::bytes(wire.down)
    );
    println!("  verdict   {}", folder.join(hospital::run::SUMMARY_FILE).display());
    println!("  adapters  {}", folder.join("adapters").display());
    println!("  answers   {} (they stay here)", folder.join("predictions.jsonl").display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::is_private;

    #[test]
    fn only_this_machine_is_reached_without_encryption() {
        for url in [
            "http://localhost:8092",
            "http://127.0.0.1:8092/",
            "127.0.0.1:1",
            "http://[::1]:8092",
            "https://a.b",
        ] {
            assert!(is_private(url), "{url}");
        }
        for url in [
            "http://10.0.0.5:8092",
            "fed.example.org:8092",
            "http://localhost.evil.org",
            "http://[fd00::1]:1",
        ] {
            assert!(!is_private(url), "{url}");
        }
    }
}
