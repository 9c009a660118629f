//! The command line of a federation between machines: `serve`, `join`, and the operator's commands.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::options::{PresetName, RunOptions};

/// Where a server lives unless told otherwise.
pub const DEFAULT_FOLDER: &str = "consilium-server";

/// What a session is made of.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Session")]
pub struct SessionOptions {
    /// Name of the session
    #[arg(long, value_name = "NAME", default_value = "session-1")]
    pub name: String,
    /// Named configuration to start from; without it and --config the demo's
    #[arg(long, value_enum, env = "CONSILIUM_PRESET")]
    pub preset: Option<PresetName>,
    /// TOML file with the sections model, data, lora, train, federation and eval, as for `simulate`
    #[arg(long, value_name = "FILE.toml", env = "CONSILIUM_CONFIG")]
    pub config: Option<PathBuf>,
    /// Set any key of the configuration, federation.rounds=3 for example; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Seed of everything random
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,
    /// Rounds in all
    #[arg(long, value_name = "N")]
    pub rounds: Option<u32>,
    /// Time that a round may take, seconds
    #[arg(long, value_name = "S")]
    pub deadline: Option<f64>,
    /// Updates that a round needs
    #[arg(long, value_name = "N")]
    pub quorum: Option<u32>,
    /// The sites that take part, by name; the session begins when all have reported [default: those of the configuration]
    #[arg(long, value_name = "A,B,...", value_delimiter = ',')]
    pub sites: Vec<String>,
    /// Instead of names: begin with the first so many sites that report
    #[arg(long, value_name = "N", conflicts_with = "sites")]
    pub first: Option<usize>,
}

impl SessionOptions {
    /// The part that every configured command has.
    pub fn run_options(&self) -> RunOptions {
        RunOptions {
            preset: self.preset,
            config: self.config.clone(),
            set: self.set.clone(),
            seed: self.seed,
            threads: None,
            out: None,
        }
    }
}

/// `--log-format`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Sentences for people
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

/// `serve`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  consilium serve                                   the demo's session, for hospitals on this machine
  consilium serve --config fed.toml --sites north,south,east
  consilium serve --listen 0.0.0.0:8092 --tls-cert pki/server.pem --tls-key pki/server.key
      for other machines: encrypted, and with a token for each hospital (consilium pki --help, consilium enroll --help)
  consilium serve --no-session                      only serve; order sessions with `consilium session start`

A server stopped or killed at any moment goes on where it was: start it again with the same --folder.
It keeps adapters and numbers about them. No row of a hospital's data reaches it.")]
pub struct ServeArgs {
    /// Address to listen on, for gRPC and HTTP alike
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8092", env = "CONSILIUM_LISTEN")]
    pub listen: SocketAddr,
    /// Folder of the server's database, adapters and keys
    #[arg(long, value_name = "DIR", default_value = DEFAULT_FOLDER, env = "CONSILIUM_FOLDER")]
    pub folder: PathBuf,
    /// Let sites enrol without a token; the default on a loopback address, refused on any other
    #[arg(long, conflicts_with = "closed")]
    pub open: bool,
    /// Want an enrolment token (`consilium enroll SITE`) also on a loopback address
    #[arg(long)]
    pub closed: bool,
    /// PEM with the server's certificate; with --tls-key everything is encrypted (TLS 1.3)
    #[arg(long, value_name = "FILE", requires = "tls_key", help_heading = "Encryption")]
    pub tls_cert: Option<PathBuf>,
    /// PEM with the server's private key
    #[arg(long, value_name = "FILE", requires = "tls_cert", help_heading = "Encryption")]
    pub tls_key: Option<PathBuf>,
    /// PEM with the authority that signs the sites' certificates; without one from it nobody is let in (mutual TLS)
    #[arg(long, value_name = "FILE", requires = "tls_cert", help_heading = "Encryption")]
    pub client_ca: Option<PathBuf>,
    /// Listen beyond this machine without encryption, for example behind a proxy that adds it
    #[arg(long)]
    pub plaintext_beyond_loopback: bool,
    /// Keep each site's updates after their round; by default only the averaged models stay
    #[arg(long)]
    pub keep_updates: bool,
    /// Make no session; take up those that are there
    #[arg(long)]
    pub no_session: bool,
    /// How changes of sessions are told on standard output
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub log_format: LogFormat,
    /// End when the session has ended
    #[arg(long)]
    pub until_finished: bool,
    #[command(flatten)]
    pub session: SessionOptions,
}

/// `join`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  consilium join --server http://127.0.0.1:8092 --site north --data north.csv
  consilium join --server http://127.0.0.1:8092 --site north --data north.csv --dry-run
      list every field and byte that would leave, and send nothing
  consilium join --print-policy > policy.toml
      what this hospital allows: edit it, then --policy policy.toml

Only outbound connections. Rows, questions and answers stay here; an adapter, a row count and training numbers leave.
Stopped or killed at any moment, the same command goes on: a finished training is never lost or repeated.")]
pub struct JoinArgs {
    /// The server
    #[arg(long, value_name = "URL", required_unless_present = "print_policy", env = "CONSILIUM_SERVER")]
    pub server: Option<String>,
    /// This hospital's name in the federation
    #[arg(long, value_name = "NAME", required_unless_present = "print_policy")]
    pub site: Option<String>,
    /// One-time enrolment token, needed at the first contact where the server wants one
    #[arg(long, value_name = "TOKEN", env = "CONSILIUM_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Rows of this hospital: a CSV, JSONL or Parquet file
    #[arg(long, value_name = "FILE", required_unless_present = "print_policy")]
    pub data: Option<String>,
    /// Test rows, where they are not to be carved out of --data
    #[arg(long, value_name = "FILE")]
    pub test_data: Option<String>,
    /// Column of the question
    #[arg(long, value_name = "COLUMN")]
    pub question_column: Option<String>,
    /// Column of the answer
    #[arg(long, value_name = "COLUMN")]
    pub answer_column: Option<String>,
    /// Column of the row's id
    #[arg(long, value_name = "COLUMN")]
    pub id_column: Option<String>,
    /// Base model: a directory or a Hugging Face id [default: the one that the session names]
    #[arg(long, value_name = "DIR|ID")]
    pub model: Option<String>,
    /// What this hospital allows [default: a built-in policy; see --print-policy]
    #[arg(long, value_name = "FILE.toml")]
    pub policy: Option<PathBuf>,
    /// Print the built-in policy with explanations, and do nothing else
    #[arg(long)]
    pub print_policy: bool,
    /// PEM with the authority of the server's certificate [default: the web's public authorities]
    #[arg(long, value_name = "FILE", help_heading = "Encryption")]
    pub ca: Option<PathBuf>,
    /// PEM with this site's certificate, where the server wants one
    #[arg(long, value_name = "FILE", requires = "key", help_heading = "Encryption")]
    pub cert: Option<PathBuf>,
    /// PEM with its private key
    #[arg(long, value_name = "FILE", requires = "cert", help_heading = "Encryption")]
    pub key: Option<PathBuf>,
    /// Reach another machine without encryption, for example through a tunnel
    #[arg(long, help_heading = "Encryption")]
    pub plaintext_beyond_loopback: bool,
    /// The session to take part in [default: the newest one with this site]
    #[arg(long, value_name = "NAME", default_value = "")]
    pub session: String,
    /// Folder for credentials, the outbox, adapters and the verdict [default: consilium-SITE]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// List every field and byte that would leave, and send nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Threads to compute with; 0 takes all cores; results do not depend on it
    #[arg(long, value_name = "N", default_value_t = 0, env = "CONSILIUM_THREADS")]
    pub threads: usize,
}

/// How an operator's command reaches the server.
#[derive(Debug, Args)]
#[command(next_help_heading = "Server")]
pub struct Operator {
    /// The server
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8092", env = "CONSILIUM_SERVER")]
    pub server: String,
    /// PEM with the authority of the server's certificate [default: the web's public authorities]
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// PEM with a certificate of your own, where the server wants one (`consilium pki site operator`)
    #[arg(long, value_name = "FILE", requires = "key")]
    pub cert: Option<PathBuf>,
    /// PEM with its private key
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// File with the operator's token, as `serve` writes it into its folder
    #[arg(long, value_name = "FILE", default_value = "consilium-server/operator.token")]
    pub token_file: PathBuf,
}

/// `session`
#[derive(Debug, Subcommand)]
pub enum SessionCommand {
    /// Order a session
    #[command(after_help = "\
Examples:
  consilium session start --name autumn --config fed.toml --sites north,south
  consilium session start --name winter --config fed.toml --sites north,south --from autumn
      start from the model that the session autumn ended with; --from also takes the name of an uploaded model")]
    Start {
        /// Start from this uploaded model, or from the last one of this session, instead of a fresh adapter
        #[arg(long, value_name = "MODEL|SESSION")]
        from: Option<String>,
        #[command(flatten)]
        session: Box<SessionOptions>,
        #[command(flatten)]
        operator: Operator,
    },
    /// Every session
    List {
        #[command(flatten)]
        operator: Operator,
    },
    /// One session with its rounds, models and reported scores
    Show {
        /// Name or id
        name: String,
        #[command(flatten)]
        operator: Operator,
    },
    /// End a session after its last committed round
    Stop {
        /// Name or id
        name: String,
        #[command(flatten)]
        operator: Operator,
    },
    /// Go on with a stopped session
    Continue {
        /// Name or id
        name: String,
        #[command(flatten)]
        operator: Operator,
    },
}

/// `clients`
#[derive(Debug, Subcommand)]
pub enum ClientsCommand {
    /// Every enrolled site and when it was last heard of
    List {
        #[command(flatten)]
        operator: Operator,
    },
    /// One site: when it was last heard of, and its rounds in every session
    Show {
        /// The site
        name: String,
        #[command(flatten)]
        operator: Operator,
    },
    /// Shut a site out, at once
    Revoke {
        /// The site
        name: String,
        #[command(flatten)]
        operator: Operator,
    },
}

/// `models`
#[derive(Debug, Subcommand)]
pub enum ModelsCommand {
    /// The models of a session, round by round; without a name the uploaded ones
    List {
        /// Name or id of the session
        session: Option<String>,
        #[command(flatten)]
        operator: Operator,
    },
    /// Upload an adapter (a PEFT directory) under a name, for `session start --from NAME`
    Upload {
        /// Directory with adapter_config.json and adapter_model.safetensors
        #[arg(value_name = "DIR")]
        adapter: PathBuf,
        /// Its name on the server [default: the directory's]
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        #[command(flatten)]
        operator: Operator,
    },
    /// Fetch a model's archive (npz)
    Download {
        /// Name or id of the session, or name of an uploaded model
        #[arg(value_name = "SESSION|MODEL")]
        session: String,
        /// The round of the session that made it [default: the last one]; 0 is the seed
        #[arg(long, value_name = "N")]
        round: Option<u32>,
        /// File to write
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        #[command(flatten)]
        operator: Operator,
    },
}

/// `audit`
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Check every link of a server's hash-chained audit log, and every adapter against its hash
    Verify {
        /// The server's folder
        #[arg(long, value_name = "DIR", default_value = DEFAULT_FOLDER, env = "CONSILIUM_FOLDER")]
        folder: PathBuf,
    },
    /// Print the log
    Show {
        /// The server's folder
        #[arg(long, value_name = "DIR", default_value = DEFAULT_FOLDER, env = "CONSILIUM_FOLDER")]
        folder: PathBuf,
    },
}

/// `pki`
#[derive(Debug, Subcommand)]
pub enum PkiCommand {
    /// Make the federation's own certificate authority
    Init {
        /// Folder of the authority; its ca.key stays there
        #[arg(long, value_name = "DIR", default_value = "pki")]
        folder: PathBuf,
    },
    /// Make a server's certificate
    Server {
        /// File name of the certificate and key
        #[arg(default_value = "server")]
        name: String,
        /// DNS name or IP address by which sites reach the server; repeatable
        #[arg(long = "host", value_name = "NAME", required = true)]
        hosts: Vec<String>,
        /// Folder of the authority
        #[arg(long, value_name = "DIR", default_value = "pki")]
        folder: PathBuf,
    },
    /// Make a site's certificate
    Site {
        /// The site; file name of the certificate and key
        name: String,
        /// Folder of the authority
        #[arg(long, value_name = "DIR", default_value = "pki")]
        folder: PathBuf,
    },
}

/// `server`
#[derive(Debug, Subcommand)]
pub enum ServerCommand {
    /// Copy a server's folder, also while it runs
    Backup {
        /// The server's folder
        #[arg(long, value_name = "DIR", default_value = DEFAULT_FOLDER, env = "CONSILIUM_FOLDER")]
        folder: PathBuf,
        /// New folder for the copy
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Bring a backup back as a new server's folder, after checking every adapter and the audit log
    Restore {
        /// The backup
        backup: PathBuf,
        /// New folder for the server
        #[arg(long, value_name = "DIR", default_value = DEFAULT_FOLDER, env = "CONSILIUM_FOLDER")]
        folder: PathBuf,
    },
}
