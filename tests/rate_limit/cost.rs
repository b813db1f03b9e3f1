//! The cost of a call.

use super::{NANO, SECOND, STEADY, almost, around_strict};
use crate::strict::{call, sent};
use buttress::{Name, RateLimitLayer, Rejection, StackError};
use std::time::Duration;
use tokio::time::{self};
use tokio_test::{assert_pending, assert_ready_err};

#[expect(clippy::trivially_copy_pass_by_ref, reason = "a cost is of `&Req`")]
fn doubled(req: &u32) -> u32 {
    req * 2
}

#[tokio::test(start_paused = true)]
async fn a_function_can_set_the_cost_of_a_call() {
    let layer = RateLimitLayer::builder(STEADY.burst(10)).cost(doubled);
    let layer = layer.build().unwrap();
    let (mut service, _handle) = around_strict(&layer);
    let _call = call(&mut service, 3);
    assert_eq!(layer.limiter().snapshot().available, 4);
}

#[tokio::test(start_paused = true)]
async fn a_closure_can_set_the_cost_of_a_call() {
    let each = 3;
    let layer = RateLimitLayer::builder(STEADY.burst(10)).cost(move |req: &u32| req * each);
    let layer = layer.build().unwrap();
    let (mut service, _handle) = around_strict(&layer);
    let _call = call(&mut service, 2);
    assert_eq!(layer.limiter().snapshot().available, 4);
}

#[tokio::test(start_paused = true)]
async fn a_call_costs_one_by_default() {
    let layer = RateLimitLayer::new(STEADY.burst(10));
    let (mut service, _handle) = around_strict(&layer);
    let _call = call(&mut service, 7);
    assert_eq!(layer.limiter().snapshot().available, 9);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_costs_nothing_is_sent_when_the_quota_is_used_up() {
    let layer = RateLimitLayer::builder(STEADY).cost(|req: &u32| *req);
    let (mut service, mut handle) = around_strict(&layer.build().unwrap());
    let (_one, _free) = (call(&mut service, 1), call(&mut service, 0));
    assert_eq!(sent(&mut handle), [1, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_costly_call_waits_until_its_whole_cost_is_available() {
    let layer = RateLimitLayer::builder(STEADY.burst(3))
        .max_wait(Duration::MAX)
        .cost(|req: &u32| *req);
    let (mut service, mut handle) = around_strict(&layer.build().unwrap());
    let _first = call(&mut service, 2);
    let mut second = call(&mut service, 3);
    assert_pending!(second.poll());
    time::advance(almost(2 * SECOND)).await;
    assert_pending!(second.poll());
    assert_eq!(sent(&mut handle), [2]);
    time::advance(NANO).await;
    assert_pending!(second.poll());
    assert_eq!(sent(&mut handle), [3]);
}

#[tokio::test(start_paused = true)]
async fn a_call_above_the_burst_is_rejected_at_once() {
    let layer = RateLimitLayer::builder(STEADY.burst(3))
        .max_wait(Duration::MAX)
        .cost(|req: &u32| *req);
    let (mut service, _handle) = around_strict(&layer.build().unwrap());
    let error = assert_ready_err!(call(&mut service, 4).poll());
    assert_eq!(
        error.rejection(),
        Some(Rejection::TooCostly {
            cost: 4,
            burst: 3,
            by: Name::UNNAMED
        })
    );
}
