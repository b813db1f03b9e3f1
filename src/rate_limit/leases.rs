//! The turns that a process has leased from the store of its fleet: a function of the state, the time, and what the
//! store answers.
//!
//! A lease is a row of turns, one per interval. No turn is used before its time, and all lapse one horizon after the
//! last is due (or, if that was before, after they came). Two leases are held at most: the current one, and the next.
//! More are asked for when calls exceed the turns held, one request at a time.
//!
//! While the store does not answer, the leases come from a ledger of this process, with its share of the quota.

use super::demand::Demand;
use super::gcra::END;
use super::lease::{Lease, LeaseSettings, UNKNOWN, WithoutStore};
use super::ledger::{Ask, Granted, Ledger, Reply};
use super::quota::Rate;
use crate::time::nanos;
use std::time::Duration;

/// A request under way.
#[derive(Clone, Copy, Debug)]
struct Asked {
    id: u64,
    at: u64,
    /// When calls no longer wait for the answer.
    until: u64,
    /// The interval of the turns that it brings.
    interval: u64,
}

/// The calls whose turns are not held.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wanted {
    /// The units of all of them.
    pub(super) missing: u64,
    /// The cost of the first.
    pub(super) first: u32,
}

/// The counters and the state of a fleet's process.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LeaseCounts {
    pub(crate) leased: u64,
    pub(crate) lapsed: u64,
    pub(crate) trips: u64,
    pub(crate) failures: u64,
    pub(crate) held: u64,
    pub(crate) peers: u32,
    pub(crate) level: f64,
    /// Since when the store does not answer.
    pub(crate) down: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Leases {
    settings: LeaseSettings,
    pub(super) current: Lease,
    next: Option<Lease>,
    asked: Option<Asked>,
    requests: u64,
    /// While the store does not answer, it is not asked before this time.
    not_before: u64,
    /// GCRA for the requests themselves: when the next is due.
    request_due: u64,
    /// When the next turn of the fleet is due, as far as known: it may have rested since.
    fleet_due: u64,
    /// The clock of the store, and when it was read here.
    clock: Option<(u64, u64)>,
    seen: u64,
    /// The newest turn at the end of the last visit.
    newest: u64,
    demand: Demand,
    /// The ledger of this process, for the time without the store.
    own: Ledger,
    /// How many times the current lease changed.
    pub(super) switches: u64,
    counts: LeaseCounts,
}

const SECOND: f64 = 1e9;
/// The requests that a process may send at once.
const AT_ONCE: u64 = 8;

impl Leases {
    pub(super) fn new(settings: LeaseSettings, now: u64) -> Self {
        let demand = Demand::new(settings.ask.horizon.as_secs_f64(), now);
        Self {
            settings,
            current: Lease {
                until: now,
                ..Lease::NONE
            },
            next: None,
            asked: None,
            requests: 0,
            not_before: 0,
            request_due: 0,
            fleet_due: 0,
            clock: None,
            seen: 0,
            newest: 0,
            demand,
            own: Ledger::default(),
            switches: 0,
            counts: LeaseCounts::default(),
        }
    }

    pub(super) fn horizon(&self) -> u64 {
        self.settings.ask.horizon.as_nanos() as u64
    }

    /// The begin of a visit: counts the turns that were taken without the lock.
    pub(super) fn begin(&mut self, newest: u64) {
        self.demand
            .arrive(newest.saturating_sub(self.newest) / self.current.interval);
    }

    /// The end of a visit.
    pub(super) fn end(&mut self, newest: u64) {
        self.newest = newest;
    }

    /// A call came that was not granted without the lock.
    pub(super) fn arrive(&mut self, cost: u32) {
        self.demand.arrive(cost.into());
    }

    /// Lets turns lapse, and goes on to the next lease when it is time to. Returns the newest turn.
    pub(super) fn advance(
        &mut self,
        mut newest: u64,
        head: Option<u32>,
        paused: u64,
        now: u64,
    ) -> u64 {
        loop {
            // When a pause ends, one call may go: turns that were due before are not used.
            let resumed = paused
                .saturating_sub(self.current.interval)
                .min(self.current.last);
            if resumed > newest {
                let lost = (resumed - newest).div_ceil(self.current.interval);
                self.counts.lapsed += lost.min(self.current.turns_after(newest));
                newest = resumed;
            }
            let left = self.current.turns_after(newest);
            let over = left == 0 || now > self.current.until;
            let unusable = || head.is_some_and(|head| !self.serves(newest, left, head.into()));
            match self.next {
                Some(next) if over || unusable() => {
                    self.counts.lapsed += left;
                    self.next = None;
                    self.current = next;
                    self.switches += 1;
                    newest = next.start;
                }
                None if over && left > 0 => {
                    self.counts.lapsed += left;
                    self.switches += 1;
                    newest = self.current.last;
                    self.current.start = newest;
                }
                _ => return newest,
            }
        }
    }

    /// Whether a call can have all its turns while the current lease is valid, or need not have them from it.
    fn serves(&self, newest: u64, left: u64, cost: u64) -> bool {
        let Some(next) = self.next else { return true };
        cost <= left
            || cost <= left + next.turns() && self.next_due(newest, cost) <= self.current.until
    }

    /// When the last of `units` turns is due of which the current lease has too few.
    fn next_due(&self, newest: u64, units: u64) -> u64 {
        let left = self.current.turns_after(newest);
        self.next
            .map_or(u64::MAX, |next| next.due(next.start, units - left))
    }

    /// When the last of `units` turns is due, if all of them are held.
    pub(super) fn due(&self, newest: u64, units: u64) -> Option<u64> {
        let left = self.current.turns_after(newest);
        if units <= left {
            return Some(self.current.due(newest.max(self.current.start), units));
        }
        let next = self.next?;
        (units - left <= next.turns()).then(|| self.next_due(newest, units))
    }

    /// When the last of `units` turns will probably be due of which too few are held. Later than now.
    pub(super) fn estimate(&self, newest: u64, units: u64, now: u64) -> u64 {
        self.after_held(newest, units, now, SECOND / self.level())
    }

    /// The same, if nobody else takes turns: not before this.
    pub(super) fn earliest(&self, newest: u64, units: u64, now: u64) -> u64 {
        self.after_held(newest, units, now, self.interval() as f64)
    }

    fn after_held(&self, newest: u64, units: u64, now: u64, interval: f64) -> u64 {
        let missing = units.saturating_sub(self.held(newest)).saturating_sub(1);
        let burst = self
            .interval()
            .saturating_mul(self.settings.ask.burst.into());
        let from = self.fleet_due.max(now.saturating_sub(burst));
        from.saturating_add((missing as f64 * interval) as u64)
            .max(now + 1)
    }

    fn interval(&self) -> u64 {
        self.settings.ask.interval.as_nanos().max(1) as u64
    }

    fn level(&self) -> f64 {
        if self.counts.level > 0.0 {
            return self.counts.level;
        }
        SECOND / self.interval() as f64
    }

    /// Hands out turns that are due. Returns the newest turn.
    pub(super) fn take(&mut self, newest: u64, units: u64) -> u64 {
        let left = self.current.turns_after(newest);
        if units <= left {
            return self.current.due(newest.max(self.current.start), units);
        }
        let newest = self.next_due(newest, units);
        if let Some(next) = self.next.take() {
            self.current = next;
            self.switches += 1;
        }
        newest
    }

    fn held(&self, newest: u64) -> u64 {
        self.current.turns_after(newest) + self.next.map_or(0, |next| next.turns())
    }

    pub(super) fn holds_next(&self) -> bool {
        self.next.is_some_and(|next| next.turns() > 0)
    }

    /// Whether more turns could be asked for now.
    pub(super) fn may_ask(&self, now: u64) -> bool {
        let asks = match self.asked {
            Some(asked) => now >= asked.until,
            None => now >= self.asks_at(),
        };
        self.next.is_none() && (asks || self.counts.down.is_some())
    }

    /// The calls that find no turn in the current lease. `units`: of all calls.
    pub(super) fn wanted(
        &self,
        newest: u64,
        units: u64,
        costs: impl Iterator<Item = u32>,
    ) -> Wanted {
        let all = self.current.turns_after(newest);
        let mut left = all;
        for cost in costs {
            match left.checked_sub(cost.into()) {
                Some(rest) => left = rest,
                None => {
                    return Wanted {
                        missing: units - (all - left),
                        first: cost,
                    };
                }
            }
        }
        Wanted::default()
    }

    /// When a call without a turn has to visit the queue, if nothing else happens.
    pub(super) fn rings(&self, latest: u64, now: u64) -> u64 {
        let asked = self.asked.filter(|_| self.counts.down.is_none());
        let next = asked.map_or_else(|| self.asks_at(), |asked| asked.until);
        let later = [latest, next].into_iter().filter(|at| *at > now).min();
        later.unwrap_or_else(|| now.saturating_add(self.horizon()))
    }

    /// Whether calls without a turn are refused now, and for how long.
    pub(super) fn refuses(&self, now: u64) -> Option<u64> {
        let refuses = self.settings.without_store == WithoutStore::Refuse;
        self.counts
            .down
            .filter(|_| refuses)
            .map(|_| self.not_before.saturating_sub(now).max(1))
    }

    /// What to ask the store for, if it is to be asked now. Without the store, takes the turns of this process' share.
    pub(super) fn ask(
        &mut self,
        wanted: Wanted,
        newest: u64,
        rate: Rate,
        now: u64,
    ) -> Option<(u64, Ask)> {
        if let Some(asked) = self.asked.filter(|asked| now >= asked.until) {
            // If its task is lost, nobody says when the request ends.
            let ends = asked.until.saturating_add(self.settings.timeout);
            self.failed(asked.id, now, ends.max(now.saturating_add(self.horizon())));
        }
        let request = self.request(wanted, rate, now);
        if self.counts.down.is_some() {
            self.take_share(&request, newest, now);
        }
        if self.asked.is_some() || now < self.asks_at() {
            return None;
        }
        self.request_due = self.request_due.max(now) + self.pace();
        self.requests += 1;
        let id = self.requests;
        self.counts.trips += 1;
        let until = now.saturating_add(self.settings.timeout);
        self.asked = Some(Asked {
            id,
            at: now,
            until,
            interval: rate.interval.max(1),
        });
        Some((id, request))
    }

    /// When the store may be asked again. Not before it has a turn that calls can wait for.
    fn asks_at(&self) -> u64 {
        let known = match self.counts.down {
            Some(_) => self.not_before,
            None => self
                .fleet_due
                .saturating_sub(nanos(self.settings.ask.max_wait)),
        };
        known.max(self.request_due.saturating_sub(AT_ONCE * self.pace()))
    }

    /// The time per request in the long run.
    fn pace(&self) -> u64 {
        self.horizon() * 5 / 6
    }

    fn request(&mut self, wanted: Wanted, rate: Rate, now: u64) -> Ask {
        let rates = self.demand.measure(now);
        let horizon = self.settings.ask.horizon.as_secs_f64();
        let expected = (rates.average * horizon) as u32;
        let spare = (rates.lately * horizon) as u32;
        let missing = u32::try_from(wanted.missing).unwrap_or(u32::MAX);
        let clock = self
            .clock
            .map(|(clock, at)| clock.saturating_add(now.saturating_sub(at) / 1_000));
        // The store does not know what the shares have used: the burst that it would grant on top is dropped.
        let down = clock.filter(|_| self.counts.down.is_some());
        Ask {
            interval: Duration::from_nanos(rate.interval),
            burst: rate.burst,
            need: missing.max(expected),
            want: missing.max(spare.saturating_add(1)),
            unit: wanted.first.max(1),
            rate: rates.average,
            seen: self.seen.max(down.unwrap_or(0)),
            not_after: clock.map(|clock| clock.saturating_add(self.settings.timeout / 1_000)),
            ..self.settings.ask.clone()
        }
    }

    /// The answer of the store. Returns `false` if no store can have answered this: then the request has failed.
    pub(super) fn answered(&mut self, id: u64, reply: Reply, newest: u64, now: u64) -> bool {
        let Some(asked) = self.asked.filter(|asked| asked.id == id) else {
            return true; // nobody waits for it any more
        };
        if !self.settings.ask.allows(asked.interval, reply.grant) {
            return false;
        }
        self.asked = None;
        self.counts.down = None;
        // What is left of the share would come on top of the lease.
        self.counts.lapsed += self.next.take().map_or(0, |next| next.turns());
        self.clock = Some((reply.now, now));
        if reply.level > 0.0 {
            self.counts.level = reply.level;
        }
        self.counts.peers = reply.peers;
        match reply.grant {
            // The clock of the store was stepped. It is known now: the next request is in time.
            Granted::Late => self.fleet_due = 0,
            // What the store says about an old quota does not hold for the new one.
            Granted::Full(_) if asked.interval != self.interval() => {}
            Granted::Full(ahead) => {
                self.seen = reply.tat;
                self.fleet_due = now.saturating_add(ahead.saturating_mul(1_000));
            }
            Granted::Turns { turns, ahead } => {
                self.seen = reply.tat;
                self.fleet_due = self.hold(turns, ahead, asked.interval, newest, now);
            }
        }
        true
    }

    /// The interval of leases from now on.
    pub(super) fn set_rate(&mut self, rate: Rate) {
        let interval = Duration::from_nanos(rate.interval);
        let ask = &mut self.settings.ask;
        if (ask.interval, ask.burst) != (interval, rate.burst) && self.counts.down.is_none() {
            // What the store said was about the old quota.
            self.fleet_due = 0;
        }
        (ask.interval, ask.burst) = (interval, rate.burst);
    }

    /// Holds a lease whose first turn is due in `ahead` microseconds. Returns when the next turn after it is.
    fn hold(&mut self, turns: u32, ahead: i64, interval: u64, newest: u64, now: u64) -> u64 {
        let first = now.saturating_add_signed(ahead.saturating_mul(1_000));
        // Never an older turn than one that was held: each turn belongs to one lease.
        let start = first
            .saturating_sub(interval)
            .max(self.current.last.max(newest) + 1);
        let length = interval.saturating_mul(turns.into());
        let last = start.saturating_add(length).min(END);
        let until = last.max(now).saturating_add(self.horizon());
        self.next = Some(Lease {
            start,
            last,
            interval,
            until,
        });
        self.counts.leased += u64::from(turns);
        last.saturating_add(interval)
    }

    /// The store did not answer, or with an error. It may be asked again at `again`.
    pub(super) fn failed(&mut self, id: u64, now: u64, again: u64) {
        let Some(asked) = self.asked.take_if(|asked| asked.id == id) else {
            self.not_before = self.not_before.max(again);
            return;
        };
        self.counts.failures += 1;
        self.not_before = again;
        if self.counts.down.is_none() {
            self.counts.down = Some(asked.at);
            self.fleet_due = 0;
            // No more credit than since the last leased turn can have been used.
            let last = self.next.map_or(self.current.until, |next| next.until);
            self.own.tat = self.own.tat.max(last.min(now) / 1_000);
        }
    }

    fn take_share(&mut self, ask: &Ask, newest: u64, now: u64) {
        let share = match self.settings.without_store {
            WithoutStore::Refuse => return,
            WithoutStore::Open => {
                let turns = ask.need.max(1);
                self.hold(turns, -i64::from(turns), 1, newest, now);
                return;
            }
            WithoutStore::Share(share) => share,
            WithoutStore::EqualShare if self.counts.peers > 0 => 1.0 / f64::from(self.counts.peers),
            WithoutStore::EqualShare => UNKNOWN,
        };
        let ask = ask.share(share);
        let interval = ask.interval.as_nanos() as u64;
        let Reply { grant, level, .. } = self.own.lease(&ask, now / 1_000);
        self.counts.level = level;
        match grant {
            Granted::Turns { turns, ahead } => {
                self.fleet_due = self.hold(turns, ahead, interval, newest, now);
            }
            Granted::Full(ahead) => {
                self.fleet_due = now.saturating_add(ahead.saturating_mul(1_000));
            }
            Granted::Late => {}
        }
    }

    pub(super) fn counts(&self, newest: u64, now: u64) -> LeaseCounts {
        let current = self.current.turns_after(newest);
        let next = self.next.filter(|next| now <= next.until);
        let current = if now <= self.current.until {
            current
        } else {
            0
        };
        LeaseCounts {
            held: current + next.map_or(0, |next| next.turns()),
            ..self.counts
        }
    }
}
