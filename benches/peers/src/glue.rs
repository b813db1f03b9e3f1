//! What a user writes to put breakers and rate limits that know nothing of Tower into a stack.

use failsafe::failure_policy::FailurePolicy;
use failsafe::futures::{CircuitBreaker as _, ResponseFuture};
use governor::DefaultDirectRateLimiter;
use pin_project_lite::pin_project;
use recloser::{AnyError, AsyncRecloser, RecloserFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::{fmt, mem};
use tower::Service;

/// A service behind a rate limit of governor's.
#[derive(Clone)]
pub struct Governed<S> {
    pub inner: S,
    pub limiter: Arc<DefaultDirectRateLimiter>,
}

/// Its error.
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

impl<S: Service<u64>> Service<u64> for Governed<S> {
    type Response = S::Response;
    type Error = RateLimited<S::Error>;
    type Future = GovernedFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(RateLimited::Inner)
    }

    fn call(&mut self, n: u64) -> Self::Future {
        let call = self.limiter.check().is_ok().then(|| self.inner.call(n));
        GovernedFuture { call }
    }
}

pin_project! {
    /// Nothing, where the limit said no.
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
    /// A call that is sent when it is first polled. Both breakers are put around futures, which
    /// must not reach the service before the breaker is asked.
    pub struct Lazy<S: Service<u64>> {
        unsent: Option<(S, u64)>,
        #[pin]
        call: Option<S::Future>,
    }
}

impl<S: Service<u64> + Clone> Lazy<S> {
    /// Takes the instance that was readied, and leaves a clone in its place.
    fn take(service: &mut S, n: u64) -> Self {
        let clone = service.clone();
        Self {
            unsent: Some((mem::replace(service, clone), n)),
            call: None,
        }
    }
}

impl<S: Service<u64>> Future for Lazy<S> {
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Some((mut service, n)) = this.unsent.take() {
            this.call.set(Some(service.call(n)));
        }
        this.call.as_pin_mut().expect("sent").poll(cx)
    }
}

/// A service behind a breaker of recloser's.
#[derive(Clone)]
pub struct Reclosed<S> {
    pub inner: S,
    pub recloser: AsyncRecloser,
}

impl<S: Service<u64> + Clone> Service<u64> for Reclosed<S> {
    type Response = S::Response;
    type Error = recloser::Error<S::Error>;
    type Future = RecloserFuture<Lazy<S>, AnyError>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(recloser::Error::Inner)
    }

    fn call(&mut self, n: u64) -> Self::Future {
        self.recloser.call(Lazy::take(&mut self.inner, n))
    }
}

/// A service behind a breaker of failsafe's.
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

impl<S, P> Service<u64> for Failsafe<S, P>
where
    S: Service<u64> + Clone,
    P: FailurePolicy + Send + Sync,
{
    type Response = S::Response;
    type Error = failsafe::Error<S::Error>;
    type Future = ResponseFuture<Lazy<S>, P, (), failsafe::Any>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(failsafe::Error::Inner)
    }

    fn call(&mut self, n: u64) -> Self::Future {
        self.breaker.call(Lazy::take(&mut self.inner, n))
    }
}
