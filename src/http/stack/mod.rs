//! The recommended stack in one call.

mod fallback;
mod keyed;
mod layer;
mod listed;
#[cfg(feature = "metrics")]
mod metered;
mod parts;

pub use fallback::{FallbackStack, FallbackStackBuilder, FallbackStackLayer};
pub use keyed::{KeyedStack, KeyedStackLayer};
pub use layer::{Stack, StackLayer};
pub use parts::KeyedParts;

use super::{ByHeaders, Idempotent, InExtensions, On429, Pauses, StatusClassifier};
use crate::circuit_breaker::{CircuitBreakerBuilder, CircuitBreakerLayer};
use crate::error::{BoxedErrorLayer, ErrorLayer, InvalidConfig};
use crate::event::{Observe, Observers};
use crate::gate::{GateLayer, UntilHead};
use crate::load_shed::{ConcurrencyLimit, LoadShedBuilder, LoadShedLayer, LoadShedSettings};
use crate::name::Name;
use crate::observe::Registry;
use crate::rate_limit::{
    Metered, Quota, RateLimitBuilder, RateLimitLayer, RateLimitSettings, RateLimiter,
};
use crate::retry::{Dropped, RetryBuilder, RetryLayer};
use crate::timeout::TimeoutLayer;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;
use tower::Layer;

/// Starts the recommended stack around an HTTP client: all layers in the right order, with defaults
/// for calls from service to service.
///
/// Use one stack for each upstream (service you call). To order the layers yourself, use
/// `tower::ServiceBuilder`.
///
/// ```
/// use buttress::{Error, Quota, Rejection};
/// # use std::convert::Infallible;
/// # use tower::{ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let client = service_fn(|_: http::Request<()>| async { Ok::<_, Infallible>(http::Response::new(())) });
/// // `client` is any HTTP client: hyper-util's, reqwest's (feature `reqwest`), …
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
/// The parts, from the outside in. [`StackBuilder`] lists all setters.
///
/// | part | default |
/// |---|---|
/// | [deadline](crate::timeout) of the whole call | 30 s |
/// | [retry](crate::retry) | 3 attempts, 50 ms doubling to 5 s with full jitter, a budget, idempotent requests and those that were certainly not processed |
/// | [load shed](crate::load_shed) (concurrency limit) | none |
/// | [rate limit](crate::rate_limit) | none |
/// | [circuit breaker](crate::circuit_breaker) | opens at 50 % failures of at least 20 calls in 10 s, for 500 ms to 1 s |
/// | [timeout](crate::timeout) of each attempt | 5 s |
/// | [`ErrorLayer`](crate::ErrorLayer) | wraps the client's error in [`Error`](crate::Error) |
///
/// **Sharing.** All services that one stack makes, and their clones, share its circuit, budget and
/// limits.
///
/// **An open circuit** rejects a call before it takes a slot (place of the concurrency limit) or a
/// turn (permit of the rate limiter). It also wakes the calls that wait for one.
///
/// **Errors.** The error is [`Error<E>`](crate::Error), where `E` is the client's error.
/// [`Rejection`](crate::Rejection) lists the rejections by the layers.
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
            observers: Observers::default(),
            registry: None,
            metrics: false,
        },
        classify: StatusClassifier::default(),
        replay: Idempotent,
        gate: GateLayer::of(()).carrier(InExtensions),
        discard: Dropped,
        ends: PhantomData,
    }
}

/// Builds a [`StackLayer`] or a [`Stack`]. Made by [`stack`].
///
/// | setter | sets | default |
/// |---|---|---|
/// | [`name`](Self::name) | the name of the upstream, in errors, events and snapshots | none |
/// | [`observer`](Self::observer) | receives the [events](crate::event) of all parts | none |
/// | [`registered`](Self::registered) | lists each stack that is built in a [`Registry`] | none |
/// | [`deadline`](Self::deadline) | time for the whole call, retries and waits included | 30 s |
/// | [`attempt_timeout`](Self::attempt_timeout) | time for each attempt; [`AttemptTimeout`](super::AttemptTimeout) sets it for one request | 5 s |
/// | [`retry`](Self::retry), [`no_retry`](Self::no_retry) | the settings of the [retry](crate::retry#settings), or leaves it out | 3 attempts, … |
/// | [`load_shed`](Self::load_shed) | the most calls in flight (concurrency limit, bulkhead) | no limit |
/// | [`rate_limit`](Self::rate_limit) | the quota of calls per time | no limit |
/// | [`pause_on_429`](Self::pause_on_429) | a 429 pauses the rate limit | off |
/// | [`circuit_breaker`](Self::circuit_breaker), [`no_circuit_breaker`](Self::no_circuit_breaker) | the settings of the [circuit breaker](crate::circuit_breaker), or leaves it out | 50 % of at least 20 calls, … |
/// | [`classify`](Self::classify) | the classifier of retry and circuit breaker | [`StatusClassifier`] |
/// | [`replay`](Self::replay) | which requests may be sent again | [`Idempotent`] |
/// | [`discard`](Self::discard) | what happens to the response of a failed attempt | [`Dropped`] |
/// | [`until`](Self::until) | when a call ends for load shed and circuit breaker | [`UntilHead`]: at the response head |
/// | [`carrier`](Self::carrier) | where requests carry their deadline | [`InExtensions`] |
/// | [`boxed`](Self::boxed) | adapts the stack to clients with boxed errors | off |
/// | [`per_key`](Self::per_key) | a circuit, a budget and limits for each host, tenant or route; comes last | one for all |
///
/// [`build`](Self::build) returns the layer, [`service`](Self::service) the layer around a client.
/// Both check the settings. Printing a builder (`Display`) prints all settings.
///
/// A builder is a template: each `build` makes a new circuit, budget and limits. Handles that you
/// pass in, such as a [`RateLimiter`], are shared instead.
///
/// ```
/// use buttress::Quota;
/// use buttress::http::stack;
/// use std::time::Duration;
///
/// // Each stack built from this template has a circuit and limits of its own.
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
    /// Holds the carrier of deadlines and the end of calls (`until`).
    gate: GateLayer<(), K, U>,
    discard: D,
    ends: PhantomData<fn() -> (W, P)>,
}

/// The settings that do not depend on type parameters.
#[derive(Clone, Debug)]
struct Parts {
    deadline: Duration,
    retry: Option<RetryBuilder>,
    load_shed: Option<Part<LoadShedSettings, ConcurrencyLimit>>,
    rate_limit: Option<Part<RateLimitSettings, RateLimiter>>,
    breaker: Option<CircuitBreakerBuilder>,
    attempt_timeout: Duration,
    name: Name,
    observers: Observers,
    registry: Option<Registry>,
    metrics: bool,
}

/// A load shed or rate limit of a stack: settings to make one from, or a handle to share.
///
/// You rarely name this type. [`load_shed`](StackBuilder::load_shed) and
/// [`rate_limit`](StackBuilder::rate_limit) accept everything that converts into it: a number or a
/// quota, settings, a builder, a handle, or a layer (whose handle is shared).
///
/// ```
/// use buttress::LoadShedLayer;
/// use buttress::http::stack;
///
/// let shed = LoadShedLayer::new(256);
/// // Both stacks share the limit of `shed`.
/// let orders = stack().load_shed(shed.clone()).build()?;
/// let users = stack().load_shed(shed).build()?;
///
/// let _slot = orders.limit().unwrap().try_acquire().unwrap();
/// assert_eq!(users.limit().unwrap().in_flight(), 1);
/// # Ok::<(), buttress::error::InvalidConfig>(())
/// ```
#[derive(Clone, Debug)]
pub enum Part<Settings, Handle> {
    /// Settings: each stack makes a part of its own.
    Own(Settings),
    /// A handle: all stacks share this part.
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
    /// How long the whole call may take, from the call to the response head, retries and waits
    /// included. `Duration::MAX` means no limit. Default: 30 s.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.parts.deadline = deadline;
        self
    }

    /// How long one attempt may take, from sending the request to the response head. The time until
    /// the client is ready counts, too. `Duration::MAX` means no limit. Default: 5 s.
    ///
    /// Sending the request's body counts. For slow uploads raise the timeout, or put an
    /// [`AttemptTimeout`](super::AttemptTimeout) into the extensions of one request.
    pub fn attempt_timeout(mut self, attempt_timeout: Duration) -> Self {
        self.parts.attempt_timeout = attempt_timeout;
        self
    }

    /// Changes the settings of the retry. `change` gets a builder with the defaults, or with your
    /// earlier changes. Default: [all defaults](crate::retry#settings).
    ///
    /// Set `classify`, `replay` and `discard` on the stack: it overrides those of the retry.
    pub fn retry(mut self, change: impl FnOnce(RetryBuilder) -> RetryBuilder) -> Self {
        self.parts.retry = Some(change(self.parts.retry.unwrap_or_else(RetryLayer::builder)));
        self
    }

    /// Removes the retry: every request is sent once.
    pub fn no_retry(mut self) -> Self {
        self.parts.retry = None;
        self
    }

    /// Limits the calls in flight (concurrency limit, bulkhead). Accepts a number, a
    /// [`LoadShedBuilder`], [`LoadShedSettings`], or a [`ConcurrencyLimit`] to share. Default: no
    /// limit.
    pub fn load_shed(mut self, limit: impl Into<Part<LoadShedSettings, ConcurrencyLimit>>) -> Self {
        self.parts.load_shed = Some(limit.into());
        self
    }

    /// Limits the rate of calls. Accepts a [`Quota`], a [`RateLimitBuilder`],
    /// [`RateLimitSettings`], or a [`RateLimiter`] to share. Default: no limit.
    pub fn rate_limit(mut self, limit: impl Into<Part<RateLimitSettings, RateLimiter>>) -> Self {
        self.parts.rate_limit = Some(limit.into());
        self
    }

    /// Pauses the rate limit when the upstream sends a 429 with a `Retry-After`: for that time, at
    /// most 60 s, and whatever the verdict is. It needs a rate limit, and a retry or circuit
    /// breaker.
    ///
    /// Default: off, because a 429 of one endpoint would also stop the calls to all other endpoints
    /// of the host.
    pub fn pause_on_429(self) -> StackBuilder<C, R, K, D, U, W, On429> {
        self.with(|classify, replay, gate, discard| (classify, replay, gate, discard))
    }

    /// As [`pause_on_429`](Self::pause_on_429), and also after any response whose headers say that the quota is used up:
    /// `RateLimit`, `X-RateLimit-Remaining` and others that [`quota_pause`](super::quota_pause) lists. Default: off.
    pub fn pause_by_headers(self) -> StackBuilder<C, R, K, D, U, W, ByHeaders> {
        self.with(|classify, replay, gate, discard| (classify, replay, gate, discard))
    }

    /// Changes the settings of the circuit breaker. `change` gets a builder with the defaults, or
    /// with your earlier changes. Default: [all defaults](crate::circuit_breaker).
    ///
    /// Set `classify` and `until` on the stack: it overrides those of the circuit breaker.
    pub fn circuit_breaker(
        mut self,
        change: impl FnOnce(CircuitBreakerBuilder) -> CircuitBreakerBuilder,
    ) -> Self {
        let breaker = self.parts.breaker;
        self.parts.breaker = Some(change(breaker.unwrap_or_else(CircuitBreakerLayer::builder)));
        self
    }

    /// Removes the circuit breaker.
    pub fn no_circuit_breaker(mut self) -> Self {
        self.parts.breaker = None;
        self
    }

    /// The name of the upstream, in errors, events, snapshots and `Display`. It applies to every part
    /// that has no name of its own. Default: none.
    pub fn name(mut self, name: impl Into<Name>) -> Self {
        self.parts.name = name.into();
        self
    }

    /// Adds an observer of the events of all parts. You can add several. A handle that you pass in, such as a
    /// [`RateLimiter`], gets the observer too. Default: none.
    pub fn observer(mut self, observer: impl Observe + 'static) -> Self {
        // Clones of this builder keep their own list.
        self.parts.observers = self.parts.observers.fork();
        self.parts.observers.add(Arc::new(observer));
        self
    }

    /// Measures calls, attempts and waits, and counts the events of all parts, through the facade `metrics` (feature
    /// `metrics`). Default: off. The [module `metrics`](crate::metrics) lists the metrics.
    #[cfg(feature = "metrics")]
    pub fn metrics(mut self) -> Self {
        self.parts.metrics = true;
        self
    }

    /// Lists each stack that this builder builds in `registry`. Default: none.
    ///
    /// A stack [per key](Self::per_key) is not listed by this: give its layer to [`Registry::add`].
    pub fn registered(mut self, registry: &Registry) -> Self {
        self.parts.registry = Some(registry.clone());
        self
    }

    /// The classifier of retry and circuit breaker, which turns an outcome into a
    /// [`Verdict`](crate::Verdict). Default: [`StatusClassifier`].
    pub fn classify<J>(self, classify: J) -> StackBuilder<J, R, K, D, U, W, P> {
        self.with(|_, replay, gate, discard| (classify, replay, gate, discard))
    }

    /// The policy that decides which requests may be sent again. Default: [`Idempotent`].
    pub fn replay<Q>(self, replay: Q) -> StackBuilder<C, Q, K, D, U, W, P> {
        self.with(|classify, _, gate, discard| (classify, replay, gate, discard))
    }

    /// Where requests carry their [`Deadline`](crate::Deadline). The timeouts set it there, and all
    /// parts keep to it. `()` means nowhere. Default: [`InExtensions`].
    ///
    /// Retry does not use this carrier: its policy finds the deadline. [`Idempotent`] and
    /// [`RepeatIf`](super::RepeatIf) look in the extensions; wrap other policies in
    /// [`Within`](crate::retry::Within).
    pub fn carrier<L>(self, carrier: L) -> StackBuilder<C, R, L, D, U, W, P> {
        self.with(|classify, replay, gate, discard| {
            (classify, replay, gate.carrier(carrier), discard)
        })
    }

    /// What happens to the response of a failed attempt before the retry. Default: [`Dropped`],
    /// which closes an HTTP/1.1 connection whose response was not read. `Drain` (feature
    /// `http-body`) reads the response, so that its connection can be reused.
    pub fn discard<E>(self, discard: E) -> StackBuilder<C, R, K, E, U, W, P> {
        self.with(|classify, replay, gate, _| (classify, replay, gate, discard))
    }

    /// When a call ends for load shed and circuit breaker. Default: [`UntilHead`], when the
    /// response head arrives. `UntilBodyEnd` (feature `http-body`): when the response body ends.
    pub fn until<V>(self, until: V) -> StackBuilder<C, R, K, D, V, W, P> {
        self.with(|classify, replay, gate, discard| (classify, replay, gate.until(until), discard))
    }

    /// Adapts the stack to a client whose error is a box. The error of the stack is then
    /// `Error<BoxedError>`. It implements `std::error::Error`, which
    /// `Error<Box<dyn std::error::Error + Send + Sync>>` does not.
    ///
    /// If the compiler says inside `tokio::spawn` that an implementation "is not general enough",
    /// give the stack a type without the box: `tower::util::BoxCloneSyncService::new(stack)`. The
    /// compiler does not know the lifetime of a box in an `async` block.
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

    /// Builds the layer. All services that it makes share its circuit, budget and limits.
    ///
    /// # Errors
    /// A setting of a part has a value that is not allowed; `pause_on_429` is set without a rate
    /// limit, or with neither retry nor circuit breaker.
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
            observers,
            registry,
            metrics,
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
        // One 429 must pause the limiter only once. So only retry does it, or the circuit breaker if
        // there is no retry.
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
        let measures = metrics.then(|| RetryLayer::builder().only_measures());
        let retry = match retry.or(measures) {
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
        let layer = StackLayer {
            deadline: timeout(deadline).build()?,
            retry,
            attempt: timeout(attempt_timeout).per_request().build()?,
            gate: self.gate.map(|()| ((limit, metered), guarded)),
            wrap: PhantomData,
        };
        observers.iter().for_each(|observer| layer.add(observer));
        #[cfg(feature = "metrics")]
        if metrics {
            layer.switch_on_metrics();
        }
        if let Some(registry) = registry {
            registry.add(&layer);
        }
        Ok(layer)
    }

    /// Builds the stack around `client`.
    ///
    /// # Errors
    /// The errors of [`build`](Self::build).
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

/// Prints all settings, one line for each part, or the error of [`build`](StackBuilder::build).
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
