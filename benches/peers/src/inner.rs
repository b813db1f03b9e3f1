//! The service behind every contender. It counts the calls that reach it.

use std::cell::Cell;
use std::fmt;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll};
use tower::Service;

thread_local! {
    static SERVED: Cell<u64> = const { Cell::new(0) };
}

/// Starts the count of this thread's calls anew.
pub fn start_counting() {
    SERVED.set(0);
}

/// The calls that reached a service on this thread since then.
pub fn served() -> u64 {
    SERVED.get()
}

// Never inlined: it would be for some contenders, by how the compiler happens to divide the program.
#[inline(never)]
fn count() -> u64 {
    SERVED.with(|served| {
        served.set(served.get() + 1);
        served.get()
    })
}

/// What all contenders are put around.
pub trait Callee:
    Service<u64, Response = u64, Error = Failure, Future: Send + 'static>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> Callee for S where
    S: Service<u64, Response = u64, Error = Failure, Future: Send + 'static>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// The callee's own error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure;

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("failed")
    }
}

impl std::error::Error for Failure {}

/// Answers at once.
#[derive(Clone, Copy, Debug)]
pub struct AtOnce;

impl Service<u64> for AtOnce {
    type Response = u64;
    type Error = Failure;
    type Future = Ready<Result<u64, Failure>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, n: u64) -> Self::Future {
        count();
        ready(Ok(n))
    }
}

/// Fails every odd call that reaches it, at once.
#[derive(Clone, Copy, Debug)]
pub struct FailsOddCalls;

impl Service<u64> for FailsOddCalls {
    type Response = u64;
    type Error = Failure;
    type Future = Ready<Result<u64, Failure>>;

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

/// Fails every call, at once.
#[derive(Clone, Copy, Debug)]
pub struct Fails;

impl Service<u64> for Fails {
    type Response = u64;
    type Error = Failure;
    type Future = Ready<Result<u64, Failure>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: u64) -> Self::Future {
        count();
        ready(Err(Failure))
    }
}

/// Answers at the second poll.
#[derive(Clone, Copy, Debug)]
pub struct PendingOnce;

impl Service<u64> for PendingOnce {
    type Response = u64;
    type Error = Failure;
    type Future = SecondPoll;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, n: u64) -> Self::Future {
        count();
        SecondPoll { n, polled: false }
    }
}

/// The future of [`PendingOnce`].
#[derive(Debug)]
pub struct SecondPoll {
    n: u64,
    polled: bool,
}

impl Future for SecondPoll {
    type Output = Result<u64, Failure>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.polled {
            return Poll::Ready(Ok(self.n));
        }
        self.polled = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Lets the runtime turn once before it answers.
pub fn yielding() -> impl Callee {
    tower::service_fn(|n| {
        count();
        async move {
            tokio::task::yield_now().await;
            Ok(n)
        }
    })
}
