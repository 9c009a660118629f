//! Packed token sequences: several rows in one flat list, no padding.

/// Sequences laid end to end. Attention is causal and stays inside a sequence; positions restart at each.
///
/// `t` is the total number of tokens, `n` the number of sequences.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Token ids, `(t)`.
    pub ids: Vec<u32>,
    /// Start of each sequence and, last, `t`: `(n + 1)`, strictly rising from 0.
    pub seq_starts: Vec<u32>,
    /// The id that each token should predict, `(t)`; ignored where the weight is 0.
    pub targets: Vec<u32>,
    /// The loss weight of each prediction, `(t)`; 0 on the last token of a sequence.
    pub weights: Vec<f32>,
    /// Number of leading tokens that all sequences share (0 when unknown). A hint that engines may exploit.
    pub prefix_len: usize,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self { seq_starts: vec![0], ..Self::default() }
    }

    /// Appends a sequence whose token `i` predicts token `i + 1` with weight `weights[i + 1]`: the weight belongs
    /// to the predicted token, as a label would.
    ///
    /// # Panics
    /// When `ids` is empty or the lengths differ.
    pub fn push(&mut self, ids: &[u32], weights: &[f32]) {
        assert!(!ids.is_empty(), "a sequence needs at least one token");
        assert_eq!(ids.len(), weights.len(), "one weight for each token");
        self.ids.extend_from_slice(ids);
        self.targets.extend_from_slice(&ids[1..]);
        self.targets.push(0);
        self.weights.extend_from_slice(&weights[1..]);
        self.weights.push(0.0);
        self.seq_starts.push(self.ids.len() as u32);
    }

    /// t, the number of tokens.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// n, the number of sequences.
    pub fn sequences(&self) -> usize {
        self.seq_starts.len() - 1
    }

    /// The token range of each sequence.
    pub fn ranges(&self) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
        self.seq_starts.windows(2).map(|w| w[0] as usize..w[1] as usize)
    }

    /// Sum of the loss weights.
    pub fn weight(&self) -> f64 {
        self.weights.iter().map(|&w| f64::from(w)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_shifted_inside_each_sequence_only() {
        let mut batch = Batch::new();
        batch.push(&[1, 2, 3], &[1.0, 1.0, 0.5]);
        batch.push(&[7, 8], &[0.0, 1.0]);
        assert_eq!(batch.targets, [2, 3, 0, 8, 0]);
        assert_eq!(batch.weights, [1.0, 0.5, 0.0, 1.0, 0.0]);
        assert_eq!(batch.seq_starts, [0, 3, 5]);
        assert_eq!(batch.ranges().collect::<Vec<_>>(), [0..3, 3..5]);
        assert_eq!(batch.weight(), 2.5);
    }
}
