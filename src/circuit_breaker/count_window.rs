//! The window of the last N calls.

use super::window::{Call, Counts};
use crate::sync::{AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

/// The last N calls, as a ring of bits. Exact for calls that do not overlap. An overlapping failure
/// counts as a success from when it takes its number until it sets its bit.
///
/// Every call of every epoch gets a number of its own: at 10^7 calls per second, 2^64 numbers last
/// for 58 000 years. A block `[number:32][bits:32]` holds 32 calls and the low half of its number.
/// The first call of a block replaces the block of the previous round. If the first calls of earlier
/// rounds are late, it finds a block that is older by one round for each of them.
#[derive(Debug)]
pub(super) struct CountWindow {
    n: u64,
    /// The number of the next call.
    next: AtomicU64,
    /// The number of the first call of the epoch.
    first: AtomicU64,
    bad: Box<[AtomicU64]>,
    slow: Option<Box<[AtomicU64]>>,
}

/// The longest count window.
pub(super) const MAX_CALLS: u32 = 4_096;

/// A loom model uses two: that is enough, and keeps the model small.
const BLOCK: u64 = if cfg!(buttress_loom) { 2 } else { 32 };

impl CountWindow {
    pub(super) fn calls(&self) -> u64 {
        self.n
    }

    pub(super) fn new(n: u32, with_slow: bool) -> Self {
        // One more block than N calls fill, since the window seldom begins at the edge of a block.
        let blocks = u64::from(n).div_ceil(BLOCK) + 1;
        // Each starts with the number of the block before the first: −1, modulo 2^32.
        let ring = || {
            (0..blocks)
                .map(|_| AtomicU64::new(u64::MAX << 32))
                .collect()
        };
        Self {
            n: n.into(),
            next: AtomicU64::new(0),
            first: AtomicU64::new(0),
            bad: ring(),
            slow: with_slow.then(ring),
        }
    }

    #[inline]
    pub(super) fn record(&self, call: Call, current: impl Fn() -> bool) {
        let number = loop {
            // Acquire, and before the check: if this load reads a number from after `start_over`, the
            // check sees that the earlier epoch is over.
            let next = self.next.load(Acquire);
            if !current() {
                return;
            }
            // Relaxed: what a call writes under its number is in one word, its block.
            if self
                .next
                .compare_exchange_weak(next, next + 1, Relaxed, Relaxed)
                .is_ok()
            {
                break next;
            }
        };
        // A successful call that is not the first in its block has nothing more to write.
        let first = number % BLOCK == 0;
        if first || call.bad {
            mark(&self.bad, number, call.bad);
        }
        if let Some(slow) = self.slow.as_ref().filter(|_| first || call.slow) {
            mark(slow, number, call.slow);
        }
    }

    pub(super) fn read(&self) -> Counts {
        // Relaxed: `first` was stored before the epoch began in which this thread counts.
        let first = self.first.load(Relaxed);
        let end = self.next.load(Relaxed);
        let calls = end.saturating_sub(first).min(self.n);
        let marked = |ring: &[AtomicU64]| ones_in(ring, end - calls, end);
        Counts {
            calls,
            bad: marked(&self.bad),
            slow: self.slow.as_deref().map_or(0, marked),
        }
    }

    pub(super) fn start_over(&self) {
        // Release: a thread that sees the new number also sees that the earlier epoch is over.
        let taken = self.next.fetch_add(1, Release);
        // Relaxed: the word of the next epoch is stored after this and publishes it.
        self.first.store(taken + 1, Relaxed);
    }
}

/// A block number that is ahead by this or more is in fact behind: the numbers wrap.
const AHEAD: u32 = 1 << 31;

/// Writes a call into its block.
fn mark(ring: &[AtomicU64], number: u64, hit: bool) {
    let block = number / BLOCK;
    let bits = u64::from(hit) << (number % BLOCK);
    let next = |seen: u64| {
        // Block numbers wrap, so they are compared by their distance.
        match (block as u32).wrapping_sub((seen >> 32) as u32) {
            // The bit is clear so far: each number is written once.
            0 => Some(seen | bits),
            // The block in the ring is older: replace it.
            1..AHEAD => Some(block << 32 | bits),
            // This call is older than the window: a newer block has replaced its own.
            _ => None,
        }
    };
    // Relaxed: this word is the only data.
    let _overtaken = word_of(ring, block).fetch_update(Relaxed, Relaxed, next);
}

/// The number of marked calls among those numbered `from..to`.
fn ones_in(ring: &[AtomicU64], from: u64, to: u64) -> u64 {
    let mut ones = 0;
    for block in from / BLOCK..to.div_ceil(BLOCK) {
        // Relaxed: this word is the only data.
        let seen = word_of(ring, block).load(Relaxed);
        if seen >> 32 != block & u64::from(u32::MAX) {
            continue;
        }
        // Leave out calls before `from`, and calls that came after `to` was read.
        let before = from.saturating_sub(block * BLOCK);
        let after = 32 - BLOCK + ((block + 1) * BLOCK).saturating_sub(to);
        let bits = (seen as u32) >> before << before;
        ones += (bits << after).count_ones();
    }
    ones.into()
}

fn word_of(ring: &[AtomicU64], block: u64) -> &AtomicU64 {
    &ring[(block % ring.len() as u64) as usize]
}

#[cfg(test)]
impl CountWindow {
    /// The window as it is after this many calls.
    pub(super) fn aged(self, calls: u64) -> Self {
        self.next.store(calls, Relaxed);
        self.first.store(calls, Relaxed);
        // Each block has the number before the current one.
        let before = (calls / BLOCK).wrapping_sub(1) << 32;
        for word in self.bad.iter().chain(self.slow.iter().flatten()) {
            word.store(before, Relaxed);
        }
        if calls % BLOCK != 0 {
            let block = calls / BLOCK;
            for ring in [Some(&self.bad), self.slow.as_ref()].into_iter().flatten() {
                word_of(ring, block).store(block << 32, Relaxed);
            }
        }
        self
    }
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use super::*;

    const GOOD: Call = Call {
        bad: false,
        slow: false,
    };
    const BAD: Call = Call {
        bad: true,
        slow: false,
    };

    fn record(window: &CountWindow, calls: &[Call]) {
        for &call in calls {
            window.record(call, || true);
        }
    }

    fn counts(calls: impl Into<u64>, bad: impl Into<u64>, slow: impl Into<u64>) -> Counts {
        Counts {
            calls: calls.into(),
            bad: bad.into(),
            slow: slow.into(),
        }
    }

    #[test]
    fn a_count_window_forgets_the_oldest_call_with_each_new_one() {
        for n in [1, 2, 4, 10, 31, 32, 33, 63, 64, 65, 100, 4_096] {
            let window = CountWindow::new(n, true);
            let mut calls = Vec::new();
            for i in 0..2 * n + 70 {
                // Runs of uneven length: they cross every edge in both directions.
                let call = Call {
                    bad: i % 7 < 3,
                    slow: i % 11 < 2,
                };
                record(&window, &[call]);
                calls.push(call);
                let last = &calls[calls.len().saturating_sub(n as usize)..];
                let tally =
                    |of: fn(&Call) -> bool| last.iter().filter(|call| of(call)).count() as u64;
                let expected = counts(
                    last.len() as u64,
                    tally(|call| call.bad),
                    tally(|call| call.slow),
                );
                assert_eq!(window.read(), expected, "{n} {i}");
            }
        }
    }

    #[test]
    fn a_reading_leaves_out_calls_that_came_after_its_end() {
        let window = CountWindow::new(4, false);
        record(&window, &[BAD; 3]);
        // As if two calls had come after the reading loaded `to`.
        assert_eq!(ones_in(&window.bad, 0, 1), 1);
        assert_eq!(ones_in(&window.bad, 1, 3), 2);
    }

    #[test]
    fn a_count_window_survives_the_wrap_of_its_block_numbers() {
        for n in [1, 10, 32, 100, 4_096] {
            for bits in [31, 32, 40] {
                let window = CountWindow::new(n, false).aged((BLOCK << bits) - 40);
                for i in 1..=n + 40 {
                    record(&window, &[BAD]);
                    assert_eq!(window.read(), counts(n.min(i), n.min(i), 0_u8), "{n} {i}");
                }
                for i in 1..=n {
                    record(&window, &[GOOD]);
                    assert_eq!(window.read(), counts(n, n - i, 0_u8), "{n}");
                }
            }
        }
    }

    #[test]
    fn the_first_call_of_a_block_replaces_it_and_a_late_call_does_not() {
        let window = CountWindow::new(1, false);
        let numbers = || [&window.bad[0], &window.bad[1]].map(|word| word.load(Relaxed) >> 32);
        for block in 0..6 {
            record(&window, &[GOOD]);
            // Two blocks in turn: the one that begins, and the one before it.
            let other = if block == 0 {
                u64::from(u32::MAX)
            } else {
                block - 1
            };
            let expected = if block % 2 == 0 {
                [block, other]
            } else {
                [other, block]
            };
            assert_eq!(numbers(), expected);
            for _ in 1..BLOCK {
                record(&window, &[GOOD]);
            }
        }
        let before = numbers();
        mark(&window.bad, 2 * BLOCK, true);
        mark(&window.bad, 3 * BLOCK + 5, true);
        assert_eq!(numbers(), before);
        assert_eq!(window.read(), counts(1_u8, 0_u8, 0_u8));
    }

    #[test]
    fn a_call_that_is_late_to_write_does_not_count_in_the_next_epoch() {
        let window = CountWindow::new(8, false);
        record(&window, &[GOOD; 3]);
        window.start_over();
        record(&window, &[GOOD]);
        // The last call before, and the number that `start_over` took.
        mark(&window.bad, 2, true);
        mark(&window.bad, 3, true);
        assert_eq!(window.read(), counts(1_u8, 0_u8, 0_u8));
    }

    #[test]
    fn no_number_of_start_overs_brings_a_count_back() {
        let window = CountWindow::new(40, true);
        record(&window, &[BAD; 40]);
        for n in 0..(1 << 20) + 10_u32 {
            window.start_over();
            if n % 1_023 == 0 || n.is_power_of_two() {
                assert_eq!(window.read(), Counts::default(), "{n}");
                record(&window, &[BAD, GOOD]);
                assert_eq!(window.read(), counts(2_u8, 1_u8, 0_u8), "{n}");
            }
        }
    }
}

#[cfg(all(test, buttress_loom))]
mod models {
    use super::super::models::race;
    use super::*;

    const BAD: Call = Call {
        bad: true,
        slow: false,
    };

    fn record(window: &CountWindow) {
        window.record(BAD, || true);
    }

    #[test]
    fn failures_that_share_blocks_are_all_counted() {
        race(
            || {
                // The second failure ends a block, the third begins the next.
                let window = CountWindow::new(3, false);
                record(&window);
                window
            },
            record,
            record,
            |window, (), ()| {
                let seen = window.read();
                assert_eq!((seen.calls, seen.bad), (3, 3));
            },
        );
    }

    #[test]
    fn a_writer_that_is_a_round_late_does_not_replace_a_newer_block() {
        race(
            || CountWindow::new(1, false).aged(1),
            |window| mark(&window.bad, 0, true),
            |window| (0..4).for_each(|_| record(window)),
            |window, (), ()| assert_eq!(window.read().bad, 1),
        );
    }
}
