//! The window that rates are computed from, within one epoch.

use super::count_window::CountWindow;
use super::time_window::TimeWindow;
use crate::sync::{Ordering::SeqCst, fence};

/// What a window records of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) bad: bool,
    pub(super) slow: bool,
}

/// The calls in a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) calls: u64,
    pub(super) bad: u64,
    pub(super) slow: u64,
}

/// The calls that rates are computed from.
///
/// A window knows no epochs. Instead, no word of it ever returns to an earlier value: each
/// position is a number that only grows. [`start_over`](Self::start_over) takes one number for
/// itself, so a record that began earlier fails to exchange the position that it loaded. It loads
/// again, finds that its epoch is over, and is dropped. So an old count never comes back, whatever
/// the clock says and however many epochs pass.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one per circuit, and it is on the heap"
)]
pub(super) enum Window {
    Time(TimeWindow),
    Count(CountWindow),
}

impl Window {
    /// Counts a call that ended at `now`, unless `current` says that the call's epoch is over.
    #[inline]
    pub(super) fn record(&self, now: u64, call: Call, current: impl Fn() -> bool) {
        match self {
            Self::Time(window) => window.record(now, call, current),
            Self::Count(window) => window.record(call, current),
        }
    }

    /// The calls in the window that ends at `now`. A reading that overlaps
    /// [`start_over`](Self::start_over) can return any counts.
    pub(super) fn read(&self, now: u64) -> Counts {
        // Orders a record before the reading that follows it. Of two threads that each record and
        // then read, at least one sees the other's record. So if a failed and a slow call reach a
        // limit together, one of the two threads opens the circuit.
        fence(SeqCst);
        match self {
            Self::Time(window) => window.read(now),
            Self::Count(window) => window.read(),
        }
    }

    /// Forgets all calls. Called by one thread at a time, after the epoch of the calls has ended
    /// and before the next one begins.
    pub(super) fn start_over(&self) {
        match self {
            Self::Time(window) => window.start_over(),
            Self::Count(window) => window.start_over(),
        }
    }
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use super::*;

    const BAD: Call = Call {
        bad: true,
        slow: false,
    };
    const SLOW: Call = Call {
        bad: false,
        slow: true,
    };

    fn windows() -> [Window; 2] {
        [
            Window::Time(TimeWindow::new(10_000_000_000, true)),
            Window::Count(CountWindow::new(8, true)),
        ]
    }

    #[test]
    fn a_window_that_starts_over_counts_from_nothing() {
        for window in windows() {
            for call in [BAD, BAD, SLOW] {
                window.record(0, call, || true);
            }
            window.start_over();
            assert_eq!(window.read(0), Counts::default());
            window.record(0, BAD, || true);
            let (calls, bad, slow) = (1, 1, 0);
            assert_eq!(window.read(0), Counts { calls, bad, slow });
        }
    }

    #[test]
    fn a_stale_record_changes_nothing() {
        for window in windows() {
            window.record(0, BAD, || true);
            let before = window.read(0);
            for now in [0, 1, 20_000_000_000] {
                window.record(now, BAD, || false);
            }
            assert_eq!(window.read(0), before);
        }
    }
}
