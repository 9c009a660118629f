//! Masked cross-entropy, fused with the head: only rows with a loss weight are looked at, a block of them at a
//! time, and loss and gradient come out of the same pass. Logits of a whole batch never exist.

use super::Shared;
use super::int8::Terms;
use super::simd::{exp, max, multiversion, sum};
use crate::forward::fit;
use crate::linear::Linear;
use crate::threads::Threads;

/// Rows whose logits exist at a time: 64 x 49,152 x 4 bytes = 12.6 MB for SmolLM2's vocabulary.
const ROWS: usize = 64;

multiversion! {
    /// Log-probability of `target`; turns the logits into `factor * (softmax - onehot)` when `factor` is not 0.
    fn cross_entropy_row(logits: &mut [f32], target: usize, factor: f32) -> f32 {
        let top = max(logits);
        let total = sum(logits, |z| exp(z - top));
        let log_probability = logits[target] - top - total.ln();
        if factor != 0.0 {
            let scale = factor / total;
            for z in logits.iter_mut() {
                *z = exp(*z - top) * scale;
            }
            logits[target] -= factor;
        }
        log_probability
    }
}

/// What the loss looks at: rows of the final hidden states and the ids they should predict.
pub(crate) struct Rows<'a> {
    /// Final hidden states of the chosen rows, `(n, c)`.
    pub hidden: &'a [f32],
    /// The id that each should predict, `(n)`.
    pub targets: &'a [u32],
}

/// Log-probabilities `(n)` of the targets under `head (v, c)`. With `gradient` given as factors `(n)` and output
/// `(n, c)`, also writes `factor * d(-log p)/d hidden`. `logits` is scratch.
pub(crate) fn head_loss(
    threads: &Threads,
    log_probabilities: &mut [f32],
    rows: &Rows,
    head: &Linear,
    mut gradient: Option<(&[f32], &mut [f32])>,
    logits: &mut Vec<f32>,
) {
    let n = rows.targets.len();
    if n == 0 {
        return;
    }
    let c = rows.hidden.len() / n;
    let v = head.outputs();
    for from in (0..n).step_by(ROWS) {
        let len = ROWS.min(n - from);
        let logits = fit(logits, len * v);
        head.forward(threads, logits, &rows.hidden[from * c..(from + len) * c], false);
        let (shared, out) = (Shared::new(logits), Shared::new(&mut log_probabilities[from..from + len]));
        let factors = gradient.as_ref().map(|(factors, _)| &factors[from..from + len]);
        threads.for_each(len, |i| {
            // SAFETY: each row of logits and each log-probability belongs to one piece.
            let (row, out) = unsafe { (shared.slice(i * v, v), out.slice(i, 1)) };
            let factor = factors.map_or(0.0, |f| f[i]);
            out[0] = cross_entropy_row(row, rows.targets[from + i] as usize, factor);
        });
        if let Some((_, d_hidden)) = &mut gradient {
            head.backward(threads, &mut d_hidden[from * c..(from + len) * c], logits, Terms::Two);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::packed::Frozen;
    use crate::kernels::testing::{assert_close, random};
    use consilium_core::engine::Precision;

    #[test]
    fn loss_and_gradient_match_the_formula_in_f64() {
        let (n, c, v) = (70, 5, 23);
        let (hidden, head) = (random(n * c, "h"), random(v * c, "w"));
        let packed = Linear::new(&Threads::one(), Precision::F32, &Frozen::F32(head.clone()), v, c);
        let targets: Vec<u32> = (0..n as u32).map(|i| i * 7 % v as u32).collect();
        let factors: Vec<f32> = (0..n).map(|i| 0.1 + i as f32 / 100.0).collect();
        let (mut found, mut d_hidden) = (vec![0f32; n], vec![0f32; n * c]);
        let rows = Rows { hidden: &hidden, targets: &targets };
        let threads = Threads::new(2).unwrap();
        head_loss(&threads, &mut found, &rows, &packed, Some((&factors, &mut d_hidden)), &mut Vec::new());
        let (mut expected, mut gradient) = (Vec::new(), vec![0f32; n * c]);
        for i in 0..n {
            let logits: Vec<f64> = (0..v)
                .map(|j| (0..c).map(|l| f64::from(hidden[i * c + l]) * f64::from(head[j * c + l])).sum())
                .collect();
            let total: f64 = logits.iter().map(|z| z.exp()).sum();
            expected.push((logits[targets[i] as usize] - total.ln()) as f32);
            for j in 0..v {
                let d = logits[j].exp() / total - f64::from(u8::from(j == targets[i] as usize));
                for l in 0..c {
                    gradient[i * c + l] += (d * f64::from(head[j * c + l]) * f64::from(factors[i])) as f32;
                }
            }
        }
        assert_close(&found, &expected, 1e-6, "log-probabilities");
        assert_close(&d_hidden, &gradient, 1e-5, "gradient of the hidden states");
        let mut without = vec![0f32; n];
        head_loss(&threads, &mut without, &rows, &packed, None, &mut Vec::new());
        assert_eq!(found, without);
    }
}
