use super::super::{Idempotent, InExtensions, Pauses, StatusClassifier};
use crate::circuit_breaker::{Circuit, Guarded};
use crate::error::{ErrorLayer, WrapError};
use crate::gate::{Gate, GateLayer, UntilHead};
use crate::load_shed::ConcurrencyLimit;
use crate::rate_limit::{Metered, RateLimiter};
use crate::retry::{Budget, Dropped, Measured, RetryLayer, RetrySnapshot};
use crate::timeout::{Timeout, TimeoutLayer, TimeoutSnapshot};
use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::task::{Context, Poll};
use tower::{Layer, Service};

/// Makes [`Stack`] services that share one circuit, one budget and their limits. Built by
/// [`stack`](super::stack).
///
/// It gives access to the handles of its parts. Printing it (`Display`) prints all settings, one line
/// for each part, outermost first.
///
/// ```
/// use buttress::http::stack;
/// use buttress::{Error, Rejection};
/// use std::convert::Infallible;
/// use tower::{Layer, service_fn};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// let client = service_fn(|_: http::Request<()>| async {
///     Ok::<_, Infallible>(http::Response::new(()))
/// });
/// let layer = stack().name("orders").load_shed(256).build().unwrap();
/// assert!(layer.to_string().contains("load shed \"orders\": 256 in flight"));
///
/// let service = layer.layer(client);
/// layer.circuit().unwrap().force_open();
/// let error = service.oneshot(http::Request::new(())).await.unwrap_err();
/// assert!(matches!(error, Error::Rejected(Rejection::CircuitOpen { .. })));
/// # }
/// ```
pub struct StackLayer<
    C = StatusClassifier,
    R = Idempotent,
    K = InExtensions,
    D = Dropped,
    U = UntilHead,
    W = ErrorLayer,
    P: Pauses = (),
> {
    pub(super) deadline: TimeoutLayer<K>,
    pub(super) retry: Option<RetryLayer<P::Classify<C>, R, D>>,
    pub(super) gate: GateLayer<Admissions<P::Classify<C>>, K, U>,
    pub(super) attempt: TimeoutLayer<K>,
    pub(super) wrap: PhantomData<fn() -> W>,
}

/// The admissions of load shed, rate limit and circuit breaker, from the outside in.
pub(super) type Admissions<C> = (
    (Option<ConcurrencyLimit>, Option<Metered<()>>),
    Option<Guarded<C>>,
);

impl<C, R, K, D, U, W, P: Pauses> StackLayer<C, R, K, D, U, W, P> {
    /// The handle of the retry budget, if there is one.
    #[must_use]
    pub fn budget(&self) -> Option<&Budget> {
        self.retry.as_ref().and_then(RetryLayer::budget)
    }

    /// The retry, unless it only measures.
    pub(super) fn retrying(&self) -> Option<&RetryLayer<P::Classify<C>, R, D>> {
        self.retry.as_ref().filter(|retry| retry.retries())
    }

    /// The counters of the retry, if there is one.
    #[must_use]
    pub fn retry_snapshot(&self) -> Option<RetrySnapshot> {
        self.retrying().map(RetryLayer::snapshot)
    }

    /// The handle of the load shed (concurrency limit), if there is one.
    #[must_use]
    pub fn limit(&self) -> Option<&ConcurrencyLimit> {
        self.gate.admission.0.0.as_ref()
    }

    /// The handle of the rate limit, if there is one.
    #[must_use]
    pub fn limiter(&self) -> Option<&RateLimiter> {
        self.gate.admission.0.1.as_ref().map(Metered::limiter)
    }

    /// The handle of the circuit breaker, if there is one.
    #[must_use]
    pub fn circuit(&self) -> Option<&Circuit> {
        self.gate.admission.1.as_ref().map(Guarded::circuit)
    }

    /// The counters of the deadline of the whole call.
    #[must_use]
    pub fn deadline_snapshot(&self) -> TimeoutSnapshot {
        self.deadline.snapshot()
    }

    /// The counters of the attempt timeout.
    #[must_use]
    pub fn attempt_snapshot(&self) -> TimeoutSnapshot {
        self.attempt.snapshot()
    }
}

impl<C, R, K, D, U, W, P> Clone for StackLayer<C, R, K, D, U, W, P>
where
    P: Pauses<Classify<C>: Clone>,
    R: Clone,
    K: Clone,
    D: Clone,
{
    fn clone(&self) -> Self {
        Self {
            deadline: self.deadline.clone(),
            retry: self.retry.clone(),
            gate: self.gate.clone(),
            attempt: self.attempt.clone(),
            wrap: PhantomData,
        }
    }
}

impl<C, R, K, D, U, W, P: Pauses> fmt::Debug for StackLayer<C, R, K, D, U, W, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StackLayer")
            .field("deadline", &self.deadline)
            .field("retry", &self.retry)
            .field("gate", &self.gate)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}

/// Prints the settings, one line for each part, for people.
impl<C, R, K, D, U, W, P: Pauses> fmt::Display for StackLayer<C, R, K, D, U, W, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} for the whole call", self.deadline)?;
        line(f, "retry", self.retrying())?;
        line(f, "load shed", self.limit())?;
        match self.limiter() {
            Some(limiter) if P::PAUSES => {
                writeln!(f, "{limiter}, paused by a 429 for up to 60s")?;
            }
            limiter => line(f, "rate limit", limiter)?,
        }
        line(f, "circuit breaker", self.circuit())?;
        write!(f, "{} for each attempt", self.attempt)
    }
}

pub(super) fn line(
    f: &mut fmt::Formatter<'_>,
    part: &str,
    layer: Option<&impl fmt::Display>,
) -> fmt::Result {
    match layer {
        Some(layer) => writeln!(f, "{layer}"),
        None => writeln!(f, "{part}: none"),
    }
}

impl<S, C, R, K, D, U, W, P> Layer<S> for StackLayer<C, R, K, D, U, W, P>
where
    S: Clone,
    P: Pauses<Classify<C>: Clone>,
    R: Clone,
    K: Clone,
    D: Clone,
{
    type Service = Stack<S, C, R, K, D, U, W, P>;

    fn layer(&self, client: S) -> Self::Service {
        let gate = self.gate.layer(self.attempt.layer(WrapError::new(client)));
        let retried = Measured::new(self.retry.as_ref(), gate);
        Stack {
            inner: self.deadline.layer(retried),
        }
    }
}

type Gated<S, C, K, U, W> = Gate<Timeout<WrapError<S, W>, K>, Admissions<C>, K, U>;
type Retried<S, C, R, K, D, U, W> = Measured<Gated<S, C, K, U, W>, C, R, D>;
type Whole<S, C, R, K, D, U, W, P> =
    Timeout<Retried<S, <P as Pauses>::Classify<C>, R, K, D, U, W>, K>;

/// The service that [`StackLayer`] makes: the recommended layers around a client `S`.
///
/// Keep one stack and clone it for each call. The clones share circuit, budget and limits. It is
/// `Send` and `Sync` if the client and your policies are. Its error is
/// [`Error<S::Error>`](crate::Error).
///
/// ```
/// use buttress::http::{Stack, stack};
/// use std::convert::Infallible;
/// use tower::service_fn;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// // Takes any client, and returns a nameable type.
/// fn resilient<C: Clone>(client: C) -> Stack<C> {
///     stack().service(client).expect("the defaults are valid")
/// }
///
/// let client = resilient(service_fn(|_: http::Request<()>| async {
///     Ok::<_, Infallible>(http::Response::new("response"))
/// }));
/// for _ in 0..2 {
///     let response = client.clone().oneshot(http::Request::new(())).await.unwrap();
///     assert_eq!(*response.body(), "response");
/// }
/// # }
/// ```
pub struct Stack<
    S,
    C = StatusClassifier,
    R = Idempotent,
    K = InExtensions,
    D = Dropped,
    U = UntilHead,
    W = ErrorLayer,
    P: Pauses = (),
> {
    inner: Whole<S, C, R, K, D, U, W, P>,
}

impl<S: Clone, C, R, K: Clone, D, U, W, P: Pauses> Clone for Stack<S, C, R, K, D, U, W, P> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
        }
    }
}

// tower's `ServiceExt` has the same two methods. They are inherent methods here for better compiler
// errors: the compiler then names the bound that a client does not meet, with the notes of that
// bound. For a method of a trait it says only that the bounds of `Service` are not satisfied.
impl<S, C, R, K, D, U, W, P: Pauses> Stack<S, C, R, K, D, U, W, P> {
    /// Waits until the stack is ready for a call. The same as in tower's `ServiceExt`.
    ///
    /// # Errors
    /// The client fails to become ready.
    pub async fn ready<Req>(&mut self) -> Result<&mut Self, <Self as Service<Req>>::Error>
    where
        Self: Service<Req>,
    {
        poll_fn(|cx| Service::poll_ready(self, cx)).await?;
        Ok(self)
    }

    /// Waits until the stack is ready, and calls it once. The same as in tower's `ServiceExt`.
    ///
    /// # Errors
    /// The client fails to become ready, or the call fails.
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

impl<S, C, R, K, D, U, W, P, Req> Service<Req> for Stack<S, C, R, K, D, U, W, P>
where
    P: Pauses,
    Whole<S, C, R, K, D, U, W, P>: Service<Req>,
{
    type Response = <Whole<S, C, R, K, D, U, W, P> as Service<Req>>::Response;
    type Error = <Whole<S, C, R, K, D, U, W, P> as Service<Req>>::Error;
    type Future = <Whole<S, C, R, K, D, U, W, P> as Service<Req>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, req: Req) -> Self::Future {
        self.inner.call(req)
    }
}

impl<S, C, R, K, D, U, W, P: Pauses> fmt::Debug for Stack<S, C, R, K, D, U, W, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stack").finish_non_exhaustive()
    }
}
