//! Rotary position embedding (Su et al. 2021, arXiv:2104.09864) in Hugging Face's half-split layout: element `i` of
//! a head turns with element `i + d/2`. The backward is the rotation by the negative angle.

use super::Shared;
use super::simd::multiversion;
use crate::threads::Threads;

/// Cosines and sines for positions `0..n`, each `(n, d/2)`, grown on demand.
pub(crate) struct RopeTable {
    frequencies: Vec<f32>,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl RopeTable {
    pub fn new(frequencies: Vec<f32>) -> Self {
        Self { frequencies, cos: Vec::new(), sin: Vec::new() }
    }

    /// Makes sure that positions below `n` are there.
    pub fn grow(&mut self, n: usize) {
        for position in self.cos.len() / self.frequencies.len()..n {
            for &frequency in &self.frequencies {
                // The angle is rounded to f32 as in transformers; its cosine is then exact to f32.
                let angle = f64::from(position as f32 * frequency);
                self.cos.push(angle.cos() as f32);
                self.sin.push(angle.sin() as f32);
            }
        }
    }
}

multiversion! {
    fn turn(head: &mut [f32], cos: &[f32], sin: &[f32], sign: f32) {
        let half = cos.len();
        let (low, high) = head.split_at_mut(half);
        for i in 0..half {
            let (a, b) = (low[i], high[i]);
            let s = sign * sin[i];
            low[i] = a * cos[i] - b * s;
            high[i] = b * cos[i] + a * s;
        }
    }
}

/// Turns the first `heads` heads of each row of `x (t, width)` by its position.
pub(crate) fn rope_forward(
    threads: &Threads,
    x: &mut [f32],
    width: usize,
    heads: usize,
    positions: &[u32],
    table: &RopeTable,
) {
    rotate(threads, x, width, heads, positions, table, 1.0);
}

/// Turns gradients back: the transpose of a rotation is the rotation by the negative angle.
pub(crate) fn rope_backward(
    threads: &Threads,
    dx: &mut [f32],
    width: usize,
    heads: usize,
    positions: &[u32],
    table: &RopeTable,
) {
    rotate(threads, dx, width, heads, positions, table, -1.0);
}

fn rotate(
    threads: &Threads,
    x: &mut [f32],
    width: usize,
    heads: usize,
    positions: &[u32],
    table: &RopeTable,
    sign: f32,
) {
    const ROWS: usize = 32;
    let half = table.frequencies.len();
    assert!(x.len() == positions.len() * width && heads * 2 * half <= width, "rope extents");
    let shared = Shared::new(x);
    threads.for_each(positions.len().div_ceil(ROWS), |piece| {
        let rows = piece * ROWS..((piece + 1) * ROWS).min(positions.len());
        for row in rows {
            let at = positions[row] as usize * half;
            let (cos, sin) = (&table.cos[at..at + half], &table.sin[at..at + half]);
            // SAFETY: each row belongs to one piece.
            let row = unsafe { shared.slice(row * width, heads * 2 * half) };
            row.chunks_exact_mut(2 * half).for_each(|head| turn(head, cos, sin, sign));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, random};

    #[test]
    fn forward_is_a_complex_rotation_and_backward_undoes_it() {
        let (width, heads, half) = (20, 2, 4);
        let frequencies = vec![1.0, 0.5, 0.1, 0.01];
        let positions = [0u32, 1, 5, 3];
        let mut table = RopeTable::new(frequencies.clone());
        table.grow(6);
        let x = random(positions.len() * width, "x");
        let mut turned = x.clone();
        rope_forward(&Threads::one(), &mut turned, width, heads, &positions, &table);
        let mut expected = x.clone();
        for (row, &position) in positions.iter().enumerate() {
            for head in 0..heads {
                for (i, frequency) in frequencies.iter().enumerate() {
                    let (sin, cos) = (position as f32 * frequency).sin_cos();
                    let low = row * width + head * 2 * half + i;
                    expected[low] = x[low] * cos - x[low + half] * sin;
                    expected[low + half] = x[low] * sin + x[low + half] * cos;
                }
            }
        }
        assert_close(&turned, &expected, 1e-6, "rope");
        rope_backward(&Threads::one(), &mut turned, width, heads, &positions, &table);
        assert_close(&turned, &x, 1e-6, "rope and back");
    }
}
