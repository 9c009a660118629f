//! The machine's own limits, probed between other measurements: these drift with whatever else the host runs.

use std::time::Duration;

use anyhow::Result;
use consilium_engine::{Isa, probe};
use serde_json::{Value, json};

use crate::args::Ceilings;

/// Half a second of multiply-adds, then four passes over the memory.
pub fn run(args: &Ceilings) -> Result<Value> {
    Ok(json!({
        "case": "ceilings",
        "threads": args.threads,
        "instruction_set": Isa::chosen().name(),
        "fma_gflops": probe::fma_gflops(args.threads, Duration::from_millis(500)),
        "read_gb_per_s": probe::read_gb_per_s(args.threads, args.mib << 20, 4),
    }))
}
