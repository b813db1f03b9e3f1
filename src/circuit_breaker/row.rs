//! Counts failures in a row.

use crate::sync::{AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

/// `[rows that have ended:32][failures of this row:32]`.
///
/// The upper half makes sure that the word never returns to an earlier value, see
/// [`Window`](super::window::Window). It wraps after 2^32 rows, all of which would have to end
/// between two steps of one record.
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

    /// Counts a call, unless `current` says that the call's epoch is over. Returns the failures in a
    /// row including this call, or 0 if the call is not counted.
    #[inline]
    pub(super) fn record(&self, bad: bool, current: impl Fn() -> bool) -> u32 {
        loop {
            // Acquire, and before the check: if this load reads a row that `start_over` began, the
            // check sees that the earlier epoch is over.
            let seen = self.word.load(Acquire);
            // While all calls succeed, nothing is written.
            if !bad && failures(seen) == 0 || !current() {
                return 0;
            }
            let next = if bad {
                seen + u64::from(failures(seen) < u32::MAX)
            } else {
                ended(seen)
            };
            // Relaxed: the word is the only data.
            if self
                .word
                .compare_exchange_weak(seen, next, Relaxed, Relaxed)
                .is_ok()
            {
                // Not the current value: a success may have ended the row since.
                return failures(next);
            }
        }
    }

    pub(super) fn read(&self) -> u32 {
        // Relaxed: the word is the only data.
        failures(self.word.load(Relaxed))
    }

    /// See [`Window::start_over`](super::window::Window::start_over).
    pub(super) fn start_over(&self) {
        // Release: a thread that sees the new row also sees that the earlier epoch is over.
        let _always = self
            .word
            .fetch_update(Release, Relaxed, |word| Some(ended(word)));
    }
}

fn failures(word: u64) -> u32 {
    word as u32
}

/// The word of the next row, which is empty.
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
    fn a_row_saturates_at_the_width_of_its_field() {
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
    fn of_two_racing_failures_exactly_one_is_the_second_in_a_row() {
        race(
            Row::new,
            |row| row.record(true, || true),
            |row| row.record(true, || true),
            |_, one, two| assert_eq!(one + two, 3),
        );
    }

    #[test]
    fn a_success_that_races_two_failures_comes_before_between_or_after_them() {
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
