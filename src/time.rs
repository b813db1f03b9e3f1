//! The timeline: tokio's clock as `u64` nanoseconds since an origin of one's own, saturating.

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

    pub(crate) fn now(&self) -> u64 {
        self.at(Instant::now())
    }

    /// An instant before the origin reads as the origin.
    pub(crate) fn at(&self, instant: Instant) -> u64 {
        nanos(instant.saturating_duration_since(self.origin))
    }

    /// A timer for `at`. Every point of the timeline fits the clock.
    pub(crate) fn sleep_until(&self, at: u64) -> Sleep {
        sleep_until(self.origin + Duration::from_nanos(at))
    }
}

/// A timer that ends `after` from now, or `None` where the clock cannot count that far.
pub(crate) fn sleep(after: Duration) -> Option<Sleep> {
    Instant::now().checked_add(after).map(sleep_until)
}

/// Saturates at 2^64 − 1 ns, which stands for "never".
pub(crate) const fn nanos(duration: Duration) -> u64 {
    let nanos = duration.as_nanos();
    if nanos > u64::MAX as u128 {
        u64::MAX
    } else {
        nanos as u64
    }
}

/// For events: whole milliseconds, saturating.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
