//! Time as the cores see it: tokio's clock as `u64` nanoseconds since an origin, saturating.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};

/// Converts between tokio's clock and nanoseconds since an origin. 2^64 ns are 584 years.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeline {
    origin: Instant,
}

impl Timeline {
    pub(crate) fn start() -> Self {
        Self {
            origin: Instant::now(),
        }
    }

    #[inline]
    pub(crate) fn now(&self) -> u64 {
        self.at(Instant::now())
    }

    /// An instant before the origin counts as the origin.
    #[inline]
    pub(crate) fn at(&self, instant: Instant) -> u64 {
        nanos(instant.saturating_duration_since(self.origin))
    }

    /// The clock can represent every point of the timeline.
    pub(crate) fn instant(&self, at: u64) -> Instant {
        self.origin + Duration::from_nanos(at)
    }
}

/// The resolution of tokio's timers: a timer may ring this much late.
pub(crate) const TICK: Duration = Duration::from_millis(1);

/// 30 years: longer than anybody waits, and short enough for every clock to represent.
pub(crate) const AGES: Duration = Duration::from_secs(30 * 365 * 86_400);

/// The instant `wait` after `now`; `None`, which means never, from [`AGES`] on.
#[inline]
pub(crate) fn later(now: Instant, wait: Duration) -> Option<Instant> {
    if wait < AGES {
        now.checked_add(wait)
    } else {
        None
    }
}

/// Ready at `end`. Makes the timer when it is first needed.
pub(crate) fn poll_until(
    timer: &mut Option<Pin<Box<Sleep>>>,
    end: Instant,
    cx: &mut Context<'_>,
) -> Poll<()> {
    // Compare with the clock first: a task without cooperative budget cannot poll a timer, not even to
    // register it.
    if end <= Instant::now() {
        return Poll::Ready(());
    }
    let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(end)));
    timer.as_mut().poll(cx)
}

/// Saturates at 2^64 − 1 ns, which means never.
#[inline]
pub(crate) const fn nanos(duration: Duration) -> u64 {
    // `as_nanos` computes with 128 bits, which measurably slows down each call.
    match duration.as_secs().checked_mul(1_000_000_000) {
        Some(nanos) => nanos.saturating_add(duration.subsec_nanos() as u64),
        None => u64::MAX,
    }
}

/// Prints a duration in a readable form, and ∞ from [`AGES`] on.
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

/// Whole milliseconds, for events. Saturates.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
        #[test]
        fn a_point_of_time_is_its_distance_from_the_origin(
            lead in 0..2_000_000_000_u64,
            nanos in nanoseconds(),
        ) {
            let mut timeline = Timeline::start();
            // The origin can be at any nanosecond of a second.
            timeline.origin += Duration::from_nanos(lead);
            let away = Duration::from_nanos(nanos);
            prop_assert_eq!(timeline.at(timeline.origin + away), nanos);
            let before = timeline.origin.checked_sub(away);
            prop_assert_eq!(before.map_or(0, |before| timeline.at(before)), 0);
            let beyond = timeline.origin + Duration::from_nanos(u64::MAX) + away;
            prop_assert_eq!(timeline.at(beyond), u64::MAX);
        }
    }
}
