//! Matrix products: one driver over micro-kernel tiles, for right operands that lie packed in panels (frozen weights)
//! or anyhow (everything else).
//!
//! For each panel of 48 columns and each chunk of the depth, the right operand becomes f32 rows in the first- or
//! second-level cache; all rows of the left operand then run over it. Pieces of work are cut by shape alone and every
//! output value is one sum in the order of the depth, so the result does not depend on the number of threads.

use std::cell::RefCell;
use std::ops::Range;

use super::Shared;
use super::aligned::Aligned;
use super::isa::Isa;
use super::packed::Packed;
use super::tile::{COLUMNS, LANES, Narrow, ROWS, Tile};
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

    /// Address of element (`row`, `col`), which must exist.
    fn pointer(&self, row: usize, col: usize) -> *const f32 {
        assert!(row < self.rows && col < self.cols, "outside the matrix");
        self.data[row * self.row_stride + col * self.col_stride..].as_ptr()
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

    /// Rows, columns, and elements from row to row.
    pub fn extents(&self) -> (usize, usize, usize) {
        (self.rows, self.cols, self.stride)
    }

    /// The slice behind it.
    pub fn into_data(self) -> &'a mut [f32] {
        self.data
    }
}

/// The right operand of a product, `(depth, columns)`.
#[derive(Clone, Copy)]
pub(crate) enum Right<'a> {
    /// Any matrix.
    Dense(Mat<'a>),
    /// A frozen one in panels.
    Packed(&'a Packed),
}

impl<'a> From<Mat<'a>> for Right<'a> {
    fn from(mat: Mat<'a>) -> Self {
        Right::Dense(mat)
    }
}

impl<'a> From<&'a Packed> for Right<'a> {
    fn from(packed: &'a Packed) -> Self {
        Right::Packed(packed)
    }
}

/// Rows of one panel of the right operand as a tile wants them.
struct Rows {
    start: *const f32,
    stride: usize,
    /// Columns that may be computed: those wanted, rounded up to whole vectors where there is padding.
    columns: usize,
}

impl Right<'_> {
    fn extents(&self) -> (usize, usize) {
        match self {
            Right::Dense(mat) => (mat.rows, mat.cols),
            Right::Packed(packed) => packed.extents(),
        }
    }

    /// Rows `depth` of `panel`, where they are stored in 16 bits.
    fn narrow(&self, panel: usize, depth: Range<usize>) -> Option<Narrow<'_>> {
        match self {
            Right::Packed(packed) => packed.narrow(panel, depth),
            Right::Dense(_) => None,
        }
    }

    /// Rows `depth` of `panel`, times `factor`; copied into `scratch` unless they can be used where they lie.
    fn rows(&self, isa: Isa, panel: usize, depth: Range<usize>, factor: f32, scratch: &mut [f32]) -> Rows {
        let from = panel * COLUMNS;
        match self {
            Right::Packed(packed) => {
                debug_assert!(factor == 1.0, "frozen matrices are not scaled");
                let columns = COLUMNS.min((packed.extents().1 - from).next_multiple_of(LANES));
                Rows { start: packed.rows(isa, panel, depth, scratch).as_ptr(), stride: COLUMNS, columns }
            }
            Right::Dense(mat) => {
                let wanted = COLUMNS.min(mat.cols - from);
                if mat.col_stride == 1 && wanted.is_multiple_of(LANES) && factor == 1.0 {
                    let start = mat.data[depth.start * mat.row_stride + from..].as_ptr();
                    return Rows { start, stride: mat.row_stride, columns: wanted };
                }
                let columns = wanted.next_multiple_of(LANES);
                mat.pack(from..from + wanted, depth, factor, scratch, columns);
                Rows { start: scratch.as_ptr(), stride: columns, columns }
            }
        }
    }
}

impl Mat<'_> {
    /// Copies a block into dense rows of `width`, times `factor`, zeros beyond its columns.
    fn pack(&self, cols: Range<usize>, rows: Range<usize>, factor: f32, to: &mut [f32], width: usize) {
        let wanted = cols.len();
        let to = &mut to[..rows.len() * width];
        if self.row_stride == 1 {
            // A transposed view: along the memory, whose rows are the columns here.
            if wanted < width {
                to.fill(0.0);
            }
            for (j, col) in cols.enumerate() {
                let from = &self.data[col * self.col_stride + rows.start..][..rows.len()];
                to[j..].iter_mut().step_by(width).zip(from).for_each(|(to, from)| *to = factor * from);
            }
            return;
        }
        for (to, row) in to.chunks_exact_mut(width).zip(rows) {
            let start = row * self.row_stride + cols.start * self.col_stride;
            let from = self.data[start..].iter().step_by(self.col_stride);
            to[..wanted].iter_mut().zip(from).for_each(|(to, from)| *to = factor * from);
            to[wanted..].fill(0.0);
        }
    }
}

/// Depth of a chunk: 576 rows of a panel are 108 KiB, which stay in the second-level cache. Measured: 10 % over 144.
pub(crate) const DEPTH: usize = 576;
/// Multiply-adds that are worth a piece of their own.
const PIECE_WORK: usize = 1 << 20;
/// Values of the right operand that are: with few rows, reading it is what takes the time.
const PIECE_READ: usize = 1 << 17;
/// Rows that are worth a block of their own.
const BLOCK_ROWS: usize = 64;
/// Most pieces of one product.
const MOST_PIECES: usize = 64;

thread_local! {
    /// Rows of a panel, and a tile whose edge is cut off.
    static SCRATCH: RefCell<Aligned<f32>> = const { RefCell::new(Aligned::empty()) };
}

/// How a product is cut: pieces are runs of panels, and blocks of rows where there are few panels.
pub(crate) struct Cut {
    panels_each: usize,
    groups: usize,
    rows_each: usize,
    blocks: usize,
}

impl Cut {
    pub fn new(m: usize, n: usize, k: usize) -> Self {
        let panels = n.div_ceil(COLUMNS);
        let pieces = (m * n * k / PIECE_WORK).max(n * k / PIECE_READ).clamp(1, MOST_PIECES);
        let panels_each = panels.div_ceil(pieces.min(panels));
        let groups = panels.div_ceil(panels_each);
        // Each block of rows reads the right operand anew.
        let wanted = (pieces / groups).clamp(1, m.div_ceil(BLOCK_ROWS));
        let rows_each = m.div_ceil(wanted).next_multiple_of(ROWS);
        Self { panels_each, groups, rows_each, blocks: m.div_ceil(rows_each) }
    }

    /// Number of pieces.
    pub fn pieces(&self) -> usize {
        self.groups * self.blocks
    }

    /// Panels and rows of piece `piece` of an `(m, n)` output.
    pub fn piece(&self, piece: usize, m: usize, n: usize) -> (Range<usize>, Range<usize>) {
        let (group, block) = (piece % self.groups, piece / self.groups);
        let panels = group * self.panels_each..((group + 1) * self.panels_each).min(n.div_ceil(COLUMNS));
        (panels, block * self.rows_each..((block + 1) * self.rows_each).min(m))
    }
}

/// `out = factor * a b`, or `out += factor * a b` when `accumulate`.
///
/// # Panics
/// When the extents do not match.
pub(crate) fn gemm<'b>(
    threads: &Threads,
    out: MatMut,
    a: Mat,
    b: impl Into<Right<'b>>,
    factor: f32,
    accumulate: bool,
) {
    let b = b.into();
    let (m, k) = (a.rows, a.cols);
    let n = b.extents().1;
    assert_eq!((b.extents().0, out.rows, out.cols), (k, m, n), "extents of a matrix product");
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
    let isa = Isa::chosen();
    let cut = Cut::new(m, n, k);
    let stride = out.stride;
    let shared = Shared::new(out.data);
    threads.for_each(cut.pieces(), |piece| {
        let (panels, rows) = cut.piece(piece, m, n);
        SCRATCH.with_borrow_mut(|scratch| {
            let (scratch, edge) = scratch.fit(DEPTH * COLUMNS + ROWS * COLUMNS).split_at_mut(DEPTH * COLUMNS);
            for panel in panels {
                for depth in chunks(k) {
                    let first = depth.start == 0;
                    let columns = COLUMNS.min(n - panel * COLUMNS);
                    let narrow = b
                        .narrow(panel, depth.clone())
                        .filter(|_| columns == COLUMNS && Narrow::is_direct(isa, rows.len()));
                    let mut right = match narrow {
                        // `start` follows the first tile.
                        Some(_) => Rows { start: scratch.as_ptr(), stride: COLUMNS, columns },
                        None => b.rows(isa, panel, depth.clone(), factor, scratch),
                    };
                    for row in rows.clone().step_by(ROWS) {
                        let here = ROWS.min(rows.end - row);
                        let target = shared.pointer(row * stride + panel * COLUMNS);
                        let tile = Tile {
                            a: a.pointer(row, depth.start),
                            a_row: a.row_stride,
                            a_col: a.col_stride,
                            b: right.start,
                            b_row: right.stride,
                            c: target,
                            c_row: stride,
                            rows: here,
                            columns: right.columns,
                            depth: depth.len(),
                            accumulate: accumulate || !first,
                        };
                        // SAFETY: `Mat` and `MatMut` checked that their extents stay inside their slices, `rows` gave
                        // whole rows of the panel, pieces cover disjoint tiles of `out`, and the set is the chosen one.
                        unsafe {
                            if let Some(narrow) = narrow.filter(|_| row == rows.start) {
                                // The first tile leaves the widened rows to those after it.
                                let kept = if here == rows.len() { 0 } else { depth.len() * COLUMNS };
                                tile.run_narrow(isa, narrow, &mut scratch[..kept]);
                                right.start = scratch.as_ptr();
                            } else if right.columns == columns {
                                tile.run(isa);
                            } else {
                                cut_off(&tile, columns, edge, isa);
                            }
                        }
                    }
                }
            }
        });
    });
}

/// The chunks of a depth `k`: as few as may be, about equally long.
pub(crate) fn chunks(k: usize) -> impl Iterator<Item = Range<usize>> {
    let each = k.div_ceil(k.div_ceil(DEPTH));
    (0..k.div_ceil(each)).map(move |i| i * each..((i + 1) * each).min(k))
}

/// A tile of which only the first `columns` columns exist in the output.
///
/// # Safety
/// As for [`Tile::run`], with `columns` instead of the tile's own for the output; `edge` holds a whole tile.
unsafe fn cut_off(tile: &Tile, columns: usize, edge: &mut [f32], isa: Isa) {
    for i in 0..tile.rows {
        // SAFETY: `columns` values of each output row are the caller's to use.
        let row = unsafe { std::slice::from_raw_parts_mut(tile.c.add(i * tile.c_row), columns) };
        edge[i * COLUMNS..][..columns].copy_from_slice(row);
    }
    let whole = Tile { c: edge.as_mut_ptr(), c_row: COLUMNS, ..*tile };
    // SAFETY: the output is now `edge`, whose rows are as wide as a panel.
    unsafe { whole.run(isa) };
    for i in 0..tile.rows {
        // SAFETY: as above.
        let row = unsafe { std::slice::from_raw_parts_mut(tile.c.add(i * tile.c_row), columns) };
        row.copy_from_slice(&edge[i * COLUMNS..][..columns]);
    }
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
