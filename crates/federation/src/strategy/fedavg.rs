//! Federated averaging (McMahan et al. 2017, arXiv:1602.05629), seen through deltas:
//! `w <- w + sum_i p_i (w_i - w)` with weights `p_i` that sum to 1.

use consilium_core::{Adapter, Tensor};

use super::{Strategy, StrategyError};
use crate::session::Contribution;
use crate::settings::Weights;

/// The weighted mean of the updates. Sums are f64, one fixed order, rounded to f32 once.
#[derive(Clone, Debug, Default)]
pub struct FedAvg {
    weights: Weights,
    global: Adapter,
    /// Sites still to be folded with their weights, last one first.
    waiting: Vec<(String, f64)>,
    total_weight: f64,
    /// Sum of weight times delta, tensor after tensor.
    sum: Vec<f64>,
}

impl FedAvg {
    /// Averaging with the given weights.
    pub fn new(weights: Weights) -> Self {
        Self { weights, ..Self::default() }
    }

    fn weight(&self, contribution: &Contribution) -> f64 {
        match self.weights {
            Weights::Examples => contribution.examples as f64,
            Weights::Uniform => 1.0,
        }
    }
}

impl Strategy for FedAvg {
    fn begin(&mut self, global: &Adapter, contributions: &[Contribution]) -> Result<(), StrategyError> {
        if let Some(pair) = contributions.windows(2).find(|pair| pair[0].site >= pair[1].site) {
            return Err(StrategyError::Order {
                expected: format!("a site after {}", pair[0].site),
                found: pair[1].site.clone(),
            });
        }
        self.total_weight = contributions.iter().map(|c| self.weight(c)).sum();
        if self.total_weight <= 0.0 {
            return Err(StrategyError::NoWeight { sites: contributions.len() });
        }
        self.waiting = contributions.iter().rev().map(|c| (c.site.clone(), self.weight(c))).collect();
        self.sum = vec![0.0; global.parameters()];
        self.global = global.clone();
        Ok(())
    }

    fn fold(&mut self, site: &str, update: &Adapter) -> Result<(), StrategyError> {
        let weight = match self.waiting.last() {
            Some((expected, weight)) if expected == site => *weight,
            other => {
                let expected = other.map_or("nobody".into(), |(name, _)| name.clone());
                return Err(StrategyError::Order { expected, found: site.into() });
            }
        };
        let misfit = |source| StrategyError::Misfit { site: site.into(), source };
        let update = update.clone().conform(&self.global.schema()).map_err(misfit)?;
        for ((sum, new), old) in self.sum.iter_mut().zip(update.flat()).zip(self.global.flat()) {
            *sum += weight * (f64::from(new) - f64::from(old));
        }
        self.waiting.pop();
        Ok(())
    }

    fn finish(&mut self) -> Result<Adapter, StrategyError> {
        if let Some((missing, _)) = self.waiting.last() {
            return Err(StrategyError::Order { expected: missing.clone(), found: "the end".into() });
        }
        let mut sums = self.sum.iter();
        let averaged = |tensor: &Tensor| {
            let data = tensor.data.iter().zip(sums.by_ref());
            let data = data.map(|(&old, sum)| (f64::from(old) + sum / self.total_weight) as f32).collect();
            Tensor { name: tensor.name.clone(), shape: tensor.shape.clone(), data }
        };
        Adapter::new(self.global.tensors().iter().map(averaged).collect()).map_err(StrategyError::NotFinite)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::UpdateMetrics;

    fn adapter(values: &[f32]) -> Adapter {
        Adapter::new(vec![Tensor { name: "w".into(), shape: vec![values.len()], data: values.to_vec() }])
            .unwrap()
    }

    fn from(site: &str, examples: u64) -> Contribution {
        Contribution { site: site.into(), examples, metrics: UpdateMetrics::default() }
    }

    fn average(weights: Weights, updates: &[(&str, u64, &[f32])], global: &[f32]) -> Vec<f32> {
        let mut strategy = FedAvg::new(weights);
        let contributions: Vec<Contribution> = updates.iter().map(|(s, n, _)| from(s, *n)).collect();
        strategy.begin(&adapter(global), &contributions).unwrap();
        for (site, _, values) in updates {
            strategy.fold(site, &adapter(values)).unwrap();
        }
        strategy.finish().unwrap().flat().collect()
    }

    #[test]
    fn weights_are_rows_or_equal() {
        let updates: [(&str, u64, &[f32]); 2] = [("a", 1, &[0.0, 4.0]), ("b", 3, &[8.0, 4.0])];
        assert_eq!(average(Weights::Examples, &updates, &[1.0, 1.0]), [6.0, 4.0]);
        assert_eq!(average(Weights::Uniform, &updates, &[1.0, 1.0]), [4.0, 4.0]);
    }

    #[test]
    fn a_single_site_gets_its_own_model_back_bit_for_bit() {
        // Sums are f64: exact as long as old and new value are within 2^29 of each other.
        let values = [0.1, -3.7e-5, 1.0e-6, 2.5e7];
        assert_eq!(average(Weights::Examples, &[("a", 7, &values)], &[0.3, 0.2, 0.1, -1.0]), values);
    }

    #[test]
    fn small_updates_of_many_sites_do_not_vanish_in_rounding() {
        let names: Vec<String> = (0..1000).map(|i| format!("{i:04}")).collect();
        let updates: Vec<(&str, u64, &[f32])> =
            names.iter().map(|name| (name.as_str(), 1, &[1.0 + 1e-7][..])).collect();
        assert_eq!(average(Weights::Uniform, &updates, &[1.0]), [1.0 + 1e-7]);
    }

    #[test]
    fn the_announced_order_and_schema_are_kept() {
        let mut strategy = FedAvg::default();
        let global = adapter(&[0.0]);
        assert!(matches!(strategy.begin(&global, &[]), Err(StrategyError::NoWeight { sites: 0 })));
        assert!(strategy.begin(&global, &[from("b", 1), from("a", 1)]).is_err());
        strategy.begin(&global, &[from("a", 1), from("b", 1)]).unwrap();
        assert!(matches!(strategy.fold("b", &global), Err(StrategyError::Order { .. })));
        assert!(matches!(strategy.fold("a", &adapter(&[0.0, 1.0])), Err(StrategyError::Misfit { .. })));
        strategy.fold("a", &global).unwrap();
        assert!(matches!(strategy.finish(), Err(StrategyError::Order { .. })));
    }
}
