//! The circuit breaker's core: the state's word and the windows, told the time and the draw.

use super::state::{Blocked, Event, Phase, Rules, State, Trial};
use super::window::{Call, Counts, Row, Window};
use crate::event::TransitionReason;
use crate::sync::{
    AtomicU64, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};

/// When a closed circuit opens.
#[derive(Debug)]
pub(super) struct Limits {
    /// Of failed calls, in parts per million.
    pub(super) failed_ppm: u32,
    /// How long a call takes that counts as slow, and of how many such calls in parts per million.
    pub(super) slow: Option<(u64, u32)>,
    /// No rate is taken of fewer calls.
    pub(super) min_calls: u32,
    /// Failures in a row.
    pub(super) row: u32,
    /// A call cancelled at this age counts as failed. Nanoseconds.
    pub(super) abandoned_after: u64,
}

/// Time and chance, asked for where a decision needs them.
pub(super) trait Told {
    /// Nanoseconds on a timeline of its own.
    fn now(&self) -> u64;
    /// In `[0, 1)`.
    fn draw(&self) -> f64;
}

#[derive(Debug)]
pub(super) struct Breaker {
    word: AtomicU64,
    /// When the latest probe went out, or a later time. Kept apart from the word: it only ever
    /// grows, and is raised *before* a probe is issued, so that a lease never lapses early.
    issued_at: AtomicU64,
    pub(super) window: Option<Window>,
    row: Option<Row>,
    pub(super) limits: Limits,
    pub(super) rules: Rules,
}

/// A call that was let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pass {
    epoch: u32,
    pub(super) probe: bool,
}

/// What a call came to, for the callee.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Mark {
    Good,
    /// With the callee's wish to be left alone, in nanoseconds.
    Bad {
        hint: u64,
    },
    /// No verdict.
    None,
}

/// A transition, as its only winner reports it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Change {
    pub(super) from: Phase,
    pub(super) to: Phase,
    pub(super) reason: TransitionReason,
    /// The calls that led to it, where calls did.
    pub(super) counts: Counts,
}

/// What settling a call led to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Settled {
    Nothing,
    /// A probe's place is free again.
    Returned,
    Changed(Change),
}

impl Breaker {
    pub(super) fn new(
        window: Option<Window>,
        row: Option<Row>,
        limits: Limits,
        rules: Rules,
    ) -> Self {
        Self {
            word: AtomicU64::new(State::NEW.into()),
            issued_at: AtomicU64::new(0),
            window,
            row,
            limits,
            rules,
        }
    }

    #[inline]
    pub(super) fn state(&self) -> State {
        // Acquire: what led to the state comes before whatever is done because of it.
        self.word.load(Acquire).into()
    }

    /// Whether a call could go now; takes nothing.
    #[inline]
    pub(super) fn look(&self, told: &impl Told) -> Result<(), Blocked> {
        let state = self.state();
        if state.passes() {
            return Ok(());
        }
        state.look(&self.rules, told.now(), self.issued_at())
    }

    /// Lets a call through that needs no probe. Only the short way: [`admit_probe`](Self::admit_probe)
    /// decides the same.
    #[inline]
    pub(super) fn pass(&self) -> Option<Pass> {
        let state = self.state();
        state.passes().then_some(Pass {
            epoch: state.epoch,
            probe: false,
        })
    }

    /// Lets a call through, or not.
    #[cfg(test)]
    pub(super) fn admit(&self, told: &impl Told) -> Result<(Pass, Option<Change>), Blocked> {
        self.pass()
            .map_or_else(|| self.admit_probe(told.now()), |pass| Ok((pass, None)))
    }

    /// Lets a call through as a probe, or not.
    #[cold]
    pub(super) fn admit_probe(&self, now: u64) -> Result<(Pass, Option<Change>), Blocked> {
        let mut word = self.word.load(Acquire);
        loop {
            let state = State::from(word);
            if state.passes() {
                return Ok((
                    Pass {
                        epoch: state.epoch,
                        probe: false,
                    },
                    None,
                ));
            }
            let issued_at = self.issued_at();
            state.look(&self.rules, now, issued_at)?;
            let event = Event::Admit { now, issued_at };
            let next = state
                .after(event, &self.rules)
                .expect("what may go is let through");
            // Before the probe exists. Release: with the exchange below, whoever sees the probe
            // issued sees this too.
            self.issued_at.fetch_max(now, Release);
            match self
                .word
                .compare_exchange_weak(word, next.into(), AcqRel, Acquire)
            {
                Ok(_) => {
                    let pass = Pass {
                        epoch: next.epoch,
                        probe: true,
                    };
                    let reason = match state.phase {
                        Phase::HalfOpen(_) => TransitionReason::LeaseLapsed,
                        _ => TransitionReason::OpenTimeOver,
                    };
                    return Ok((pass, change(state, next, reason, Counts::default())));
                }
                Err(newer) => word = newer,
            }
        }
    }

    /// Takes what a call came to, which was in flight since then; `None` for no time at all.
    #[inline]
    pub(super) fn settle(
        &self,
        pass: Pass,
        mark: Mark,
        since: Option<u64>,
        told: &impl Told,
    ) -> Settled {
        if self.state().epoch != pass.epoch {
            return Settled::Nothing; // an outcome of another epoch
        }
        match (mark, pass.probe) {
            (Mark::None, true) => match self.update(pass, Event::Return) {
                Some(_) => Settled::Returned,
                None => Settled::Nothing,
            },
            (Mark::None, false) => Settled::Nothing,
            (_, true) => self.settle_probe(pass, mark, since, told),
            (_, false) => self.count(pass, mark, since, told),
        }
    }

    /// Takes the end of a call that came to nothing: dropped, or lost in a panic.
    pub(super) fn abandon(
        &self,
        pass: Pass,
        panicked: bool,
        since: Option<u64>,
        told: &impl Told,
    ) -> Settled {
        let old = || since.is_some_and(|_| age(since, told.now()) >= self.limits.abandoned_after);
        let mark = if panicked || old() {
            Mark::Bad { hint: 0 }
        } else {
            Mark::None
        };
        self.settle(pass, mark, since, told)
    }

    pub(super) fn force(&self, event: Event, reason: TransitionReason) -> Change {
        let mut word = self.word.load(Acquire);
        loop {
            let state = State::from(word);
            let next = state
                .after(event, &self.rules)
                .expect("a forced state is always reached");
            match self
                .word
                .compare_exchange_weak(word, next.into(), AcqRel, Acquire)
            {
                Ok(_) => {
                    let counts = Counts::default();
                    return Change {
                        from: state.phase,
                        to: next.phase,
                        reason,
                        counts,
                    };
                }
                Err(newer) => word = newer,
            }
        }
    }

    /// State, window and failures in a row, of one epoch.
    pub(super) fn snapshot(&self, now: u64) -> (State, Counts, u32) {
        loop {
            let state = self.state();
            let counts = self
                .window
                .as_ref()
                .map_or(Counts::default(), |window| window.read(state.epoch, now));
            let row = self.row.as_ref().map_or(0, |row| row.read(state.epoch));
            let after = self.state();
            if after.epoch == state.epoch {
                return (after, counts, row);
            }
        }
    }

    #[inline]
    pub(super) fn issued_at(&self) -> u64 {
        // Read after the word: at least as late as the issue of any probe that the word counts.
        self.issued_at.load(Relaxed)
    }

    #[cold]
    fn settle_probe(
        &self,
        pass: Pass,
        mark: Mark,
        since: Option<u64>,
        told: &impl Told,
    ) -> Settled {
        let now = told.now();
        let slow = self.is_slow(since, now);
        let (event, reason) = match mark {
            Mark::Good if !slow => (Event::Good, TransitionReason::ProbesSucceeded),
            Mark::Bad { hint } => (
                Event::Bad {
                    now,
                    hint,
                    draw: told.draw(),
                },
                TransitionReason::ProbesFailed,
            ),
            _ => (
                Event::Bad {
                    now,
                    hint: 0,
                    draw: told.draw(),
                },
                TransitionReason::ProbesFailed,
            ),
        };
        let Some((before, after)) = self.update(pass, event) else {
            return Settled::Nothing;
        };
        let counts = match before.phase {
            Phase::HalfOpen(Trial { ok, bad, .. }) => Counts {
                calls: u32::from(ok) + u32::from(bad) + 1,
                bad: u32::from(bad) + u32::from(event != Event::Good),
                slow: 0,
            },
            _ => Counts::default(),
        };
        change(before, after, reason, counts).map_or(Settled::Nothing, Settled::Changed)
    }

    /// Counts a call of a closed circuit, and opens it where that was one too many.
    #[inline]
    fn count(&self, pass: Pass, mark: Mark, since: Option<u64>, told: &impl Told) -> Settled {
        let timed = self.limits.slow.is_some() || matches!(self.window, Some(Window::Time(_)));
        let now = if timed { told.now() } else { 0 };
        let call = Call {
            bad: mark != Mark::Good,
            slow: self.is_slow(since, now),
        };
        let current = || self.state().epoch == pass.epoch;
        if let Some(window) = &self.window {
            window.record(pass.epoch, now, call, current);
        }
        let row = self
            .row
            .as_ref()
            .map_or(0, |row| row.record(pass.epoch, call.bad, current));
        // Only a failed or a slow call opens a circuit, never a success that came fast.
        if !call.bad && !call.slow {
            return Settled::Nothing;
        }
        self.trip(pass, mark, row, now, told)
    }

    #[cold]
    fn trip(&self, pass: Pass, mark: Mark, row: u32, now: u64, told: &impl Told) -> Settled {
        let counts = self
            .window
            .as_ref()
            .map_or(Counts::default(), |window| window.read(pass.epoch, now));
        let Some(reason) = self.limits.exceeded(counts, row) else {
            return Settled::Nothing;
        };
        let hint = if let Mark::Bad { hint } = mark {
            hint
        } else {
            0
        };
        let event = Event::Trip {
            now: told.now(),
            hint,
            draw: told.draw(),
        };
        match self.update(pass, event) {
            Some((before, after)) => {
                change(before, after, reason, counts).map_or(Settled::Nothing, Settled::Changed)
            }
            None => Settled::Nothing,
        }
    }

    /// Applies an event of a call, while its epoch lasts. The states before and after.
    fn update(&self, pass: Pass, event: Event) -> Option<(State, State)> {
        let mut word = self.word.load(Acquire);
        loop {
            let state = State::from(word);
            let next = state
                .after(event, &self.rules)
                .filter(|_| state.epoch == pass.epoch)?;
            // AcqRel: the new state comes after all that its epoch's calls did.
            match self
                .word
                .compare_exchange_weak(word, next.into(), AcqRel, Acquire)
            {
                Ok(_) => return Some((state, next)),
                Err(newer) => word = newer,
            }
        }
    }

    #[inline]
    fn is_slow(&self, since: Option<u64>, now: u64) -> bool {
        self.limits
            .slow
            .is_some_and(|(slow, _)| age(since, now) >= slow)
    }
}

impl Limits {
    /// Which limit is exceeded, if any.
    fn exceeded(&self, counts: Counts, row: u32) -> Option<TransitionReason> {
        let reached = |part: u32, ppm: u32| {
            u64::from(part) * 1_000_000 >= u64::from(counts.calls) * u64::from(ppm)
        };
        if self.row > 0 && row >= self.row {
            return Some(TransitionReason::ConsecutiveFailures);
        }
        if counts.calls < self.min_calls {
            return None;
        }
        if reached(counts.bad, self.failed_ppm) {
            return Some(TransitionReason::FailureRate);
        }
        self.slow
            .is_some_and(|(_, ppm)| reached(counts.slow, ppm))
            .then_some(TransitionReason::SlowCalls)
    }
}

fn age(since: Option<u64>, now: u64) -> u64 {
    since.map_or(0, |since| now.saturating_sub(since))
}

/// A change of phase, as its winner reports it.
fn change(from: State, to: State, reason: TransitionReason, counts: Counts) -> Option<Change> {
    (from.epoch != to.epoch).then_some(Change {
        from: from.phase,
        to: to.phase,
        reason,
        counts,
    })
}

#[cfg(all(test, buttress_loom))]
mod models {
    use super::super::window::{CountWindow, TimeWindow};
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    const MS: u64 = 1_000_000;

    /// A fixed time, and the smallest draw.
    struct At(u64);

    impl Told for At {
        fn now(&self) -> u64 {
            self.0
        }

        fn draw(&self) -> f64 {
            0.0
        }
    }

    fn breaker(window: Option<Window>, row: u32, probes: u8) -> Arc<Breaker> {
        let limits = Limits {
            failed_ppm: 400_000,
            slow: None,
            min_calls: 2,
            row,
            abandoned_after: 10 * MS,
        };
        let rules = Rules {
            open_for: 10 * MS,
            max_open_for: 10 * MS,
            probes,
            successes: probes / 2 + 1,
            lease: 5 * MS,
        };
        Arc::new(Breaker::new(
            window,
            (row > 0).then(Row::new),
            limits,
            rules,
        ))
    }

    /// Open since 0; the first probe may go at 10 ms.
    fn opened(probes: u8) -> Arc<Breaker> {
        let breaker = breaker(None, 1, probes);
        let pass = breaker.admit(&At(0)).unwrap().0;
        assert!(changed(breaker.settle(pass, BAD, None, &At(0))));
        breaker
    }

    const BAD: Mark = Mark::Bad { hint: 0 };

    fn changed(settled: Settled) -> bool {
        matches!(settled, Settled::Changed(_))
    }

    fn trial(breaker: &Breaker) -> Trial {
        let Phase::HalfOpen(trial) = breaker.state().phase else {
            panic!("{:?}", breaker.state());
        };
        trial
    }

    /// Two failures and a success after two successes: 2 of 5 reach the threshold in every order.
    fn trips_once(window: Window, times: [u64; 3]) {
        let breaker = breaker(Some(window), 0, 1);
        let pass = breaker.admit(&At(0)).unwrap().0;
        for _ in 0..2 {
            breaker.settle(pass, Mark::Good, None, &At(times[0]));
        }
        let settle = |mark, at| {
            let breaker = breaker.clone();
            thread::spawn(move || changed(breaker.settle(pass, mark, None, &At(at))))
        };
        let (one, two) = (settle(BAD, times[0]), settle(BAD, times[1]));
        let three = changed(breaker.settle(pass, Mark::Good, None, &At(times[2])));
        let changes = [one.join().unwrap(), two.join().unwrap(), three];
        assert_eq!(changes.into_iter().filter(|changed| *changed).count(), 1);
        assert!(matches!(breaker.state().phase, Phase::Open { .. }));
    }

    #[test]
    fn two_failures_and_a_success_at_the_threshold_trip_a_time_window_once() {
        // The failures fall into different buckets, read by threads with different clocks.
        loom::model(|| trips_once(Window::Time(TimeWindow::new(2 * MS, false)), [0, MS, MS]));
    }

    #[test]
    fn two_failures_and_a_success_at_the_threshold_trip_a_count_window_once() {
        loom::model(|| trips_once(Window::Count(CountWindow::new(8, false)), [0, 0, 0]));
    }

    #[test]
    fn two_admits_at_the_end_of_the_open_time_issue_no_more_than_the_probes() {
        for probes in [1, 2] {
            loom::model(move || {
                let breaker = opened(probes);
                let admit = || {
                    let breaker = breaker.clone();
                    thread::spawn(move || breaker.admit(&At(10 * MS)).is_ok())
                };
                let (one, two) = (admit(), admit());
                let admitted = [one.join().unwrap(), two.join().unwrap()];
                let admitted = admitted.into_iter().filter(|admitted| *admitted).count();
                assert_eq!(admitted, usize::from(probes));
                assert_eq!(trial(&breaker).issued, probes);
            });
        }
    }

    #[test]
    fn a_probe_that_ends_while_another_is_dropped_leaves_its_result_and_the_others_place() {
        loom::model(|| {
            let breaker = opened(3);
            let [one, two] = [0, 0].map(|_| breaker.admit(&At(10 * MS)).unwrap().0);
            let other = breaker.clone();
            let dropped =
                thread::spawn(move || other.abandon(two, false, Some(10 * MS), &At(11 * MS)));
            breaker.settle(one, Mark::Good, None, &At(11 * MS));
            assert_eq!(dropped.join().unwrap(), Settled::Returned);
            let trial = trial(&breaker);
            assert_eq!((trial.issued, trial.ok, trial.bad), (1, 1, 0));
        });
    }

    #[test]
    fn a_probe_that_ends_as_its_lease_lapses_counts_once_or_not_at_all() {
        loom::model(|| {
            let breaker = opened(1);
            let old = breaker.admit(&At(10 * MS)).unwrap().0;
            let other = breaker.clone();
            let late =
                thread::spawn(move || changed(other.settle(old, Mark::Good, None, &At(15 * MS))));
            let new = breaker.admit(&At(15 * MS)).unwrap().0;
            let closed_by_late = late.join().unwrap();
            let by_now = breaker.state().phase;
            if closed_by_late {
                assert_eq!((by_now, new.probe), (Phase::Closed, false));
            } else {
                assert_eq!((trial(&breaker).issued, new.probe), (1, true));
                assert!(changed(breaker.settle(new, Mark::Good, None, &At(15 * MS))));
            }
        });
    }

    #[test]
    fn a_lease_never_lapses_under_a_probe_that_has_just_gone_out() {
        loom::model(|| {
            let breaker = opened(2);
            breaker.admit(&At(10 * MS)).unwrap();
            let other = breaker.clone();
            // The second place goes to one of the two; the other sees a fresh probe, with no lease
            // to lapse, whichever way it saw the places taken.
            let one = thread::spawn(move || other.admit(&At(20 * MS)).is_ok());
            let two = breaker.admit(&At(20 * MS)).is_ok();
            assert!(one.join().unwrap() ^ two);
        });
    }

    #[test]
    fn an_outcome_that_comes_as_the_circuit_trips_and_closes_changes_nothing() {
        loom::model(|| {
            let breaker = breaker(None, 1, 1);
            let [first, late] = [0, 0].map(|_| breaker.admit(&At(0)).unwrap().0);
            assert!(changed(breaker.settle(first, BAD, None, &At(0))));
            let other = breaker.clone();
            let outcome = thread::spawn(move || other.settle(late, BAD, None, &At(10 * MS)));
            let probe = breaker.admit(&At(10 * MS)).unwrap().0;
            assert!(changed(breaker.settle(
                probe,
                Mark::Good,
                None,
                &At(10 * MS)
            )));
            assert_eq!(outcome.join().unwrap(), Settled::Nothing);
            let (state, _, row) = breaker.snapshot(10 * MS);
            assert_eq!((state.phase, row), (Phase::Closed, 0));
        });
    }

    #[test]
    fn of_two_outcomes_that_trip_one_reports_it() {
        loom::model(|| {
            let breaker = breaker(None, 1, 1);
            let passes = [0, 0].map(|_| breaker.admit(&At(0)).unwrap().0);
            let other = breaker.clone();
            let one = thread::spawn(move || changed(other.settle(passes[0], BAD, None, &At(0))));
            let two = changed(breaker.settle(passes[1], BAD, None, &At(0)));
            assert!(one.join().unwrap() ^ two);
        });
    }
}
