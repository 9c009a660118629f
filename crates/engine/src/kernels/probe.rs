//! What this machine could do at best: fused multiply-adds and bytes read, a second. Ceilings for benchmarks, beside
//! which a kernel's speed means something; no kernel uses them.

use std::hint::black_box;
use std::time::{Duration, Instant};

/// Turns of multiply-adds between two looks at the clock: about 0.1 ms.
const TURNS: usize = 8192;

/// Multiply-adds of f32 that `threads` threads do together in `window`, in GFLOP/s (an addition and a multiplication
/// each count as one), with operands that never leave the registers.
pub fn fma_gflops(threads: usize, window: Duration) -> f64 {
    let rates = on_threads(threads, |_| {
        black_box(multiply_adds(TURNS)); // wakes the wide units, which some processors switch off
        let start = Instant::now();
        let mut flops = 0.0;
        while start.elapsed() < window {
            flops += multiply_adds(black_box(TURNS));
        }
        flops / start.elapsed().as_secs_f64()
    });
    rates.iter().sum::<f64>() / 1e9
}

/// Bytes that `threads` threads read together, in GB/s (10^9 bytes): each sums its part of `bytes` bytes of memory
/// `passes` times. The memory should be several times larger than the last-level cache.
pub fn read_gb_per_s(threads: usize, bytes: usize, passes: usize) -> f64 {
    let part = vec![1u64; (bytes / threads.max(1) / size_of::<u64>()).max(1)];
    let parts: Vec<Vec<u64>> = (1..threads).map(|_| part.clone()).chain([part.clone()]).collect();
    drop(part);
    let rates = on_threads(threads, |thread| {
        let start = Instant::now();
        for _ in 0..passes {
            black_box(sum(black_box(&parts[thread])));
        }
        (passes * size_of_val(&parts[thread][..])) as f64 / start.elapsed().as_secs_f64()
    });
    rates.iter().sum::<f64>() / 1e9
}

/// Runs `work` on that many threads, which start together.
fn on_threads(threads: usize, work: impl Fn(usize) -> f64 + Sync) -> Vec<f64> {
    let start = std::sync::Barrier::new(threads.max(1));
    let (start, work) = (&start, &work);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.max(1))
            .map(|thread| {
                scope.spawn(move || {
                    start.wait();
                    work(thread)
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("a probe does not panic")).collect()
    })
}

/// Does `turns` turns on the widest vectors that there are; returns the operations done.
fn multiply_adds(turns: usize) -> f64 {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has the features that the function is compiled for.
            return unsafe { x86::multiply_adds_512(turns) };
        }
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            // SAFETY: as above.
            return unsafe { x86::multiply_adds_256(turns) };
        }
    }
    portable_multiply_adds(turns)
}

fn sum(values: &[u64]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has the feature that the function is compiled for.
        return unsafe { x86::sum_256(values) };
    }
    portable_sum(values)
}

/// Independent chains of multiply-adds over vectors of four lanes, which compilers keep in registers.
fn portable_multiply_adds(turns: usize) -> f64 {
    const CHAINS: usize = 12;
    let factors = black_box([0.999f32; 4]);
    let addends = black_box([0.001f32; 4]);
    let mut chains = [[1f32; 4]; CHAINS];
    for _ in 0..turns {
        for chain in &mut chains {
            for lane in 0..4 {
                // One instruction where the target has it for certain; elsewhere `mul_add` would call a library.
                chain[lane] = if cfg!(target_arch = "aarch64") {
                    chain[lane].mul_add(factors[lane], addends[lane])
                } else {
                    chain[lane] * factors[lane] + addends[lane]
                };
            }
        }
    }
    black_box(chains);
    (turns * CHAINS * 4 * 2) as f64
}

/// The sum, wrapping.
#[inline(always)]
fn portable_sum(values: &[u64]) -> u64 {
    let mut lanes = [0u64; 32];
    let chunks = values.chunks_exact(lanes.len());
    let rest = chunks.remainder().iter().fold(0u64, |sum, value| sum.wrapping_add(*value));
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = lane.wrapping_add(*value);
        }
    }
    lanes.iter().fold(rest, |sum, lane| sum.wrapping_add(*lane))
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    //! The same with vectors of 512 and 256 bits.

    use std::arch::x86_64::{_mm256_fmadd_ps, _mm256_set1_ps, _mm512_fmadd_ps, _mm512_set1_ps};
    use std::hint::black_box;

    /// 24 chains and two operands fill 26 of 32 registers; 8 chains would already hide the latency of 4 cycles.
    #[target_feature(enable = "avx512f")]
    pub fn multiply_adds_512(turns: usize) -> f64 {
        const CHAINS: usize = 24;
        let (factor, addend) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(black_box(0.001)));
        let mut chains = [_mm512_set1_ps(1.0); CHAINS];
        for _ in 0..turns {
            for chain in &mut chains {
                *chain = _mm512_fmadd_ps(*chain, factor, addend);
            }
        }
        black_box(chains);
        (turns * CHAINS * 16 * 2) as f64
    }

    /// 12 chains and two operands fill 14 of 16 registers; 10 chains hide a latency of 5 cycles.
    #[target_feature(enable = "avx2,fma")]
    pub fn multiply_adds_256(turns: usize) -> f64 {
        const CHAINS: usize = 12;
        let (factor, addend) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(0.001)));
        let mut chains = [_mm256_set1_ps(1.0); CHAINS];
        for _ in 0..turns {
            for chain in &mut chains {
                *chain = _mm256_fmadd_ps(*chain, factor, addend);
            }
        }
        black_box(chains);
        (turns * CHAINS * 8 * 2) as f64
    }

    #[target_feature(enable = "avx2")]
    pub fn sum_256(values: &[u64]) -> u64 {
        super::portable_sum(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_agree_whatever_the_vectors() {
        let values: Vec<u64> = (0..1003).map(|i| i * i).collect();
        let expected: u64 = values.iter().sum();
        assert_eq!((sum(&values), portable_sum(&values)), (expected, expected));
    }

    #[test]
    fn probes_find_a_rate_that_a_processor_can_have() {
        let gflops = fma_gflops(1, Duration::from_millis(5));
        assert!((0.01..100_000.0).contains(&gflops), "{gflops} GFLOP/s");
        let gb_per_s = read_gb_per_s(2, 1 << 22, 1);
        assert!((0.01..100_000.0).contains(&gb_per_s), "{gb_per_s} GB/s");
    }
}
