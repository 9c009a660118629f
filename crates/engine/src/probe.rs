//! What this machine could do at best, and what each kernel makes of it: for benchmarks and for `doctor`, not for
//! training.

use consilium_core::engine::{Precision, TrainSettings};
use consilium_core::lora::Target;

pub use crate::kernels::probe::{fma_gflops, read_gb_per_s};

use crate::kernels::adamw::{AdamStep, adamw};
use crate::kernels::attention::{Heads, Sequences, attention_backward, attention_forward};
use crate::kernels::dropout::DropoutKey;
use crate::kernels::int8::Terms;
use crate::kernels::packed::Frozen;
use crate::kernels::rmsnorm::{rmsnorm_backward, rmsnorm_forward};
use crate::kernels::swiglu::{swiglu_backward, swiglu_forward};
use crate::linear::Linear;
use crate::threads::Threads;

/// One kernel at SmolLM2-135M's shape, ready to run.
pub struct Kernel {
    /// Operation and extents.
    pub name: String,
    /// Floating-point operations of one run; 0 where memory, not arithmetic, is what it takes.
    pub flops: u64,
    /// One run.
    pub run: Box<dyn FnMut() + Send>,
}

impl Kernel {
    fn new(name: impl Into<String>, flops: usize, run: impl FnMut() + Send + 'static) -> Self {
        Self { name: name.into(), flops: flops as u64, run: Box::new(run) }
    }
}

/// Every kernel of a training step for a micro-batch of `t` tokens, on `threads` threads.
///
/// # Errors
/// When the system refuses to start threads.
pub fn kernels(t: usize, threads: usize) -> std::io::Result<Vec<Kernel>> {
    let threads = Threads::new(threads)?;
    let (c, f, w) = (576, 1536, 960);
    let mut all = Vec::new();
    for precision in [Precision::F32, Precision::Int8] {
        for (name, n, k) in [("qkv", w, c), ("o", c, c), ("gate_up", 2 * f, c), ("down", c, f)] {
            all.extend(products(&threads, precision, name, t, n, k));
        }
    }
    all.extend(attention(&threads, t));
    all.extend(passes(&threads, t, c, f));
    Ok(all)
}

/// Values without a pattern that a kernel could profit from.
fn values(len: usize) -> Vec<f32> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
}

fn products(
    threads: &Threads,
    precision: Precision,
    name: &str,
    t: usize,
    n: usize,
    k: usize,
) -> [Kernel; 2] {
    let bits = values(n * k).iter().map(|&v| half::bf16::from_f32(v).to_bits()).collect();
    let linear = std::sync::Arc::new(Linear::new(threads, precision, &Frozen::Bf16(bits), n, k));
    let kind = match precision {
        Precision::F32 => "f32",
        Precision::Int8 => "int8",
    };
    let (x, dy) = (values(t * k), values(t * n));
    let (mut y, mut dx) = (vec![0f32; t * n], vec![0f32; t * k]);
    let (forward, backward) = (linear.clone(), linear);
    let (one, two) = (threads.clone(), threads.clone());
    [
        Kernel::new(format!("{kind} {name} forward ({t}, {k}) -> {n}"), 2 * t * n * k, move || {
            forward.forward(&one, &mut y, &x, false);
        }),
        Kernel::new(format!("{kind} {name} backward ({t}, {n}) -> {k}"), 2 * t * n * k, move || {
            backward.backward(&two, &mut dx, &dy, Terms::One);
        }),
    ]
}

fn attention(threads: &Threads, t: usize) -> [Kernel; 2] {
    let heads = Heads { query: 9, kv: 3, size: 64 };
    let (w, q_dim, rows) = (heads.width(), heads.query * heads.size, 4);
    let each = t / rows;
    let sequences = || Sequences { prefix: 0, own: (0..rows).map(|i| i * each..(i + 1) * each).collect() };
    // Two products forward and five backward, each over the pairs that causality leaves.
    let pairs = rows * each * (each + 1) / 2 * heads.query * heads.size;
    let t = rows * each;
    let (qkv, dout) = (values(t * w), values(t * q_dim));
    let (mut out, mut lse) = (vec![0f32; t * q_dim], vec![0f32; t * heads.query]);
    attention_forward(threads, &mut out, &mut lse, &qkv, &sequences(), heads);
    let (kept_qkv, kept_lse) = (qkv.clone(), lse.clone());
    let (mut dqkv, mut slots) = (vec![0f32; t * w], Vec::new());
    let (one, two, forward, backward) = (threads.clone(), threads.clone(), sequences(), sequences());
    [
        Kernel::new(format!("attention forward, {rows} x {each}"), 4 * pairs, move || {
            attention_forward(&one, &mut out, &mut lse, &qkv, &forward, heads);
        }),
        Kernel::new(format!("attention backward, {rows} x {each}"), 10 * pairs, move || {
            attention_backward(&two, &mut dqkv, &dout, &kept_qkv, &kept_lse, &backward, heads, &mut slots);
        }),
    ]
}

/// What reads and writes more than it computes.
fn passes(threads: &Threads, t: usize, c: usize, f: usize) -> Vec<Kernel> {
    let norm = vec![1f32; c];
    let key = DropoutKey { seed: 1, step: 0, micro_batch: 0, p: 0.1 };
    let mut all = Vec::new();
    let (pool, weight, x, mut y) = (threads.clone(), norm.clone(), values(t * c), vec![0f32; t * c]);
    all.push(Kernel::new(format!("rmsnorm forward ({t}, {c})"), 0, move || {
        rmsnorm_forward(&pool, &mut y, &x, &weight, 1e-5);
    }));
    let (pool, x, dy, mut dx) = (threads.clone(), values(t * c), values(t * c), vec![0f32; t * c]);
    all.push(Kernel::new(format!("rmsnorm backward ({t}, {c})"), 0, move || {
        rmsnorm_backward(&pool, &mut dx, &dy, &x, &norm, 1e-5);
    }));
    let (pool, gate_up, mut y) = (threads.clone(), values(t * 2 * f), vec![0f32; t * f]);
    all.push(Kernel::new(format!("swiglu forward ({t}, {f})"), 0, move || {
        swiglu_forward(&pool, &mut y, &gate_up, f);
    }));
    let (pool, dy, gate_up, mut work) =
        (threads.clone(), values(t * f), values(t * 2 * f), vec![0f32; t * 2 * f]);
    all.push(Kernel::new(format!("swiglu backward ({t}, {f}), with a copy"), 0, move || {
        work.copy_from_slice(&gate_up);
        swiglu_backward(&pool, &dy, &mut work, f);
    }));
    let (pool, x, mut y) = (threads.clone(), values(t * c), vec![0f32; t * c]);
    all.push(Kernel::new(format!("dropout ({t}, {c})"), 0, move || {
        key.apply(&pool, 0, Target::Q, &x, &mut y);
    }));
    let n = 460_800; // rank 8 on q and v
    let (mut weights, gradient, mut first, mut second) = (values(n), values(n), vec![0f32; n], vec![0f32; n]);
    let constants = AdamStep::new(&TrainSettings::default(), 1, 1e-4, 1.0);
    all.push(Kernel::new(format!("adamw ({n})"), 0, move || {
        adamw(&mut weights, &gradient, &mut first, &mut second, &constants);
    }));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_runs() {
        for mut kernel in kernels(8, 2).unwrap() {
            (kernel.run)();
        }
    }
}
