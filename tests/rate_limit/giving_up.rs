//! Turns that are given back.

use super::{NANO, SECOND, STEADY, almost, around_strict, denied, patient, readying};
use crate::strict::call;
use tokio::time::{self};
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};

#[tokio::test(start_paused = true)]
async fn the_newest_waiter_gives_its_turn_back_when_cancelled() {
    let limiter = patient(STEADY).limiter().clone();
    limiter.try_acquire(1).unwrap();
    let mut newest = task::spawn(limiter.acquire(1));
    assert_pending!(newest.poll());
    drop(newest);
    assert_eq!(limiter.try_acquire(1), Err(denied(SECOND)));
}

#[tokio::test(start_paused = true)]
async fn a_costly_waiter_gives_its_whole_cost_back() {
    let limiter = patient(STEADY.burst(3)).limiter().clone();
    limiter.try_acquire(2).unwrap();
    let mut newest = task::spawn(limiter.acquire(3));
    assert_pending!(newest.poll());
    drop(newest);
    assert_eq!(limiter.try_acquire(1), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_waiter_in_the_middle_gives_its_place_to_those_behind_it() {
    let limiter = patient(STEADY).limiter().clone();
    limiter.try_acquire(1).unwrap();
    let mut middle = task::spawn(limiter.acquire(1));
    assert_pending!(middle.poll());
    let mut newest = task::spawn(limiter.acquire(1));
    assert_pending!(newest.poll());
    drop(middle);
    assert_eq!(limiter.try_acquire(1), Err(denied(2 * SECOND)));
}

#[tokio::test(start_paused = true)]
async fn waiters_behind_a_cancelled_one_move_up() {
    let limiter = patient(STEADY).limiter().clone();
    limiter.try_acquire(1).unwrap();
    let mut middle = task::spawn(limiter.acquire(1));
    assert_pending!(middle.poll());
    let mut newest = task::spawn(limiter.acquire(1));
    assert_pending!(newest.poll());
    drop(middle);
    time::advance(almost(SECOND)).await;
    assert_pending!(newest.poll());
    time::advance(NANO).await;
    assert_ready_ok!(newest.poll());
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_was_granted_gives_nothing_back() {
    let limiter = patient(STEADY).limiter().clone();
    limiter.try_acquire(1).unwrap();
    let mut waiter = task::spawn(limiter.acquire(1));
    assert_pending!(waiter.poll());
    time::advance(SECOND).await;
    assert_ready_ok!(waiter.poll());
    drop(waiter);
    assert_eq!(limiter.try_acquire(1), Err(denied(SECOND)));
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_before_its_first_poll_gives_its_turn_back() {
    let layer = patient(STEADY);
    let (mut service, _handle) = around_strict(&layer);
    let _first = call(&mut service, 1);
    drop(call(&mut service, 2));
    assert_eq!(layer.limiter().try_acquire(1), Err(denied(SECOND)));
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_while_waiting_gives_its_turn_back() {
    let layer = patient(STEADY);
    let (mut service, _handle) = around_strict(&layer);
    let _first = call(&mut service, 1);
    let mut newest = call(&mut service, 2);
    assert_pending!(newest.poll());
    drop(newest);
    assert_eq!(layer.limiter().try_acquire(1), Err(denied(SECOND)));
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_while_waiting_for_readiness_gives_its_turn_back() {
    let layer = patient(STEADY);
    let (_first, readying, _handle) = readying(&layer).await;
    drop(readying);
    assert_eq!(layer.limiter().try_acquire(1), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_call_in_the_middle_dropped_while_waiting_for_readiness_hands_its_turn_on() {
    let layer = patient(STEADY);
    let (_first, readying, _handle) = readying(&layer).await;
    let limiter = layer.limiter();
    let mut newest = task::spawn(limiter.acquire(1));
    assert_pending!(newest.poll());
    drop(readying);
    assert_ready_ok!(newest.poll());
    assert_eq!(limiter.try_acquire(1), Err(denied(SECOND)));
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_inner_service_fails_gives_its_turn_back() {
    let layer = patient(STEADY);
    let (_first, mut readying, mut handle) = readying(&layer).await;
    handle.send_error("gone");
    assert_ready_err!(readying.poll());
    assert_eq!(layer.limiter().try_acquire(1), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_sent_gives_nothing_back() {
    let layer = patient(STEADY);
    let (_first, mut readying, mut handle) = readying(&layer).await;
    handle.allow(1);
    assert_pending!(readying.poll());
    drop(readying);
    assert_eq!(layer.limiter().try_acquire(1), Err(denied(SECOND)));
}
