//! Commands on a server's own files: `pki`, `server backup` and `restore`, `audit`.

use std::path::Path;

use anyhow::Result;
use consilium_net::pki::{self, Subject};
use consilium_net::server::backup;
use consilium_net::server::store::Store;
use serde_json::{Value, json};

use super::print_json;
use crate::args::Voice;
use crate::failure::Failure;
use crate::net_args::{AuditCommand, PkiCommand, ServerCommand};

/// One document, or words for people.
fn say(voice: Voice, document: &Value, words: &str) -> Result<()> {
    match voice.json {
        true => print_json(document),
        false => {
            println!("{words}");
            Ok(())
        }
    }
}

/// `consilium pki`
pub fn pki(command: &PkiCommand, voice: Voice) -> Result<()> {
    match command {
        PkiCommand::Init { folder } => {
            pki::make_authority(folder)?;
            let at = folder.display();
            let words = format!(
                "{at}/ca.pem goes to every site and operator; {at}/ca.key stays here: whoever has it can make certificates.\n\
                 Next: consilium pki server --host NAME, and consilium pki site NAME for each hospital"
            );
            say(voice, &json!({ "certificate": folder.join(pki::CA_CERTIFICATE) }), &words)
        }
        PkiCommand::Server { name, hosts, folder } => {
            pki::issue(folder, name, &Subject::Server(hosts.clone()))?;
            let at = folder.join(name);
            let at = at.display();
            let words = format!("consilium serve --tls-cert {at}.pem --tls-key {at}.key ...");
            say(voice, &json!({ "certificate": format!("{at}.pem"), "key": format!("{at}.key") }), &words)
        }
        PkiCommand::Site { name, folder } => {
            pki::issue(folder, name, &Subject::Site)?;
            let at = folder.join(name);
            let at = at.display();
            let words = format!(
                "hand {at}.pem, {at}.key and ca.pem to {name} by a safe way; there:\n\
                 consilium join --ca ca.pem --cert {name}.pem --key {name}.key ...\n\
                 Where the server wants certificates, a hospital with this one needs no enrolment token beside it."
            );
            say(voice, &json!({ "certificate": format!("{at}.pem"), "key": format!("{at}.key") }), &words)
        }
    }
}

/// `consilium server`
pub fn server(command: &ServerCommand, voice: Voice) -> Result<()> {
    let (copied, to) = match command {
        ServerCommand::Backup { folder, out } => (backup::backup(folder, out)?, out),
        ServerCommand::Restore { backup: from, folder } => (backup::restore(from, folder)?, folder),
    };
    let (rows, adapters) = (copied.audit_rows, copied.blobs);
    let words = format!("{}: {rows} rows of the audit log, {adapters} adapters", to.display());
    say(voice, &json!({ "folder": to, "audit_rows": rows, "adapters": adapters }), &words)
}

/// `consilium audit`
pub fn audit(command: &AuditCommand, voice: Voice) -> Result<()> {
    match command {
        AuditCommand::Verify { folder } => {
            let (rows, last) = backup::check(folder)?;
            let words = format!(
                "{rows} rows, each follows from the one before it; every adapter has its hash. Last: {last}"
            );
            say(voice, &json!({ "rows": rows, "last_hash": last }), &words)
        }
        AuditCommand::Show { folder } => show(folder, voice),
    }
}

fn show(folder: &Path, voice: Voice) -> Result<()> {
    let path = folder.join("consilium.db");
    if !path.is_file() {
        let at = folder.display();
        return Err(Failure::usage(format!("{at} is no server's folder: it has no consilium.db"))
            .hint("name it with --folder")
            .into());
    }
    let log = Store::open(&path)?.audit_log()?;
    if voice.json {
        return print_json(&log);
    }
    for entry in log {
        println!("{:>6}  {}  {}  {}  {}", entry.seq, entry.at, entry.actor, entry.action, entry.detail);
    }
    Ok(())
}
