//! LoRA dropout: independent masks for each module, kept values scaled by `1 / (1 - p)`.
//!
//! A mask depends only on (seed, optimiser step, micro-batch, layer, target) and is drawn again in the backward
//! instead of being stored; nothing has to be kept to resume a run.

use consilium_core::lora::Target;

use super::Shared;
use super::simd::multiversion;
use crate::threads::Threads;

/// Names the masks of one micro-batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DropoutKey {
    pub seed: u64,
    pub step: u64,
    pub micro_batch: usize,
    /// Probability that a value is zeroed.
    pub p: f32,
}

/// Values in one piece of work.
const PIECE: usize = 1 << 15;

/// Names one mask: two words that enter the draw of each of its values.
#[derive(Clone, Copy)]
struct Stream(u32, u32);

/// A draw of 32 bits for value `i`: a bijection of `i` (the finaliser of MurmurHash3, which spreads every input bit
/// over all output bits) with the stream's words mixed in before and in the middle.
#[inline(always)]
fn draw(Stream(first, second): Stream, i: u32) -> u32 {
    let mut h = i ^ first;
    h = (h ^ (h >> 16)).wrapping_mul(0x85eb_ca6b).wrapping_add(second);
    h = (h ^ (h >> 13)).wrapping_mul(0xc2b2_ae35);
    h ^ (h >> 16)
}

multiversion! {
    /// `out = mask * x * keep`; value `j` here is value `from + j` of the mask.
    fn masked(out: &mut [f32], x: &[f32], from: u32, stream: Stream, threshold: u32, keep: f32) {
        for (j, (out, x)) in out.iter_mut().zip(x).enumerate() {
            let factor = if draw(stream, from + j as u32) < threshold { 0.0 } else { keep };
            *out = factor * x;
        }
    }

    /// `out += mask * dx * keep`.
    fn masked_sum(out: &mut [f32], dx: &[f32], from: u32, stream: Stream, threshold: u32, keep: f32) {
        for (j, (out, dx)) in out.iter_mut().zip(dx).enumerate() {
            let factor = if draw(stream, from + j as u32) < threshold { 0.0 } else { keep };
            *out += factor * dx;
        }
    }
}

impl DropoutKey {
    /// `out = mask * x / (1 - p)` for the input `x` of `target` in `layer`.
    pub fn apply(&self, threads: &Threads, layer: usize, target: Target, x: &[f32], out: &mut [f32]) {
        self.each(threads, layer, target, x, out, masked);
    }

    /// `out += mask * dx / (1 - p)`: the backward of [`DropoutKey::apply`].
    pub fn accumulate(&self, threads: &Threads, layer: usize, target: Target, dx: &[f32], out: &mut [f32]) {
        self.each(threads, layer, target, dx, out, masked_sum);
    }

    fn each(
        &self,
        threads: &Threads,
        layer: usize,
        target: Target,
        x: &[f32],
        out: &mut [f32],
        put: fn(&mut [f32], &[f32], u32, Stream, u32, f32),
    ) {
        assert_eq!(x.len(), out.len(), "dropout extents");
        let threshold = (f64::from(self.p) * f64::from(u32::MAX)).round() as u32;
        let keep = 1.0 / (1.0 - self.p);
        let stream = self.stream(layer, target);
        let shared = Shared::new(out);
        threads.for_each(x.len().div_ceil(PIECE), |piece| {
            let from = piece * PIECE;
            let count = PIECE.min(x.len() - from);
            // SAFETY: pieces are disjoint ranges.
            let out = unsafe { shared.slice(from, count) };
            // A mask of more than 2^32 values would repeat; a micro-batch that long does not fit any memory.
            put(out, &x[from..from + count], from as u32, stream, threshold, keep);
        });
    }

    /// All that names the mask, mixed into two words by SplitMix64 (Steele et al. 2014).
    fn stream(&self, layer: usize, target: Target) -> Stream {
        let names = [self.step, self.micro_batch as u64, layer as u64, target as u64];
        let word = names.into_iter().fold(mix(self.seed), |state, name| mix(state ^ mix(name)));
        Stream(word as u32, (word >> 32) as u32)
    }
}

fn mix(word: u64) -> u64 {
    let mut z = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_repeat_for_a_key_differ_between_keys_and_keep_the_mean() {
        let x = vec![1f32; 100_000];
        let mask = |step, target| {
            let key = DropoutKey { seed: 1, step, micro_batch: 0, p: 0.25 };
            let mut out = vec![0f32; x.len()];
            key.apply(&Threads::one(), 3, target, &x, &mut out);
            out
        };
        let first = mask(0, Target::Q);
        assert_eq!(first, mask(0, Target::Q));
        assert_ne!(first, mask(1, Target::Q));
        assert_ne!(first, mask(0, Target::V));
        let mean = first.iter().sum::<f32>() / x.len() as f32;
        assert!((mean - 1.0).abs() < 0.01, "{mean}");
        // Neighbours are independent: both of a pair fall with probability p^2.
        let both = first.windows(2).filter(|pair| pair[0] == 0.0 && pair[1] == 0.0).count();
        assert!((both as f32 / x.len() as f32 - 0.0625).abs() < 0.005, "{both}");
        let dropped = first.iter().filter(|&&v| v == 0.0).count() as f32 / x.len() as f32;
        assert!((dropped - 0.25).abs() < 0.01, "{dropped}");
    }
}
