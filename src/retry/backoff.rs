//! Computes the wait before a retry. Pure arithmetic: the caller passes the random draw.

use crate::chance::scale;
use crate::error::InvalidConfig;
use crate::time::{Shown, nanos};
use std::fmt;
use std::time::Duration;

/// How waits grow from retry to retry, and how jitter spreads them.
///
/// The wait is capped first, and jitter then shortens it. So callers that have all reached the cap
/// do not wake together. The formulas come from M. Brooker, "Exponential Backoff And Jitter", AWS
/// Architecture Blog, 2015.
///
/// ```
/// use buttress::retry::{Backoff, Jitter};
/// use std::time::Duration;
///
/// let backoff = Backoff::exponential(Duration::from_secs(1), Duration::from_secs(30))
///     .jitter(Jitter::None);
/// assert_eq!(backoff.wait(4, Duration::ZERO, 0.0), Duration::from_secs(8));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    base: Duration,
    pub(super) cap: Duration,
    factor: f64,
    jitter: Jitter,
}

/// How jitter spreads the waits. In the formulas, `d` is the wait without jitter, and `u` is a random
/// draw from `[0, 1)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Jitter {
    /// `d · u`: between zero and the whole wait. Spreads callers best.
    #[default]
    Full,
    /// `d/2 + d/2 · u`: at least half of the wait.
    Equal,
    /// `base + (min(cap, 3 · previous) − base) · u`: depends on the previous wait, not on the number
    /// of the retry. `previous` is at least `base`.
    Decorrelated,
    /// `d`: every caller waits equally long.
    None,
}

impl Backoff {
    /// Waits of `base`, 2 · `base`, 4 · `base` and so on up to `cap`, with full jitter.
    #[must_use]
    pub const fn exponential(base: Duration, cap: Duration) -> Self {
        Self {
            base,
            cap,
            factor: 2.0,
            jitter: Jitter::Full,
        }
    }

    /// The same wait before every retry, without jitter.
    #[must_use]
    pub const fn constant(wait: Duration) -> Self {
        Self {
            base: wait,
            cap: wait,
            factor: 1.0,
            jitter: Jitter::None,
        }
    }

    /// Each wait is the previous one times this factor. It must be finite and at least 1.
    /// [`Jitter::Decorrelated`] ignores it. Default of [`exponential`](Self::exponential): 2.
    #[must_use]
    pub const fn factor(self, factor: f64) -> Self {
        Self { factor, ..self }
    }

    /// How jitter spreads the waits. Default of [`exponential`](Self::exponential): [`Jitter::Full`].
    #[must_use]
    pub const fn jitter(self, jitter: Jitter) -> Self {
        Self { jitter, ..self }
    }

    /// The wait before a retry, in whole nanoseconds, at most 2^64 − 1 ns.
    ///
    /// * `retry`: the number of the retry. The first retry is 1; 0 counts as 1.
    /// * `previous`: the wait before the previous retry, zero if there was none.
    /// * `draw`: a random number from `[0, 1)`. A value outside counts as the nearer end.
    #[must_use]
    pub fn wait(&self, retry: u32, previous: Duration, draw: f64) -> Duration {
        let (base, cap) = (nanos(self.base), nanos(self.cap));
        let wait = self.grown(retry).min(cap);
        let wait = match self.jitter {
            Jitter::Full => scale(wait, draw),
            Jitter::Equal => wait / 2 + scale(wait - wait / 2, draw),
            Jitter::Decorrelated => {
                let highest = nanos(previous).max(base).saturating_mul(3).min(cap);
                let lowest = base.min(cap);
                lowest + scale(highest - lowest, draw)
            }
            Jitter::None => wait,
        };
        Duration::from_nanos(wait)
    }

    /// base · factor^(retry − 1) in nanoseconds, saturating and rounded down.
    fn grown(&self, retry: u32) -> u64 {
        let times = i32::try_from(retry.saturating_sub(1)).unwrap_or(i32::MAX);
        let factor = self.factor.powi(times);
        // A factor of 1 returns the base itself: a float cannot hold the longest waits exactly.
        if factor > 1.0 {
            (nanos(self.base) as f64 * factor) as u64
        } else {
            nanos(self.base)
        }
    }

    pub(super) fn check(&self) -> Result<(), InvalidConfig> {
        if self.base > self.cap {
            let allowed = format!("at most the cap of {:?}", self.cap);
            return Err(InvalidConfig::new("backoff.base", self.base, allowed));
        }
        if !(self.factor >= 1.0 && self.factor.is_finite()) {
            return Err(InvalidConfig::new(
                "backoff.factor",
                self.factor,
                "at least 1, and finite",
            ));
        }
        Ok(())
    }
}

impl fmt::Display for Backoff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (base, cap) = (Shown(self.base), Shown(self.cap));
        if self.jitter == Jitter::Decorrelated {
            write!(f, "waits of {base} to {cap}")?;
        } else if self.factor > 1.0 && self.base < self.cap {
            write!(f, "waits of {base} to {cap}, × {}", self.factor)?;
        } else {
            write!(f, "waits of {base}")?;
        }
        f.write_str(match self.jitter {
            Jitter::Full => " with full jitter",
            Jitter::Equal => " with equal jitter",
            Jitter::Decorrelated => " with decorrelated jitter",
            Jitter::None => " without jitter",
        })
    }
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);
    const DAY: Duration = Duration::from_secs(86_400);
    const LARGEST_DRAW: f64 = 1.0 - f64::EPSILON / 2.0;

    fn plain(base: Duration, cap: Duration) -> Backoff {
        Backoff::exponential(base, cap).jitter(Jitter::None)
    }

    fn waits(backoff: Backoff, retries: u32) -> Vec<Duration> {
        (1..=retries)
            .map(|retry| backoff.wait(retry, Duration::ZERO, 0.5))
            .collect()
    }

    #[test]
    fn waits_double() {
        let seconds = [1, 2, 4, 8, 16].map(Duration::from_secs);
        assert_eq!(waits(plain(SECOND, DAY), 5), seconds);
    }

    #[test]
    fn waits_grow_up_to_the_cap() {
        let seconds = [2, 4, 8, 16, 30].map(Duration::from_secs);
        assert_eq!(waits(plain(2 * SECOND, 30 * SECOND), 5), seconds);
        let millis = [1, 2, 4, 8, 10, 10].map(Duration::from_millis);
        let cap = Duration::from_millis(10);
        assert_eq!(waits(plain(Duration::from_millis(1), cap), 6), millis);
    }

    #[test]
    fn a_wait_that_is_too_long_saturates() {
        let longest = Duration::from_nanos(u64::MAX);
        assert_eq!(plain(DAY, Duration::MAX).wait(1_000, DAY, 0.0), longest);
        assert_eq!(plain(DAY, 2 * DAY).wait(1_000, DAY, 0.0), 2 * DAY);
        for jitter in [
            Jitter::Full,
            Jitter::Equal,
            Jitter::Decorrelated,
            Jitter::None,
        ] {
            let backoff = plain(Duration::MAX, Duration::MAX).jitter(jitter);
            assert!(backoff.wait(u32::MAX, Duration::MAX, LARGEST_DRAW) >= longest / 2);
        }
        assert_eq!(
            plain(Duration::ZERO, DAY).wait(u32::MAX, DAY, 0.5),
            Duration::ZERO
        );
        assert_eq!(
            Backoff::constant(Duration::from_nanos(u64::MAX)).wait(9, DAY, 0.0),
            longest
        );
    }

    #[test]
    fn no_wait_is_longer_than_the_cap_however_many_retries_there_are() {
        let cap = 30 * SECOND;
        for jitter in [
            Jitter::Full,
            Jitter::Equal,
            Jitter::Decorrelated,
            Jitter::None,
        ] {
            let backoff = plain(2 * SECOND, cap).jitter(jitter);
            let mut previous = Duration::ZERO;
            for retry in 1..=2_049 {
                previous = backoff.wait(retry, previous, LARGEST_DRAW);
                assert!(previous <= cap, "{jitter:?} {retry}");
            }
            let wait = backoff.wait(100_000, cap, 0.5);
            match jitter {
                Jitter::Full => assert_eq!(wait, cap / 2),
                Jitter::Equal => assert_eq!(wait, cap / 4 * 3),
                Jitter::Decorrelated => assert_eq!(wait, 16 * SECOND),
                Jitter::None => assert_eq!(wait, cap),
            }
        }
    }

    #[test]
    fn jitter_spreads_over_its_whole_range_at_the_cap() {
        let cap = 30 * SECOND;
        let draws = (0..1_000).map(|i| f64::from(i) / 999.001);
        for (jitter, lowest) in [
            (Jitter::Full, Duration::ZERO),
            (Jitter::Equal, cap / 2),
            (Jitter::Decorrelated, SECOND),
        ] {
            let backoff = plain(SECOND, cap).jitter(jitter);
            let waits: Vec<_> = draws
                .clone()
                .map(|draw| backoff.wait(50, cap, draw))
                .collect();
            assert_eq!(waits.iter().min(), Some(&lowest));
            let highest = *waits.iter().max().unwrap();
            assert!(
                highest <= cap && highest > cap.mul_f64(0.999),
                "{jitter:?} {highest:?}"
            );
            let mean = waits.iter().sum::<Duration>() / 1_000;
            assert!(
                mean.abs_diff((lowest + cap) / 2) < cap / 100,
                "{jitter:?} {mean:?}"
            );
        }
    }

    #[test]
    fn jitter_is_not_truncated_to_whole_seconds() {
        let backoff = plain(SECOND, DAY).jitter(Jitter::Equal);
        let mut waits: Vec<_> = (0..100)
            .map(|i| backoff.wait(1, Duration::ZERO, f64::from(i) / 100.0))
            .collect();
        waits.dedup();
        assert!(waits.len() >= 90);
    }

    #[test]
    fn both_ends_of_the_draw_are_reached() {
        let backoff = plain(SECOND, DAY).jitter(Jitter::Full);
        assert_eq!(backoff.wait(1, Duration::ZERO, 0.0), Duration::ZERO);
        assert_eq!(backoff.wait(1, Duration::ZERO, LARGEST_DRAW), SECOND);
        assert_eq!(backoff.wait(1, Duration::ZERO, f64::NAN), Duration::ZERO);
        assert_eq!(backoff.wait(1, Duration::ZERO, f64::INFINITY), SECOND);
        assert_eq!(backoff.wait(1, Duration::ZERO, -1.0), Duration::ZERO);
    }

    #[test]
    fn an_invalid_setting_is_named() {
        let field = |backoff: Backoff| backoff.check().unwrap_err().field().to_owned();
        assert_eq!(
            field(Backoff::exponential(2 * SECOND, SECOND)),
            "backoff.base"
        );
        for factor in [f64::NAN, f64::INFINITY, -1.0, 0.0, 0.99] {
            assert_eq!(
                field(Backoff::exponential(SECOND, DAY).factor(factor)),
                "backoff.factor"
            );
        }
        assert!(
            Backoff::exponential(Duration::ZERO, Duration::MAX)
                .factor(1.0)
                .check()
                .is_ok()
        );
    }

    fn durations() -> impl Strategy<Value = Duration> {
        prop_oneof![
            Just(Duration::ZERO),
            (0..1_000_u64).prop_map(Duration::from_nanos),
            any::<u64>().prop_map(Duration::from_nanos),
            (u64::MAX - 1_000..).prop_map(Duration::from_nanos),
            any::<u64>().prop_map(Duration::from_secs),
            Just(Duration::MAX),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(4_000) })]

        #[test]
        fn a_wait_is_within_its_range(
            a in durations(),
            b in durations(),
            previous in durations(),
            factor in prop_oneof![Just(1.0), Just(2.0), 1.0..10.0_f64, Just(f64::MAX)],
            retry in prop_oneof![0..5_u32, any::<u32>()],
            draw in prop_oneof![Just(0.0), Just(LARGEST_DRAW), 0.0..1.0_f64],
        ) {
            let longest = Duration::from_nanos(u64::MAX);
            let (base, cap) = (a.min(b), a.max(b));
            let wait = |jitter| Backoff::exponential(base, cap)
                .factor(factor)
                .jitter(jitter)
                .wait(retry, previous, draw);
            let (base, cap) = (base.min(longest), cap.min(longest));
            let plain = wait(Jitter::None);
            prop_assert!(base <= plain && plain <= cap);
            prop_assert!(wait(Jitter::Full) <= plain);
            let equal = wait(Jitter::Equal);
            prop_assert!(plain / 2 <= equal && equal <= plain);
            let decorrelated = wait(Jitter::Decorrelated);
            let highest = previous.max(base).saturating_mul(3).min(cap);
            prop_assert!(base <= decorrelated && decorrelated <= highest);
        }
    }
}
