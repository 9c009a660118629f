//! Writes the messages and services of `consilium.v1` as Rust, with the hash of the definition that they were made from.

use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (definitions, out) = (here.join(".."), here.join("../../src/proto"));
    let file = "consilium/v1/federation.proto";
    let compiled = protox::compile([file], [&definitions])?;
    tonic_prost_build::configure().out_dir(&out).compile_fds(compiled)?;
    let digest = ring::digest::digest(&ring::digest::SHA256, &std::fs::read(definitions.join(file))?);
    let digits: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let path = out.join("consilium.v1.rs");
    let code = std::fs::read_to_string(&path)?;
    std::fs::write(&path, format!("// Made by proto/generate from {file}, SHA-256 {digits}.\n{code}"))?;
    Ok(())
}
