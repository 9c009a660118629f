//! SwiGLU (Shazeer 2020, arXiv:2002.05202): `y = silu(gate) * up` with `silu(x) = x / (1 + e^-x)`.

use super::Shared;
use super::simd::{exp, multiversion};
use crate::threads::Threads;

/// Tokens in one piece of work.
const ROWS: usize = 16;

multiversion! {
    fn forward_row(y: &mut [f32], gate: &[f32], up: &[f32]) {
        for i in 0..y.len() {
            let sigmoid = 1.0 / (1.0 + exp(-gate[i]));
            y[i] = gate[i] * sigmoid * up[i];
        }
    }

    fn backward_row(dy: &[f32], gate: &mut [f32], up: &mut [f32]) {
        for i in 0..dy.len() {
            let sigmoid = 1.0 / (1.0 + exp(-gate[i]));
            let silu = gate[i] * sigmoid;
            let d_up = dy[i] * silu;
            gate[i] = dy[i] * up[i] * sigmoid * (1.0 + gate[i] * (1.0 - sigmoid));
            up[i] = d_up;
        }
    }
}

/// `y (t, f)` from gate and up side by side, `(t, 2 f)`.
pub(crate) fn swiglu_forward(threads: &Threads, y: &mut [f32], gate_up: &[f32], f: usize) {
    assert_eq!(gate_up.len(), 2 * y.len(), "swiglu extents");
    let t = y.len() / f;
    let out = Shared::new(y);
    threads.for_each(t.div_ceil(ROWS), |piece| {
        for row in piece * ROWS..((piece + 1) * ROWS).min(t) {
            let (gate, up) = gate_up[row * 2 * f..(row + 1) * 2 * f].split_at(f);
            // SAFETY: each row belongs to one piece.
            forward_row(unsafe { out.slice(row * f, f) }, gate, up);
        }
    });
}

/// Replaces gate and up `(t, 2 f)` by their gradients, from `dy (t, f)`.
pub(crate) fn swiglu_backward(threads: &Threads, dy: &[f32], gate_up: &mut [f32], f: usize) {
    assert_eq!(gate_up.len(), 2 * dy.len(), "swiglu extents");
    let t = dy.len() / f;
    let shared = Shared::new(gate_up);
    threads.for_each(t.div_ceil(ROWS), |piece| {
        for row in piece * ROWS..((piece + 1) * ROWS).min(t) {
            // SAFETY: each row belongs to one piece.
            let (gate, up) = unsafe { shared.slice(row * 2 * f, 2 * f) }.split_at_mut(f);
            backward_row(&dy[row * f..(row + 1) * f], gate, up);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, random};

    fn reference(gate: f64, up: f64) -> f64 {
        gate / (1.0 + (-gate).exp()) * up
    }

    #[test]
    fn forward_matches_the_reference_and_backward_its_differences() {
        let (t, f) = (19, 7);
        let (gate_up, dy) = (random(t * 2 * f, "x"), random(t * f, "dy"));
        let mut y = vec![0f32; t * f];
        swiglu_forward(&Threads::one(), &mut y, &gate_up, f);
        let mut gradient = gate_up.clone();
        swiglu_backward(&Threads::one(), &dy, &mut gradient, f);
        let (mut expected, mut slopes) = (vec![0f32; t * f], vec![0f32; t * 2 * f]);
        for row in 0..t {
            for i in 0..f {
                let (g, u) = (f64::from(gate_up[row * 2 * f + i]), f64::from(gate_up[row * 2 * f + f + i]));
                expected[row * f + i] = reference(g, u) as f32;
                let d = f64::from(dy[row * f + i]);
                let step = 1e-5;
                slopes[row * 2 * f + i] =
                    (d * (reference(g + step, u) - reference(g - step, u)) / (2.0 * step)) as f32;
                slopes[row * 2 * f + f + i] =
                    (d * (reference(g, u + step) - reference(g, u - step)) / (2.0 * step)) as f32;
            }
        }
        assert_close(&y, &expected, 1e-6, "swiglu");
        assert_close(&gradient, &slopes, 1e-5, "swiglu gradient");
    }
}
