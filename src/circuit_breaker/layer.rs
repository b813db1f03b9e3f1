use super::circuit::Circuit;
use super::permit::{Judge, Judged};
use super::settings::{CircuitBreakerSettings, WhenOpen, circuit_setters};
use super::state::Blocked;
use crate::deadline::Deadline;
use crate::error::{InvalidConfig, Rejection};
use crate::gate::{
    Admission, Admit, Admitted, AtOnce, Gate, GateFuture, GateLayer, Look, Opens, UntilHead,
};
use crate::name::Name;
use crate::verdict::Outcome;
use pin_project_lite::pin_project;
use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::futures::OwnedNotified;
use tokio::time::{Instant, Sleep, sleep};

/// Makes [`CircuitBreaker`] services that share one circuit. The [module](super) explains what
/// they do.
///
/// ```
/// use buttress::{CircuitBreakerLayer, circuit_breaker::CircuitState};
///
/// let layer = CircuitBreakerLayer::default();
/// let circuit = layer.circuit().clone();
/// circuit.force_open();
/// assert_eq!(layer.circuit().state(), CircuitState::ForcedOpen);
/// ```
pub type CircuitBreakerLayer<C = Outcome, U = UntilHead> = GateLayer<Guarded<C>, (), U>;

/// The service that [`CircuitBreakerLayer`] makes.
pub type CircuitBreaker<S, C = Outcome, U = UntilHead> = Gate<S, Guarded<C>, (), U>;

/// The future of a [`CircuitBreaker`] call.
pub type CircuitBreakerFuture<S, Req, C = Outcome, U = UntilHead> =
    GateFuture<S, Guarded<C>, Req, U>;

impl CircuitBreakerLayer {
    /// A builder with the defaults that the [module](super) lists.
    pub fn builder() -> CircuitBreakerBuilder {
        CircuitBreakerBuilder {
            settings: CircuitBreakerSettings::default(),
            gate: GateLayer::of(Outcome),
        }
    }
}

impl Default for CircuitBreakerLayer {
    fn default() -> Self {
        Self::builder().build().expect("the defaults are valid")
    }
}

impl<C> CircuitBreakerLayer<C> {
    /// Puts a layer on an existing circuit, so that several layers share it.
    #[must_use]
    pub fn new(circuit: Circuit, classify: C) -> Self {
        Self::of(Guarded::new(circuit, classify))
    }
}

/// The same as [`CircuitBreakerLayer::new`] with the default classifier.
impl From<Circuit> for CircuitBreakerLayer {
    fn from(circuit: Circuit) -> Self {
        Self::new(circuit, Outcome)
    }
}

impl<C, U> CircuitBreakerLayer<C, U> {
    /// The circuit that all services of this layer share.
    #[must_use]
    pub fn circuit(&self) -> &Circuit {
        self.admission.circuit()
    }
}

/// Prints the settings in a readable form.
impl<C, U> fmt::Display for CircuitBreakerLayer<C, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.circuit(), f)
    }
}

/// Builds a [`CircuitBreakerLayer`].
///
/// ```
/// use buttress::{CircuitBreakerLayer, circuit_breaker::Window};
/// use std::time::Duration;
///
/// let layer = CircuitBreakerLayer::builder()
///     .name("payments")
///     .window(Window::count(100))
///     .slow_calls(Duration::from_secs(2), 0.9)
///     .build()?;
/// assert_eq!(layer.circuit().snapshot().name.as_str(), Some("payments"));
/// # Ok::<(), buttress::error::InvalidConfig>(())
/// ```
#[derive(Clone)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct CircuitBreakerBuilder<C = Outcome, U = UntilHead> {
    pub(super) settings: CircuitBreakerSettings,
    pub(super) gate: GateLayer<C, (), U>,
}

impl<C, U> CircuitBreakerBuilder<C, U> {
    circuit_setters!();

    /// The classifier: what an outcome says about the upstream. Default: every `Ok` is healthy, every
    /// `Err` transient.
    pub fn classify<J>(self, classify: J) -> CircuitBreakerBuilder<J, U> {
        CircuitBreakerBuilder {
            settings: self.settings,
            gate: self.gate.map(|_| classify),
        }
    }

    /// When a call ends and its verdict is final. Default: [`UntilHead`], when the response head
    /// arrives. The feature `http-body` adds `UntilBodyEnd`.
    pub fn until<V>(self, until: V) -> CircuitBreakerBuilder<C, V> {
        CircuitBreakerBuilder {
            settings: self.settings,
            gate: self.gate.until(until),
        }
    }

    pub(crate) fn into_settings(self) -> CircuitBreakerSettings {
        self.settings
    }

    /// Sets the name if none is set.
    pub(crate) fn named_if_unnamed(mut self, name: Name) -> Self {
        self.settings.name = self.settings.name.or(name);
        self
    }

    /// Builds the layer with a closed circuit of its own.
    ///
    /// # Errors
    /// The errors of [`CircuitBreakerSettings::check`].
    pub fn build(self) -> Result<CircuitBreakerLayer<C, U>, InvalidConfig> {
        let circuit = Circuit::with(self.settings)?;
        Ok(self.gate.map(|classify| Guarded::new(circuit, classify)))
    }
}

impl<C, U> fmt::Debug for CircuitBreakerBuilder<C, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CircuitBreakerBuilder")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// What one service instance knows about the circuit.
#[derive(Debug, Default)]
pub struct Watch {
    /// Why the next call is rejected, if `poll_ready` found the circuit open.
    blocked: Option<Blocked>,
    /// Wakes the task when the circuit changes.
    waiting: Option<Pin<Box<Waiting>>>,
}

pin_project! {
    // Empty while nobody waits, so that no waker is registered.
    #[derive(Debug, Default)]
    struct Waiting {
        #[pin]
        changed: Option<OwnedNotified>,
        #[pin]
        sleep: Option<Sleep>,
    }
}

impl Watch {
    /// Ready when the circuit rejects calls (`open` is true) or lets them through (`open` is false).
    fn poll(
        &mut self,
        circuit: &Circuit,
        open: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Blocked>> {
        let changed = &circuit.shared.changed;
        let waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(Waiting::default()));
        let mut waiting = waiting.as_mut().project();
        loop {
            // Register before looking at the circuit, so that no later change is missed.
            if waiting.changed.is_none() {
                waiting.changed.set(Some(changed.clone().notified_owned()));
            }
            if let Some(changed) = waiting.changed.as_mut().as_pin_mut() {
                if changed.poll(cx).is_ready() {
                    waiting.changed.set(None);
                    continue;
                }
            }
            let blocked = circuit.look().err();
            if blocked.is_some() == open {
                return Poll::Ready(blocked);
            }
            let timer = blocked.and_then(Blocked::look_after);
            let Some(nanos) = timer else {
                return Poll::Pending;
            };
            waiting.sleep.set(Some(sleep(Duration::from_nanos(nanos))));
            if let Some(sleep) = waiting.sleep.as_mut().as_pin_mut() {
                ready!(sleep.poll(cx));
            }
        }
    }
}

/// A circuit with the classifier of its calls: the admission of a [`CircuitBreaker`].
pub struct Guarded<C> {
    judge: Arc<Judge<C>>,
}

impl<C> Guarded<C> {
    pub(crate) fn new(circuit: Circuit, classify: C) -> Self {
        Self {
            judge: Arc::new(Judge { circuit, classify }),
        }
    }

    pub(crate) fn circuit(&self) -> &Circuit {
        &self.judge.circuit
    }

    /// Whether a call is in flight.
    pub(crate) fn has_calls(&self) -> bool {
        Arc::strong_count(&self.judge) > 1
    }

    /// Whether nobody can miss this circuit, and no call of it is in flight.
    pub(crate) fn is_like_new(&mut self, now: Instant, idle: bool) -> bool {
        let judge = Arc::get_mut(&mut self.judge);
        judge.is_some_and(|judge| judge.circuit.is_like_new(now, idle))
    }
}

impl<C> Clone for Guarded<C> {
    fn clone(&self) -> Self {
        Self {
            judge: self.judge.clone(),
        }
    }
}

impl<C> fmt::Debug for Guarded<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.circuit().fmt(f)
    }
}

impl Opens for Circuit {
    type Admission = Guarded<Outcome>;

    fn admission(&self) -> Guarded<Outcome> {
        Guarded::new(self.clone(), Outcome)
    }
}

impl<C> Admission for Guarded<C> {
    type Local = Watch;
    type Waits = AtOnce;
    type Wait = Infallible;
    // `send` takes the probe, as the last step.
    type Ticket = ();
    type Sent = Judged<C>;

    fn poll_look(&self, watch: &mut Watch, cx: &mut Context<'_>) -> Poll<Look> {
        let circuit = self.circuit();
        watch.blocked = None;
        if let Err(blocked) = circuit.look() {
            match circuit.shared.when_open {
                WhenOpen::Reject => {
                    watch.blocked = Some(blocked);
                    return Poll::Ready(Look::Reject);
                }
                WhenOpen::NotReady => {
                    ready!(watch.poll(circuit, false, cx));
                }
            }
        }
        if let Some(waiting) = &mut watch.waiting {
            waiting.set(Waiting::default());
        }
        Poll::Ready(Look::Go)
    }

    fn refuse(&self, watch: &mut Watch) -> Option<Rejection> {
        let blocked = watch.blocked.take()?;
        Some(self.circuit().reject(blocked))
    }

    fn look(&self) -> Result<(), Rejection> {
        let circuit = self.circuit();
        circuit.look().map_err(|blocked| circuit.reject(blocked))
    }

    fn poll_rejection(&self, watch: &mut Watch, cx: &mut Context<'_>) -> Poll<Rejection> {
        match ready!(watch.poll(self.circuit(), true, cx)) {
            Some(blocked) => Poll::Ready(self.circuit().reject(blocked)),
            None => Poll::Pending,
        }
    }

    fn send(&self, (): ()) -> Result<Judged<C>, Rejection> {
        let circuit = self.circuit();
        let call = circuit.admit().map_err(|blocked| circuit.reject(blocked))?;
        Ok(Judged::new(self.judge.clone(), call))
    }
}

impl<C, Req> Admit<Req> for Guarded<C> {
    fn admit(&self, _: &Req, _: Option<Deadline>) -> Admitted<(), Infallible> {
        Admitted::Now(())
    }
}
