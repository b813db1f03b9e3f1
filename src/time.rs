//! The timeline: tokio's clock as `u64` nanoseconds since an origin of one's own, saturating.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};

/// Where a core's time begins. 2^64 ns are 584 years.
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

    /// An instant before the origin reads as the origin.
    #[inline]
    pub(crate) fn at(&self, instant: Instant) -> u64 {
        // Of the standard library's instants: a call less in each reading of the clock.
        let since = instant
            .into_std()
            .checked_duration_since(self.origin.into_std());
        since.map_or(0, nanos)
    }

    /// Every point of the timeline fits the clock.
    pub(crate) fn instant(&self, at: u64) -> Instant {
        self.origin + Duration::from_nanos(at)
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

/// Ready when the timer is due.
pub(crate) fn poll_timer(timer: Pin<&mut Sleep>, cx: &mut Context<'_>) -> Poll<()> {
    // By the clock first: a task that has used up its budget could not poll the timer.
    if timer.deadline() <= Instant::now() {
        return Poll::Ready(());
    }
    timer.poll(cx)
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
