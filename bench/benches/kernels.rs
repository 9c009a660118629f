//! Each kernel alone at SmolLM2-135M's shape, beside what the machine could do: `cargo bench -p consilium-bench`.
//!
//! Items are floating-point operations, so `Gitem/s` reads as GFLOP/s; the ceiling is printed first.

use std::sync::Mutex;
use std::time::Duration;

use consilium_engine::Isa;
use consilium_engine::probe::{Kernel, fma_gflops, kernels, read_gb_per_s};
use divan::Bencher;
use divan::counter::ItemsCount;

/// Tokens of a micro-batch: four rows of 120.
const TOKENS: usize = 480;
const THREADS: usize = 2;

fn main() {
    println!(
        "{} on {THREADS} threads: at most {:.0} GFLOP/s of f32 and {:.1} GB/s from memory",
        Isa::chosen().name(),
        fma_gflops(THREADS, Duration::from_millis(500)),
        read_gb_per_s(THREADS, 512 << 20, 2)
    );
    divan::main();
}

fn names() -> Vec<String> {
    all().iter().map(|kernel| kernel.name.clone()).collect()
}

fn all() -> Vec<Kernel> {
    kernels(TOKENS, THREADS).expect("two threads can be started")
}

#[divan::bench(args = names())]
fn kernel(bencher: Bencher, name: &str) {
    let kernel = all().into_iter().find(|kernel| kernel.name == name).expect("the names are theirs");
    let flops = kernel.flops;
    let run = Mutex::new(kernel.run);
    let bencher = bencher.counter(ItemsCount::new(flops));
    bencher.bench(|| (run.lock().expect("a kernel does not panic"))());
}
