//! The innermost service of these tests.

use super::Res;
use buttress::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll};
use tower::Service;

/// A service that panics if it is called before it is ready. It counts reservations and calls in
/// flight.
#[derive(Debug)]
pub(crate) struct Strict {
    pub(crate) shared: Arc<Shared>,
    ready: bool,
    polled: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// Each instance returns `Pending` from its first `poll_ready`.
    pub(crate) pending_once: bool,
    pub(crate) fails_to_ready: bool,
    pub(crate) reserved: AtomicUsize,
    pub(crate) in_flight: AtomicUsize,
    pub(crate) calls: AtomicUsize,
}

impl Strict {
    pub(crate) fn new(pending_once: bool) -> Self {
        Self::of(Shared {
            pending_once,
            ..Shared::default()
        })
    }

    pub(crate) fn of(shared: Shared) -> Self {
        Self {
            shared: Arc::new(shared),
            ready: false,
            polled: false,
        }
    }

    fn give_up_readiness(&mut self) {
        if std::mem::replace(&mut self.ready, false) {
            self.shared.reserved.fetch_sub(1, SeqCst);
        }
    }
}

impl Clone for Strict {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            ready: false,
            polled: false,
        }
    }
}

impl Drop for Strict {
    fn drop(&mut self) {
        self.give_up_readiness();
    }
}

impl Service<u32> for Strict {
    type Response = u32;
    type Error = Error<&'static str>;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        if self.shared.fails_to_ready {
            return Poll::Ready(Err(Error::Service("not ready")));
        }
        if self.shared.pending_once && !std::mem::replace(&mut self.polled, true) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if !std::mem::replace(&mut self.ready, true) {
            self.shared.reserved.fetch_add(1, SeqCst);
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, n: u32) -> ResponseFuture {
        assert!(self.ready, "called unready");
        self.give_up_readiness();
        self.polled = false;
        self.shared.calls.fetch_add(1, SeqCst);
        self.shared.in_flight.fetch_add(1, SeqCst);
        ResponseFuture {
            n,
            shared: self.shared.clone(),
            polled: false,
        }
    }
}

/// Pending once, then ready with the response.
pub(crate) struct ResponseFuture {
    n: u32,
    shared: Arc<Shared>,
    polled: bool,
}

impl Future for ResponseFuture {
    type Output = Res;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Res> {
        if std::mem::replace(&mut self.polled, true) {
            return Poll::Ready(Ok(self.n));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for ResponseFuture {
    fn drop(&mut self) {
        self.shared.in_flight.fetch_sub(1, SeqCst);
    }
}
