//! The calls that wait for a slot, in order of arrival. Only two kinds of calls take its lock: those
//! that wait, and those that end while others wait.

use super::slots::{Counts, Entry, Exit, Limiter};
use crate::sync::{Mutex, MutexGuard};
use std::collections::VecDeque;
use std::sync::PoisonError;
use std::task::{Context, Poll, Waker};

/// A limiter, and the waiters that it counts. `waiting` changes only under the lock. Whenever the lock
/// is free, it equals the length of the list.
#[derive(Debug)]
pub(super) struct Queue {
    limiter: Limiter,
    len: u16,
    waiters: Mutex<Waiters>,
}

#[derive(Debug)]
struct Waiters {
    /// Tickets ascend, so a waiter is found by binary search.
    list: VecDeque<Waiter>,
    next_ticket: u64,
}

#[derive(Debug)]
struct Waiter {
    ticket: Ticket,
    /// `None` until the waiter is first polled.
    waker: Option<Waker>,
}

/// A place in the queue. Its holder must redeem it or give it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

impl Queue {
    pub(super) fn new(limit: usize, len: u16) -> Self {
        let list = VecDeque::with_capacity(usize::from(len));
        Self {
            limiter: Limiter::new(limit),
            len,
            waiters: Mutex::new(Waiters {
                list,
                next_ticket: 0,
            }),
        }
    }

    #[inline]
    pub(super) fn counts(&self) -> Counts {
        self.limiter.counts()
    }

    #[inline]
    pub(super) fn len(&self) -> u16 {
        self.len
    }

    #[inline]
    pub(super) fn try_acquire(&self) -> bool {
        self.limiter.try_acquire()
    }

    /// Takes a slot or a place in the queue, if there is one.
    pub(super) fn enter(&self) -> (Entry, Option<Ticket>) {
        let mut waiters = self.lock();
        let entry = self.limiter.enter(self.len);
        if entry != Entry::Queued {
            return (entry, None);
        }
        let ticket = Ticket(waiters.next_ticket);
        waiters.next_ticket += 1;
        waiters.list.push_back(Waiter {
            ticket,
            waker: None,
        });
        (entry, Some(ticket))
    }

    /// Ready when the ticket has its slot, which then belongs to the holder of the ticket.
    pub(super) fn poll_turn(&self, ticket: Ticket, cx: &Context<'_>) -> Poll<()> {
        // Wakers are user code: clone one before taking the lock, drop one after releasing it.
        let waker = cx.waker().clone();
        let mut waiters = self.lock();
        let Some(place) = waiters.place_of(ticket) else {
            return Poll::Ready(());
        };
        let previous = waiters.list[place].waker.replace(waker);
        drop(waiters);
        drop(previous);
        Poll::Pending
    }

    /// Gives a ticket up. If it already had its slot, the next waiter gets the slot.
    pub(super) fn leave(&self, ticket: Ticket) {
        let mut waiters = self.lock();
        let Some(place) = waiters.place_of(ticket) else {
            drop(waiters);
            return self.release();
        };
        let waiter = waiters.list.remove(place);
        self.limiter.leave();
        drop(waiters);
        drop(waiter);
    }

    /// Ends a call: its slot goes to the first waiter or is free.
    #[inline]
    pub(super) fn release(&self) {
        if !self.limiter.try_release() {
            self.hand_over();
        }
    }

    /// Ends a call while others wait.
    #[cold]
    fn hand_over(&self) {
        let mut waiters = self.lock();
        let heir = match self.limiter.release() {
            Exit::Inherited => waiters.list.pop_front(),
            Exit::Free => None,
        };
        drop(waiters);
        wake(heir);
    }

    pub(super) fn set_limit(&self, limit: usize) {
        if !self.limiter.set_limit(limit) {
            return;
        }
        loop {
            let mut waiters = self.lock();
            if !self.limiter.promote() {
                return;
            }
            let waiter = waiters.list.pop_front();
            drop(waiters);
            wake(waiter);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiters> {
        // Nothing panics under the lock, so a poisoned lock still guards valid data.
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiters {
    fn place_of(&self, ticket: Ticket) -> Option<usize> {
        self.list
            .binary_search_by_key(&ticket, |waiter| waiter.ticket)
            .ok()
    }
}

fn wake(waiter: Option<Waiter>) {
    if let Some(waker) = waiter.and_then(|waiter| waiter.waker) {
        waker.wake();
    }
}

#[cfg(all(test, buttress_loom))]
mod models {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    /// A limit of one with its slot taken, and a call that waits for it.
    fn waited_for() -> (Arc<Queue>, Ticket) {
        let queue = Arc::new(Queue::new(1, 2));
        assert!(queue.try_acquire());
        let (entry, ticket) = queue.enter();
        assert_eq!(entry, Entry::Queued);
        (queue, ticket.unwrap())
    }

    fn assert_idle(queue: &Queue) {
        let Counts {
            in_flight, waiting, ..
        } = queue.counts();
        assert_eq!((in_flight, waiting), (0, 0));
        assert!(queue.lock().list.is_empty());
    }

    #[test]
    fn a_slot_released_while_the_last_waiter_leaves_is_free() {
        loom::model(|| {
            let (queue, ticket) = waited_for();
            let other = queue.clone();
            let leaving = thread::spawn(move || other.leave(ticket));
            queue.release();
            leaving.join().unwrap();
            assert_idle(&queue);
        });
    }

    #[test]
    fn a_slot_released_while_the_limit_is_raised_lets_the_waiter_go_once() {
        loom::model(|| {
            let (queue, ticket) = waited_for();
            let other = queue.clone();
            let raising = thread::spawn(move || other.set_limit(2));
            queue.release();
            raising.join().unwrap();
            let Counts {
                in_flight, waiting, ..
            } = queue.counts();
            assert_eq!((in_flight, waiting), (1, 0));
            queue.leave(ticket);
            assert_idle(&queue);
        });
    }

    #[test]
    fn a_newcomer_that_races_a_release_gets_the_slot_at_once_or_from_the_queue() {
        loom::model(|| {
            let queue = Arc::new(Queue::new(1, 2));
            assert!(queue.try_acquire());
            let other = queue.clone();
            let newcomer = thread::spawn(move || other.enter().0);
            queue.release();
            let entry = newcomer.join().unwrap();
            assert_ne!(entry, Entry::Full);
            let Counts {
                in_flight, waiting, ..
            } = queue.counts();
            assert_eq!((in_flight, waiting), (1, 0));
        });
    }
}
