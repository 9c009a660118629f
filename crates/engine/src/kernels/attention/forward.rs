//! Attention's forward.

use super::{BLOCK, Columns, Heads, Left, SCRATCH, Sequences, carve, product};
use crate::kernels::Shared;
use crate::kernels::simd::{exp, multiversion, sum};
use crate::kernels::tile::LANES;
use crate::threads::Threads;

/// The largest of whole vectors of values.
#[inline(always)]
fn largest(values: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for vector in values.chunks_exact(LANES) {
        lanes.iter_mut().zip(vector).for_each(|(lane, &value)| *lane = larger(*lane, value));
    }
    // Halves against each other: four comparisons deep instead of sixteen.
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] = larger(lanes[i], lanes[i + half]);
        }
        half /= 2;
    }
    lanes[0]
}

multiversion! {
    /// Softmax of the visible part of each row's scores, times `scale`; the rest becomes 0. Rows come in blocks of
    /// `rows`, one for each head, of which row `i` sees `first + i` keys. Writes the log-sum-exp of each row.
    fn softmax_rows(scores: &mut [f32], width: usize, rows: usize, first: usize, scale: f32, lse: &mut [f32]) {
        for (i, row) in scores.chunks_exact_mut(width).enumerate() {
            // Whole vectors throughout, without a remainder: what is hidden counts as nothing.
            let seen = first + i % rows;
            row[seen..].fill(f32::NEG_INFINITY);
            let top = largest(row) * scale;
            for vector in row.chunks_exact_mut(LANES) {
                vector.iter_mut().for_each(|s| *s = exp(*s * scale - top));
            }
            row[seen..].fill(0.0);
            let total = sum(row, |p| p);
            let inverse = 1.0 / total;
            row.iter_mut().for_each(|p| *p *= inverse);
            lse[i] = top + total.ln();
        }
    }
}

/// `out (t, h d)` and `lse (h, t)` from `qkv (t, w)`, queries and keys already turned by position.
pub(crate) fn attention_forward(
    threads: &Threads,
    out: &mut [f32],
    lse: &mut [f32],
    qkv: &[f32],
    sequences: &Sequences,
    heads: Heads,
) {
    let (d, w, q_dim, group) = (heads.size, heads.width(), heads.query * heads.size, heads.group());
    let t = qkv.len() / w;
    assert!(out.len() == t * q_dim && lse.len() == t * heads.query, "attention extents");
    let scale = 1.0 / (d as f32).sqrt();
    let (out, lse) = (Shared::new(out), Shared::new(lse));
    threads.for_each(sequences.segments() * heads.kv, |task| {
        let (segment, kv) = (sequences.segment(task / heads.kv), task % heads.kv);
        if segment.own.is_empty() {
            return;
        }
        let head = |column: usize| Columns { data: qkv, stride: w, column, d };
        let (n, stacked) = (segment.keys(), group * BLOCK.min(segment.own.len()));
        // Keys across, and a head's values along, in whole vectors.
        let (across, along) = (n.next_multiple_of(LANES), d.next_multiple_of(LANES));
        SCRATCH.with_borrow_mut(|scratch| {
            let [keys, values, queries, scores, attended, sums] = carve(
                scratch,
                [d * across, n * along, stacked * along, stacked * across, stacked * along, stacked],
            );
            head(heads.k(kv)).transpose(segment.rows(), keys, across);
            head(heads.v(kv)).copy(segment.rows(), values, along);
            for block in segment.blocks() {
                let (m, rows, seen) = (block.len(), group * block.len(), segment.seen(block.end - 1));
                let width = seen.next_multiple_of(LANES);
                head(heads.q(kv * group)).stack(group, block.clone(), queries, along);
                product(
                    (&mut *scores, width),
                    Left::new(queries, along),
                    (keys, across),
                    [rows, width, d],
                    false,
                );
                let scores = &mut scores[..rows * width];
                softmax_rows(scores, width, m, segment.seen(block.start), scale, &mut sums[..rows]);
                product(
                    (&mut *attended, along),
                    Left::new(scores, width),
                    (values, along),
                    [rows, along, seen],
                    false,
                );
                for i in 0..rows {
                    let (head, row) = (kv * group + i / m, block.start + i % m);
                    // SAFETY: each (row, head) has its own place in `out` and in `lse`.
                    let (out, lse) =
                        unsafe { (out.slice(row * q_dim + heads.q(head), d), lse.slice(head * t + row, 1)) };
                    out.copy_from_slice(&attended[i * along..][..d]);
                    lse[0] = sums[i];
                }
            }
        });
    });
}
