//! The orders that numpy's `default_rng(seed).permutation(n)` gives, and with it `datasets`' `shuffle(seed=...)`.
//!
//! Three parts, each as numpy documents it: SeedSequence stretches the seed into 256 bits of state, PCG64 (XSL-RR
//! output) turns the state into 64-bit draws, and a Fisher-Yates walk takes its indices from 32-bit halves of these
//! draws by masked rejection. (`Generator.integers` uses another method, Lemire's; `permutation` does not.)

/// `numpy.random.default_rng(seed).permutation(n)`.
///
/// Limited to `n <= 2^32`, beyond which numpy draws 64-bit indices.
pub fn permutation(seed: u64, n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    let mut draws = Pcg64::new(seed);
    for i in (1..n).rev() {
        order.swap(i, draws.below_or_equal(i as u32) as usize);
    }
    order
}

/// `Dataset.shuffle(seed=seed)`: the items in the order of [`permutation`].
pub fn shuffle<T>(items: Vec<T>, seed: u64) -> Vec<T> {
    let order = permutation(seed, items.len());
    let mut slots: Vec<Option<T>> = items.into_iter().map(Some).collect();
    order.into_iter().filter_map(|index| slots[index].take()).collect()
}

/// `Dataset.select(range(n))`: the first `n` items, or `None` where there are fewer.
pub fn select<T>(mut items: Vec<T>, n: usize) -> Option<Vec<T>> {
    (n <= items.len()).then(|| {
        items.truncate(n);
        items
    })
}

/// numpy's PCG64 bit generator: a 128-bit linear congruential state, 64-bit XSL-RR output.
struct Pcg64 {
    state: u128,
    increment: u128,
    /// The upper half of the last draw, waiting to be handed out as the next 32-bit value.
    upper_half: Option<u32>,
}

impl Pcg64 {
    const MULTIPLIER: u128 = 0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645;

    fn new(seed: u64) -> Self {
        let words = SeedSequence::new(seed).words();
        let initial_state = u128::from(words[0]) << 64 | u128::from(words[1]);
        let stream = u128::from(words[2]) << 64 | u128::from(words[3]);
        let mut rng = Self { state: 0, increment: stream << 1 | 1, upper_half: None };
        rng.advance();
        rng.state = rng.state.wrapping_add(initial_state);
        rng.advance();
        rng
    }

    fn advance(&mut self) {
        self.state = self.state.wrapping_mul(Self::MULTIPLIER).wrapping_add(self.increment);
    }

    fn next_u64(&mut self) -> u64 {
        self.advance();
        let folded = (self.state >> 64) as u64 ^ self.state as u64;
        folded.rotate_right((self.state >> 122) as u32)
    }

    fn next_u32(&mut self) -> u32 {
        if let Some(half) = self.upper_half.take() {
            return half;
        }
        let draw = self.next_u64();
        self.upper_half = Some((draw >> 32) as u32);
        draw as u32
    }

    /// Uniform in `0..=max`: keeps as many low bits as `max` has and draws again while the result is too large.
    fn below_or_equal(&mut self, max: u32) -> u32 {
        if max == 0 {
            return 0;
        }
        let mask = u32::MAX >> max.leading_zeros();
        loop {
            let value = self.next_u32() & mask;
            if value <= max {
                return value;
            }
        }
    }
}

/// numpy's SeedSequence with a pool of four words: hashes entropy of any length into well-mixed state.
struct SeedSequence {
    pool: [u32; 4],
}

impl SeedSequence {
    fn new(seed: u64) -> Self {
        let entropy = [seed as u32, (seed >> 32) as u32];
        // Unused pool words are hashed as zeros, so a seed below 2^32 needs no case of its own.
        let mut hash = HashStream { constant: 0x43b0_d7e5, multiplier: 0x931e_8875 };
        let mut pool = [0u32; 4];
        for (word, slot) in pool.iter_mut().enumerate() {
            *slot = hash.next(entropy.get(word).copied().unwrap_or(0));
        }
        for source in 0..4 {
            for target in 0..4 {
                if source != target {
                    pool[target] = mix(pool[target], hash.next(pool[source]));
                }
            }
        }
        Self { pool }
    }

    /// `generate_state(4, uint64)`: eight 32-bit words, paired with the low half first.
    fn words(&self) -> [u64; 4] {
        let mut hash = HashStream { constant: 0x8b51_f9dd, multiplier: 0x58f3_8ded };
        let mut halves = self.pool.iter().cycle().map(|&word| u64::from(hash.next(word)));
        std::array::from_fn(|_| {
            let low = halves.next().unwrap_or(0);
            halves.next().unwrap_or(0) << 32 | low
        })
    }
}

/// The hash whose constant moves on with every word.
struct HashStream {
    constant: u32,
    multiplier: u32,
}

impl HashStream {
    fn next(&mut self, word: u32) -> u32 {
        let word = word ^ self.constant;
        self.constant = self.constant.wrapping_mul(self.multiplier);
        let word = word.wrapping_mul(self.constant);
        word ^ word >> 16
    }
}

fn mix(x: u32, y: u32) -> u32 {
    let mixed = x.wrapping_mul(0xca01_f9dd).wrapping_sub(y.wrapping_mul(0x4973_f715));
    mixed ^ mixed >> 16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Golden {
        cases: Vec<Case>,
    }

    #[derive(serde::Deserialize)]
    struct Case {
        seed: u64,
        pool: [u32; 4],
        words: [String; 4],
        raw: Vec<String>,
        permutations: Vec<Vec<usize>>,
    }

    fn golden() -> Vec<Case> {
        let text = include_str!("../../../golden/numpy/permutation.json");
        serde_json::from_str::<Golden>(text).expect("the fixture parses").cases
    }

    #[test]
    fn every_stage_equals_numpy_for_every_seed() {
        let cases = golden();
        assert!(
            cases.iter().any(|case| case.seed > u64::from(u32::MAX)),
            "a seed of two words is among them"
        );
        for case in cases {
            let seeds = SeedSequence::new(case.seed);
            assert_eq!(seeds.pool, case.pool, "pool of seed {}", case.seed);
            assert_eq!(seeds.words().map(|word| word.to_string()), case.words, "state of seed {}", case.seed);
            let mut rng = Pcg64::new(case.seed);
            let raw: Vec<String> = case.raw.iter().map(|_| rng.next_u64().to_string()).collect();
            assert_eq!(raw, case.raw, "draws of seed {}", case.seed);
            for expected in case.permutations {
                assert_eq!(permutation(case.seed, expected.len()), expected, "seed {}", case.seed);
            }
        }
    }

    #[test]
    fn nothing_and_one_need_no_draw() {
        assert_eq!(permutation(42, 0), Vec::<usize>::new());
        assert_eq!(permutation(42, 1), [0]);
    }

    #[test]
    fn shuffle_and_select_follow_the_permutation() {
        let rows: Vec<String> = (0..10).map(|i| format!("row {i}")).collect();
        let expected: Vec<String> =
            permutation(1, 10).into_iter().take(4).map(|index| rows[index].clone()).collect();
        assert_eq!(select(shuffle(rows.clone(), 1), 4), Some(expected));
        assert_eq!(select(rows, 11), None);
    }
}
