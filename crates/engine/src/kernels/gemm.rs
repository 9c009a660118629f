//! Matrix products behind one function, so that the kernel underneath can change.
//!
//! Underneath is the crate `gemm`, single-threaded; pieces are cut by shape alone and each is computed whole by one
//! thread, so the result does not depend on the number of threads.

use gemm::Parallelism;

use super::Shared;
use crate::threads::Threads;

/// A read-only matrix with strides.
#[derive(Clone, Copy)]
pub(crate) struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Mat<'a> {
    /// `data` as `(rows, cols)`, row-major and dense.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// `data` as `(rows, cols)` with `stride` elements from row to row.
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, stride: usize) -> Self {
        assert!(
            rows == 0 || cols == 0 || (rows - 1) * stride + cols <= data.len(),
            "matrix outside its slice"
        );
        Self { data, rows, cols, row_stride: stride, col_stride: 1 }
    }

    /// The transpose, without moving anything.
    pub fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

/// A row-major matrix to write to.
pub(crate) struct MatMut<'a> {
    data: &'a mut [f32],
    rows: usize,
    cols: usize,
    stride: usize,
}

impl<'a> MatMut<'a> {
    /// `data` as `(rows, cols)`, dense.
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// `data` as `(rows, cols)` with `stride` elements from row to row.
    pub fn strided(data: &'a mut [f32], rows: usize, cols: usize, stride: usize) -> Self {
        assert!(
            rows == 0 || cols == 0 || (rows - 1) * stride + cols <= data.len(),
            "matrix outside its slice"
        );
        assert!(cols <= stride || rows <= 1, "rows overlap");
        Self { data, rows, cols, stride }
    }
}

/// Multiply-adds that are worth a piece of their own: a piece packs one operand anew, so few large ones are best.
const PIECE_WORK: usize = 1 << 24;
/// Elements of `b` that are worth a piece of their own: with few rows, reading `b` is what takes the time.
const PIECE_READ: usize = 1 << 18;
/// Most pieces of one product.
const MOST_PIECES: usize = 8;

/// `out = factor * a b`, or `out += factor * a b` when `accumulate`.
///
/// # Panics
/// When the extents do not match.
pub(crate) fn gemm(threads: &Threads, out: MatMut, a: Mat, b: Mat, factor: f32, accumulate: bool) {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    assert_eq!((b.rows, out.rows, out.cols), (k, m, n), "extents of a matrix product");
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 {
        if !accumulate {
            for row in out.data.chunks_mut(out.stride).take(m) {
                row[..n].fill(0.0);
            }
        }
        return;
    }
    // Cut the longer side of the output, so that pieces stay squarish.
    let by_columns = n >= m;
    let by_reading = if by_columns { n * k / PIECE_READ } else { 1 };
    let pieces = (m * n * k / PIECE_WORK).max(by_reading).clamp(1, MOST_PIECES);
    let extent = if by_columns { n } else { m };
    let step = extent.div_ceil(pieces).next_multiple_of(16);
    let pieces = extent.div_ceil(step);
    let shared = Shared::new(out.data);
    let stride = out.stride;
    threads.for_each(pieces, |piece| {
        let from = piece * step;
        let len = step.min(extent - from);
        let (row, col, rows, cols) = if by_columns { (0, from, m, len) } else { (from, 0, len, n) };
        // SAFETY: pieces cover disjoint rows or columns of `out`, inside its slice by `MatMut`'s check; the inputs'
        // extents and strides stay inside their slices by `Mat`'s check.
        unsafe {
            gemm::gemm(
                rows,
                cols,
                k,
                shared.pointer(row * stride + col),
                1,
                stride as isize,
                accumulate,
                a.data.as_ptr().add(row * a.row_stride),
                a.col_stride as isize,
                a.row_stride as isize,
                b.data.as_ptr().add(col * b.col_stride),
                b.col_stride as isize,
                b.row_stride as isize,
                1.0f32,
                factor,
                false,
                false,
                false,
                Parallelism::None,
            );
        }
    });
}

/// Adds `bias` `(n)` to every row of `out` `(m, n)`.
pub(crate) fn add_bias(out: &mut [f32], bias: &[f32]) {
    if !bias.is_empty() {
        for row in out.chunks_exact_mut(bias.len()) {
            row.iter_mut().zip(bias).for_each(|(value, b)| *value += b);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, random};

    fn reference(a: Mat, b: Mat) -> Vec<f32> {
        let mut out = vec![0f32; a.rows * b.cols];
        for i in 0..a.rows {
            for j in 0..b.cols {
                out[i * b.cols + j] = (0..a.cols)
                    .map(|l| {
                        a.data[i * a.row_stride + l * a.col_stride]
                            * b.data[l * b.row_stride + j * b.col_stride]
                    })
                    .sum();
            }
        }
        out
    }

    #[test]
    fn every_orientation_and_odd_shape_matches_the_reference() {
        for (m, n, k) in
            [(1, 1, 1), (1, 70, 33), (70, 1, 33), (5, 7, 3), (17, 130, 64), (130, 19, 61), (250, 250, 40)]
        {
            let (x, y) = (random(m * k, "x"), random(k * n, "y"));
            for (a, b) in [
                (Mat::new(&x, m, k), Mat::new(&y, k, n)),
                (Mat::new(&x, k, m).t(), Mat::new(&y, k, n)),
                (Mat::new(&x, m, k), Mat::new(&y, n, k).t()),
                (Mat::new(&x, k, m).t(), Mat::new(&y, n, k).t()),
            ] {
                let expected = reference(a, b);
                let mut out = vec![f32::NAN; m * n];
                gemm(&Threads::one(), MatMut::new(&mut out, m, n), a, b, 1.0, false);
                assert_close(&out, &expected, 1e-5, "product");
                gemm(&Threads::one(), MatMut::new(&mut out, m, n), a, b, -0.5, true);
                let half: Vec<f32> = expected.iter().map(|v| v * 0.5).collect();
                assert_close(&out, &half, 1e-5, "accumulated product");
            }
        }
    }

    #[test]
    fn strided_output_leaves_its_neighbours_alone() {
        let (x, y) = (random(6, "x"), random(8, "y"));
        let mut out = [7f32; 30];
        gemm(
            &Threads::one(),
            MatMut::strided(&mut out[2..], 3, 4, 10),
            Mat::new(&x, 3, 2),
            Mat::new(&y, 2, 4),
            1.0,
            false,
        );
        for (i, value) in out.iter().enumerate() {
            let inside = (2..6).contains(&(i % 10));
            assert_eq!(*value == 7.0, !inside, "element {i}");
        }
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let (m, n, k) = (500, 900, 150);
        let (x, y) = (random(m * k, "x"), random(k * n, "y"));
        let run = |threads: &Threads| {
            let mut out = vec![0f32; m * n];
            gemm(
                threads,
                MatMut::new(&mut out, m, n),
                Mat::new(&x, m, k),
                Mat::new(&y, n, k).t(),
                1.0,
                false,
            );
            out
        };
        assert_eq!(run(&Threads::one()), run(&Threads::new(2).unwrap()));
        assert_eq!(run(&Threads::one()), run(&Threads::new(3).unwrap()));
    }
}
