//! Runs random scripts on the breaker and on a plain sequential reference, and compares them.

use super::breaker::{Breaker, Limits, Mark, Opening, Pass, Settled, Told};
use super::count_window::CountWindow;
use super::row::Row;
use super::state::{Blocked, Event, Phase, Reason, Rules};
use super::time_window::TimeWindow;
use super::window::{Counts, Window};
use proptest::prelude::*;
use std::cell::Cell;

const MS: u64 = 1_000_000;

/// The reference keeps every record and every permit. It packs nothing and reuses nothing.
struct Reference {
    setup: Setup,
    state: State,
    /// The number of transitions; never wraps.
    epoch: u64,
    /// The epoch of the trial that the current epoch ended, if it ended one.
    trial: Option<u64>,
    opened_by: Option<Opening>,
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
    /// How many epochs and calls came before the script.
    past: u64,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Time(u64),
    Count(u32),
}

#[derive(Clone, Debug, PartialEq)]
enum State {
    Closed {
        forced: bool,
        records: Vec<Record>,
        row: u32,
    },
    ForcedOpen,
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

impl State {
    fn closed(forced: bool) -> Self {
        Self::Closed {
            forced,
            records: vec![],
            row: 0,
        }
    }
}

impl Reference {
    fn new(setup: Setup) -> Self {
        Self {
            setup,
            state: State::closed(false),
            epoch: 0,
            trial: None,
            opened_by: None,
        }
    }

    fn enter(&mut self, state: State) {
        self.trial = matches!(self.state, State::HalfOpen { .. }).then_some(self.epoch);
        if !matches!(state, State::HalfOpen { .. }) {
            self.opened_by = None;
        }
        self.state = state;
        self.epoch += 1;
    }

    /// Forces a state. Returns whether the phase changed.
    fn force(&mut self, event: Event) -> bool {
        let next = match event {
            Event::ForceOpen => State::ForcedOpen,
            event => State::closed(event == Event::ForceClosed),
        };
        let before = self.phase();
        if before != Phase::ForcedOpen || next != State::ForcedOpen {
            self.enter(next);
        }
        self.phase() != before
    }

    fn phase(&self) -> Phase {
        match self.state {
            State::Closed { forced: false, .. } => Phase::Closed,
            State::Closed { forced: true, .. } => Phase::ForcedClosed,
            State::ForcedOpen => Phase::ForcedOpen,
            State::Open { .. } => Phase::Open,
            State::HalfOpen { .. } => Phase::HalfOpen,
        }
    }

    fn renew(&self, permit: Permit) -> Option<Permit> {
        let lasts = permit.epoch == self.epoch && !permit.probe;
        let closed = permit.probe && self.trial == Some(permit.epoch);
        let passes = matches!(self.state, State::Closed { .. });
        (passes && (lasts || closed)).then_some(Permit {
            epoch: self.epoch,
            probe: false,
            ..permit
        })
    }

    fn open(&mut self, reopened: u32, now: u64, hint: u64, opening: Opening) {
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
        self.opened_by = Some(opening);
    }

    fn admit(&mut self, now: u64) -> Option<Permit> {
        let Rules { probes, lease, .. } = self.setup.rules;
        let mut probe = true;
        match &mut self.state {
            State::Closed { .. } => probe = false,
            State::ForcedOpen => return None,
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
            State::ForcedOpen => false,
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

    /// Settles a permit. Returns the reason and the counts of the transition it causes, if any.
    fn settle(&mut self, permit: Permit, mark: Mark, now: u64) -> Option<Opening> {
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
            State::Open { .. } | State::ForcedOpen => unreachable!("no permit is of an open epoch"),
            State::Closed {
                forced,
                records,
                row,
            } => {
                records.push(Record { at: now, bad, slow });
                *row = if bad { *row + 1 } else { 0 };
                let in_row = setup.row > 0 && *row >= setup.row;
                if *forced || !bad && !slow {
                    return None;
                }
                let reason = if in_row {
                    Reason::ConsecutiveFailures
                } else {
                    self.rate_exceeded(now)?
                };
                let counts = self.counts(now);
                self.open(0, now, hint, Opening { reason, counts });
                self.opened_by
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
                    calls: (*ok + *failed).into(),
                    bad: (*failed).into(),
                    slow: 0,
                };
                let reopened = *reopened;
                let (probes, successes) = (setup.rules.probes, setup.rules.successes);
                if *ok == u32::from(successes) {
                    self.enter(State::closed(false));
                    let reason = Reason::ProbesSucceeded;
                    return Some(Opening { reason, counts });
                }
                if *failed < u32::from(probes + 1 - successes) {
                    return None;
                }
                let reason = Reason::ProbesFailed;
                self.open(
                    (reopened + 1).min(63),
                    now,
                    hint,
                    Opening { reason, counts },
                );
                self.opened_by
            }
        }
    }

    fn counts(&self, now: u64) -> Counts {
        let recent = self.recent(now);
        let count =
            |of: fn(&Record) -> bool| recent.iter().filter(|record| of(record)).count() as u64;
        let slow = if self.setup.slow.is_some() {
            count(|record| record.slow)
        } else {
            0
        };
        Counts {
            calls: recent.len() as u64,
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

    /// The rate that reached its limit, if any.
    fn rate_exceeded(&self, now: u64) -> Option<Reason> {
        let counts = self.counts(now);
        let reached = |part: u64| part * 100 >= counts.calls * u64::from(self.setup.percent);
        if self.setup.window.is_none() || counts.calls < self.setup.min_calls.into() {
            None
        } else if reached(counts.bad) {
            Some(Reason::FailureRate)
        } else {
            (self.setup.slow.is_some() && reached(counts.slow)).then_some(Reason::SlowCalls)
        }
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
        Kind::Time(length) => Window::Time(TimeWindow::new(length, with_slow).aged(setup.past)),
        Kind::Count(n) => Window::Count(CountWindow::new(n, with_slow).aged(setup.past)),
    });
    let ppm = setup.percent * 10_000;
    let limits = Limits {
        failed_ppm: ppm,
        slow: setup.slow.map(|slow| (slow, ppm)),
        min_calls: setup.min_calls,
        row: setup.row,
        abandoned_after: setup.abandoned_after,
    };
    let row = (setup.row > 0).then(Row::new);
    Breaker::new(window, row, limits, setup.rules).aged(setup.past)
}

fn reported(settled: Settled) -> Option<Opening> {
    match settled {
        Settled::Changed(change) => Some(Opening {
            reason: change.reason,
            counts: change.counts,
        }),
        _ => None,
    }
}

#[derive(Clone, Debug)]
enum Step {
    Admit,
    /// Settles the permit at this index among those that are out.
    End(usize, Mark),
    Drop(usize, bool),
    /// Settles that permit at its head, and keeps it if it is renewed.
    Head(usize, Mark),
    Force(Event),
    Advance(u64),
    /// This many calls one after another, each settled at once.
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
        // Up to 2.3 years; 120 of these are less than 292 years.
        1 => (0..56_u32, -1..2_i64).prop_map(|(bit, odd)| (1_u64 << bit).saturating_add_signed(odd)),
    ];
    let force = prop_oneof![
        1 => Just(Event::ForceOpen),
        1 => Just(Event::ForceClosed),
        2 => Just(Event::Reset),
    ];
    let step = prop_oneof![
        4 => Just(Step::Admit),
        4 => (any::<usize>(), mark.clone()).prop_map(|(at, mark)| Step::End(at, mark)),
        2 => (any::<usize>(), mark).prop_map(|(at, mark)| Step::Head(at, mark)),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(at, panicked)| Step::Drop(at, panicked)),
        2 => time.prop_map(Step::Advance),
        1 => (1..40_u32, any::<bool>()).prop_map(|(n, bad)| Step::Run(n, bad)),
        1 => force.prop_map(Step::Force),
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
    // Just below the number at which a field of some width would wrap.
    let past = prop_oneof![
        Just(0),
        (1..60_u32, 0..200_u64).prop_map(|(bit, before)| (1_u64 << bit).saturating_sub(before)),
    ];
    (
        window,
        0..4_u32,
        1..8_u32,
        1..=100_u32,
        slow,
        rules,
        0..30 * MS,
        past,
    )
        .prop_map(
            |(window, row, min_calls, percent, slow, rules, abandoned_after, past)| Setup {
                window,
                row: if window.is_none() { row.max(1) } else { row },
                min_calls,
                percent,
                slow,
                rules,
                abandoned_after,
                past,
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(3_000)
    })]

    #[test]
    fn the_breaker_agrees_with_the_reference(setup in setups(), steps in steps()) {
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
                        prop_assert_eq!(pass.is_probe(), permit.probe);
                        out.push((pass, permit));
                    }
                }
                Step::End(at, mark) if !out.is_empty() => {
                    let (pass, permit) = out.remove(at % out.len());
                    let settled = breaker.settle(pass, mark, Some(permit.since), &clock);
                    prop_assert_eq!(reported(settled), reference.settle(permit, mark, now));
                }
                Step::Head(at, mark) if !out.is_empty() => {
                    let (pass, permit) = out.remove(at % out.len());
                    let settled = breaker.settle(pass, mark, Some(permit.since), &clock);
                    prop_assert_eq!(reported(settled), reference.settle(permit, mark, now));
                    let (ours, theirs) = (breaker.renew(pass), reference.renew(permit));
                    prop_assert_eq!(ours.is_some(), theirs.is_some());
                    out.extend(ours.zip(theirs));
                }
                Step::Force(event) => {
                    let told = breaker.force(event, Reason::Forced);
                    prop_assert_eq!(told.is_some(), reference.force(event));
                }
                Step::Drop(at, panicked) if !out.is_empty() => {
                    let (pass, permit) = out.remove(at % out.len());
                    breaker.abandon(pass, panicked, Some(permit.since), &clock);
                    reference.abandon(permit, panicked, now);
                }
                Step::End(..) | Step::Head(..) | Step::Drop(..) => {}
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
            let seen = breaker.snapshot(now);
            prop_assert_eq!(seen.opened_by, reference.opened_by);
            prop_assert_eq!(breaker.phase(|| now), (seen.phase, seen.blocked));
            let state = breaker.state();
            let (mut phase, mut probes_out) = (reference.phase(), 0);
            let (mut row, mut counts) = (0, Counts::default());
            match &reference.state {
                State::Closed { row: in_row, .. } => {
                    (row, counts) = (*in_row, reference.counts(now));
                }
                State::Open { until, reopened } => {
                    prop_assert_eq!(u32::from(state.reopened), *reopened);
                    let left = until.checked_sub(now).filter(|left| *left > 0);
                    prop_assert_eq!(seen.blocked.and_then(Blocked::retry_after), left);
                    if left.is_none() {
                        phase = Phase::HalfOpen;
                    }
                }
                State::HalfOpen {
                    reopened,
                    out,
                    ok,
                    bad,
                    ..
                } => {
                    probes_out = *out;
                    let trial = state.trial;
                    prop_assert_eq!(
                        [state.reopened, trial.issued, trial.ok, trial.bad].map(u32::from),
                        [*reopened, out + ok + bad, *ok, *bad]
                    );
                }
                State::ForcedOpen => {}
            }
            prop_assert_eq!((seen.phase, seen.counts), (phase, counts));
            prop_assert_eq!(seen.row, (setup.row > 0).then_some(row));
            prop_assert_eq!(seen.probes_out, probes_out);
        }
    }
}
