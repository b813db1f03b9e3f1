//! The core: the generic cell rate algorithm (ITU-T I.371) in one word, `[waiting:1][newest:63]`.
//!
//! `newest` is the latest turn that was handed out. A call of cost c gets the turn
//! `max(newest, now − burst · interval) + c · interval`, and is granted when that time has come.
//! Textbooks store the theoretical arrival time, one burst later. A turn has the advantage that it
//! stays valid when the rate changes.
//!
//! While the bit is set, at least one call waits or is about to. Then every call goes to the queue,
//! and only the holder of the queue's lock writes the word.
//!
//! Without leases, every access is `Relaxed`. A turn publishes no other data: single instructions read and write the
//! word, and everything that must agree with it is guarded by the queue's lock.
//!
//! A limiter of a fleet has *leased* turns. The word publishes the lease: it is written under the lock before the
//! word, and read after it. No two leases share a value of the word, so a call that took its turn from the word has
//! read the lease that the turn belongs to.

use super::lease::Lease;
use super::quota::Rate;
use crate::sync::{AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

/// Where the core's time begins, in nanoseconds. A new limiter's burst lies before it.
pub(super) const ORIGIN: u64 = Rate::LONGEST;

/// The bit that sends calls to the queue.
const WAITING: u64 = 1 << 63;

/// Where the core's time ends, 146 years after [`ORIGIN`].
pub(super) const END: u64 = WAITING - 1;

/// Why a call was refused. It has taken nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Its turn would come in this many nanoseconds, later than the call may wait.
    After(u64),
    /// The quota admits nothing, or the turn would come after the end of time.
    Never,
    /// Its cost is above the burst.
    TooCostly,
}

/// What a call gets if it is not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Granted(Grant),
    /// Its turn comes in this many nanoseconds if nobody else calls.
    Later(u64),
    /// Other calls wait already.
    Behind,
}

/// A turn that was granted at once, as the newest turn before it and after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    pub(super) before: u64,
    pub(super) after: u64,
}

#[derive(Debug)]
pub(super) struct Gcra {
    word: AtomicU64,
    /// No call goes before this time; 0 without a pause. Written only under the queue's lock.
    paused: AtomicU64,
    /// Of a fleet: turns come from leases only.
    leased: Option<Leased>,
}

/// The current lease.
#[derive(Debug)]
struct Leased {
    last: AtomicU64,
    interval: AtomicU64,
    until: AtomicU64,
}

impl Gcra {
    pub(super) fn new() -> Self {
        Self {
            word: AtomicU64::new(0),
            paused: AtomicU64::new(0),
            leased: None,
        }
    }

    /// A limiter that grants only turns of the lease that [`set_lease`](Self::set_lease) sets.
    pub(super) fn leased() -> Self {
        let leased = Leased {
            last: AtomicU64::new(0),
            interval: AtomicU64::new(1),
            until: AtomicU64::new(0),
        };
        Self {
            leased: Some(leased),
            ..Self::new()
        }
    }

    /// Takes a turn, if it has come and no call waits.
    #[inline]
    pub(super) fn take(&self, rate: Rate, cost: u32, now: u64) -> Result<Answer, Refusal> {
        admits(rate, cost)?;
        let (span, paused) = (rate.span(cost), self.paused());
        if let Some(leased) = self.leased.as_ref().filter(|_| span > 0) {
            return Ok(self.take_leased(leased, cost, now));
        }
        let mut newest = self.word.load(Relaxed);
        loop {
            if newest >= WAITING {
                return Ok(Answer::Behind);
            }
            let turn = turn(rate, newest, paused, span, now);
            if turn > now {
                return match turn {
                    u64::MAX => Err(Refusal::Never),
                    _ => Ok(Answer::Later(turn - now)),
                };
            }
            if span == 0 {
                // A free call: nothing to write.
                let (before, after) = (newest, newest);
                return Ok(Answer::Granted(Grant { before, after }));
            }
            match self
                .word
                .compare_exchange_weak(newest, turn, Relaxed, Relaxed)
            {
                Ok(before) => {
                    let after = turn;
                    return Ok(Answer::Granted(Grant { before, after }));
                }
                Err(newer) => newest = newer,
            }
        }
    }

    fn take_leased(&self, leased: &Leased, cost: u32, now: u64) -> Answer {
        let mut newest = self.word.load(Acquire);
        loop {
            let paused = self.paused();
            if newest >= WAITING || paused > now {
                return Answer::Behind;
            }
            let interval = leased.interval.load(Relaxed);
            let turn = newest
                .max(paused.saturating_sub(interval))
                .saturating_add(interval.saturating_mul(cost.into()));
            let last = leased.last.load(Relaxed).min(now);
            if turn > last || now > leased.until.load(Relaxed) {
                return Answer::Behind;
            }
            match self
                .word
                .compare_exchange_weak(newest, turn, Release, Acquire)
            {
                Ok(before) => {
                    let after = turn;
                    return Answer::Granted(Grant { before, after });
                }
                Err(newer) => newest = newer,
            }
        }
    }

    pub(super) fn is_leased(&self) -> bool {
        self.leased.is_some()
    }

    /// Sets the current lease. Needs the queue's lock, and [`thaw`](Self::thaw) after it.
    pub(super) fn set_lease(&self, lease: Lease) {
        if let Some(leased) = &self.leased {
            leased.last.store(lease.last, Relaxed);
            leased.interval.store(lease.interval, Relaxed);
            leased.until.store(lease.until, Relaxed);
        }
    }

    /// Gives back a turn that was not used. The turn is lost if later turns were handed out or calls
    /// wait: handing it out again could then exceed the quota.
    pub(super) fn give_back(&self, grant: Grant) {
        let Grant { before, after } = grant;
        let _lost = self.word.compare_exchange(after, before, Relaxed, Relaxed);
    }

    /// Sends every call to the queue. Returns the newest turn. Like all methods below, it needs the
    /// queue's lock.
    pub(super) fn freeze(&self) -> u64 {
        self.word.fetch_or(WAITING, Acquire) & !WAITING
    }

    /// Writes the newest turn. Unless calls wait, calls no longer have to go to the queue.
    pub(super) fn thaw(&self, newest: u64, waiting: bool) {
        let bit = if waiting { WAITING } else { 0 };
        self.word.store(newest | bit, Release);
    }

    pub(super) fn newest(&self) -> u64 {
        self.word.load(Relaxed) & !WAITING
    }

    pub(super) fn paused(&self) -> u64 {
        self.paused.load(Relaxed)
    }

    pub(super) fn set_paused(&self, until: u64) {
        self.paused.store(until, Relaxed);
    }

    /// The calls of cost 1 that would be granted at once if no call waits.
    pub(super) fn available(&self, rate: Rate, now: u64) -> u32 {
        let paused = self.paused();
        if let Some(leased) = self.leased.as_ref().filter(|_| rate.interval > 0) {
            let valid = paused <= now && now <= leased.until.load(Relaxed);
            let last = leased.last.load(Relaxed).min(now);
            let due = last.saturating_sub(self.newest()) / leased.interval.load(Relaxed);
            return if valid { due as u32 } else { 0 };
        }
        let rested = now
            .saturating_sub(self.newest().max(paused.saturating_sub(rate.interval)))
            .min(rate.span(rate.burst));
        match rested.checked_div(rate.interval) {
            Some(calls) => calls as u32, // at most the burst
            None if paused <= now => rate.burst,
            None => 0,
        }
    }
}

/// Whether a call of this cost can ever be granted.
#[inline]
pub(super) fn admits(rate: Rate, cost: u32) -> Result<(), Refusal> {
    if rate.burst == 0 {
        return Err(Refusal::Never);
    }
    if cost > rate.burst {
        return Err(Refusal::TooCostly);
    }
    Ok(())
}

/// When calls that take `span` together have all had their turns. Saturates.
#[inline]
pub(super) fn turn(rate: Rate, newest: u64, paused: u64, span: u64, now: u64) -> u64 {
    if span == 0 {
        return paused; // a free call: only a pause holds it back
    }
    // When a pause ends, the burst is empty and one call may go.
    let before = newest
        .max(paused.saturating_sub(rate.interval))
        .max(now.saturating_sub(rate.span(rate.burst)));
    before.saturating_add(span).max(paused)
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use super::*;
    use crate::rate_limit::Quota;
    use std::time::Duration;

    const SECOND: u64 = 1_000_000_000;

    fn rate(n: u32, per: Duration, burst: u32) -> Rate {
        Quota::new(n, per).burst(burst).rate()
    }

    fn per_second(n: u32, burst: u32) -> Rate {
        rate(n, Duration::from_secs(1), burst)
    }

    /// Takes a turn at `now` after the origin.
    fn take(gcra: &Gcra, rate: Rate, cost: u32, now: u64) -> Result<Answer, Refusal> {
        gcra.take(rate, cost, ORIGIN + now)
    }

    fn granted(answer: Result<Answer, Refusal>) -> bool {
        matches!(answer, Ok(Answer::Granted(_)))
    }

    #[test]
    fn an_unused_turn_comes_back_unless_later_turns_were_granted() {
        let (gcra, rate) = (Gcra::new(), per_second(1, 2));
        let take = || match take(&gcra, rate, 1, 0) {
            Ok(Answer::Granted(grant)) => Some(grant),
            _ => None,
        };
        let (first, second) = (take().unwrap(), take().unwrap());
        gcra.give_back(first);
        assert_eq!(take(), None);
        gcra.give_back(second);
        assert!(take().is_some());
        assert_eq!(take(), None);
    }

    #[test]
    fn a_turn_comes_at_exactly_the_nanosecond_that_was_announced() {
        let (gcra, rate) = (Gcra::new(), per_second(7, 1));
        take(&gcra, rate, 1, 5).unwrap();
        let Ok(Answer::Later(wait)) = take(&gcra, rate, 1, 10) else {
            panic!("granted")
        };
        let due = 10 + wait;
        assert_eq!(take(&gcra, rate, 1, due - 1), Ok(Answer::Later(1)));
        assert!(granted(take(&gcra, rate, 1, due)));
    }

    #[test]
    fn a_call_that_is_not_granted_writes_nothing() {
        let (gcra, rate) = (Gcra::new(), per_second(1, 1));
        take(&gcra, rate, 1, 0).unwrap();
        for _ in 0..100 {
            assert_eq!(take(&gcra, rate, 1, 0), Ok(Answer::Later(SECOND)));
        }
    }

    #[test]
    fn after_a_year_without_calls_the_burst_is_not_larger() {
        let (gcra, rate) = (Gcra::new(), per_second(1, 5));
        let year = 365 * 86_400 * SECOND;
        let granted = (0..100).filter(|_| granted(take(&gcra, rate, 1, year)));
        assert_eq!(granted.count(), 5);
        assert_eq!(gcra.available(rate, ORIGIN + year), 0);
    }

    #[test]
    fn the_available_calls_refill_to_the_burst_and_no_further() {
        let (gcra, rate) = (Gcra::new(), per_second(1, 2));
        take(&gcra, rate, 2, 0).unwrap();
        for (seconds, available) in [(0, 0), (1, 1), (2, 2), (60, 2)] {
            let now = ORIGIN + seconds * SECOND;
            assert_eq!(gcra.available(rate, now), available);
        }
    }

    #[test]
    fn a_pause_grants_nothing_before_its_end_and_one_call_at_it() {
        for rate in [
            per_second(10, 3),
            per_second(0, 3),
            rate(1, Duration::ZERO, 1),
        ] {
            let gcra = Gcra::new();
            gcra.set_paused(ORIGIN + 5 * SECOND);
            let granted = |now| granted(take(&gcra, rate, 1, now));
            assert!(!granted(5 * SECOND - 1));
            assert_eq!(gcra.available(rate, ORIGIN + 5 * SECOND - 1), 0);
            assert_eq!(granted(5 * SECOND), rate.burst > 0);
        }
    }

    #[test]
    fn a_changed_rate_counts_from_the_newest_turn() {
        let (gcra, slow, fast) = (Gcra::new(), per_second(1, 1), per_second(10, 1));
        take(&gcra, slow, 1, 0).unwrap();
        assert_eq!(take(&gcra, fast, 1, 0), Ok(Answer::Later(SECOND / 10)));
    }

    #[test]
    fn while_calls_wait_every_call_goes_to_the_queue() {
        let (gcra, rate) = (Gcra::new(), per_second(10, 3));
        let newest = gcra.freeze();
        assert_eq!(take(&gcra, rate, 1, SECOND), Ok(Answer::Behind));
        gcra.thaw(newest, true);
        assert_eq!(take(&gcra, rate, 1, SECOND), Ok(Answer::Behind));
        gcra.thaw(newest, false);
        assert!(granted(take(&gcra, rate, 1, SECOND)));
    }

    #[test]
    fn a_turn_beyond_the_end_of_time_is_refused() {
        let gcra = Gcra::new();
        let forever = rate(1, Duration::MAX, 1);
        assert!(granted(take(&gcra, forever, 1, 0)));
        assert_eq!(take(&gcra, forever, 1, END - ORIGIN), Ok(Answer::Later(1)));
        gcra.set_paused(u64::MAX);
        assert_eq!(take(&gcra, forever, 1, 0), Err(Refusal::Never));
        assert_eq!(take(&gcra, per_second(0, 1), 1, 0), Err(Refusal::Never));
        assert_eq!(take(&gcra, per_second(9, 2), 3, 0), Err(Refusal::TooCostly));
    }
}

#[cfg(all(test, buttress_loom))]
mod models {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    #[test]
    fn two_threads_never_share_a_turn() {
        loom::model(|| {
            let rate = Rate {
                interval: 10,
                burst: 1,
            };
            let gcra = Arc::new(Gcra::new());
            let other = gcra.clone();
            let one = thread::spawn(move || other.take(rate, 1, ORIGIN).unwrap());
            let mut answers = [gcra.take(rate, 1, ORIGIN).unwrap(), one.join().unwrap()];
            answers.sort_unstable_by_key(|answer| matches!(answer, Answer::Granted(_)));
            assert!(matches!(answers, [Answer::Later(10), Answer::Granted(_)]));
        });
    }
}
