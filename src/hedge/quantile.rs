//! Learns a quantile of the durations of calls, from no more than whether each call took longer than the current
//! estimate.
//!
//! The estimate moves up by `STEP · q` for each call that took longer, and down by `STEP · (1 − q)` for each that did
//! not, in the logarithm of the duration. In balance, a share of `1 − q` takes longer. A call that has not ended when
//! the estimate is reached took longer, however it ends: so calls that are cancelled or beaten count as they should.

use crate::sync::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// How far an estimate moves: about 5 % for a call that took longer.
const STEP: f64 = 0.05;

/// The first calls move it further: the start is a guess.
const FIRST: u64 = 64;
const FIRST_STEP: f64 = 8.0 * STEP;

/// Fewer observations than this are no reason to send anything.
const ENOUGH: u64 = 20;

/// The estimate before the first observation.
const START: Duration = Duration::from_millis(100);

/// The shortest delay: a tick of tokio's timers. An estimate does not go below it, nor above an hour.
pub(super) const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_secs(3_600);

/// Bits of the word for the fraction of the logarithm, and for the count of observations below it.
const COUNT_BITS: u32 = 16;
const FRACTION: f64 = (1_u64 << 40) as f64;

#[derive(Debug)]
pub(super) struct Quantile {
    q: f64,
    /// The natural logarithm of the delay in nanoseconds, as a fixed-point number of 8 and 40 bits; and below it the
    /// observations, up to 65 535.
    word: AtomicU64,
}

#[derive(Clone, Copy)]
struct Estimate {
    log: f64,
    count: u64,
}

impl From<u64> for Estimate {
    fn from(word: u64) -> Self {
        Self {
            log: (word >> COUNT_BITS) as f64 / FRACTION,
            count: word & 0xFFFF,
        }
    }
}

impl From<Estimate> for u64 {
    fn from(estimate: Estimate) -> Self {
        (((estimate.log * FRACTION) as Self) << COUNT_BITS) | estimate.count
    }
}

fn log(duration: Duration) -> f64 {
    (duration.as_nanos() as f64).ln()
}

impl Quantile {
    pub(super) fn new(q: f64) -> Self {
        let start = Estimate {
            log: log(START),
            count: 0,
        };
        Self {
            q,
            word: AtomicU64::new(start.into()),
        }
    }

    /// The delay that calls should wait for, and whether it rests on enough observations.
    pub(super) fn delay(&self) -> (Duration, bool) {
        // Relaxed, here and below: the word is all there is.
        let Estimate { log, count } = self.word.load(Relaxed).into();
        let delay = Duration::from_nanos(log.exp() as u64);
        (delay.clamp(SHORTEST, LONGEST), count >= ENOUGH)
    }

    /// Learns whether a call took longer than the delay that it found.
    pub(super) fn observe(&self, took_longer: bool) {
        let (lowest, highest) = (log(SHORTEST), log(LONGEST));
        let _always = self.word.fetch_update(Relaxed, Relaxed, |word| {
            let Estimate { log, count } = word.into();
            let step = if count < FIRST { FIRST_STEP } else { STEP };
            let moved = if took_longer {
                log + step * self.q
            } else {
                log - step * (1.0 - self.q)
            };
            let next = Estimate {
                log: moved.clamp(lowest, highest),
                count: (count + 1).min(0xFFFF),
            };
            Some(next.into())
        });
    }
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use super::*;
    use rand::rngs::Xoshiro256PlusPlus;
    use rand::{RngExt, SeedableRng};

    /// Durations in milliseconds.
    type Draw = fn(&mut Xoshiro256PlusPlus) -> f64;

    fn normal(random: &mut Xoshiro256PlusPlus) -> f64 {
        let (a, b): (f64, f64) = (random.random(), random.random());
        (-2.0 * (1.0 - a).ln()).sqrt() * (std::f64::consts::TAU * b).cos()
    }

    fn log_normal(random: &mut Xoshiro256PlusPlus) -> f64 {
        10.0 * (0.3 * normal(random)).exp()
    }

    fn observe(quantile: &Quantile, millis: f64) -> bool {
        let took_longer = millis > 1e3 * quantile.delay().0.as_secs_f64();
        quantile.observe(took_longer);
        took_longer
    }

    #[test]
    fn one_call_in_twenty_takes_longer_whatever_the_distribution() {
        let distributions: [(&str, Draw); 5] = [
            ("uniform", |random| 20.0 * random.random::<f64>() + 1.0),
            ("log-normal", log_normal),
            ("exponential", |random| {
                10.0 * -(1.0 - random.random::<f64>()).ln() + 1.0
            }),
            ("3 % stragglers", |random| {
                let factor = if random.random::<f64>() < 0.03 {
                    20.0
                } else {
                    1.0
                };
                log_normal(random) * factor
            }),
            ("constant", |_| 10.0),
        ];
        for (name, draw) in distributions {
            let mut random = Xoshiro256PlusPlus::seed_from_u64(5);
            let quantile = Quantile::new(0.95);
            let mut longer = 0;
            for call in 0..60_000 {
                let took_longer = observe(&quantile, draw(&mut random));
                longer += u32::from(took_longer && call >= 10_000);
            }
            let share = f64::from(longer) / 50_000.0;
            assert!((share - 0.05).abs() <= 0.005, "{name}: {share}");
        }
    }

    #[test]
    fn it_follows_a_step_up_within_100_calls_and_down_within_1100() {
        for (factor, most) in [(10.0, 100), (0.1, 1_100)] {
            let mut random = Xoshiro256PlusPlus::seed_from_u64(6);
            let quantile = Quantile::new(0.95);
            for _ in 0..20_000 {
                observe(&quantile, 10.0 * log_normal(&mut random));
            }
            let target = 164.0 * factor;
            let reached = |millis: f64| {
                if factor > 1.0 {
                    millis > 0.8 * target
                } else {
                    millis < 1.25 * target
                }
            };
            let calls = (1..9_999).find(|_| {
                observe(&quantile, 10.0 * factor * log_normal(&mut random));
                reached(1e3 * quantile.delay().0.as_secs_f64())
            });
            assert!(calls.unwrap() <= most, "{factor}: {calls:?}");
        }
    }

    #[test]
    fn it_knows_nothing_before_20_calls_and_stays_within_its_bounds() {
        let quantile = Quantile::new(0.95);
        for call in 0..25 {
            assert_eq!(quantile.delay().1, call >= 20);
            quantile.observe(false);
        }
        for (took_longer, bound) in [(false, SHORTEST), (true, LONGEST)] {
            for _ in 0..70_000 {
                quantile.observe(took_longer);
            }
            let (delay, _) = quantile.delay();
            let off = delay.as_secs_f64() / bound.as_secs_f64() - 1.0;
            assert!(off.abs() < 1e-6, "{delay:?}");
        }
    }
}

#[cfg(all(test, buttress_loom))]
mod models {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    #[test]
    fn observations_of_two_threads_both_count() {
        loom::model(|| {
            let quantile = Arc::new(Quantile::new(0.5));
            let other = quantile.clone();
            let thread = thread::spawn(move || other.observe(true));
            quantile.observe(false);
            thread.join().unwrap();
            let estimate: Estimate = quantile.word.load(Relaxed).into();
            assert_eq!(estimate.count, 2);
            assert!((estimate.log - log(START)).abs() < 1e-9);
        });
    }
}
