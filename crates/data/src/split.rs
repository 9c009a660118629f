//! A site's rows divided into training, validation and test.

use crate::partition::Shard;
use crate::{DataError, Example, permutation};

/// The three disjoint parts of a site's rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    /// Rows to train on.
    pub train: Vec<Example>,
    /// Rows to watch while training.
    pub validation: Vec<Example>,
    /// Rows to judge by, seen at the end only.
    pub test: Vec<Example>,
}

/// Divides a shard, in the order of numpy's permutation of its rows.
///
/// Training rows are taken from the front: `train = Some(n)` is exactly `shuffle(seed).select(range(n))` of Python's
/// `datasets`. Test rows are taken from the back and validation rows before them, so both stay the same when only the
/// number of training rows changes. `train = None` takes all that is left.
///
/// # Errors
/// When the shard has fewer rows than asked for, or none would be left to train on.
pub fn split(
    shard: &Shard,
    train: Option<usize>,
    validation: usize,
    test: usize,
    seed: u64,
) -> Result<Split, DataError> {
    let rows = shard.examples.len();
    let held_out = validation.saturating_add(test);
    let wanted = train.unwrap_or_else(|| rows.saturating_sub(held_out).max(1));
    if wanted.saturating_add(held_out) > rows {
        return Err(DataError::NotEnoughRows {
            site: shard.site.clone(),
            rows,
            train: wanted,
            validation,
            test,
        });
    }
    let order = permutation(seed, rows);
    let pick = |range: std::ops::Range<usize>| -> Vec<Example> {
        order[range].iter().map(|&index| shard.examples[index].clone()).collect()
    };
    Ok(Split {
        train: pick(0..wanted),
        validation: pick(rows - held_out..rows - test),
        test: pick(rows - test..rows),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(rows: usize) -> Shard {
        let example = |number| Example {
            id: format!("{number}"),
            question: "q".to_string(),
            answer: "a".to_string(),
            category: "c".to_string(),
        };
        Shard { site: "ward".to_string(), examples: (0..rows).map(example).collect() }
    }

    fn ids(examples: &[Example]) -> Vec<usize> {
        examples.iter().map(|row| row.id.parse().unwrap()).collect()
    }

    #[test]
    fn training_rows_are_shuffle_then_select() {
        let parts = split(&shard(20), Some(5), 3, 4, 42).unwrap();
        assert_eq!(ids(&parts.train), permutation(42, 20)[..5]);
        assert_eq!(ids(&parts.validation), permutation(42, 20)[13..16]);
        assert_eq!(ids(&parts.test), permutation(42, 20)[16..]);
    }

    #[test]
    fn the_rest_is_trained_on_and_held_out_rows_do_not_move() {
        let all = split(&shard(20), None, 3, 4, 1).unwrap();
        let few = split(&shard(20), Some(2), 3, 4, 1).unwrap();
        assert_eq!(all.train.len(), 13);
        assert_eq!((&all.validation, &all.test), (&few.validation, &few.test));
        let mut every = [ids(&all.train), ids(&all.validation), ids(&all.test)].concat();
        every.sort_unstable();
        assert_eq!(every, (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn too_few_rows_are_refused() {
        let error = split(&shard(10), Some(8), 1, 2, 0).unwrap_err().to_string();
        assert_eq!(
            error,
            "site `ward` has 10 rows, but 8 training + 1 validation + 2 test rows are asked for"
        );
        assert!(split(&shard(3), None, 1, 2, 0).is_err(), "nothing would be left to train on");
        assert!(split(&shard(3), Some(0), 1, 2, 0).is_ok(), "an evaluation-only site is fine");
    }
}
