//! From logits to the next token: penalty, temperature, top-k, top-p, in the order of `transformers`.

use consilium_core::engine::Decoding;
use consilium_core::rng::SeededRng;

/// Chooses tokens for one prompt.
pub(crate) struct Sampler {
    /// Whether each id occurs in prompt or answer; kept only when there is a penalty.
    seen: Vec<bool>,
    rng: SeededRng,
}

impl Sampler {
    /// The sampler of prompt number `index`; its random stream depends on the seed and that number only.
    pub fn new(index: usize, prompt: &[u32], vocab: usize, decoding: &Decoding) -> Self {
        let mut seen = Vec::new();
        if decoding.repetition_penalty != 1.0 {
            seen.resize(vocab, false);
            prompt.iter().for_each(|&id| seen[id as usize] = true);
        }
        Self { seen, rng: SeededRng::derive(decoding.seed, 0, "", &format!("sampling of prompt {index}")) }
    }

    /// The next token; `logits (v)` are used up.
    pub fn pick(&mut self, logits: &mut [f32], decoding: &Decoding) -> u32 {
        for (logit, _) in logits.iter_mut().zip(&self.seen).filter(|(_, seen)| **seen) {
            let penalty = decoding.repetition_penalty;
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        }
        let id = if decoding.temperature <= 0.0 { argmax(logits) } else { self.sample(logits, decoding) };
        if let Some(seen) = self.seen.get_mut(id as usize) {
            *seen = true;
        }
        id
    }

    fn sample(&mut self, logits: &[f32], decoding: &Decoding) -> u32 {
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        // Ties go to the smaller id, so that the order is total.
        order.sort_unstable_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
        if decoding.top_k > 0 {
            order.truncate(decoding.top_k);
        }
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

/// The index of the largest logit; the first of equals.
fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, &logit) in logits.iter().enumerate() {
        if logit > logits[best] {
            best = i;
        }
    }
    best as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frequencies(decoding: &Decoding) -> Vec<usize> {
        let mut sampler = Sampler::new(0, &[], 4, decoding);
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
        let mut sampler = Sampler::new(0, &[0, 2], 3, &decoding);
        let mut logits = [3.0, 2.0, -1.0];
        assert_eq!(sampler.pick(&mut logits, &decoding), 1);
        assert_eq!(logits, [1.5, 2.0, -2.0]);
        let mut again = [0.5, 1.0, 0.75];
        assert_eq!(sampler.pick(&mut again, &decoding), 1, "0.5 halved and 0.75 halved stay below 1 halved");
    }
}
