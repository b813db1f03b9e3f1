//! The core of the circuit breaker: the state and the windows. Callers pass in time and chance.

use super::row::Row;
use super::state::{Blocked, Epoch, Event, Gate, Phase, Reason, Rules, State};
use super::window::{Call, Counts, Window};
use crate::sync::{
    AtomicU64, Mutex, MutexGuard, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};
use std::sync::PoisonError;

/// The limits that open a closed circuit.
#[derive(Debug)]
pub(super) struct Limits {
    /// The share of failed calls, in parts per million.
    pub(super) failed_ppm: u32,
    /// How long a slow call takes, in nanoseconds, and the share of slow calls in parts per million.
    pub(super) slow: Option<(u64, u32)>,
    /// The calls that the window must hold before rates apply.
    pub(super) min_calls: u32,
    /// The failures in a row; 0 if they are not limited.
    pub(super) row: u32,
    /// The age at which a cancelled call counts as failed, in nanoseconds.
    pub(super) abandoned_after: u64,
}

/// Gives the time and the random draw, when a decision needs them.
pub(super) trait Told {
    /// The time in nanoseconds since an origin of the caller's choice.
    fn now(&self) -> u64;
    /// A draw in `[0, 1)`.
    fn draw(&self) -> f64;
}

/// A call loads `epoch`, and also `gate` if that epoch holds calls back. The lock guards what is rare:
/// probes and transitions. Both words are written under it.
#[derive(Debug)]
pub(super) struct Breaker {
    epoch: AtomicU64,
    /// Never older than `epoch`, but perhaps newer. So which call becomes a probe is decided under the
    /// lock.
    gate: AtomicU64,
    locked: Mutex<Locked>,
    pub(super) window: Option<Window>,
    row: Option<Row>,
    pub(super) limits: Limits,
    pub(super) rules: Rules,
}

#[derive(Debug)]
struct Locked {
    state: State,
    opened_by: Option<Opening>,
}

/// Proof that a call was let through: the epoch in which it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pass(Epoch);

impl Pass {
    pub(super) fn is_probe(self) -> bool {
        !self.0.phase().passes()
    }
}

/// What the outcome of a call says about the upstream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Mark {
    Good,
    /// The upstream asks for no calls during the next `hint` nanoseconds.
    Bad {
        hint: u64,
    },
    /// The outcome says nothing.
    None,
}

/// A transition, as reported by the one thread that made it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Change {
    pub(super) from: Phase,
    pub(super) to: Phase,
    pub(super) reason: Reason,
    /// The calls that caused it; zero if no call did.
    pub(super) counts: Counts,
}

/// Why a circuit opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Opening {
    pub(super) reason: Reason,
    pub(super) counts: Counts,
}

/// What a settled call changed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Settled {
    Nothing,
    /// A probe became free.
    Returned,
    Changed(Change),
}

/// The circuit at one moment, for snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// The phase that the next call finds: half-open if the open time is over.
    pub(super) phase: Phase,
    /// Why the next call would be rejected.
    pub(super) blocked: Option<Blocked>,
    /// The calls in the window.
    pub(super) counts: Counts,
    /// The failures in a row, if they are limited.
    pub(super) row: Option<u32>,
    pub(super) probes_out: u32,
    /// Why the circuit is open or half-open.
    pub(super) opened_by: Option<Opening>,
}

impl Breaker {
    pub(super) fn new(
        window: Option<Window>,
        row: Option<Row>,
        limits: Limits,
        rules: Rules,
    ) -> Self {
        let state = State::NEW;
        Self {
            epoch: AtomicU64::new(state.epoch.into()),
            gate: AtomicU64::new(state.gate(&rules).0),
            locked: Mutex::new(Locked {
                state,
                opened_by: None,
            }),
            window,
            row,
            limits,
            rules,
        }
    }

    #[inline]
    fn epoch(&self) -> Epoch {
        // Acquire: the gate read after this is at least as new, and the windows have started over.
        self.epoch.load(Acquire).into()
    }

    fn gate(&self) -> Gate {
        // Relaxed: readers load the gate after an epoch, writers store it before the epoch.
        Gate(self.gate.load(Relaxed))
    }

    /// Whether a call could go now. Takes nothing.
    #[inline]
    pub(super) fn look(&self, told: &impl Told) -> Result<(), Blocked> {
        if self.epoch().phase().passes() {
            return Ok(());
        }
        self.gate().look(told.now())
    }

    /// Lets a call through if the circuit needs no probe.
    #[inline]
    pub(super) fn pass(&self) -> Option<Pass> {
        let epoch = self.epoch();
        epoch.phase().passes().then_some(Pass(epoch.started()))
    }

    /// Lets a call through, as a probe if needed, or says why not.
    #[cfg(test)]
    pub(super) fn admit(&self, told: &impl Told) -> Result<(Pass, Option<Change>), Blocked> {
        self.pass()
            .map_or_else(|| self.admit_probe(told.now()), |pass| Ok((pass, None)))
    }

    /// Lets a call through as a probe, or says why not.
    pub(super) fn admit_probe(&self, now: u64) -> Result<(Pass, Option<Change>), Blocked> {
        // This rejects most calls without the lock.
        self.gate().look(now)?;
        let mut locked = self.lock();
        let before = locked.state;
        let Some(next) = before.after(Event::Admit { now }, &self.rules) else {
            before.gate(&self.rules).look(now)?;
            return Ok((Pass(before.epoch), None)); // another thread has closed the circuit
        };
        let reason = match before.epoch.phase() {
            Phase::HalfOpen => Reason::LeaseLapsed,
            _ => Reason::OpenTimeOver,
        };
        let change = self.enter(&mut locked, next, reason, Counts::default());
        Ok((Pass(next.epoch), change))
    }

    /// Records a call that is in flight since `since`. `None` if it never was pending.
    #[inline]
    pub(super) fn settle(
        &self,
        pass: Pass,
        mark: Mark,
        since: Option<u64>,
        told: &impl Told,
    ) -> Settled {
        if !self.lasts(pass) {
            return Settled::Nothing; // the call belongs to an earlier epoch
        }
        match (mark, pass.is_probe()) {
            (Mark::None, true) => self.give_back(pass),
            (Mark::None, false) => Settled::Nothing,
            (_, true) => self.settle_probe(pass, mark, since, told),
            (_, false) => self.count(pass, mark, since, told),
        }
    }

    /// Records a call that ended without an outcome: it was cancelled, or it panicked.
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

    /// The pass for the body of a call whose head was settled, to be settled at the end of the body. If
    /// this probe's trial has closed the circuit, the body counts as a call of the closed circuit.
    /// `None` if the body does not count.
    pub(super) fn renew(&self, pass: Pass) -> Option<Pass> {
        let renewed = self.pass()?;
        let closed = pass.is_probe() && renewed.0 == pass.0.next(renewed.0.phase());
        (closed || renewed == pass).then_some(renewed)
    }

    /// Changes the state by hand. Returns `None` if the phase stays the same.
    pub(super) fn force(&self, event: Event, reason: Reason) -> Option<Change> {
        let mut locked = self.lock();
        let next = locked.state.after(event, &self.rules)?;
        self.enter(&mut locked, next, reason, Counts::default())
            .filter(|change| change.from != change.to)
    }

    /// Whether the window counts calls, and not time.
    pub(super) fn counts_calls(&self) -> bool {
        matches!(self.window, Some(Window::Count(_)))
    }

    /// The phase that the next call finds, and why it would be rejected.
    pub(super) fn phase(&self, now: impl FnOnce() -> u64) -> (Phase, Option<Blocked>) {
        found(self.epoch().phase(), || self.gate().look(now()))
    }

    pub(super) fn snapshot(&self, now: u64) -> Seen {
        let locked = self.lock();
        let Locked { state, opened_by } = *locked;
        let (phase, blocked) = found(state.epoch.phase(), || state.gate(&self.rules).look(now));
        let counted = phase.passes();
        let window = self.window.as_ref().filter(|_| counted);
        Seen {
            phase,
            blocked,
            // No window starts over while the lock is held.
            counts: window.map_or(Counts::default(), |window| window.read(now)),
            row: self
                .row
                .as_ref()
                .map(|row| if counted { row.read() } else { 0 }),
            probes_out: u32::from(state.trial.issued - state.trial.ok - state.trial.bad),
            opened_by,
        }
    }

    fn give_back(&self, pass: Pass) -> Settled {
        let mut locked = self.lock();
        let Some(next) = locked.after(pass, Event::Return, &self.rules) else {
            return Settled::Nothing;
        };
        self.enter(&mut locked, next, Reason::LeaseLapsed, Counts::default());
        Settled::Returned
    }

    fn settle_probe(
        &self,
        pass: Pass,
        mark: Mark,
        since: Option<u64>,
        told: &impl Told,
    ) -> Settled {
        let now = told.now();
        let (event, reason) = if mark == Mark::Good && !self.is_slow(since, now) {
            (Event::Good, Reason::ProbesSucceeded)
        } else {
            let (hint, draw) = (mark.hint(), told.draw());
            (Event::Bad { now, hint, draw }, Reason::ProbesFailed)
        };
        let mut locked = self.lock();
        let Some(next) = locked.after(pass, event, &self.rules) else {
            return Settled::Nothing;
        };
        let before = locked.state.trial;
        let counts = Counts {
            calls: u64::from(before.ok) + u64::from(before.bad) + 1,
            bad: u64::from(before.bad) + u64::from(event != Event::Good),
            slow: 0,
        };
        self.enter(&mut locked, next, reason, counts)
            .map_or(Settled::Nothing, Settled::Changed)
    }

    /// Counts a call of a closed circuit, and opens the circuit if a limit is reached.
    #[inline]
    fn count(&self, pass: Pass, mark: Mark, since: Option<u64>, told: &impl Told) -> Settled {
        let timed = self.limits.slow.is_some() || matches!(self.window, Some(Window::Time(_)));
        let now = if timed { told.now() } else { 0 };
        let call = Call {
            bad: mark != Mark::Good,
            slow: self.is_slow(since, now),
        };
        let current = move || self.lasts(pass);
        if let Some(window) = &self.window {
            window.record(now, call, current);
        }
        let row = self
            .row
            .as_ref()
            .map_or(0, |row| row.record(call.bad, current));
        // A fast success never opens a circuit.
        if !call.bad && !call.slow {
            return Settled::Nothing;
        }
        self.trip(pass, mark, row, now, told)
    }

    fn trip(&self, pass: Pass, mark: Mark, row: u32, now: u64, told: &impl Told) -> Settled {
        if pass.0.phase() == Phase::ForcedClosed {
            return Settled::Nothing;
        }
        let counts = self
            .window
            .as_ref()
            .map_or(Counts::default(), |window| window.read(now));
        let Some(reason) = self.limits.exceeded(counts, row) else {
            return Settled::Nothing;
        };
        let (now, hint, draw) = (told.now(), mark.hint(), told.draw());
        let mut locked = self.lock();
        locked
            .after(pass, Event::Trip { now, hint, draw }, &self.rules)
            .and_then(|next| self.enter(&mut locked, next, reason, counts))
            .map_or(Settled::Nothing, Settled::Changed)
    }

    /// Stores and publishes a state. Returns the transition, if the state begins an epoch.
    fn enter(
        &self,
        locked: &mut Locked,
        next: State,
        reason: Reason,
        counts: Counts,
    ) -> Option<Change> {
        let before = locked.state.epoch;
        let begins = next.epoch != before;
        let (from, to) = (before.phase(), next.epoch.phase());
        if begins && to.passes() {
            // Before the windows start over, so that no call of the earlier epoch counts in them
            // afterwards. Relaxed: a thread that sees a restarted window also sees this store.
            self.epoch.store(next.epoch.starting().into(), Relaxed);
            self.start_over();
        }
        // Relaxed: the store of the epoch below releases it.
        self.gate.store(next.gate(&self.rules).0, Relaxed);
        // Release: pairs with the load in `epoch()`.
        self.epoch.store(next.epoch.into(), Release);
        locked.state = next;
        if !begins {
            return None;
        }
        locked.opened_by = match to {
            Phase::Open => Some(Opening { reason, counts }),
            Phase::HalfOpen => locked.opened_by,
            _ => None,
        };
        Some(Change {
            from,
            to,
            reason,
            counts,
        })
    }

    fn start_over(&self) {
        if let Some(window) = &self.window {
            window.start_over();
        }
        if let Some(row) = &self.row {
            row.start_over();
        }
    }

    /// Whether the epoch of a call is still the current one.
    #[inline]
    pub(super) fn lasts(&self, pass: Pass) -> bool {
        self.epoch() == pass.0
    }

    #[inline]
    fn is_slow(&self, since: Option<u64>, now: u64) -> bool {
        self.limits
            .slow
            .is_some_and(|(slow, _)| age(since, now) >= slow)
    }

    fn lock(&self) -> MutexGuard<'_, Locked> {
        // Nothing panics under the lock.
        self.locked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(all(test, not(buttress_loom)))]
impl Breaker {
    /// The breaker as it is after this many epochs.
    pub(super) fn aged(self, epochs: u64) -> Self {
        self.set_epoch(epochs);
        self
    }

    fn set_epoch(&self, number: u64) {
        let epoch = Epoch::from(number << 4);
        self.lock().state.epoch = epoch;
        self.epoch.store(epoch.into(), Release);
    }
}

#[cfg(test)]
impl Breaker {
    pub(super) fn state(&self) -> State {
        self.lock().state
    }
}

impl Locked {
    /// The state after an event of a call. `None` if the call's epoch is over.
    fn after(&self, pass: Pass, event: Event, rules: &Rules) -> Option<State> {
        (self.state.epoch == pass.0)
            .then(|| self.state.after(event, rules))
            .flatten()
    }
}

impl Mark {
    fn hint(self) -> u64 {
        match self {
            Self::Bad { hint } => hint,
            _ => 0,
        }
    }
}

impl Limits {
    /// The limit that is reached, if any.
    fn exceeded(&self, counts: Counts, row: u32) -> Option<Reason> {
        let reached = |part: u64, ppm: u32| {
            u128::from(part) * 1_000_000 >= u128::from(counts.calls) * u128::from(ppm)
        };
        if self.row > 0 && row >= self.row {
            return Some(Reason::ConsecutiveFailures);
        }
        if counts.calls < self.min_calls.into() {
            return None;
        }
        if reached(counts.bad, self.failed_ppm) {
            return Some(Reason::FailureRate);
        }
        self.slow
            .is_some_and(|(_, ppm)| reached(counts.slow, ppm))
            .then_some(Reason::SlowCalls)
    }
}

/// The phase that a call finds. An open circuit that lets a probe through is half-open.
fn found(phase: Phase, look: impl FnOnce() -> Result<(), Blocked>) -> (Phase, Option<Blocked>) {
    if phase.passes() {
        return (phase, None);
    }
    match look() {
        Ok(()) => (Phase::HalfOpen, None),
        Err(blocked) => (phase, Some(blocked)),
    }
}

fn age(since: Option<u64>, now: u64) -> u64 {
    since.map_or(0, |since| now.saturating_sub(since))
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use super::super::count_window::CountWindow;
    use super::super::time_window::TimeWindow;
    use super::*;

    const MS: u64 = 1_000_000;
    const SECOND: u64 = 1_000 * MS;
    const BAD: Mark = Mark::Bad { hint: 0 };

    /// Gives this fixed time and the smallest draw.
    struct At(u64);

    impl Told for At {
        fn now(&self) -> u64 {
            self.0
        }

        fn draw(&self) -> f64 {
            0.0
        }
    }

    /// Opens for 10 ms at a failure rate of 0.5 with at least two calls, or at two failures in a row.
    /// Two of three probes decide.
    fn breaker(window: Option<Window>, row: Option<Row>) -> Breaker {
        let limits = Limits {
            failed_ppm: 500_000,
            slow: None,
            min_calls: 2,
            row: if row.is_some() { 2 } else { 0 },
            abandoned_after: SECOND,
        };
        let rules = Rules {
            open_for: 10 * MS,
            max_open_for: 10 * MS,
            probes: 3,
            successes: 2,
            lease: SECOND,
        };
        Breaker::new(window, row, limits, rules)
    }

    #[expect(clippy::unnecessary_wraps, reason = "`Breaker::new` takes an option")]
    fn time() -> Option<Window> {
        Some(Window::Time(TimeWindow::new(10 * SECOND, false)))
    }

    #[expect(clippy::unnecessary_wraps, reason = "`Breaker::new` takes an option")]
    fn count() -> Option<Window> {
        Some(Window::Count(CountWindow::new(100, false)))
    }

    /// One breaker for each way of counting.
    fn breakers() -> [Breaker; 3] {
        [
            breaker(time(), None),
            breaker(count(), None),
            breaker(None, Some(Row::new())),
        ]
    }

    fn settle(breaker: &Breaker, pass: Pass, mark: Mark) -> Option<Change> {
        match breaker.settle(pass, mark, None, &At(0)) {
            Settled::Changed(change) => Some(change),
            _ => None,
        }
    }

    fn trip(breaker: &Breaker) -> Change {
        let pass = breaker.pass().unwrap();
        assert_eq!(settle(breaker, pass, BAD), None);
        settle(breaker, pass, BAD).unwrap()
    }

    /// Opens a circuit, and lets its three probes through.
    fn probes(breaker: &Breaker) -> [Pass; 3] {
        trip(breaker);
        [10, 10, 10].map(|ms| breaker.admit(&At(ms * MS)).unwrap().0)
    }

    fn counted(breaker: &Breaker) -> u64 {
        let seen = breaker.snapshot(0);
        seen.row.map_or(seen.counts.bad, u64::from)
    }

    #[test]
    fn a_reset_of_a_closed_circuit_starts_counting_over_without_a_transition() {
        for breaker in breakers() {
            let stale = breaker.pass().unwrap();
            settle(&breaker, stale, BAD);
            assert_eq!(breaker.force(Event::Reset, Reason::Reset), None);
            assert_eq!(counted(&breaker), 0);
            assert_eq!(settle(&breaker, stale, BAD), None);
            assert_eq!(counted(&breaker), 0);
            trip(&breaker);
        }
    }

    #[test]
    fn forcing_a_state_is_a_transition_the_first_time_only() {
        let forced = [
            (Event::ForceOpen, Phase::ForcedOpen),
            (Event::ForceClosed, Phase::ForcedClosed),
            (Event::Reset, Phase::Closed),
        ];
        for breaker in breakers() {
            let mut from = Phase::Closed;
            for (event, to) in forced {
                let change = breaker.force(event, Reason::Forced).unwrap();
                assert_eq!((change.from, change.to), (from, to));
                assert_eq!(breaker.force(event, Reason::Forced), None);
                assert_eq!(breaker.phase(|| 0).0, to);
                from = to;
            }
        }
    }

    #[test]
    fn forcing_closed_again_starts_counting_over() {
        for breaker in breakers() {
            breaker.force(Event::ForceClosed, Reason::Forced);
            settle(&breaker, breaker.pass().unwrap(), BAD);
            breaker.force(Event::ForceClosed, Reason::Forced);
            assert_eq!(counted(&breaker), 0);
        }
    }

    #[test]
    fn opened_by_is_reported_until_the_circuit_closes() {
        for breaker in breakers() {
            assert_eq!(breaker.snapshot(0).opened_by, None);
            let change = trip(&breaker);
            let opening = Some(Opening {
                reason: change.reason,
                counts: change.counts,
            });
            for now in [0, 10 * MS, SECOND] {
                assert_eq!(breaker.snapshot(now).opened_by, opening);
            }
            let [one, two, _] = [10, 10, 10].map(|ms| breaker.admit(&At(ms * MS)).unwrap().0);
            assert_eq!(breaker.snapshot(10 * MS).opened_by, opening);
            settle(&breaker, one, Mark::Good);
            assert_eq!(breaker.snapshot(10 * MS).opened_by, opening);
            settle(&breaker, two, Mark::Good);
            assert_eq!(breaker.snapshot(10 * MS).opened_by, None);
        }
    }

    #[test]
    fn opened_by_is_the_latest_failed_trial() {
        for breaker in breakers() {
            let [one, two, three] = probes(&breaker);
            settle(&breaker, one, BAD);
            settle(&breaker, two, Mark::Good);
            settle(&breaker, three, BAD);
            let (calls, bad, slow) = (3, 2, 0);
            let opening = Opening {
                reason: Reason::ProbesFailed,
                counts: Counts { calls, bad, slow },
            };
            assert_eq!(breaker.snapshot(0).opened_by, Some(opening));
            breaker.force(Event::ForceOpen, Reason::Forced);
            assert_eq!(breaker.snapshot(0).opened_by, None);
        }
    }

    #[test]
    fn failures_in_a_row_are_none_unless_they_are_limited() {
        let [time, count, row] = breakers().map(|breaker| {
            let before = breaker.snapshot(0).row;
            trip(&breaker);
            (before, breaker.snapshot(0).row)
        });
        assert_eq!([time, count], [(None, None); 2]);
        assert_eq!(row, (Some(0), Some(0)));
    }

    #[test]
    fn the_body_of_a_probe_that_closes_the_circuit_counts_in_the_new_epoch() {
        for breaker in breakers() {
            let [one, two, _] = probes(&breaker);
            settle(&breaker, one, Mark::Good);
            assert_eq!(breaker.renew(one), None, "not closed yet");
            settle(&breaker, two, Mark::Good).unwrap();
            let renewed = breaker.renew(two).unwrap();
            assert!(!renewed.is_probe());
            settle(&breaker, renewed, BAD);
            assert_eq!(counted(&breaker), 1);
        }
    }

    #[test]
    fn the_body_of_a_probe_counts_if_the_other_probes_closed_the_circuit() {
        for breaker in breakers() {
            let [one, two, late] = probes(&breaker);
            for probe in [one, two, late] {
                settle(&breaker, probe, Mark::Good);
            }
            assert_eq!(counted(&breaker), 0);
            settle(&breaker, breaker.renew(late).unwrap(), BAD);
            assert_eq!(counted(&breaker), 1);
        }
    }

    #[test]
    fn the_body_of_a_probe_counts_only_in_the_epoch_after_its_trial() {
        for breaker in breakers() {
            let [one, two, three] = probes(&breaker);
            for probe in [one, two] {
                settle(&breaker, probe, Mark::Good);
            }
            breaker.force(Event::Reset, Reason::Reset);
            assert_eq!(breaker.renew(three), None, "reset");
            trip(&breaker);
            assert_eq!(breaker.renew(three), None, "open");
            breaker.force(Event::ForceClosed, Reason::Forced);
            assert_eq!(breaker.renew(three), None, "closed by hand");
        }
    }

    #[test]
    fn the_body_of_a_probe_that_was_written_off_does_not_count() {
        for breaker in breakers() {
            let [lost, ..] = probes(&breaker);
            let later = At(10 * MS + SECOND);
            for _ in 0..2 {
                let (probe, _) = breaker.admit(&later).unwrap();
                settle(&breaker, probe, Mark::Good);
            }
            assert_eq!(breaker.phase(|| 0).0, Phase::Closed);
            assert_eq!(breaker.renew(lost), None);
        }
    }

    #[test]
    fn the_body_of_a_call_counts_while_its_epoch_lasts() {
        for breaker in breakers() {
            let pass = breaker.pass().unwrap();
            assert_eq!(breaker.renew(pass), Some(pass));
            trip(&breaker);
            assert_eq!(breaker.renew(pass), None, "open");
            for _ in 0..2 {
                let (probe, _) = breaker.admit(&At(10 * MS)).unwrap();
                settle(&breaker, probe, Mark::Good);
            }
            assert_eq!(breaker.renew(pass), None, "closed again");
        }
    }

    #[test]
    fn a_pass_of_an_earlier_epoch_never_counts_again() {
        for breaker in breakers() {
            for bit in 0..59 {
                let breaker = &breaker;
                let stale = breaker.pass().unwrap();
                let past = u64::from(breaker.state().epoch) >> 4;
                breaker.set_epoch(past + (1 << bit));
                assert_eq!(settle(breaker, stale, BAD), None);
                assert_eq!((counted(breaker), breaker.renew(stale)), (0, None), "{bit}");
            }
        }
    }

    #[test]
    fn no_number_of_resets_revives_a_count_or_a_pass() {
        for breaker in breakers() {
            let stale = breaker.pass().unwrap();
            for n in 1..=(1_u32 << 20) + 1 {
                settle(&breaker, breaker.pass().unwrap(), BAD);
                breaker.force(Event::Reset, Reason::Reset);
                if n.is_power_of_two() || n % 4_096 < 2 {
                    settle(&breaker, stale, BAD);
                    assert_eq!(counted(&breaker), 0, "{n}");
                }
            }
        }
    }

    #[test]
    fn rates_are_compared_without_overflow() {
        let mut limits = breaker(time(), None).limits;
        limits.min_calls = u32::MAX;
        for calls in [u64::from(u32::MAX), 1 << 45, 1 << 60] {
            let counts = |bad| {
                let slow = 0;
                Counts { calls, bad, slow }
            };
            assert_eq!(
                limits.exceeded(counts(calls / 2), 0).is_some(),
                calls % 2 == 0
            );
            assert_eq!(
                limits.exceeded(counts(calls / 2 + 1), 0),
                Some(Reason::FailureRate)
            );
            assert_eq!(limits.exceeded(counts(calls / 100 * 7), 0), None);
        }
    }
}
