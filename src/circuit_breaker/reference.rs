//! The breaker against a plain sequential reference, over random scripts.

use super::breaker::{Breaker, Limits, Mark, Pass, Settled, Told};
use super::state::{Phase, Rules};
use super::window::{CountWindow, Counts, Row, TimeWindow, Window};
use proptest::prelude::*;
use std::cell::Cell;

const MS: u64 = 1_000_000;

/// What the reference keeps: every record, every permit, no packing, no tags, no buckets' reuse.
struct Reference {
    setup: Setup,
    state: State,
    /// Counts transitions, without end.
    epoch: u64,
}

#[derive(Clone, Copy, Debug)]
struct Setup {
    window: Option<Kind>,
    row: u32,
    min_calls: u32,
    percent: u32,
    slow: Option<u64>,
    rules: Rules,
    abandoned_after: u64,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Time(u64),
    Count(u32),
}

#[derive(Clone, Debug, PartialEq)]
enum State {
    Closed {
        records: Vec<Record>,
        row: u32,
    },
    Open {
        reopened: u32,
        until: u64,
    },
    HalfOpen {
        reopened: u32,
        out: u32,
        ok: u32,
        bad: u32,
        issued_at: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Record {
    at: u64,
    bad: bool,
    slow: bool,
}

#[derive(Clone, Copy, Debug)]
struct Permit {
    epoch: u64,
    probe: bool,
    since: u64,
}

impl Reference {
    fn new(setup: Setup) -> Self {
        Self {
            setup,
            state: State::Closed {
                records: vec![],
                row: 0,
            },
            epoch: 0,
        }
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.epoch += 1;
    }

    fn open(&mut self, reopened: u32, now: u64, hint: u64) {
        let Rules {
            open_for,
            max_open_for,
            ..
        } = self.setup.rules;
        let time = (open_for << reopened.min(20))
            .min(max_open_for)
            .max(hint.min(max_open_for));
        let until = (now + time).div_ceil(MS) * MS;
        self.enter(State::Open { reopened, until });
    }

    fn admit(&mut self, now: u64) -> Option<Permit> {
        let Rules { probes, lease, .. } = self.setup.rules;
        let mut probe = true;
        match &mut self.state {
            State::Closed { .. } => probe = false,
            State::Open { until, .. } if now < *until => return None,
            &mut State::Open { reopened, .. } => {
                self.enter(State::HalfOpen {
                    reopened,
                    out: 1,
                    ok: 0,
                    bad: 0,
                    issued_at: now,
                });
            }
            State::HalfOpen {
                out,
                ok,
                bad,
                issued_at,
                ..
            } => {
                let full = *out + *ok + *bad == u32::from(probes);
                if full && now - *issued_at < lease {
                    return None;
                }
                if full {
                    *out = 0;
                    self.epoch += 1;
                }
                *out += 1;
                *issued_at = now;
            }
        }
        Some(Permit {
            epoch: self.epoch,
            probe,
            since: now,
        })
    }

    fn would_admit(&self, now: u64) -> bool {
        let Rules { probes, lease, .. } = self.setup.rules;
        match self.state {
            State::Closed { .. } => true,
            State::Open { until, .. } => now >= until,
            State::HalfOpen {
                out,
                ok,
                bad,
                issued_at,
                ..
            } => out + ok + bad < u32::from(probes) || now - issued_at >= lease,
        }
    }

    /// The calls, failures and slow calls that a transition is reported with.
    fn settle(&mut self, permit: Permit, mark: Mark, now: u64) -> Option<Counts> {
        if permit.epoch != self.epoch {
            return None;
        }
        let setup = self.setup;
        let slow = setup.slow.is_some_and(|slow| now - permit.since >= slow);
        let (bad, hint) = match mark {
            Mark::Good => (false, 0),
            Mark::Bad { hint } => (true, hint),
            Mark::None => {
                if let State::HalfOpen { out, .. } = &mut self.state {
                    *out -= 1;
                }
                return None;
            }
        };
        match &mut self.state {
            State::Open { .. } => unreachable!("no permit is of an open epoch"),
            State::Closed { records, row } => {
                records.push(Record { at: now, bad, slow });
                *row = if bad { *row + 1 } else { 0 };
                let in_row = setup.row > 0 && *row >= setup.row;
                if !bad && !slow || !in_row && !self.rate_exceeded(now) {
                    return None;
                }
                let counts = self.counts(now);
                self.open(0, now, hint);
                Some(counts)
            }
            State::HalfOpen {
                reopened,
                out,
                ok,
                bad: failed,
                ..
            } => {
                *out -= 1;
                if bad || slow {
                    *failed += 1;
                } else {
                    *ok += 1;
                }
                let counts = Counts {
                    calls: *ok + *failed,
                    bad: *failed,
                    slow: 0,
                };
                let reopened = *reopened;
                let (probes, successes) = (setup.rules.probes, setup.rules.successes);
                if *ok == u32::from(successes) {
                    self.enter(State::Closed {
                        records: vec![],
                        row: 0,
                    });
                } else if *failed == u32::from(probes + 1 - successes) {
                    self.open((reopened + 1).min(31), now, hint);
                } else {
                    return None;
                }
                Some(counts)
            }
        }
    }

    fn counts(&self, now: u64) -> Counts {
        let recent = self.recent(now);
        let count =
            |of: fn(&Record) -> bool| recent.iter().filter(|record| of(record)).count() as u32;
        let slow = if self.setup.slow.is_some() {
            count(|record| record.slow)
        } else {
            0
        };
        Counts {
            calls: recent.len() as u32,
            bad: count(|record| record.bad),
            slow,
        }
    }

    fn abandon(&mut self, permit: Permit, panicked: bool, now: u64) {
        let old = now - permit.since >= self.setup.abandoned_after;
        let mark = if panicked || old {
            Mark::Bad { hint: 0 }
        } else {
            Mark::None
        };
        self.settle(permit, mark, now);
    }

    /// The records in the window.
    fn recent(&self, now: u64) -> Vec<Record> {
        let State::Closed { records, .. } = &self.state else {
            return vec![];
        };
        match self.setup.window {
            None => vec![],
            Some(Kind::Count(n)) => records[records.len().saturating_sub(n as usize)..].to_vec(),
            Some(Kind::Time(length)) => {
                let tenth = length.div_ceil(10);
                let timely = |record: &&Record| record.at / tenth + 10 > now / tenth;
                records.iter().filter(timely).copied().collect()
            }
        }
    }

    fn rate_exceeded(&self, now: u64) -> bool {
        let recent = self.recent(now);
        let calls = recent.len();
        let reached = |part: usize| part * 100 >= calls * self.setup.percent as usize;
        self.setup.window.is_some()
            && calls >= self.setup.min_calls as usize
            && (reached(recent.iter().filter(|record| record.bad).count())
                || self.setup.slow.is_some()
                    && reached(recent.iter().filter(|record| record.slow).count()))
    }
}

struct Clock(Cell<u64>);

impl Told for Clock {
    fn now(&self) -> u64 {
        self.0.get()
    }

    fn draw(&self) -> f64 {
        0.0
    }
}

fn built(setup: Setup) -> Breaker {
    let with_slow = setup.slow.is_some();
    let window = setup.window.map(|kind| match kind {
        Kind::Time(length) => Window::Time(TimeWindow::new(length, with_slow)),
        Kind::Count(n) => Window::Count(CountWindow::new(n, with_slow)),
    });
    let ppm = setup.percent * 10_000;
    let limits = Limits {
        failed_ppm: ppm,
        slow: setup.slow.map(|slow| (slow, ppm)),
        min_calls: setup.min_calls,
        row: setup.row,
        abandoned_after: setup.abandoned_after,
    };
    Breaker::new(window, (setup.row > 0).then(Row::new), limits, setup.rules)
}

#[derive(Clone, Debug)]
enum Step {
    Admit,
    /// Ends the permit at this place among those that are out.
    End(usize, Mark),
    Drop(usize, bool),
    Advance(u64),
    /// One call after another, each at once.
    Run(u32, bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let hint = prop_oneof![4 => Just(0), 1 => 0..100 * MS, 1 => Just(u64::MAX)];
    let mark = prop_oneof![
        3 => Just(Mark::Good),
        3 => hint.prop_map(|hint| Mark::Bad { hint }),
        1 => Just(Mark::None),
    ];
    let time = prop_oneof![
        4 => 0..5 * MS,
        2 => (0..60_u64).prop_map(|tenths| tenths * MS),
        1 => 0..2_000 * MS,
        1 => Just(30 * 86_400_000 * MS),
    ];
    let step = prop_oneof![
        4 => Just(Step::Admit),
        4 => (any::<usize>(), mark).prop_map(|(at, mark)| Step::End(at, mark)),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(at, panicked)| Step::Drop(at, panicked)),
        2 => time.prop_map(Step::Advance),
        1 => (1..40_u32, any::<bool>()).prop_map(|(n, bad)| Step::Run(n, bad)),
    ];
    prop::collection::vec(step, 1..120)
}

fn setups() -> impl Strategy<Value = Setup> {
    let window = prop_oneof![
        Just(None),
        prop_oneof![Just(10 * MS), Just(7), 1..2_000 * MS].prop_map(|t| Some(Kind::Time(t))),
        prop_oneof![1..5_u32, 30..70_u32].prop_map(|n| Some(Kind::Count(n))),
    ];
    let slow = prop::option::of(0..20 * MS);
    let rules = (0..50 * MS, 0..200 * MS, 1..6_u8, any::<u8>(), 1..100 * MS).prop_map(
        |(open_for, longer, probes, successes, lease)| Rules {
            open_for,
            max_open_for: open_for + longer,
            probes,
            successes: successes % probes + 1,
            lease,
        },
    );
    (
        window,
        0..4_u32,
        1..8_u32,
        1..=100_u32,
        slow,
        rules,
        0..30 * MS,
    )
        .prop_map(
            |(window, row, min_calls, percent, slow, rules, abandoned_after)| Setup {
                window,
                row: if window.is_none() { row.max(1) } else { row },
                min_calls,
                percent,
                slow,
                rules,
                abandoned_after,
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(3_000)
    })]

    #[test]
    fn the_breaker_does_as_the_reference_does(setup in setups(), steps in steps()) {
        let (breaker, mut reference) = (built(setup), Reference::new(setup));
        let clock = Clock(Cell::new(0));
        let mut out: Vec<(Pass, Permit)> = Vec::new();
        for step in steps {
            let now = clock.now();
            match step {
                Step::Admit => {
                    let ours = breaker.admit(&clock);
                    let theirs = reference.admit(now);
                    prop_assert_eq!(ours.is_ok(), theirs.is_some());
                    if let (Ok((pass, _)), Some(permit)) = (ours, theirs) {
                        prop_assert_eq!(pass.probe, permit.probe);
                        out.push((pass, permit));
                    }
                }
                Step::End(at, mark) if !out.is_empty() => {
                    let (pass, permit) = out.remove(at % out.len());
                    let settled = breaker.settle(pass, mark, Some(permit.since), &clock);
                    let reported = match settled {
                        Settled::Changed(change) => Some(change.counts),
                        _ => None,
                    };
                    prop_assert_eq!(reported, reference.settle(permit, mark, now));
                }
                Step::Drop(at, panicked) if !out.is_empty() => {
                    let (pass, permit) = out.remove(at % out.len());
                    breaker.abandon(pass, panicked, Some(permit.since), &clock);
                    reference.abandon(permit, panicked, now);
                }
                Step::End(..) | Step::Drop(..) => {}
                Step::Advance(time) => clock.0.set(now + time),
                Step::Run(calls, bad) => {
                    let mark = if bad { Mark::Bad { hint: 0 } } else { Mark::Good };
                    for _ in 0..calls {
                        let (ours, theirs) = (breaker.admit(&clock), reference.admit(now));
                        prop_assert_eq!(ours.is_ok(), theirs.is_some());
                        let (Ok((pass, _)), Some(permit)) = (ours, theirs) else { break };
                        breaker.settle(pass, mark, Some(now), &clock);
                        reference.settle(permit, mark, now);
                    }
                }
            }
            let now = clock.now();
            prop_assert_eq!(breaker.look(&clock).is_ok(), reference.would_admit(now));
            let (state, counts, row) = breaker.snapshot(now);
            match (&reference.state, state.phase) {
                (State::Closed { row: expected, .. }, Phase::Closed) => {
                    if setup.row > 0 {
                        prop_assert_eq!(row, *expected);
                    }
                    prop_assert_eq!(counts, reference.counts(now));
                }
                (State::Open { reopened, until }, Phase::Open { reopened: ours, .. }) => {
                    prop_assert_eq!(u32::from(ours), *reopened);
                    let left = until.checked_sub(now).filter(|left| *left > 0);
                    let seen = state.look(&setup.rules, now, breaker.issued_at());
                    prop_assert_eq!(seen.err().and_then(super::state::Blocked::retry_after), left);
                }
                (State::HalfOpen { reopened, out, ok, bad, .. }, Phase::HalfOpen(trial)) => {
                    prop_assert_eq!(u32::from(trial.reopened), *reopened);
                    prop_assert_eq!(
                        [trial.issued, trial.ok, trial.bad].map(u32::from),
                        [out + ok + bad, *ok, *bad]
                    );
                }
                (expected, found) => prop_assert!(false, "{:?} for {:?}", found, expected),
            }
        }
    }
}
