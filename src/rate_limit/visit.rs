//! A visit to the queue: what is done under its lock.

use super::gcra::{self, Grant, Refusal};
use super::leases::Leases;
use super::ledger::{Ask, Reply};
use super::quota::{Quota, Rate};
use crate::time::{TICK, nanos};
use std::collections::{HashMap, VecDeque};
use std::task::Waker;

#[derive(Debug)]
pub(super) struct Waiters {
    pub(super) quota: Quota,
    /// In order of arrival. Tickets ascend, so a waiter is found by binary search.
    pub(super) waiting: VecDeque<Waiter>,
    /// The sum of their costs.
    pub(super) units: u64,
    /// Waiters that have their turn or were refused. A waiter is removed when it spends its turn,
    /// gives it up, or learns that it was refused.
    pub(super) settled: HashMap<Ticket, Result<Handed, Refusal>>,
    next_ticket: u64,
    /// How many times the quota changed or a pause began or ended.
    changes: u64,
    /// Of a fleet.
    pub(super) leases: Option<Leases>,
}

#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) ticket: Ticket,
    pub(super) cost: u32,
    /// The latest time of a turn that the waiter accepts.
    latest: u64,
    /// When the waiter visits the queue unless it is woken earlier.
    alarm: u64,
    /// `None` until the waiter is first polled, and again from each wake-up to the next poll.
    pub(super) waker: Option<Waker>,
}

/// A turn that was handed out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Handed {
    at: u64,
    /// How much it moved the newest turn.
    span: u64,
    /// The value of [`Waiters::changes`] at that time.
    changes: u64,
}

/// A place in the queue. Its holder must spend it or leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Ticket(u64);

/// What a waiter learns from a poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It has its turn.
    Turn,
    /// It must poll again at this time.
    Until(u64),
    Refused(Refusal),
}

impl Waiters {
    pub(super) fn new(quota: Quota, leases: Option<Leases>) -> Self {
        Self {
            quota,
            waiting: VecDeque::new(),
            units: 0,
            settled: HashMap::new(),
            next_ticket: 0,
            changes: 0,
            leases,
        }
    }

    /// The value of [`changes`](Self::changes) for turns handed out now. The next lease is a change.
    fn epoch(&self) -> u64 {
        let switches = self.leases.as_ref().map_or(0, |leases| leases.switches);
        self.changes + switches
    }

    fn find(&self, ticket: Ticket) -> Option<usize> {
        self.waiting
            .binary_search_by_key(&ticket, |waiter| waiter.ticket)
            .ok()
    }

    pub(super) fn waiter(&mut self, ticket: Ticket) -> Option<&mut Waiter> {
        let i = self.find(ticket)?;
        self.waiting.get_mut(i)
    }

    pub(super) fn remove(&mut self, ticket: Ticket) -> Option<Waiter> {
        let waiter = self.waiting.remove(self.find(ticket)?)?;
        self.units -= u64::from(waiter.cost);
        Some(waiter)
    }
}

/// A visit: the queue while its lock is held.
pub(super) struct Visit<'a> {
    pub(super) newest: u64,
    pub(super) paused: u64,
    pub(super) rate: Rate,
    pub(super) now: u64,
    pub(super) waiters: &'a mut Waiters,
    /// The wakers to wake once the lock is free.
    pub(super) woken: Vec<Waker>,
    /// The units that a call wanted which was refused for lack of turns.
    unmet: u32,
    /// What to ask the store of the fleet for, once the lock is free.
    pub(super) ask: Option<(u64, Ask)>,
}

impl<'a> Visit<'a> {
    pub(super) fn begin(
        waiters: &'a mut Waiters,
        newest: u64,
        paused: u64,
        rate: Rate,
        now: u64,
    ) -> Self {
        if let Some(leases) = &mut waiters.leases {
            leases.begin(newest);
        }
        Self {
            newest,
            paused,
            rate,
            now,
            waiters,
            woken: Vec::new(),
            unmet: 0,
            ask: None,
        }
    }

    pub(super) fn end(&mut self) {
        self.hand_out();
        self.ask_for_turns();
        self.watch_head(None);
        if let Some(leases) = &mut self.waiters.leases {
            leases.end(self.newest);
        }
    }

    /// The leases, unless the quota admits everything.
    fn leases(&self) -> Option<&Leases> {
        let limited = self.rate.interval > 0;
        self.waiters.leases.as_ref().filter(|_| limited)
    }

    /// When calls that cost `units` together have all had their turns. `None` if that is after the end
    /// of time.
    fn turn(&self, units: u64) -> Option<u64> {
        self.turn_or(units, Leases::estimate)
    }

    /// The same. A fleet's process that does not hold enough turns uses `missing`.
    fn turn_or(&self, units: u64, missing: impl Fn(&Leases, u64, u64, u64) -> u64) -> Option<u64> {
        if let Some(leases) = self.leases().filter(|_| units > 0) {
            let due = leases
                .due(self.newest, units)
                .unwrap_or_else(|| missing(leases, self.newest, units, self.now));
            return Some(due.max(self.paused));
        }
        let span = self.rate.interval.checked_mul(units)?;
        let turn = gcra::turn(self.rate, self.newest, self.paused, span, self.now);
        (turn < u64::MAX).then_some(turn)
    }

    /// When a waiter whose call and all before it cost `units` has to visit the queue: when its turn is due, or when
    /// it has waited long enough for turns to be leased.
    fn alarm(&self, units: u64, latest: u64, turn: u64) -> u64 {
        let Some(leases) = self.leases().filter(|_| units > 0) else {
            return turn;
        };
        if leases.due(self.newest, units).is_some() {
            return turn;
        }
        if self.paused > self.now {
            return self.paused;
        }
        leases.rings(latest.saturating_add(nanos(TICK)), self.now)
    }

    /// Moves the newest turn. Returns by how much.
    fn grant(&mut self, cost: u32, turn: u64) -> u64 {
        let span = self.rate.span(cost);
        if span == 0 {
            return 0;
        }
        let Some(leases) = &mut self.waiters.leases else {
            self.newest = turn;
            return span;
        };
        let before = self.newest;
        self.newest = leases.take(before, cost.into());
        // What came from an earlier lease cannot come back.
        self.newest - before.max(leases.current.start)
    }

    /// Lets leased turns lapse whose time is over.
    fn lapse(&mut self, newcomer: Option<u32>) {
        let head = self.waiters.waiting.front().map(|head| head.cost);
        if let Some(leases) = &mut self.waiters.leases {
            self.newest = leases.advance(self.newest, head.or(newcomer), self.paused, self.now);
        }
    }

    /// Hands out the turns that are due, in order of arrival.
    pub(super) fn hand_out(&mut self) {
        loop {
            self.lapse(None);
            let Some(&Waiter { ticket, cost, .. }) = self.waiters.waiting.front() else {
                return;
            };
            let Some(at) = self.turn(cost.into()).filter(|at| *at <= self.now) else {
                return;
            };
            let span = self.grant(cost, at);
            let handed = Handed {
                at,
                span,
                changes: self.waiters.epoch(),
            };
            self.waiters.settled.insert(ticket, Ok(handed));
            let head = self.waiters.remove(ticket);
            self.woken.extend(head.and_then(|head| head.waker));
        }
    }

    /// Asks the store of the fleet for the turns that calls want and the process does not hold.
    fn ask_for_turns(&mut self) {
        loop {
            let units = self.waiters.units + u64::from(self.unmet);
            let (newest, now, paused) = (self.newest, self.now, self.paused > self.now);
            let Some(leases) = self.leases().filter(|_| units > 0 && !paused) else {
                return;
            };
            if !leases.may_ask(now) {
                return;
            }
            let costs = self.waiters.waiting.iter().map(|waiter| waiter.cost);
            let costs = costs.chain((self.unmet > 0).then_some(self.unmet));
            let wanted = leases.wanted(newest, units, costs);
            if wanted.missing == 0 {
                return;
            }
            let rate = self.rate;
            let Some(leases) = &mut self.waiters.leases else {
                return;
            };
            let asked = leases.ask(wanted, newest, rate, now);
            let answered = leases.holds_next();
            self.ask = self.ask.take().or(asked);
            if !answered {
                self.estimate_anew();
                return;
            }
            // The share of the process: its turns are here already.
            self.unmet = 0;
            self.lapse(None);
            self.estimate_anew();
            self.hand_out();
        }
    }

    /// Brings the answer of the store. Returns whether it makes sense.
    pub(super) fn answered(&mut self, id: u64, reply: Reply) -> bool {
        let (newest, now) = (self.newest, self.now);
        let leases = self.waiters.leases.as_mut();
        let answered = leases.is_some_and(|leases| leases.answered(id, reply, newest, now));
        self.lapse(None);
        self.estimate_anew();
        answered
    }

    /// Gives back a leased turn that was granted at once, if it is the newest.
    pub(super) fn give_back(&mut self, grant: Grant) {
        let start = self
            .waiters
            .leases
            .as_ref()
            .map(|leases| leases.current.start);
        if let Some(start) =
            start.filter(|start| grant.after == self.newest && grant.after > *start)
        {
            self.newest = grant.before.max(start);
        }
    }

    /// The quota changed, or a pause began or ended.
    pub(super) fn change(&mut self) {
        self.waiters.changes += 1;
        let rate = self.rate;
        if let Some(leases) = &mut self.waiters.leases {
            leases.set_rate(rate);
        }
        self.estimate_anew();
    }

    /// A newcomer takes its turn if no call waits and it has come, or else a place if the turn comes
    /// within `max_wait`.
    pub(super) fn enter(&mut self, cost: u32, max_wait: u64) -> Result<Option<Ticket>, Refusal> {
        gcra::admits(self.rate, cost)?;
        if let Some(leases) = &mut self.waiters.leases {
            leases.arrive(cost);
        }
        self.lapse(Some(cost));
        let units = self.waiters.units + u64::from(cost);
        let turn = self.turn(units).ok_or(Refusal::Never)?;
        let wait = turn.saturating_sub(self.now);
        if wait == 0 {
            self.grant(cost, turn);
            return Ok(None);
        }
        let refused = self.refused(units).or((wait > max_wait).then_some(wait));
        if let Some(wait) = refused {
            self.unmet = cost;
            return Err(Refusal::After(wait));
        }
        let ticket = Ticket(self.waiters.next_ticket);
        self.waiters.next_ticket += 1;
        self.waiters.units = units;
        let latest = self.now.saturating_add(max_wait);
        let alarm = self.alarm(units, latest, turn);
        self.waiters.waiting.push_back(Waiter {
            ticket,
            cost,
            latest,
            alarm,
            waker: None,
        });
        Ok(Some(ticket))
    }

    /// Where a waiter stands, after the turns that are due were handed out.
    pub(super) fn place(&mut self, ticket: Ticket) -> Place {
        if let Some(&Err(refusal)) = self.waiters.settled.get(&ticket) {
            self.waiters.settled.remove(&ticket);
            return Place::Refused(refusal);
        }
        if let Err(refusal) = self.wait_on(ticket) {
            self.waiters.remove(ticket);
            return Place::Refused(refusal);
        }
        self.watch_head(Some(ticket));
        match self.waiters.waiter(ticket) {
            Some(waiter) => Place::Until(waiter.alarm),
            None => Place::Turn,
        }
    }

    /// Resets an alarm that rang before the turn. This happens if waiters ahead got their turns late,
    /// because of late timers or tasks. Refuses the waiter if its turn now comes later than it accepts by
    /// more than one tick of the timer.
    fn wait_on(&mut self, ticket: Ticket) -> Result<(), Refusal> {
        let (now, place) = (self.now, self.waiters.find(ticket));
        let rang = |place: &usize| self.waiters.waiting[*place].alarm <= now;
        let Some(place) = place.filter(rang) else {
            return Ok(());
        };
        let up_to = self.waiters.waiting.range(..=place);
        let units = up_to.map(|waiter| u64::from(waiter.cost)).sum();
        let turn = self.turn_or(units, Leases::earliest);
        let latest = self.waiters.waiting[place].latest;
        let turn = within(turn, latest.saturating_add(nanos(TICK)), now)?;
        self.waiters.waiting[place].alarm = self.alarm(units, latest, turn);
        Ok(())
    }

    /// Makes sure that a visit happens when the first waiter's turn is due. Its alarm is too late if a
    /// waiter ahead of it has left. If its alarm is in the past, its task is stuck: then the waiter
    /// that visits now takes over the alarm.
    pub(super) fn watch_head(&mut self, visitor: Option<Ticket>) {
        let head = self.waiters.waiting.front();
        let Some(due) = head.and_then(|head| {
            let turn = self.turn(head.cost.into())?;
            Some(self.alarm(head.cost.into(), head.latest, turn))
        }) else {
            return;
        };
        let head = &mut self.waiters.waiting[0];
        let overdue = head.alarm <= self.now;
        if !overdue && head.alarm <= due {
            return;
        }
        self.woken.extend(head.waker.take());
        if !overdue {
            head.alarm = due;
        } else if let Some(visitor) = visitor.and_then(|visitor| self.waiters.find(visitor)) {
            self.waiters.waiting[0].alarm = due;
            let alarm = &mut self.waiters.waiting[visitor].alarm;
            *alarm = due.min(*alarm);
        }
    }

    /// Takes a turn back, as if it had never been handed out.
    ///
    /// This is allowed in two cases. Either no later turn was handed out. Or a burst can still hold this
    /// turn: then each later call would have had its turn at the same time, from an earlier credit.
    /// Otherwise the turn is lost.
    pub(super) fn take_back(&mut self, turn: Handed) {
        let newest = turn.at == self.newest;
        // Not after a change of quota or pause, because the burst was a different one then.
        let current = self.leases().map(|leases| leases.current);
        let in_burst = turn.changes == self.waiters.epoch()
            && (current.is_some()
                || turn.at + self.rate.span(self.rate.burst) >= self.now + turn.span);
        if !newest && !in_burst {
            return;
        }
        // A turn of an earlier lease is lost.
        let first = current.map_or(0, |current| current.start);
        self.newest = (self.newest - turn.span).max(first.min(self.newest));
        // Turns after it that were handed out and not yet spent move forward.
        for later in self.waiters.settled.values_mut().flatten() {
            if later.at > turn.at {
                later.at -= turn.span;
            }
        }
    }

    /// Without the store: how long calls are refused whose turns are not held.
    fn refused(&self, units: u64) -> Option<u64> {
        let leases = self.leases().filter(|_| units > 0)?;
        let wait = leases.refuses(self.now)?;
        leases.due(self.newest, units).is_none().then_some(wait)
    }

    /// Refuses the waiters that would wait too long after a change of quota or pause.
    pub(super) fn estimate_anew(&mut self) {
        self.waiters.units = 0;
        for _ in 0..self.waiters.waiting.len() {
            let Some(mut waiter) = self.waiters.waiting.pop_front() else {
                return;
            };
            let units = self.waiters.units + u64::from(waiter.cost);
            let admitted = gcra::admits(self.rate, waiter.cost);
            let within = || match self.refused(units) {
                Some(wait) => Err(Refusal::After(wait)),
                None => within(
                    self.turn_or(units, Leases::earliest),
                    waiter.latest,
                    self.now,
                ),
            };
            match admitted.and_then(|()| within()) {
                Ok(turn) => {
                    let alarm = self.alarm(units, waiter.latest, turn);
                    if alarm < waiter.alarm {
                        self.woken.extend(waiter.waker.take());
                    }
                    waiter.alarm = alarm;
                    self.waiters.units = units;
                    self.waiters.waiting.push_back(waiter);
                }
                Err(refusal) => {
                    self.waiters.settled.insert(waiter.ticket, Err(refusal));
                    self.woken.extend(waiter.waker);
                }
            }
        }
    }
}

/// Checks a turn: it has come, or it comes by `latest`.
fn within(turn: Option<u64>, latest: u64, now: u64) -> Result<u64, Refusal> {
    let turn = turn.ok_or(Refusal::Never)?;
    let wait = turn.saturating_sub(now);
    if wait > 0 && turn > latest {
        return Err(Refusal::After(wait));
    }
    Ok(turn)
}
