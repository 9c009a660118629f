//! Which rows form which optimiser step: a pure function of the step's number.
//!
//! Nothing is remembered between steps, so training can stop anywhere and go on as if it had not, and any step can be
//! looked at alone.

use std::ops::Range;

use consilium_core::{Batch, SeededRng};

use crate::tokenizer::Tokens;

/// How the rows of a site become steps, epoch after epoch.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainingPlan {
    /// Rows of a micro-batch, at least 1.
    pub micro_batch: usize,
    /// Micro-batches of a step, at least 1. An epoch's last step takes what is left.
    pub accumulation: usize,
    /// Loss weight of prompt tokens: 1 trains on the whole text, 0 on answers only. Answers and the end of text have 1.
    pub prompt_loss_weight: f32,
    /// Whether each epoch has its own order; else the rows' own.
    pub shuffle: bool,
    /// Seed of the orders.
    pub seed: u64,
    /// The site, whose name gives it orders of its own.
    pub site: String,
}

impl TrainingPlan {
    /// Optimiser steps of one epoch over `rows` rows, the last perhaps smaller; 0 for no rows.
    pub fn steps_per_epoch(&self, rows: usize) -> u64 {
        rows.div_ceil(self.rows_per_step()) as u64
    }

    /// The micro-batches of optimiser step `step`, counted from 0 over all epochs; none when there are no rows.
    pub fn step(&self, rows: &[Tokens], step: u64) -> Vec<Batch> {
        let Some((order, range)) = self.rows_of(rows.len(), step) else { return Vec::new() };
        order[range]
            .chunks(self.micro_batch.max(1))
            .map(|chunk| {
                let chunk: Vec<&Tokens> = chunk.iter().map(|&index| &rows[index]).collect();
                pack(&chunk, self.prompt_loss_weight)
            })
            .collect()
    }

    /// Indices of the rows that `step` trains on, in order.
    pub fn indices(&self, rows: usize, step: u64) -> Vec<usize> {
        self.rows_of(rows, step).map_or_else(Vec::new, |(order, range)| order[range].to_vec())
    }

    /// The order of the step's epoch and the part of it that is the step's.
    fn rows_of(&self, rows: usize, step: u64) -> Option<(Vec<usize>, Range<usize>)> {
        let per_epoch = self.steps_per_epoch(rows);
        let epoch = step.checked_div(per_epoch)?;
        let first = (step % per_epoch) as usize * self.rows_per_step();
        Some((self.order(rows, epoch), first..first.saturating_add(self.rows_per_step()).min(rows)))
    }

    fn order(&self, rows: usize, epoch: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..rows).collect();
        if self.shuffle {
            // The stream's 32-bit "round" is the epoch here; nobody trains for four billion epochs.
            SeededRng::derive(self.seed, epoch as u32, &self.site, "row order").shuffle(&mut order);
        }
        order
    }

    fn rows_per_step(&self) -> usize {
        self.micro_batch.max(1).saturating_mul(self.accumulation.max(1))
    }
}

/// Lays rows end to end with their loss weights: `prompt_loss_weight` up to the answer, 1 from there.
pub fn pack(rows: &[&Tokens], prompt_loss_weight: f32) -> Batch {
    let mut batch = Batch::new();
    for row in rows.iter().filter(|row| !row.ids.is_empty()) {
        batch.push(&row.ids, &loss_weights(row, prompt_loss_weight));
    }
    batch.prefix_len = shared_prefix(rows);
    batch
}

/// The loss weight of each token of a row as something to be predicted.
pub fn loss_weights(row: &Tokens, prompt_loss_weight: f32) -> Vec<f32> {
    (0..row.ids.len()).map(|index| if index < row.loss_from { prompt_loss_weight } else { 1.0 }).collect()
}

/// Leading tokens that all rows share, leaving at least one of each row's own; 0 for a single row, where there is
/// nothing to share.
fn shared_prefix(rows: &[&Tokens]) -> usize {
    let [first, others @ ..] = rows else { return 0 };
    if others.is_empty() {
        return 0;
    }
    let common = |other: &Tokens| first.ids.iter().zip(&other.ids).take_while(|(a, b)| a == b).count();
    let shared = others.iter().map(|other| common(other)).min().unwrap_or(0);
    let shortest = rows.iter().map(|row| row.ids.len()).min().unwrap_or(0);
    shared.min(shortest.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(shuffle: bool) -> TrainingPlan {
        TrainingPlan {
            micro_batch: 2,
            accumulation: 2,
            prompt_loss_weight: 0.25,
            shuffle,
            seed: 42,
            site: "ward".to_string(),
        }
    }

    fn row(ids: &[u32], loss_from: usize) -> Tokens {
        Tokens { ids: ids.to_vec(), loss_from, truncated: false }
    }

    #[test]
    fn the_reference_has_its_step_counts() {
        let plan = TrainingPlan { micro_batch: 4, accumulation: 8, ..plan(true) };
        assert_eq!(plan.steps_per_epoch(1000) * 3, 96);
        assert_eq!(plan.steps_per_epoch(150), 5);
        assert_eq!(plan.steps_per_epoch(0), 0);
    }

    #[test]
    fn every_epoch_sees_every_row_once_and_in_its_own_order() {
        let plan = plan(true);
        let epoch =
            |n: u64| -> Vec<usize> { (n * 3..n * 3 + 3).flat_map(|step| plan.indices(10, step)).collect() };
        for n in 0..3 {
            let mut sorted = epoch(n);
            sorted.sort_unstable();
            assert_eq!(sorted, (0..10).collect::<Vec<_>>());
        }
        assert_ne!(epoch(0), epoch(1));
        let elsewhere = TrainingPlan { site: "clinic".to_string(), ..plan.clone() };
        assert_ne!(elsewhere.indices(10, 0), plan.indices(10, 0));
    }

    #[test]
    fn an_unshuffled_epoch_ends_with_a_partial_step() {
        let rows: Vec<Tokens> = (0..7).map(|id| row(&[id, id + 100], 1)).collect();
        let batches = plan(false).step(&rows, 1);
        assert_eq!(
            batches.iter().map(|batch| batch.ids.clone()).collect::<Vec<_>>(),
            [vec![4, 104, 5, 105], vec![6, 106]]
        );
        assert_eq!(plan(false).step(&rows, 2), plan(false).step(&rows, 0), "the next epoch begins anew");
        assert!(plan(false).step(&[], 0).is_empty());
    }

    #[test]
    fn weights_follow_the_predicted_token_and_the_prefix_is_shared() {
        let (a, b) = (row(&[1, 2, 3, 4], 2), row(&[1, 2, 9], 2));
        let batch = pack(&[&a, &b], 0.25);
        assert_eq!(batch.ids, [1, 2, 3, 4, 1, 2, 9]);
        assert_eq!(batch.weights, [0.25, 1.0, 1.0, 0.0, 0.25, 1.0, 0.0]);
        assert_eq!(batch.prefix_len, 2);
        assert_eq!(pack(&[&a], 1.0).prefix_len, 0);
        assert_eq!(pack(&[&a, &a], 1.0).prefix_len, 3, "one token of each row is left");
    }
}
