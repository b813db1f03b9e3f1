//! A call whose future completes before its response body ends.

use buttress::{CircuitBreakerLayer, ErrorLayer};
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::{Context, Waker};
use tower::{Layer, Service, service_fn};

#[test]
fn a_future_polled_after_completion_can_be_dropped() {
    let breaker = CircuitBreakerLayer::builder()
        .until(buttress::http::UntilBodyEnd)
        .build()
        .unwrap();
    let body = || http_body_util::Full::new(bytes::Bytes::from("x"));
    let respond = move |()| async move { Ok::<_, Infallible>(http::Response::new(body())) };
    let mut service = breaker.layer(ErrorLayer.layer(service_fn(respond)));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(service.poll_ready(&mut cx).is_ready());
    let mut call = Box::pin(service.call(()));
    assert!(call.as_mut().poll(&mut cx).is_ready());
    let again = catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(&mut cx).is_ready()));
    assert!(again.is_err());
    assert!(catch_unwind(AssertUnwindSafe(|| drop(call))).is_ok());
}
