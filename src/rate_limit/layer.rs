use super::gcra::Grant;
use super::limiter::{RateLimiter, Taken, Turn};
use super::quota::Quota;
use super::settings::RateLimitSettings;
use crate::deadline::Deadline;
use crate::error::{InvalidConfig, Rejection};
use crate::gate::{
    Admission, Admit, Admitted, Cloning, Gate, GateFuture, GateLayer, Opens, UnlessOpen, UntilHead,
};
use crate::name::Name;
use std::fmt;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::Instant;

/// What a call costs, in units of the quota.
///
/// `()` means that every call costs 1. Functions and closures implement it too:
///
/// ```
/// use buttress::{Cost, Quota, RateLimitLayer};
///
/// fn batch(items: &Vec<u64>) -> u32 { u32::try_from(items.len()).unwrap_or(u32::MAX) }
///
/// assert_eq!(batch.cost(&vec![1, 2, 3]), 3);
/// let layer = RateLimitLayer::builder(Quota::per_second(100)).cost(batch).build()?;
/// # let _ = layer;
/// # Ok::<(), buttress::error::InvalidConfig>(())
/// ```
pub trait Cost<Req> {
    /// The cost of one call. A cost of 0 is free.
    fn cost(&self, req: &Req) -> u32;
}

impl<Req> Cost<Req> for () {
    fn cost(&self, _: &Req) -> u32 {
        1
    }
}

impl<W, Req> Cost<Req> for W
where
    W: Fn(&Req) -> u32,
{
    fn cost(&self, req: &Req) -> u32 {
        self(req)
    }
}

/// Makes [`RateLimit`] services that share one limiter. The [module](super) explains what they do.
///
/// ```
/// use buttress::{Quota, RateLimitLayer};
///
/// let layer = RateLimitLayer::new(Quota::per_second(100));
/// layer.limiter().set_quota(Quota::per_second(50));
/// assert_eq!(layer.limiter().snapshot().quota, Quota::per_second(50));
/// ```
pub type RateLimitLayer<W = (), K = (), O = ()> = GateLayer<(Metered<W>, O), K>;

/// The service that [`RateLimitLayer`] makes.
pub type RateLimit<S, W = (), K = (), O = ()> = Gate<S, (Metered<W>, O), K>;

/// The future of a [`RateLimit`] call.
pub type RateLimitFuture<S, Req, W = (), O = ()> = GateFuture<S, (Metered<W>, O), Req, UntilHead>;

impl RateLimitLayer {
    /// A layer with this quota, whose calls cost 1 and wait up to 1 s for their turn.
    #[must_use]
    pub fn new(quota: Quota) -> Self {
        RateLimiter::new(quota).into()
    }

    /// A builder for a layer with this quota.
    pub const fn builder(quota: Quota) -> RateLimitBuilder {
        RateLimitBuilder {
            settings: RateLimitSettings::new(quota),
            gate: GateLayer::of(((), ())),
        }
    }
}

impl<W, K, O> RateLimitLayer<W, K, O> {
    /// The limiter that all services of this layer share.
    #[must_use]
    pub fn limiter(&self) -> &RateLimiter {
        &self.admission.0.limiter
    }

    /// Sets what a call costs, in units of the quota. For a layer that is made from a [`RateLimiter`]; otherwise the
    /// builder has this setter. Default: `()`, 1.
    #[must_use]
    pub fn cost<V>(self, cost: V) -> RateLimitLayer<V, K, O> {
        self.map(|(metered, open)| (Metered::new(metered.limiter, cost), open))
    }
}

/// The same as [`RateLimitLayer::new`].
impl From<Quota> for RateLimitLayer {
    fn from(quota: Quota) -> Self {
        Self::new(quota)
    }
}

/// Puts a layer on an existing limiter, so that several layers share it. Every call costs 1.
impl From<RateLimiter> for RateLimitLayer {
    fn from(limiter: RateLimiter) -> Self {
        Self::of((Metered::new(limiter, ()), ()))
    }
}

/// Prints the settings in a readable form.
impl<W, K, O> fmt::Display for RateLimitLayer<W, K, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.limiter(), f)
    }
}

/// Builds a [`RateLimitLayer`].
///
/// ```
/// use buttress::{Quota, RateLimitLayer};
/// use std::time::Duration;
///
/// let layer = RateLimitLayer::builder(Quota::per_second(100))
///     .max_wait(Duration::from_millis(250))
///     .name("payments")
///     .build()?;
/// let shown = "rate limit \"payments\": 100 per 1s, 10 at once, waits up to 250ms";
/// assert_eq!(layer.to_string(), shown);
/// # Ok::<(), buttress::error::InvalidConfig>(())
/// ```
#[derive(Clone)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct RateLimitBuilder<W = (), K = (), O = ()> {
    pub(crate) settings: RateLimitSettings,
    pub(super) gate: GateLayer<(W, O), K>,
}

impl<W, K, O> RateLimitBuilder<W, K, O> {
    /// The longest wait for a turn, from the `call`. A call whose turn would come later is rejected at
    /// once. Default: 1 s. With zero, no call waits.
    pub fn max_wait(mut self, max_wait: Duration) -> Self {
        self.settings.max_wait = max_wait;
        self
    }

    /// The name in errors, events, snapshots and `Debug`. Default: none.
    pub fn name(mut self, name: impl Into<Name>) -> Self {
        self.settings.name = name.into();
        self
    }

    /// Replaces all settings.
    pub fn settings(mut self, settings: RateLimitSettings) -> Self {
        self.settings = settings;
        self
    }

    /// What a call costs, in units of the quota. Default: `()`, 1.
    pub fn cost<V>(self, cost: V) -> RateLimitBuilder<V, K, O> {
        self.with(|gate| gate.map(|(_, open)| (cost, open)))
    }

    /// Where requests carry their deadline. A call whose turn does not come before its deadline is
    /// rejected at once. Default: `()`, none.
    pub fn carrier<L>(self, carrier: L) -> RateLimitBuilder<W, L, O> {
        self.with(|gate| gate.carrier(carrier))
    }

    /// Rejects calls with [`CircuitOpen`](Rejection::CircuitOpen) while this circuit is open, before
    /// they take a turn. When it opens, the calls that wait are rejected too. Use it with the circuit
    /// of a breaker below. Default: none.
    pub fn unless_open<H: Opens>(
        self,
        circuit: &H,
    ) -> RateLimitBuilder<W, K, UnlessOpen<H::Admission>> {
        self.with(|gate| gate.map(|(cost, _)| (cost, UnlessOpen(circuit.admission()))))
    }

    fn with<V, L, P>(
        self,
        change: impl FnOnce(GateLayer<(W, O), K>) -> GateLayer<(V, P), L>,
    ) -> RateLimitBuilder<V, L, P> {
        RateLimitBuilder {
            settings: self.settings,
            gate: change(self.gate),
        }
    }

    /// Builds the layer with a limiter of its own.
    ///
    /// # Errors
    /// None so far: every quota and every duration is valid.
    pub fn build(self) -> Result<RateLimitLayer<W, K, O>, InvalidConfig> {
        let limiter = RateLimiter::with(self.settings)?;
        Ok(self
            .gate
            .map(|(cost, open)| (Metered::new(limiter, cost), open)))
    }
}

impl<W, K, O> fmt::Debug for RateLimitBuilder<W, K, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitBuilder")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// The turn of a call that was not sent yet.
#[derive(Debug)]
pub enum Held {
    /// The turn was granted at once.
    Granted(Option<Grant>),
    /// The call waited for its turn.
    Waited(Turn),
}

/// A rate limiter with the costs of its calls: the admission of a [`RateLimit`].
#[derive(Clone, Debug)]
pub struct Metered<W> {
    limiter: RateLimiter,
    cost: W,
}

impl<W> Metered<W> {
    pub(crate) fn new(limiter: RateLimiter, cost: W) -> Self {
        Self { limiter, cost }
    }

    pub(crate) fn limiter(&self) -> &RateLimiter {
        &self.limiter
    }

    /// Whether the limiter cannot be told from a new one with this quota, and nobody holds it besides
    /// `holders`.
    pub(super) fn is_like_new(
        &mut self,
        now: Instant,
        holders: usize,
        quota: impl FnOnce() -> Quota,
    ) -> bool {
        self.limiter.is_like_new(now, holders, quota)
    }
}

impl<W: Clone> Admission for Metered<W> {
    type Local = ();
    type Waits = Cloning;
    type Wait = Turn;
    type Ticket = Held;
    type Sent = ();

    fn give_back(&self, held: Held) {
        if let Held::Granted(Some(grant)) = held {
            self.limiter.give_back(grant);
        }
    }

    fn send(&self, held: Held) -> Result<(), Rejection> {
        if let Held::Waited(turn) = held {
            turn.spend();
        }
        Ok(())
    }
}

impl<W: Cost<Req> + Clone, Req> Admit<Req> for Metered<W> {
    fn admit(&self, req: &Req, deadline: Option<Deadline>) -> Admitted<Held, Turn> {
        let cost = self.cost.cost(req);
        match self.limiter.take(cost, deadline) {
            Ok(Taken::Now(grant)) => Admitted::Now(Held::Granted(grant)),
            Ok(Taken::Later(turn)) => Admitted::Later(turn),
            Err(refusal) => Admitted::Rejected(self.limiter.reject(refusal, cost)),
        }
    }

    fn poll_wait(
        &self,
        turn: &mut Turn,
        req: &Req,
        _: Option<Deadline>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Held, Rejection>> {
        Poll::Ready(match ready!(turn.poll(cx)) {
            Ok(()) => Ok(Held::Waited(turn.take())),
            Err(refusal) => Err(self.limiter.reject(refusal, self.cost.cost(req))),
        })
    }
}
