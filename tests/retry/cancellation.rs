//! Calls that are dropped.

use super::{BAD, HOUR, Upstream, WAIT, call_in_flight, drain, retrying, sleeping_call};
use std::task::Poll;
use tokio::time::advance;
use tokio_test::{assert_pending, assert_ready_ok, task};
use tower::limit::ConcurrencyLimit;
use tower::{Layer, ServiceExt};
use tower_test::mock::Handle;

/// Whether the upstream receives another request.
async fn is_sent_more(handle: &mut Handle<(), ()>) -> bool {
    advance(HOUR).await;
    matches!(handle.poll_request(), Poll::Ready(Some(_)))
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_before_its_first_poll_is_not_retried() {
    let (_service, call, mut handle, _) = call_in_flight().await;
    let ((), send) = handle.next_request().await.unwrap();
    send.send_error("reset");
    drop(call);
    assert!(!is_sent_more(&mut handle).await);
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_in_flight_is_not_retried() {
    let (_service, mut call, mut handle, _) = call_in_flight().await;
    assert_pending!(call.poll());
    let ((), send) = handle.next_request().await.unwrap();
    send.send_error("reset");
    drop(call);
    assert!(!is_sent_more(&mut handle).await);
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_while_waiting_for_its_retry_is_not_retried() {
    let (call, mut handle, _) = sleeping_call().await;
    drop(call);
    assert!(!is_sent_more(&mut handle).await);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_its_retry_has_taken_a_token() {
    let (_call, _handle, budget) = sleeping_call().await;
    assert_eq!(drain(&budget), 9);
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_while_waiting_for_readiness_is_not_retried() {
    let (mut call, mut handle, _) = sleeping_call().await;
    handle.allow(0);
    advance(WAIT).await;
    assert_pending!(call.poll());
    drop(call);
    handle.allow(1);
    assert!(!is_sent_more(&mut handle).await);
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_while_waiting_for_readiness_leaves_its_place_to_others() {
    let limited = ConcurrencyLimit::new(Upstream::new([BAD]), 1);
    let service = retrying().build().unwrap().layer(limited.clone());
    let mut call = task::spawn(service.oneshot(()));
    assert_pending!(call.poll());
    let mut holder = limited.clone();
    assert_ready_ok!(task::spawn(ServiceExt::<()>::ready(&mut holder)).poll());
    advance(WAIT).await;
    assert_pending!(call.poll());
    drop(holder);
    drop(call);
    let mut other = limited.clone();
    assert_ready_ok!(task::spawn(ServiceExt::<()>::ready(&mut other)).poll());
}

#[tokio::test(start_paused = true)]
async fn the_token_of_a_retry_dropped_in_flight_stays_spent() {
    let (mut call, mut handle, budget) = sleeping_call().await;
    advance(WAIT).await;
    assert_pending!(call.poll());
    let _request = handle.next_request().await.unwrap();
    drop(call);
    assert_eq!(drain(&budget), 9);
}

#[tokio::test(start_paused = true)]
async fn a_retry_dropped_in_flight_is_not_retried() {
    let (mut call, mut handle, _) = sleeping_call().await;
    advance(WAIT).await;
    assert_pending!(call.poll());
    let ((), send) = handle.next_request().await.unwrap();
    send.send_error("reset");
    drop(call);
    assert!(!is_sent_more(&mut handle).await);
}
