//! The code that a user has to write to use breakers and rate limits without Tower support in a
//! stack.

use failsafe::failure_policy::FailurePolicy;
use failsafe::futures::{CircuitBreaker as _, ResponseFuture};
use governor::DefaultDirectRateLimiter;
use pin_project_lite::pin_project;
use recloser::{AnyError, AsyncRecloser, RecloserFuture};
use std::hint::black_box;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;
use std::{fmt, mem};
use tower::Service;

/// A service behind a governor rate limiter.
#[derive(Clone)]
pub struct Governed<S> {
    pub inner: S,
    pub limiter: Arc<DefaultDirectRateLimiter>,
}

/// The error of [`Governed`].
#[derive(Debug)]
pub enum RateLimited<E> {
    Rejected,
    Inner(E),
}

impl<E: fmt::Display> fmt::Display for RateLimited<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected => f.write_str("rate limited"),
            Self::Inner(error) => error.fmt(f),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> std::error::Error for RateLimited<E> {}

impl<S: Service<R>, R> Service<R> for Governed<S> {
    type Response = S::Response;
    type Error = RateLimited<S::Error>;
    type Future = GovernedFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(RateLimited::Inner)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let allowed = self.limiter.check().is_ok();
        let call = allowed.then(|| self.inner.call(request));
        GovernedFuture { call }
    }
}

/// Reads the clock for each call, like a layer that needs the time.
#[derive(Clone)]
pub struct ReadsClock<S>(pub S);

impl<S: Service<R>, R> Service<R> for ReadsClock<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        black_box(Instant::now());
        self.0.call(request)
    }
}

pin_project! {
    /// Empty if the limiter rejected the call.
    pub struct GovernedFuture<F> {
        #[pin]
        call: Option<F>,
    }
}

impl<F, T, E> Future for GovernedFuture<F>
where
    F: Future<Output = Result<T, E>>,
{
    type Output = Result<T, RateLimited<E>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().call.as_pin_mut() {
            Some(call) => Poll::Ready(ready!(call.poll(cx)).map_err(RateLimited::Inner)),
            None => Poll::Ready(Err(RateLimited::Rejected)),
        }
    }
}

pin_project! {
    /// A call that is sent when it is first polled. Both breakers wrap futures, and the service
    /// must not be called before the breaker admits the call.
    pub struct Lazy<S: Service<R>, R> {
        unsent: Option<(S, R)>,
        #[pin]
        call: Option<S::Future>,
    }
}

impl<S: Service<R> + Clone, R> Lazy<S, R> {
    /// Takes the ready instance and leaves a clone in its place.
    fn take(service: &mut S, request: R) -> Self {
        let clone = service.clone();
        Self {
            unsent: Some((mem::replace(service, clone), request)),
            call: None,
        }
    }
}

impl<S: Service<R>, R> Future for Lazy<S, R> {
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Some((mut service, request)) = this.unsent.take() {
            this.call.set(Some(service.call(request)));
        }
        this.call.as_pin_mut().expect("sent").poll(cx)
    }
}

/// A service behind a recloser circuit breaker.
#[derive(Clone)]
pub struct Reclosed<S> {
    pub inner: S,
    pub recloser: AsyncRecloser,
}

impl<S: Service<R> + Clone, R> Service<R> for Reclosed<S> {
    type Response = S::Response;
    type Error = recloser::Error<S::Error>;
    type Future = RecloserFuture<Lazy<S, R>, AnyError>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(recloser::Error::Inner)
    }

    fn call(&mut self, request: R) -> Self::Future {
        self.recloser.call(Lazy::take(&mut self.inner, request))
    }
}

/// A service behind a failsafe circuit breaker.
pub struct Failsafe<S, P> {
    pub inner: S,
    pub breaker: failsafe::StateMachine<P, ()>,
}

impl<S: Clone, P> Clone for Failsafe<S, P> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            breaker: self.breaker.clone(),
        }
    }
}

impl<S, P, R> Service<R> for Failsafe<S, P>
where
    S: Service<R> + Clone,
    P: FailurePolicy + Send + Sync,
{
    type Response = S::Response;
    type Error = failsafe::Error<S::Error>;
    type Future = ResponseFuture<Lazy<S, R>, P, (), failsafe::Any>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(failsafe::Error::Inner)
    }

    fn call(&mut self, request: R) -> Self::Future {
        self.breaker.call(Lazy::take(&mut self.inner, request))
    }
}
