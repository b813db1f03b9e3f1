//! Chance: draws in `[0, 1)`, from the thread's generator or repeatable from a seed.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Where a layer's draws come from. Shared by its clones, without a lock.
#[derive(Debug)]
pub(crate) enum Chance {
    Thread,
    /// The n-th draw depends on the seed and on n alone.
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
                // Relaxed: each draw needs a number of its own, and orders nothing else.
                let n = drawn.fetch_add(1, Relaxed);
                // An odd multiplier scatters neighbouring seeds, whose sequences would else be
                // the same but for a shift.
                let state = seed.wrapping_mul(0xD605_1C4F_93A1_77A5).wrapping_add(n);
                Xoshiro256PlusPlus::seed_from_u64(state).random()
            }
        }
    }
}

/// A whole number from 0 to `range`, both included, in proportion to `draw`. A draw outside
/// `[0, 1)` counts as its nearer end, NaN as 0. Rounds down.
pub(crate) fn scale(range: u64, draw: f64) -> u64 {
    const STEPS: u64 = 1 << 53; // as many as an f64 in [0, 1) can tell apart
    // The cast saturates and turns NaN into 0.
    let step = ((draw * STEPS as f64) as u64).min(STEPS - 1);
    (((u128::from(range) + 1) * u128::from(step)) >> 53) as u64
}
