//! Quotas, and the rates that the core computes from them.

use crate::sync::{AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release, fence};
use crate::time::Shown;
use std::fmt;
use std::time::Duration;

/// A number of calls per time, and a burst.
///
/// Every value is valid. `n` = 0 admits no call; `per` = 0 admits every call, unless `n` = 0. The
/// interval between two calls is at most 2^62 ns (146 years): a longer one is shortened to that.
///
/// ```
/// use buttress::{Quota, rate_limit::RateLimiter};
/// use std::time::Duration;
///
/// let steady = Quota::per_second(200);
/// let bursty = Quota::per_second(200).burst(50);
/// let strict = Quota::at_most(100, Duration::from_secs(60)); // in every minute
///
/// let at_once = |quota| RateLimiter::new(quota).snapshot().available;
/// assert_eq!([steady, bursty, strict].map(at_once), [20, 50, 1]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Quota {
    n: u32,
    per: Duration,
    burst: Option<u32>,
    strict: bool,
}

impl Quota {
    /// `n` calls per `per` on average, with a [`burst`](Self::burst).
    ///
    /// Any window of length `W` holds at most `burst + n · W / per` calls. So a window of `per` can hold
    /// `n` calls plus the burst; [`at_most`](Self::at_most) is stricter.
    #[must_use]
    pub const fn new(n: u32, per: Duration) -> Self {
        Self {
            n,
            per,
            burst: None,
            strict: false,
        }
    }

    /// `n` calls per second on average. See [`new`](Self::new).
    #[must_use]
    pub const fn per_second(n: u32) -> Self {
        Self::new(n, Duration::from_secs(1))
    }

    /// `n` calls per minute on average. See [`new`](Self::new).
    #[must_use]
    pub const fn per_minute(n: u32) -> Self {
        Self::new(n, Duration::from_secs(60))
    }

    /// Never more than `n` calls in *any* window of `per`, wherever the window begins.
    ///
    /// By default calls go one at a time. A [`burst`](Self::burst) is taken out of the `n`: the larger
    /// it is, the longer the interval between the other calls. Above 30 calls per second, a burst of 2
    /// lets more waiting calls through than a burst of 1: timers ring at whole milliseconds, and calls
    /// that go one at a time lose the rest of each millisecond.
    #[must_use]
    pub const fn at_most(n: u32, per: Duration) -> Self {
        Self {
            n,
            per,
            burst: None,
            strict: true,
        }
    }

    /// The calls that may go at once after a rest.
    ///
    /// Default: the calls of 1 s up to 10, or the calls of 100 ms if those are more, and at least 1:
    ///
    /// | calls per second | 1 | 5 | 10 | 50 | 100 | 200 | 1000 |
    /// |---|---|---|---|---|---|---|---|
    /// | burst | 1 | 5 | 10 | 10 | 10 | 20 | 100 |
    ///
    /// For [`at_most`](Self::at_most) the default is 1, and a burst above `n` counts as `n`. 0 counts
    /// as 1. A burst that takes more than 2^62 ns (146 years) to refill is lowered until it does not.
    ///
    /// Calls come irregularly, so a small burst rejects some of them even if their rate is below the
    /// quota. Assume that they come at random (a Poisson process) at 80 % of the quota. Then fewer than
    /// one in a thousand is rejected if the burst plus the calls of `max_wait` are at least 13.
    ///
    /// By default this holds from 7 calls per second on; a smaller quota needs a longer wait or a
    /// larger burst. With a `max_wait` of zero, 0.4 % are rejected with a burst of 10, 6 % with 4, and
    /// 44 % with 1.
    #[must_use]
    pub const fn burst(self, burst: u32) -> Self {
        Self {
            burst: Some(burst),
            ..self
        }
    }

    /// Whether it is one of [`at_most`](Self::at_most).
    pub(crate) fn is_strict(self) -> bool {
        self.strict
    }

    /// The rate that the core uses.
    pub(super) fn rate(self) -> Rate {
        if self.n == 0 {
            return Rate {
                interval: 0,
                burst: 0,
            };
        }
        if self.per.is_zero() {
            return Rate {
                interval: 0,
                burst: u32::MAX,
            };
        }
        let per = self.per.as_nanos();
        let n = u128::from(self.n);
        // The interval is rounded up, so that the quota is never exceeded.
        let (interval, burst) = if self.strict {
            let burst = self.burst.unwrap_or(1).clamp(1, self.n);
            // A window gets at most `burst` calls in its first instant and one per interval after
            // that. The interval is longer than `per / (n − burst + 1)`, so these are at most n.
            (per / (n - u128::from(burst) + 1) + 1, burst)
        } else {
            let calls_in = |time: Duration| n * time.as_nanos() / per;
            let default =
                calls_in(Duration::from_millis(100)).max(calls_in(Duration::from_secs(1)).min(10));
            let default = u32::try_from(default).unwrap_or(u32::MAX);
            (per.div_ceil(n), self.burst.unwrap_or(default).max(1))
        };
        let interval = u64::try_from(interval)
            .unwrap_or(u64::MAX)
            .min(Rate::LONGEST);
        let burst = u64::from(burst).min(Rate::LONGEST / interval) as u32;
        Rate { interval, burst }
    }
}

/// Prints the quota with the burst in force.
impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Rate { burst, .. } = self.rate();
        if self.n > 0 && self.per.is_zero() {
            return f.write_str("unlimited");
        }
        let at_most = if self.strict { "at most " } else { "" };
        let per = Shown(self.per);
        write!(f, "{at_most}{} per {per}, {burst} at once", self.n)
    }
}

/// One call per `interval` nanoseconds, and `burst` at once. `interval · burst` is at most
/// [`Rate::LONGEST`].
///
/// A burst of 0 admits no call. An interval of 0 with a burst above 0 admits every call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate {
    pub(super) interval: u64,
    pub(super) burst: u32,
}

impl Rate {
    /// A quarter of the timeline, so that the sum of a time and a few of these fits a `u64`.
    pub(super) const LONGEST: u64 = 1 << 62;

    /// The time that this many calls take. `calls` is at most the burst.
    pub(super) fn span(self, calls: u32) -> u64 {
        self.interval * u64::from(calls)
    }
}

/// A rate that one thread changes while others read it, without a lock. The rate in force is in one
/// slot; the next rate is written to the other slot.
#[derive(Debug)]
pub(super) struct SharedRate {
    /// The number of changes. Its last bit selects the slot in force.
    version: AtomicU64,
    slots: [Slot; 2],
}

#[derive(Debug)]
struct Slot {
    interval: AtomicU64,
    burst: AtomicU64,
}

impl SharedRate {
    pub(super) fn new(rate: Rate) -> Self {
        let slot = || Slot {
            interval: AtomicU64::new(rate.interval),
            burst: AtomicU64::new(rate.burst.into()),
        };
        Self {
            version: AtomicU64::new(0),
            slots: [slot(), slot()],
        }
    }

    pub(super) fn load(&self) -> Rate {
        loop {
            // Acquire: the slot was written before its version was published.
            let version = self.version.load(Acquire);
            let slot = &self.slots[version as usize & 1];
            let interval = slot.interval.load(Relaxed);
            let burst = slot.burst.load(Relaxed) as u32;
            // Pairs with the fence in `store`: if the slot was read while a later change overwrote it, the
            // load below returns a newer version.
            fence(Acquire);
            if self.version.load(Relaxed) == version {
                return Rate { interval, burst };
            }
        }
    }

    /// The caller makes sure that only one thread writes at a time.
    pub(super) fn store(&self, rate: Rate) {
        let version = self.version.load(Relaxed).wrapping_add(1);
        // A thread that reads a value stored below also sees that this slot was not in force.
        fence(Release);
        let slot = &self.slots[version as usize & 1];
        slot.interval.store(rate.interval, Relaxed);
        slot.burst.store(rate.burst.into(), Relaxed);
        self.version.store(version, Release);
    }
}

#[cfg(all(test, buttress_loom))]
mod models {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    #[test]
    fn a_reader_never_mixes_the_interval_and_burst_of_two_quotas() {
        loom::model(|| {
            let rate = |n: u32| Rate {
                interval: n.into(),
                burst: n,
            };
            let shared = Arc::new(SharedRate::new(rate(1)));
            let writer = shared.clone();
            let writer = thread::spawn(move || {
                writer.store(rate(2));
                writer.store(rate(3));
            });
            let seen = shared.load();
            assert_eq!(seen, rate(seen.burst));
            writer.join().unwrap();
            assert_eq!(shared.load(), rate(3));
        });
    }
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_rounded_up_so_that_the_quota_is_never_exceeded() {
        let cases = [
            (Quota::per_second(7), 142_857_143, 7),
            (Quota::per_second(3_000_000), 334, 300_000),
            (
                Quota::new(1, Duration::from_secs(86_400)),
                86_400_000_000_000,
                1,
            ),
            (Quota::per_second(200).burst(50), 5_000_000, 50),
            (Quota::per_second(200).burst(0), 5_000_000, 1),
            (Quota::at_most(1, Duration::from_secs(1)), 1_000_000_001, 1),
            (Quota::at_most(10, Duration::from_secs(1)), 100_000_001, 1),
            (
                Quota::at_most(10, Duration::from_secs(1)).burst(99),
                1_000_000_001,
                10,
            ),
            (Quota::per_second(0), 0, 0),
            (Quota::at_most(0, Duration::MAX), 0, 0),
            (Quota::new(1, Duration::ZERO), 0, u32::MAX),
            (Quota::new(u32::MAX, Duration::from_nanos(1)), 1, u32::MAX),
        ];
        for (quota, interval, burst) in cases {
            assert_eq!(quota.rate(), Rate { interval, burst }, "{quota:?}");
        }
    }

    #[test]
    fn a_burst_is_the_calls_of_a_second_up_to_ten_or_of_a_tenth_of_one() {
        let bursts = [1, 5, 10, 50, 100, 200, 1000].map(|n| Quota::per_second(n).rate().burst);
        assert_eq!(bursts, [1, 5, 10, 10, 10, 20, 100]);
        let per_minute = [1, 60, 300, 6_000].map(|n| Quota::per_minute(n).rate().burst);
        assert_eq!(per_minute, [1, 1, 5, 10]);
    }

    #[test]
    fn a_burst_that_does_not_fit_the_timeline_is_lowered_and_the_rate_is_kept() {
        let forever = Quota::new(1, Duration::MAX).burst(u32::MAX).rate();
        assert_eq!(
            forever,
            Rate {
                interval: Rate::LONGEST,
                burst: 1
            }
        );
        let day = Quota::new(1, Duration::from_secs(86_400))
            .burst(u32::MAX)
            .rate();
        assert_eq!(day.interval, 86_400_000_000_000);
        assert!(day.span(day.burst) <= Rate::LONGEST);
    }
}
