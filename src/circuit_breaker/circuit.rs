use super::breaker::{Breaker, Change, Limits, Mark, Pass, Settled, Told};
use super::state::{Blocked, Event, LONGEST, MAX_PROBES, Phase, Rules, State as Inner, Trial};
use super::window::{CountWindow, Counts, MAX_CALLS, Row, TimeWindow, Window as Record};
use crate::chance::Chance;
use crate::classify::Verdict;
use crate::error::{InvalidConfig, Rejection};
use crate::held::{Held, Keep, Kept};
use crate::name::Name;
use crate::time::{Shown, Timeline, nanos};
use std::sync::Arc;
use std::thread::LocalKey;
use std::time::Duration;
use std::{fmt, mem};
use tokio::sync::Notify;
use tracing::Level;

/// A circuit, shared by all its clones. Usable without Tower and without a runtime.
///
/// ```
/// use buttress::{Rejection, Verdict, circuit_breaker::Circuit};
///
/// let circuit = Circuit::builder().consecutive_failures(2).build()?;
/// for _ in 0..2 {
///     circuit.try_acquire()?.settle(Verdict::TRANSIENT);
/// }
/// let rejection = circuit.try_acquire().unwrap_err();
/// assert!(matches!(rejection, Rejection::CircuitOpen { retry_after: Some(_) }));
///
/// circuit.reset();
/// circuit.try_acquire()?.settle(Verdict::Healthy);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Circuit {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    breaker: Breaker,
    timeline: Timeline,
    chance: Chance,
    /// Told of every transition and every probe that came back without a verdict.
    pub(super) changed: Arc<Notify>,
    pub(super) when_open: WhenOpen,
    name: Name,
}

impl Told for Shared {
    #[inline]
    fn now(&self) -> u64 {
        self.timeline.now()
    }

    fn draw(&self) -> f64 {
        self.chance.draw()
    }
}

impl Keep for Shared {
    fn kept() -> &'static LocalKey<Kept<Self>> {
        thread_local!(static KEPT: Kept<Shared> = Kept::new());
        &KEPT
    }
}

/// What a circuit does at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// Calls pass and are counted.
    Closed,
    /// Calls are rejected until the open time is over.
    Open,
    /// The open time is over: a few calls may pass, as probes. Reads so with no traffic, too.
    HalfOpen,
    /// Calls are rejected until [`Circuit::reset`] or [`Circuit::force_closed`].
    ForcedOpen,
    /// Calls pass and are counted, and nothing opens the circuit until [`Circuit::reset`] or
    /// [`Circuit::force_open`].
    ForcedClosed,
}

impl State {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
            Self::ForcedOpen => "forced_open",
            Self::ForcedClosed => "forced_closed",
        }
    }
}

impl From<Phase> for State {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Closed => Self::Closed,
            Phase::Open { .. } | Phase::OpenForEver => Self::Open,
            Phase::HalfOpen(_) => Self::HalfOpen,
            Phase::ForcedOpen => Self::ForcedOpen,
            Phase::ForcedClosed => Self::ForcedClosed,
        }
    }
}

/// What the service of an open circuit does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WhenOpen {
    /// Says it is ready and rejects the call, at once.
    #[default]
    Reject,
    /// Says it is not ready until a probe may go. For one breaker per endpoint below a balancer,
    /// to which an endpoint that rejects at once looks like the fastest of all.
    NotReady,
}

/// Over which calls a rate is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Time(Duration),
    Count(u32),
}

impl Window {
    /// The calls that ended within this time, which advances by tenths. Above zero.
    #[must_use]
    pub const fn time(length: Duration) -> Self {
        Self(Kind::Time(length))
    }

    /// The last so many calls, 1 to 4096.
    #[must_use]
    pub const fn count(calls: u32) -> Self {
        Self(Kind::Count(calls))
    }
}

impl Circuit {
    /// A circuit of one's own, to be shared between layers or used without Tower.
    pub fn builder() -> CircuitBuilder {
        CircuitBuilder {
            config: Config::default(),
        }
    }

    /// What it does at this moment.
    #[must_use]
    pub fn state(&self) -> State {
        self.seen_at(self.shared.breaker.state(), || self.shared.now())
            .0
    }

    /// State and counts, of one epoch.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let now = self.shared.now();
        let (inner, counts, consecutive_failures) = self.shared.breaker.snapshot(now);
        let (state, retry_after) = self.seen_at(inner, || now);
        let probes_out = match inner.phase {
            Phase::HalfOpen(Trial {
                issued, ok, bad, ..
            }) => u32::from(issued - ok - bad),
            _ => 0,
        };
        Snapshot {
            name: self.shared.name.clone(),
            state,
            retry_after,
            calls: counts.calls,
            failures: counts.bad,
            slow_calls: counts.slow,
            consecutive_failures,
            probes_out,
            min_calls: self.shared.breaker.limits.min_calls,
        }
    }

    /// Opens the circuit until [`reset`](Self::reset) or [`force_closed`](Self::force_closed).
    /// Outcomes of calls that are under way no longer count.
    pub fn force_open(&self) {
        self.force(Event::ForceOpen, "forced");
    }

    /// Closes the circuit until [`reset`](Self::reset) or [`force_open`](Self::force_open); calls
    /// are counted, from nothing, but do not open it.
    pub fn force_closed(&self) {
        self.force(Event::ForceClosed, "forced");
    }

    /// Closes the circuit, with nothing counted, as if new.
    pub fn reset(&self) {
        self.force(Event::Reset, "reset");
    }

    /// Lets a call through, or not. The permit is spent with the verdict on the call.
    ///
    /// # Errors
    /// [`Rejection::CircuitOpen`] if the circuit is open, or half-open with all its probes out.
    pub fn try_acquire(&self) -> Result<Permit, Rejection> {
        let mut permit = self.admit()?;
        permit.since = self.shared.now();
        Ok(permit)
    }

    /// As [`try_acquire`](Self::try_acquire), for a call that is not in flight yet.
    #[inline]
    pub(super) fn admit(&self) -> Result<Permit, Blocked> {
        // The permit is made here, out of what fits registers, whichever way it was come by.
        let pass = self.shared.breaker.pass();
        let pass = pass.map_or_else(|| self.admit_probe(), Ok)?;
        Ok(self.permit(pass))
    }

    #[cold]
    fn admit_probe(&self) -> Result<Pass, Blocked> {
        let (pass, change) = self.shared.breaker.admit_probe(self.shared.now())?;
        // Before anybody is told: a subscriber that panics must not take the probe with it.
        let mut permit = self.permit(pass);
        if let Some(change) = change {
            self.shared.report(change);
        }
        permit.stage = Stage::Settled;
        Ok(pass)
    }

    #[inline]
    fn permit(&self, pass: Pass) -> Permit {
        Permit {
            shared: Held::of(&self.shared),
            since: NOT_YET,
            pass,
            stage: Stage::Idle,
        }
    }

    /// Whether a call could go now.
    #[inline]
    pub(super) fn look(&self) -> Result<(), Blocked> {
        self.shared.breaker.look(&*self.shared)
    }

    /// A state as its users see it, and the time until a probe may go. An open time that is over
    /// reads as what the next call will find.
    fn seen_at(&self, state: Inner, now: impl FnOnce() -> u64) -> (State, Option<Duration>) {
        if state.passes() {
            return (state.phase.into(), None);
        }
        let breaker = &self.shared.breaker;
        match state.look(&breaker.rules, now(), breaker.issued_at()) {
            Ok(()) => (State::HalfOpen, None),
            Err(blocked) => (
                state.phase.into(),
                blocked.retry_after().map(Duration::from_nanos),
            ),
        }
    }

    fn force(&self, event: Event, reason: &'static str) {
        let change = self.shared.breaker.force(event, reason);
        self.shared.report(change);
    }

    #[cold]
    pub(super) fn tell_of_rejection(&self, blocked: Blocked) {
        tracing::event!(
            name: "rejected",
            target: "buttress::circuit_breaker",
            Level::DEBUG,
            name = self.shared.name.get(),
            retry_after_ms = blocked.retry_after().map(|nanos| nanos / 1_000_000),
            "circuit open"
        );
    }
}

impl Shared {
    #[cold]
    fn after(&self, settled: Settled) {
        match settled {
            Settled::Nothing => {}
            Settled::Returned => self.changed.notify_waiters(),
            Settled::Changed(change) => self.report(change),
        }
    }

    /// Tells of a transition. Called by its only winner.
    #[cold]
    fn report(&self, change: Change) {
        self.changed.notify_waiters();
        let Change {
            from,
            to,
            reason,
            counts,
        } = change;
        let (from, to) = (State::from(from).as_str(), State::from(to));
        let name = self.name.get();
        let Counts {
            calls,
            bad: failures,
            slow: slow_calls,
        } = counts;
        macro_rules! tell {
            ($event:literal, $level:expr, $message:literal) => {
                tracing::event!(
                    name: $event,
                    target: "buttress::circuit_breaker",
                    $level,
                    name,
                    from,
                    to = to.as_str(),
                    reason,
                    calls,
                    failures,
                    slow_calls,
                    $message
                )
            };
        }
        match to {
            State::Open | State::ForcedOpen => tell!("opened", Level::WARN, "circuit opened"),
            State::HalfOpen => tell!("half_opened", Level::INFO, "circuit half-opened"),
            State::Closed | State::ForcedClosed => tell!("closed", Level::INFO, "circuit closed"),
        }
    }
}

impl From<Blocked> for Rejection {
    #[inline]
    fn from(blocked: Blocked) -> Self {
        Self::CircuitOpen {
            retry_after: blocked.retry_after().map(Duration::from_nanos),
        }
    }
}

/// Its settings, for people.
impl fmt::Display for Circuit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared {
            breaker,
            when_open,
            name,
            ..
        } = &*self.shared;
        let (limits, rules) = (&breaker.limits, &breaker.rules);
        let shown = |nanos| match nanos {
            u64::MAX => Shown(Duration::MAX),
            nanos => Shown(Duration::from_nanos(nanos)),
        };
        let percent = |ppm| f64::from(ppm) / 10_000.0;
        write!(f, "circuit breaker{name}: opens at ")?;
        if let Some(window) = &breaker.window {
            write!(f, "{}% failures ", percent(limits.failed_ppm))?;
            if let Some((duration, ppm)) = limits.slow {
                let percent = percent(ppm);
                write!(f, "or {percent}% of {} and slower ", shown(duration))?;
            }
            write!(f, "of at least {} calls in ", limits.min_calls)?;
            match window {
                Record::Time(window) => write!(f, "{}", shown(window.length()))?,
                Record::Count(window) => write!(f, "the last {}", window.calls())?,
            }
        }
        if limits.row > 0 {
            let or = if breaker.window.is_some() { " or " } else { "" };
            write!(f, "{or}{} failures in a row", limits.row)?;
        }
        if rules.open_for > LONGEST {
            f.write_str(", until it is reset")?;
        } else {
            let open_for = shown(rules.open_for);
            let longest = shown(rules.max_open_for.min(LONGEST));
            write!(f, ", for {open_for} to {longest}")?;
        }
        write!(
            f,
            ", {} probes of which {} close, written off after {}, cancelled calls fail from {}",
            rules.probes,
            rules.successes,
            shown(rules.lease),
            shown(limits.abandoned_after)
        )?;
        match when_open {
            WhenOpen::Reject => Ok(()),
            WhenOpen::NotReady => f.write_str(", not ready while open"),
        }
    }
}

impl fmt::Debug for Circuit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let snapshot = self.snapshot();
        f.debug_struct("Circuit")
            .field("name", &snapshot.name)
            .field("state", &snapshot.state)
            .field("calls", &snapshot.calls)
            .field("failures", &snapshot.failures)
            .finish_non_exhaustive()
    }
}

/// The right to make one call, to be spent with the verdict on it.
///
/// Dropped unspent, the call was cancelled: that is ignored if it was in flight for less than
/// `abandoned_after`, and counts as a failure otherwise. A permit of an epoch that is over, because
/// the circuit changed meanwhile, changes nothing.
#[must_use = "a permit that is dropped counts as a cancelled call"]
pub struct Permit {
    shared: Held<Shared>,
    /// When the call was first in flight, or [`NOT_YET`]: small, because it moves with every call.
    since: u64,
    pass: Pass,
    stage: Stage,
}

/// Who has the call: whoever has it when its permit is dropped has panicked, or left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The caller.
    Idle,
    /// The inner service.
    AtWork,
    /// The classifier, whose panic says nothing about the callee.
    Judged,
    /// Nobody any more.
    Settled,
}

const NOT_YET: u64 = u64::MAX;

impl Permit {
    /// Spends the permit.
    pub fn settle(mut self, verdict: Verdict) {
        self.spend(verdict);
    }

    /// Spends the permit where it is. Only the first verdict counts.
    #[inline]
    pub(super) fn spend(&mut self, verdict: Verdict) {
        if mem::replace(&mut self.stage, Stage::Settled) == Stage::Settled {
            return;
        }
        if let Verdict::Healthy = verdict {
            self.finish(Mark::Good);
        } else {
            self.finish_unwell(verdict);
        }
    }

    /// The caller had no more time for the call: as if it had dropped it.
    #[cold]
    pub(super) fn give_up(&mut self) {
        self.abandon();
    }

    /// Apart from the way of a call that went well, which is short.
    #[cold]
    fn finish_unwell(&self, verdict: Verdict) {
        self.finish(match verdict {
            Verdict::Transient { retry_after } => Mark::Bad {
                hint: retry_after.delay().map_or(0, nanos),
            },
            Verdict::Permanent => Mark::Bad { hint: 0 },
            Verdict::Throttled { .. } | Verdict::Local | Verdict::Ignored => Mark::None,
            Verdict::Healthy => Mark::Good,
        });
    }

    #[inline]
    fn finish(&self, mark: Mark) {
        let shared = &*self.shared;
        match shared.breaker.settle(self.pass, mark, self.since(), shared) {
            Settled::Nothing => {}
            settled => shared.after(settled),
        }
    }

    /// The permit, for somebody else to spend; what is left in its place is spent.
    pub(super) fn take(&mut self) -> Self {
        let left = Self {
            shared: self.shared.take(),
            since: self.since,
            pass: self.pass,
            stage: self.stage,
        };
        self.stage = Stage::Settled;
        left
    }

    fn since(&self) -> Option<u64> {
        (self.since != NOT_YET).then_some(self.since)
    }

    /// Does a piece of the call's work; a panic in it is the call's failure.
    #[inline]
    pub(super) fn work<T>(&mut self, work: impl FnOnce() -> T) -> T {
        self.during(Stage::AtWork, work)
    }

    /// Asks the classifier; a panic of its own leaves the call without a verdict.
    #[inline]
    pub(super) fn judge<T>(&mut self, judge: impl FnOnce() -> T) -> T {
        self.during(Stage::Judged, judge)
    }

    #[inline]
    fn during<T>(&mut self, stage: Stage, work: impl FnOnce() -> T) -> T {
        self.stage = stage;
        let done = work();
        self.stage = Stage::Idle;
        done
    }

    /// The call is in flight from now, unless it has been.
    pub(super) fn in_flight(&mut self) {
        if self.since == NOT_YET {
            self.since = self.shared.now();
        }
    }
}

impl Drop for Permit {
    #[inline]
    fn drop(&mut self) {
        if self.stage != Stage::Settled {
            self.abandon();
        }
    }
}

impl Permit {
    #[cold]
    fn abandon(&mut self) {
        // First, as what follows runs wakers, which may panic: it must not be done again then.
        let stage = mem::replace(&mut self.stage, Stage::Settled);
        if stage == Stage::Settled || self.shared.is_taken() {
            return;
        }
        if stage == Stage::Judged {
            return self.finish(Mark::None);
        }
        let shared = &*self.shared;
        let panicked = stage == Stage::AtWork;
        let settled = shared
            .breaker
            .abandon(self.pass, panicked, self.since(), shared);
        shared.after(settled);
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("name", &self.shared.name)
            .field("probe", &self.pass.probe)
            .finish_non_exhaustive()
    }
}

/// What a [`Circuit`] holds, as it was at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    name: Name,
    /// What the circuit does.
    pub state: State,
    /// How long until a probe may go, where that is known.
    pub retry_after: Option<Duration>,
    /// The calls in the window, since the circuit was last closed or forced closed.
    pub calls: u32,
    /// Those of them that failed.
    pub failures: u32,
    /// Those of them that were slow, if that is asked for.
    pub slow_calls: u32,
    /// Failures in a row, if they are asked for.
    pub consecutive_failures: u32,
    /// The probes under way.
    pub probes_out: u32,
    min_calls: u32,
}

impl Snapshot {
    /// The name given to the circuit.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.get()
    }

    /// The share of the window's calls that failed, 0 to 1; `None` with fewer than `min_calls`.
    #[must_use]
    pub fn failure_rate(&self) -> Option<f64> {
        self.rate(self.failures)
    }

    /// The share of the window's calls that were slow, 0 to 1; `None` with fewer than `min_calls`.
    #[must_use]
    pub fn slow_rate(&self) -> Option<f64> {
        self.rate(self.slow_calls)
    }

    fn rate(&self, part: u32) -> Option<f64> {
        (self.calls >= self.min_calls).then(|| f64::from(part) / f64::from(self.calls))
    }
}

/// A circuit's settings, unchecked.
#[derive(Clone, Debug, Default)]
pub(super) struct Config {
    pub(super) failure_rate: Option<f64>,
    pub(super) min_calls: Option<u32>,
    pub(super) window: Option<Window>,
    pub(super) consecutive_failures: Option<u32>,
    pub(super) slow_calls: Option<(Duration, f64)>,
    pub(super) open_for: Option<Duration>,
    pub(super) max_open_for: Option<Duration>,
    pub(super) probes: Option<u32>,
    pub(super) probe_successes: Option<u32>,
    pub(super) probe_lease: Option<Duration>,
    pub(super) abandoned_after: Option<Duration>,
    pub(super) when_open: WhenOpen,
    pub(super) seed: Option<u64>,
    pub(super) name: Name,
}

impl Config {
    pub(super) fn build(self) -> Result<Circuit, InvalidConfig> {
        let rules = self.rules()?;
        let row = match self.consecutive_failures {
            Some(0) => return Err(InvalidConfig::new("consecutive_failures", 0, "at least 1")),
            row => row,
        };
        // Failures in a row, asked for alone, take the place of the rates.
        let rates = row.is_none()
            || self.window.is_some()
            || self.failure_rate.is_some()
            || self.slow_calls.is_some()
            || self.min_calls.is_some();
        let Window(kind) = self.window.unwrap_or(Window::time(Duration::from_secs(10)));
        let longest = match kind {
            Kind::Count(calls) => calls,
            Kind::Time(_) => u32::MAX,
        };
        let min_calls = self.min_calls.unwrap_or(20.min(longest));
        let slow = self.slow_calls;
        let limits = Limits {
            failed_ppm: ppm("failure_rate", self.failure_rate.unwrap_or(0.5))?,
            slow: match slow {
                Some((slow, rate)) => Some((nanos(slow), ppm("slow_calls", rate)?)),
                None => None,
            },
            min_calls,
            row: row.unwrap_or(0),
            abandoned_after: nanos(
                self.abandoned_after
                    .or(slow.map(|(slow, _)| slow))
                    .unwrap_or(Duration::from_secs(1)),
            ),
        };
        let record = match kind {
            Kind::Time(length) if length.is_zero() => {
                return Err(InvalidConfig::new("window", length, "above zero"));
            }
            Kind::Count(calls) if !(1..=MAX_CALLS).contains(&calls) => {
                return Err(InvalidConfig::new("window", calls, "from 1 to 4096 calls"));
            }
            Kind::Time(length) => Record::Time(TimeWindow::new(nanos(length), slow.is_some())),
            Kind::Count(calls) => Record::Count(CountWindow::new(calls, slow.is_some())),
        };
        if min_calls == 0 || min_calls > longest {
            let allowed = match kind {
                Kind::Count(calls) => format!("from 1 to the window's {calls} calls"),
                Kind::Time(_) => "at least 1".to_owned(),
            };
            return Err(InvalidConfig::new("min_calls", min_calls, allowed));
        }
        let breaker = Breaker::new(
            rates.then_some(record),
            row.map(|_| Row::new()),
            limits,
            rules,
        );
        Ok(Circuit {
            shared: Arc::new(Shared {
                breaker,
                timeline: Timeline::start(),
                chance: Chance::new(self.seed),
                changed: Arc::new(Notify::new()),
                when_open: self.when_open,
                name: self.name,
            }),
        })
    }

    fn rules(&self) -> Result<Rules, InvalidConfig> {
        let open_for = self.open_for.unwrap_or(Duration::from_secs(5));
        let max_open_for = self
            .max_open_for
            .unwrap_or(open_for.max(Duration::from_secs(60)));
        if max_open_for < open_for {
            let allowed = format!("at least open_for, {open_for:?}");
            return Err(InvalidConfig::new("max_open_for", max_open_for, allowed));
        }
        let probes = self.probes.unwrap_or(3);
        if !(1..=MAX_PROBES).contains(&probes) {
            return Err(InvalidConfig::new("probes", probes, "from 1 to 127"));
        }
        let successes = self.probe_successes.unwrap_or(probes / 2 + 1);
        if !(1..=probes).contains(&successes) {
            let allowed = format!("from 1 to the {probes} probes");
            return Err(InvalidConfig::new("probe_successes", successes, allowed));
        }
        let lease = self.probe_lease.unwrap_or(Duration::from_secs(30));
        if lease.is_zero() {
            return Err(InvalidConfig::new("probe_lease", lease, "above zero"));
        }
        Ok(Rules {
            open_for: nanos(open_for),
            max_open_for: nanos(max_open_for),
            probes: probes as u8,
            successes: successes as u8,
            lease: nanos(lease),
        })
    }
}

/// A rate in parts per million, rounded down.
fn ppm(field: &'static str, rate: f64) -> Result<u32, InvalidConfig> {
    let ppm = (rate * 1e6) as u32; // NaN gives 0, and what is too large saturates
    if (1..=1_000_000).contains(&ppm) && rate <= 1.0 {
        return Ok(ppm);
    }
    Err(InvalidConfig::new(
        field,
        rate,
        "a share from 0.000001 to 1",
    ))
}

/// The setters of a circuit, for its own builder and for the layer's.
macro_rules! circuit_setters {
    () => {
        /// The share of failed calls in the window at which the circuit opens, above 0 to 1. In
        /// steps of 0.000001, rounded down. Default: 0.5.
        pub fn failure_rate(mut self, failure_rate: f64) -> Self {
            self.config.failure_rate = Some(failure_rate);
            self
        }

        /// No rate is taken of fewer calls in the window. Default: 20, or the count window if that
        /// is smaller.
        pub fn min_calls(mut self, min_calls: u32) -> Self {
            self.config.min_calls = Some(min_calls);
            self
        }

        /// The calls of which rates are taken. Default: those of the last 10 s.
        pub fn window(mut self, window: $crate::circuit_breaker::Window) -> Self {
            self.config.window = Some(window);
            self
        }

        /// Opens after so many failures in a row. Set alone it takes the place of the rates;
        /// beside any setting of theirs, whichever comes first opens. Default: off.
        pub fn consecutive_failures(mut self, consecutive_failures: u32) -> Self {
            self.config.consecutive_failures = Some(consecutive_failures);
            self
        }

        /// Calls that take at least `duration`, from their first poll that is pending, are slow;
        /// the circuit opens when their share of the window reaches `rate`, above 0 to 1. A slow
        /// probe counts as bad. Default: off.
        pub fn slow_calls(mut self, duration: std::time::Duration, rate: f64) -> Self {
            self.config.slow_calls = Some((duration, rate));
            self
        }

        /// How long the circuit stays open, doubled each time a probe re-opens it, less a random
        /// tenth at most. Above 2^35 ms (1.09 years) it stays open until it is reset.
        /// Default: 5 s.
        pub fn open_for(mut self, open_for: std::time::Duration) -> Self {
            self.config.open_for = Some(open_for);
            self
        }

        /// The longest open time, however often doubled and whatever the callee asks for.
        /// Default: 60 s, or `open_for` if that is longer.
        pub fn max_open_for(mut self, max_open_for: std::time::Duration) -> Self {
            self.config.max_open_for = Some(max_open_for);
            self
        }

        /// How many calls may pass while half-open, 1 to 127. Default: 3.
        pub fn probes(mut self, probes: u32) -> Self {
            self.config.probes = Some(probes);
            self
        }

        /// How many good probes close the circuit, 1 to `probes`. Default: the majority.
        pub fn probe_successes(mut self, probe_successes: u32) -> Self {
            self.config.probe_successes = Some(probe_successes);
            self
        }

        /// How long after the latest probe went out the probes that have not come back are written
        /// off, if no other may go. Default: 30 s. `Duration::MAX` never.
        pub fn probe_lease(mut self, probe_lease: std::time::Duration) -> Self {
            self.config.probe_lease = Some(probe_lease);
            self
        }

        /// A call dropped by its caller counts as failed if it had been in flight this long, from
        /// its first poll that was pending; younger it is ignored. Raise it where callers stop
        /// calls that are well: long streams, calls of language models. Default: the duration of
        /// slow calls if set, else 1 s.
        pub fn abandoned_after(mut self, abandoned_after: std::time::Duration) -> Self {
            self.config.abandoned_after = Some(abandoned_after);
            self
        }

        /// What a service does while the circuit is open. Default: reject.
        pub fn when_open(mut self, when_open: $crate::circuit_breaker::WhenOpen) -> Self {
            self.config.when_open = when_open;
            self
        }

        /// Makes the shortening of open times repeatable. Default: random.
        pub fn seed(mut self, seed: u64) -> Self {
            self.config.seed = Some(seed);
            self
        }

        /// The name in events, snapshots and `Debug`. Default: none.
        pub fn name(mut self, name: impl Into<std::sync::Arc<str>>) -> Self {
            self.config.name = $crate::name::Name::new(name);
            self
        }
    };
}
pub(super) use circuit_setters;

/// Builds a [`Circuit`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct CircuitBuilder {
    config: Config,
}

impl CircuitBuilder {
    circuit_setters!();

    /// The circuit, closed.
    ///
    /// # Errors
    /// A rate outside 0.000001 to 1 or not a number, a count or a window outside its range, a
    /// lease of zero, `max_open_for` below `open_for`.
    pub fn build(self) -> Result<Circuit, InvalidConfig> {
        self.config.build()
    }
}
