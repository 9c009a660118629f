//! A frozen linear layer: its matrix packed for the forward and, once something trains on it, for the backward.

use std::sync::OnceLock;

use consilium_core::engine::Precision;

use crate::kernels::gemm::{Mat, MatMut, gemm};
use crate::kernels::int8::{Quantised, Terms, gemm_int8};
use crate::kernels::packed::{Frozen, Packed};
use crate::threads::Threads;

/// `W (outputs, inputs)`. The backward's packing is made by the first backward: what only answers questions never
/// needs it.
pub(crate) enum Linear {
    /// As the file has it.
    Exact { forward: Packed, backward: OnceLock<Packed> },
    /// In 8 bits.
    Int8 { forward: Quantised, backward: OnceLock<Quantised> },
}

impl Linear {
    /// Packs `weight (outputs, inputs)`.
    pub fn new(
        threads: &Threads,
        precision: Precision,
        weight: &Frozen,
        outputs: usize,
        inputs: usize,
    ) -> Self {
        match precision {
            Precision::F32 => Linear::Exact {
                forward: Packed::transposed(threads, weight, outputs, inputs),
                backward: OnceLock::new(),
            },
            Precision::Int8 => Linear::Int8 {
                forward: Quantised::transposed(threads, weight, outputs, inputs),
                backward: OnceLock::new(),
            },
        }
    }

    /// `(inputs, outputs)`
    fn extents(&self) -> (usize, usize) {
        match self {
            Linear::Exact { forward, .. } => forward.extents(),
            Linear::Int8 { forward, .. } => forward.extents(),
        }
    }

    /// Parameters of the matrix.
    pub fn parameters(&self) -> usize {
        let (inputs, outputs) = self.extents();
        inputs * outputs
    }

    /// Number of outputs, n.
    pub fn outputs(&self) -> usize {
        self.extents().1
    }

    /// `y (t, n) (+)= x (t, k) W^T`.
    pub fn forward(&self, threads: &Threads, y: &mut [f32], x: &[f32], accumulate: bool) {
        let (k, n) = self.extents();
        let t = x.len() / k;
        let y = MatMut::new(y, t, n);
        match self {
            Linear::Exact { forward, .. } => gemm(threads, y, Mat::new(x, t, k), forward, 1.0, accumulate),
            Linear::Int8 { forward, .. } => gemm_int8(threads, y, x, None, Terms::One, forward, accumulate),
        }
    }

    /// `dx (t, k) = dy (t, n) W`; a frozen matrix has no gradient of its own. `terms` matters in 8 bits only.
    pub fn backward(&self, threads: &Threads, dx: &mut [f32], dy: &[f32], terms: Terms) {
        let (k, n) = self.extents();
        let t = dy.len() / n;
        let dx = MatMut::new(dx, t, k);
        match self {
            Linear::Exact { forward, backward } => {
                let backward = backward.get_or_init(|| forward.turned(threads));
                gemm(threads, dx, Mat::new(dy, t, n), backward, 1.0, false);
            }
            Linear::Int8 { forward, backward } => {
                let backward = backward.get_or_init(|| forward.turned(threads));
                gemm_int8(threads, dx, dy, Some(forward.scales()), terms, backward, false);
            }
        }
    }

    /// Row `row` of the matrix, `(k)`, as it takes part in products.
    pub fn row(&self, row: usize, to: &mut [f32]) {
        match self {
            Linear::Exact { forward, .. } => forward.column(row, to),
            Linear::Int8 { forward, .. } => forward.column(row, to),
        }
    }
}
