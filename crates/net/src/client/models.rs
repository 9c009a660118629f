//! Models on their way in: from where the last attempt ended, and checked whole before anybody reads them.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use consilium_core::hash::sha256_hex;
use tonic::Status;

use super::ClientEvent;
use super::account::{ANSWER_LIMIT, Account};
use super::link::{Failed, bounded};
use crate::durable;
use crate::error::NetError;
use crate::proto;

/// Longest time without a piece.
const STALLED: Duration = Duration::from_secs(60);
/// Downloads from zero, when the whole does not have its hash.
const TRIES: u32 = 3;

/// The folder of models that have come: whole ones are called by their hash, the part of another ends in `.part`.
pub(super) struct Models {
    folder: PathBuf,
}

fn is_sha256(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn length(path: &Path) -> Result<u64, NetError> {
    match fs::metadata(path) {
        Ok(found) => Ok(found.len()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(NetError::io(path)(error)),
    }
}

impl Models {
    /// Opens the folder, or makes it.
    ///
    /// # Errors
    /// [`NetError::Io`].
    pub fn open(folder: PathBuf) -> Result<Self, NetError> {
        durable::create_folder(&folder)?;
        Ok(Self { folder })
    }

    /// The archive that `model` names, of at most `limit` bytes: from the folder, or from the server. Others are removed
    /// once it is whole, so one model and one part lie here at most.
    pub fn fetch(
        &self,
        account: &Account,
        session: &str,
        model: &proto::ModelRef,
        limit: u64,
    ) -> Result<Vec<u8>, Failed> {
        let sha256 = &model.archive_sha256;
        if !is_sha256(sha256) || model.bytes == 0 || model.bytes > limit {
            return Err(NetError::Protocol(format!(
                "the server offers a model of {} bytes called {:?}; at most {limit} bytes fit this session",
                model.bytes,
                crate::words::shortened(sha256)
            ))
            .into());
        }
        let (whole, part) =
            (self.folder.join(format!("{sha256}.npz")), self.folder.join(format!("{sha256}.part")));
        if let Ok(bytes) = fs::read(&whole)
            && sha256_hex(&bytes) == *sha256
        {
            return Ok(bytes);
        }
        let mut found = String::new();
        for _ in 0..TRIES {
            let mut arrived = 0;
            account
                .link
                .patiently(|| account.renewing(|| download(account, session, model, &part, &mut arrived)))?;
            let bytes = fs::read(&part).map_err(NetError::io(&part))?;
            found = sha256_hex(&bytes);
            if found == *sha256 {
                durable::write(&whole, &bytes)?;
                self.remove_all_but(&whole)?;
                account.link.tell(ClientEvent::Downloaded { bytes: arrived });
                return Ok(bytes);
            }
            durable::remove(&part)?;
        }
        Err(NetError::Untrusted(format!(
            "the model {sha256} came {TRIES} times with another content, last with SHA-256 {found}"
        ))
        .into())
    }

    fn remove_all_but(&self, kept: &Path) -> Result<(), NetError> {
        for entry in fs::read_dir(&self.folder).map_err(NetError::io(&self.folder))? {
            let path = entry.map_err(NetError::io(&self.folder))?.path();
            if path != kept {
                durable::remove(&path)?;
            }
        }
        Ok(())
    }
}

/// One attempt to bring the part to its full length; what has come stays.
fn download(
    account: &Account,
    session: &str,
    model: &proto::ModelRef,
    part: &Path,
    arrived: &mut u64,
) -> Result<(), Failed> {
    let mut held = length(part)?;
    if held > model.bytes {
        durable::remove(part)?;
        held = 0;
    }
    if held == model.bytes {
        return Ok(());
    }
    let message = proto::DownloadRequest {
        session_id: session.to_owned(),
        archive_sha256: model.archive_sha256.clone(),
        offset: held,
    };
    let wire = &account.link.wire;
    wire.up(&message);
    let request = account.signed(message)?;
    let mut client = account.link.client();
    let mut file = OpenOptions::new().create(true).append(true).open(part).map_err(NetError::io(part))?;
    account.link.run(async {
        let mut chunks = bounded(ANSWER_LIMIT, client.download_model(request)).await?.into_inner();
        while let Some(chunk) = bounded(STALLED, chunks.message()).await? {
            wire.down(&chunk);
            held += chunk.data.len() as u64;
            *arrived += chunk.data.len() as u64;
            if held > model.bytes {
                let promised = model.bytes;
                return Err(NetError::Protocol(format!("a model of {promised} bytes does not end")).into());
            }
            file.write_all(&chunk.data).map_err(NetError::io(part))?;
        }
        match held == model.bytes {
            true => Ok(()),
            false => Err(Status::unavailable("the model ended early").into()),
        }
    })
}
