//! Causal attention with grouped queries over packed sequences of any length, which may share their first tokens.
//!
//! A piece of work is one key-value head of one [`Segment`]. It lays keys and values out once for all query heads of
//! the group, transposed where a product needs that, and walks through the queries 16 at a time with the heads stacked,
//! so that every product is one of dense blocks on the tiles of the matrix products and looks at visible keys only.
//! The forward keeps each row's log-sum-exp, from which the backward rebuilds the probabilities (Dao et al. 2022,
//! arXiv:2205.14135, section 3.1).
//!
//! Every value is a sum in the order of the keys, whichever tokens are shared: sharing changes no bit of the forward.

mod backward;
mod forward;

use std::cell::RefCell;
use std::ops::Range;

pub(crate) use backward::attention_backward;
pub(crate) use forward::attention_forward;

use super::aligned::Aligned;
use super::isa::Isa;
use super::simd::multiversion;
use super::tile::{COLUMNS, LANES, ROWS, Tile};

/// Heads and their sizes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    /// h
    pub query: usize,
    /// g
    pub kv: usize,
    /// d
    pub size: usize,
}

impl Heads {
    /// Query heads that share a key-value head.
    pub fn group(&self) -> usize {
        self.query / self.kv
    }

    /// w, the width of a row of queries, keys and values.
    pub fn width(&self) -> usize {
        (self.query + 2 * self.kv) * self.size
    }

    /// Column of query head `i`.
    pub fn q(&self, i: usize) -> usize {
        i * self.size
    }

    /// Column of key head `i`.
    pub fn k(&self, i: usize) -> usize {
        (self.query + i) * self.size
    }

    /// Column of value head `i`.
    pub fn v(&self, i: usize) -> usize {
        (self.query + self.kv + i) * self.size
    }
}

/// Where the sequences of a packed batch lie.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sequences {
    /// The first rows of the batch, with which every sequence begins; 0 when nothing is shared.
    pub prefix: usize,
    /// The rows that follow them in each sequence; some may be empty.
    pub own: Vec<Range<usize>>,
}

impl Sequences {
    /// Number of segments: the prefix, when there is one, and each sequence's own rows.
    fn segments(&self) -> usize {
        usize::from(self.prefix > 0) + self.own.len()
    }

    fn segment(&self, i: usize) -> Segment {
        match (self.prefix, i) {
            (0, _) => Segment { before: 0, own: self.own[i].clone() },
            (prefix, 0) => Segment { before: 0, own: 0..prefix },
            (prefix, _) => Segment { before: prefix, own: self.own[i - 1].clone() },
        }
    }
}

/// Rows that attend: to the first `before` rows of the batch, all of them, and causally to themselves.
struct Segment {
    before: usize,
    own: Range<usize>,
}

impl Segment {
    /// Number of keys.
    fn keys(&self) -> usize {
        self.before + self.own.len()
    }

    /// Rows of the batch that hold the keys, in order.
    fn rows(&self) -> impl Iterator<Item = usize> {
        (0..self.before).chain(self.own.clone())
    }

    /// Blocks of rows of the batch that attend together.
    fn blocks(&self) -> impl Iterator<Item = Range<usize>> {
        let end = self.own.end;
        self.own.clone().step_by(BLOCK).map(move |from| from..(from + BLOCK).min(end))
    }

    /// Keys that the row sees which is `row` of the batch.
    fn seen(&self, row: usize) -> usize {
        self.before + row + 1 - self.own.start
    }
}

/// Queries of each head whose scores exist at a time: keys come in vectors of 16, so fewer would save no arithmetic.
const BLOCK: usize = 16;

thread_local! {
    /// Laid out operands and scores of one piece of work: reused, so steps do not allocate.
    static SCRATCH: RefCell<Aligned<f32>> = const { RefCell::new(Aligned::empty()) };
}

/// Cuts one buffer into pieces of these lengths, each on a cache line of its own.
fn carve<const N: usize>(buffer: &mut Aligned<f32>, lens: [usize; N]) -> [&mut [f32]; N] {
    let mut rest = buffer.fit(lens.iter().map(|len| len.next_multiple_of(LANES)).sum());
    lens.map(|len| {
        let (piece, others) = std::mem::take(&mut rest).split_at_mut(len.next_multiple_of(LANES));
        rest = others;
        &mut piece[..len]
    })
}

/// One head's columns in the rows of a packed batch, `(t, stride)`.
#[derive(Clone, Copy)]
struct Columns<'a> {
    data: &'a [f32],
    stride: usize,
    column: usize,
    d: usize,
}

impl<'a> Columns<'a> {
    fn row(&self, row: usize) -> &'a [f32] {
        &self.data[row * self.stride + self.column..][..self.d]
    }

    /// Copies `rows` into `to (n, width)`, zeros beyond the head's size.
    fn copy(&self, rows: impl Iterator<Item = usize>, to: &mut [f32], width: usize) {
        for (row, to) in rows.zip(to.chunks_exact_mut(width)) {
            to[..self.d].copy_from_slice(self.row(row));
            to[self.d..].fill(0.0);
        }
    }

    /// Copies the same `rows` of all heads of a group, of which this is the first: `(group rows, width)`.
    fn stack(&self, group: usize, rows: Range<usize>, to: &mut [f32], width: usize) {
        for (head, to) in to.chunks_exact_mut(rows.len() * width).take(group).enumerate() {
            Self { column: self.column + head * self.d, ..*self }.copy(rows.clone(), to, width);
        }
    }

    /// Copies `rows` across: `to (d, width)`, where columns beyond the last row repeat it.
    fn transpose(&self, mut rows: impl Iterator<Item = usize>, to: &mut [f32], width: usize) {
        let mut last: &[f32] = &[];
        for from in (0..width).step_by(LANES) {
            let block: [&[f32]; LANES] = std::array::from_fn(|_| {
                last = rows.next().map_or(last, |row| self.row(row));
                last
            });
            transpose_block(&block, to, width, from);
        }
    }
}

multiversion! {
    /// Writes sixteen rows of one length as columns `from..from + 16` of `to (_, width)`.
    fn transpose_block(rows: &[&[f32]; 16], to: &mut [f32], width: usize, from: usize) {
        let d = rows[0].len();
        let rows: [&[f32]; 16] = std::array::from_fn(|j| &rows[j][..d]);
        for (l, to) in to.chunks_exact_mut(width).take(d).enumerate() {
            let to = &mut to[from..from + 16];
            for j in 0..16 {
                to[j] = rows[j][l];
            }
        }
    }
}

/// A left operand: element (i, l) is `data[i * row + l * col]`.
#[derive(Clone, Copy)]
struct Left<'a> {
    data: &'a [f32],
    row: usize,
    col: usize,
}

impl<'a> Left<'a> {
    /// `data` as it lies, in rows of `width`.
    fn new(data: &'a [f32], width: usize) -> Self {
        Self { data, row: width, col: 1 }
    }

    /// The transpose of rows of `width`.
    fn turned(data: &'a [f32], width: usize) -> Self {
        Self { data, row: 1, col: width }
    }
}

/// `out (rows, columns) (+)= a (rows, depth) b (depth, columns)`, where `columns` come in vectors of 16. Output and right
/// operand are given with the width of their rows.
fn product(
    (out, out_width): (&mut [f32], usize),
    a: Left,
    (b, b_width): (&[f32], usize),
    [rows, columns, depth]: [usize; 3],
    accumulate: bool,
) {
    let isa = Isa::chosen();
    assert!(rows > 0 && depth > 0 && columns > 0 && columns.is_multiple_of(LANES), "extents of a block");
    assert!((rows - 1) * a.row + (depth - 1) * a.col < a.data.len(), "left operand outside its slice");
    assert!((depth - 1) * b_width + columns <= b.len(), "right operand outside its slice");
    assert!((rows - 1) * out_width + columns <= out.len(), "output outside its slice");
    let mut from = 0;
    while from < columns {
        // Two vectors twice beat three and one: a single one leaves half of the accumulators idle.
        let here = if columns - from == 4 * LANES { 2 * LANES } else { COLUMNS.min(columns - from) };
        for row in (0..rows).step_by(ROWS) {
            let tile = Tile {
                a: a.data[row * a.row..].as_ptr(),
                a_row: a.row,
                a_col: a.col,
                b: b[from..].as_ptr(),
                b_row: b_width,
                c: out[row * out_width + from..].as_mut_ptr(),
                c_row: out_width,
                rows: ROWS.min(rows - row),
                columns: here,
                depth,
                accumulate,
            };
            // SAFETY: the assertions keep all elements inside their slices, of which `out` is borrowed for writing;
            // the instruction set is the chosen one.
            unsafe { tile.run(isa) };
        }
        from += here;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, random};
    use crate::threads::Threads;

    /// Plain attention in f64: the output `(t, h d)`.
    fn reference(qkv: &[f64], sequences: &Sequences, heads: Heads) -> Vec<f64> {
        let (d, w) = (heads.size, heads.width());
        let mut out = vec![0f64; qkv.len() / w * heads.query * d];
        let at = |row: usize, column: usize| &qkv[row * w + column..row * w + column + d];
        for segment in (0..sequences.segments()).map(|i| sequences.segment(i)) {
            for head in 0..heads.query {
                let kv = head / heads.group();
                for i in segment.own.clone() {
                    let q = at(i, heads.q(head));
                    let visible = || (0..segment.before).chain(segment.own.start..i + 1);
                    let weights: Vec<f64> = visible()
                        .map(|j| {
                            let product: f64 = q.iter().zip(at(j, heads.k(kv))).map(|(a, b)| a * b).sum();
                            (product / (d as f64).sqrt()).exp()
                        })
                        .collect();
                    let total: f64 = weights.iter().sum();
                    for (j, weight) in visible().zip(&weights) {
                        for (l, value) in at(j, heads.v(kv)).iter().enumerate() {
                            out[i * heads.query * d + heads.q(head) + l] += weight / total * value;
                        }
                    }
                }
            }
        }
        out
    }

    /// Sequences with these many rows of their own after a common prefix, and t.
    fn sequences(prefix: usize, lengths: &[usize]) -> (Sequences, usize) {
        let mut end = prefix;
        let own = lengths.iter().map(|n| {
            end += n;
            end - n..end
        });
        (Sequences { prefix, own: own.collect() }, end)
    }

    type Results = (Vec<f32>, Vec<f32>, Vec<f32>);

    /// Output, log-sum-exp and gradient.
    fn run(threads: &Threads, qkv: &[f32], dout: &[f32], sequences: &Sequences, heads: Heads) -> Results {
        let (mut out, mut dqkv) = (vec![f32::NAN; dout.len()], vec![f32::NAN; qkv.len()]);
        let mut lse = vec![f32::NAN; dout.len() / heads.size];
        attention_forward(threads, &mut out, &mut lse, qkv, sequences, heads);
        // What an earlier and larger batch left behind must not matter.
        let mut slots = vec![f32::NAN; 100_000];
        attention_backward(threads, &mut dqkv, dout, qkv, &lse, sequences, heads, &mut slots);
        (out, lse, dqkv)
    }

    const CASES: [(Heads, usize, &[usize]); 8] = [
        (Heads { query: 4, kv: 2, size: 6 }, 0, &[3, 1, 5]),
        (Heads { query: 3, kv: 3, size: 4 }, 0, &[130]),
        (Heads { query: 3, kv: 1, size: 8 }, 0, &[64, 65]),
        (Heads { query: 3, kv: 1, size: 64 }, 0, &[33]),
        (Heads { query: 6, kv: 2, size: 20 }, 5, &[1, 17, 0, 12]),
        (Heads { query: 2, kv: 2, size: 16 }, 22, &[70, 10]),
        (Heads { query: 9, kv: 3, size: 64 }, 1, &[30, 1]),
        (Heads { query: 3, kv: 1, size: 80 }, 16, &[0, 0]),
    ];

    #[test]
    fn forward_matches_the_reference_and_backward_its_differences() {
        for (heads, prefix, lengths) in CASES {
            let (sequences, t) = sequences(prefix, lengths);
            let (w, q_dim) = (heads.width(), heads.query * heads.size);
            let (qkv, dout) = (random(t * w, "qkv"), random(t * q_dim, "dout"));
            let wide: Vec<f64> = qkv.iter().map(|&v| f64::from(v)).collect();
            let (out, _, dqkv) = run(&Threads::new(2).unwrap(), &qkv, &dout, &sequences, heads);
            let expected: Vec<f32> = reference(&wide, &sequences, heads).iter().map(|&v| v as f32).collect();
            assert_close(&out, &expected, 2e-6, "attention");
            assert!(dqkv.iter().all(|v| v.is_finite()), "every gradient is written");
            let objective = |x: &[f64]| -> f64 {
                reference(x, &sequences, heads).iter().zip(&dout).map(|(y, d)| y * f64::from(*d)).sum()
            };
            for column in [0, heads.k(0) + 1, heads.v(heads.kv - 1) + 2] {
                for row in [0, t / 2, t - 1] {
                    let i = row * w + column;
                    let mut moved = wide.clone();
                    moved[i] += 1e-5;
                    let above = objective(&moved);
                    moved[i] -= 2e-5;
                    let slope = (above - objective(&moved)) / 2e-5;
                    let found = f64::from(dqkv[i]);
                    assert!(
                        (found - slope).abs() < 1e-4 * slope.abs().max(1.0),
                        "{heads:?} [{i}]: {found} {slope}"
                    );
                }
            }
        }
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        for (heads, prefix, lengths) in CASES {
            let (sequences, t) = sequences(prefix, lengths);
            let (qkv, dout) =
                (random(t * heads.width(), "qkv"), random(t * heads.query * heads.size, "dout"));
            let one = run(&Threads::one(), &qkv, &dout, &sequences, heads);
            for threads in [2, 3] {
                assert_eq!(run(&Threads::new(threads).unwrap(), &qkv, &dout, &sequences, heads), one);
            }
        }
    }

    #[test]
    fn a_cut_between_shared_and_own_rows_changes_no_bit_of_the_forward() {
        let heads = Heads { query: 3, kv: 1, size: 24 };
        let t = 75;
        let (qkv, dout) = (random(t * heads.width(), "qkv"), random(t * heads.query * heads.size, "dout"));
        let whole = run(&Threads::one(), &qkv, &dout, &sequences(0, &[t]).0, heads);
        for prefix in [1, 16, 22, 74] {
            let cut = run(&Threads::one(), &qkv, &dout, &sequences(prefix, &[t - prefix]).0, heads);
            assert_eq!((&cut.0, &cut.1), (&whole.0, &whole.1), "prefix of {prefix}");
            assert_close(&cut.2, &whole.2, 2e-6, "gradient");
        }
    }
}
