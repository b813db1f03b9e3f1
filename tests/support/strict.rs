//! A mock that panics if it is called before it is ready, and helpers to call services around it.

use std::iter;
use std::task::Poll;
use tokio_test::task::{self, Spawn};
use tokio_test::{assert_ready, assert_ready_ok};
use tower::{BoxError, Service};
use tower_test::mock::{Handle, Mock, SendResponse};

/// Panics if it is called before it is ready. Its clones are not ready.
pub(crate) type Strict = Mock<u32, u32>;

pub(crate) fn poll_ready<S: Service<u32>>(service: &mut S) -> Poll<Result<(), S::Error>> {
    task::spawn(()).enter(|cx, _| service.poll_ready(cx))
}

pub(crate) fn call<S: Service<u32, Error = BoxError>>(
    service: &mut S,
    req: u32,
) -> Spawn<S::Future> {
    assert_ready_ok!(poll_ready(service));
    task::spawn(service.call(req))
}

/// The requests that reached the mock since the last call of this function.
pub(crate) fn sent(handle: &mut Handle<u32, u32>) -> Vec<u32> {
    iter::from_fn(|| match handle.poll_request() {
        Poll::Ready(request) => request.map(|(req, _)| req),
        Poll::Pending => None,
    })
    .collect()
}

pub(crate) fn next_sent(handle: &mut Handle<u32, u32>) -> (u32, SendResponse<u32>) {
    assert_ready!(handle.poll_request()).unwrap()
}
