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

/// What a call costs, in units of the quota.
///
/// `()` is the cost of 1 for every call; functions and closures are costs too:
///
/// ```
/// use buttress::{Quota, RateLimitLayer};
///
/// fn batch(items: &Vec<u64>) -> u32 { u32::try_from(items.len()).unwrap_or(u32::MAX) }
///
/// let layer = RateLimitLayer::builder(Quota::per_second(100)).cost(batch).build()?;
/// # Ok::<(), buttress::error::InvalidConfig>(())
/// ```
pub trait Cost<Req> {
    /// The cost of one call. 0 is free.
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

/// Makes [`RateLimit`] services that share one limiter. See the [module](super) for what it does.
pub type RateLimitLayer<W = (), K = (), O = ()> = GateLayer<(Metered<W>, O), K>;

/// The service that [`RateLimitLayer`] makes.
pub type RateLimit<S, W = (), K = (), O = ()> = Gate<S, (Metered<W>, O), K>;

/// The future of a [`RateLimit`] call.
pub type RateLimitFuture<S, Req, W = (), O = ()> = GateFuture<S, (Metered<W>, O), Req, UntilHead>;

impl RateLimitLayer {
    /// Every call costs 1 and waits up to 1 s for its turn.
    #[must_use]
    pub fn new(quota: Quota) -> Self {
        RateLimiter::new(quota).into()
    }

    /// As [`new`](Self::new), with more to set.
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
}

/// As [`RateLimitLayer::new`].
impl From<Quota> for RateLimitLayer {
    fn from(quota: Quota) -> Self {
        Self::new(quota)
    }
}

/// A layer on a limiter that exists, to share it. Every call costs 1.
impl From<RateLimiter> for RateLimitLayer {
    fn from(limiter: RateLimiter) -> Self {
        Self::of((Metered::new(limiter, ()), ()))
    }
}

/// Prints the settings, for people.
impl<W, K, O> fmt::Display for RateLimitLayer<W, K, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.limiter(), f)
    }
}

/// Builds a [`RateLimitLayer`].
#[derive(Clone)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct RateLimitBuilder<W = (), K = (), O = ()> {
    pub(crate) settings: RateLimitSettings,
    gate: GateLayer<(W, O), K>,
}

impl<W, K, O> RateLimitBuilder<W, K, O> {
    /// How long a call may wait for its turn, from the call. A call whose turn comes later is
    /// rejected at once. Default: 1 s. Zero never waits.
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

    /// What calls cost, in units of the quota. Default: `()`, 1 each.
    pub fn cost<V>(self, cost: V) -> RateLimitBuilder<V, K, O> {
        self.with(|gate| gate.map(|(_, open)| (cost, open)))
    }

    /// Where requests carry their deadline. A call whose turn does not come before it is rejected at
    /// once. Default: `()`, nowhere.
    pub fn carrier<L>(self, carrier: L) -> RateLimitBuilder<W, L, O> {
        self.with(|gate| gate.carrier(carrier))
    }

    /// Rejects calls with [`CircuitOpen`](Rejection::CircuitOpen) while this circuit is open, before
    /// they take a turn, and wakes those who wait when it opens. For the circuit of a breaker below.
    /// Default: none.
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

    /// The layer, with a limiter of its own.
    ///
    /// # Errors
    /// None today: every quota and every duration is valid.
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

/// The turn of a call that is not sent yet.
#[derive(Debug)]
pub enum Held {
    /// Granted at once.
    Granted(Option<Grant>),
    /// Waited for.
    Waited(Turn),
}

/// A rate limiter and what calls cost: the admission of a [`RateLimit`].
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
