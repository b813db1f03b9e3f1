//! The core of the concurrency limit, in one word: `[limit:24][in_flight:24][waiting:16]`.
//!
//! The transitions are pure functions, and a compare-and-swap applies them. The queue knows who waits
//! and wakes them. The word only counts the waiters, to decide whether a newcomer may go first.

use crate::sync::{AtomicU64, Ordering::AcqRel, Ordering::Acquire};

/// The largest limit.
pub(super) const MAX_LIMIT: usize = (1 << 24) - 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) limit: u32,
    pub(super) in_flight: u32,
    pub(super) waiting: u16,
}

impl From<u64> for Counts {
    fn from(word: u64) -> Self {
        Self {
            limit: (word >> 40) as u32,
            in_flight: (word >> 16) as u32 & MAX_LIMIT as u32,
            waiting: word as u16,
        }
    }
}

impl From<Counts> for u64 {
    fn from(counts: Counts) -> Self {
        // The fields do not overlap: `|` and `^` give the same result.
        u64::from(counts.limit) << 40
            | u64::from(counts.in_flight) << 16
            | u64::from(counts.waiting)
    }
}

impl Counts {
    /// A newcomer takes a slot, if one is free and no call waits.
    #[inline]
    fn taken(self) -> Option<Self> {
        let free = self.in_flight < self.limit && self.waiting == 0;
        free.then(|| Self {
            in_flight: self.in_flight + 1,
            ..self
        })
    }

    /// A call ends and no waiter gets its slot: no call waits, or the limit is now below the calls in
    /// flight.
    #[inline]
    fn released(self) -> Option<Self> {
        let free = self.waiting == 0 || self.in_flight > self.limit;
        free.then(|| Self {
            in_flight: self.in_flight - 1,
            ..self
        })
    }

    /// A newcomer takes a place in a queue of `len` places.
    fn joined(self, len: u16) -> Option<Self> {
        (self.waiting < len).then(|| Self {
            waiting: self.waiting + 1,
            ..self
        })
    }

    /// A waiter leaves without a slot.
    fn left(self) -> Self {
        Self {
            waiting: self.waiting - 1,
            ..self
        }
    }

    /// A call ends and a waiter gets its slot.
    fn inherited(self) -> Self {
        self.left()
    }

    /// A waiter gets a slot that a raised limit has added.
    fn promoted(self) -> Option<Self> {
        let room = self.waiting > 0 && self.in_flight < self.limit;
        room.then(|| Self {
            in_flight: self.in_flight + 1,
            waiting: self.waiting - 1,
            ..self
        })
    }
}

/// What a newcomer got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// A slot.
    Admitted,
    /// A place in the queue.
    Queued,
    /// Nothing.
    Full,
}

/// What becomes of the slot of a call that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// It is free.
    Free,
    /// It belongs to the first waiter.
    Inherited,
}

#[derive(Debug)]
pub(super) struct Limiter {
    word: AtomicU64,
}

impl Limiter {
    pub(super) fn new(limit: usize) -> Self {
        let counts = Counts {
            limit: saturate(limit),
            in_flight: 0,
            waiting: 0,
        };
        Self {
            word: AtomicU64::new(counts.into()),
        }
    }

    #[inline]
    pub(super) fn counts(&self) -> Counts {
        // Acquire: the reader sees what other threads did before the change that it reads.
        self.word.load(Acquire).into()
    }

    /// Takes a slot if one is free and no call waits.
    #[inline]
    pub(super) fn try_acquire(&self) -> bool {
        self.update(Counts::taken).is_ok()
    }

    /// Takes a slot, or else a place in a queue of `len`. Needs the queue's lock.
    pub(super) fn enter(&self, len: u16) -> Entry {
        match self.update(|counts| counts.taken().or_else(|| counts.joined(len))) {
            Ok(before) if before.taken().is_some() => Entry::Admitted,
            Ok(_) => Entry::Queued,
            Err(_) => Entry::Full,
        }
    }

    /// Frees a slot, if no waiter has to get it.
    #[inline]
    pub(super) fn try_release(&self) -> bool {
        self.update(Counts::released).is_ok()
    }

    /// Frees a slot, or leaves it to the first waiter. Needs the queue's lock.
    pub(super) fn release(&self) -> Exit {
        match self.update(|counts| counts.released().or_else(|| Some(counts.inherited()))) {
            Ok(before) if before.released().is_none() => Exit::Inherited,
            _ => Exit::Free,
        }
    }

    /// Gives up a place in the queue. Needs the queue's lock.
    pub(super) fn leave(&self) {
        let _always = self.update(|counts| Some(counts.left()));
    }

    /// Changes the limit. Returns whether a waiter may now get a slot.
    pub(super) fn set_limit(&self, limit: usize) -> bool {
        let limit = saturate(limit);
        let before = self.update(|counts| Some(Counts { limit, ..counts }));
        before.is_ok_and(|counts| counts.waiting > 0)
    }

    /// Gives one waiter a slot if one is free. Needs the queue's lock.
    pub(super) fn promote(&self) -> bool {
        self.update(Counts::promoted).is_ok()
    }

    /// Applies a transition. Returns the counts it was applied to.
    #[inline]
    fn update(&self, next: impl Fn(Counts) -> Option<Counts>) -> Result<Counts, Counts> {
        // AcqRel: a thread that takes a slot sees everything that its previous holder did. Acquire on
        // failure and for the first load: a rejection too must be based on the newest counts.
        self.word
            .fetch_update(AcqRel, Acquire, |word| next(word.into()).map(u64::from))
            .map(Counts::from)
            .map_err(Counts::from)
    }
}

fn saturate(limit: usize) -> u32 {
    limit.min(MAX_LIMIT) as u32
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use super::*;

    #[test]
    fn full_fields_do_not_overflow_into_their_neighbours() {
        let counts = Counts {
            limit: MAX_LIMIT as u32,
            in_flight: MAX_LIMIT as u32,
            waiting: u16::MAX,
        };
        assert_eq!(Counts::from(u64::from(counts)), counts);
        assert_eq!(counts.taken(), None);
        assert_eq!(counts.joined(u16::MAX), None);
        assert_eq!(counts.promoted(), None);
    }

    #[test]
    fn a_lowered_limit_takes_effect_before_a_waiter_gets_a_slot() {
        let limiter = Limiter::new(2);
        assert!(limiter.try_acquire() && limiter.try_acquire());
        assert_eq!(limiter.enter(1), Entry::Queued);
        limiter.set_limit(1);
        assert_eq!(limiter.release(), Exit::Free);
        assert_eq!(limiter.release(), Exit::Inherited);
        assert_eq!(
            limiter.counts(),
            Counts {
                limit: 1,
                in_flight: 1,
                waiting: 0
            }
        );
    }

    #[test]
    fn a_newcomer_does_not_overtake_a_waiter() {
        let limiter = Limiter::new(0);
        assert_eq!(limiter.enter(2), Entry::Queued);
        assert!(limiter.set_limit(5));
        assert!(!limiter.try_acquire());
        assert_eq!(limiter.enter(2), Entry::Queued);
        assert!(limiter.promote() && limiter.promote() && !limiter.promote());
        assert!(limiter.try_acquire());
    }
}

#[cfg(all(test, buttress_loom))]
mod models {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    #[test]
    fn acquire_release_and_a_change_of_limit_never_admit_above_the_limit() {
        loom::model(|| {
            let limiter = Arc::new(Limiter::new(1));
            let caller = |limiter: Arc<Limiter>| {
                move || {
                    if limiter.try_acquire() {
                        // In between: a limit of this model allowed the calls in flight.
                        let counts = limiter.counts();
                        assert!((1..=2).contains(&counts.in_flight), "{counts:?}");
                        assert!(limiter.try_release());
                    }
                }
            };
            let one = thread::spawn(caller(limiter.clone()));
            let two = thread::spawn(caller(limiter.clone()));
            limiter.set_limit(2);
            one.join().unwrap();
            two.join().unwrap();
            assert_eq!(
                limiter.counts(),
                Counts {
                    limit: 2,
                    in_flight: 0,
                    waiting: 0
                }
            );
        });
    }

    #[test]
    fn of_two_calls_a_limit_of_one_admits_one() {
        loom::model(|| {
            let limiter = Arc::new(Limiter::new(1));
            let other = limiter.clone();
            let one = thread::spawn(move || other.try_acquire());
            let two = limiter.try_acquire();
            assert!(one.join().unwrap() ^ two);
        });
    }
}
