//! From logits to the next token: penalty, temperature, top-k, top-p, in the order of `transformers`.

use consilium_core::engine::Decoding;
use consilium_core::rng::SeededRng;

use crate::kernels::simd::{max, multiversion};

/// Chooses tokens for one prompt.
pub(crate) struct Sampler {
    /// The ids that occur in prompt or answer, each once, in order; kept only when there is a penalty.
    seen: Vec<u32>,
    rng: SeededRng,
}

impl Sampler {
    /// The sampler of prompt number `index`; its random stream depends on the seed and that number only.
    pub fn new(index: usize, prompt: &[u32], decoding: &Decoding) -> Self {
        let mut seen = Vec::new();
        if decoding.repetition_penalty != 1.0 {
            seen.extend_from_slice(prompt);
            seen.sort_unstable();
            seen.dedup();
        }
        Self { seen, rng: SeededRng::derive(decoding.seed, 0, "", &format!("sampling of prompt {index}")) }
    }

    /// The next token; `logits (v)` are used up.
    pub fn pick(&mut self, logits: &mut [f32], decoding: &Decoding) -> u32 {
        let penalty = decoding.repetition_penalty;
        for &id in &self.seen {
            let logit = &mut logits[id as usize];
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        }
        let id = if decoding.temperature <= 0.0 { argmax(logits) } else { self.sample(logits, decoding) };
        if penalty != 1.0
            && let Err(place) = self.seen.binary_search(&id)
        {
            self.seen.insert(place, id);
        }
        id
    }

    fn sample(&mut self, logits: &[f32], decoding: &Decoding) -> u32 {
        let mut order: Vec<u64> = logits.iter().zip(0..).map(|(&logit, id)| rank(logit, id)).collect();
        if decoding.top_k > 0 && decoding.top_k < order.len() {
            order.select_nth_unstable(decoding.top_k);
            order.truncate(decoding.top_k);
        }
        order.sort_unstable();
        let order: Vec<u32> = order.into_iter().map(|key| key as u32).collect();
        let top = f64::from(logits[order[0] as usize]);
        let temperature = f64::from(decoding.temperature);
        let mut weights: Vec<f64> =
            order.iter().map(|&id| ((f64::from(logits[id as usize]) - top) / temperature).exp()).collect();
        let total: f64 = weights.iter().sum();
        let mut reached = 0.0;
        let kept = weights.iter().take_while(|&&w| {
            let before = reached;
            reached += w / total;
            before < f64::from(decoding.top_p)
        });
        let kept = kept.count().max(1);
        weights.truncate(kept);
        let mut draw = self.rng.uniform_f64() * weights.iter().sum::<f64>();
        for (&id, weight) in order.iter().zip(&weights) {
            draw -= weight;
            if draw < 0.0 {
                return id;
            }
        }
        order[kept - 1]
    }
}

/// A number that is smaller the larger the logit, and among equals the smaller the id, which is its low half.
fn rank(logit: f32, id: u32) -> u64 {
    // As in `f32::total_cmp`: the bits of a float order like those of an integer, negative ones backwards.
    let bits = logit.to_bits();
    let ascending = if bits >> 31 == 0 { bits | 1 << 31 } else { !bits };
    u64::from(!ascending) << 32 | u64::from(id)
}

multiversion! {
    /// The index of the largest logit; the first of equals.
    fn argmax(logits: &[f32]) -> u32 {
        let (mut best, mut top) = (0, f32::NEG_INFINITY);
        for (number, chunk) in logits.chunks(256).enumerate() {
            let here = max(chunk);
            if here > top {
                (best, top) = (number * 256, here);
            }
        }
        (best + logits[best..].iter().position(|&logit| logit == top).unwrap_or(0)) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frequencies(decoding: &Decoding) -> Vec<usize> {
        let mut sampler = Sampler::new(0, &[], decoding);
        let mut counts = vec![0; 4];
        for _ in 0..4000 {
            // Probabilities 0.1, 0.2, 0.3, 0.4.
            let mut logits: Vec<f32> = [0.1f32, 0.2, 0.3, 0.4].iter().map(|p| p.ln()).collect();
            counts[sampler.pick(&mut logits, decoding) as usize] += 1;
        }
        counts
    }

    #[test]
    fn sampling_follows_the_probabilities_and_the_cuts() {
        let plain = Decoding { temperature: 1.0, ..Decoding::default() };
        let counts = frequencies(&plain);
        for (i, &count) in counts.iter().enumerate() {
            let expected = 400.0 * (i + 1) as f64;
            assert!((count as f64 - expected).abs() < 5.0 * expected.sqrt(), "{counts:?}");
        }
        let top_k = frequencies(&Decoding { top_k: 2, ..plain.clone() });
        assert!(top_k[0] == 0 && top_k[1] == 0 && top_k[2] > 1400, "{top_k:?}");
        let top_p = frequencies(&Decoding { top_p: 0.65, ..plain.clone() });
        assert!(top_p[1] == 0 && top_p[2] > 1400, "0.4 + 0.3 reaches 0.65: {top_p:?}");
        assert_eq!(frequencies(&plain), counts, "the same seed draws the same tokens");
    }

    #[test]
    fn the_penalty_divides_positive_and_multiplies_negative_logits_of_seen_ids() {
        let decoding = Decoding { repetition_penalty: 2.0, ..Decoding::default() };
        let mut sampler = Sampler::new(0, &[0, 2], &decoding);
        let mut logits = [3.0, 2.0, -1.0];
        assert_eq!(sampler.pick(&mut logits, &decoding), 1);
        assert_eq!(logits, [1.5, 2.0, -2.0]);
        let mut again = [0.5, 1.0, 0.75];
        assert_eq!(sampler.pick(&mut again, &decoding), 1, "0.5 halved and 0.75 halved stay below 1 halved");
    }

    #[test]
    fn order_and_the_largest_are_those_of_a_plain_sort() {
        let mut rng = SeededRng::derive(1, 0, "", "logits");
        let mut logits: Vec<f32> = (0..1000).map(|_| (rng.normal() * 20.0).round() as f32).collect();
        logits[3] = -0.0;
        let mut expected: Vec<u32> = (0..1000).collect();
        expected.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
        let mut order: Vec<u64> = logits.iter().zip(0..).map(|(&logit, id)| rank(logit, id)).collect();
        order.sort_unstable();
        let order: Vec<u32> = order.into_iter().map(|key| key as u32).collect();
        assert_eq!(order, expected);
        assert_eq!(argmax(&logits), expected[0]);
        assert_eq!(argmax(&[1.0, 3.0, 3.0]), 1);
        assert_eq!(argmax(&[f32::NEG_INFINITY]), 0);
    }
}
