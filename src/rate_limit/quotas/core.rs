//! The core: several quotas, one queue and one decision. Each quota is a GCRA, as in [`gcra`].
//!
//! A call takes from all quotas at the same moment, or from none. Calls wait in order of arrival, each until all quotas
//! have room for it. A call that waits holds nothing.
//!
//! A turn is handed out when it is due, by whoever comes next. So a waiting call that nobody polls holds up no other.

use super::slack::Slack;
use crate::rate_limit::gcra::{self, Refusal};
use crate::rate_limit::quota::Rate;
use std::collections::{HashMap, VecDeque};

#[derive(Debug)]
pub(super) struct Core<const N: usize> {
    rates: [Rate; N],
    /// The latest turn of each quota.
    newest: [u64; N],
    slack: [Slack; N],
    waiting: VecDeque<Waiter<N>>,
    /// The calls that have their turn or are refused, and have not noticed: what they took.
    settled: HashMap<u64, Result<[u32; N], Refused>>,
    /// The calls to wake.
    woken: Vec<u64>,
    /// The newest turns after all waiting calls, and the latest of their turns.
    tail: ([u64; N], u64),
    next: u64,
    /// What was charged, in order: the call, the time, and how far that moved each quota's newest turn.
    #[cfg(all(test, not(buttress_loom)))]
    charged: Vec<(u64, u64, [u64; N])>,
}

#[derive(Clone, Copy, Debug)]
struct Waiter<const N: usize> {
    number: u64,
    costs: [u32; N],
    /// When its turn comes, if nothing changes.
    due: u64,
    /// The latest turn that the call accepts.
    latest: u64,
}

/// Why a call was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Its turn would come in so many nanoseconds, if it is known.
    Late(Option<u64>),
    /// It costs more than the burst of this quota.
    TooCostly(usize),
}

/// What a call finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Its turn: the number of the charge.
    Turn(u64),
    /// It must ask again at this time, or when it is woken.
    Until(u64),
    Refused(Refused),
}

impl<const N: usize> Core<N> {
    pub(super) fn new(rates: [Rate; N]) -> Self {
        Self {
            rates,
            newest: [0; N],
            slack: std::array::from_fn(|_| Slack::default()),
            waiting: VecDeque::new(),
            settled: HashMap::new(),
            woken: Vec::new(),
            tail: ([0; N], 0),
            next: 0,
            #[cfg(all(test, not(buttress_loom)))]
            charged: Vec::new(),
        }
    }

    /// Takes a turn, or else a place in the queue, if the turn comes by `latest`.
    pub(super) fn enter(
        &mut self,
        costs: [u32; N],
        now: u64,
        latest: u64,
    ) -> Result<(u64, Found), Refused> {
        for (at, (rate, cost)) in self.rates.iter().zip(costs).enumerate() {
            match gcra::admits(*rate, cost) {
                Err(Refusal::TooCostly) => return Err(Refused::TooCostly(at)),
                // A quota of nothing admits only calls that cost nothing.
                Err(_) if cost > 0 => return Err(Refused::Late(None)),
                _ => {}
            }
        }
        self.hand_out(now);
        let number = self.next;
        if self.waiting.is_empty() {
            self.tail = (self.newest, now);
        }
        let (newest, last) = self.tail;
        let due = self.due(newest, costs, last.max(now));
        if due > latest {
            return Err(late(due, now));
        }
        self.next += 1;
        if self.waiting.is_empty() && due <= now {
            self.charge(number, costs, now);
            return Ok((number, Found::Turn(number)));
        }
        self.tail = (self.after(newest, costs, due), due);
        self.waiting.push_back(Waiter {
            number,
            costs,
            due,
            latest,
        });
        Ok((number, Found::Until(due)))
    }

    /// Where a waiting call stands. After a turn or a refusal it waits no more.
    pub(super) fn poll(&mut self, number: u64, now: u64) -> Found {
        self.hand_out(now);
        match self.settled.remove(&number) {
            Some(Ok(_)) => return Found::Turn(number),
            Some(Err(refused)) => return Found::Refused(refused),
            None => {}
        }
        let Some(at) = self.find(number) else {
            return Found::Refused(Refused::Late(None));
        };
        let Waiter { due, latest, .. } = self.waiting[at];
        if due <= latest {
            return Found::Until(due);
        }
        self.remove(at, now);
        Found::Refused(late(due, now))
    }

    /// Gives up a place, or a turn that was not fetched.
    pub(super) fn leave(&mut self, number: u64, now: u64) {
        match self.settled.remove(&number) {
            Some(Ok(costs)) => self.settle(number, costs, [0; N], now),
            Some(Err(_)) => {}
            None => {
                if let Some(at) = self.find(number) {
                    self.remove(at, now);
                }
            }
        }
    }

    /// Hands out the turns that are due, in order of arrival, and refuses the calls whose turn would come too late.
    fn hand_out(&mut self, now: u64) {
        let mut moved = false;
        while let Some(&Waiter {
            number,
            costs,
            due: expected,
            latest,
        }) = self.waiting.front()
        {
            let due = self.due(self.newest, costs, now);
            let settled = if due > latest {
                moved = true;
                Err(late(due, now))
            } else if due <= now {
                // A turn that is handed out late moves those behind it only if a quota has had all of its burst since.
                moved |=
                    self.after(self.newest, costs, now) != self.after(self.newest, costs, expected);
                self.charge(number, costs, now);
                Ok(costs)
            } else {
                break;
            };
            self.waiting.pop_front();
            self.settled.insert(number, settled);
            self.woken.push(number);
        }
        if moved {
            self.estimate_anew(now);
        }
    }

    /// The calls to wake, since it was last asked.
    pub(super) fn woken(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.woken)
    }

    /// Corrects a charge. What it cost less is given back, as far as no quota had all of its burst since then.
    pub(super) fn settle(&mut self, number: u64, taken: [u32; N], real: [u32; N], now: u64) {
        for at in 0..N {
            let rate = self.rates[at];
            let floor = now.saturating_sub(rate.span(rate.burst));
            let newest = self.newest[at].max(floor);
            self.newest[at] = if real[at] > taken[at] {
                newest
                    .saturating_add(rate.span(real[at] - taken[at]))
                    .min(gcra::END)
            } else {
                let low = self.slack[at].since(number, newest - floor);
                let back = rate.span(taken[at] - real[at]).min(low);
                self.slack[at].lowered(number, back);
                #[cfg(all(test, not(buttress_loom)))]
                self.gave_back(number, at, back);
                newest - back
            };
            self.slack[at].close(number);
        }
        self.estimate_anew(now);
        self.hand_out(now);
    }

    /// The calls of cost 1 that each quota would grant at once.
    pub(super) fn available(&self, now: u64) -> [u32; N] {
        std::array::from_fn(|at| {
            let rate = self.rates[at];
            let rested = now
                .saturating_sub(self.newest[at])
                .min(rate.span(rate.burst));
            rested
                .checked_div(rate.interval)
                .map_or(rate.burst, |calls| calls as u32)
        })
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// When all quotas have room for these costs, not before `now`.
    fn due(&self, newest: [u64; N], costs: [u32; N], now: u64) -> u64 {
        let turns = self.rates.iter().zip(newest).zip(costs);
        let turns = turns.filter(|(_, cost)| *cost > 0);
        let turns =
            turns.map(|((rate, newest), cost)| gcra::turn(*rate, newest, 0, rate.span(cost), now));
        turns.fold(now, u64::max)
    }

    /// The newest turns after a call that goes at `due`.
    fn after(&self, newest: [u64; N], costs: [u32; N], due: u64) -> [u64; N] {
        std::array::from_fn(|at| {
            let rate = self.rates[at];
            let span = rate.span(costs[at]);
            if span == 0 {
                newest[at]
            } else {
                gcra::turn(rate, newest[at], 0, span, due)
            }
        })
    }

    fn charge(&mut self, number: u64, costs: [u32; N], now: u64) {
        for at in 0..N {
            let rate = self.rates[at];
            let floor = now.saturating_sub(rate.span(rate.burst));
            self.slack[at].charged(number, self.newest[at].saturating_sub(floor));
        }
        self.newest = self.after(self.newest, costs, now);
        #[cfg(all(test, not(buttress_loom)))]
        self.charged.push((
            number,
            now,
            std::array::from_fn(|at| self.rates[at].span(costs[at])),
        ));
    }

    fn find(&self, number: u64) -> Option<usize> {
        self.waiting
            .binary_search_by_key(&number, |waiter| waiter.number)
            .ok()
    }

    fn remove(&mut self, at: usize, now: u64) {
        self.waiting.remove(at);
        self.estimate_anew(now);
        self.hand_out(now);
    }

    /// Computes the turns of the waiting calls again, and wakes the first one if its turn has moved.
    fn estimate_anew(&mut self, now: u64) {
        let first = self
            .waiting
            .front()
            .map(|waiter| (waiter.number, waiter.due));
        let mut waiting = std::mem::take(&mut self.waiting);
        let (mut newest, mut last) = (self.newest, now);
        for waiter in &mut waiting {
            last = self.due(newest, waiter.costs, last);
            newest = self.after(newest, waiter.costs, last);
            waiter.due = last;
        }
        self.waiting = waiting;
        self.tail = (newest, last);
        if let (Some((number, due)), Some(now_first)) = (first, self.waiting.front()) {
            if now_first.due != due {
                self.woken.push(number);
            }
        }
    }
}

fn late(due: u64, now: u64) -> Refused {
    Refused::Late((due < u64::MAX).then(|| due.saturating_sub(now)))
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use super::*;
    use crate::rate_limit::Quota;
    use crate::rate_limit::gcra::ORIGIN;
    use proptest::prelude::*;
    use std::time::Duration;

    const SECOND: u64 = 1_000_000_000;

    fn quotas() -> [Quota; 2] {
        [
            Quota::per_second(2).burst(4),
            Quota::new(10, Duration::from_secs(1)).burst(30),
        ]
    }

    impl<const N: usize> Core<N> {
        pub(super) fn gave_back(&mut self, number: u64, at: usize, back: u64) {
            let charge = self.charged.iter_mut().find(|(known, ..)| *known == number);
            charge.expect("it was charged").2[at] -= back;
        }
    }

    /// In every window, what was charged is at most the burst and what the time adds. Calls go in order of arrival.
    fn assert_bound(charged: &[(u64, u64, [u64; 2])]) {
        assert!(
            charged.is_sorted_by_key(|(number, ..)| *number),
            "{charged:?}"
        );
        for (at, quota) in quotas().into_iter().enumerate() {
            let rate = quota.rate();
            for (first, (_, start, _)) in charged.iter().enumerate() {
                let mut sum = 0;
                for (_, end, spans) in &charged[first..] {
                    sum += spans[at];
                    let most = rate.span(rate.burst) + (end - start);
                    assert!(sum <= most, "quota {at}: {sum} of {most}");
                }
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Act {
        Enter { costs: [u32; 2], wait: u64 },
        Poll(usize),
        Leave(usize),
        Settle { which: usize, less: [u32; 2] },
        Sleep(u64),
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let cost = (0..5_u32, 0..31_u32).prop_map(|(one, two)| [one, two]);
        let act = prop_oneof![
            3 => (cost.clone(), 0..5 * SECOND).prop_map(|(costs, wait)| Act::Enter { costs, wait }),
            3 => any::<usize>().prop_map(Act::Poll),
            1 => any::<usize>().prop_map(Act::Leave),
            2 => (any::<usize>(), cost).prop_map(|(which, less)| Act::Settle { which, less }),
            2 => (0..3 * SECOND).prop_map(Act::Sleep),
        ];
        prop::collection::vec(act, 1..120)
    }

    proptest! {
        #[test]
        fn the_bound_holds_for_what_calls_really_cost(acts in acts()) {
            let mut core = Core::new(quotas().map(Quota::rate));
            let mut now = ORIGIN;
            let mut waiting: Vec<(u64, [u32; 2])> = Vec::new();
            let mut open: Vec<(u64, [u32; 2])> = Vec::new();
            for act in acts {
                match act {
                    Act::Sleep(nanos) => now += nanos,
                    Act::Enter { costs, wait } => match core.enter(costs, now, now + wait) {
                        Ok((number, Found::Turn(_))) => open.push((number, costs)),
                        Ok((number, _)) => waiting.push((number, costs)),
                        Err(_) => {}
                    },
                    Act::Poll(which) if !waiting.is_empty() => {
                        let at = which % waiting.len();
                        match core.poll(waiting[at].0, now) {
                            Found::Turn(_) => open.push(waiting.remove(at)),
                            Found::Refused(_) => drop(waiting.remove(at)),
                            Found::Until(until) => prop_assert!(until > now),
                        }
                    }
                    Act::Leave(which) if !waiting.is_empty() => {
                        let (number, _) = waiting.remove(which % waiting.len());
                        core.leave(number, now);
                    }
                    Act::Settle { which, less } if !open.is_empty() => {
                        let (number, taken) = open.remove(which % open.len());
                        let real = [0, 1].map(|at| taken[at].saturating_sub(less[at]));
                        core.settle(number, taken, real, now);
                    }
                    Act::Poll(_) | Act::Leave(_) | Act::Settle { .. } => {}
                }
            }
            assert_bound(&core.charged);
            // Nobody is forgotten, though only the last call is polled.
            while let Some((last, _)) = waiting.last() {
                match core.poll(*last, now) {
                    Found::Until(until) => now = until,
                    Found::Turn(_) | Found::Refused(_) => drop(waiting.pop()),
                }
            }
            prop_assert_eq!((core.waiting.len(), core.settled.len()), (0, 0));
        }
    }

    fn charge(core: &mut Core<1>, cost: u32, now: u64) -> u64 {
        match core.enter([cost], ORIGIN + now, ORIGIN + now) {
            Ok((number, Found::Turn(_))) => number,
            other => panic!("{other:?}"),
        }
    }

    fn one() -> Core<1> {
        Core::new([Quota::per_second(1).burst(10).rate()])
    }

    #[test]
    fn what_a_call_cost_less_can_be_taken_again() {
        let mut core = one();
        let call = charge(&mut core, 10, 0);
        assert_eq!(core.available(ORIGIN), [0]);
        core.settle(call, [10], [3], ORIGIN);
        assert_eq!(core.available(ORIGIN), [7]);
        // More than the estimate is taken, even below nothing.
        let call = charge(&mut core, 7, 0);
        core.settle(call, [7], [12], ORIGIN);
        assert_eq!(core.available(ORIGIN + 5 * SECOND), [0]);
        assert_eq!(core.available(ORIGIN + 6 * SECOND), [1]);
    }

    #[test]
    fn what_came_back_for_one_call_counts_for_the_next() {
        let mut core = one();
        let (first, second) = (charge(&mut core, 5, 0), charge(&mut core, 5, 0));
        charge(&mut core, 1, 4 * SECOND);
        // Without the first two calls, the third would have found all ten.
        core.settle(first, [5], [0], ORIGIN + 4 * SECOND);
        core.settle(second, [5], [0], ORIGIN + 4 * SECOND);
        assert_eq!(core.available(ORIGIN + 4 * SECOND), [9]);
    }

    #[test]
    fn what_comes_back_after_the_quota_was_whole_is_lost() {
        let mut core = one();
        let call = charge(&mut core, 10, 0);
        let second = charge(&mut core, 9, 9_500_000_000);
        // At 9.5 s the quota was half a call from being whole: no more than that comes back.
        core.settle(call, [10], [1], ORIGIN + 9_500_000_000);
        assert_eq!(core.available(ORIGIN + 9_500_000_000), [1]);
        core.settle(second, [9], [9], ORIGIN + 9_500_000_000);
        let mut core = one();
        let call = charge(&mut core, 10, 0);
        charge(&mut core, 10, 100 * SECOND);
        core.settle(call, [10], [0], ORIGIN + 100 * SECOND);
        assert_eq!(core.available(ORIGIN + 100 * SECOND), [0]);
    }
}
