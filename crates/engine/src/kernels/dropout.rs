//! LoRA dropout: independent masks for each module, kept values scaled by `1 / (1 - p)`.
//!
//! A mask depends only on (seed, optimiser step, micro-batch, layer, target) and is drawn again in the backward
//! instead of being stored; nothing has to be kept to resume a run.

use consilium_core::lora::Target;
use consilium_core::rng::SeededRng;

use super::Shared;
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

/// Values in one piece of work, each piece with a stream of its own.
const PIECE: usize = 1 << 15;

impl DropoutKey {
    /// `out = mask * x / (1 - p)` for the input `x` of `target` in `layer`.
    pub fn apply(&self, threads: &Threads, layer: usize, target: Target, x: &[f32], out: &mut [f32]) {
        self.each(threads, layer, target, out, |factor, i, value| *value = factor * x[i]);
    }

    /// `out += mask * dx / (1 - p)`: the backward of [`DropoutKey::apply`].
    pub fn accumulate(&self, threads: &Threads, layer: usize, target: Target, dx: &[f32], out: &mut [f32]) {
        self.each(threads, layer, target, out, |factor, i, value| *value += factor * dx[i]);
    }

    fn each(
        &self,
        threads: &Threads,
        layer: usize,
        target: Target,
        out: &mut [f32],
        put: impl Fn(f32, usize, &mut f32) + Sync + Send,
    ) {
        // 16 random bits a value: p is honoured to within 1/65536.
        let threshold = (f64::from(self.p) * 65_536.0).round() as u32;
        let keep = 1.0 / (1.0 - self.p);
        let len = out.len();
        let shared = Shared::new(out);
        threads.for_each(len.div_ceil(PIECE), |piece| {
            let from = piece * PIECE;
            let count = PIECE.min(len - from);
            let purpose = format!(
                "dropout step {} micro-batch {} layer {layer} {target} piece {piece}",
                self.step, self.micro_batch
            );
            let mut rng = SeededRng::derive(self.seed, 0, "", &purpose);
            // SAFETY: pieces are disjoint ranges.
            let out = unsafe { shared.slice(from, count) };
            for (pair, values) in out.chunks_mut(2).enumerate() {
                let bits = rng.next_u32();
                for (j, value) in values.iter_mut().enumerate() {
                    let draw = (bits >> (16 * j)) & 0xffff;
                    put(if draw < threshold { 0.0 } else { keep }, from + 2 * pair + j, value);
                }
            }
        });
    }
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
        let dropped = first.iter().filter(|&&v| v == 0.0).count() as f32 / x.len() as f32;
        assert!((dropped - 0.25).abs() < 0.01, "{dropped}");
    }
}
