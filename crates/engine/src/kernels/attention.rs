//! Causal attention with grouped queries over packed sequences of any length.
//!
//! Scores exist for one block of queries at a time; the forward keeps only each row's log-sum-exp, from which the
//! backward rebuilds the probabilities (Dao et al. 2022, arXiv:2205.14135, section 3.1).

use std::cell::RefCell;
use std::ops::Range;

use super::Shared;
use super::gemm::{Mat, MatMut, gemm};
use super::simd::{dot, exp, max, multiversion, sum};
use crate::threads::Threads;

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
    fn group(&self) -> usize {
        self.query / self.kv
    }

    /// w, the width of a row of queries, keys and values.
    pub fn width(&self) -> usize {
        (self.query + 2 * self.kv) * self.size
    }

    /// Column of query head `i`.
    fn q(&self, i: usize) -> usize {
        i * self.size
    }

    /// Column of key head `i`.
    fn k(&self, i: usize) -> usize {
        (self.query + i) * self.size
    }

    /// Column of value head `i`.
    fn v(&self, i: usize) -> usize {
        (self.query + self.kv + i) * self.size
    }
}

/// Queries whose scores exist at a time.
const BLOCK: usize = 64;

thread_local! {
    /// Scores, their gradients, and dense copies of one head's gradients: reused, so steps do not allocate.
    static SCRATCH: RefCell<[Vec<f32>; 4]> = const { RefCell::new([Vec::new(), Vec::new(), Vec::new(), Vec::new()]) };
}

fn sized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

multiversion! {
    /// Softmax of the first `visible` of each row's scores, times `scale`; the rest becomes 0. Row `i` sees
    /// `first + i` keys. Writes the log-sum-exp of each row.
    fn softmax_rows(scores: &mut [f32], width: usize, first: usize, scale: f32, lse: &mut [f32]) {
        for (i, row) in scores.chunks_exact_mut(width).enumerate() {
            let (seen, hidden) = row.split_at_mut(first + i);
            let top = max(seen) * scale;
            for s in seen.iter_mut() {
                *s = exp(*s * scale - top);
            }
            let total = sum(seen, |p| p);
            let inverse = 1.0 / total;
            for p in seen.iter_mut() {
                *p *= inverse;
            }
            hidden.fill(0.0);
            lse[i] = top + total.ln();
        }
    }

    /// Scores to probabilities by the saved log-sum-exp.
    fn probabilities(scores: &mut [f32], width: usize, first: usize, scale: f32, lse: &[f32]) {
        for (i, row) in scores.chunks_exact_mut(width).enumerate() {
            let (seen, hidden) = row.split_at_mut(first + i);
            for s in seen.iter_mut() {
                *s = exp(*s * scale - lse[i]);
            }
            hidden.fill(0.0);
        }
    }

    /// dS = P * (dP - rowsum(P * dP)) * scale, in place of dP.
    fn score_gradients(p: &[f32], dp: &mut [f32], width: usize, scale: f32) {
        for (p, dp) in p.chunks_exact(width).zip(dp.chunks_exact_mut(width)) {
            let along = dot(p, dp);
            for i in 0..width {
                dp[i] = p[i] * (dp[i] - along) * scale;
            }
        }
    }
}

/// A column block of the rows of one sequence in a `(t, stride)` buffer.
fn rows<'a>(data: &'a [f32], rows: Range<usize>, stride: usize, column: usize, d: usize) -> Mat<'a> {
    let n = rows.len();
    Mat::strided(&data[rows.start * stride + column..], n, d, stride)
}

/// `out (t, h d)` and `lse (h, t)` from `qkv (t, w)`, queries and keys already turned by position.
pub(crate) fn attention_forward(
    threads: &Threads,
    out: &mut [f32],
    lse: &mut [f32],
    qkv: &[f32],
    sequences: &[Range<usize>],
    heads: Heads,
) {
    let (d, w, q_dim) = (heads.size, heads.width(), heads.query * heads.size);
    let t = qkv.len() / w;
    assert!(out.len() == t * q_dim && lse.len() == t * heads.query, "attention extents");
    let scale = 1.0 / (d as f32).sqrt();
    let one = Threads::one();
    let (out, lse) = (Shared::new(out), Shared::new(lse));
    threads.for_each(sequences.len() * heads.query, |task| {
        let (sequence, head) = (&sequences[task / heads.query], task % heads.query);
        let kv = head / heads.group();
        SCRATCH.with_borrow_mut(|[scores, dense, ..]| {
            for from in (0..sequence.len()).step_by(BLOCK) {
                let to = (from + BLOCK).min(sequence.len());
                let block = sequence.start + from..sequence.start + to;
                let seen = sequence.start..sequence.start + to;
                let scores = sized(scores, (to - from) * to);
                let q = rows(qkv, block.clone(), w, heads.q(head), d);
                let k = rows(qkv, seen.clone(), w, heads.k(kv), d);
                let v = rows(qkv, seen, w, heads.v(kv), d);
                gemm(&one, MatMut::new(scores, to - from, to), q, k.t(), 1.0, false);
                // SAFETY: each (sequence, head, row) has its own place in `lse`.
                let lse = unsafe { lse.slice(head * t + block.start, to - from) };
                softmax_rows(scores, to, from + 1, scale, lse);
                let dense = sized(dense, (to - from) * d);
                gemm(&one, MatMut::new(dense, to - from, d), Mat::new(scores, to - from, to), v, 1.0, false);
                for (i, row) in dense.chunks_exact(d).enumerate() {
                    // SAFETY: each (row, head) has its own place in `out`.
                    unsafe { out.slice((block.start + i) * q_dim + heads.q(head), d) }.copy_from_slice(row);
                }
            }
        });
    });
}

/// Writes the gradients of queries, keys and values into `dqkv (t, w)`, from `dout (t, h d)`, the saved `qkv` and
/// `lse`.
pub(crate) fn attention_backward(
    threads: &Threads,
    dqkv: &mut [f32],
    dout: &[f32],
    qkv: &[f32],
    lse: &[f32],
    sequences: &[Range<usize>],
    heads: Heads,
) {
    let (d, w, q_dim) = (heads.size, heads.width(), heads.query * heads.size);
    let t = qkv.len() / w;
    assert!(
        dqkv.len() == t * w && dout.len() == t * q_dim && lse.len() == t * heads.query,
        "attention extents"
    );
    let scale = 1.0 / (d as f32).sqrt();
    let one = Threads::one();
    let dqkv = Shared::new(dqkv);
    let store = |dense: &[f32], first: usize, column: usize| {
        for (i, row) in dense.chunks_exact(d).enumerate() {
            // SAFETY: the query heads of a group and their key-value head belong to one task, sequences do not
            // overlap, and a task holds no other reference into `dqkv`.
            unsafe { dqkv.slice((first + i) * w + column, d) }.copy_from_slice(row);
        }
    };
    threads.for_each(sequences.len() * heads.kv, |task| {
        let (sequence, kv) = (&sequences[task / heads.kv], task % heads.kv);
        let n = sequence.len();
        SCRATCH.with_borrow_mut(|[scores, gradients, dense_kv, dense_q]| {
            let dense_kv = sized(dense_kv, 2 * n * d);
            dense_kv.fill(0.0);
            let (dk, dv) = dense_kv.split_at_mut(n * d);
            for head in kv * heads.group()..(kv + 1) * heads.group() {
                for from in (0..n).step_by(BLOCK) {
                    let to = (from + BLOCK).min(n);
                    let m = to - from;
                    let block = sequence.start + from..sequence.start + to;
                    let seen = sequence.start..sequence.start + to;
                    let q = rows(qkv, block.clone(), w, heads.q(head), d);
                    let k = rows(qkv, seen.clone(), w, heads.k(kv), d);
                    let v = rows(qkv, seen, w, heads.v(kv), d);
                    let dy = rows(dout, block.clone(), q_dim, heads.q(head), d);
                    let p = sized(scores, m * to);
                    gemm(&one, MatMut::new(p, m, to), q, k.t(), 1.0, false);
                    probabilities(p, to, from + 1, scale, &lse[head * t + block.start..][..m]);
                    let ds = sized(gradients, m * to);
                    gemm(&one, MatMut::new(ds, m, to), dy, v.t(), 1.0, false);
                    gemm(&one, MatMut::new(dv, to, d), Mat::new(p, m, to).t(), dy, 1.0, true);
                    score_gradients(p, ds, to, scale);
                    let dq = sized(dense_q, m * d);
                    gemm(&one, MatMut::new(dq, m, d), Mat::new(ds, m, to), k, 1.0, false);
                    gemm(&one, MatMut::new(dk, to, d), Mat::new(ds, m, to).t(), q, 1.0, true);
                    store(dq, block.start, heads.q(head));
                }
            }
            store(dk, sequence.start, heads.k(kv));
            store(dv, sequence.start, heads.v(kv));
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, random};

    /// Plain attention in f64: the output `(t, h d)`.
    fn reference(qkv: &[f64], sequences: &[Range<usize>], heads: Heads) -> Vec<f64> {
        let (d, w) = (heads.size, heads.width());
        let mut out = vec![0f64; qkv.len() / w * heads.query * d];
        for sequence in sequences {
            for head in 0..heads.query {
                let kv = head / heads.group();
                for i in sequence.clone() {
                    let at = |row: usize, column: usize| &qkv[row * w + column..row * w + column + d];
                    let q = at(i, heads.q(head));
                    let weights: Vec<f64> = (sequence.start..=i)
                        .map(|j| {
                            let product: f64 = q.iter().zip(at(j, heads.k(kv))).map(|(a, b)| a * b).sum();
                            (product / (d as f64).sqrt()).exp()
                        })
                        .collect();
                    let total: f64 = weights.iter().sum();
                    for (j, weight) in (sequence.start..=i).zip(&weights) {
                        for (l, value) in at(j, heads.v(kv)).iter().enumerate() {
                            out[i * heads.query * d + heads.q(head) + l] += weight / total * value;
                        }
                    }
                }
            }
        }
        out
    }

    #[test]
    fn forward_matches_the_reference_and_backward_its_differences() {
        for (heads, lengths) in [
            (Heads { query: 4, kv: 2, size: 6 }, vec![3, 1, 5]),
            (Heads { query: 3, kv: 3, size: 4 }, vec![130]),
            (Heads { query: 3, kv: 1, size: 8 }, vec![64, 65]),
        ] {
            let mut start = 0;
            let sequences: Vec<Range<usize>> = lengths
                .iter()
                .map(|n| {
                    start += n;
                    start - n..start
                })
                .collect();
            let (t, w, q_dim) = (start, heads.width(), heads.query * heads.size);
            let (qkv, dout) = (random(t * w, "qkv"), random(t * q_dim, "dout"));
            let wide: Vec<f64> = qkv.iter().map(|&v| f64::from(v)).collect();
            let (mut out, mut lse) = (vec![0f32; t * q_dim], vec![0f32; t * heads.query]);
            let threads = Threads::new(2).unwrap();
            attention_forward(&threads, &mut out, &mut lse, &qkv, &sequences, heads);
            let expected: Vec<f32> = reference(&wide, &sequences, heads).iter().map(|&v| v as f32).collect();
            assert_close(&out, &expected, 2e-6, "attention");

            let mut dqkv = vec![f32::NAN; t * w];
            attention_backward(&threads, &mut dqkv, &dout, &qkv, &lse, &sequences, heads);
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
}
