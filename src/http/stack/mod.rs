//! The recommended stack in one call.

mod layer;

pub use layer::{Stack, StackLayer};

use super::{Idempotent, InExtensions, On429, Pauses, StatusClassifier};
use crate::circuit_breaker::{CircuitBreakerBuilder, CircuitBreakerLayer};
use crate::error::{BoxedErrorLayer, ErrorLayer, InvalidConfig};
use crate::gate::{GateLayer, UntilHead};
use crate::load_shed::{ConcurrencyLimit, LoadShedBuilder, LoadShedLayer, LoadShedSettings};
use crate::name::Name;
use crate::rate_limit::{
    Metered, Quota, RateLimitBuilder, RateLimitLayer, RateLimitSettings, RateLimiter,
};
use crate::retry::{Dropped, RetryBuilder, RetryLayer};
use crate::timeout::TimeoutLayer;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;
use tower::Layer;

/// The recommended stack around an HTTP client, with the defaults of an expert.
///
/// ```
/// use buttress::{Error, Quota, Rejection};
/// # use std::convert::Infallible;
/// # use tower::{ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let client = service_fn(|_: http::Request<()>| async { Ok::<_, Infallible>(http::Response::new(())) });
/// // Any HTTP client: hyper-util's, reqwest's (feature `reqwest`), …
/// let client = buttress::http::stack().rate_limit(Quota::per_second(200)).service(client)?;
///
/// match client.oneshot(http::Request::get("http://orders.internal/7").body(())?).await {
///     Ok(response) => assert_eq!(response.status(), 200),
///     Err(Error::Rejected(Rejection::CircuitOpen { retry_after, .. })) => println!("{retry_after:?}"),
///     Err(error) => return Err(error.into()),
/// }
/// # Ok(())
/// # }
/// ```
///
/// From the outside in:
///
/// | part | default | setters |
/// |---|---|---|
/// | deadline of the whole call | 30 s | [`deadline`](StackBuilder::deadline) |
/// | retry | 3 attempts, 50 ms doubling to 5 s with full jitter, a budget, idempotent requests only | [`retry`](StackBuilder::retry), [`no_retry`](StackBuilder::no_retry), [`replay`](StackBuilder::replay), [`discard`](StackBuilder::discard) |
/// | load shed | none | [`load_shed`](StackBuilder::load_shed) |
/// | rate limit | none | [`rate_limit`](StackBuilder::rate_limit), [`pause_on_429`](StackBuilder::pause_on_429) |
/// | circuit breaker | 50 % of at least 20 calls in 10 s, open for 500 ms to 1 s | [`circuit_breaker`](StackBuilder::circuit_breaker), [`no_circuit_breaker`](StackBuilder::no_circuit_breaker) |
/// | timeout of each attempt, sending the request's body included | 5 s | [`attempt_timeout`](StackBuilder::attempt_timeout); for one request [`AttemptTimeout`](super::AttemptTimeout) |
/// | wraps the client's error in [`Error`](crate::Error) | always | [`boxed`](StackBuilder::boxed) |
///
/// Load shed, rate limit and circuit breaker are one [`Gate`](crate::gate::Gate): an open circuit rejects a call before it
/// takes a slot or a turn, and wakes the calls that wait for one.
///
/// Verdicts are those of [`StatusClassifier`] unless [`classify`](StackBuilder::classify) sets others.
/// One stack is for one upstream: its circuit and limits are shared by all services that it makes, and
/// their clones. A builder is a template: each [`build`](StackBuilder::build) makes a circuit, a budget
/// and limits of its own, but for handles that it was given.
#[must_use = "a builder does nothing until `build` or `service` is called"]
pub fn stack() -> StackBuilder {
    StackBuilder {
        parts: Parts {
            deadline: Duration::from_secs(30),
            retry: Some(RetryLayer::builder()),
            load_shed: None,
            rate_limit: None,
            breaker: Some(CircuitBreakerLayer::builder()),
            attempt_timeout: Duration::from_secs(5),
            name: Name::UNNAMED,
        },
        classify: StatusClassifier::default(),
        replay: Idempotent,
        gate: GateLayer::of(()).carrier(InExtensions),
        discard: Dropped,
        ends: PhantomData,
    }
}

/// Builds a [`StackLayer`]. See [`stack`] for the parts and their defaults.
///
/// ```
/// use buttress::Quota;
/// use buttress::http::stack;
/// use std::time::Duration;
///
/// // A template: each service that it builds has a circuit and limits of its own.
/// let template = stack()
///     .deadline(Duration::from_secs(10))
///     .attempt_timeout(Duration::from_secs(2))
///     .retry(|retry| retry.attempts(2))
///     .circuit_breaker(|breaker| breaker.failure_rate(0.2))
///     .rate_limit(Quota::per_second(100));
/// let orders = template.clone().name("orders").build()?;
/// let users = template.name("users").build()?;
///
/// orders.circuit().unwrap().force_open();
/// assert_ne!(orders.circuit().unwrap().state(), users.circuit().unwrap().state());
/// # Ok::<(), buttress::error::InvalidConfig>(())
/// ```
#[must_use = "a builder does nothing until `build` or `service` is called"]
pub struct StackBuilder<
    C = StatusClassifier,
    R = Idempotent,
    K = InExtensions,
    D = Dropped,
    U = UntilHead,
    W = ErrorLayer,
    P = (),
> {
    parts: Parts,
    classify: C,
    replay: R,
    /// Where deadlines are carried, and when a call is over.
    gate: GateLayer<(), K, U>,
    discard: D,
    ends: PhantomData<fn() -> (W, P)>,
}

/// What does not depend on types.
#[derive(Clone, Debug)]
struct Parts {
    deadline: Duration,
    retry: Option<RetryBuilder>,
    load_shed: Option<Part<LoadShedSettings, ConcurrencyLimit>>,
    rate_limit: Option<Part<RateLimitSettings, RateLimiter>>,
    breaker: Option<CircuitBreakerBuilder>,
    attempt_timeout: Duration,
    name: Name,
}

/// A part of a stack that has state: settings to make it of, or a handle to share.
///
/// Made `From` a number or a quota, settings, a builder, a handle, or a layer (whose handle is shared).
#[derive(Clone, Debug)]
pub enum Part<Settings, Handle> {
    /// Each stack that is built makes its own.
    Own(Settings),
    /// All stacks share this one.
    Shared(Handle),
}

impl From<usize> for Part<LoadShedSettings, ConcurrencyLimit> {
    fn from(max_in_flight: usize) -> Self {
        Self::Own(LoadShedSettings::new(max_in_flight))
    }
}

impl From<LoadShedSettings> for Part<LoadShedSettings, ConcurrencyLimit> {
    fn from(settings: LoadShedSettings) -> Self {
        Self::Own(settings)
    }
}

impl From<LoadShedBuilder> for Part<LoadShedSettings, ConcurrencyLimit> {
    fn from(builder: LoadShedBuilder) -> Self {
        Self::Own(builder.settings)
    }
}

impl From<ConcurrencyLimit> for Part<LoadShedSettings, ConcurrencyLimit> {
    fn from(limit: ConcurrencyLimit) -> Self {
        Self::Shared(limit)
    }
}

impl From<LoadShedLayer> for Part<LoadShedSettings, ConcurrencyLimit> {
    fn from(layer: LoadShedLayer) -> Self {
        Self::Shared(layer.limit().clone())
    }
}

impl From<Quota> for Part<RateLimitSettings, RateLimiter> {
    fn from(quota: Quota) -> Self {
        Self::Own(RateLimitSettings::new(quota))
    }
}

impl From<RateLimitSettings> for Part<RateLimitSettings, RateLimiter> {
    fn from(settings: RateLimitSettings) -> Self {
        Self::Own(settings)
    }
}

impl From<RateLimitBuilder> for Part<RateLimitSettings, RateLimiter> {
    fn from(builder: RateLimitBuilder) -> Self {
        Self::Own(builder.settings)
    }
}

impl From<RateLimiter> for Part<RateLimitSettings, RateLimiter> {
    fn from(limiter: RateLimiter) -> Self {
        Self::Shared(limiter)
    }
}

impl From<RateLimitLayer> for Part<RateLimitSettings, RateLimiter> {
    fn from(layer: RateLimitLayer) -> Self {
        Self::Shared(layer.limiter().clone())
    }
}

impl<C, R, K, D, U, W, P> StackBuilder<C, R, K, D, U, W, P> {
    /// How long a call may take in all, retries and waits included. Default: 30 s.
    /// `Duration::MAX` for ever.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.parts.deadline = deadline;
        self
    }

    /// How long one attempt may take, from sending the request to the response head. Default: 5 s.
    /// `Duration::MAX` for ever.
    ///
    /// Sending the request's body counts. Raise it for slow uploads; for one request put an
    /// [`AttemptTimeout`](super::AttemptTimeout) into its extensions.
    pub fn attempt_timeout(mut self, attempt_timeout: Duration) -> Self {
        self.parts.attempt_timeout = attempt_timeout;
        self
    }

    /// Changes the retry, starting from its defaults or from an earlier change. The stack's own
    /// `classify`, `replay` and `discard` replace what is set here.
    pub fn retry(mut self, change: impl FnOnce(RetryBuilder) -> RetryBuilder) -> Self {
        self.parts.retry = Some(change(self.parts.retry.unwrap_or_else(RetryLayer::builder)));
        self
    }

    /// Leaves the retry out: every request is sent once.
    pub fn no_retry(mut self) -> Self {
        self.parts.retry = None;
        self
    }

    /// Limits the calls in flight. Takes a number, a [`LoadShedBuilder`] or [`LoadShedSettings`], or a
    /// [`ConcurrencyLimit`] to share. Default: no limit.
    pub fn load_shed(mut self, limit: impl Into<Part<LoadShedSettings, ConcurrencyLimit>>) -> Self {
        self.parts.load_shed = Some(limit.into());
        self
    }

    /// Keeps calls within a quota. Takes a [`Quota`], a [`RateLimitBuilder`] or [`RateLimitSettings`],
    /// or a [`RateLimiter`] to share. Default: no limit.
    pub fn rate_limit(mut self, limit: impl Into<Part<RateLimitSettings, RateLimiter>>) -> Self {
        self.parts.rate_limit = Some(limit.into());
        self
    }

    /// Pauses the rate limit when the upstream answers 429 with a `Retry-After`, for up to 60 s,
    /// whatever the verdict on a 429 is. Default: off, because a 429 of one endpoint then stops the
    /// calls to all others of the host. It needs a rate limit, and retry or circuit breaker to see the
    /// responses.
    pub fn pause_on_429(self) -> StackBuilder<C, R, K, D, U, W, On429> {
        self.with(|classify, replay, gate, discard| (classify, replay, gate, discard))
    }

    /// Changes the circuit breaker, starting from its defaults or from an earlier change. The stack's
    /// own `classify` and `until` replace what is set here.
    pub fn circuit_breaker(
        mut self,
        change: impl FnOnce(CircuitBreakerBuilder) -> CircuitBreakerBuilder,
    ) -> Self {
        let breaker = self.parts.breaker;
        self.parts.breaker = Some(change(breaker.unwrap_or_else(CircuitBreakerLayer::builder)));
        self
    }

    /// Leaves the circuit breaker out.
    pub fn no_circuit_breaker(mut self) -> Self {
        self.parts.breaker = None;
        self
    }

    /// The name of the upstream, in errors, events, snapshots and where a stack is printed. Every part
    /// has it, but for parts that were given a name of their own. Default: none.
    pub fn name(mut self, name: impl Into<Name>) -> Self {
        self.parts.name = name.into();
        self
    }

    /// What an outcome says about the upstream, for retry and circuit breaker. Default:
    /// [`StatusClassifier`].
    pub fn classify<J>(self, classify: J) -> StackBuilder<J, R, K, D, U, W, P> {
        self.with(|_, replay, gate, discard| (classify, replay, gate, discard))
    }

    /// Which requests may be sent again. Default: [`Idempotent`].
    pub fn replay<Q>(self, replay: Q) -> StackBuilder<C, Q, K, D, U, W, P> {
        self.with(|classify, _, gate, discard| (classify, replay, gate, discard))
    }

    /// Where requests carry their [`Deadline`](crate::Deadline): timeouts put it there, and all parts
    /// keep to it. Default: [`InExtensions`]; `()` for nowhere. Retry finds it by its own
    /// [`Replay`](crate::Replay): [`Idempotent`] does, others do in
    /// [`Within`](crate::retry::Within).
    pub fn carrier<L>(self, carrier: L) -> StackBuilder<C, R, L, D, U, W, P> {
        self.with(|classify, replay, gate, discard| {
            (classify, replay, gate.carrier(carrier), discard)
        })
    }

    /// What becomes of a response that is thrown away for a retry. Default: [`Dropped`], which closes
    /// an HTTP/1.1 connection whose response was not read. The feature `http-body` brings `Drain`,
    /// which keeps the connection.
    pub fn discard<E>(self, discard: E) -> StackBuilder<C, R, K, E, U, W, P> {
        self.with(|classify, replay, gate, _| (classify, replay, gate, discard))
    }

    /// When a call is over for load shed and circuit breaker. Default: [`UntilHead`], with the
    /// response head. The feature `http-body` brings `UntilBodyEnd`.
    pub fn until<V>(self, until: V) -> StackBuilder<C, R, K, D, V, W, P> {
        self.with(|classify, replay, gate, discard| (classify, replay, gate.until(until), discard))
    }

    /// For a client whose error is a box: the error of the stack is `Error<BoxedError>`, which
    /// implements `std::error::Error`. (`Error<Box<dyn std::error::Error + Send + Sync>>` does not.)
    pub fn boxed(self) -> StackBuilder<C, R, K, D, U, BoxedErrorLayer, P> {
        self.with(|classify, replay, gate, discard| (classify, replay, gate, discard))
    }

    fn with<J, Q, L, E, V, X, O>(
        self,
        change: impl FnOnce(C, R, GateLayer<(), K, U>, D) -> (J, Q, GateLayer<(), L, V>, E),
    ) -> StackBuilder<J, Q, L, E, V, X, O> {
        let (classify, replay, gate, discard) =
            change(self.classify, self.replay, self.gate, self.discard);
        StackBuilder {
            parts: self.parts,
            classify,
            replay,
            gate,
            discard,
            ends: PhantomData,
        }
    }

    /// The layer. Its circuit, budget and limits are shared by all services that it makes.
    ///
    /// # Errors
    /// What the settings of the parts do not allow; `pause_on_429` without a rate limit, or with
    /// neither retry nor circuit breaker.
    #[expect(clippy::type_complexity, reason = "one type for each policy")]
    pub fn build(self) -> Result<StackLayer<C, R, K, D, U, W, P>, InvalidConfig>
    where
        C: Clone,
        K: Clone,
        P: Pauses,
    {
        let Parts {
            deadline,
            retry,
            load_shed,
            rate_limit,
            breaker,
            attempt_timeout,
            name,
        } = self.parts;
        let limit = match load_shed {
            None => None,
            Some(Part::Shared(limit)) => Some(limit),
            Some(Part::Own(mut settings)) => {
                settings.name = settings.name.or(name);
                Some(ConcurrencyLimit::with(settings)?)
            }
        };
        let limiter = match rate_limit {
            None => None,
            Some(Part::Shared(limiter)) => Some(limiter),
            Some(Part::Own(mut settings)) => {
                settings.name = settings.name.or(name);
                Some(RateLimiter::with(settings)?)
            }
        };
        if P::PAUSES && (limiter.is_none() || (retry.is_none() && breaker.is_none())) {
            let allowed = "set only with a rate limit and one of retry and circuit breaker";
            return Err(InvalidConfig::new("pause_on_429", true, allowed));
        }
        // A 429 pauses the limiter once: retry sees it, or else the circuit breaker.
        let paused = limiter.as_ref().filter(|_| P::PAUSES);
        let by_retry = paused.filter(|_| retry.is_some());
        let by_breaker = paused.filter(|_| retry.is_none());
        let guarded = match breaker {
            None => None,
            Some(breaker) => {
                let classify = P::classify(self.classify.clone(), by_breaker);
                let breaker = breaker.named_if_unnamed(name).classify(classify).build()?;
                Some(breaker.admission)
            }
        };
        let retry = match retry {
            None => None,
            Some(retry) => {
                let retry = retry.named_if_unnamed(name);
                let classify = P::classify(self.classify, by_retry);
                let retry = retry.classify(classify).replay(self.replay);
                Some(retry.discard(self.discard).build()?)
            }
        };
        let carrier = &self.gate.carrier;
        let timeout = |after| {
            TimeoutLayer::builder(after)
                .name(name)
                .carrier(carrier.clone())
        };
        let metered = limiter.map(|limiter| Metered::new(limiter, ()));
        Ok(StackLayer {
            deadline: timeout(deadline).build()?,
            retry,
            attempt: timeout(attempt_timeout).per_request().build()?,
            gate: self.gate.map(|()| ((limit, metered), guarded)),
            wrap: PhantomData,
        })
    }

    /// The stack around `client`.
    ///
    /// # Errors
    /// As [`build`](Self::build).
    #[expect(clippy::type_complexity, reason = "one type for each policy")]
    pub fn service<S>(self, client: S) -> Result<Stack<S, C, R, K, D, U, W, P>, InvalidConfig>
    where
        S: Clone,
        C: Clone,
        R: Clone,
        K: Clone,
        D: Clone,
        P: Pauses<Classify<C>: Clone>,
    {
        Ok(self.build()?.layer(client))
    }
}

impl<C: Clone, R: Clone, K: Clone, D: Clone, U, W, P> Clone for StackBuilder<C, R, K, D, U, W, P> {
    fn clone(&self) -> Self {
        Self {
            parts: self.parts.clone(),
            classify: self.classify.clone(),
            replay: self.replay.clone(),
            gate: self.gate.clone(),
            discard: self.discard.clone(),
            ends: PhantomData,
        }
    }
}

impl<C, R, K, D, U, W, P> fmt::Debug for StackBuilder<C, R, K, D, U, W, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StackBuilder")
            .field("parts", &self.parts)
            .finish_non_exhaustive()
    }
}

/// Prints the layer that [`build`](StackBuilder::build) makes, or why it makes none.
impl<C: Clone, R: Clone, K: Clone, D: Clone, U, W, P: Pauses> fmt::Display
    for StackBuilder<C, R, K, D, U, W, P>
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.clone().build() {
            Ok(layer) => layer.fmt(f),
            Err(error) => error.fmt(f),
        }
    }
}
