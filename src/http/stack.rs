//! The recommended stack in one call.

use super::maybe::{Maybe, maybe};
use super::{Idempotent, InExtensions, StatusClassifier};
use crate::circuit_breaker::{Circuit, CircuitBreaker, CircuitBreakerBuilder, CircuitBreakerLayer};
use crate::error::{ErrorLayer, InvalidConfig, LiftError};
use crate::load_shed::{InFlightLimit, LoadShed, LoadShedLayer};
use crate::rate_limit::{PauseOnThrottle, RateLimit, RateLimitLayer, RateLimiter};
use crate::retry::{Budget, Dropped, Retry, RetryBuilder, RetryLayer};
use crate::timeout::{Timeout, TimeoutLayer};
use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tower::{Layer, Service};

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
///     Err(Error::Rejected(Rejection::CircuitOpen { retry_after })) => println!("{retry_after:?}"),
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
/// | retry | 3 attempts, 50 ms doubling to 5 s with full jitter, a budget, idempotent requests only | [`retry`](StackBuilder::retry), [`no_retry`](StackBuilder::no_retry), [`replay`](StackBuilder::replay) |
/// | load shed | none | [`load_shed`](StackBuilder::load_shed) |
/// | rate limit | none; with one, a 429 that retry or circuit breaker sees pauses it for up to a minute | [`rate_limit`](StackBuilder::rate_limit) |
/// | circuit breaker | 50 % of at least 20 calls in 10 s, open for 5 s to 60 s | [`circuit_breaker`](StackBuilder::circuit_breaker), [`no_circuit_breaker`](StackBuilder::no_circuit_breaker) |
/// | timeout of each attempt | 5 s | [`attempt`](StackBuilder::attempt) |
/// | the client's error, lifted into [`Error`](crate::Error) | always | |
///
/// Verdicts are those of [`StatusClassifier`] unless [`classify`](StackBuilder::classify) sets
/// others. One stack is for one callee: its circuit and limits are shared by all services that it
/// makes, and their clones; a limit is made when it is set, so clones of a builder share it, too. For
/// what is not set here, put the layers together yourself.
#[must_use = "a builder does nothing until `build` or `service` is called"]
pub fn stack() -> StackBuilder {
    StackBuilder {
        parts: Parts {
            deadline: Duration::from_secs(30),
            retry: Some(RetryLayer::builder()),
            load_shed: None,
            rate_limit: None,
            breaker: Some(CircuitBreakerLayer::builder()),
            attempt: Duration::from_secs(5),
            name: None,
        },
        classify: StatusClassifier::default(),
        replay: Idempotent,
        carrier: InExtensions,
        discard: Dropped,
    }
}

/// Builds a [`StackLayer`]. See [`stack`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build` or `service` is called"]
pub struct StackBuilder<C = StatusClassifier, R = Idempotent, D = InExtensions, X = Dropped> {
    parts: Parts,
    classify: C,
    replay: R,
    carrier: D,
    discard: X,
}

#[derive(Clone, Debug)]
struct Parts {
    deadline: Duration,
    retry: Option<RetryBuilder>,
    load_shed: Option<LoadShedLayer>,
    rate_limit: Option<RateLimitLayer>,
    breaker: Option<CircuitBreakerBuilder>,
    attempt: Duration,
    name: Option<Arc<str>>,
}

impl<C, R, D, X> StackBuilder<C, R, D, X> {
    /// How long a call may take in all, retries and waits included. Default: 30 s.
    /// `Duration::MAX` for ever.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.parts.deadline = deadline;
        self
    }

    /// How long one attempt may take. Default: 5 s. `Duration::MAX` for ever.
    pub fn attempt(mut self, attempt: Duration) -> Self {
        self.parts.attempt = attempt;
        self
    }

    /// Changes the retry, from its defaults or what it was changed to before. What it says of
    /// `classify` and `replay` is overruled by the stack's own.
    pub fn retry(mut self, change: impl FnOnce(RetryBuilder) -> RetryBuilder) -> Self {
        self.parts.retry = Some(change(self.parts.retry.unwrap_or_else(RetryLayer::builder)));
        self
    }

    /// Leaves the retry out: every request is sent once.
    pub fn no_retry(mut self) -> Self {
        self.parts.retry = None;
        self
    }

    /// Lets calls through up to a limit in flight: a number, or a layer with more set. Default:
    /// none.
    pub fn load_shed(mut self, limit: impl Into<LoadShedLayer>) -> Self {
        self.parts.load_shed = Some(limit.into());
        self
    }

    /// Keeps calls within a quota, or a layer with more set. Default: none.
    pub fn rate_limit(mut self, limit: impl Into<RateLimitLayer>) -> Self {
        self.parts.rate_limit = Some(limit.into());
        self
    }

    /// Changes the circuit breaker, from its defaults or what it was changed to before. What it
    /// says of `classify` is overruled by the stack's own.
    pub fn circuit_breaker(
        mut self,
        change: impl FnOnce(CircuitBreakerBuilder) -> CircuitBreakerBuilder,
    ) -> Self {
        let breaker = self
            .parts
            .breaker
            .unwrap_or_else(CircuitBreakerLayer::builder);
        self.parts.breaker = Some(change(breaker));
        self
    }

    /// Leaves the circuit breaker out.
    pub fn no_circuit_breaker(mut self) -> Self {
        self.parts.breaker = None;
        self
    }

    /// What an outcome says about the callee, for retry and circuit breaker. Default:
    /// [`StatusClassifier`].
    pub fn classify<J>(self, classify: J) -> StackBuilder<J, R, D, X> {
        StackBuilder {
            parts: self.parts,
            classify,
            replay: self.replay,
            carrier: self.carrier,
            discard: self.discard,
        }
    }

    /// Which requests may be sent again. Default: [`Idempotent`].
    pub fn replay<Q>(self, replay: Q) -> StackBuilder<C, Q, D, X> {
        StackBuilder {
            parts: self.parts,
            classify: self.classify,
            replay,
            carrier: self.carrier,
            discard: self.discard,
        }
    }

    /// Where requests carry their [`Deadline`](crate::Deadline), which timeouts leave there and all
    /// parts heed. Default: [`InExtensions`]; `()` for nowhere. Retry finds it by its own
    /// [`Replay`](crate::Replay): [`Idempotent`] does, others do in
    /// [`Within`](crate::retry::Within).
    pub fn carrier<L>(self, carrier: L) -> StackBuilder<C, R, L, X> {
        StackBuilder {
            parts: self.parts,
            classify: self.classify,
            replay: self.replay,
            carrier,
            discard: self.discard,
        }
    }

    /// What becomes of a response that is thrown away for a retry. Default: [`Dropped`], which
    /// closes an HTTP/1.1 connection whose response was not read; the feature `http-body` brings
    /// `Drain`, which keeps it.
    pub fn discard<Y>(self, discard: Y) -> StackBuilder<C, R, D, Y> {
        StackBuilder {
            parts: self.parts,
            classify: self.classify,
            replay: self.replay,
            carrier: self.carrier,
            discard,
        }
    }

    /// The callee's name, in the events of timeouts, retry and circuit breaker, and where a stack
    /// is printed. Limits are named where they are made. Default: none.
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.parts.name = Some(name.into());
        self
    }

    /// The layer. Its circuit and limits are shared by all that it makes.
    ///
    /// # Errors
    /// As the builders of retry and circuit breaker.
    pub fn build(self) -> Result<StackLayer<C, R, D, X>, InvalidConfig>
    where
        C: Clone,
        D: Clone,
    {
        let parts = self.parts;
        let name = parts.name;
        let timeout = |after| match name.clone() {
            Some(name) => TimeoutLayer::builder(after).name(name).build(),
            None => Ok(TimeoutLayer::new(after)),
        };
        // A 429 pauses the limiter once: by the one that sees it, the cheaper one where both do.
        let limiter = parts.rate_limit.as_ref().map(RateLimitLayer::limiter);
        let by_retry = limiter.filter(|_| parts.retry.is_some());
        let by_breaker = limiter.filter(|_| parts.retry.is_none());
        let (classify, replay) = (self.classify, self.replay);
        let (carrier, discard) = (self.carrier, self.discard);
        let breaker = parts.breaker.map(|breaker| {
            let breaker = match name.clone() {
                Some(name) => breaker.name(name),
                None => breaker,
            };
            let classify = PauseOnThrottle::if_any(classify.clone(), by_breaker);
            breaker.classify(classify).build()
        });
        let retry = parts.retry.map(|retry| {
            let retry = match name.clone() {
                Some(name) => retry.name(name),
                None => retry,
            };
            let classify = PauseOnThrottle::if_any(classify.clone(), by_retry);
            let retry = retry.classify(classify).replay(replay);
            retry.discard(discard).build()
        });
        Ok(StackLayer {
            deadline: timeout(parts.deadline)?.carried_by(carrier.clone()),
            retry: retry.transpose()?,
            load_shed: parts.load_shed.map(|shed| shed.carried_by(carrier.clone())),
            rate_limit: parts
                .rate_limit
                .map(|limit| limit.carried_by(carrier.clone())),
            breaker: breaker.transpose()?,
            attempt: timeout(parts.attempt)?.carried_by(carrier),
        })
    }

    /// The stack around `client`.
    ///
    /// # Errors
    /// As [`build`](Self::build).
    pub fn service<S>(self, client: S) -> Result<Stack<S, C, R, D, X>, InvalidConfig>
    where
        S: Clone,
        C: Clone,
        R: Clone,
        D: Clone,
        X: Clone,
    {
        Ok(self.build()?.layer(client))
    }
}

/// As the layer that [`build`](StackBuilder::build) makes, or why it makes none.
impl<C: Clone, R: Clone, D: Clone, X: Clone> fmt::Display for StackBuilder<C, R, D, X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.clone().build() {
            Ok(layer) => layer.fmt(f),
            Err(error) => error.fmt(f),
        }
    }
}

/// Makes [`Stack`] services that share one circuit and its limits. See [`stack`].
///
/// Printed, it is one line for each part, outermost first, with all settings.
#[derive(Clone, Debug)]
pub struct StackLayer<C = StatusClassifier, R = Idempotent, D = InExtensions, X = Dropped> {
    deadline: TimeoutLayer<D>,
    retry: Option<RetryLayer<PauseOnThrottle<C>, R, X>>,
    load_shed: Option<LoadShedLayer<D>>,
    rate_limit: Option<RateLimitLayer<(), D>>,
    breaker: Option<CircuitBreakerLayer<PauseOnThrottle<C>>>,
    attempt: TimeoutLayer<D>,
}

impl<C, R, D, X> StackLayer<C, R, D, X> {
    /// The budget of its retries, if there is one.
    #[must_use]
    pub fn budget(&self) -> Option<&Budget> {
        self.retry.as_ref().and_then(RetryLayer::budget)
    }

    /// The limit on calls in flight, if there is one.
    #[must_use]
    pub fn limit(&self) -> Option<&InFlightLimit> {
        self.load_shed.as_ref().map(LoadShedLayer::limit)
    }

    /// The rate limiter, if there is one.
    #[must_use]
    pub fn limiter(&self) -> Option<&RateLimiter> {
        self.rate_limit.as_ref().map(RateLimitLayer::limiter)
    }

    /// The circuit, if there is one.
    #[must_use]
    pub fn circuit(&self) -> Option<&Circuit> {
        self.breaker.as_ref().map(CircuitBreakerLayer::circuit)
    }
}

impl<C, R, D, X> fmt::Display for StackLayer<C, R, D, X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.deadline)?;
        line(f, "retry", self.retry.as_ref())?;
        line(f, "load shed", self.load_shed.as_ref())?;
        let judged = self.retry.is_some() || self.breaker.is_some();
        match &self.rate_limit {
            Some(limit) if judged => writeln!(f, "{limit}, paused by a 429 for up to 60s")?,
            limit => line(f, "rate limit", limit.as_ref())?,
        }
        line(f, "circuit breaker", self.breaker.as_ref())?;
        write!(f, "{}", self.attempt)
    }
}

fn line(f: &mut fmt::Formatter<'_>, part: &str, layer: Option<&impl fmt::Display>) -> fmt::Result {
    match layer {
        Some(layer) => writeln!(f, "{layer}"),
        None => writeln!(f, "{part}: none"),
    }
}

impl<S, C, R, D, X> Layer<S> for StackLayer<C, R, D, X>
where
    S: Clone,
    C: Clone,
    R: Clone,
    D: Clone,
    X: Clone,
{
    type Service = Stack<S, C, R, D, X>;

    fn layer(&self, client: S) -> Self::Service {
        let attempt = self.attempt.layer(ErrorLayer.layer(client));
        let guarded = maybe(self.breaker.as_ref(), attempt);
        let limited = maybe(self.rate_limit.as_ref(), guarded);
        let shed = maybe(self.load_shed.as_ref(), limited);
        let retried = maybe(self.retry.as_ref(), shed);
        Stack {
            inner: self.deadline.layer(retried),
        }
    }
}

type Attempt<S, D> = Timeout<LiftError<S>, D>;
type Guarded<S, C, D> = Maybe<CircuitBreaker<Attempt<S, D>, PauseOnThrottle<C>>, Attempt<S, D>>;
type Limited<S, C, D> = Maybe<RateLimit<Guarded<S, C, D>, (), D>, Guarded<S, C, D>>;
type Shed<S, C, D> = Maybe<LoadShed<Limited<S, C, D>, D>, Limited<S, C, D>>;
type Retried<S, C, R, D, X> = Maybe<Retry<Shed<S, C, D>, PauseOnThrottle<C>, R, X>, Shed<S, C, D>>;
type Whole<S, C, R, D, X> = Timeout<Retried<S, C, R, D, X>, D>;

/// The service that [`StackLayer`] makes, around a client `S`.
///
/// `Clone`, `Send` and `Sync` where the client is. Its error is [`Error<S::Error>`](crate::Error).
pub struct Stack<S, C = StatusClassifier, R = Idempotent, D = InExtensions, X = Dropped> {
    inner: Whole<S, C, R, D, X>,
}

impl<S: Clone, C: Clone, R: Clone, D: Clone, X: Clone> Clone for Stack<S, C, R, D, X> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
        }
    }
}

// tower's `ServiceExt` has these two. Here they are methods of the stack, so that the compiler says
// which bound a client does not meet, with the notes of that bound; of a trait's method it says only
// that the bounds of `Service` do not hold.
impl<S, C, R, D, X> Stack<S, C, R, D, X> {
    /// Waits until the stack can be called.
    ///
    /// # Errors
    /// The client's, of its readiness.
    pub async fn ready<Req>(&mut self) -> Result<&mut Self, <Self as Service<Req>>::Error>
    where
        Self: Service<Req>,
    {
        poll_fn(|cx| Service::poll_ready(self, cx)).await?;
        Ok(self)
    }

    /// Calls the stack once, when it is ready.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn oneshot<Req>(
        mut self,
        req: Req,
    ) -> Result<<Self as Service<Req>>::Response, <Self as Service<Req>>::Error>
    where
        Self: Service<Req>,
    {
        self.ready().await?.call(req).await
    }
}

impl<S, C, R, D, X, Req> Service<Req> for Stack<S, C, R, D, X>
where
    Whole<S, C, R, D, X>: Service<Req>,
{
    type Response = <Whole<S, C, R, D, X> as Service<Req>>::Response;
    type Error = <Whole<S, C, R, D, X> as Service<Req>>::Error;
    type Future = <Whole<S, C, R, D, X> as Service<Req>>::Future;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, req: Req) -> Self::Future {
        self.inner.call(req)
    }
}

impl<S, C, R, D, X> fmt::Debug for Stack<S, C, R, D, X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stack").finish_non_exhaustive()
    }
}
