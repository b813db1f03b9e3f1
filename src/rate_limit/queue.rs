//! The calls that wait for their turn, in order of arrival. Only two kinds of calls take the queue's
//! lock: those that wait, and those that come or leave while others wait.
//!
//! A turn is handed out when it is due, by the next *visit* to the queue. Visitors are waiters whose
//! alarm rings, newcomers, and waiters that leave. So no waiter depends on one particular task.
//!
//! A visit holds the lock and sets the waiting bit of the GCRA's word. It works on a copy of the newest
//! turn and writes it back at the end. Whenever the lock is free, the bit is set exactly if calls wait.

use super::gcra::{Answer, Gcra, Grant, Refusal};
use super::lease::LeaseSettings;
use super::leases::{LeaseCounts, Leases};
use super::ledger::{Ask, Reply};
use super::quota::{Quota, Rate, SharedRate};
use super::visit::{Place, Ticket, Visit, Waiters};
use crate::sync::{Mutex, MutexGuard};
use std::fmt;
use std::sync::PoisonError;
use std::task::Waker;

pub(super) struct Queue {
    gcra: Gcra,
    /// The rate of [`Waiters::quota`], for readers without the lock.
    rate: SharedRate,
    waiters: Mutex<Waiters>,
    /// Of a fleet.
    ask_store: Option<AskStore>,
}

/// What a call gets if it is not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// Its turn. `None` if the queue granted it: then it cannot be given back.
    Now(Option<Grant>),
    /// A place in the queue.
    Wait(Ticket),
}

/// Sends a request to the store of a fleet, and tells the queue what came of it. Called without locks.
pub(super) type AskStore = Box<dyn Fn(u64, Ask) + Send + Sync>;

impl Queue {
    pub(super) fn new(quota: Quota) -> Self {
        Self::of(quota, Gcra::new(), None, None)
    }

    /// A queue whose turns come from leases.
    pub(super) fn leased(
        quota: Quota,
        settings: LeaseSettings,
        ask_store: AskStore,
        now: u64,
    ) -> Self {
        let leases = Leases::new(settings, now);
        Self::of(quota, Gcra::leased(), Some(leases), Some(ask_store))
    }

    fn of(quota: Quota, gcra: Gcra, leases: Option<Leases>, ask_store: Option<AskStore>) -> Self {
        Self {
            gcra,
            rate: SharedRate::new(quota.rate()),
            waiters: Mutex::new(Waiters::new(quota, leases)),
            ask_store,
        }
    }

    /// Takes a turn if it has come, or else a place if the turn comes within `max_wait`.
    #[inline]
    pub(super) fn take(
        &self,
        cost: u32,
        now: u64,
        max_wait: impl FnOnce() -> u64,
    ) -> Result<Entry, Refusal> {
        let answer = self.gcra.take(self.rate.load(), cost, now)?;
        if let Answer::Granted(grant) = answer {
            return Ok(Entry::Now(Some(grant)));
        }
        let max_wait = max_wait();
        match answer {
            Answer::Later(wait) if wait > max_wait => Err(Refusal::After(wait)),
            _ => Ok(match self.join(cost, now, max_wait)? {
                None => Entry::Now(None),
                Some(ticket) => Entry::Wait(ticket),
            }),
        }
    }

    /// Gives back a turn that was granted at once and not used.
    pub(super) fn give_back(&self, grant: Grant, now: impl FnOnce() -> u64) {
        if self.gcra.is_leased() {
            self.visit(now(), |visit| visit.give_back(grant));
        } else {
            self.gcra.give_back(grant);
        }
    }

    fn join(&self, cost: u32, now: u64, max_wait: u64) -> Result<Option<Ticket>, Refusal> {
        self.visit(now, |visit| {
            visit.hand_out();
            visit.enter(cost, max_wait)
        })
    }

    /// Where a waiter stands. `waker` is woken when that changes.
    pub(super) fn poll(&self, ticket: Ticket, now: u64, waker: Waker) -> Place {
        let mut waker = Some(waker);
        let (place, _replaced) = self.visit(now, |visit| {
            // Take the old waker first, so that this visit does not wake its own task.
            let waiter = visit.waiters.waiter(ticket);
            let replaced = waiter.and_then(|waiter| waiter.waker.take());
            visit.hand_out();
            let place = visit.place(ticket);
            if let Some(waiter) = visit.waiters.waiter(ticket) {
                waiter.waker = waker.take();
            }
            (place, replaced)
        });
        place
    }

    /// Uses a turn.
    pub(super) fn spend(&self, ticket: Ticket) {
        self.lock().settled.remove(&ticket);
    }

    /// Gives up a place, or the turn if it has come.
    pub(super) fn leave(&self, ticket: Ticket, now: u64) {
        let _left = self.visit(now, |visit| {
            if let Some(Ok(handed)) = visit.waiters.settled.remove(&ticket) {
                visit.take_back(handed);
            }
            visit.waiters.remove(ticket)
        });
    }

    /// Changes the quota. Turns that are due already are handed out by the old one.
    pub(super) fn set_quota(&self, quota: Quota, now: u64) {
        self.visit(now, |visit| {
            visit.hand_out();
            visit.waiters.quota = quota;
            visit.rate = quota.rate();
            self.rate.store(visit.rate);
            visit.change();
        });
    }

    /// Grants no turn before `until`. Has no effect during a pause that ends later.
    pub(super) fn pause(&self, until: u64, now: u64) {
        self.visit(now, |visit| {
            visit.hand_out();
            if until > visit.paused {
                visit.paused = until;
                self.gcra.set_paused(until);
                visit.change();
            }
        });
    }

    /// Ends a pause.
    pub(super) fn resume(&self, now: u64) {
        self.visit(now, |visit| {
            visit.paused = 0;
            self.gcra.set_paused(0);
            visit.change();
        });
    }

    /// Brings the answer of a store to a request. Returns whether it makes sense; if not, the request has failed.
    pub(super) fn answered(&self, id: u64, reply: Reply, now: u64) -> bool {
        self.visit(now, |visit| {
            visit.hand_out();
            visit.answered(id, reply)
        })
    }

    /// A request to a store has failed. The next may be sent at `again`.
    pub(super) fn failed(&self, id: u64, again: u64, now: u64) {
        self.visit(now, |visit| {
            if let Some(leases) = &mut visit.waiters.leases {
                leases.failed(id, now, again);
                visit.estimate_anew();
            }
        });
    }

    pub(super) fn leases(&self, now: u64) -> Option<LeaseCounts> {
        let waiters = self.lock();
        let leases = waiters.leases.as_ref();
        leases.map(|leases| leases.counts(self.gcra.newest(), now))
    }

    pub(super) fn rate(&self) -> Rate {
        self.rate.load()
    }

    pub(super) fn quota(&self) -> Quota {
        self.lock().quota
    }

    /// Whether the whole burst is available, if no call waits. Takes no lock.
    pub(super) fn is_whole(&self, now: u64) -> bool {
        let rate = self.rate.load();
        self.gcra.available(rate, now) == rate.burst
    }

    /// The quota, the calls of cost 1 that would be granted at once, and the number of waiters.
    pub(super) fn look(&self, now: u64) -> (Quota, u32, usize) {
        let waiters = self.lock();
        let available = if waiters.waiting.is_empty() {
            self.gcra.available(self.rate.load(), now)
        } else {
            0
        };
        (waiters.quota, available, waiters.waiting.len())
    }

    /// Visits the queue: runs `act` under the lock, then hands out the turns that are due.
    fn visit<T>(&self, now: u64, act: impl FnOnce(&mut Visit<'_>) -> T) -> T {
        let mut waiters = self.lock();
        let (newest, paused) = (self.gcra.freeze(), self.gcra.paused());
        let mut visit = Visit::begin(&mut waiters, newest, paused, self.rate.load(), now);
        let result = act(&mut visit);
        visit.end();
        let Visit {
            newest, woken, ask, ..
        } = visit;
        if let Some(leases) = &waiters.leases {
            self.gcra.set_lease(leases.current);
        }
        self.gcra.thaw(newest, !waiters.waiting.is_empty());
        drop(waiters);
        // Wakers are user code: they are cloned, woken and dropped outside the lock. So are stores.
        woken.into_iter().for_each(Waker::wake);
        if let (Some((id, ask)), Some(ask_store)) = (ask, &self.ask_store) {
            ask_store(id, ask);
        }
        result
    }

    fn lock(&self) -> MutexGuard<'_, Waiters> {
        // Nothing panics under the lock, so a poisoned lock still guards valid data.
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").finish_non_exhaustive()
    }
}

#[cfg(test)]
impl Entry {
    fn ticket(self) -> Option<Ticket> {
        match self {
            Self::Wait(ticket) => Some(ticket),
            Self::Now(_) => None,
        }
    }
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use super::super::gcra::{self, ORIGIN};
    use super::*;
    use proptest::prelude::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
    use std::task::Wake;
    use std::time::Duration;

    const MS: u64 = 1_000_000;

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, SeqCst);
        }
    }

    /// A call that had to wait.
    struct Call {
        ticket: Ticket,
        cost: u32,
        /// When its turn comes if no waiter leaves and nothing changes.
        estimate: u64,
        /// Whether it is never polled, because its task or its runtime is stuck.
        stuck: bool,
        /// How long it holds its turn, and whether it then spends it or gives it up.
        holds: Option<(u64, bool)>,
        woken: Arc<Woken>,
        polls: u32,
        stage: Stage,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Stage {
        /// Its timer rings at this time.
        Waits(u64),
        Holds {
            since: u64,
            until: u64,
            spends: bool,
        },
        Granted(u64),
        Refused(Refusal),
        Left,
    }

    /// Simulates callers whose timers ring at multiples of `tick`.
    struct World {
        queue: Queue,
        now: u64,
        tick: u64,
        calls: Vec<Call>,
        /// The time and the cost of each turn that was spent.
        grants: Vec<(u64, u32)>,
    }

    impl World {
        fn new(quota: Quota, tick: u64) -> Self {
            Self {
                queue: Queue::new(quota),
                now: ORIGIN,
                tick,
                calls: Vec::new(),
                grants: Vec::new(),
            }
        }

        /// A call arrives. Its answer must agree with `estimate`.
        fn call(&mut self, cost: u32, max_wait: u64, stuck: bool, holds: Option<(u64, bool)>) {
            let wait = self.estimate(cost);
            match self.queue.take(cost, self.now, || max_wait) {
                Ok(Entry::Now(_)) => {
                    assert_eq!(wait, 0);
                    self.grants.push((self.now, cost));
                }
                Ok(Entry::Wait(ticket)) => {
                    assert!(wait > 0 && wait <= max_wait);
                    self.calls.push(Call {
                        ticket,
                        cost,
                        estimate: self.now + wait,
                        stuck,
                        holds,
                        woken: Arc::default(),
                        polls: 0,
                        stage: Stage::Waits(self.now),
                    });
                }
                Err(refusal) if self.queue.rate().burst >= cost.max(1) => {
                    assert_eq!(refusal, Refusal::After(wait));
                    assert!(wait > max_wait);
                }
                Err(_) => {}
            }
            self.settle();
        }

        /// How long a newcomer waits, computed one call after the other.
        fn estimate(&self, cost: u32) -> u64 {
            let rate = self.queue.rate();
            let waiters = self.queue.lock();
            let mut newest = self.queue.gcra.newest();
            let paused = self.queue.gcra.paused();
            let mut due = self.now;
            let costs = waiters.waiting.iter().map(|waiter| waiter.cost);
            for cost in costs.chain([cost]) {
                let turn = gcra::turn(rate, newest, paused, rate.span(cost.min(rate.burst)), due);
                due = due.max(turn);
                if rate.span(cost) > 0 {
                    newest = turn;
                }
            }
            due - self.now
        }

        fn poll(&mut self, i: usize) {
            let call = &mut self.calls[i];
            call.polls += 1;
            call.woken.0.store(false, SeqCst);
            let waker = Waker::from(call.woken.clone());
            let place = self.queue.poll(call.ticket, self.now, waker);
            assert!(!call.woken.0.load(SeqCst), "woken by itself");
            match place {
                Place::Turn => match call.holds {
                    None => {
                        self.queue.spend(call.ticket);
                        call.stage = Stage::Granted(self.now);
                        self.grants.push((self.now, call.cost));
                    }
                    Some((time, spends)) => {
                        call.stage = Stage::Holds {
                            since: self.now,
                            until: self.now + time,
                            spends,
                        };
                    }
                },
                Place::Until(at) => {
                    assert!(at > self.now);
                    call.stage = Stage::Waits(at.next_multiple_of(self.tick));
                }
                Place::Refused(refusal) => call.stage = Stage::Refused(refusal),
            }
        }

        fn leave(&mut self, i: usize) {
            if matches!(self.calls[i].stage, Stage::Waits(_) | Stage::Holds { .. }) {
                self.calls[i].stage = Stage::Left;
                self.queue.leave(self.calls[i].ticket, self.now);
            }
            self.settle();
        }

        /// Polls the calls whose timer rang or whose waker was woken, until there are none.
        fn settle(&mut self) {
            let mut again = true;
            while again {
                again = false;
                for i in 0..self.calls.len() {
                    let call = &self.calls[i];
                    match call.stage {
                        Stage::Waits(alarm)
                            if !call.stuck && (alarm <= self.now || call.woken.0.load(SeqCst)) =>
                        {
                            self.poll(i);
                            again = true;
                        }
                        Stage::Holds {
                            since,
                            until,
                            spends,
                        } if until <= self.now => {
                            if spends {
                                self.queue.spend(call.ticket);
                                self.grants.push((since, call.cost));
                                self.calls[i].stage = Stage::Granted(since);
                            } else {
                                self.queue.leave(call.ticket, self.now);
                                self.calls[i].stage = Stage::Left;
                            }
                            again = true;
                        }
                        _ => {}
                    }
                }
            }
            self.assert_sound();
        }

        /// When all tasks are idle: no call was overtaken, no turn is due, and a visit is scheduled for
        /// the next turn.
        fn assert_sound(&self) {
            let waits = |call: &&Call| !call.stuck && matches!(call.stage, Stage::Waits(_));
            let first = self.calls.iter().find(waits);
            let waiters = self.queue.lock();
            let waiting = &waiters.waiting;
            if let Some(first) = first {
                let behind = self.calls.iter().filter(|call| call.ticket > first.ticket);
                for call in behind {
                    let served = matches!(call.stage, Stage::Granted(_) | Stage::Holds { .. });
                    assert!(!served, "{:?} overtook {:?}", call.ticket, first.ticket);
                }
            }
            assert_eq!(
                waiters.units,
                waiting
                    .iter()
                    .map(|waiter| u64::from(waiter.cost))
                    .sum::<u64>()
            );
            let Some(head) = waiting.front() else {
                return;
            };
            let (rate, newest) = (self.queue.rate(), self.queue.gcra.newest());
            let paused = self.queue.gcra.paused();
            let due = gcra::turn(rate, newest, paused, rate.span(head.cost), self.now);
            let call = self.calls.iter().find(|call| call.ticket == head.ticket);
            if let Some(Call {
                stage: Stage::Waits(alarm),
                stuck: false,
                ..
            }) = call
            {
                let due = due.next_multiple_of(self.tick);
                assert!(due > self.now, "was due {} ns ago", self.now - due);
                assert!(*alarm <= due, "sleeps for too long");
            }
        }

        fn advance(&mut self, by: u64) {
            let end = self.now + by;
            loop {
                let events = self.calls.iter().filter_map(|call| match call.stage {
                    Stage::Waits(alarm) if !call.stuck => Some(alarm),
                    Stage::Holds { until, .. } => Some(until),
                    _ => None,
                });
                match events.min() {
                    Some(next) if next <= end => self.now = next.max(self.now),
                    _ => break,
                }
                self.settle();
            }
            self.now = end;
            self.settle();
        }

        /// Checks that every window holds at most the burst and its share of the turns spent since
        /// `since`.
        fn assert_bound(&mut self, since: u64, quota: Quota, most: Option<(u32, u64)>) {
            let rate = quota.rate();
            if rate.interval == 0 {
                return; // the quota admits everything or nothing
            }
            self.grants.sort_unstable();
            let of_these = self.grants.iter().filter(|(at, _)| *at >= since);
            let grants: Vec<_> = of_these.copied().collect();
            for (i, &(from, _)) in grants.iter().enumerate() {
                let mut sum = 0;
                for &(to, cost) in &grants[i..] {
                    sum += u64::from(cost);
                    let width = to - from;
                    let bound = u64::from(rate.burst) + width / rate.interval;
                    assert!(sum <= bound, "{sum} in {width} ns, not {bound}: {grants:?}");
                    if let Some((n, per)) = most {
                        assert!(width > per || sum <= u64::from(n), "{sum} in {width} ns");
                    }
                }
            }
        }
    }

    /// One call per 10 ns, `burst` at once.
    fn queue(burst: u32) -> Queue {
        Queue::new(Quota::new(1, Duration::from_nanos(10)).burst(burst))
    }

    /// Takes a place at `now`.
    fn wait(queue: &Queue, now: u64) -> Ticket {
        let taken = queue.take(1, ORIGIN + now, || u64::MAX);
        match taken.unwrap() {
            Entry::Wait(ticket) => ticket,
            Entry::Now(_) => panic!("granted"),
        }
    }

    fn poll(queue: &Queue, ticket: Ticket, now: u64) -> Place {
        queue.poll(ticket, ORIGIN + now, Waker::noop().clone())
    }

    /// The number of calls that are granted at once at `now`.
    fn granted(queue: &Queue, now: u64) -> usize {
        let calls = (0..100).filter(|_| queue.take(1, ORIGIN + now, || 0).is_ok());
        calls.count()
    }

    #[test]
    fn a_turn_that_is_given_up_goes_to_the_next_waiter_in_the_same_visit() {
        let queue = queue(1);
        assert_eq!(granted(&queue, 0), 1);
        let (first, second) = (wait(&queue, 0), wait(&queue, 0));
        assert_eq!(poll(&queue, first, 10), Place::Turn);
        queue.leave(first, ORIGIN + 10);
        assert_eq!(queue.look(ORIGIN + 10).2, 0);
        assert_eq!(poll(&queue, second, 10), Place::Turn);
    }

    #[test]
    fn a_turn_that_is_given_up_late_goes_to_the_next_waiter_and_counts_from_then() {
        let queue = queue(1);
        assert_eq!(granted(&queue, 0), 1);
        let first = wait(&queue, 0);
        assert_eq!(poll(&queue, first, 10), Place::Turn);
        let [second, third] = [(); 2].map(|()| wait(&queue, 15));
        queue.leave(first, ORIGIN + 16);
        assert_eq!(poll(&queue, second, 16), Place::Turn);
        assert_eq!(poll(&queue, third, 25), Place::Until(ORIGIN + 26));
    }

    #[test]
    fn a_turn_within_a_burst_comes_back_although_later_turns_were_granted() {
        let queue = queue(3);
        assert_eq!(granted(&queue, 0), 3);
        let first = wait(&queue, 0);
        assert_eq!(poll(&queue, first, 10), Place::Turn);
        assert_eq!(granted(&queue, 20), 1);
        queue.leave(first, ORIGIN + 20);
        assert_eq!(granted(&queue, 20), 1);
    }

    #[test]
    fn a_turn_older_than_a_burst_is_lost_if_later_turns_were_granted() {
        let queue = queue(3);
        assert_eq!(granted(&queue, 0), 3);
        let first = wait(&queue, 0);
        assert_eq!(poll(&queue, first, 10), Place::Turn);
        assert_eq!(granted(&queue, 90), 3);
        queue.leave(first, ORIGIN + 90);
        assert_eq!(granted(&queue, 90), 0);
    }

    #[test]
    fn a_turn_from_before_a_pause_does_not_come_back_after_it() {
        let queue = queue(3);
        assert_eq!(granted(&queue, 0), 3);
        let first = wait(&queue, 0);
        assert_eq!(poll(&queue, first, 10), Place::Turn);
        queue.pause(ORIGIN + 30, ORIGIN + 10);
        assert_eq!(granted(&queue, 30), 1);
        queue.leave(first, ORIGIN + 30);
        assert_eq!(granted(&queue, 30), 0);
    }

    #[test]
    fn held_turns_move_forward_when_an_earlier_turn_comes_back() {
        let queue = queue(2);
        assert_eq!(granted(&queue, 0), 2);
        let [first, second] = [(); 2].map(|()| wait(&queue, 0));
        assert_eq!(poll(&queue, first, 10), Place::Turn);
        assert_eq!(poll(&queue, second, 20), Place::Turn);
        queue.leave(first, ORIGIN + 20);
        assert!(matches!(
            queue.take(1, ORIGIN + 30, || 0),
            Ok(Entry::Now(_))
        ));
        // Its turn looks like the newest one, but the newest is that of the call above.
        queue.leave(second, ORIGIN + 30);
        assert_eq!(granted(&queue, 30), 1);
    }

    #[test]
    fn a_newcomer_lets_waiters_go_first_whose_turns_are_due() {
        let queue = queue(1);
        assert_eq!(granted(&queue, 0), 1);
        let first = wait(&queue, 0);
        assert_eq!(queue.take(1, ORIGIN + 15, || 0), Err(Refusal::After(10)));
        assert_eq!(queue.look(ORIGIN + 15).2, 0, "still waits");
        assert_eq!(poll(&queue, first, 15), Place::Turn);
    }

    #[test]
    fn a_newcomer_that_is_granted_has_overtaken_nobody() {
        let queue = queue(2);
        assert_eq!(granted(&queue, 0), 2);
        let first = wait(&queue, 0);
        assert!(matches!(
            queue.take(1, ORIGIN + 25, || 0),
            Ok(Entry::Now(_))
        ));
        assert_eq!(poll(&queue, first, 25), Place::Turn);
    }

    #[test]
    fn a_waiter_delayed_by_others_waits_no_longer_than_it_accepts() {
        // A delay of one tick of the timer is no reason to give up.
        for (ticks, place) in [
            (1, Place::Until(ORIGIN + 3 * MS)),
            (2, Place::Refused(Refusal::After(2 * MS))),
        ] {
            let interval = ticks * MS;
            let queue = Queue::new(Quota::new(1, Duration::from_nanos(interval)).burst(1));
            assert_eq!(granted(&queue, 0), 1);
            let _stuck = wait(&queue, 0);
            let waiter = queue.take(1, ORIGIN, || 2 * interval).unwrap().ticket();
            assert_eq!(poll(&queue, waiter.unwrap(), 2 * interval), place);
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Act {
        Advance(u64),
        Call {
            cost: u32,
            max_wait: u64,
            stuck: bool,
            holds: Option<(u64, bool)>,
        },
        Leave(usize),
        Pause(u64),
        Resume,
        SetQuota(usize),
    }

    fn act() -> impl Strategy<Value = Act> {
        let wait = prop_oneof![Just(0), 0..400_u64, Just(u64::MAX)];
        let holds = prop::option::weighted(0.2, (0..300_u64, any::<bool>()));
        let call = (0..5_u32, wait, prop::bool::weighted(0.1), holds);
        prop_oneof![
            8 => (0..120_u64).prop_map(Act::Advance),
            12 => call.prop_map(|(cost, max_wait, stuck, holds)| Act::Call { cost, max_wait, stuck, holds }),
            5 => (0..100_usize).prop_map(Act::Leave),
            1 => (0..200_u64).prop_map(Act::Pause),
            1 => Just(Act::Resume),
            1 => (0..3_usize).prop_map(Act::SetQuota),
        ]
    }

    fn quota() -> impl Strategy<Value = (Quota, Option<(u32, u64)>)> {
        let burst = prop::option::of(1..6_u32);
        (0..9_u32, 0..400_u64, burst, any::<bool>()).prop_map(|(n, per, burst, strict)| {
            let per_ns = Duration::from_nanos(per);
            let quota = if strict {
                Quota::at_most(n, per_ns)
            } else {
                Quota::new(n, per_ns)
            };
            let quota = burst.map_or(quota, |burst| quota.burst(burst));
            (quota, strict.then_some((n, per)))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        #[test]
        fn the_bound_and_the_order_always_hold(
            quotas in [quota(), quota(), quota()],
            acts in prop::collection::vec(act(), 1..120),
            tick in prop_oneof![Just(1_u64), 1..20_u64],
        ) {
            let (mut quota, mut most) = quotas[0];
            let mut world = World::new(quota, tick);
            let mut since = world.now;
            for act in acts {
                match act {
                    Act::Advance(by) => world.advance(by),
                    Act::Call { cost, max_wait, stuck, holds } => {
                        world.call(cost, max_wait, stuck, holds);
                    }
                    Act::Leave(i) if !world.calls.is_empty() => {
                        let i = i % world.calls.len();
                        world.leave(i);
                    }
                    Act::Leave(_) => {}
                    Act::Pause(time) => {
                        world.queue.pause(world.now + time, world.now);
                        world.settle();
                    }
                    Act::Resume => {
                        world.queue.resume(world.now);
                        world.settle();
                    }
                    Act::SetQuota(i) => {
                        world.assert_bound(since, quota, most);
                        (quota, most) = quotas[i];
                        world.queue.set_quota(quota, world.now);
                        world.settle();
                        world.advance(1);
                        since = world.now;
                    }
                }
            }
            world.assert_bound(since, quota, most);
            // After all calls have left, the queue is empty.
            for i in 0..world.calls.len() {
                world.leave(i);
            }
            let waiters = world.queue.lock();
            prop_assert!(waiters.waiting.is_empty() && waiters.settled.is_empty());
        }

        /// If no task is late, no call leaves and nothing changes.
        #[test]
        fn each_waiter_gets_its_turn_at_the_estimate_with_one_wake_up(
            (quota, _) in quota(),
            calls in prop::collection::vec((0..120_u64, 0..5_u32, 0..2_000_u64), 1..60),
        ) {
            let mut world = World::new(quota, 1);
            for (by, cost, max_wait) in calls {
                world.call(cost, max_wait, false, None);
                world.advance(by);
            }
            world.advance(100_000);
            for call in &world.calls {
                prop_assert_eq!(call.stage, Stage::Granted(call.estimate));
                prop_assert_eq!(call.polls, 2);
            }
        }

        #[test]
        fn a_stuck_waiter_delays_others_by_at_most_its_own_turn(
            (quota, _) in quota(),
            calls in prop::collection::vec((0..60_u64, 0..5_u32, prop::bool::weighted(0.4)), 1..60),
        ) {
            let mut world = World::new(quota, 1);
            for (by, cost, stuck) in calls {
                world.call(cost, u64::MAX, stuck, None);
                world.advance(by);
            }
            world.advance(100_000);
            let mut late = 0;
            for call in &world.calls {
                if call.stuck {
                    late += quota.rate().span(call.cost);
                } else {
                    let Stage::Granted(at) = call.stage else {
                        panic!("{:?}", call.stage)
                    };
                    let latest = call.estimate + late;
                    prop_assert!(at <= latest, "{} ns late", at - latest);
                }
            }
        }
    }
}

#[cfg(all(test, buttress_loom))]
mod models {
    use super::super::gcra::ORIGIN;
    use super::super::lease::WithoutStore;
    use super::super::ledger::Granted;
    use super::*;
    use loom::sync::Arc;
    use loom::thread;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
    use std::task::Wake;
    use std::time::Duration;

    fn every(nanos: u64) -> Quota {
        Quota::new(1, Duration::from_nanos(nanos)).burst(1)
    }

    /// One call per 10 ns. The first was made; a second one waits.
    fn waited_for(max_wait: u64) -> (Arc<Queue>, Ticket) {
        let queue = Arc::new(Queue::new(every(10)));
        assert!(matches!(queue.take(1, ORIGIN, || 0), Ok(Entry::Now(_))));
        let ticket = queue.take(1, ORIGIN, || max_wait).unwrap().ticket();
        (queue, ticket.unwrap())
    }

    fn poll(queue: &Queue, ticket: Ticket, now: u64) -> Place {
        queue.poll(ticket, ORIGIN + now, Waker::noop().clone())
    }

    fn take(queue: &Queue, now: u64, max_wait: u64) -> Result<Option<Ticket>, Refusal> {
        queue.take(1, ORIGIN + now, || max_wait).map(Entry::ticket)
    }

    /// The queue is empty, and `newest` is the newest turn.
    fn assert_idle(queue: &Queue, newest: u64) {
        let waiters = queue.lock();
        assert!(waiters.waiting.is_empty() && waiters.settled.is_empty());
        drop(waiters);
        let next = newest + 10;
        assert_eq!(take(queue, next - 1, 0), Err(Refusal::After(1)));
        assert_eq!(take(queue, next, 0), Ok(None));
    }

    // The atomic of the standard library: these models are about the queue only.
    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.store(true, SeqCst);
        }
    }

    #[test]
    fn a_newcomer_that_races_a_leaving_waiter_gets_its_own_place() {
        loom::model(|| {
            let (queue, ticket) = waited_for(u64::MAX);
            let other = queue.clone();
            let leaving = thread::spawn(move || other.leave(ticket, ORIGIN + 5));
            let newcomer = take(&queue, 5, u64::MAX).unwrap().expect("granted");
            leaving.join().unwrap();
            assert_eq!(poll(&queue, newcomer, 9), Place::Until(ORIGIN + 10));
            assert_eq!(take(&queue, 9, 0), Err(Refusal::After(11)));
            assert_eq!(poll(&queue, newcomer, 10), Place::Turn);
            queue.spend(newcomer);
            assert_idle(&queue, 10);
        });
    }

    #[test]
    fn a_newcomer_never_takes_the_turn_of_a_waiter() {
        loom::model(|| {
            let (queue, ticket) = waited_for(u64::MAX);
            let other = queue.clone();
            let waiter = thread::spawn(move || poll(&other, ticket, 10));
            assert_eq!(take(&queue, 10, 0), Err(Refusal::After(10)));
            assert_eq!(waiter.join().unwrap(), Place::Turn);
            queue.spend(ticket);
            assert_idle(&queue, 10);
        });
    }

    #[test]
    fn a_waiter_whose_turn_a_newcomer_hands_out_is_woken_or_has_seen_it() {
        loom::model(|| {
            let (queue, ticket) = waited_for(u64::MAX);
            let woken = std::sync::Arc::new(Woken::default());
            let (other, waker) = (queue.clone(), Waker::from(woken.clone()));
            let waiter = thread::spawn(move || other.poll(ticket, ORIGIN + 9, waker));
            assert_eq!(take(&queue, 10, 0), Err(Refusal::After(10)));
            let seen = waiter.join().unwrap() == Place::Turn;
            assert_ne!(seen, woken.0.load(SeqCst));
            queue.leave(ticket, ORIGIN + 10);
            assert_idle(&queue, 0);
        });
    }

    #[test]
    fn a_waiter_that_a_new_quota_delays_too_long_is_refused_once() {
        loom::model(|| {
            let (queue, ticket) = waited_for(10);
            let woken = std::sync::Arc::new(Woken::default());
            let (other, waker) = (queue.clone(), Waker::from(woken.clone()));
            let waiter = thread::spawn(move || other.poll(ticket, ORIGIN + 5, waker));
            queue.set_quota(every(20), ORIGIN + 5);
            let refused = Place::Refused(Refusal::After(15));
            if waiter.join().unwrap() != refused {
                assert!(woken.0.load(SeqCst));
                assert_eq!(poll(&queue, ticket, 5), refused);
            }
            assert!(queue.lock().settled.is_empty());
            assert_eq!(take(&queue, 19, 0), Err(Refusal::After(1)));
            assert_eq!(take(&queue, 20, 0), Ok(None));
        });
    }

    #[test]
    fn a_visit_loses_no_turn_that_is_granted_without_the_lock() {
        loom::model(|| {
            let queue = Arc::new(Queue::new(every(10)));
            let other = queue.clone();
            let visiting = thread::spawn(move || other.resume(ORIGIN));
            assert_eq!(take(&queue, 0, 0), Ok(None));
            visiting.join().unwrap();
            assert_idle(&queue, 0);
        });
    }

    #[test]
    fn a_turn_that_goes_back_to_the_limiter_is_granted_once() {
        loom::model(|| {
            let (queue, ticket) = waited_for(u64::MAX);
            assert_eq!(poll(&queue, ticket, 10), Place::Turn);
            let other = queue.clone();
            // No call waits any more, so the turn goes back to the limiter.
            let leaving = thread::spawn(move || other.leave(ticket, ORIGIN + 10));
            let granted = take(&queue, 10, 0);
            leaving.join().unwrap();
            if granted.is_err() {
                assert_eq!(granted, Err(Refusal::After(10)));
                assert_eq!(take(&queue, 10, 0), Ok(None));
            }
            assert_idle(&queue, 10);
        });
    }

    /// A lease of one turn per 10 ns of which the turn at 20 is left, and a request for turns each 20 ns.
    fn leased() -> Arc<Queue> {
        let settings = LeaseSettings {
            ask: Ask::new("key", every(10)),
            timeout: 1_000,
            without_store: WithoutStore::Refuse,
        };
        let queue = Queue::leased(every(10), settings, Box::new(|_, _| ()), ORIGIN);
        let wait = |now| take(&queue, now, u64::MAX).unwrap().expect("granted");
        let first = wait(0);
        queue.answered(1, turns(2), ORIGIN + 10);
        assert_eq!(poll(&queue, first, 10), Place::Turn);
        queue.spend(first);
        queue.set_quota(every(20), ORIGIN + 10);
        for ticket in [wait(10), wait(10)] {
            queue.leave(ticket, ORIGIN + 10);
        }
        Arc::new(queue)
    }

    fn turns(turns: u32) -> Reply {
        Reply {
            grant: Granted::Turns { turns, ahead: 0 },
            level: 1.0,
            peers: 1,
            now: 1,
            tat: 1,
        }
    }

    #[test]
    fn a_lease_that_comes_while_turns_are_taken_gives_each_turn_once() {
        loom::model(|| {
            let queue = leased();
            let other = queue.clone();
            let answering = thread::spawn(move || {
                other.answered(2, turns(2), ORIGIN + 30);
                // The turn of the first lease, and one of the second.
                (0..2).filter(|_| take(&other, 70, 0).is_ok()).count()
            });
            let passing = usize::from(take(&queue, 70, 0).is_ok());
            let granted = answering.join().unwrap() + passing;
            let left = (0..4).filter(|_| take(&queue, 70, 0).is_ok()).count();
            assert_eq!(granted + left, 3);
        });
    }

    #[test]
    fn a_call_without_the_lock_and_one_in_the_queue_never_share_a_turn() {
        loom::model(|| {
            let queue = Arc::new(Queue::new(every(10)));
            let other = queue.clone();
            let passing = thread::spawn(move || take(&other, 0, u64::MAX).unwrap());
            let tickets = [take(&queue, 0, u64::MAX).unwrap(), passing.join().unwrap()];
            let mut waiting = tickets.into_iter().flatten();
            let ticket = waiting.next().expect("both granted");
            assert_eq!(waiting.next(), None, "both wait");
            assert_eq!(poll(&queue, ticket, 9), Place::Until(ORIGIN + 10));
            assert_eq!(poll(&queue, ticket, 10), Place::Turn);
        });
    }
}
