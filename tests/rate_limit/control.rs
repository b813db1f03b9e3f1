//! Pauses and changes of the quota.

use super::{
    DAY, NANO, SECOND, STEADY, YEAR, almost, around_strict, denied, impatient, limited, patient,
};
use crate::strict::call;
use buttress::error::Rejected;
use buttress::rate_limit::RateLimiter;
use buttress::{Name, Quota, Rejection, StackError};
use std::pin::pin;
use std::time::Duration;
use tokio::time::{self, Instant};
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};

#[tokio::test(start_paused = true)]
async fn a_pause_grants_nothing_before_its_end() {
    let limiter = RateLimiter::new(Quota::per_second(10).burst(5));
    limiter.pause_until(Instant::now() + 5 * SECOND);
    time::advance(almost(5 * SECOND)).await;
    assert_eq!(limiter.try_acquire(1), Err(denied(NANO)));
}

#[tokio::test(start_paused = true)]
async fn at_the_end_of_a_pause_calls_are_granted_one_by_one() {
    let limiter = RateLimiter::new(Quota::per_second(10).burst(5));
    limiter.pause_until(Instant::now() + 5 * SECOND);
    time::advance(5 * SECOND).await;
    limiter.try_acquire(1).unwrap();
    let interval = Duration::from_millis(100);
    assert_eq!(limiter.try_acquire(1), Err(denied(interval)));
}

#[tokio::test(start_paused = true)]
async fn after_a_pause_no_burst_is_left_for_a_costly_call() {
    let limiter = RateLimiter::new(Quota::per_second(10).burst(5));
    limiter.pause_until(Instant::now() + 5 * SECOND);
    time::advance(5 * SECOND).await;
    let two_more = Duration::from_millis(200);
    assert_eq!(limiter.try_acquire(3), Err(denied(two_more)));
}

#[tokio::test(start_paused = true)]
async fn the_burst_refills_from_the_end_of_a_pause_on() {
    let limiter = RateLimiter::new(Quota::per_second(10).burst(5));
    limiter.pause_until(Instant::now() + 5 * SECOND);
    time::advance(5 * SECOND + Duration::from_millis(200)).await;
    let granted = (0..10).filter(|_| limiter.try_acquire(1).is_ok());
    assert_eq!(granted.count(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_pause_applies_to_calls_of_cost_zero_too() {
    for quota in [Quota::per_second(10), Quota::new(1, DAY)] {
        let limiter = RateLimiter::new(quota);
        limiter.pause_until(Instant::now() + 5 * SECOND);
        time::advance(almost(5 * SECOND)).await;
        assert_eq!(limiter.try_acquire(0), Err(denied(NANO)), "{quota:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_applies_to_an_unlimited_quota_too() {
    let limiter = RateLimiter::new(Quota::new(1, Duration::ZERO));
    limiter.pause_until(Instant::now() + 5 * SECOND);
    time::advance(almost(5 * SECOND)).await;
    assert_eq!(limiter.try_acquire(1), Err(denied(NANO)));
}

#[tokio::test(start_paused = true)]
async fn a_pause_is_not_shortened() {
    let limiter = RateLimiter::new(STEADY);
    let start = Instant::now();
    limiter.pause_until(start + 5 * SECOND);
    limiter.pause_until(start + SECOND);
    assert_eq!(limiter.try_acquire(1), Err(denied(5 * SECOND)));
}

#[tokio::test(start_paused = true)]
async fn a_pause_of_centuries_rejects_every_call() {
    let limiter = RateLimiter::new(STEADY);
    limiter.pause_until(Instant::now() + 500 * YEAR);
    time::advance(100 * YEAR).await;
    assert!(limiter.try_acquire(1).is_err());
}

#[tokio::test(start_paused = true)]
async fn waiters_are_granted_after_a_pause_that_starts_while_they_wait() {
    let limiter = patient(STEADY).limiter().clone();
    limiter.try_acquire(1).unwrap();
    let mut waiter = task::spawn(limiter.acquire(1));
    assert_pending!(waiter.poll());
    limiter.pause_until(Instant::now() + 5 * SECOND);
    time::advance(almost(5 * SECOND)).await;
    assert_pending!(waiter.poll());
    time::advance(NANO).await;
    assert_ready_ok!(waiter.poll());
}

#[tokio::test(start_paused = true)]
async fn a_new_call_during_a_pause_comes_after_the_waiters() {
    let limiter = patient(STEADY).limiter().clone();
    limiter.try_acquire(1).unwrap();
    let mut waiter = task::spawn(limiter.acquire(1));
    assert_pending!(waiter.poll());
    limiter.pause_until(Instant::now() + 5 * SECOND);
    assert_eq!(limiter.try_acquire(1), Err(denied(6 * SECOND)));
}

#[tokio::test(start_paused = true)]
async fn a_turn_given_back_does_not_shorten_a_pause() {
    let limiter = patient(STEADY.burst(3)).limiter().clone();
    limiter.try_acquire(3).unwrap();
    let mut waiter = task::spawn(limiter.acquire(3));
    assert_pending!(waiter.poll());
    limiter.pause_until(Instant::now() + 3 * SECOND);
    drop(waiter);
    time::advance(almost(3 * SECOND)).await;
    assert!(limiter.try_acquire(1).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_pause_applies_to_calls_of_a_service() {
    let layer = impatient(STEADY);
    let (mut service, _handle) = around_strict(&layer);
    layer.limiter().pause_until(Instant::now() + 5 * SECOND);
    let error = assert_ready_err!(call(&mut service, 1).poll());
    assert_eq!(error.rejection(), Some(limited(5 * SECOND)));
}

#[tokio::test(start_paused = true)]
async fn rate_and_burst_change_together() {
    let limiter = RateLimiter::new(STEADY);
    limiter.try_acquire(1).unwrap();
    limiter.set_quota(Quota::per_second(10).burst(3));
    time::advance(SECOND).await;
    limiter.try_acquire(3).unwrap();
    let interval = Duration::from_millis(100);
    assert_eq!(limiter.try_acquire(1), Err(denied(interval)));
}

#[tokio::test(start_paused = true)]
async fn an_idle_limiter_has_the_whole_burst_of_a_new_quota() {
    let limiter = RateLimiter::new(STEADY);
    limiter.set_quota(Quota::per_second(10).burst(3));
    assert_eq!(limiter.snapshot().available, 3);
}

#[tokio::test(start_paused = true)]
async fn waiters_are_granted_at_the_current_quota() {
    let interval = Duration::from_millis(1);
    for (quota, turn) in [
        (Quota::per_second(1_000).burst(100), interval),
        (Quota::new(1, DAY), DAY),
    ] {
        let limiter = patient(STEADY).limiter().clone();
        limiter.try_acquire(1).unwrap();
        let start = Instant::now();
        let mut waiter = pin!(limiter.acquire(1));
        assert!(task::spawn(waiter.as_mut()).poll().is_pending());
        limiter.set_quota(quota);
        waiter.await.unwrap();
        assert_eq!(start.elapsed(), turn, "{quota:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_call_does_not_overtake_waiters_when_the_quota_is_raised() {
    let limiter = patient(STEADY).limiter().clone();
    limiter.try_acquire(1).unwrap();
    let mut waiter = task::spawn(limiter.acquire(1));
    assert_pending!(waiter.poll());
    limiter.set_quota(Quota::per_second(1_000).burst(100));
    let behind = Duration::from_millis(2);
    assert_eq!(limiter.try_acquire(1), Err(denied(behind)));
}

#[tokio::test(start_paused = true)]
async fn a_change_of_quota_does_not_end_a_pause() {
    let limiter = RateLimiter::new(STEADY);
    limiter.pause_until(Instant::now() + 5 * SECOND);
    limiter.set_quota(Quota::per_second(1_000).burst(100));
    assert_eq!(limiter.try_acquire(1), Err(denied(5 * SECOND)));
}

#[tokio::test(start_paused = true)]
async fn a_quota_of_zero_rejects_new_calls_until_it_is_raised() {
    let limiter = RateLimiter::new(STEADY);
    limiter.set_quota(Quota::per_second(0));
    let stopped = limiter.try_acquire(1);
    limiter.set_quota(STEADY);
    assert_eq!(
        (stopped, limiter.try_acquire(1)),
        (
            Err(Rejected(Rejection::RateLimited {
                retry_after: None,
                by: Name::UNNAMED
            })),
            Ok(())
        )
    );
}
