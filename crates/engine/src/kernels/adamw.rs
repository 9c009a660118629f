//! AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) in one pass over the flat adapter, as PyTorch computes it.

use consilium_core::engine::TrainSettings;

use super::simd::multiversion;

/// One step's constants, rounded to f32 once.
#[derive(Clone, Copy)]
pub(crate) struct AdamStep {
    /// `1 - beta1`, subtracted in f64: in f32 it would be off by 2e-7, and `1 - beta2` by 5e-5
    fresh1: f32,
    beta2: f32,
    /// `1 - beta2`
    fresh2: f32,
    epsilon: f32,
    /// `1 - rate * weight_decay`
    keep: f32,
    /// `rate / (1 - beta1^t)`
    step_size: f32,
    /// `1 / sqrt(1 - beta2^t)`
    inverse_root_correction: f32,
    /// Factor on the gradient: clipping.
    clip: f32,
}

impl AdamStep {
    /// The constants of optimiser step `t` (from 1).
    pub fn new(settings: &TrainSettings, t: u64, rate: f64, clip: f32) -> Self {
        let t = t as f64;
        Self {
            fresh1: (1.0 - settings.beta1) as f32,
            beta2: settings.beta2 as f32,
            fresh2: (1.0 - settings.beta2) as f32,
            epsilon: settings.epsilon as f32,
            keep: (1.0 - rate * settings.weight_decay) as f32,
            step_size: (rate / (1.0 - settings.beta1.powf(t))) as f32,
            inverse_root_correction: (1.0 / (1.0 - settings.beta2.powf(t)).sqrt()) as f32,
            clip,
        }
    }
}

multiversion! {
    /// Moves `w` by its gradient `g` and updates the moments `m` and `v`.
    pub(crate) fn adamw(w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], s: &AdamStep) {
        let n = w.len();
        let (g, m, v) = (&g[..n], &mut m[..n], &mut v[..n]);
        for i in 0..n {
            let gradient = g[i] * s.clip;
            m[i] += (gradient - m[i]) * s.fresh1;
            v[i] = v[i] * s.beta2 + gradient * gradient * s.fresh2;
            let denominator = v[i].sqrt() * s.inverse_root_correction + s.epsilon;
            w[i] = w[i] * s.keep - s.step_size * (m[i] / denominator);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, random};

    #[test]
    fn three_steps_match_the_formula_in_f64() {
        let settings = TrainSettings { weight_decay: 0.1, ..TrainSettings::default() };
        let (n, rate) = (37, 1e-2);
        let mut w = random(n, "w");
        let mut wide: Vec<f64> = w.iter().map(|&x| f64::from(x)).collect();
        let (mut m, mut v) = (vec![0f32; n], vec![0f32; n]);
        let (mut wide_m, mut wide_v) = (vec![0f64; n], vec![0f64; n]);
        for t in 1..=3u64 {
            let g = random(n, &format!("g{t}"));
            adamw(&mut w, &g, &mut m, &mut v, &AdamStep::new(&settings, t, rate, 0.5));
            for i in 0..n {
                let gradient = f64::from(g[i]) * 0.5;
                wide_m[i] = 0.9 * wide_m[i] + 0.1 * gradient;
                wide_v[i] = 0.999 * wide_v[i] + 0.001 * gradient * gradient;
                let (m_hat, v_hat) =
                    (wide_m[i] / (1.0 - 0.9f64.powf(t as f64)), wide_v[i] / (1.0 - 0.999f64.powf(t as f64)));
                wide[i] = wide[i] * (1.0 - rate * 0.1) - rate * m_hat / (v_hat.sqrt() + 1e-8);
            }
        }
        let expected: Vec<f32> = wide.iter().map(|&x| x as f32).collect();
        assert_close(&w, &expected, 1e-6, "adamw");
    }
}
