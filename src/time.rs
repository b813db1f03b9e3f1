//! The timeline: tokio's clock as `u64` nanoseconds since an origin of one's own, saturating.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};

/// Where a core's time begins. 2^64 ns are 584 years.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeline {
    origin: Instant,
    /// The origin's, where instants have been seen to be made of such words.
    words: Option<Words>,
}

impl Timeline {
    pub(crate) fn start() -> Self {
        let origin = Instant::now();
        Self::at_origin(origin, Words::of(origin))
    }

    fn at_origin(origin: Instant, words: Words) -> Self {
        let words = words.measure_from(origin).then_some(words);
        Self { origin, words }
    }

    #[inline]
    pub(crate) fn now(&self) -> u64 {
        self.at(Instant::now())
    }

    /// An instant before the origin reads as the origin.
    #[inline]
    pub(crate) fn at(&self, instant: Instant) -> u64 {
        self.words
            .and_then(|origin| Words::of(instant).since(origin))
            .unwrap_or_else(|| self.subtract(instant))
    }

    #[cold]
    fn subtract(&self, instant: Instant) -> u64 {
        nanos(instant.saturating_duration_since(self.origin))
    }

    /// Every point of the timeline fits the clock.
    pub(crate) fn instant(&self, at: u64) -> Instant {
        self.origin + Duration::from_nanos(at)
    }
}

/// What an instant is made of on all platforms of today: seconds, and nanoseconds below one second.
///
/// The standard library takes two calls to subtract instants, as long as most decisions made with
/// the outcome; these are subtracted in place. They are what an instant feeds its hash. Nothing
/// promises that, so each timeline compares some differences when it starts, and subtracts the
/// instants themselves if one is not the same.
#[derive(Clone, Copy, Debug, Default)]
struct Words {
    seconds: u64,
    nanos: u32,
}

impl Words {
    #[inline]
    fn of(instant: Instant) -> Self {
        let mut words = Self::default();
        instant.into_std().hash(&mut words);
        words
    }

    /// Nanoseconds; `None` if they are negative or might not fit.
    #[inline]
    fn since(self, origin: Self) -> Option<u64> {
        const SECOND: u64 = 1_000_000_000;
        let seconds = self.seconds.wrapping_sub(origin.seconds);
        if seconds >= u64::MAX / SECOND {
            return None;
        }
        (seconds * SECOND + u64::from(self.nanos)).checked_sub(origin.nanos.into())
    }

    /// Whether differences of words are those of instants.
    fn measure_from(self, origin: Instant) -> bool {
        [0, 1, 999_999_999, 1_000_000_000, 1_500_000_000, 1 << 62]
            .into_iter()
            .all(|nanos| {
                let instant = origin.checked_add(Duration::from_nanos(nanos));
                instant.is_some_and(|instant| Self::of(instant).since(self) == Some(nanos))
            })
    }
}

impl Hasher for Words {
    #[inline]
    fn write_i64(&mut self, seconds: i64) {
        self.seconds = seconds as u64;
    }

    #[inline]
    fn write_u64(&mut self, seconds: u64) {
        self.seconds = seconds;
    }

    #[inline]
    fn write_u32(&mut self, nanos: u32) {
        self.nanos = nanos;
    }

    fn write(&mut self, _: &[u8]) {}

    fn finish(&self) -> u64 {
        0
    }
}

/// How late a timer may be.
pub(crate) const TICK: Duration = Duration::from_millis(1);

/// Longer than anybody waits, and short enough for any clock: 30 years.
pub(crate) const AGES: Duration = Duration::from_secs(30 * 365 * 86_400);

/// `None` for what lies ages away: that never comes.
#[inline]
pub(crate) fn later(now: Instant, wait: Duration) -> Option<Instant> {
    if wait < AGES {
        now.checked_add(wait)
    } else {
        None
    }
}

/// Ready at `end`: by a timer made at the first poll, or by the clock where that finds it past.
pub(crate) fn poll_until(
    mut timer: Pin<&mut Option<Sleep>>,
    end: Instant,
    cx: &mut Context<'_>,
) -> Poll<()> {
    // By the clock first: a task that has used up its budget could not poll the timer, not even
    // start it.
    if end <= Instant::now() {
        return Poll::Ready(());
    }
    if timer.is_none() {
        timer.set(Some(sleep_until(end)));
    }
    timer
        .as_pin_mut()
        .map_or(Poll::Pending, |timer| timer.poll(cx))
}

/// Saturates at 2^64 − 1 ns, which stands for "never".
#[inline]
pub(crate) const fn nanos(duration: Duration) -> u64 {
    // Not by `as_nanos`, whose 128 bits are felt on the way of a call.
    match duration.as_secs().checked_mul(1_000_000_000) {
        Some(nanos) => nanos.saturating_add(duration.subsec_nanos() as u64),
        None => u64::MAX,
    }
}

/// For people: a duration, or ∞ for what takes ages.
pub(crate) struct Shown(pub(crate) Duration);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < AGES {
            write!(f, "{:?}", self.0)
        } else {
            f.write_str("∞")
        }
    }
}

/// For events: whole milliseconds, saturating.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn instants_are_read_by_their_words_here() {
        assert!(Timeline::start().words.is_some());
    }

    #[test]
    fn words_that_do_not_measure_what_instants_do_are_not_used() {
        let origin = Instant::now();
        let words = Words::of(origin);
        let off = |seconds: u64, nanos: u32| Words {
            seconds: words.seconds.wrapping_sub(seconds),
            nanos: words.nanos.wrapping_sub(nanos),
        };
        let used = |words: Words| Timeline::at_origin(origin, words).words.is_some();
        assert!(used(off(0, 0)));
        for (seconds, nanos) in [(1, 0), (u64::MAX, 0), (0, 1), (1 << 63, 0)] {
            assert!(!used(off(seconds, nanos)));
        }
    }

    fn nanoseconds() -> impl Strategy<Value = u64> {
        let seconds = prop_oneof![0..3_u64, 0..u64::MAX / 1_000_000_000 + 1, Just(u64::MAX)];
        let below = prop_oneof![
            0..3_u64,
            0..1_000_000_000_u64,
            999_999_998..1_000_000_000_u64
        ];
        (seconds, below).prop_map(|(s, n)| s.saturating_mul(1_000_000_000).saturating_add(n))
    }

    proptest! {
        /// With words and without.
        #[test]
        fn a_point_of_time_is_its_distance_from_the_origin(
            lead in 0..2_000_000_000_u64,
            nanos in nanoseconds(),
            in_words: bool,
        ) {
            let mut timeline = Timeline::start();
            // The origin's nanoseconds below a second are any.
            timeline.origin += Duration::from_nanos(lead);
            timeline.words = in_words.then(|| Words::of(timeline.origin));
            let away = Duration::from_nanos(nanos);
            prop_assert_eq!(timeline.at(timeline.origin + away), nanos);
            let before = timeline.origin.checked_sub(away);
            prop_assert_eq!(before.map_or(0, |before| timeline.at(before)), 0);
            let beyond = timeline.origin + Duration::from_nanos(u64::MAX) + away;
            prop_assert_eq!(timeline.at(beyond), u64::MAX);
        }
    }
}
