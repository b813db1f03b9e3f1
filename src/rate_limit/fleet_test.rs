//! A fleet of queues and a ledger between them, without a runtime and a store: discrete events on one clock.

use super::gcra::ORIGIN;
use super::lease::{LeaseSettings, WithoutStore};
use super::ledger::{Ask, Granted, Ledger, Reply};
use super::queue::{Entry, Queue};
use super::quota::Quota;
use super::visit::{Place, Ticket};
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::task::{Wake, Waker};
use std::time::Duration;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;
const TIMEOUT: u64 = 50 * MS;
/// The clock of the store at the origin, in microseconds.
const STORE: u64 = 1_700_000_000_000_000;

fn draw(seed: &mut u64) -> f64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    (*seed >> 11) as f64 / (1_u64 << 53) as f64
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Call(usize),
    /// The timer of a call rings, or its task is woken.
    Poll(usize, Ticket),
    /// A request reaches the store.
    Asked(usize),
    /// The answer reaches the process.
    Answered(usize),
    TimedOut(usize, u64),
}

struct Process {
    queue: Queue,
    asks: Arc<Mutex<Vec<(u64, Ask)>>>,
    woken: Arc<Mutex<Vec<Ticket>>>,
    waiting: BTreeMap<Ticket, (u64, u32)>,
    requests: VecDeque<(u64, Ask)>,
    answers: VecDeque<(u64, Reply)>,
    sent: Vec<u64>,
    waits: Vec<u64>,
    rejected: u64,
    trips: u64,
}

struct Woken(Ticket, Arc<Mutex<Vec<Ticket>>>);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.1.lock().unwrap().push(self.0);
    }
}

/// Whether requests that reach the store at this time are answered.
type IsUp = fn(u64) -> bool;

struct Fleet {
    processes: Vec<Process>,
    ledger: Ledger,
    events: BTreeMap<(u64, u64), Event>,
    now: u64,
    number: u64,
    trip: u64,
    seed: u64,
    max_wait: u64,
    is_up: IsUp,
    loses: bool,
}

struct Plan {
    quota: Quota,
    horizon: u64,
    trip: u64,
    demand: Vec<f64>,
    costs: Vec<u32>,
    without_store: WithoutStore,
    is_up: IsUp,
    /// Whether nobody tells that a request was not answered.
    loses: bool,
    /// The part of the calls after which a waiting caller leaves.
    leave: f64,
    seed: u64,
}

impl Plan {
    fn new(demand: Vec<f64>) -> Self {
        Self {
            quota: Quota::per_second(1_000).burst(100),
            horizon: 100 * MS,
            trip: MS,
            demand,
            costs: vec![1],
            without_store: WithoutStore::EqualShare,
            is_up: |_| true,
            loses: false,
            leave: 0.0,
            seed: 0x9E37_79B9_7F4A_7C15,
        }
    }

    fn run(&self, seconds: f64) -> Fleet {
        let process = |id: usize| {
            let asks: Arc<Mutex<Vec<_>>> = Arc::default();
            let sink = asks.clone();
            let settings = LeaseSettings {
                ask: Ask {
                    process: id as u64,
                    horizon: Duration::from_nanos(self.horizon),
                    ..Ask::new("test", self.quota)
                },
                timeout: TIMEOUT,
                without_store: self.without_store,
            };
            let ask = move |id, ask| sink.lock().unwrap().push((id, ask));
            Process {
                queue: Queue::leased(self.quota, settings, Box::new(ask), ORIGIN),
                asks,
                woken: Arc::default(),
                waiting: BTreeMap::new(),
                requests: VecDeque::new(),
                answers: VecDeque::new(),
                sent: Vec::new(),
                waits: Vec::new(),
                rejected: 0,
                trips: 0,
            }
        };
        let mut fleet = Fleet {
            processes: (0..self.demand.len()).map(process).collect(),
            ledger: Ledger::default(),
            events: BTreeMap::new(),
            now: ORIGIN,
            number: 0,
            trip: self.trip,
            seed: self.seed | 1,
            max_wait: SECOND,
            is_up: self.is_up,
            loses: self.loses,
        };
        for id in 0..self.demand.len() {
            fleet.next_call(id, self.demand[id]);
        }
        let end = ORIGIN + (seconds * 1e9) as u64;
        while let Some(((at, _), event)) = fleet.events.pop_first() {
            if at > end {
                break;
            }
            fleet.now = at;
            if let Event::Call(id) = event {
                fleet.next_call(id, self.demand[id]);
                let cost = self.costs[(draw(&mut fleet.seed) * self.costs.len() as f64) as usize];
                fleet.call(id, cost);
                if draw(&mut fleet.seed) < self.leave {
                    fleet.leave(id);
                }
            } else {
                fleet.handle(event);
            }
        }
        fleet
    }
}

impl Fleet {
    fn push(&mut self, at: u64, event: Event) {
        self.number += 1;
        self.events.insert((at, self.number), event);
    }

    fn next_call(&mut self, id: usize, demand: f64) {
        if demand > 0.0 {
            let gap = -(1.0 - draw(&mut self.seed)).ln() / demand * 1e9;
            self.push(self.now + gap as u64, Event::Call(id));
        }
    }

    fn call(&mut self, id: usize, cost: u32) {
        let (now, max_wait) = (self.now, self.max_wait);
        let process = &mut self.processes[id];
        match process.queue.take(cost, now, || max_wait) {
            Ok(Entry::Now(_)) => {
                process.sent.extend((0..cost).map(|_| now));
                process.waits.push(0);
            }
            Ok(Entry::Wait(ticket)) => {
                process.waiting.insert(ticket, (now, cost));
                self.poll(id, ticket);
            }
            Err(_) => process.rejected += 1,
        }
        self.settle(id);
    }

    fn poll(&mut self, id: usize, ticket: Ticket) {
        let now = self.now;
        let process = &mut self.processes[id];
        let Some(&(since, cost)) = process.waiting.get(&ticket) else {
            return;
        };
        let waker = Waker::from(Arc::new(Woken(ticket, process.woken.clone())));
        match process.queue.poll(ticket, now, waker) {
            Place::Turn => {
                process.queue.spend(ticket);
                process.waiting.remove(&ticket);
                process.sent.extend((0..cost).map(|_| now));
                process.waits.push(now - since);
            }
            Place::Refused(_) => {
                process.waiting.remove(&ticket);
                process.rejected += 1;
            }
            Place::Until(at) => {
                assert!(at > now, "an alarm in the past");
                self.push(at, Event::Poll(id, ticket));
            }
        }
    }

    /// The caller of a waiting call leaves.
    fn leave(&mut self, id: usize) {
        let (now, process) = (self.now, &mut self.processes[id]);
        if let Some((ticket, _)) = process.waiting.pop_first() {
            process.queue.leave(ticket, now);
        }
        self.settle(id);
    }

    fn handle(&mut self, event: Event) {
        let (now, trip) = (self.now, self.trip);
        let id = match event {
            Event::Call(id) => id,
            Event::Poll(id, ticket) => {
                self.poll(id, ticket);
                id
            }
            Event::Asked(id) => {
                let (number, ask) = self.processes[id].requests.pop_front().unwrap();
                if (self.is_up)(now - ORIGIN) {
                    let reply = self.ledger.lease(&ask, STORE + (now - ORIGIN) / 1_000);
                    self.processes[id].answers.push_back((number, reply));
                    self.push(now + trip / 2, Event::Answered(id));
                } else if !self.loses {
                    self.push(now + TIMEOUT, Event::TimedOut(id, number));
                }
                id
            }
            Event::Answered(id) => {
                let (number, reply) = self.processes[id].answers.pop_front().unwrap();
                self.processes[id].queue.answered(number, reply, now);
                id
            }
            Event::TimedOut(id, number) => {
                self.processes[id].queue.failed(number, now + SECOND, now);
                id
            }
        };
        self.settle(id);
    }

    /// Polls the calls that were woken, and sends the requests.
    fn settle(&mut self, id: usize) {
        loop {
            let woken = std::mem::take(&mut *self.processes[id].woken.lock().unwrap());
            if woken.is_empty() {
                break;
            }
            for ticket in woken {
                self.poll(id, ticket);
            }
        }
        let asks = std::mem::take(&mut *self.processes[id].asks.lock().unwrap());
        for ask in asks {
            self.processes[id].trips += 1;
            self.processes[id].requests.push_back(ask);
            self.push(self.now + self.trip / 2, Event::Asked(id));
        }
    }

    fn sent(&self) -> Vec<u64> {
        let mut sent: Vec<u64> = self.processes.iter().flat_map(|p| p.sent.clone()).collect();
        sent.sort_unstable();
        sent
    }

    /// Checks the bound in all windows. `burst`: what one window may hold on top of its rate, in nanoseconds.
    fn assert_bound(&self, quota: Quota, extra: u64) {
        let interval = quota.rate().interval;
        let sent = self.sent();
        // In units of time: the k-th send after the first of a window needs k intervals, but for the burst.
        let mut credit = 0_u64;
        let mut last = sent.first().copied().unwrap_or(0);
        for at in sent {
            credit = credit.saturating_sub(at - last) + interval;
            assert!(
                credit <= extra + interval,
                "{credit} > {extra} at {}",
                at - ORIGIN
            );
            last = at;
        }
    }

    fn rates(&self, seconds: f64) -> Vec<f64> {
        self.processes
            .iter()
            .map(|p| p.sent.len() as f64 / seconds)
            .collect()
    }

    fn wait(&self, part: f64) -> u64 {
        let mut waits: Vec<u64> = self
            .processes
            .iter()
            .flat_map(|p| p.waits.clone())
            .collect();
        waits.sort_unstable();
        waits[((waits.len() - 1) as f64 * part) as usize]
    }
}

fn extra(quota: Quota, horizon: u64) -> u64 {
    let rate = quota.rate();
    rate.span(rate.burst).max(2 * horizon) + horizon + TIMEOUT
}

#[test]
fn ninety_seven_percent_of_what_could_be_sent_is_sent_in_few_trips() {
    let one = |first: f64, others: f64| {
        let mut demand = vec![others; 10];
        demand[0] = first;
        demand
    };
    for (demand, could) in [
        (vec![50.0; 10], 500.0),
        (vec![90.0; 10], 900.0),
        (vec![200.0; 10], 1_000.0),
        (one(850.0, 10.0), 940.0),
        (one(5_000.0, 50.0), 1_000.0),
        (vec![40.0; 50], 1_000.0),
        (vec![16.0; 50], 800.0),
    ] {
        let plan = Plan::new(demand.clone());
        let fleet = plan.run(20.0);
        let sent = fleet.sent().len() as f64 / 20.0;
        let trips = fleet.processes.iter().map(|p| p.trips).max().unwrap();
        let rejected: u64 = fleet.processes.iter().map(|p| p.rejected).sum();
        println!(
            "{:?}: {sent}/s of {could}, at most {trips} trips in 20 s, {rejected} rejected, p50 {} us, p99 {} us, {:?}",
            (demand[0], demand[1], demand.len()),
            fleet.wait(0.5) / 1_000,
            fleet.wait(0.99) / 1_000,
            &fleet.rates(20.0)[..2],
        );
        assert!(sent >= 0.97 * could, "{demand:?}: {sent}/s");
        assert!(trips <= 20 * 13, "{demand:?}: {trips} trips");
        fleet.assert_bound(plan.quota, extra(plan.quota, plan.horizon));
        let modest = fleet.rates(20.0)[1];
        assert!(
            modest >= 0.9 * demand[1].min(1_000.0 / demand.len() as f64),
            "{modest}"
        );
    }
}

/// Away from the second to the fourth second.
fn breaks(at: u64) -> bool {
    !(2 * SECOND..4 * SECOND).contains(&at)
}

#[test]
fn without_the_store_the_fleet_keeps_to_its_shares_and_no_call_waits_for_it() {
    let mut plan = Plan::new(vec![50.0; 10]);
    plan.is_up = breaks;
    plan.without_store = WithoutStore::Share(0.1);
    let fleet = plan.run(6.0);
    fleet.assert_bound(plan.quota, extra(plan.quota, plan.horizon));
    assert!(fleet.wait(1.0) < TIMEOUT + 60 * MS, "{}", fleet.wait(1.0));
    let rejected: u64 = fleet.processes.iter().map(|process| process.rejected).sum();
    assert_eq!(rejected, 0);

    let mut plan = Plan::new(vec![200.0; 10]);
    plan.is_up = breaks;
    plan.without_store = WithoutStore::Share(0.05);
    let fleet = plan.run(6.0);
    fleet.assert_bound(plan.quota, extra(plan.quota, plan.horizon));
    let sent = fleet.sent();
    let away = |at: &&u64| (ORIGIN + 2_500 * MS..ORIGIN + 4_000 * MS).contains(*at);
    let rate = sent.iter().filter(away).count() as f64 / 1.5;
    assert!((450.0..510.0).contains(&rate), "{rate}");
    let after = |at: &&u64| **at > ORIGIN + 5 * SECOND;
    assert!(sent.iter().filter(after).count() >= 960);
}

#[test]
fn a_costly_call_that_leaves_gives_back_only_its_turns_of_the_current_lease() {
    let settings = LeaseSettings {
        ask: Ask::new("test", Quota::per_second(1_000).burst(100)),
        timeout: TIMEOUT,
        without_store: WithoutStore::Refuse,
    };
    let quota = Quota::per_second(1_000).burst(100);
    let queue = Queue::leased(quota, settings, Box::new(|_, _| ()), ORIGIN);
    let reply = |turns| Reply {
        grant: Granted::Turns { turns, ahead: 0 },
        level: 1_000.0,
        peers: 1,
        now: STORE,
        tat: STORE,
    };
    let wait = |cost, now| match queue.take(cost, now, || SECOND).unwrap() {
        Entry::Wait(ticket) => ticket,
        Entry::Now(_) => panic!("granted"),
    };
    let granted = |now| (0..9).filter(|_| queue.take(1, now, || 0).is_ok()).count();
    let waker = || Waker::noop().clone();
    // A lease of 3 turns, of which 2 are left, and one of 5.
    let first = wait(1, ORIGIN);
    queue.answered(1, reply(3), ORIGIN);
    assert_eq!(queue.poll(first, ORIGIN, waker()), Place::Turn);
    queue.spend(first);
    let costly = wait(5, ORIGIN);
    queue.answered(2, reply(5), ORIGIN + 4 * MS);
    let now = ORIGIN + 20 * MS;
    assert_eq!(queue.poll(costly, now, waker()), Place::Turn);
    assert_eq!(granted(now), 2);
    queue.leave(costly, now);
    assert_eq!(granted(now), 3);
}

#[test]
fn an_outage_brings_no_burst_when_it_begins_or_ends() {
    let mut plan = Plan::new(vec![200.0; 10]);
    plan.quota = Quota::per_second(1_000).burst(1_000);
    plan.is_up = breaks;
    plan.without_store = WithoutStore::Share(0.1);
    let fleet = plan.run(7.0);
    let sent = fleet.sent();
    let in_second = |second: u64| {
        let from = ORIGIN + second * SECOND;
        sent.iter()
            .filter(|at| (from..from + SECOND).contains(*at))
            .count()
    };
    let seconds: Vec<usize> = (2..6).map(in_second).collect();
    assert!(seconds.iter().all(|sent| *sent <= 1_350), "{seconds:?}");
    assert!(seconds.iter().sum::<usize>() <= 4_500, "{seconds:?}");

    // Nor if it is there from the start.
    plan.is_up = |_| false;
    let sent = plan.run(2.0).sent().len();
    assert!(sent <= 2_100, "{sent}");
}

#[test]
fn a_request_whose_task_is_lost_holds_nobody_up() {
    let mut plan = Plan::new(vec![50.0; 10]);
    plan.is_up = breaks;
    plan.loses = true;
    plan.without_store = WithoutStore::Share(0.1);
    let fleet = plan.run(6.0);
    assert!(fleet.wait(1.0) < TIMEOUT + 60 * MS, "{}", fleet.wait(1.0));
    for process in &fleet.processes {
        assert_eq!(process.rejected, 0);
        assert_eq!(process.queue.leases(fleet.now).unwrap().down, None);
    }
}

#[test]
fn without_the_store_calls_are_refused_or_admitted_if_asked() {
    let mut plan = Plan::new(vec![50.0; 4]);
    plan.is_up = |_| false;
    plan.without_store = WithoutStore::Refuse;
    let fleet = plan.run(4.0);
    assert_eq!(fleet.sent().len(), 0);
    plan.without_store = WithoutStore::Open;
    plan.demand = vec![1_000.0; 4];
    let fleet = plan.run(4.0);
    let rejected: u64 = fleet.processes.iter().map(|process| process.rejected).sum();
    assert_eq!(rejected, 0);
    assert!(fleet.sent().len() > 15_000, "{}", fleet.sent().len());
    assert!(fleet.wait(1.0) <= TIMEOUT + MS, "{}", fleet.wait(1.0));
}

#[test]
fn costly_calls_get_their_turns_whole() {
    let mut plan = Plan::new(vec![20.0; 10]);
    plan.costs = vec![1, 3, 7, 50];
    let fleet = plan.run(20.0);
    fleet.assert_bound(plan.quota, extra(plan.quota, plan.horizon) + 50 * MS);
    let sent = fleet.sent().len() as f64 / 20.0;
    assert!(sent >= 850.0, "{sent}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn the_bound_holds_in_every_window(
        n in 1..3_000_u32,
        burst in 1..300_u32,
        horizon in 10..400_u64,
        trip in 1..40_u64,
        demand in prop::collection::vec(prop_oneof![0.0..20.0, 0.0..400.0], 1..12),
        costs in prop::collection::vec(0..20_u32, 1..4),
        leave in prop_oneof![Just(0.0), 0.0..0.5],
        down in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let mut plan = Plan::new(demand);
        plan.quota = Quota::per_second(n).burst(burst);
        plan.horizon = horizon * MS;
        plan.trip = trip * MS;
        plan.costs = costs;
        plan.leave = leave;
        plan.seed = seed;
        if down {
            // All at once, so that the shares add up to no more than the quota.
            plan.is_up = breaks;
            plan.without_store = WithoutStore::Share(1.0 / plan.demand.len() as f64);
        }
        let rate = plan.quota.rate();
        let fleet = plan.run(6.0);
        // As the store comes back, a process that has not noticed yet adds its share: for 1 s, until it asks again, and
        // the time-out. It may round its burst and a lease up.
        let rounding = rate.span(1) * 2 * plan.demand.len() as u64;
        let late = rate.span(rate.burst) + rounding + 2 * plan.horizon + SECOND + TIMEOUT;
        let share = if down { late } else { 0 };
        let most = plan.costs.iter().max().copied().unwrap().min(burst);
        let extra = extra(plan.quota, plan.horizon) + rate.span(most) + share;
        fleet.assert_bound(plan.quota, extra);
        for process in &fleet.processes {
            prop_assert!(process.trips <= 6 * 1_200 / horizon + 9 + 2, "{}", process.trips);
        }
    }
}
