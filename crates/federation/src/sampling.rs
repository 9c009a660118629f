//! Which sites a round asks: drawn from the session's seed and the round, so that every run of a session agrees.

use consilium_core::SeededRng;

/// `count` of the `roster` (all, when there are fewer), in byte order of their names.
///
/// The draw depends on the set of names, the seed and the round, not on the order in which sites joined.
pub fn sample(roster: &[String], count: usize, seed: u64, round: u32) -> Vec<String> {
    let mut names = roster.to_vec();
    names.sort_unstable();
    if count < names.len() {
        SeededRng::derive(seed, round, "", "client sampling").shuffle(&mut names);
        names.truncate(count);
        names.sort_unstable();
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_draw_ignores_the_order_of_joining_and_changes_with_the_round() {
        let roster: Vec<String> = (0..20).map(|i| format!("site {i}")).collect();
        let reversed: Vec<String> = roster.iter().rev().cloned().collect();
        let drawn = sample(&roster, 5, 1, 1);
        assert_eq!(drawn, sample(&reversed, 5, 1, 1));
        assert_eq!(drawn.len(), 5);
        assert!(drawn.is_sorted());
        assert_ne!(drawn, sample(&roster, 5, 1, 2));
        assert_ne!(drawn, sample(&roster, 5, 2, 1));
    }

    #[test]
    fn every_site_has_its_turn() {
        let roster: Vec<String> = (0..5).map(|i| i.to_string()).collect();
        let mut turns = [0; 5];
        for round in 1..=500 {
            for site in sample(&roster, 2, 9, round) {
                turns[site.parse::<usize>().unwrap()] += 1;
            }
        }
        assert!(turns.iter().all(|&n| (150..250).contains(&n)), "{turns:?}");
    }
}
