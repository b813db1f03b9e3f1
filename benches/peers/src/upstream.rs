//! The service behind every contender. It counts the calls that reach it.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use std::cell::Cell;
use std::fmt;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll};
use tower::{BoxError, Service};

thread_local! {
    static SERVED: Cell<u64> = const { Cell::new(0) };
}

/// Resets the count of this thread to zero.
pub fn start_counting() {
    SERVED.set(0);
}

/// How many calls reached a service on this thread since [`start_counting`].
pub fn served() -> u64 {
    SERVED.get()
}

// Never inlined. Otherwise the compiler would inline it for some contenders and not for others.
#[inline(never)]
fn count() -> u64 {
    SERVED.with(|served| {
        served.set(served.get() + 1);
        served.get()
    })
}

/// A service that contenders wrap.
pub trait Upstream:
    Service<u64, Response = u64, Error = Failure, Future: Send + 'static> + Copy + Send + Sync + 'static
{
}

impl<S> Upstream for S where
    S: Service<u64, Response = u64, Error = Failure, Future: Send + 'static>
        + Copy
        + Send
        + Sync
        + 'static
{
}

/// The error of the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure;

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("failed")
    }
}

impl std::error::Error for Failure {}

/// A response or an error that is ready immediately.
type AtOnceFuture = Ready<Result<u64, Failure>>;

/// Responds immediately with the request.
#[derive(Clone, Copy, Debug)]
pub struct AtOnce;

impl Service<u64> for AtOnce {
    type Response = u64;
    type Error = Failure;
    type Future = AtOnceFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, n: u64) -> Self::Future {
        count();
        ready(Ok(n))
    }
}

/// Fails every odd call that reaches it, immediately.
#[derive(Clone, Copy, Debug)]
pub struct FailsOddCalls;

impl Service<u64> for FailsOddCalls {
    type Response = u64;
    type Error = Failure;
    type Future = AtOnceFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, n: u64) -> Self::Future {
        ready(if count() % 2 == 1 {
            Err(Failure)
        } else {
            Ok(n)
        })
    }
}

/// Fails every call immediately.
#[derive(Clone, Copy, Debug)]
pub struct Fails;

impl Service<u64> for Fails {
    type Response = u64;
    type Error = Failure;
    type Future = AtOnceFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: u64) -> Self::Future {
        count();
        ready(Err(Failure))
    }
}

/// Wraps a service so that the first poll of each call is pending and immediately wakes its task.
#[derive(Clone, Copy, Debug)]
pub struct PendingOnce<S>(pub S);

impl<S: Service<u64, Future: Unpin>> Service<u64> for PendingOnce<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = SecondPoll<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, n: u64) -> Self::Future {
        let call = self.0.call(n);
        let polled = false;
        SecondPoll { call, polled }
    }
}

/// The future of [`PendingOnce`].
#[derive(Debug)]
pub struct SecondPoll<F> {
    call: F,
    polled: bool,
}

impl<F: Future + Unpin> Future for SecondPoll<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.polled {
            return Pin::new(&mut self.call).poll(cx);
        }
        self.polled = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Yields to the runtime once before it responds, so that the runtime checks its timers and
/// sockets.
pub fn yielding() -> impl Upstream {
    tower::service_fn(|n| {
        count();
        async move {
            tokio::task::yield_now().await;
            Ok(n)
        }
    })
}

/// A request with a body that can be cloned.
pub type HttpRequest = Request<Full<Bytes>>;

/// An HTTP client, used to measure sizes. Its future is boxed, like the one of hyper-util's client.
#[derive(Clone, Copy, Debug)]
pub struct HttpUpstream;

impl Service<HttpRequest> for HttpUpstream {
    type Response = Response<Full<Bytes>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: HttpRequest) -> Self::Future {
        Box::pin(ready(Ok(Response::default())))
    }
}
