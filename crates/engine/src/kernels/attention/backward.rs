//! Attention's backward.

use super::{BLOCK, Columns, Heads, Left, SCRATCH, Sequences, carve, product};
use crate::forward::fit;
use crate::kernels::Shared;
use crate::kernels::simd::{dot, exp, multiversion};
use crate::kernels::tile::LANES;
use crate::threads::Threads;

multiversion! {
    /// Scores to probabilities P by the saved log-sum-exp, and dP to dS = P * (dP - rowsum(P * dP)) * scale, in
    /// place. Rows come in blocks of `rows`, one for each head, of which row `i` sees `first + i` keys.
    fn gradient_rows(
        scores: &mut [f32],
        dp: &mut [f32],
        width: usize,
        rows: usize,
        first: usize,
        scale: f32,
        lse: &[f32],
    ) {
        for (i, (p, dp)) in scores.chunks_exact_mut(width).zip(dp.chunks_exact_mut(width)).enumerate() {
            // Whole vectors, without a remainder.
            for vector in p.chunks_exact_mut(LANES) {
                vector.iter_mut().for_each(|s| *s = exp(*s * scale - lse[i]));
            }
            p[first + i % rows..].fill(0.0);
            let along = dot(p, dp);
            dp.iter_mut().zip(&*p).for_each(|(dp, &p)| *dp = p * (*dp - along) * scale);
        }
    }
}

/// Writes the gradients of queries, keys and values into `dqkv (t, w)`, from `dout (t, h d)`, the saved `qkv` and
/// `lse`. What each sequence gives to the keys and values of a shared prefix passes through `slots`, which grows as
/// needed, `(sequences, prefix, 2 g d)`, and is added in the order of the sequences.
#[allow(clippy::too_many_arguments)]
pub(crate) fn attention_backward(
    threads: &Threads,
    dqkv: &mut [f32],
    dout: &[f32],
    qkv: &[f32],
    lse: &[f32],
    sequences: &Sequences,
    heads: Heads,
    slots: &mut Vec<f32>,
) {
    let (d, w, q_dim, group) = (heads.size, heads.width(), heads.query * heads.size, heads.group());
    let t = qkv.len() / w;
    assert!(
        dqkv.len() == t * w && dout.len() == t * q_dim && lse.len() == t * heads.query,
        "attention extents"
    );
    let scale = 1.0 / (d as f32).sqrt();
    // Keys and values of all heads lie side by side at the end of a row.
    let (prefix, kv_dim) = (sequences.prefix, w - q_dim);
    let slots = fit(slots, sequences.own.len() * prefix * kv_dim);
    let (all, shared) = (Shared::new(dqkv), Shared::new(slots));
    threads.for_each(sequences.segments() * heads.kv, |task| {
        let (segment, kv) = (sequences.segment(task / heads.kv), task % heads.kv);
        if segment.own.is_empty() {
            return;
        }
        let store = |from: &[f32], row: usize, column: usize| {
            // SAFETY: the query heads of a group and their key-value head belong to one task for the rows of a
            // segment, segments do not overlap, and a task holds no other reference into `dqkv`.
            unsafe { all.slice(row * w + column, d) }.copy_from_slice(&from[..d]);
        };
        let head = |column: usize| Columns { data: qkv, stride: w, column, d };
        let (n, stacked) = (segment.keys(), group * BLOCK.min(segment.own.len()));
        // Keys across, and a head's values along, in whole vectors.
        let (across, along) = (n.next_multiple_of(LANES), d.next_multiple_of(LANES));
        let (turned, laid, heads_rows, pairs) = (d * across, n * along, stacked * along, stacked * across);
        SCRATCH.with_borrow_mut(|scratch| {
            let [k_t, v_t, k, q, dy, scores, gradients, dq, dk, dv, sums] = carve(
                scratch,
                [turned, turned, laid, heads_rows, heads_rows, pairs, pairs, heads_rows, laid, laid, stacked],
            );
            head(heads.k(kv)).transpose(segment.rows(), k_t, across);
            head(heads.v(kv)).transpose(segment.rows(), v_t, across);
            head(heads.k(kv)).copy(segment.rows(), k, along);
            dk.fill(0.0);
            dv.fill(0.0);
            for block in segment.blocks() {
                let (m, rows, seen) = (block.len(), group * block.len(), segment.seen(block.end - 1));
                let width = seen.next_multiple_of(LANES);
                let first = kv * group;
                head(heads.q(first)).stack(group, block.clone(), q, along);
                Columns { data: dout, stride: q_dim, column: heads.q(first), d }.stack(
                    group,
                    block.clone(),
                    dy,
                    along,
                );
                for (head, sums) in sums[..rows].chunks_exact_mut(m).enumerate() {
                    sums.copy_from_slice(&lse[(first + head) * t + block.start..][..m]);
                }
                let (p, ds) = (&mut scores[..rows * width], &mut gradients[..rows * width]);
                let (to_keys, to_head) = ([rows, width, d], [seen, along, rows]);
                product((&mut *p, width), Left::new(q, along), (k_t, across), to_keys, false);
                product((&mut *ds, width), Left::new(dy, along), (v_t, across), to_keys, false);
                gradient_rows(p, ds, width, m, segment.seen(block.start), scale, &sums[..rows]);
                product((&mut *dv, along), Left::turned(p, width), (dy, along), to_head, true);
                product((&mut *dk, along), Left::turned(ds, width), (q, along), to_head, true);
                product((&mut *dq, along), Left::new(ds, width), (k, along), [rows, along, seen], false);
                for (i, dq) in dq.chunks_exact(along).take(rows).enumerate() {
                    store(dq, block.start + i % m, heads.q(first + i / m));
                }
            }
            for (j, row) in segment.rows().enumerate() {
                let (dk, dv) = (&dk[j * along..][..d], &dv[j * along..][..d]);
                if j < segment.before {
                    // Segment 0 is the prefix itself.
                    let at = ((task / heads.kv - 1) * prefix + j) * kv_dim;
                    // SAFETY: each (sequence, row, head) has its own place in the slots.
                    let [to_k, to_v] = [heads.k(kv), heads.v(kv)]
                        .map(|column| unsafe { shared.slice(at + column - q_dim, d) });
                    to_k.copy_from_slice(dk);
                    to_v.copy_from_slice(dv);
                } else {
                    store(dk, row, heads.k(kv));
                    store(dv, row, heads.v(kv));
                }
            }
        });
    });
    for (i, own) in sequences.own.iter().enumerate().filter(|(_, own)| !own.is_empty()) {
        for j in 0..prefix {
            let from = &slots[(i * prefix + j) * kv_dim..][..kv_dim];
            let to = &mut dqkv[j * w + q_dim..(j + 1) * w];
            to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
        }
        debug_assert!(own.start >= prefix);
    }
}
