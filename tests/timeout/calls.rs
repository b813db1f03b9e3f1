//! When a call ends.

use super::{AFTER, BoxError, HOUR, TIMED_OUT, in_time, rejection, time_of, timed};
use buttress::TimeoutLayer;
use std::future::pending;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio::time::advance;
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};
use tower::{Layer, Service, ServiceExt, service_fn};

#[tokio::test(start_paused = true)]
async fn a_response_in_time_is_passed_on() {
    let (mut service, mut handle) = timed(AFTER);
    assert_ready_ok!(service.poll_ready());
    let mut call = task::spawn(service.call(()));
    assert_pending!(call.poll());
    let ((), send) = handle.next_request().await.unwrap();
    advance(AFTER * 99 / 100).await;
    assert_pending!(call.poll());
    send.send_response("response");
    assert_eq!(assert_ready_ok!(call.poll()), "response");
}

#[tokio::test(start_paused = true)]
async fn an_error_of_the_call_passes_unchanged() {
    let (mut service, mut handle) = timed(AFTER);
    assert_ready_ok!(service.poll_ready());
    let mut call = task::spawn(service.call(()));
    let ((), send) = handle.next_request().await.unwrap();
    send.send_error("reset");
    assert_eq!(assert_ready_err!(call.poll()).to_string(), "reset");
}

#[tokio::test(start_paused = true)]
async fn a_call_without_a_response_is_rejected() {
    let (mut service, _handle) = timed(AFTER);
    assert_ready_ok!(service.poll_ready());
    assert_eq!(rejection(in_time(service.call(())).await), TIMED_OUT);
}

#[tokio::test(start_paused = true)]
async fn a_call_without_a_response_ends_at_the_timeout() {
    let (mut service, _handle) = timed(AFTER);
    assert_ready_ok!(service.poll_ready());
    assert_eq!(time_of(service.call(())).await, AFTER);
}

#[tokio::test(start_paused = true)]
async fn a_response_at_the_same_time_as_the_timer_wins() {
    let (mut service, mut handle) = timed(AFTER);
    assert_ready_ok!(service.poll_ready());
    let mut call = task::spawn(service.call(()));
    assert_pending!(call.poll());
    let ((), send) = handle.next_request().await.unwrap();
    advance(AFTER).await;
    send.send_response("response");
    assert_eq!(assert_ready_ok!(call.poll()), "response");
}

#[tokio::test(start_paused = true)]
async fn the_timeout_starts_at_the_first_pending_poll() {
    let (mut service, _handle) = timed(AFTER);
    assert_ready_ok!(service.poll_ready());
    let call = service.call(());
    advance(HOUR).await;
    assert_eq!(time_of(call).await, AFTER);
}

#[tokio::test(start_paused = true)]
async fn the_inner_future_is_dropped_before_the_caller_sees_the_error() {
    let permits = Arc::new(Semaphore::new(1));
    let holder = permits.clone();
    let mut service = TimeoutLayer::new(AFTER).layer(service_fn(move |()| {
        let permit = holder.clone().try_acquire_owned().unwrap();
        async move {
            let _permit = permit;
            pending::<Result<(), BoxError>>().await
        }
    }));
    let mut call = task::spawn(service.ready().await.unwrap().call(()));
    assert_pending!(call.poll());
    advance(AFTER).await;
    assert_ready_err!(call.poll());
    // The future has completed but is not dropped yet.
    assert_eq!(permits.available_permits(), 1);
    drop(call);
}
