use super::breaker::{Breaker, Change, Settled, Told};
use super::permit::{Call, Permit};
use super::settings::{CircuitBreakerSettings, WhenOpen, circuit_setters};
use super::state::{Blocked, Event, LONGEST, Phase, Reason};
use super::window::Window as Record;
use crate::chance::Chance;
use crate::error::{InvalidConfig, Rejected, Rejection};
use crate::event::{
    self, CircuitState, Count, Counters, Observe, Observers, TransitionReason, Transitions,
    drop_panics,
};
use crate::name::Name;
use crate::time::{Shown, Timeline};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The state of a circuit breaker. Clones share it. Works without Tower and without a runtime.
///
/// ```
/// use buttress::{Rejection, Verdict, circuit_breaker::Circuit};
///
/// let circuit = Circuit::builder().consecutive_failures(2).build()?;
/// for _ in 0..2 {
///     circuit.try_acquire()?.settle(Verdict::TRANSIENT);
/// }
/// let rejected = circuit.try_acquire().unwrap_err();
/// assert!(matches!(rejected.0, Rejection::CircuitOpen { retry_after: Some(_), .. }));
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
    pub(super) breaker: Breaker,
    timeline: Timeline,
    chance: Chance,
    /// Notified of every transition, and of every probe that ends without a verdict.
    pub(super) changed: Arc<Notify>,
    pub(super) when_open: WhenOpen,
    pub(super) name: Name,
    rejected: Count,
    probes: Count,
    transitions: Counters<TransitionReason>,
    observers: Observers,
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

impl From<Reason> for TransitionReason {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::FailureRate => Self::FailureRate,
            Reason::SlowCalls => Self::SlowCalls,
            Reason::ConsecutiveFailures => Self::ConsecutiveFailures,
            Reason::OpenTimeOver => Self::OpenTimeOver,
            Reason::ProbesFailed => Self::ProbesFailed,
            Reason::ProbesSucceeded => Self::ProbesSucceeded,
            Reason::LeaseLapsed => Self::LeaseLapsed,
            Reason::Forced => Self::Forced,
            Reason::Reset => Self::Reset,
        }
    }
}

impl From<Phase> for CircuitState {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Closed => Self::Closed,
            Phase::Open => Self::Open,
            Phase::HalfOpen => Self::HalfOpen,
            Phase::ForcedOpen => Self::ForcedOpen,
            Phase::ForcedClosed => Self::ForcedClosed,
        }
    }
}

impl Circuit {
    /// A builder for a circuit that you share between layers or use without Tower.
    pub fn builder() -> CircuitBuilder {
        CircuitBuilder {
            settings: CircuitBreakerSettings::default(),
        }
    }

    /// Makes a closed circuit with these settings.
    ///
    /// # Errors
    /// The errors of [`CircuitBreakerSettings::check`].
    pub fn with(settings: CircuitBreakerSettings) -> Result<Self, InvalidConfig> {
        Self::observed(settings, Observers::default())
    }

    /// The same for use inside this crate: `tracing` is not told of its events.
    pub(crate) fn quiet(settings: CircuitBreakerSettings) -> Result<Self, InvalidConfig> {
        Self::observed(settings, Observers::quiet())
    }

    pub(super) fn observed(
        settings: CircuitBreakerSettings,
        observers: Observers,
    ) -> Result<Self, InvalidConfig> {
        Ok(Self {
            shared: Arc::new(Shared {
                breaker: settings.breaker()?,
                timeline: Timeline::start(),
                chance: Chance::new(settings.seed),
                changed: Arc::new(Notify::new()),
                when_open: settings.when_open,
                name: settings.name,
                rejected: Count::default(),
                probes: Count::default(),
                transitions: Counters::default(),
                observers,
            }),
        })
    }

    /// Makes a circuit that is forced closed from the start.
    pub(super) fn closed(
        settings: CircuitBreakerSettings,
        observers: Observers,
    ) -> Result<Self, InvalidConfig> {
        let circuit = Self::observed(settings, observers)?;
        // Not reported: nobody has seen it in another state.
        circuit
            .shared
            .breaker
            .force(Event::ForceClosed, Reason::Forced);
        Ok(circuit)
    }

    /// Whether the circuit cannot be told from a new one, and nobody else holds it. A count window and
    /// a row of failures never empty by themselves, and an open circuit closes only by calls: an idle
    /// circuit counts as new without them, once its open time is over.
    pub(super) fn is_like_new(&mut self, now: Instant, idle: bool) -> bool {
        let Some(shared) = Arc::get_mut(&mut self.shared) else {
            return false;
        };
        let seen = shared.breaker.snapshot(shared.timeline.at(now));
        let has_row = seen.row.is_some_and(|row| row > 0);
        let has_failures = seen.counts.bad > 0 || seen.counts.slow > 0;
        match seen.phase {
            Phase::Closed if idle => !has_failures || shared.breaker.counts_calls(),
            Phase::Closed => !has_failures && !has_row,
            Phase::HalfOpen => idle,
            Phase::Open | Phase::ForcedOpen | Phase::ForcedClosed => false,
        }
    }

    /// The current state. Half-open as soon as the open time is over, even if no call has come yet.
    #[must_use]
    pub fn state(&self) -> CircuitState {
        self.shared.breaker.phase(|| self.shared.now()).0.into()
    }

    /// The state and the counts, read together: they belong to the same state.
    #[must_use]
    pub fn snapshot(&self) -> CircuitSnapshot {
        let seen = self.shared.breaker.snapshot(self.shared.now());
        let retry_after = seen.blocked.and_then(Blocked::retry_after);
        CircuitSnapshot {
            name: self.shared.name,
            state: seen.phase.into(),
            retry_after: retry_after.map(Duration::from_nanos),
            opened_by: seen.opened_by.map(|opening| Opening {
                reason: opening.reason.into(),
                calls: opening.counts.calls,
                failures: opening.counts.bad,
                slow_calls: opening.counts.slow,
            }),
            calls: seen.counts.calls,
            failures: seen.counts.bad,
            slow_calls: seen.counts.slow,
            consecutive_failures: seen.row,
            probes_out: seen.probes_out,
            rejected: self.shared.rejected.get(),
            probes: self.shared.probes.get(),
            transitions: (&self.shared.transitions).into(),
            min_calls: self.shared.breaker.limits.min_calls,
        }
    }

    /// Finds the handle again, as long as somebody else holds it.
    pub(crate) fn weak(&self) -> impl Fn() -> Option<Self> + Send + Sync + 'static {
        let shared = Arc::downgrade(&self.shared);
        move || {
            let shared = shared.upgrade()?;
            Some(Self { shared })
        }
    }

    pub(crate) fn observers(&self) -> &Observers {
        &self.shared.observers
    }

    /// Counts the events of this circuit through the facade `metrics` (feature `metrics`). The
    /// [module `metrics`](crate::metrics) lists the metrics. It cannot be switched off.
    #[cfg(feature = "metrics")]
    pub fn metrics(&self) {
        self.shared
            .observers
            .add(crate::metrics::Events::observer());
    }

    /// Adds an observer of the events of this circuit. It cannot be removed.
    pub fn observe(&self, observer: impl Observe + 'static) {
        self.shared.observers.add(Arc::new(observer));
    }

    /// All outcomes that the circuit has counted, and how many of them were failures. `None` without a time window.
    pub(crate) fn total(&self) -> Option<(u64, u64)> {
        match self.shared.breaker.window.as_ref()? {
            Record::Time(window) => Some(window.total()),
            Record::Count(_) => None,
        }
    }

    /// Opens the circuit until [`reset`](Self::reset) or [`force_closed`](Self::force_closed). Calls
    /// in flight no longer count.
    pub fn force_open(&self) {
        self.force(Event::ForceOpen, Reason::Forced);
    }

    /// Closes the circuit until [`reset`](Self::reset) or [`force_open`](Self::force_open). Counting
    /// starts over, and no outcome opens the circuit. Calls in flight no longer count.
    pub fn force_closed(&self) {
        self.force(Event::ForceClosed, Reason::Forced);
    }

    /// Closes the circuit, as if it were new: counting starts over. Calls in flight no longer count.
    pub fn reset(&self) {
        self.force(Event::Reset, Reason::Reset);
    }

    /// Asks for the right to make one call. Report how the call went by [`Permit::settle`].
    ///
    /// # Errors
    /// [`Rejection::CircuitOpen`] if the circuit is open, or half-open and no probe is left.
    pub fn try_acquire(&self) -> Result<Permit, Rejected> {
        let admitted = self.admit().map_err(|blocked| {
            self.shared.rejected.add();
            Rejected(self.rejection(blocked))
        });
        let mut permit = Permit::new(self.shared.clone(), admitted?);
        permit.in_flight();
        Ok(permit)
    }

    /// Lets a call through that is not in flight yet. The caller must settle or abandon it.
    #[inline]
    pub(super) fn admit(&self) -> Result<Call, Blocked> {
        if let Some(pass) = self.shared.breaker.pass() {
            return Ok(Call::new(pass));
        }
        self.admit_probe()
    }

    fn admit_probe(&self) -> Result<Call, Blocked> {
        let (pass, change) = self.shared.breaker.admit_probe(self.shared.now())?;
        // Before the transition is reported: if a subscriber panics, the permit returns the probe.
        let permit = Permit::new(self.shared.clone(), Call::new(pass));
        if pass.is_probe() {
            self.shared.probes.add();
        }
        if let Some(change) = change {
            self.shared.report(change);
        }
        if pass.is_probe() {
            let name = self.shared.name;
            let sent = event::Event::ProbeSent { name };
            self.shared.observers.tell(sent);
        }
        Ok(permit.into_call())
    }

    /// Whether a call could go now. Takes nothing.
    #[inline]
    pub(super) fn look(&self) -> Result<(), Blocked> {
        self.shared.breaker.look(&*self.shared)
    }

    fn force(&self, event: Event, reason: Reason) {
        if let Some(change) = self.shared.breaker.force(event, reason) {
            self.shared.report(change);
        }
    }

    /// Counts and reports a rejected call, and returns its rejection.
    pub(super) fn reject(&self, blocked: Blocked) -> Rejection {
        self.shared.rejected.add();
        let rejection = self.rejection(blocked);
        self.shared.observers.tell(event::Event::CircuitRejected {
            name: self.shared.name,
            retry_after: rejection.retry_after(),
        });
        rejection
    }

    fn rejection(&self, blocked: Blocked) -> Rejection {
        Rejection::CircuitOpen {
            retry_after: blocked.retry_after().map(Duration::from_nanos),
            by: self.shared.name,
        }
    }
}

impl Shared {
    #[inline]
    pub(super) fn after(&self, settled: Settled) {
        match settled {
            Settled::Nothing => {}
            Settled::Returned => self.changed.notify_waiters(),
            Settled::Changed(change) => self.report(change),
        }
    }

    /// The same for a call that is dropped.
    pub(super) fn after_drop(&self, settled: Settled) {
        match settled {
            Settled::Changed(change) => drop_panics(|| self.report(change)),
            settled => self.after(settled),
        }
    }

    /// Reports a transition. Only the thread that made the transition calls this.
    fn report(&self, change: Change) {
        self.changed.notify_waiters();
        let reason = TransitionReason::from(change.reason);
        self.transitions.add(reason);
        self.observers.tell(event::Event::Transition {
            name: self.name,
            from: change.from.into(),
            to: change.to.into(),
            reason,
            calls: change.counts.calls,
            failures: change.counts.bad,
            slow_calls: change.counts.slow,
        });
    }
}

/// Prints the settings in a readable form.
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

/// The state and the counts of a [`Circuit`] at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CircuitSnapshot {
    /// The name of the circuit.
    pub name: Name,
    /// The state that the next call finds.
    pub state: CircuitState,
    /// How long until a probe may be sent; `None` if no probe is needed or the time is not known.
    pub retry_after: Option<Duration>,
    /// Why the circuit opened the last time; set while it is open or half-open.
    pub opened_by: Option<Opening>,
    /// The calls in the window since the circuit last became closed or forced closed. 0 in all other
    /// states.
    pub calls: u64,
    /// The failed calls among them.
    pub failures: u64,
    /// The slow calls among them; 0 unless `slow_calls` is set.
    pub slow_calls: u64,
    /// The failures in a row; `None` unless `consecutive_failures` is set.
    pub consecutive_failures: Option<u32>,
    /// The probes in flight.
    pub probes_out: u32,
    /// The calls rejected since the circuit was made.
    pub rejected: u64,
    /// The probes sent since the circuit was made.
    pub probes: u64,
    /// The transitions since the circuit was made.
    pub transitions: Transitions,
    min_calls: u32,
}

impl CircuitSnapshot {
    /// The share of failed calls in the window, 0 to 1; `None` with fewer than `min_calls` calls.
    #[must_use]
    pub fn failure_rate(&self) -> Option<f64> {
        self.rate(self.failures)
    }

    /// The share of slow calls in the window, 0 to 1; `None` with fewer than `min_calls` calls.
    #[must_use]
    pub fn slow_rate(&self) -> Option<f64> {
        self.rate(self.slow_calls)
    }

    fn rate(&self, part: u64) -> Option<f64> {
        (self.calls >= self.min_calls.into()).then(|| part as f64 / self.calls as f64)
    }
}

/// Why a circuit opened: the same reason and counts as in its `opened` event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Opening {
    /// What made it open.
    pub reason: TransitionReason,
    /// The calls in the window at that moment; if probes failed, the probes that had a result.
    pub calls: u64,
    /// The failed calls among them; if probes failed, slow probes count as failed.
    pub failures: u64,
    /// The slow calls in the window; 0 unless `slow_calls` is set, and 0 if probes failed.
    pub slow_calls: u64,
}

/// Builds a [`Circuit`].
///
/// ```
/// use buttress::circuit_breaker::{Circuit, CircuitState};
/// use std::time::Duration;
///
/// let circuit = Circuit::builder().failure_rate(0.3).open_for(Duration::from_secs(1)).build()?;
/// assert_eq!(circuit.state(), CircuitState::Closed);
///
/// let invalid = Circuit::builder().failure_rate(1.5).build();
/// assert!(invalid.is_err());
/// # Ok::<(), buttress::error::InvalidConfig>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct CircuitBuilder {
    settings: CircuitBreakerSettings,
}

impl CircuitBuilder {
    circuit_setters!();

    /// Builds the circuit, closed.
    ///
    /// # Errors
    /// The errors of [`CircuitBreakerSettings::check`].
    pub fn build(self) -> Result<Circuit, InvalidConfig> {
        Circuit::with(self.settings)
    }
}
