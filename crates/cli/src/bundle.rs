//! The demo's model, rows and configuration, inside the binary: `consilium demo` needs no other file.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use consilium_core::Precision;
use consilium_data::TextTokenizer;
use consilium_engine::Model;
use consilium_experiment::Config;

use crate::inputs::{self, Base};

macro_rules! demo_file {
    ($path:literal) => {
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../demo/", $path))
    };
}

/// What the bundled model is called in configurations and adapters.
pub const ID: &str = "consilium-demo";

/// The demo's configuration, TOML.
pub const CONFIG: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../demo/consilium.toml"));

const MODEL_CONFIG: &[u8] = demo_file!("model/config.json");
const TOKENIZER: &[u8] = demo_file!("model/tokenizer.json");

/// Files that make the bundled model a directory like any other.
const MODEL_FILES: [(&str, &[u8]); 4] = [
    ("config.json", MODEL_CONFIG),
    ("model.safetensors", demo_file!("model/model.safetensors")),
    ("tokenizer.json", TOKENIZER),
    ("tokenizer_config.json", demo_file!("model/tokenizer_config.json")),
];

const DATA_FILES: [(&str, &[u8]); 2] =
    [("train.csv", demo_file!("data/train.csv")), ("test.csv", demo_file!("data/test.csv"))];

/// Whether `id` means the bundled model.
pub fn is_bundled(id: &str) -> bool {
    id == "demo" || id == ID
}

/// The bundled model's `config.json`.
pub fn model_config() -> &'static str {
    std::str::from_utf8(MODEL_CONFIG).expect("a config.json is UTF-8")
}

/// The bundled model.
///
/// # Errors
/// When the files that were compiled in do not belong together.
pub fn base(precision: Precision) -> Result<Base> {
    let weights = MODEL_FILES[1].1.to_vec();
    let model =
        Model::from_parts(ID, model_config(), vec![weights], precision).context("the bundled model")?;
    let eos = inputs::end_of_text(model.config(), ID)?;
    let tokenizer = TextTokenizer::from_bytes(TOKENIZER, eos).context("the bundled tokenizer")?;
    Ok(Base { model: Arc::new(model), tokenizer, dir: None })
}

/// The bundled tokenizer alone.
pub fn tokenizer() -> Result<TextTokenizer> {
    Ok(base(Precision::F32)?.tokenizer)
}

/// Writes the bundled model into `dir`, for what needs a directory.
pub fn write_model(dir: &Path) -> Result<()> {
    write(dir, &MODEL_FILES)
}

/// `config` with the demo's rows at `dir`: in the configuration itself they have no path, so that it reads the same on
/// every machine.
pub fn with_data(config: &Config, dir: &Path) -> Config {
    let place = |name: &String| dir.join(name).to_string_lossy().into_owned();
    let mut config = config.clone();
    config.data.source = place(&config.data.source);
    config.data.test_source = config.data.test_source.as_ref().map(place);
    config
}

/// Writes the demo's rows, `train.csv` and `test.csv`, into `dir`.
pub fn write_data(dir: &Path) -> Result<()> {
    write(dir, &DATA_FILES)
}

fn write(dir: &Path, files: &[(&str, &[u8])]) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    for (name, bytes) in files {
        let path = dir.join(name);
        std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
