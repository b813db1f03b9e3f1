//! Snapshots and events.

use super::{SECOND, STEADY, almost, around_strict, patient};
use crate::events;
use crate::strict::call;
use buttress::rate_limit::RateLimiter;
use buttress::{Quota, RateLimitLayer};
use std::time::Duration;
use tokio::time::{self, Instant};
use tokio_test::{assert_pending, task};

#[tokio::test(start_paused = true)]
async fn a_snapshot_shows_how_many_calls_would_be_granted_at_once() {
    let limiter = RateLimiter::new(STEADY.burst(5));
    limiter.try_acquire(4).unwrap();
    time::advance(2 * SECOND).await;
    assert_eq!(limiter.snapshot().available, 3);
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_shows_nothing_available_while_calls_wait() {
    let limiter = patient(STEADY).limiter().clone();
    limiter.try_acquire(1).unwrap();
    let mut waiter = task::spawn(limiter.acquire(1));
    assert_pending!(waiter.poll());
    time::advance(SECOND / 2).await;
    assert_eq!(limiter.snapshot().available, 0);
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_shows_nothing_available_while_paused() {
    let limiter = RateLimiter::new(STEADY.burst(5));
    limiter.pause_until(Instant::now() + 5 * SECOND);
    time::advance(almost(5 * SECOND)).await;
    assert_eq!(limiter.snapshot().available, 0);
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_shows_the_current_quota() {
    let limiter = RateLimiter::new(STEADY);
    limiter.set_quota(Quota::per_minute(7));
    assert_eq!(limiter.snapshot().quota, Quota::per_minute(7));
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_shows_the_name() {
    let layer = RateLimitLayer::builder(STEADY).name("payments");
    let layer = layer.build().unwrap();
    assert_eq!(layer.limiter().snapshot().name.as_str(), Some("payments"));
}

#[tokio::test(start_paused = true)]
async fn a_call_over_the_limit_emits_an_event() {
    let layer = RateLimitLayer::builder(STEADY.burst(3))
        .max_wait(Duration::ZERO)
        .cost(|req: &u32| *req)
        .name("payments");
    let (mut service, _handle) = around_strict(&layer.build().unwrap());
    let events = events::of(async {
        let (_one, _two) = (call(&mut service, 3), call(&mut service, 2));
    })
    .await;
    assert_eq!(
        events,
        [r#"DEBUG buttress::rate_limit rate_limited name="payments" cost=2 retry_after_ms=2000"#]
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_too_costly_emits_an_event() {
    let layer = RateLimitLayer::builder(STEADY.burst(3))
        .cost(|req: &u32| *req)
        .name("payments");
    let (mut service, _handle) = around_strict(&layer.build().unwrap());
    let events = events::of(async { drop(call(&mut service, 4)) }).await;
    assert_eq!(
        events,
        [r#"DEBUG buttress::rate_limit too_costly name="payments" cost=4 burst=3"#]
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_emits_no_event() {
    let (mut service, _handle) = around_strict(&patient(STEADY));
    let events = events::of(async {
        let (_one, mut two) = (call(&mut service, 1), call(&mut service, 2));
        assert_pending!(two.poll());
    })
    .await;
    assert_eq!(events, [""; 0]);
}
