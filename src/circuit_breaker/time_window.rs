//! The window of the calls that ended within the last `length`.

use super::window::{Call, Counts};
use crate::sync::{
    AtomicU64, Mutex, MutexGuard, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};
use std::array;
use std::sync::PoisonError;

/// A window that advances by one bucket at a time, a tenth of its length.
///
/// `counted` holds the number of calls since the window was made; it is never cleared. When a bucket
/// begins, the counts of that moment are kept for it. The calls in the window are `counted` minus the
/// counts kept for the oldest bucket. So a record is one exchange, and a reading costs the same
/// for any number of calls.
///
/// A thread that finds that the latest bucket is over *turns* the window, under a lock. A turn adds one
/// to every count, see [`Window`](super::window::Window): a record that began before the turn then
/// fails to exchange, looks again, and counts in the bucket of its own time or not at all.
#[derive(Debug)]
pub(super) struct TimeWindow {
    /// Nanoseconds per bucket, rounded up.
    bucket: u64,
    /// How many kinds of calls are counted apart: 4 with slow calls, else 2.
    kinds: usize,
    /// When the latest bucket began, or [`TURNING`].
    start: AtomicU64,
    /// The calls of each kind, plus the number of turns.
    counted: Tally<AtomicU64>,
    /// What `counted` was when the window's oldest bucket began, plus the turns since then.
    base: Tally<AtomicU64>,
    turns: Mutex<Turns>,
}

/// One count per kind of call: successful, failed, slow, and both failed and slow. Each call is counted
/// once, so no reading returns more failures than calls.
type Tally<T> = [T; 4];

#[derive(Debug)]
struct Turns {
    made: u64,
    /// The number of the latest bucket, counted from the origin of time.
    slot: u64,
    /// What had been counted when each bucket began, without the turns. The oldest bucket first.
    begun: [Tally<u64>; BUCKETS],
}

/// A loom model uses two: that is enough, and loom tries every order of every access.
const BUCKETS: usize = if cfg!(buttress_loom) { 2 } else { 10 };

/// The bits of a kind's index.
const BAD: usize = 1;
const SLOW: usize = 2;

/// A start that matches no time: the window is turning.
const TURNING: u64 = u64::MAX;

impl TimeWindow {
    /// `length` in nanoseconds, at least 1.
    pub(super) fn new(length: u64, with_slow: bool) -> Self {
        Self {
            bucket: length.div_ceil(BUCKETS as u64),
            kinds: if with_slow { 4 } else { 2 },
            start: AtomicU64::new(0),
            counted: array::from_fn(|_| AtomicU64::new(0)),
            base: array::from_fn(|_| AtomicU64::new(0)),
            turns: Mutex::new(Turns {
                made: 0,
                slot: 0,
                begun: [[0; 4]; BUCKETS],
            }),
        }
    }

    /// The length in nanoseconds.
    pub(super) fn length(&self) -> u64 {
        self.bucket.saturating_mul(BUCKETS as u64)
    }

    #[inline]
    pub(super) fn record(&self, now: u64, call: Call, current: impl Fn() -> bool) {
        let mut counts_at = now;
        let counted = &self.counted[usize::from(call.bad) * BAD + usize::from(call.slow) * SLOW];
        loop {
            // Acquire, and before both checks: if this load reads a count from after a turn or
            // `start_over`, the checks see what that changed.
            let seen = counted.load(Acquire);
            if !current() {
                return;
            }
            if !self.is_latest(self.start(), counts_at) {
                match self.turn(now) {
                    Some(at) => counts_at = at,
                    None => return,
                }
            } else if counted
                // Relaxed: the count is the only data.
                .compare_exchange_weak(seen, seen + 1, Relaxed, Relaxed)
                .is_ok()
            {
                return;
            }
        }
    }

    pub(super) fn read(&self, mut now: u64) -> Counts {
        loop {
            let start = self.start();
            if start != TURNING && now < start {
                now = start; // another thread's clock was ahead
            }
            if !self.is_latest(start, now) {
                now = self.turn(now).unwrap_or(now);
                continue;
            }
            let mut counts = Counts::default();
            for kind in 0..self.kinds {
                // Acquire, both: if either reads a value from after a turn, the check of `start`
                // below sees the turn.
                let base = self.base[kind].load(Acquire);
                let calls = self.counted[kind].load(Acquire).saturating_sub(base);
                counts.calls += calls;
                if kind & BAD != 0 {
                    counts.bad += calls;
                }
                if kind & SLOW != 0 {
                    counts.slow += calls;
                }
            }
            if self.start.load(Relaxed) == start {
                return counts;
            }
        }
    }

    /// All calls since the window was made, and how many of them failed.
    pub(super) fn total(&self) -> (u64, u64) {
        // No turn is made meanwhile.
        let turns = self.turns();
        let kind = |kind: usize| self.counted[kind].load(Relaxed).saturating_sub(turns.made);
        let of = |kinds: &[usize]| {
            kinds
                .iter()
                .filter(|n| **n < self.kinds)
                .map(|n| kind(*n))
                .sum()
        };
        (of(&[0, BAD, SLOW, BAD | SLOW]), of(&[BAD, BAD | SLOW]))
    }

    pub(super) fn start_over(&self) {
        let mut turns = self.turns();
        let slot = turns.slot;
        self.begin(&mut turns, slot, BUCKETS);
    }

    fn start(&self) -> u64 {
        // Acquire: a thread that counts or reads in a bucket does so after the turn to it.
        self.start.load(Acquire)
    }

    /// Whether `now` is in the bucket that began at `start`.
    #[inline]
    fn is_latest(&self, start: u64, now: u64) -> bool {
        now.checked_sub(start)
            .is_some_and(|since| since < self.bucket)
    }

    /// Begins the bucket of `now` unless another thread has. Returns the time at which the call
    /// counts. A clock that is late counts in the latest bucket; one that is late by a whole window
    /// counts nowhere (`None`).
    fn turn(&self, now: u64) -> Option<u64> {
        let mut turns = self.turns();
        let slot = now / self.bucket;
        if let Some(late) = turns.slot.checked_sub(slot) {
            return (late < BUCKETS as u64).then_some(turns.slot * self.bucket);
        }
        let passed = (slot - turns.slot).min(BUCKETS as u64) as usize;
        self.begin(&mut turns, slot, passed);
        Some(now)
    }

    /// Begins the bucket of `slot`, `passed` buckets after the latest.
    fn begin(&self, turns: &mut Turns, slot: u64, passed: usize) {
        // From here to the end of this function, no record succeeds and no reading is valid.
        self.start.store(TURNING, Relaxed);
        turns.made += 1;
        turns.slot = slot;
        turns.begun.rotate_left(passed);
        for kind in 0..self.kinds {
            // Release, both: a thread that sees a new value also sees that the window is turning.
            let counted = self.counted[kind].fetch_add(1, Release) + 1;
            for begun in &mut turns.begun[BUCKETS - passed..] {
                begun[kind] = counted - turns.made;
            }
            self.base[kind].store(turns.begun[0][kind] + turns.made, Release);
        }
        // Release: pairs with the load in `start()`.
        self.start.store(slot * self.bucket, Release);
    }

    fn turns(&self) -> MutexGuard<'_, Turns> {
        // Nothing panics under the lock.
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(all(test, not(buttress_loom)))]
impl TimeWindow {
    /// The window as it is after this many calls of each kind.
    pub(super) fn aged(self, calls: u64) -> Self {
        for kind in 0..4 {
            self.counted[kind].store(calls, Relaxed);
            self.base[kind].store(calls, Relaxed);
        }
        self.turns().begun = [[calls; 4]; BUCKETS];
        self
    }
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
    const YEAR: u64 = 365 * 86_400 * SECOND;

    fn window() -> TimeWindow {
        TimeWindow::new(10 * SECOND, true)
    }

    fn record(window: &TimeWindow, now: u64, calls: &[Call]) {
        for &call in calls {
            window.record(now, call, || true);
        }
    }

    /// Counts this many calls of a kind at once.
    fn add(window: &TimeWindow, calls: u64, call: Call) {
        let kind = usize::from(call.bad) | usize::from(call.slow) << 1;
        window.counted[kind].fetch_add(calls, Relaxed);
    }

    fn counts(calls: u64, bad: u64, slow: u64) -> Counts {
        Counts { calls, bad, slow }
    }

    #[test]
    fn a_call_leaves_the_time_window_when_the_window_has_passed() {
        let window = window();
        record(&window, 0, &[BAD; 3]);
        assert_eq!(window.read(10 * SECOND - 1), counts(3, 3, 0));
        record(&window, 10 * SECOND, &[SLOW]);
        assert_eq!(window.read(10 * SECOND), counts(1, 0, 1));
    }

    /// Idle times from a nanosecond to more than a hundred years: powers of two and of ten, and
    /// multiples of the window, each one also a nanosecond shorter and longer.
    fn idle_times() -> Vec<u64> {
        let two = (0..62).map(|bit| 1 << bit);
        let ten = (0..19).map(|digits| 10_u64.pow(digits));
        let windows = (0..29).map(|bit| (1 << bit) * 10 * SECOND);
        let years = [1, 2, 3, 10, 30, 50, 99, 100, 101].map(|years| years * YEAR);
        let all = two.chain(ten).chain(windows).chain(years);
        all.flat_map(|idle| [idle - 1, idle, idle + 1]).collect()
    }

    #[test]
    fn a_time_window_counts_again_after_any_idling() {
        for idle in idle_times() {
            let window = window();
            for second in 0..20 {
                record(&window, second * SECOND, &[BAD; 5]);
            }
            let now = 20 * SECOND - 1 + idle;
            record(&window, now, &[BAD, GOOD]);
            // The buckets of 5 calls each that are still in the window.
            let left = (10..20).filter(|second| second + 10 > now / SECOND);
            let left = 5 * left.count() as u64;
            assert_eq!(window.read(now), counts(2 + left, 1 + left, 0), "{idle} ns");
        }
    }

    #[test]
    fn a_reading_after_any_idling_holds_nothing_old() {
        for idle in idle_times() {
            let window = window();
            record(&window, 0, &[BAD; 5]);
            let seen = if idle < 10 * SECOND { 5 } else { 0 };
            assert_eq!(window.read(idle), counts(seen, seen, 0), "{idle} ns");
            // Reading again does not bring anything back either.
            assert_eq!(window.read(idle), counts(seen, seen, 0), "{idle} ns");
        }
    }

    #[test]
    fn one_window_counts_through_all_idle_times_one_after_the_other() {
        let window = window();
        let mut now = 0;
        for idle in idle_times().into_iter().filter(|&idle| idle < 10 * YEAR) {
            record(&window, now, &[BAD; 3]);
            now += idle.max(10 * SECOND);
            record(&window, now, &[GOOD]);
            assert_eq!(window.read(now), counts(1, 0, 0), "{idle} ns");
            now += 10 * SECOND;
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn a_call_is_in_the_window_from_its_bucket_to_nine_buckets_later(
            length in prop_oneof![1..100_u64, any::<u64>(), Just(u64::MAX), Just(10 * SECOND)],
            now in prop_oneof![0..1_000_u64, any::<u64>()],
            edge in -2..3_i64,
        ) {
            let bucket = length.max(1).div_ceil(BUCKETS as u64);
            for now in [now, (now / bucket * bucket).saturating_add_signed(edge)] {
                let begin = now / bucket * bucket;
                let Some(end) = bucket.checked_mul(BUCKETS as u64).and_then(|length| begin.checked_add(length)) else {
                    continue; // beyond the end of time
                };
                let window = TimeWindow::new(length.max(1), true);
                record(&window, now, &[BAD]);
                prop_assert_eq!(window.read(end - 1), counts(1, 1, 0));
                prop_assert_eq!(window.read(end), counts(0, 0, 0));
            }
        }
    }

    #[test]
    fn more_calls_than_fit_any_narrow_field_are_counted_one_by_one() {
        for calls in [1 << 16, 700_000] {
            let window = window();
            for _ in 0..calls {
                record(&window, 0, &[GOOD, BAD]);
            }
            assert_eq!(window.read(0), counts(2 * calls, calls, 0));
        }
    }

    #[test]
    fn an_hour_at_ten_million_calls_a_second_is_counted_exactly() {
        const BUCKET: u64 = 360 * SECOND;
        const CALLS: u64 = 3_600_000_000; // per bucket
        let window = TimeWindow::new(3_600 * SECOND, true);
        for bucket in 0..35 {
            let now = bucket * BUCKET;
            record(&window, now, &[GOOD]);
            add(&window, CALLS - 7, GOOD);
            record(&window, now + BUCKET - 1, &[BAD, BAD, SLOW, BAD, BAD, SLOW]);
            let buckets = (bucket + 1).min(10);
            let expected = counts(buckets * CALLS, 4 * buckets, 2 * buckets);
            assert_eq!(window.read(now + BUCKET - 1), expected, "{bucket}");
        }
    }

    #[test]
    fn a_window_holds_more_calls_than_32_bits() {
        let window = TimeWindow::new(u64::MAX, true);
        record(&window, 0, &[BAD]);
        for (calls, call) in [(1 << 40, GOOD), (1 << 33, BAD), (1 << 32, SLOW)] {
            add(&window, calls, call);
        }
        let (good, bad, slow) = (1 << 40, (1 << 33) + 1, 1 << 32);
        assert_eq!(window.read(YEAR), counts(good + bad + slow, bad, slow));
    }

    #[test]
    fn a_call_recorded_a_window_late_is_dropped_and_a_slot_late_is_counted() {
        let window = window();
        record(&window, 25 * SECOND, &[GOOD]);
        record(&window, 15 * SECOND, &[BAD]);
        assert_eq!(window.read(25 * SECOND), counts(1, 0, 0));
        record(&window, 24 * SECOND, &[BAD]);
        assert_eq!(window.read(25 * SECOND), counts(2, 1, 0));
        // A reader with a late clock sees the newer call too.
        assert_eq!(window.read(24 * SECOND), counts(2, 1, 0));
    }

    #[test]
    fn a_window_that_starts_over_forgets_every_bucket_and_goes_on() {
        let window = window();
        for second in 0..15 {
            record(&window, second * SECOND, &[BAD, SLOW]);
        }
        window.start_over();
        assert_eq!(window.read(14 * SECOND), counts(0, 0, 0));
        record(&window, 14 * SECOND, &[BAD, GOOD]);
        record(&window, 20 * SECOND, &[GOOD]);
        assert_eq!(window.read(20 * SECOND), counts(3, 1, 0));
        assert_eq!(window.read(24 * SECOND), counts(1, 0, 0));
    }

    #[test]
    fn no_number_of_start_overs_brings_a_count_back() {
        let window = window();
        record(&window, 0, &[BAD, BAD, SLOW]);
        for n in 0..(1 << 20) + 10_u32 {
            window.start_over();
            if n % 1_023 == 0 || n.is_power_of_two() {
                assert_eq!(window.read(0), counts(0, 0, 0), "{n}");
                record(&window, 0, &[BAD]);
                assert_eq!(window.read(0), counts(1, 1, 0), "{n}");
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

    fn bad(calls: u64) -> Counts {
        Counts {
            calls,
            bad: calls,
            slow: 0,
        }
    }

    fn record(window: &TimeWindow, now: u64) {
        window.record(now, BAD, || true);
    }

    /// A window of two nanoseconds with calls at these times.
    fn window<const N: usize>(calls: [u64; N]) -> TimeWindow {
        let window = TimeWindow::new(2, false);
        for now in calls {
            record(&window, now);
        }
        window
    }

    #[test]
    fn a_bucket_rotated_by_two_writers_keeps_both_records() {
        race(
            || window([0]),
            |window| record(window, 2),
            |window| record(window, 2),
            |window, (), ()| assert_eq!(window.read(2), bad(2)),
        );
    }

    #[test]
    fn a_bucket_rotated_under_a_late_writer_keeps_the_newer_record() {
        race(
            || window([]),
            |window| record(window, 0),
            |window| record(window, 2),
            |window, (), ()| assert_eq!(window.read(2), bad(1)),
        );
    }

    #[test]
    fn a_record_that_races_a_turn_is_counted_for_a_whole_window() {
        race(
            || window([]),
            |window| record(window, 0),
            |window| record(window, 1),
            |window, (), ()| assert_eq!(window.read(1), bad(2)),
        );
    }

    #[test]
    fn turns_that_race_from_different_buckets_keep_both_records() {
        race(
            || window([0]),
            |window| record(window, 1),
            |window| record(window, 2),
            |window, (), ()| assert_eq!(window.read(2), bad(2)),
        );
    }

    #[test]
    fn a_reading_that_races_a_turn_is_from_before_or_after_it() {
        race(
            || window([0, 0, 0, 1]),
            |window| record(window, 2),
            // The clock of this thread is late.
            |window| window.read(1),
            |window, (), seen| {
                assert!([bad(4), bad(1), bad(2)].contains(&seen), "{seen:?}");
                assert_eq!(window.read(2), bad(2));
            },
        );
    }

    #[test]
    fn a_call_recorded_as_the_window_starts_over_is_forgotten_or_counted() {
        race(
            || window([0, 0]),
            |window| record(window, 1),
            TimeWindow::start_over,
            |window, (), ()| {
                let seen = window.read(1);
                assert!([bad(0), bad(1)].contains(&seen), "{seen:?}");
            },
        );
    }
}
