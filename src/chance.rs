//! Random draws in `[0, 1)`: from the thread's generator, or from a seed and then repeatable.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The source of a layer's draws. Threads share it without a lock.
#[derive(Debug)]
pub(crate) enum Chance {
    Thread,
    /// The n-th draw depends only on the seed and on n.
    Seeded {
        seed: u64,
        drawn: AtomicU64,
    },
}

impl Chance {
    pub(crate) fn new(seed: Option<u64>) -> Self {
        match seed {
            None => Self::Thread,
            Some(seed) => Self::Seeded {
                seed,
                drawn: AtomicU64::new(0),
            },
        }
    }

    pub(crate) fn draw(&self) -> f64 {
        match self {
            Self::Thread => rand::rng().random(),
            Self::Seeded { seed, drawn } => {
                // Relaxed: each draw needs a number of its own, and publishes nothing else.
                let n = drawn.fetch_add(1, Relaxed);
                draw_of(*seed, n)
            }
        }
    }
}

/// The draw with this number of a seed.
pub(crate) fn draw_of(seed: u64, number: u64) -> f64 {
    // The odd multiplier moves seeds far apart: without it, the sequences of neighbouring seeds would be
    // the same, shifted by one.
    let state = seed
        .wrapping_mul(0xD605_1C4F_93A1_77A5)
        .wrapping_add(number);
    Xoshiro256PlusPlus::seed_from_u64(state).random()
}

/// A whole number from 0 to `range`, inclusive, in proportion to `draw`, rounded down. A draw outside
/// `[0, 1)` counts as the nearer end, NaN as 0.
pub(crate) fn scale(range: u64, draw: f64) -> u64 {
    const STEPS: u64 = 1 << 53; // the number of values that an f64 in [0, 1) can tell apart
    // The cast saturates, and converts NaN to 0.
    let step = ((draw * STEPS as f64) as u64).min(STEPS - 1);
    (((u128::from(range) + 1) * u128::from(step)) >> 53) as u64
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use super::*;

    fn draws(seed: Option<u64>) -> Vec<f64> {
        let chance = Chance::new(seed);
        (0..1_000).map(|_| chance.draw()).collect()
    }

    #[test]
    fn a_seed_repeats_its_draws_and_no_other_seed_does() {
        assert_eq!(draws(Some(7)), draws(Some(7)));
        let mut all: Vec<f64> = (0..100).flat_map(|seed| draws(Some(seed))).collect();
        all.sort_by(f64::total_cmp);
        all.dedup();
        assert_eq!(all.len(), 100_000);
    }

    #[test]
    fn draws_spread_over_the_whole_range() {
        for seed in [None, Some(0), Some(u64::MAX)] {
            let draws = draws(seed);
            for tenth in 0..10 {
                let range = f64::from(tenth) / 10.0..f64::from(tenth + 1) / 10.0;
                let share = draws.iter().filter(|draw| range.contains(draw)).count();
                // 100 are expected; the chance of a count this far off is 1 in 10^10.
                assert!((30..200).contains(&share), "{seed:?} {range:?}: {share}");
            }
        }
    }

    #[test]
    fn a_draw_is_scaled_to_both_ends_of_a_range() {
        const LARGEST: f64 = 1.0 - f64::EPSILON / 2.0;
        for range in [0, 1, 2, 1_000, (1 << 53) - 1] {
            assert_eq!(scale(range, 0.0), 0);
            assert_eq!(scale(range, LARGEST), range);
        }
        assert_eq!(scale(999, 0.5), 500);
        assert!(scale(u64::MAX, LARGEST) > u64::MAX - (1 << 12));
    }
}
