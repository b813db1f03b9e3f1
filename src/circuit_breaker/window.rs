//! What calls came to lately: over a time, over a number of calls, or in a row.
//!
//! Every word carries the epoch it was written in. A word of another epoch counts as empty, and is
//! taken over by whoever records next while its own epoch is the circuit's: nothing is cleared on a
//! transition, and a stale record changes nothing.

use crate::sync::{AtomicU64, Ordering::AcqRel, Ordering::Acquire, Ordering::SeqCst, fence};

/// What one call came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) bad: bool,
    pub(super) slow: bool,
}

/// The calls in a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) calls: u32,
    pub(super) bad: u32,
    pub(super) slow: u32,
}

#[derive(Debug)]
pub(super) enum Window {
    Time(TimeWindow),
    Count(CountWindow),
}

impl Window {
    /// Counts a call of `epoch`, which `current` confirms to be the circuit's.
    #[inline]
    pub(super) fn record(&self, epoch: u32, now: u64, call: Call, current: impl Fn() -> bool) {
        match self {
            Self::Time(window) => window.record(epoch, now, call, current),
            Self::Count(window) => window.record(epoch, call, current),
        }
    }

    /// The calls of `epoch` in the window that ends `now`.
    pub(super) fn read(&self, epoch: u32, now: u64) -> Counts {
        // Between a record and this reading: of two threads that record and then read, one at
        // least sees the other's record. So of two failures that cross the threshold together,
        // one trips.
        fence(SeqCst);
        match self {
            Self::Time(window) => window.read(epoch, now),
            Self::Count(window) => window.read(epoch),
        }
    }
}

/// Ten buckets that are reused in turn, each one word: `[epoch:12][lap:20][calls:16][bad:16]`.
///
/// A lap is a round over all buckets. Laps wrap after 2^20 windows, epochs after 2^12: after idling
/// for exactly that long, or a lap less, old buckets would be taken for new. Full counters are
/// halved.
#[derive(Debug)]
pub(super) struct TimeWindow {
    /// Nanoseconds per bucket, rounded up.
    bucket: u64,
    /// 2^64 divided by that, rounded down: a product is several times faster than a quotient.
    per_bucket: u64,
    bad: [AtomicU64; BUCKETS],
    /// The slow calls in place of the bad ones, where they are asked for.
    slow: Option<[AtomicU64; BUCKETS]>,
}

/// Two are enough for a model, which looks at every order of every access.
const BUCKETS: usize = if cfg!(buttress_loom) { 2 } else { 10 };
const LAP: u64 = (1 << 20) - 1;
const FULL: u64 = (1 << 16) - 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bucket {
    epoch: u64,
    lap: u64,
    calls: u64,
    hits: u64,
}

impl From<u64> for Bucket {
    fn from(word: u64) -> Self {
        Self {
            epoch: word >> 52,
            lap: word >> 32 & LAP,
            calls: word >> 16 & FULL,
            hits: word & FULL,
        }
    }
}

impl From<Bucket> for u64 {
    fn from(bucket: Bucket) -> Self {
        // No field reaches into another: `|` could as well be `^`, here and below.
        bucket.epoch << 52 | bucket.lap << 32 | bucket.calls << 16 | bucket.hits
    }
}

impl Bucket {
    fn counted(self, hit: bool) -> Self {
        Self {
            calls: self.calls + 1,
            hits: self.hits + u64::from(hit),
            ..self
        }
    }
}

impl TimeWindow {
    /// `length` in nanoseconds, at least 1.
    pub(super) fn new(length: u64, with_slow: bool) -> Self {
        let buckets = || std::array::from_fn(|_| AtomicU64::new(0));
        let bucket = length.div_ceil(BUCKETS as u64);
        Self {
            bucket,
            per_bucket: ((1_u128 << 64) / u128::from(bucket)).min(u64::MAX.into()) as u64,
            bad: buckets(),
            slow: with_slow.then(buckets),
        }
    }

    /// Nanoseconds.
    pub(super) fn length(&self) -> u64 {
        self.bucket.saturating_mul(BUCKETS as u64)
    }

    /// The lap and the bucket of a time.
    #[inline]
    fn place(&self, now: u64) -> (u64, usize) {
        // The quotient, or one less: what the rounding took away is less than 1 in all.
        let slot = ((u128::from(now) * u128::from(self.per_bucket)) >> 64) as u64;
        let slot = slot + u64::from(now - slot * self.bucket >= self.bucket);
        (slot / BUCKETS as u64, (slot % BUCKETS as u64) as usize)
    }

    #[inline]
    fn record(&self, epoch: u32, now: u64, call: Call, current: impl Fn() -> bool) {
        let (lap, place) = self.place(now);
        let fresh = Bucket {
            epoch: u64::from(epoch) & 0xFFF,
            lap: lap & LAP,
            calls: 0,
            hits: 0,
        };
        count(&self.bad[place], fresh, call.bad, &current);
        if let Some(slow) = &self.slow {
            count(&slow[place], fresh, call.slow, &current);
        }
    }

    fn read(&self, epoch: u32, now: u64) -> Counts {
        let (calls, bad) = self.sum(&self.bad, epoch, now);
        let slow = self
            .slow
            .as_ref()
            .map_or(0, |slow| self.sum(slow, epoch, now).1);
        Counts { calls, bad, slow }
    }

    fn sum(&self, buckets: &[AtomicU64; BUCKETS], epoch: u32, now: u64) -> (u32, u32) {
        let (lap, place) = self.place(now);
        let (mut calls, mut hits) = (0, 0);
        for (i, word) in buckets.iter().enumerate() {
            // Relaxed would do after the fence; Acquire costs the same here and asks no questions.
            let bucket = Bucket::from(word.load(Acquire));
            // Written up to a window ago, or by a clock that is ahead of ours by less than that.
            let lap = if i <= place { lap } else { lap.wrapping_sub(1) } & LAP;
            let timely = bucket.lap == lap || bucket.lap == (lap + 1) & LAP;
            if timely && bucket.epoch == u64::from(epoch) & 0xFFF {
                calls += bucket.calls as u32;
                hits += bucket.hits as u32;
            }
        }
        (calls, hits)
    }
}

/// Counts a call in a bucket, which whoever comes first in a lap or epoch empties.
#[inline]
fn count(word: &AtomicU64, fresh: Bucket, hit: bool, current: &impl Fn() -> bool) {
    let tag = u64::from(fresh);
    let one = (1 << 16) | u64::from(hit);
    let next = |word: u64| {
        // The epoch and the lap are the upper half: no more is looked at where both are the same.
        if (word ^ tag) >> 32 == 0 && (word >> 16) & FULL != FULL {
            return Some(word + one);
        }
        rotated(word.into(), fresh, hit, current)
    };
    // AcqRel: the readings that follow elsewhere build on this record. Failing is: not recorded.
    let _recorded = word.fetch_update(AcqRel, Acquire, next);
}

#[cold]
fn rotated(seen: Bucket, fresh: Bucket, hit: bool, current: &impl Fn() -> bool) -> Option<u64> {
    if seen.lap == fresh.lap && seen.epoch == fresh.epoch {
        let half = Bucket {
            calls: seen.calls / 2,
            hits: seen.hits / 2,
            ..seen
        };
        return Some(half.counted(hit).into());
    }
    // A lap ahead: this call came out of the window while it was being recorded. Anything else,
    // however it compares, is old.
    let ahead = seen.lap == (fresh.lap + 1) & LAP && seen.epoch == fresh.epoch;
    (!ahead && current()).then(|| fresh.counted(hit).into())
}

/// The last N calls as a ring of bits. Exact for calls that do not overlap; of calls that do, one
/// that has been claimed but not yet written reads as good.
///
/// The cursor `[epoch:20][calls:44]` numbers the calls. A block `[tag:32][bits:32]` holds 32 of
/// them; its tag is `[epoch:20][block:12]`, written by the call that is first in it. A good call
/// elsewhere in a block writes the cursor alone.
#[derive(Debug)]
pub(super) struct CountWindow {
    n: u64,
    cursor: AtomicU64,
    bad: Box<[AtomicU64]>,
    slow: Option<Box<[AtomicU64]>>,
    /// Call numbers start over here, at half of it: a multiple of the ring and of the tags, so that
    /// the numbers before fit those after.
    wrap: u64,
}

/// The longest count window.
pub(super) const MAX_CALLS: u32 = 4_096;

const BLOCK: u64 = 32;
const BLOCK_TAGS: u64 = 1 << 12;
const CALLS: u64 = (1 << 44) - 1;

impl CountWindow {
    pub(super) fn calls(&self) -> u64 {
        self.n
    }

    pub(super) fn new(n: u32, with_slow: bool) -> Self {
        // One block more than N calls fill, since they seldom begin at a block's edge.
        let blocks = u64::from(n).div_ceil(BLOCK) + 1;
        let ring = || (0..blocks).map(|_| AtomicU64::new(u64::MAX)).collect();
        Self {
            n: n.into(),
            cursor: AtomicU64::new(0),
            bad: ring(),
            slow: with_slow.then(ring),
            wrap: 2 * BLOCK * BLOCK_TAGS * blocks,
        }
    }

    fn record(&self, epoch: u32, call: Call, current: impl Fn() -> bool) {
        let Some(number) = self.claim(epoch, &current) else {
            return;
        };
        self.mark(&self.bad, epoch, number, call.bad);
        if let Some(slow) = &self.slow {
            self.mark(slow, epoch, number, call.slow);
        }
    }

    /// Numbers a call; `None` for one of an epoch that is over.
    fn claim(&self, epoch: u32, current: &impl Fn() -> bool) -> Option<u64> {
        let next = |cursor: u64| {
            if cursor >> 44 == u64::from(epoch) {
                let calls = (cursor & CALLS) + 1;
                let calls = if calls == self.wrap { calls / 2 } else { calls };
                return Some(u64::from(epoch) << 44 | calls);
            }
            current().then_some(u64::from(epoch) << 44 | 1)
        };
        // AcqRel: the blocks written under this number come after it.
        let before = self.cursor.fetch_update(AcqRel, Acquire, next).ok()?;
        Some(if before >> 44 == u64::from(epoch) {
            before & CALLS
        } else {
            0
        })
    }

    #[inline]
    fn mark(&self, ring: &[AtomicU64], epoch: u32, number: u64, hit: bool) {
        if hit || number % BLOCK == 0 {
            self.write(ring, epoch, number, hit);
        }
    }

    #[cold]
    fn write(&self, ring: &[AtomicU64], epoch: u32, number: u64, hit: bool) {
        let bit = number % BLOCK;
        let (word, tag) = block_of(ring, epoch, number / BLOCK);
        let bits = u64::from(hit) << bit;
        let next = |seen: u64| {
            if seen >> 32 == tag {
                // Each number is written once, so the bit was clear.
                return Some(seen | bits);
            }
            // Another block's: an old one gives way, unless this call is the old one.
            let cursor = self.cursor.load(Acquire);
            let overtaken =
                cursor >> 44 != u64::from(epoch) || (cursor & CALLS).abs_diff(number) > self.n;
            (!overtaken).then_some(tag << 32 | bits)
        };
        let _written = word.fetch_update(AcqRel, Acquire, next);
    }

    fn read(&self, epoch: u32) -> Counts {
        let cursor = self.cursor.load(Acquire);
        if cursor >> 44 != u64::from(epoch) {
            return Counts::default();
        }
        let end = cursor & CALLS;
        let calls = end.min(self.n);
        let bad = ones_in(&self.bad, epoch, end - calls, end);
        let slow = self
            .slow
            .as_ref()
            .map_or(0, |ring| ones_in(ring, epoch, end - calls, end));
        Counts {
            calls: calls as u32,
            bad,
            slow,
        }
    }
}

/// How many of the calls numbered `from..to` are marked.
fn ones_in(ring: &[AtomicU64], epoch: u32, from: u64, to: u64) -> u32 {
    let mut ones = 0;
    for block in from / BLOCK..to.div_ceil(BLOCK) {
        let (word, tag) = block_of(ring, epoch, block);
        let seen = word.load(Acquire);
        if seen >> 32 != tag {
            continue;
        }
        // Without the calls before `from`, and those that came since `to` was read.
        let before = from.saturating_sub(block * BLOCK);
        let after = ((block + 1) * BLOCK).saturating_sub(to);
        let bits = (seen as u32) >> before << before;
        ones += (bits << after).count_ones();
    }
    ones
}

/// A block's word and its tag.
fn block_of(ring: &[AtomicU64], epoch: u32, block: u64) -> (&AtomicU64, u64) {
    let tag = (u64::from(epoch) << 12) | (block % BLOCK_TAGS);
    (&ring[(block % ring.len() as u64) as usize], tag)
}

/// Failures in a row, `[epoch:20][failures:44]`.
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

    /// Counts a call; the failures in a row with it.
    #[inline]
    pub(super) fn record(&self, epoch: u32, bad: bool, current: impl Fn() -> bool) -> u32 {
        let empty = u64::from(epoch) << 44;
        // A look first: in good times nothing is written.
        if !bad && self.word.load(Acquire) == empty {
            return 0;
        }
        let next = |word: u64| {
            let seen = if word >> 44 == u64::from(epoch) {
                word & CALLS
            } else if current() {
                0
            } else {
                return None;
            };
            Some(empty | if bad { (seen + 1).min(CALLS) } else { 0 })
        };
        // AcqRel: of failures in a row each sees the one before it.
        match self.word.fetch_update(AcqRel, Acquire, next) {
            // What it was here, not what it is by now: a success may have come since.
            Ok(before) if bad && before >> 44 == u64::from(epoch) => {
                failures(before).saturating_add(1)
            }
            Ok(_) => bad.into(),
            Err(_) => 0,
        }
    }

    pub(super) fn read(&self, epoch: u32) -> u32 {
        let word = self.word.load(Acquire);
        if word >> 44 == u64::from(epoch) {
            failures(word)
        } else {
            0
        }
    }
}

fn failures(word: u64) -> u32 {
    u32::try_from(word & CALLS).unwrap_or(u32::MAX)
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: Call = Call {
        bad: false,
        slow: false,
    };
    const BAD: Call = Call {
        bad: true,
        slow: false,
    };
    const SLOW: Call = Call {
        bad: false,
        slow: true,
    };
    const SECOND: u64 = 1_000_000_000;
    const DAY: u64 = 86_400 * SECOND;

    fn time() -> Window {
        Window::Time(TimeWindow::new(10 * SECOND, true))
    }

    fn count(n: u32) -> Window {
        Window::Count(CountWindow::new(n, true))
    }

    fn record(window: &Window, epoch: u32, now: u64, calls: &[Call]) {
        for &call in calls {
            window.record(epoch, now, call, || true);
        }
    }

    fn counts(calls: u32, bad: u32, slow: u32) -> Counts {
        Counts { calls, bad, slow }
    }

    #[test]
    fn a_call_leaves_the_time_window_when_the_window_has_passed() {
        let window = time();
        record(&window, 0, 0, &[BAD; 3]);
        assert_eq!(window.read(0, 10 * SECOND - 1), counts(3, 3, 0));
        record(&window, 0, 10 * SECOND, &[SLOW]);
        assert_eq!(window.read(0, 10 * SECOND), counts(1, 0, 1));
    }

    #[test]
    fn a_time_window_counts_again_after_any_idling() {
        // A quarter, a half, three quarters and the whole of the laps' range, too.
        let range = (LAP + 1) * 10 * SECOND;
        for idle in [
            DAY,
            2 * DAY,
            3 * DAY,
            30 * DAY,
            range / 4,
            range / 2,
            range / 4 * 3,
        ] {
            let window = time();
            for second in 0..20 {
                record(&window, 0, second * SECOND, &[BAD; 5]);
            }
            let now = 20 * SECOND + idle;
            record(&window, 0, now, &[BAD, GOOD]);
            assert_eq!(window.read(0, now), counts(2, 1, 0), "idle for {idle} ns");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn a_time_falls_into_the_bucket_of_its_quotient(
            length in prop_oneof![1..100_u64, any::<u64>(), Just(u64::MAX), Just(10 * SECOND)],
            now in prop_oneof![0..1_000_u64, any::<u64>(), Just(u64::MAX)],
            edge in -2..3_i64,
        ) {
            let window = TimeWindow::new(length.max(1), false);
            let bucket = length.max(1).div_ceil(BUCKETS as u64);
            // At the edge of a bucket, too, where a rounded product would be off by one.
            for now in [now, (now / bucket * bucket).saturating_add_signed(edge)] {
                let slot = now / bucket;
                let expected = (slot / BUCKETS as u64, (slot % BUCKETS as u64) as usize);
                prop_assert_eq!(window.place(now), expected);
            }
        }
    }

    #[test]
    fn a_full_bucket_is_halved_and_keeps_its_rate() {
        let window = time();
        for _ in 0..=FULL / 3 {
            record(&window, 0, 0, &[GOOD, BAD, GOOD]);
        }
        let seen = window.read(0, 0);
        assert!(
            seen.calls < FULL as u32 && seen.calls > FULL as u32 / 3,
            "{seen:?}"
        );
        assert!(seen.bad.abs_diff(seen.calls / 3) <= 2, "{seen:?}");
        assert_eq!(seen.slow, 0);
    }

    #[test]
    fn a_call_recorded_a_window_late_is_dropped_and_a_slot_late_is_counted() {
        let window = time();
        record(&window, 0, 25 * SECOND, &[GOOD]);
        record(&window, 0, 15 * SECOND, &[BAD]);
        assert_eq!(window.read(0, 25 * SECOND), counts(1, 0, 0));
        record(&window, 0, 24 * SECOND, &[BAD]);
        assert_eq!(window.read(0, 25 * SECOND), counts(2, 1, 0));
        // Whoever reads with an older clock sees the newer call.
        assert_eq!(window.read(0, 24 * SECOND), counts(2, 1, 0));
    }

    #[test]
    fn a_count_window_forgets_the_oldest_call_with_each_new_one() {
        for n in [1, 2, 4, 10, 31, 32, 33, 63, 64, 65, 100, 4_096] {
            let window = count(n);
            let mut calls = Vec::new();
            for i in 0..2 * n + 70 {
                // Runs of uneven length, so that every edge is crossed both ways.
                let call = Call {
                    bad: i % 7 < 3,
                    slow: i % 11 < 2,
                };
                record(&window, 0, 0, &[call]);
                calls.push(call);
                let last = &calls[calls.len().saturating_sub(n as usize)..];
                let tally =
                    |of: fn(&Call) -> bool| last.iter().filter(|call| of(call)).count() as u32;
                let expected = counts(
                    last.len() as u32,
                    tally(|call| call.bad),
                    tally(|call| call.slow),
                );
                assert_eq!(window.read(0, 0), expected, "{n} {i}");
            }
        }
    }

    #[test]
    fn a_reading_holds_no_call_that_came_after_its_end() {
        let window = CountWindow::new(4, false);
        for _ in 0..3 {
            window.record(0, BAD, || true);
        }
        // As if two of them had come between the two looks of a reading.
        assert_eq!(ones_in(&window.bad, 0, 0, 1), 1);
        assert_eq!(ones_in(&window.bad, 0, 1, 3), 2);
    }

    #[test]
    fn epochs_that_differ_in_any_bit_are_told_apart() {
        for bit in 0..20 {
            let window = CountWindow::new(10, false);
            window.record(0, BAD, || true);
            window.record(1 << bit, GOOD, || true);
            assert_eq!(window.read(1 << bit), counts(1, 0, 0), "{bit}");
        }
    }

    #[test]
    fn a_count_window_goes_on_where_its_numbers_start_over() {
        for n in [1, 10, 32, 100] {
            let window = CountWindow::new(n, false);
            let start = window.wrap - 40;
            window.cursor.store(start, SeqCst);
            // The block that is under way had a first call that tagged it.
            let (word, tag) = block_of(&window.bad, 0, start / BLOCK);
            word.store(tag << 32, SeqCst);
            for i in 1..=n + 40 {
                window.record(0, BAD, || true);
                assert_eq!(window.read(0), counts(n, n.min(i), 0), "{n} {i}");
            }
            assert!(window.cursor.load(SeqCst) & CALLS < window.wrap);
            for i in 1..=n {
                window.record(0, GOOD, || true);
                assert_eq!(window.read(0), counts(n, n - i, 0), "{n}");
            }
        }
    }

    #[test]
    fn the_first_call_of_a_block_takes_it_over_and_a_late_one_does_not() {
        let window = CountWindow::new(1, false);
        let tags = || [&window.bad[0], &window.bad[1]].map(|word| word.load(SeqCst) >> 32);
        for block in 0..6 {
            window.record(0, GOOD, || true);
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
            assert_eq!(tags(), expected);
            for _ in 1..BLOCK {
                window.record(0, GOOD, || true);
            }
        }
        let before = tags();
        window.write(&window.bad, 0, 2 * BLOCK, true);
        window.write(&window.bad, 1, 6 * BLOCK, true);
        assert_eq!(tags(), before);
        assert_eq!(window.read(0), counts(1, 0, 0));
    }

    #[test]
    fn another_epoch_starts_from_nothing() {
        for window in [time(), count(8)] {
            record(&window, 3, 0, &[BAD, BAD, SLOW]);
            assert_eq!(window.read(4, 0), counts(0, 0, 0));
            record(&window, 4, 0, &[BAD]);
            assert_eq!(window.read(4, 0), counts(1, 1, 0));
        }
        let row = Row::new();
        assert_eq!(row.record(3, true, || true), 1);
        assert_eq!(row.record(4, true, || true), 1);
        assert_eq!(row.record(4, true, || true), 2);
    }

    #[test]
    fn a_stale_record_changes_nothing() {
        for window in [time(), count(8)] {
            record(&window, 4, 0, &[GOOD, BAD]);
            for stale in [3, 5, 4 + (1 << 11), 3 + (1 << 19)] {
                window.record(stale, 0, BAD, || false);
            }
            assert_eq!(window.read(4, 0), counts(2, 1, 0));
        }
        let row = Row::new();
        row.record(4, true, || true);
        assert_eq!(row.record(3, true, || false), 0);
        assert_eq!(row.record(3, false, || false), 0);
        assert_eq!(row.read(4), 1);
    }

    #[test]
    fn no_distance_of_epochs_makes_a_window_blind() {
        for window in [time(), count(40)] {
            for epoch in [
                0,
                1,
                127,
                128,
                129,
                255,
                2_047,
                2_048,
                4_095,
                ((1 << 19) - 1) - 1,
                (1 << 20) - 1,
            ] {
                record(&window, 0, 0, &[GOOD; 40]);
                record(&window, epoch, 0, &[BAD; 40]);
                if epoch > 0 {
                    assert_eq!(window.read(epoch, 0), counts(40, 40, 0), "{epoch}");
                }
            }
        }
    }

    #[test]
    fn a_success_ends_a_row() {
        let row = Row::new();
        let seen = [true, true, false, true].map(|bad| row.record(0, bad, || true));
        assert_eq!(seen, [1, 2, 0, 1]);
    }
}

#[cfg(all(test, buttress_loom))]
mod models {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    const BAD: Call = Call {
        bad: true,
        slow: false,
    };

    #[test]
    fn a_bucket_rotated_by_two_writers_keeps_both_records() {
        loom::model(|| {
            let window = Arc::new(TimeWindow::new(2, false));
            window.record(0, 0, BAD, || true);
            let other = window.clone();
            let writer = thread::spawn(move || other.record(0, 2, BAD, || true));
            window.record(0, 2, BAD, || true);
            writer.join().unwrap();
            assert_eq!(
                window.read(0, 2),
                Counts {
                    calls: 2,
                    bad: 2,
                    slow: 0
                }
            );
        });
    }

    #[test]
    fn a_bucket_rotated_under_a_late_writer_keeps_the_newer_record() {
        loom::model(|| {
            let window = Arc::new(TimeWindow::new(2, false));
            let other = window.clone();
            let late = thread::spawn(move || other.record(0, 0, BAD, || true));
            window.record(0, 2, BAD, || true);
            late.join().unwrap();
            assert_eq!(
                window.read(0, 2),
                Counts {
                    calls: 1,
                    bad: 1,
                    slow: 0
                }
            );
        });
    }

    #[test]
    fn two_failures_in_a_new_epoch_are_both_counted() {
        loom::model(|| {
            let window = Arc::new(CountWindow::new(2, false));
            window.record(0, BAD, || true);
            let other = window.clone();
            let writer = thread::spawn(move || other.record(1, BAD, || true));
            window.record(1, BAD, || true);
            writer.join().unwrap();
            assert_eq!(
                window.read(1),
                Counts {
                    calls: 2,
                    bad: 2,
                    slow: 0
                }
            );
        });
    }

    #[test]
    fn of_two_failures_in_a_row_one_is_the_second() {
        loom::model(|| {
            let row = Arc::new(Row::new());
            let other = row.clone();
            let one = thread::spawn(move || other.record(0, true, || true));
            let two = row.record(0, true, || true);
            assert_eq!(one.join().unwrap() + two, 3);
        });
    }
}
