//! A frozen matrix in panels of 48 columns, in the number format of its file: bf16 and f16 stay 16 bits wide and
//! become f32 a chunk at a time, exactly. That halves memory and what generation has to read, and costs nothing in
//! training, where a chunk serves hundreds of rows.

use std::ops::Range;

use super::aligned::Aligned;
use super::isa::Isa;
use super::tile::{COLUMNS, Narrow, widen};
use super::{Shared, gemm};
use crate::threads::Threads;

/// Values of a frozen matrix, row-major, as their file holds them.
#[derive(Clone)]
pub(crate) enum Frozen {
    F32(Vec<f32>),
    Bf16(Vec<u16>),
    F16(Vec<u16>),
}

impl Frozen {
    pub fn len(&self) -> usize {
        match self {
            Frozen::F32(values) => values.len(),
            Frozen::Bf16(bits) | Frozen::F16(bits) => bits.len(),
        }
    }

    /// Place and value of the first NaN or infinity.
    pub fn first_not_finite(&self) -> Option<(usize, f32)> {
        let found = |at: usize, value: f32| (!value.is_finite()).then_some((at, value));
        match self {
            Frozen::F32(values) => values.iter().enumerate().find_map(|(i, &v)| found(i, v)),
            // All exponent bits set.
            Frozen::Bf16(bits) => bits
                .iter()
                .position(|b| b & 0x7f80 == 0x7f80)
                .map(|i| (i, half::bf16::from_bits(bits[i]).to_f32())),
            Frozen::F16(bits) => bits
                .iter()
                .position(|b| b & 0x7c00 == 0x7c00)
                .map(|i| (i, half::f16::from_bits(bits[i]).to_f32())),
        }
    }

    /// Copies `range` as f32.
    pub fn read(&self, range: Range<usize>, to: &mut [f32]) {
        match self {
            Frozen::F32(values) => to.copy_from_slice(&values[range]),
            // SAFETY: the chosen instruction set is one that the processor has.
            Frozen::Bf16(bits) => unsafe { widen(Isa::chosen(), &bits[range], to, false) },
            // SAFETY: as above.
            Frozen::F16(bits) => unsafe { widen(Isa::chosen(), &bits[range], to, true) },
        }
    }

    /// All values as f32.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut all = vec![0.0; self.len()];
        self.read(0..self.len(), &mut all);
        all
    }

    /// Appends `other`; where the formats differ, both become f32.
    #[must_use]
    pub fn then(self, other: Frozen) -> Frozen {
        match (self, other) {
            (Frozen::F32(mut a), Frozen::F32(b)) => {
                a.extend(b);
                Frozen::F32(a)
            }
            (Frozen::Bf16(mut a), Frozen::Bf16(b)) => {
                a.extend(b);
                Frozen::Bf16(a)
            }
            (Frozen::F16(mut a), Frozen::F16(b)) => {
                a.extend(b);
                Frozen::F16(a)
            }
            (a, b) => {
                let mut all = a.to_f32();
                all.extend(b.to_f32());
                Frozen::F32(all)
            }
        }
    }
}

enum Values {
    F32(Aligned<f32>),
    Bits { bits: Aligned<u16>, half: bool },
}

/// A right operand `(depth, columns)`: panel after panel, in each one row of 48 values for each step of the depth;
/// columns beyond the last are 0.
pub(crate) struct Packed {
    depth: usize,
    columns: usize,
    values: Values,
}

impl Packed {
    /// Packs the transpose of `weight (n, k)`, for `x W^T`: depth k, n columns.
    pub fn transposed(threads: &Threads, weight: &Frozen, n: usize, k: usize) -> Self {
        assert_eq!(weight.len(), n * k, "extents of a frozen matrix");
        let values = match weight {
            Frozen::F32(values) => Values::F32(panels(threads, k, n, |l, j| values[j * k + l])),
            Frozen::Bf16(bits) => {
                Values::Bits { bits: panels(threads, k, n, |l, j| bits[j * k + l]), half: false }
            }
            Frozen::F16(bits) => {
                Values::Bits { bits: panels(threads, k, n, |l, j| bits[j * k + l]), half: true }
            }
        };
        Self { depth: k, columns: n, values }
    }

    /// The same matrix for the product with its transpose: depth and columns change places.
    #[must_use]
    pub fn turned(&self, threads: &Threads) -> Self {
        let (depth, columns) = (self.columns, self.depth);
        // Column l of the new panels is row l of the old ones.
        let at = |l: usize, j: usize| (l / COLUMNS * self.depth + j) * COLUMNS + l % COLUMNS;
        let values = match &self.values {
            Values::F32(values) => Values::F32(panels(threads, depth, columns, |l, j| values[at(l, j)])),
            Values::Bits { bits, half } => {
                Values::Bits { bits: panels(threads, depth, columns, |l, j| bits[at(l, j)]), half: *half }
            }
        };
        Self { depth, columns, values }
    }

    /// `(depth, columns)`
    pub fn extents(&self) -> (usize, usize) {
        (self.depth, self.columns)
    }

    /// Rows `depth` of `panel` as they are stored, where that is in 16 bits.
    pub fn narrow(&self, panel: usize, depth: Range<usize>) -> Option<Narrow<'_>> {
        let start = (panel * self.depth + depth.start) * COLUMNS;
        match &self.values {
            Values::F32(_) => None,
            Values::Bits { bits, half } => {
                Some(Narrow { bits: &bits[start..start + depth.len() * COLUMNS], half: *half })
            }
        }
    }

    /// Rows `depth` of `panel` as f32, 48 values each; `scratch` holds them unless they are f32 already.
    pub fn rows<'a>(
        &'a self,
        isa: Isa,
        panel: usize,
        depth: Range<usize>,
        scratch: &'a mut [f32],
    ) -> &'a [f32] {
        let start = (panel * self.depth + depth.start) * COLUMNS;
        let range = start..start + depth.len() * COLUMNS;
        match &self.values {
            Values::F32(values) => &values[range],
            Values::Bits { bits, half } => {
                let scratch = &mut scratch[..range.len()];
                // SAFETY: callers pass an instruction set that the processor has.
                unsafe { widen(isa, &bits[range], scratch, *half) };
                scratch
            }
        }
    }

    /// Column `column`, as f32: a row of the matrix that was packed transposed.
    pub fn column(&self, column: usize, to: &mut [f32]) {
        let isa = Isa::chosen();
        let mut scratch = vec![0.0; gemm::DEPTH * COLUMNS];
        for depth in gemm::chunks(self.depth) {
            let rows = self.rows(isa, column / COLUMNS, depth.clone(), &mut scratch);
            for (to, row) in to[depth].iter_mut().zip(rows.chunks_exact(COLUMNS)) {
                *to = row[column % COLUMNS];
            }
        }
    }
}

/// Fills panels from `at(row, column)`; each panel is one piece of work.
fn panels<T: super::aligned::Plain>(
    threads: &Threads,
    depth: usize,
    columns: usize,
    at: impl Fn(usize, usize) -> T + Sync + Send,
) -> Aligned<T> {
    let count = columns.div_ceil(COLUMNS);
    let mut all = Aligned::zeros(count * depth * COLUMNS);
    let shared = Shared::new(&mut all);
    threads.for_each(count, |panel| {
        // SAFETY: each panel belongs to one piece.
        let to = unsafe { shared.slice(panel * depth * COLUMNS, depth * COLUMNS) };
        let from = panel * COLUMNS;
        // Sixteen rows of the result at a time: reading and writing then both stay within the first-level cache.
        for (block, to) in to.chunks_mut(16 * COLUMNS).enumerate() {
            for j in 0..COLUMNS.min(columns - from) {
                for (i, to) in to[j..].iter_mut().step_by(COLUMNS).enumerate() {
                    *to = at(block * 16 + i, from + j);
                }
            }
        }
    });
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::gemm::{Mat, MatMut, gemm};
    use crate::kernels::testing::{assert_close, random};

    /// `weight` in each format, with the values that format can hold.
    fn formats(weight: &[f32]) -> [(Frozen, Vec<f32>); 3] {
        let bf16: Vec<u16> = weight.iter().map(|&v| half::bf16::from_f32(v).to_bits()).collect();
        let f16: Vec<u16> = weight.iter().map(|&v| half::f16::from_f32(v).to_bits()).collect();
        [Frozen::F32(weight.to_vec()), Frozen::Bf16(bf16), Frozen::F16(f16)].map(|frozen| {
            let wide = frozen.to_f32();
            (frozen, wide)
        })
    }

    #[test]
    fn both_orientations_give_the_product_of_the_unpacked_matrix() {
        for (t, n, k) in [(1, 1, 1), (3, 50, 7), (17, 96, 600), (9, 131, 1200)] {
            let (x, dy) = (random(t * k, "x"), random(t * n, "dy"));
            for (frozen, wide) in formats(&random(n * k, "w")) {
                let threads = Threads::new(2).unwrap();
                let forward = Packed::transposed(&threads, &frozen, n, k);
                let backward = forward.turned(&threads);
                let mut column = vec![0f32; k];
                forward.column(n - 1, &mut column);
                assert_eq!(column, wide[(n - 1) * k..]);

                let (mut y, mut expected) = (vec![f32::NAN; t * n], vec![0f32; t * n]);
                gemm(&threads, MatMut::new(&mut y, t, n), Mat::new(&x, t, k), &forward, 1.0, false);
                for i in 0..t {
                    for j in 0..n {
                        let sum: f64 =
                            (0..k).map(|l| f64::from(x[i * k + l]) * f64::from(wide[j * k + l])).sum();
                        expected[i * n + j] = sum as f32;
                    }
                }
                assert_close(&y, &expected, 2e-6, "x W^T");

                let (mut dx, mut expected) = (random(t * k, "dx"), random(t * k, "dx"));
                gemm(&threads, MatMut::new(&mut dx, t, k), Mat::new(&dy, t, n), &backward, 1.0, true);
                for i in 0..t {
                    for l in 0..k {
                        let sum: f64 =
                            (0..n).map(|j| f64::from(dy[i * n + j]) * f64::from(wide[j * k + l])).sum();
                        expected[i * k + l] += sum as f32;
                    }
                }
                assert_close(&dx, &expected, 2e-6, "dx += dy W");
            }
        }
    }

    #[test]
    fn joined_matrices_keep_their_format_or_become_f32() {
        let [(f32s, wide), (bf16, narrow), _] = formats(&random(6, "w"));
        assert!(matches!(bf16.clone().then(bf16.clone()), Frozen::Bf16(bits) if bits.len() == 12));
        assert_eq!(f32s.then(bf16).to_f32(), [wide, narrow].concat());
    }
}
