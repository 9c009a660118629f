//! `consilium export`: an adapter in the forms that other programs read.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use consilium_core::Precision;
use consilium_experiment::export::{self, GgufType as Type, ModelFiles};
use serde::Serialize;

use super::print_json;
use crate::args::{ExportArgs, ExportFormat, GgufType, Voice};
use crate::inputs::{self, Base, SavedAdapter};
use crate::{bundle, words};

/// What is printed with `--json`.
#[derive(Serialize)]
struct Exported<'a> {
    out: &'a Path,
    bytes: u64,
    base: String,
    adapter_sha256: String,
}

/// Writes the adapter in the form asked for.
pub fn run(args: &ExportArgs, voice: Voice) -> Result<()> {
    let saved = inputs::saved_adapter(&args.adapter)?;
    let base = inputs::chosen_base(args.choice.model.as_deref(), Some(&saved), Precision::F32)?;
    let id = base.model.info().id;
    // Also where nothing is merged: an adapter that does not fit its base is better refused here than elsewhere.
    let fresh = consilium_engine::initial_adapter(base.model.config(), &saved.lora, 0);
    let adapter = saved.adapter.clone().conform(&fresh.schema()).with_context(|| format!("on model {id}"))?;
    write(args, &base, &SavedAdapter { adapter, ..saved })?;

    let exported = Exported {
        out: &args.out,
        bytes: size(&args.out)?,
        base: id,
        adapter_sha256: inputs::saved_adapter(&args.adapter)?.adapter.sha256(),
    };
    if voice.json {
        return print_json(&exported);
    }
    println!("{}  {}", exported.out.display(), words::bytes(exported.bytes));
    Ok(())
}

fn write(args: &ExportArgs, base: &Base, saved: &SavedAdapter) -> Result<()> {
    let SavedAdapter { adapter, lora, .. } = saved;
    if args.format == ExportFormat::Peft {
        return Ok(export::peft(adapter, lora, &base.model.info().id, &args.out)?);
    }
    let (dir, _bundled) = match &base.dir {
        Some(dir) => (dir.clone(), None),
        None => {
            let unpacked = Unpacked::new()?;
            (unpacked.0.clone(), Some(unpacked))
        }
    };
    let files = ModelFiles { model: &base.model, dir: &dir };
    let kind = match args.gguf_type {
        GgufType::F16 => Type::F16,
        GgufType::Q8_0 => Type::Q8_0,
    };
    match args.format {
        ExportFormat::Gguf => export::gguf(&files, adapter, lora, kind, &args.out)?,
        _ => export::merged(&files, adapter, lora, &args.out)?,
    }
    Ok(())
}

/// The bundled model as a directory, for as long as this value lives.
struct Unpacked(PathBuf);

impl Unpacked {
    fn new() -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("{}-{}", bundle::ID, std::process::id()));
        bundle::write_model(&dir)?;
        Ok(Self(dir))
    }
}

impl Drop for Unpacked {
    fn drop(&mut self) {
        // The system cleans its temporary folder when we cannot.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Bytes of a file, or of the files in a folder.
fn size(path: &Path) -> Result<u64> {
    let facts = path.metadata().with_context(|| format!("cannot read {}", path.display()))?;
    if facts.is_file() {
        return Ok(facts.len());
    }
    let mut bytes = 0;
    for entry in path.read_dir()? {
        bytes += entry?.metadata()?.len();
    }
    Ok(bytes)
}
