//! When the service is ready.

use super::{OVERLOADED, around_strict, queueing, rejection};
use crate::strict::{call, next_sent, poll_ready, sent};
use buttress::LoadShedLayer;
use std::time::Duration;
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};
use tower::Service;

#[tokio::test]
async fn a_call_is_rejected_at_once_if_the_inner_service_is_not_ready() {
    let (mut service, mut handle) = around_strict(&LoadShedLayer::new(1));
    handle.allow(0);
    assert_eq!(rejection(&mut call(&mut service, 1)), OVERLOADED);
}

#[tokio::test]
async fn a_call_is_rejected_at_once_if_the_inner_service_is_not_ready_even_with_a_queue() {
    let (mut service, mut handle) = around_strict(&queueing(1, 2));
    handle.allow(0);
    assert_eq!(rejection(&mut call(&mut service, 1)), OVERLOADED);
}

#[tokio::test]
async fn a_call_rejected_for_the_inner_service_holds_no_slot() {
    let layer = LoadShedLayer::new(1);
    let (mut service, mut handle) = around_strict(&layer);
    handle.allow(0);
    let _rejected = call(&mut service, 1);
    assert_eq!(layer.limit().in_flight(), 0);
}

#[tokio::test]
async fn an_instance_that_found_the_inner_service_not_ready_rejects_even_if_it_became_ready() {
    let (mut service, mut handle) = around_strict(&LoadShedLayer::new(1));
    handle.allow(0);
    assert_ready_ok!(poll_ready(&mut service));
    handle.allow(1);
    assert_eq!(rejection(&mut task::spawn(service.call(1))), OVERLOADED);
}

#[tokio::test]
async fn an_instance_polled_at_the_limit_rejects_even_if_a_slot_was_released_since() {
    let impatient = LoadShedLayer::builder(1).queue(1, Duration::ZERO);
    for layer in [LoadShedLayer::new(1), impatient.build().unwrap()] {
        let (mut service, _handle) = around_strict(&layer);
        let first = call(&mut service, 1);
        assert_ready_ok!(poll_ready(&mut service));
        drop(first);
        assert_eq!(rejection(&mut task::spawn(service.call(2))), OVERLOADED);
    }
}

#[tokio::test]
async fn a_ready_instance_rejects_if_the_slot_was_taken_since() {
    let layer = LoadShedLayer::new(1);
    let (mut service, _handle) = around_strict(&layer);
    assert_ready_ok!(poll_ready(&mut service));
    let _slot = layer.limit().try_acquire().unwrap();
    assert_eq!(rejection(&mut task::spawn(service.call(1))), OVERLOADED);
}

#[tokio::test]
async fn an_instance_that_would_have_waited_takes_a_slot_released_since() {
    let (mut service, mut handle) = around_strict(&queueing(1, 1));
    let first = call(&mut service, 1);
    assert_ready_ok!(poll_ready(&mut service));
    drop(first);
    let mut second = task::spawn(service.call(2));
    assert_pending!(second.poll());
    assert_eq!(sent(&mut handle), [1, 2]);
}

#[tokio::test]
async fn an_instance_that_would_have_waited_rejects_if_the_queue_filled_up_since() {
    let (mut service, _handle) = around_strict(&queueing(1, 1));
    let mut other = service.clone();
    let _first = call(&mut service, 1);
    assert_ready_ok!(poll_ready(&mut service));
    let _waiter = call(&mut other, 2);
    assert_eq!(rejection(&mut task::spawn(service.call(3))), OVERLOADED);
}

#[tokio::test]
async fn an_instance_that_found_the_queue_full_rejects_even_if_a_place_was_released_since() {
    let (mut service, _handle) = around_strict(&queueing(1, 1));
    let _first = call(&mut service, 1);
    let second = call(&mut service, 2);
    assert_ready_ok!(poll_ready(&mut service));
    drop(second);
    assert_eq!(rejection(&mut task::spawn(service.call(3))), OVERLOADED);
}

#[tokio::test]
async fn a_service_at_its_limit_does_not_poll_the_inner_service() {
    for layer in [LoadShedLayer::new(1), queueing(1, 1)] {
        let (mut service, mut handle) = around_strict(&layer);
        let _first = call(&mut service, 1);
        handle.send_error("whoever polls first gets this");
        assert_ready_ok!(poll_ready(&mut service));
    }
}

#[tokio::test]
async fn a_readiness_error_is_passed_on() {
    let (mut service, mut handle) = around_strict(&LoadShedLayer::new(1));
    handle.send_error("gone");
    let error = assert_ready_err!(poll_ready(&mut service));
    assert_eq!(error.to_string(), "gone");
}

#[tokio::test]
async fn a_call_error_is_passed_on() {
    let (mut service, mut handle) = around_strict(&LoadShedLayer::new(1));
    let mut call = call(&mut service, 1);
    let (_, response) = next_sent(&mut handle);
    response.send_error("refused");
    assert_eq!(assert_ready_err!(call.poll()).to_string(), "refused");
}

#[tokio::test]
async fn a_response_is_passed_on() {
    let (mut service, mut handle) = around_strict(&LoadShedLayer::new(1));
    let mut call = call(&mut service, 1);
    let (req, response) = next_sent(&mut handle);
    response.send_response(req + 41);
    assert_eq!(assert_ready_ok!(call.poll()), 42);
}

#[tokio::test]
#[should_panic(expected = "poll_ready must be called before call")]
async fn a_call_without_poll_ready_panics_with_a_clear_message() {
    let (mut service, _handle) = around_strict(&LoadShedLayer::new(1));
    drop(service.call(1));
}

#[tokio::test]
#[should_panic(expected = "poll_ready must be called before call")]
async fn readiness_is_valid_for_one_call() {
    let (mut service, _handle) = around_strict(&LoadShedLayer::new(2));
    let _first = call(&mut service, 1);
    drop(service.call(2));
}

#[tokio::test]
#[should_panic(expected = "poll_ready must be called before call")]
async fn a_clone_starts_unready() {
    let (mut service, _handle) = around_strict(&LoadShedLayer::new(1));
    assert_ready_ok!(poll_ready(&mut service));
    drop(service.clone().call(1));
}

#[tokio::test]
#[should_panic(expected = "poll_ready must be called before call")]
async fn an_instance_whose_readiness_failed_is_not_ready() {
    let (mut service, mut handle) = around_strict(&LoadShedLayer::new(1));
    assert_ready_ok!(poll_ready(&mut service));
    handle.send_error("gone");
    assert_ready_err!(poll_ready(&mut service));
    drop(service.call(1));
}

#[tokio::test]
async fn ready_clones_that_are_never_called_hold_no_slot() {
    let (service, mut handle) = around_strict(&LoadShedLayer::new(1));
    let mut clones = vec![service; 5_000];
    for clone in &mut clones {
        assert_ready_ok!(poll_ready(clone));
    }
    let _call = call(&mut clones[0], 1);
    assert_eq!(sent(&mut handle), [1]);
}

#[tokio::test]
async fn a_rejected_call_leaves_the_inner_service_ready() {
    let layer = LoadShedLayer::new(1);
    let (mut service, mut handle) = around_strict(&layer);
    assert_ready_ok!(poll_ready(&mut service));
    let slot = layer.limit().try_acquire().unwrap();
    drop(service.call(1));
    drop(slot);
    // Nothing else becomes ready: the second call uses the readiness that the rejected call left.
    handle.allow(0);
    let _call = call(&mut service, 2);
    assert_eq!(sent(&mut handle), [2]);
}

#[tokio::test]
async fn a_call_that_waits_releases_the_inner_readiness_of_its_instance() {
    let layer = queueing(1, 1);
    let (mut service, mut handle) = around_strict(&layer);
    assert_ready_ok!(poll_ready(&mut service));
    let slot = layer.limit().try_acquire().unwrap();
    drop(service.call(1));
    drop(slot);
    handle.allow(0);
    // The inner service is no longer ready, so the next call is rejected.
    assert_eq!(rejection(&mut call(&mut service, 2)), OVERLOADED);
}
