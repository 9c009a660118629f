//! RMSNorm (Zhang and Sennrich 2019, arXiv:1910.07467): `y = x / sqrt(mean(x^2) + eps) * weight`, per token.

use super::Shared;
use super::simd::{multiversion, sum};
use crate::threads::Threads;

/// Tokens in one piece of work.
const ROWS: usize = 32;

multiversion! {
    fn normalise_rows(y: &mut [f32], x: &[f32], weight: &[f32], eps: f32) {
        let c = weight.len();
        for (y, x) in y.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
            let inverse = 1.0 / (sum(x, |v| v * v) / c as f32 + eps).sqrt();
            for i in 0..c {
                y[i] = x[i] * inverse * weight[i];
            }
        }
    }

    fn backward_rows(dx: &mut [f32], dy: &[f32], x: &[f32], weight: &[f32], eps: f32) {
        let c = weight.len();
        for ((dx, dy), x) in dx.chunks_exact_mut(c).zip(dy.chunks_exact(c)).zip(x.chunks_exact(c)) {
            let inverse = 1.0 / (sum(x, |v| v * v) / c as f32 + eps).sqrt();
            // sum(dy * weight * x); dx holds the stream's own gradient, so no scratch is free for a dot product.
            let mut lanes = [0f32; 16];
            let whole = c - c % 16;
            for at in (0..whole).step_by(16) {
                for i in 0..16 {
                    lanes[i] += dy[at + i] * weight[at + i] * x[at + i];
                }
            }
            for i in whole..c {
                lanes[i - whole] += dy[i] * weight[i] * x[i];
            }
            let along = sum(&lanes, |v| v) * inverse * inverse * inverse / c as f32;
            for i in 0..c {
                dx[i] += dy[i] * weight[i] * inverse - x[i] * along;
            }
        }
    }
}

/// `y (t, c)` from `x (t, c)` and `weight (c)`.
pub(crate) fn rmsnorm_forward(threads: &Threads, y: &mut [f32], x: &[f32], weight: &[f32], eps: f32) {
    assert_eq!(y.len(), x.len(), "rmsnorm extents");
    let piece = ROWS * weight.len();
    let out = Shared::new(y);
    threads.for_each(x.len().div_ceil(piece), |i| {
        let from = i * piece;
        let len = piece.min(x.len() - from);
        // SAFETY: pieces are disjoint ranges of `y`, which outlives the call.
        let y = unsafe { out.slice(from, len) };
        normalise_rows(y, &x[from..from + len], weight, eps);
    });
}

/// Adds to `dx (t, c)` the gradient through the norm, from `dy (t, c)` and the saved input `x (t, c)`.
pub(crate) fn rmsnorm_backward(
    threads: &Threads,
    dx: &mut [f32],
    dy: &[f32],
    x: &[f32],
    weight: &[f32],
    eps: f32,
) {
    assert!(dx.len() == x.len() && dy.len() == x.len(), "rmsnorm extents");
    let piece = ROWS * weight.len();
    let out = Shared::new(dx);
    threads.for_each(x.len().div_ceil(piece), |i| {
        let from = i * piece;
        let len = piece.min(x.len() - from);
        // SAFETY: as in the forward.
        let dx = unsafe { out.slice(from, len) };
        backward_rows(dx, &dy[from..from + len], &x[from..from + len], weight, eps);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, random};

    const EPS: f32 = 1e-5;

    fn reference(x: &[f64], weight: &[f32]) -> Vec<f64> {
        let c = weight.len();
        x.chunks(c)
            .flat_map(|row| {
                let mean = row.iter().map(|v| v * v).sum::<f64>() / c as f64;
                let root = (mean + f64::from(EPS)).sqrt();
                row.iter().zip(weight).map(move |(v, w)| v / root * f64::from(*w)).collect::<Vec<_>>()
            })
            .collect()
    }

    #[test]
    fn forward_matches_the_reference_and_backward_its_differences() {
        for (t, c) in [(1, 5), (3, 16), (70, 33)] {
            let (x, weight, dy) = (random(t * c, "x"), random(c, "w"), random(t * c, "dy"));
            let wide: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
            let mut y = vec![0f32; t * c];
            rmsnorm_forward(&Threads::one(), &mut y, &x, &weight, EPS);
            let expected: Vec<f32> = reference(&wide, &weight).iter().map(|&v| v as f32).collect();
            assert_close(&y, &expected, 1e-6, "rmsnorm");

            let mut dx = vec![0f32; t * c];
            rmsnorm_backward(&Threads::one(), &mut dx, &dy, &x, &weight, EPS);
            for i in [0, c - 1, t * c - 1] {
                let at = |step: f64| {
                    let mut moved = wide.clone();
                    moved[i] += step;
                    reference(&moved, &weight).iter().zip(&dy).map(|(y, d)| y * f64::from(*d)).sum::<f64>()
                };
                let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
                assert!(
                    (f64::from(dx[i]) - slope).abs() < 1e-4 * slope.abs().max(1.0),
                    "dx[{i}] {} {slope}",
                    dx[i]
                );
            }
        }
    }
}
