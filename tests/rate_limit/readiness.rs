//! The readiness of the inner service.

use super::{SECOND, STEADY, almost, around_strict, impatient, patient, readying};
use crate::strict::{call, next_sent, poll_ready, sent};
use buttress::Quota;
use tokio::time::{self};
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok};
use tower::Service;

#[tokio::test(start_paused = true)]
async fn the_inner_service_is_readied_even_if_the_quota_is_used_up() {
    let (mut service, mut handle) = around_strict(&impatient(Quota::per_second(0)));
    handle.allow(0);
    assert_pending!(poll_ready(&mut service));
}

#[tokio::test(start_paused = true)]
async fn a_readiness_error_is_passed_on() {
    let (mut service, mut handle) = around_strict(&impatient(Quota::per_second(0)));
    handle.send_error("gone");
    let error = assert_ready_err!(poll_ready(&mut service));
    assert_eq!(error.to_string(), "gone");
}

#[tokio::test(start_paused = true)]
async fn a_call_error_is_passed_on() {
    let (mut service, mut handle) = around_strict(&impatient(STEADY));
    let mut call = call(&mut service, 1);
    let (_, response) = next_sent(&mut handle);
    response.send_error("refused");
    assert_eq!(assert_ready_err!(call.poll()).to_string(), "refused");
}

#[tokio::test(start_paused = true)]
async fn a_response_is_passed_on() {
    let (mut service, mut handle) = around_strict(&patient(STEADY));
    let _first = call(&mut service, 1);
    let mut waiter = call(&mut service, 2);
    assert_pending!(waiter.poll());
    time::advance(SECOND).await;
    assert_pending!(waiter.poll());
    let _ = next_sent(&mut handle);
    let (req, response) = next_sent(&mut handle);
    response.send_response(req + 40);
    assert_eq!(assert_ready_ok!(waiter.poll()), 42);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_call_is_not_sent() {
    let (mut service, mut handle) = around_strict(&impatient(STEADY));
    let _first = call(&mut service, 1);
    assert_ready_err!(call(&mut service, 2).poll());
    assert_eq!(sent(&mut handle), [1]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_releases_the_inner_readiness_of_its_instance() {
    let (mut service, mut handle) = around_strict(&patient(STEADY));
    let _first = call(&mut service, 1);
    let _waiter = call(&mut service, 2);
    handle.allow(0);
    // The waiting call gave up the readiness of its instance, and nothing becomes ready again.
    assert_pending!(poll_ready(&mut service));
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "poll_ready must be called before call")]
async fn readiness_is_valid_for_one_call_that_waits() {
    let (mut service, _handle) = around_strict(&patient(STEADY));
    let _first = call(&mut service, 1);
    let _waiter = call(&mut service, 2);
    drop(service.call(3));
}

#[tokio::test(start_paused = true)]
async fn a_rejected_call_leaves_the_inner_service_ready() {
    let (mut service, mut handle) = around_strict(&impatient(STEADY));
    let _first = call(&mut service, 1);
    assert_ready_err!(call(&mut service, 2).poll());
    handle.allow(0);
    assert_ready_ok!(poll_ready(&mut service));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_does_not_poll_the_inner_service_before_its_turn() {
    let (mut service, mut handle) = around_strict(&patient(STEADY));
    let _first = call(&mut service, 1);
    let mut waiter = call(&mut service, 2);
    handle.send_error("whoever polls first gets this");
    time::advance(almost(SECOND)).await;
    assert_pending!(waiter.poll());
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_turn_has_come_waits_for_the_inner_service() {
    let (_first, mut readying, mut handle) = readying(&patient(STEADY)).await;
    handle.allow(1);
    assert!(readying.is_woken());
    assert_pending!(readying.poll());
    assert_eq!(sent(&mut handle), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_readiness_error_at_the_turn_is_passed_on() {
    let (_first, mut readying, mut handle) = readying(&patient(STEADY)).await;
    handle.send_error("gone");
    assert_eq!(assert_ready_err!(readying.poll()).to_string(), "gone");
}
