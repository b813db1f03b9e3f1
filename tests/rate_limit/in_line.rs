//! Calls that wait for their turn.

use super::{NANO, SECOND, STEADY, YEAR, almost, around_strict, echo, impatient, limited, patient};
use crate::strict::{call, poll_ready, sent};
use buttress::rate_limit::RateLimiter;
use buttress::{Quota, RateLimitLayer, StackError};
use std::future::{self, Future};
use std::pin::pin;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{self, Instant};
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};
use tower::{Layer, Service};

/// The output of a future, and how many polls it took.
async fn count_polls<F: Future>(future: F) -> (F::Output, usize) {
    let mut future = pin!(future);
    let mut polls = 0;
    let output = future::poll_fn(|cx| {
        polls += 1;
        future.as_mut().poll(cx)
    });
    (output.await, polls)
}

#[tokio::test(start_paused = true)]
async fn waiters_are_granted_in_order_each_at_its_turn() {
    let limiter = patient(Quota::per_second(10).burst(1)).limiter().clone();
    limiter.try_acquire(1).unwrap();
    let start = Instant::now();
    let mut waiters = JoinSet::new();
    for i in 1..=10_u32 {
        let limiter = limiter.clone();
        waiters.spawn(async move {
            limiter.acquire(1).await.unwrap();
            (i, start.elapsed())
        });
    }
    let mut served = Vec::new();
    while let Some(waiter) = waiters.join_next().await {
        served.push(waiter.unwrap());
    }
    let turns = (1..=10).map(|i| (i, i * Duration::from_millis(100)));
    assert_eq!(served, turns.collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn each_waiter_is_woken_once() {
    let limiter = patient(Quota::per_second(10).burst(1)).limiter().clone();
    limiter.try_acquire(1).unwrap();
    let mut waiters = JoinSet::new();
    for _ in 0..10 {
        let limiter = limiter.clone();
        waiters.spawn(async move { count_polls(limiter.acquire(1)).await.1 });
    }
    // One poll to start waiting, and one after the wakeup.
    assert_eq!(waiters.join_all().await, [2; 10]);
}

#[tokio::test(start_paused = true)]
async fn waiting_calls_are_sent_in_the_order_they_were_made_however_they_are_polled() {
    let mut service = patient(Quota::per_second(10).burst(1)).layer(echo());
    let mut calls = Vec::new();
    for req in 0..=10 {
        assert_ready_ok!(poll_ready(&mut service));
        calls.push(service.call(req));
    }
    let mut tasks = JoinSet::new();
    for call in calls.into_iter().rev() {
        tasks.spawn(call);
    }
    let mut served = Vec::new();
    while let Some(call) = tasks.join_next().await {
        served.push(call.unwrap().unwrap());
    }
    assert_eq!(served, (0..=10).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn each_waiting_call_is_woken_once() {
    let mut service = patient(Quota::per_second(10).burst(1)).layer(echo());
    let mut calls = JoinSet::new();
    for req in 0..=10 {
        assert_ready_ok!(poll_ready(&mut service));
        let call = service.call(req);
        calls.spawn(async move { (req, count_polls(call).await.1) });
    }
    let mut polls = calls.join_all().await;
    polls.sort_unstable();
    let expected = (0..=10).map(|req| (req, if req == 0 { 1 } else { 2 }));
    assert_eq!(polls, expected.collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_future_that_moved_to_another_task_is_woken_there() {
    let (mut service, _handle) = around_strict(&patient(STEADY));
    let _first = call(&mut service, 1);
    assert_ready_ok!(poll_ready(&mut service));
    let mut waiter = pin!(service.call(2));
    let [mut here, mut there] = [task::spawn(()), task::spawn(())];
    assert_pending!(here.enter(|cx, _| waiter.as_mut().poll(cx)));
    assert_pending!(there.enter(|cx, _| waiter.as_mut().poll(cx)));
    time::advance(SECOND).await;
    assert_eq!((here.is_woken(), there.is_woken()), (false, true));
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_up_to_a_second_unless_set_otherwise() {
    let (mut service, mut handle) = around_strict(&RateLimitLayer::new(STEADY));
    let _first = call(&mut service, 1);
    let mut second = call(&mut service, 2);
    assert_pending!(second.poll());
    time::advance(SECOND).await;
    assert_pending!(second.poll());
    assert_eq!(sent(&mut handle), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_call_with_too_long_a_wait_is_rejected_at_once_with_that_wait() {
    let layer = RateLimitLayer::builder(STEADY).max_wait(almost(SECOND));
    let (mut service, _handle) = around_strict(&layer.build().unwrap());
    let _first = call(&mut service, 1);
    let error = assert_ready_err!(call(&mut service, 2).poll());
    assert_eq!(error.rejection(), Some(limited(SECOND)));
}

#[tokio::test(start_paused = true)]
async fn a_rejected_call_does_not_delay_later_ones() {
    let limiter = RateLimiter::new(STEADY);
    limiter.try_acquire(1).unwrap();
    let mut waiter = task::spawn(limiter.acquire(1));
    assert_pending!(waiter.poll());
    for _ in 0..100 {
        let mut call = task::spawn(limiter.acquire(1));
        assert_eq!(assert_ready_err!(call.poll()).0, limited(2 * SECOND));
    }
}

#[tokio::test(start_paused = true)]
async fn with_a_longest_wait_of_zero_no_call_waits() {
    let (mut service, _handle) = around_strict(&impatient(Quota::new(1, NANO).burst(1)));
    let _first = call(&mut service, 1);
    let error = assert_ready_err!(call(&mut service, 2).poll());
    assert_eq!(error.rejection(), Some(limited(NANO)));
}

#[tokio::test(start_paused = true)]
async fn with_an_unlimited_longest_wait_calls_wait_for_years() {
    let limiter = patient(Quota::new(1, 3 * YEAR)).limiter().clone();
    limiter.try_acquire(1).unwrap();
    let start = Instant::now();
    limiter.acquire(1).await.unwrap();
    assert_eq!(start.elapsed(), 3 * YEAR);
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_passed_before_the_first_poll_needs_no_timer() {
    let (mut service, mut handle) = around_strict(&patient(STEADY));
    let _first = call(&mut service, 1);
    let mut waiter = call(&mut service, 2);
    // The clock has moved, but no timer has fired yet.
    let mut advance = task::spawn(time::advance(2 * SECOND));
    assert_pending!(advance.poll());
    assert_pending!(waiter.poll());
    assert_eq!(sent(&mut handle), [1, 2]);
}
