//! The generic cell rate algorithm (ITU-T I.371) in one word: the newest turn given out.
//!
//! A call of cost c takes its turn `c · interval` after the newest one, or after the moment one
//! burst ago where the newest is older still. It is granted if its turn has come, may wait for it,
//! or is refused with nothing written. Turns never go backwards: they are served in order of
//! asking. The textbook keeps the theoretical arrival time, which is one burst later; keeping the
//! turn itself leaves the word valid when the rate changes.

use super::quota::Rate;
use crate::sync::{AtomicU64, Ordering::AcqRel, Ordering::Acquire, Ordering::Release};

/// Turns are kept this much later than they are: the burst of a new limiter lies before its origin.
const SHIFT: u64 = Rate::LONGEST;

/// A turn that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cell {
    /// The word before and after.
    before: u64,
    after: u64,
    /// When the call may go; not after `now` if it may go at once.
    pub(super) turn: u64,
}

/// Why no turn was taken. Nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The turn would come after this many nanoseconds, which is above what may be waited.
    After(u64),
    /// The quota admits nothing, or the time does not fit.
    Never,
    /// The cost is above the burst.
    TooCostly,
}

#[derive(Debug)]
pub(super) struct Gcra {
    newest: AtomicU64,
    /// No call goes before this, shifted like a turn; 0 without a pause. A word of its own: a
    /// turn that is given back must not shorten a pause.
    paused: AtomicU64,
}

impl Gcra {
    pub(super) fn new() -> Self {
        Self {
            newest: AtomicU64::new(0),
            paused: AtomicU64::new(0),
        }
    }

    /// Takes a turn of `cost` that comes within `max_wait` of `now`.
    #[inline]
    pub(super) fn take(
        &self,
        rate: Rate,
        cost: u32,
        now: u64,
        max_wait: u64,
    ) -> Result<Cell, Refusal> {
        // Acquire and AcqRel throughout: whoever takes a turn sees what the holder of the one
        // before it did first.
        let paused = self.paused.load(Acquire);
        let mut newest = self.newest.load(Acquire);
        loop {
            let cell = decide(newest, paused, rate, cost, now, max_wait)?;
            if cell.after == newest {
                return Ok(cell); // free of charge: nothing to write
            }
            match self
                .newest
                .compare_exchange_weak(newest, cell.after, AcqRel, Acquire)
            {
                Ok(_) => return Ok(cell),
                Err(newer) => newest = newer,
            }
        }
    }

    /// Gives a turn back if it is the newest. An older one is forfeited: others have their turns
    /// after it already, and handing it out again would exceed the quota.
    pub(super) fn give_back(&self, cell: Cell) {
        let _forfeited = self
            .newest
            .compare_exchange(cell.after, cell.before, AcqRel, Acquire);
    }

    /// Grants no turn before `until`. Nothing of a burst is left then.
    pub(super) fn pause(&self, until: u64) {
        self.paused.fetch_max(until.saturating_add(SHIFT), AcqRel);
    }

    pub(super) fn resume(&self) {
        self.paused.store(0, Release);
    }

    /// How many calls of cost 1 would be granted at once.
    pub(super) fn available(&self, rate: Rate, now: u64) -> u32 {
        let now = now.saturating_add(SHIFT);
        let paused = self.paused.load(Acquire);
        let newest = self.newest.load(Acquire);
        let rested = now
            .saturating_sub(newest.max(paused.saturating_sub(rate.interval)))
            .min(rate.span(rate.burst));
        match rested.checked_div(rate.interval) {
            Some(cells) => cells as u32, // at most the burst
            None if decide(newest, paused, rate, 1, now - SHIFT, 0).is_ok() => rate.burst,
            None => 0,
        }
    }
}

#[inline]
fn decide(
    newest: u64,
    paused: u64,
    rate: Rate,
    cost: u32,
    now: u64,
    max_wait: u64,
) -> Result<Cell, Refusal> {
    if rate.burst == 0 {
        return Err(Refusal::Never);
    }
    if cost > rate.burst {
        return Err(Refusal::TooCostly);
    }
    // A sum that does not fit is a no.
    let now = now.checked_add(SHIFT).ok_or(Refusal::Never)?;
    // At the end of a pause there is room for one call: nothing of the burst is left.
    let before = newest
        .max(paused.saturating_sub(rate.interval))
        .max(now - rate.span(rate.burst));
    let turn = before.checked_add(rate.span(cost)).ok_or(Refusal::Never)?;
    let turn = turn.max(paused);
    let wait = turn.saturating_sub(now);
    if wait > max_wait {
        return Err(Refusal::After(wait));
    }
    let (before, after) = if cost == 0 {
        (newest, newest)
    } else {
        (before, turn)
    };
    Ok(Cell {
        before,
        after,
        turn: turn.saturating_sub(SHIFT),
    })
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use super::*;
    use crate::rate_limit::Quota;
    use proptest::prelude::*;
    use std::time::Duration;

    const SECOND: u64 = 1_000_000_000;

    fn rate(n: u32, per: Duration, burst: u32) -> Rate {
        Quota::new(n, per).burst(burst).rate()
    }

    fn per_second(n: u32, burst: u32) -> Rate {
        rate(n, Duration::from_secs(1), burst)
    }

    #[test]
    fn denied_until_the_very_nanosecond_that_was_named() {
        let (gcra, rate) = (Gcra::new(), per_second(7, 1));
        gcra.take(rate, 1, 5, 0).unwrap();
        let Err(Refusal::After(wait)) = gcra.take(rate, 1, 10, 0) else {
            panic!("granted")
        };
        assert_eq!(gcra.take(rate, 1, 10 + wait - 1, 0), Err(Refusal::After(1)));
        assert!(gcra.take(rate, 1, 10 + wait, 0).is_ok());
    }

    #[test]
    fn a_refusal_writes_nothing() {
        let (gcra, rate) = (Gcra::new(), per_second(1, 1));
        gcra.take(rate, 1, 0, 0).unwrap();
        for _ in 0..100 {
            assert_eq!(
                gcra.take(rate, 1, 0, SECOND - 1),
                Err(Refusal::After(SECOND))
            );
        }
    }

    #[test]
    fn the_newest_turn_comes_back_and_a_middle_one_is_forfeited() {
        let (gcra, rate) = (Gcra::new(), per_second(1, 1));
        gcra.take(rate, 1, 0, 0).unwrap();
        let turns: Vec<_> = (0..3)
            .map(|_| gcra.take(rate, 1, 0, u64::MAX).unwrap())
            .collect();
        assert_eq!(turns[2].turn, 3 * SECOND);
        gcra.give_back(turns[1]);
        assert_eq!(gcra.take(rate, 1, 0, 0), Err(Refusal::After(4 * SECOND)));
        gcra.give_back(turns[2]);
        assert_eq!(gcra.take(rate, 1, 0, 0), Err(Refusal::After(3 * SECOND)));
    }

    #[test]
    fn a_year_of_idling_earns_one_burst() {
        let (gcra, rate) = (Gcra::new(), per_second(1, 5));
        let year = 365 * 86_400 * SECOND;
        let granted = (0..100)
            .filter(|_| gcra.take(rate, 1, year, 0).is_ok())
            .count();
        assert_eq!(granted, 5);
        assert_eq!(gcra.available(rate, year), 0);
    }

    #[test]
    fn a_deficit_refills_to_the_burst_and_no_further() {
        let (gcra, rate) = (Gcra::new(), per_second(1, 2));
        for _ in 0..5 {
            gcra.take(rate, 1, 0, u64::MAX).unwrap();
        }
        assert_eq!(gcra.available(rate, 3 * SECOND), 0);
        assert_eq!(gcra.available(rate, 4 * SECOND), 1);
        assert_eq!(gcra.available(rate, 5 * SECOND), 2);
        assert_eq!(gcra.available(rate, 60 * SECOND), 2);
    }

    #[test]
    fn a_pause_grants_nothing_before_its_end_and_one_call_at_it() {
        for rate in [
            per_second(10, 3),
            per_second(0, 3),
            rate(1, Duration::ZERO, 1),
        ] {
            let gcra = Gcra::new();
            gcra.pause(5 * SECOND);
            gcra.pause(SECOND);
            assert!(gcra.take(rate, 1, 5 * SECOND - 1, 0).is_err());
            assert_eq!(gcra.available(rate, 5 * SECOND - 1), 0);
            assert_eq!(gcra.take(rate, 1, 5 * SECOND, 0).is_ok(), rate.burst > 0);
        }
    }

    #[test]
    fn a_changed_rate_leaves_turns_where_they_are() {
        let (gcra, slow, fast) = (Gcra::new(), per_second(1, 1), per_second(10, 1));
        gcra.take(slow, 1, 0, 0).unwrap();
        gcra.take(slow, 1, 0, u64::MAX).unwrap();
        assert_eq!(
            gcra.take(fast, 1, 0, u64::MAX).unwrap().turn,
            SECOND + SECOND / 10
        );
    }

    #[test]
    fn what_does_not_fit_is_a_no() {
        let gcra = Gcra::new();
        let forever = rate(1, Duration::MAX, 1);
        assert!(gcra.take(forever, 1, 0, 0).is_ok());
        assert!(gcra.take(forever, 1, SHIFT - 1, 0).is_err());
        assert_eq!(
            gcra.take(per_second(1, 1), 1, u64::MAX, u64::MAX),
            Err(Refusal::Never)
        );
        assert_eq!(
            gcra.take(per_second(0, 1), 1, 0, u64::MAX),
            Err(Refusal::Never)
        );
        assert_eq!(
            gcra.take(per_second(9, 2), 3, 0, u64::MAX),
            Err(Refusal::TooCostly)
        );
    }

    fn durations() -> impl Strategy<Value = Duration> {
        prop_oneof![
            Just(Duration::ZERO),
            (0..1_000_u64).prop_map(Duration::from_nanos),
            (0..10_000_000_000_u64).prop_map(Duration::from_nanos),
            (0..4_000_000_000_u64).prop_map(Duration::from_secs),
            Just(Duration::MAX),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// L1, over turns: what waits counts at its turn, what goes at once counts at `now`.
        #[test]
        fn no_window_holds_more_than_the_burst_and_its_share(
            n in 1..50_u32,
            per in durations(),
            burst in prop::option::of(0..20_u32),
            strict: bool,
            calls in prop::collection::vec((0..3_u64, 0..2_000_000_000_u64, 1..4_u32, any::<bool>()), 1..80),
        ) {
            let quota = if strict { Quota::at_most(n, per) } else { Quota::new(n, per) };
            let quota = burst.map_or(quota, |burst| quota.burst(burst));
            let rate = quota.rate();
            let gcra = Gcra::new();
            let mut now = 0;
            let mut grants: Vec<(u64, u32)> = Vec::new();
            for (scale, step, cost, give_back) in calls {
                now += step * [0, 1, rate.interval.min(SECOND)][scale as usize] / 7;
                match gcra.take(rate, cost, now, rate.span(3)) {
                    Ok(cell) if give_back && cell.turn > now => gcra.give_back(cell),
                    Ok(cell) => grants.push((cell.turn.max(now), cost)),
                    Err(Refusal::TooCostly) => prop_assert!(cost > rate.burst),
                    Err(_) => {}
                }
            }
            if rate.interval == 0 {
                return Ok(()); // unlimited
            }
            grants.sort_unstable();
            for (i, &(from, _)) in grants.iter().enumerate() {
                let mut sum = 0;
                for &(to, cost) in &grants[i..] {
                    sum += u64::from(cost);
                    let width = to - from;
                    prop_assert!(sum <= u64::from(rate.burst) + width / rate.interval);
                    if strict && width < Rate::LONGEST && u128::from(width) <= per.as_nanos() {
                        prop_assert!(sum <= u64::from(n), "{sum} in {width} ns");
                    }
                }
            }
        }
    }
}

#[cfg(all(test, buttress_loom))]
mod models {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    const RATE: Rate = Rate {
        interval: 10,
        burst: 1,
    };

    #[test]
    fn a_turn_taken_while_another_is_given_back_never_shares_it() {
        loom::model(|| {
            let gcra = Arc::new(Gcra::new());
            gcra.take(RATE, 1, 0, 0).unwrap();
            let waiting = gcra.take(RATE, 1, 0, 100).unwrap();
            let other = gcra.clone();
            let taker = thread::spawn(move || other.take(RATE, 1, 0, 100).unwrap().turn);
            gcra.give_back(waiting);
            let taken = taker.join().unwrap();
            let next = gcra.take(RATE, 1, 0, 100).unwrap().turn;
            // Either the given-back turn was handed on, or it was forfeited: none twice, and the
            // next one comes right after.
            assert!(taken == 10 || taken == 20, "{taken}");
            assert_eq!(next, taken + 10);
        });
    }

    #[test]
    fn two_takers_never_share_a_turn() {
        loom::model(|| {
            let gcra = Arc::new(Gcra::new());
            let other = gcra.clone();
            let one = thread::spawn(move || other.take(RATE, 1, 0, 100).unwrap().turn);
            let two = gcra.take(RATE, 1, 0, 100).unwrap().turn;
            assert_eq!(one.join().unwrap() + two, 10);
        });
    }
}
