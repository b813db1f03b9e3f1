use super::limit::{ConcurrencyLimit, Entered, Occupancy, Slot, Wait};
use super::settings::LoadShedSettings;
use crate::deadline::Deadline;
use crate::error::{InvalidConfig, Rejection};
use crate::event::OverloadReason;
use crate::gate::{
    Admission, Admit, Admitted, Cloning, Finish, Gate, GateFuture, GateLayer, Look, Opens, Sent,
    UnlessOpen, UntilHead,
};
use crate::name::Name;
use std::fmt;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// Makes [`LoadShed`] services that share one limit. The [module](super) explains what they do.
///
/// ```
/// use buttress::LoadShedLayer;
///
/// let layer = LoadShedLayer::new(64);
/// layer.limit().set_limit(32);
/// assert_eq!(layer.limit().snapshot().limit, 32);
/// ```
pub type LoadShedLayer<K = (), U = UntilHead, O = ()> = GateLayer<(ConcurrencyLimit, O), K, U>;

/// The service that [`LoadShedLayer`] makes.
pub type LoadShed<S, K = (), U = UntilHead, O = ()> = Gate<S, (ConcurrencyLimit, O), K, U>;

/// The future of a [`LoadShed`] call.
pub type LoadShedFuture<S, Req, U = UntilHead, O = ()> =
    GateFuture<S, (ConcurrencyLimit, O), Req, U>;

impl LoadShedLayer {
    /// At most this many calls are in flight; the others are rejected at once. Saturates at 2^24 − 1.
    /// With 0, every call is rejected.
    #[must_use]
    pub fn new(max_in_flight: usize) -> Self {
        ConcurrencyLimit::new(max_in_flight).into()
    }

    /// A builder for a layer with this limit.
    pub const fn builder(max_in_flight: usize) -> LoadShedBuilder {
        LoadShedBuilder {
            settings: LoadShedSettings::new(max_in_flight),
            gate: GateLayer::of(()),
        }
    }
}

impl<K, U, O> LoadShedLayer<K, U, O> {
    /// The limit that all services of this layer share.
    #[must_use]
    pub fn limit(&self) -> &ConcurrencyLimit {
        &self.admission.0
    }
}

/// The same as [`LoadShedLayer::new`].
impl From<usize> for LoadShedLayer {
    fn from(max_in_flight: usize) -> Self {
        Self::new(max_in_flight)
    }
}

/// Puts a layer on an existing limit, so that several layers share it.
impl From<ConcurrencyLimit> for LoadShedLayer {
    fn from(limit: ConcurrencyLimit) -> Self {
        Self::of((limit, ()))
    }
}

/// Prints the settings in a readable form.
impl<K, U, O> fmt::Display for LoadShedLayer<K, U, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.limit(), f)
    }
}

/// Builds a [`LoadShedLayer`].
///
/// ```
/// use buttress::LoadShedLayer;
/// use std::time::Duration;
///
/// let layer = LoadShedLayer::builder(64).queue(16, Duration::from_millis(100)).build()?;
/// assert_eq!(layer.to_string(), "load shed: 64 in flight, 16 more wait up to 100ms");
///
/// assert!(LoadShedLayer::builder(1 << 24).build().is_err()); // above the largest limit
/// # Ok::<(), buttress::error::InvalidConfig>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct LoadShedBuilder<K = (), U = UntilHead, O = ()> {
    pub(crate) settings: LoadShedSettings,
    pub(super) gate: GateLayer<O, K, U>,
}

impl<K, U, O> LoadShedBuilder<K, U, O> {
    /// Lets up to `len` calls wait for a slot, in order of arrival, each for at most `max_wait` from
    /// its `call`. Default: no call waits.
    pub fn queue(mut self, len: usize, max_wait: Duration) -> Self {
        self.settings.queue = len;
        self.settings.max_wait = max_wait;
        self
    }

    /// The name in errors, events, snapshots and `Debug`. Default: none.
    pub fn name(mut self, name: impl Into<Name>) -> Self {
        self.settings.name = name.into();
        self
    }

    /// Replaces all settings.
    pub fn settings(mut self, settings: LoadShedSettings) -> Self {
        self.settings = settings;
        self
    }

    /// Where requests carry their deadline. A call does not wait in the queue beyond its deadline.
    /// Default: `()`, none.
    pub fn carrier<L>(self, carrier: L) -> LoadShedBuilder<L, U, O> {
        self.with(|gate| gate.carrier(carrier))
    }

    /// When a call ends and frees its slot. Default: [`UntilHead`], when the response head arrives.
    /// The feature `http-body` adds `UntilBodyEnd`.
    pub fn until<V>(self, until: V) -> LoadShedBuilder<K, V, O> {
        self.with(|gate| gate.until(until))
    }

    /// Rejects calls with [`CircuitOpen`](Rejection::CircuitOpen) while this circuit is open, before
    /// they take a slot or a place in the queue. When it opens, the calls that wait are rejected too.
    /// Use it with the circuit of a breaker below. Default: none.
    pub fn unless_open<H: Opens>(
        self,
        circuit: &H,
    ) -> LoadShedBuilder<K, U, UnlessOpen<H::Admission>> {
        self.with(|gate| gate.map(|_| UnlessOpen(circuit.admission())))
    }

    fn with<L, V, P>(
        self,
        change: impl FnOnce(GateLayer<O, K, U>) -> GateLayer<P, L, V>,
    ) -> LoadShedBuilder<L, V, P> {
        LoadShedBuilder {
            settings: self.settings,
            gate: change(self.gate),
        }
    }

    /// Builds the layer with a limit of its own.
    ///
    /// # Errors
    /// The errors of [`LoadShedSettings::check`].
    pub fn build(self) -> Result<LoadShedLayer<K, U, O>, InvalidConfig> {
        let limit = ConcurrencyLimit::with(self.settings)?;
        Ok(self.gate.map(|open| (limit, open)))
    }
}

impl Admission for ConcurrencyLimit {
    /// Why the next call is rejected, if `poll_ready` found that it is.
    type Local = Option<OverloadReason>;
    type Waits = Cloning;
    type Wait = Wait;
    type Ticket = Slot;
    type Sent = Slot;

    fn poll_look(&self, local: &mut Self::Local, _: &mut Context<'_>) -> Poll<Look> {
        *local = None;
        Poll::Ready(match self.occupancy() {
            Occupancy::Free => Look::Go,
            Occupancy::Queue => Look::Wait,
            Occupancy::Full => {
                *local = Some(OverloadReason::Full);
                Look::Reject
            }
        })
    }

    fn rejects_pending(&self, local: &mut Self::Local) -> bool {
        *local = Some(OverloadReason::InnerNotReady);
        true
    }

    fn rejects_pending_after(&self, _: &Self::Wait) -> bool {
        true
    }

    fn refuse(&self, local: &mut Self::Local) -> Option<Rejection> {
        local.take().map(|reason| self.reject(reason))
    }

    fn send(&self, slot: Slot) -> Result<Slot, Rejection> {
        Ok(slot)
    }
}

impl<Req> Admit<Req> for ConcurrencyLimit {
    fn admit(&self, _: &Req, deadline: Option<Deadline>) -> Admitted<Slot, Wait> {
        match self.enter(deadline) {
            Ok(Entered::Slot(slot)) => Admitted::Now(slot),
            Ok(Entered::Queue(wait)) => Admitted::Later(wait),
            Err(reason) => Admitted::Rejected(self.reject(reason)),
        }
    }

    fn poll_wait(
        &self,
        wait: &mut Wait,
        _: &Req,
        _: Option<Deadline>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Slot, Rejection>> {
        let waited = ready!(wait.poll(cx));
        Poll::Ready(waited.map_err(|reason| self.reject(reason)))
    }
}

impl Finish for Slot {}

/// A slot needs no outcome: dropping it frees it.
impl<Res, E> Sent<Res, E> for Slot {
    fn settle(&mut self, _: Result<&Res, &E>, _: bool) {}
}
