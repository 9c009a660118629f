//! A frozen linear layer: its matrix packed for the forward and, once something trains on it, for the backward.

use std::sync::OnceLock;

use crate::kernels::gemm::{Mat, MatMut, gemm};
use crate::kernels::packed::{Frozen, Packed};
use crate::threads::Threads;

/// `W (outputs, inputs)`.
pub(crate) struct Linear {
    forward: Packed,
    /// Made by the first backward: what only answers questions never needs it.
    backward: OnceLock<Packed>,
}

impl Linear {
    /// Packs `weight (outputs, inputs)`.
    pub fn new(threads: &Threads, weight: &Frozen, outputs: usize, inputs: usize) -> Self {
        Self {
            forward: Packed::transposed(threads, weight, outputs, inputs),
            backward: OnceLock::new(),
        }
    }

    /// Parameters of the matrix.
    pub fn parameters(&self) -> usize {
        let (inputs, outputs) = self.forward.extents();
        inputs * outputs
    }

    /// Number of outputs, n.
    pub fn outputs(&self) -> usize {
        self.forward.extents().1
    }

    /// `y (t, n) (+)= x (t, k) W^T`.
    pub fn forward(&self, threads: &Threads, y: &mut [f32], x: &[f32], accumulate: bool) {
        let (k, n) = self.forward.extents();
        let t = x.len() / k;
        gemm(threads, MatMut::new(y, t, n), Mat::new(x, t, k), &self.forward, 1.0, accumulate);
    }

    /// `dx (t, k) = dy (t, n) W`; a frozen matrix has no gradient of its own.
    pub fn backward(&self, threads: &Threads, dx: &mut [f32], dy: &[f32]) {
        let (k, n) = self.forward.extents();
        let t = dy.len() / n;
        let backward = self.backward.get_or_init(|| self.forward.turned(threads));
        gemm(threads, MatMut::new(dx, t, k), Mat::new(dy, t, n), backward, 1.0, false);
    }

    /// Row `row` of the matrix, `(k)`.
    pub fn row(&self, row: usize, to: &mut [f32]) {
        self.forward.column(row, to);
    }
}
