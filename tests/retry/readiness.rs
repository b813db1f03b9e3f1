//! The readiness of the inner service.

use super::{BAD, GOOD, Upstream, WAIT, drain, retrying, sleeping_call};
use buttress::retry::Cloned;
use buttress::{RetryLayer, Verdict};
use std::future::ready;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::advance;
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};
use tower::buffer::Buffer;
use tower::limit::ConcurrencyLimit;
use tower::{Layer, ServiceExt, service_fn};
use tower_test::mock::{self};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[tokio::test(start_paused = true)]
async fn a_concurrency_limit_inside_is_never_called_unready() {
    let service = ConcurrencyLimit::new(Upstream::new([BAD, BAD, GOOD]), 1);
    let service = retrying().build().unwrap().layer(service);
    assert_eq!(service.oneshot(()).await, GOOD);
}

#[tokio::test(start_paused = true)]
async fn a_buffer_inside_is_never_called_unready() {
    let service = Buffer::new(Upstream::new([BAD, BAD, GOOD]), 1);
    let service = retrying().build().unwrap().layer(service);
    assert_eq!(service.oneshot(()).await.unwrap(), Verdict::Healthy);
}

#[tokio::test(start_paused = true)]
async fn a_retry_waits_until_the_inner_service_is_ready() {
    let (mut call, mut handle, _) = sleeping_call().await;
    handle.allow(0);
    advance(WAIT).await;
    assert_pending!(call.poll());
    handle.allow(1);
    assert!(call.is_woken());
    assert_pending!(call.poll());
    let ((), send) = handle.next_request().await.unwrap();
    send.send_response(());
    assert_ready_ok!(call.poll());
}

#[tokio::test(start_paused = true)]
async fn the_permit_of_an_attempt_is_released_while_the_call_waits_for_the_next() {
    let limited = ConcurrencyLimit::new(Upstream::new([BAD]), 1);
    let service = retrying().build().unwrap().layer(limited.clone());
    let mut call = task::spawn(service.oneshot(()));
    assert_pending!(call.poll());
    let mut other = limited.clone();
    assert_ready_ok!(task::spawn(ServiceExt::<()>::ready(&mut other)).poll());
}

#[tokio::test(start_paused = true)]
async fn a_response_that_is_not_returned_is_dropped_before_the_wait() {
    fn failed(_: Result<&OwnedSemaphorePermit, &BoxError>) -> Verdict {
        Verdict::TRANSIENT
    }
    let connections = Arc::new(Semaphore::new(1));
    let pool = connections.clone();
    let service =
        service_fn(move |()| ready(pool.clone().try_acquire_owned().map_err(BoxError::from)));
    let service = retrying().classify(failed).build().unwrap().layer(service);
    let mut call = task::spawn(service.oneshot(()));
    assert_pending!(call.poll());
    assert_eq!(connections.available_permits(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_readiness_error_before_the_first_attempt_is_passed_on() {
    let (service, mut handle) = mock::pair::<(), ()>();
    handle.send_error("gone");
    let layer = RetryLayer::builder().replay(Cloned).build().unwrap();
    let mut service = layer.layer(service);
    let error = service.ready().await.err().unwrap();
    assert_eq!(error.to_string(), "gone");
}

#[tokio::test(start_paused = true)]
async fn a_readiness_error_before_a_retry_is_returned() {
    let (mut call, mut handle, _) = sleeping_call().await;
    handle.send_error("gone");
    advance(WAIT).await;
    assert_eq!(assert_ready_err!(call.poll()).to_string(), "gone");
}

#[tokio::test(start_paused = true)]
async fn the_token_of_a_retry_whose_readiness_failed_is_returned() {
    let (mut call, mut handle, budget) = sleeping_call().await;
    handle.send_error("gone");
    advance(WAIT).await;
    assert_ready_err!(call.poll());
    // The future has completed but is not dropped yet.
    assert_eq!(drain(&budget), 10);
    drop(call);
}
