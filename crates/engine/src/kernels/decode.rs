//! Attention of new tokens over cached keys and values, on the tiles that the matrix products use.
//!
//! A cache is a list of pages of 48 positions. In a page the keys of a head lie across and its values along, so that
//! both products of attention read it as it is. What several sequences have in common is one segment that all look at,
//! before a segment of their own. A row's result does not depend on the cut between the two, nor on the rows beside it.

use std::cell::RefCell;

use super::Shared;
use super::aligned::Aligned;
use super::attention::Heads;
use super::isa::Isa;
use super::simd::{exp, max, multiversion, sum};
use super::tile::{COLUMNS, LANES, ROWS, Tile};
use crate::threads::Threads;

/// Positions in a page: one panel of keys.
const POSITIONS: usize = COLUMNS;
/// Multiply-adds that are worth a second thread.
const SHARED_WORK: usize = 1 << 18;

/// Pages of all blocks for some positions.
pub(crate) type Page = Aligned<f32>;

/// Extents of a cache. A page holds `(layers, g, 48 (d + e))`, where e is d rounded up to whole vectors.
#[derive(Clone, Copy)]
pub(crate) struct CacheShape {
    pub layers: usize,
    pub heads: Heads,
}

impl CacheShape {
    /// Width of a row of values, e.
    fn value_width(&self) -> usize {
        self.heads.size.next_multiple_of(LANES)
    }

    /// Keys `(d, 48)` and values `(48, e)` of one head in a page.
    fn split<'a>(&self, page: &'a Page, layer: usize, kv: usize) -> (&'a [f32], &'a [f32]) {
        let len = POSITIONS * (self.heads.size + self.value_width());
        page[(layer * self.heads.kv + kv) * len..][..len].split_at(POSITIONS * self.heads.size)
    }

    fn split_mut<'a>(&self, page: &'a mut Page, layer: usize, kv: usize) -> (&'a mut [f32], &'a mut [f32]) {
        let len = POSITIONS * (self.heads.size + self.value_width());
        page[(layer * self.heads.kv + kv) * len..][..len].split_at_mut(POSITIONS * self.heads.size)
    }

    fn new_page(&self) -> Page {
        let head = POSITIONS * (self.heads.size + self.value_width());
        Page::zeros(self.layers * self.heads.kv * head)
    }
}

/// Keys and values of consecutive positions.
#[derive(Default)]
pub(crate) struct Segment {
    pages: Vec<Page>,
    /// Positions that are complete.
    pub len: usize,
}

impl Segment {
    /// Makes room for `len` positions, with pages from `free` while there are any.
    pub fn reserve(&mut self, shape: CacheShape, len: usize, free: &mut Vec<Page>) {
        while self.pages.len() * POSITIONS < len {
            self.pages.push(free.pop().unwrap_or_else(|| shape.new_page()));
        }
    }

    /// Gives its pages back.
    pub fn release(self, free: &mut Vec<Page>) {
        free.extend(self.pages);
    }

    /// Writes keys and values `(2 g d)` of the position with this number in the segment.
    pub fn store(&mut self, shape: CacheShape, layer: usize, place: usize, keys_values: &[f32]) {
        let (d, width, kv) = (shape.heads.size, shape.value_width(), shape.heads.kv);
        let (keys, values) = keys_values.split_at(kv * d);
        let (page, at) = (&mut self.pages[place / POSITIONS], place % POSITIONS);
        for (head, (key, value)) in keys.chunks_exact(d).zip(values.chunks_exact(d)).enumerate() {
            let (key_to, value_to) = shape.split_mut(page, layer, head);
            key_to[at..].iter_mut().step_by(POSITIONS).zip(key).for_each(|(to, k)| *to = *k);
            value_to[at * width..][..d].copy_from_slice(value);
        }
    }

    /// Its pages with the number of positions that count in each, for the first `len` positions.
    fn pages(&self, len: usize) -> impl Iterator<Item = (&Page, usize, usize)> {
        let pages = self.pages.iter().zip((0..len).step_by(POSITIONS));
        pages.map(move |(page, from)| (page, from, POSITIONS.min(len - from)))
    }
}

/// Rows of one sequence on their way through the model: consecutive positions, the first right after `before`.
pub(crate) struct Span<'a> {
    /// Its first row in the batch.
    pub first: usize,
    pub rows: usize,
    /// What it has in common with others.
    pub shared: &'a Segment,
    /// Its own; holds keys and values of these rows already, beyond `own.len`.
    pub own: &'a Segment,
}

impl Span<'_> {
    /// Keys that the first row sees, its own included.
    fn seen(&self) -> usize {
        self.shared.len + self.own.len + 1
    }
}

thread_local! {
    /// Scores of up to 8 queries, and their sums of values.
    static SCRATCH: RefCell<[Vec<f32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

multiversion! {
    /// Softmax without the division: row `i` sees `first + i * more` scores, and those up to `all` become 0.
    /// Leaves one over each row's sum in `inverse`.
    fn weigh(scores: &mut [f32], width: usize, first: usize, more: usize, all: usize, scale: f32, inverse: &mut [f32]) {
        for (i, (row, inverse)) in scores.chunks_exact_mut(width).zip(inverse).enumerate() {
            let (seen, hidden) = row[..all].split_at_mut(first + i * more);
            let top = max(seen) * scale;
            for s in seen.iter_mut() {
                *s = exp(*s * scale - top);
            }
            *inverse = 1.0 / sum(seen, |p| p);
            hidden.fill(0.0);
        }
    }
}

/// `out (t, h d)` from the queries in `qkv (t, w)`, whose keys and values are in the spans' caches already.
pub(crate) fn attend_spans(
    threads: &Threads,
    out: &mut [f32],
    qkv: &[f32],
    spans: &[Span],
    shape: CacheShape,
    layer: usize,
) {
    let heads = shape.heads;
    let (d, w, q_dim, group) = (heads.size, heads.width(), heads.query * heads.size, heads.query / heads.kv);
    let t = spans.last().map_or(0, |span| span.first + span.rows);
    assert!(out.len() == t * q_dim && qkv.len() == t * w, "attention extents");
    let work: usize = spans.iter().map(|span| span.rows * (span.seen() + span.rows / 2) * q_dim * 2).sum();
    let out = Shared::new(out);
    let one = Threads::one();
    let threads = if work < SHARED_WORK { &one } else { threads };
    threads.for_each(spans.len() * heads.kv, |task| {
        let (span, kv) = (&spans[task / heads.kv], task % heads.kv);
        let attend = |row: usize, head: usize, rows: usize, by_head: bool| {
            let from = (span.first + row) * w + head * d;
            let (stride, out_stride) = if by_head { (d, d) } else { (w, q_dim) };
            let queries = Queries {
                q: &qkv[from..],
                stride,
                rows,
                first: span.seen() + row,
                more: usize::from(!by_head),
            };
            queries.attend(span, shape, layer, kv, |i, values| {
                // SAFETY: each (row, head) belongs to one task, which holds no other reference into `out`.
                unsafe { out.slice((span.first + row) * q_dim + head * d + i * out_stride, d) }
                    .copy_from_slice(values);
            });
        };
        let heads_here = kv * group..(kv + 1) * group;
        if span.rows == 1 {
            // The query heads of a group look at the same keys.
            for head in heads_here.clone().step_by(ROWS) {
                attend(0, head, ROWS.min(heads_here.end - head), true);
            }
        } else {
            for head in heads_here {
                for row in (0..span.rows).step_by(ROWS) {
                    attend(row, head, ROWS.min(span.rows - row), false);
                }
            }
        }
    });
}

/// Up to 8 queries of one sequence and one key-value head.
struct Queries<'a> {
    /// Query 0 and what follows in memory.
    q: &'a [f32],
    /// From query to query.
    stride: usize,
    rows: usize,
    /// Keys that query 0 sees.
    first: usize,
    /// How many more each next one sees: 0 or 1.
    more: usize,
}

impl Queries<'_> {
    /// Calls `put` with each query's number and result `(d)`.
    fn attend(&self, span: &Span, shape: CacheShape, layer: usize, kv: usize, put: impl Fn(usize, &[f32])) {
        let (d, value_width, isa) = (shape.heads.size, shape.value_width(), Isa::chosen());
        let seen = self.first + (self.rows - 1) * self.more;
        let own = seen - span.shared.len;
        assert!(self.q.len() >= (self.rows - 1) * self.stride + d, "queries outside their slice");
        // A tile writes whole vectors, so the last one may reach beyond the scores that exist.
        let width = seen + LANES;
        let pages = || {
            let own = span.own.pages(own).map(|(page, from, n)| (page, span.shared.len + from, n));
            span.shared.pages(span.shared.len).chain(own)
        };
        SCRATCH.with_borrow_mut(|[scores, sums]| {
            let scores = sized(scores, self.rows * width);
            let sums = sized(sums, self.rows * value_width);
            for (page, from, n) in pages() {
                let (keys, _) = shape.split(page, layer, kv);
                let columns = n.next_multiple_of(LANES);
                assert!(from + columns <= width, "scores outside their row");
                let tile = Tile {
                    a: self.q.as_ptr(),
                    a_row: self.stride,
                    a_col: 1,
                    b: keys.as_ptr(),
                    b_row: POSITIONS,
                    c: scores[from..].as_mut_ptr(),
                    c_row: width,
                    rows: self.rows,
                    columns,
                    depth: d,
                    accumulate: false,
                };
                // SAFETY: the queries are inside their slice and the scores inside their rows by the assertions, the
                // keys are `d` rows of 48, and the set is the chosen one.
                unsafe { tile.run(isa) };
            }
            let mut inverse = [0.0; ROWS];
            let scale = 1.0 / (d as f32).sqrt();
            weigh(scores, width, self.first, self.more, seen, scale, &mut inverse[..self.rows]);
            for (page, from, n) in pages() {
                let (_, values) = shape.split(page, layer, kv);
                for column in (0..value_width).step_by(COLUMNS) {
                    let tile = Tile {
                        a: scores[from..].as_ptr(),
                        a_row: width,
                        a_col: 1,
                        b: values[column..].as_ptr(),
                        b_row: value_width,
                        c: sums[column..].as_mut_ptr(),
                        c_row: value_width,
                        rows: self.rows,
                        columns: COLUMNS.min(value_width - column),
                        depth: n,
                        accumulate: from > 0,
                    };
                    // SAFETY: `from + n` scores exist in each row, the page holds 48 rows of values of which `n` are
                    // read, `sums` has a whole row for each query, and the set is the chosen one.
                    unsafe { tile.run(isa) };
                }
            }
            for (i, (sums, inverse)) in sums.chunks_exact_mut(value_width).zip(inverse).enumerate() {
                sums.iter_mut().for_each(|v| *v *= inverse);
                put(i, &sums[..d]);
            }
        });
    }
}

fn sized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, random};

    /// Plain attention of the last `rows` rows of one sequence, in f64.
    fn reference(qkv: &[f32], rows: usize, heads: Heads) -> Vec<f32> {
        let (d, w, group) = (heads.size, heads.width(), heads.query / heads.kv);
        let t = qkv.len() / w;
        let at = |row: usize, column: usize, i: usize| f64::from(qkv[row * w + column * d + i]);
        let mut out = Vec::new();
        for row in t - rows..t {
            for head in 0..heads.query {
                let (key, value) = (heads.query + head / group, heads.query + heads.kv + head / group);
                let weights: Vec<f64> = (0..=row)
                    .map(|j| (0..d).map(|i| at(row, head, i) * at(j, key, i)).sum::<f64>())
                    .map(|score| (score / (d as f64).sqrt()).exp())
                    .collect();
                let total: f64 = weights.iter().sum();
                out.extend((0..d).map(|i| {
                    let sum: f64 = weights.iter().enumerate().map(|(j, p)| p * at(j, value, i)).sum();
                    (sum / total) as f32
                }));
            }
        }
        out
    }

    /// The last `rows` rows over a cache whose first `shared` positions lie in a segment of their own.
    fn attend(qkv: &[f32], shared: usize, rows: usize, heads: Heads) -> Vec<f32> {
        let (w, shape) = (heads.width(), CacheShape { layers: 2, heads });
        let t = qkv.len() / w;
        // Pages that come back from others hold old values.
        let mut free = vec![shape.new_page()];
        free[0].fill(1e30);
        let (mut common, mut own) = (Segment::default(), Segment::default());
        common.reserve(shape, shared, &mut free);
        own.reserve(shape, t - shared, &mut free);
        for (i, row) in qkv.chunks_exact(w).enumerate() {
            let keys_values = &row[heads.query * heads.size..];
            if i < shared {
                common.store(shape, 1, i, keys_values);
            } else {
                own.store(shape, 1, i - shared, keys_values);
            }
        }
        common.len = shared;
        own.len = t - shared - rows;
        let span = Span { first: 0, rows, shared: &common, own: &own };
        let mut out = vec![f32::NAN; rows * heads.query * heads.size];
        let threads = Threads::new(2).unwrap();
        attend_spans(&threads, &mut out, &qkv[(t - rows) * w..], &[span], shape, 1);
        out
    }

    #[test]
    fn new_rows_over_a_cache_match_the_reference() {
        for (heads, t, rows) in [
            (Heads { query: 1, kv: 1, size: 6 }, 1, 1),
            (Heads { query: 4, kv: 2, size: 16 }, 21, 1),
            (Heads { query: 9, kv: 1, size: 8 }, 49, 1),
            (Heads { query: 6, kv: 2, size: 20 }, 130, 13),
            (Heads { query: 9, kv: 3, size: 64 }, 99, 99),
        ] {
            let qkv = random(t * heads.width(), "qkv");
            assert_close(&attend(&qkv, 0, rows, heads), &reference(&qkv, rows, heads), 2e-6, "attention");
        }
    }

    #[test]
    fn neither_a_shared_segment_nor_the_rows_beside_change_a_bit() {
        let heads = Heads { query: 6, kv: 2, size: 20 };
        let qkv = random(113 * heads.width(), "qkv");
        let expected = attend(&qkv, 0, 60, heads);
        for shared in [1, 16, 47, 48, 53] {
            assert_eq!(attend(&qkv, shared, 60, heads), expected, "{shared} shared positions");
        }
        let one = heads.query * heads.size;
        assert_eq!(attend(&qkv, 30, 1, heads), expected[59 * one..], "one row alone");
    }
}
