//! Failures in a row.

use crate::sync::{AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

/// `[rows that have ended:32][failures of this one:32]`.
///
/// The upper half keeps the word from going back to a value that it had, see
/// [`Window`](super::window::Window). It wraps after 2^32 rows, which a call would have to spend
/// between two steps of its record.
#[derive(Debug)]
pub(super) struct Row {
    word: AtomicU64,
}

impl Row {
    pub(super) fn new() -> Self {
        Self {
            word: AtomicU64::new(0),
        }
    }

    /// Counts a call while `current` says that its epoch lasts. The failures in a row with it; 0 for
    /// a call that is not counted.
    #[inline]
    pub(super) fn record(&self, bad: bool, current: impl Fn() -> bool) -> u32 {
        loop {
            // Acquire, and before the check: with a row from after a start over, it sees that the
            // epoch before is over.
            let seen = self.word.load(Acquire);
            // In good times nothing is written.
            if !bad && failures(seen) == 0 || !current() {
                return 0;
            }
            let next = if bad {
                seen + u64::from(failures(seen) < u32::MAX)
            } else {
                ended(seen)
            };
            // Relaxed: the row is all that is told.
            if self
                .word
                .compare_exchange_weak(seen, next, Relaxed, Relaxed)
                .is_ok()
            {
                // With this call, not by now: a success may have come since.
                return failures(next);
            }
        }
    }

    pub(super) fn read(&self) -> u32 {
        // Relaxed: one word.
        failures(self.word.load(Relaxed))
    }

    /// As [`Window::start_over`](super::window::Window::start_over).
    pub(super) fn start_over(&self) {
        // Release: whoever sees the new row sees that the epoch before is over.
        let _always = self
            .word
            .fetch_update(Release, Relaxed, |word| Some(ended(word)));
    }
}

fn failures(word: u64) -> u32 {
    word as u32
}

/// The word of the next row, empty.
fn ended(word: u64) -> u64 {
    ((word >> 32) + 1) << 32
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_success_ends_a_row() {
        let row = Row::new();
        let seen = [true, true, false, true].map(|bad| row.record(bad, || true));
        assert_eq!(seen, [1, 2, 0, 1]);
    }

    #[test]
    fn a_stale_call_neither_lengthens_nor_ends_a_row() {
        let row = Row::new();
        row.record(true, || true);
        assert_eq!(row.record(true, || false), 0);
        assert_eq!(row.record(false, || false), 0);
        assert_eq!(row.read(), 1);
    }

    #[test]
    fn a_row_as_long_as_its_field_stays_there() {
        let row = Row::new();
        row.word.store(7 << 32 | u64::from(u32::MAX - 1), Relaxed);
        let seen = [true, true, true, false, true].map(|bad| row.record(bad, || true));
        assert_eq!(seen, [u32::MAX, u32::MAX, u32::MAX, 0, 1]);
    }

    #[test]
    fn no_number_of_rows_brings_a_failure_back() {
        for before in (0..=32).map(|bit| (1_u64 << bit) - 1) {
            let row = Row::new();
            row.word.store(before << 32, Relaxed);
            for end in [Row::start_over, |row: &Row| {
                row.record(false, || true);
            }] {
                row.record(true, || true);
                assert_eq!(row.record(true, || true), 2, "{before}");
                end(&row);
                assert_eq!(row.read(), 0, "{before}");
            }
        }
    }
}

#[cfg(all(test, buttress_loom))]
mod models {
    use super::super::models::race;
    use super::*;

    #[test]
    fn of_two_failures_in_a_row_one_is_the_second() {
        race(
            Row::new,
            |row| row.record(true, || true),
            |row| row.record(true, || true),
            |_, one, two| assert_eq!(one + two, 3),
        );
    }

    #[test]
    fn a_success_between_two_failures_is_in_one_place() {
        race(
            Row::new,
            |row| [row.record(true, || true), row.record(true, || true)],
            |row| row.record(false, || true),
            |row, failures, _| {
                let expected = match failures {
                    [1, 2] => [0, 2],
                    [1, 1] => [1, 1],
                    other => panic!("{other:?}"),
                };
                assert!(expected.contains(&row.read()));
            },
        );
    }
}
