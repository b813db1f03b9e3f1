//! When an instance is ready.

use super::{OVERLOADED, around_strict, queueing, rejection};
use crate::strict::{call, next_sent, poll_ready, sent};
use buttress::LoadShedLayer;
use std::time::Duration;
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};
use tower::Service;

#[tokio::test]
async fn an_inner_service_that_is_not_ready_rejects_at_once() {
    let (mut service, mut handle) = around_strict(&LoadShedLayer::new(1));
    handle.allow(0);
    assert_eq!(rejection(&mut call(&mut service, 1)), OVERLOADED);
}

#[tokio::test]
async fn an_inner_service_that_is_not_ready_rejects_at_once_queue_or_not() {
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
async fn an_instance_that_found_the_inner_service_unready_rejects_whatever_changed_since() {
    let (mut service, mut handle) = around_strict(&LoadShedLayer::new(1));
    handle.allow(0);
    assert_ready_ok!(poll_ready(&mut service));
    handle.allow(1);
    assert_eq!(rejection(&mut task::spawn(service.call(1))), OVERLOADED);
}

#[tokio::test]
async fn an_instance_that_was_full_when_polled_rejects_though_a_slot_was_freed_since() {
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
async fn an_instance_that_was_ready_when_polled_rejects_if_the_slot_is_gone() {
    let layer = LoadShedLayer::new(1);
    let (mut service, _handle) = around_strict(&layer);
    assert_ready_ok!(poll_ready(&mut service));
    let _slot = layer.limit().try_acquire().unwrap();
    assert_eq!(rejection(&mut task::spawn(service.call(1))), OVERLOADED);
}

#[tokio::test]
async fn an_instance_that_was_to_wait_takes_a_slot_freed_since() {
    let (mut service, mut handle) = around_strict(&queueing(1, 1));
    let first = call(&mut service, 1);
    assert_ready_ok!(poll_ready(&mut service));
    drop(first);
    let mut second = task::spawn(service.call(2));
    assert_pending!(second.poll());
    assert_eq!(sent(&mut handle), [1, 2]);
}

#[tokio::test]
async fn an_instance_that_was_to_wait_rejects_if_its_place_is_gone() {
    let (mut service, _handle) = around_strict(&queueing(1, 1));
    let mut other = service.clone();
    let _first = call(&mut service, 1);
    assert_ready_ok!(poll_ready(&mut service));
    let _waiter = call(&mut other, 2);
    assert_eq!(rejection(&mut task::spawn(service.call(3))), OVERLOADED);
}

#[tokio::test]
async fn an_instance_that_found_the_queue_full_rejects_though_a_place_was_freed_since() {
    let (mut service, _handle) = around_strict(&queueing(1, 1));
    let _first = call(&mut service, 1);
    let second = call(&mut service, 2);
    assert_ready_ok!(poll_ready(&mut service));
    drop(second);
    assert_eq!(rejection(&mut task::spawn(service.call(3))), OVERLOADED);
}

#[tokio::test]
async fn a_full_service_does_not_poll_the_inner_one() {
    for layer in [LoadShedLayer::new(1), queueing(1, 1)] {
        let (mut service, mut handle) = around_strict(&layer);
        let _first = call(&mut service, 1);
        handle.send_error("whoever polls first gets this");
        assert_ready_ok!(poll_ready(&mut service));
    }
}

#[tokio::test]
async fn an_error_of_readiness_passes() {
    let (mut service, mut handle) = around_strict(&LoadShedLayer::new(1));
    handle.send_error("gone");
    let error = assert_ready_err!(poll_ready(&mut service));
    assert_eq!(error.to_string(), "gone");
}

#[tokio::test]
async fn an_error_of_the_call_passes() {
    let (mut service, mut handle) = around_strict(&LoadShedLayer::new(1));
    let mut call = call(&mut service, 1);
    let (_, response) = next_sent(&mut handle);
    response.send_error("refused");
    assert_eq!(assert_ready_err!(call.poll()).to_string(), "refused");
}

#[tokio::test]
async fn an_answer_passes() {
    let (mut service, mut handle) = around_strict(&LoadShedLayer::new(1));
    let mut call = call(&mut service, 1);
    let (req, response) = next_sent(&mut handle);
    response.send_response(req + 41);
    assert_eq!(assert_ready_ok!(call.poll()), 42);
}

#[tokio::test]
#[should_panic(expected = "poll_ready must be called before call")]
async fn a_call_that_was_not_readied_panics_with_the_promise() {
    let (mut service, _handle) = around_strict(&LoadShedLayer::new(1));
    drop(service.call(1));
}

#[tokio::test]
#[should_panic(expected = "poll_ready must be called before call")]
async fn readiness_is_good_for_one_call() {
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
async fn an_instance_whose_readiness_erred_is_not_ready() {
    let (mut service, mut handle) = around_strict(&LoadShedLayer::new(1));
    assert_ready_ok!(poll_ready(&mut service));
    handle.send_error("gone");
    assert_ready_err!(poll_ready(&mut service));
    drop(service.call(1));
}

#[tokio::test]
async fn ready_clones_that_are_never_called_hold_nothing() {
    let (service, mut handle) = around_strict(&LoadShedLayer::new(1));
    let mut clones = vec![service; 5_000];
    for clone in &mut clones {
        assert_ready_ok!(poll_ready(clone));
    }
    let _call = call(&mut clones[0], 1);
    assert_eq!(sent(&mut handle), [1]);
}

#[tokio::test]
async fn a_rejected_call_leaves_the_readiness_it_did_not_use() {
    let layer = LoadShedLayer::new(1);
    let (mut service, mut handle) = around_strict(&layer);
    assert_ready_ok!(poll_ready(&mut service));
    let slot = layer.limit().try_acquire().unwrap();
    drop(service.call(1));
    drop(slot);
    // Nothing new becomes ready: only what was readied for the rejected call is.
    handle.allow(0);
    let _call = call(&mut service, 2);
    assert_eq!(sent(&mut handle), [2]);
}

#[tokio::test]
async fn a_call_that_waits_gives_up_what_its_instance_had_reserved() {
    let layer = queueing(1, 1);
    let (mut service, mut handle) = around_strict(&layer);
    assert_ready_ok!(poll_ready(&mut service));
    let slot = layer.limit().try_acquire().unwrap();
    drop(service.call(1));
    drop(slot);
    handle.allow(0);
    // The inner service is not ready any more, so the next call is rejected.
    assert_eq!(rejection(&mut call(&mut service, 2)), OVERLOADED);
}
