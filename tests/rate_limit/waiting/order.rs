//! The order of calls, and calls that are decided without waiting.

use super::{SECOND, STEADY, TENTHS, denied, patient, tenths, unpolled, waiting, waits_up_to};
use buttress::Quota;
use buttress::rate_limit::RateLimiter;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{self, Instant, sleep_until};
use tokio_test::task::{self};
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok};

const NANO: Duration = Duration::from_nanos(1);

// Order

#[tokio::test(start_paused = true)]
async fn a_cheap_call_does_not_overtake_a_costly_one() {
    let limiter = patient(STEADY.burst(5));
    let mut dear = waiting(&limiter, 5);
    let mut cheap = waiting(&limiter, 1);
    let mut free = waiting(&limiter, 0);
    time::advance((5 * SECOND).abs_diff(NANO)).await;
    assert_pending!(dear.poll());
    assert_pending!(cheap.poll());
    assert_pending!(free.poll());
    limiter.try_acquire(1).unwrap_err();
    time::advance(NANO).await;
    assert_ready_ok!(dear.poll());
    assert_pending!(cheap.poll());
    time::advance(SECOND).await;
    assert_ready_ok!(free.poll());
    assert_ready_ok!(cheap.poll());
}

#[tokio::test(start_paused = true)]
async fn calls_are_granted_in_order_whatever_they_cost() {
    let limiter = patient(Quota::per_second(10).burst(5));
    let (start, mut tasks) = (Instant::now(), JoinSet::new());
    let served = Arc::new(Mutex::new(Vec::new()));
    for cost in [3, 1, 5, 0, 2, 1] {
        let (limiter, served) = (limiter.clone(), served.clone());
        tasks.spawn(async move {
            limiter.acquire(cost).await.unwrap();
            served.lock().unwrap().push((cost, start.elapsed()));
        });
        tokio::task::yield_now().await;
    }
    tasks.join_all().await;
    let served = served.lock().unwrap().clone();
    let turns = [(3, 3), (1, 4), (5, 9), (0, 9), (2, 11), (1, 12)];
    assert_eq!(served, turns.map(|(cost, at)| (cost, tenths(at))));
}

#[tokio::test(start_paused = true)]
async fn a_new_call_does_not_overtake_waiters_even_if_it_could_be_granted() {
    let limiter = patient(STEADY.burst(5));
    let mut dear = waiting(&limiter, 5);
    time::advance(3 * SECOND).await;
    assert_eq!(limiter.try_acquire(1), Err(denied(3 * SECOND)));
    assert_pending!(dear.poll());
}

#[tokio::test(start_paused = true)]
async fn each_waiter_is_woken_once_even_if_new_calls_arrive() {
    let limiter = patient(TENTHS);
    let mut tasks = JoinSet::new();
    for _ in 0..10 {
        let limiter = limiter.clone();
        tasks.spawn(async move {
            let (mut acquire, mut polls) = (pin!(limiter.acquire(1)), 0);
            let granted = poll_fn(|cx| {
                polls += 1;
                acquire.as_mut().poll(cx)
            });
            granted.await.unwrap();
            polls
        });
    }
    for _ in 0..40 {
        time::sleep(SECOND / 40).await;
        limiter.try_acquire(1).unwrap_err();
    }
    assert_eq!(tasks.join_all().await, [2; 10]);
}

#[tokio::test(start_paused = true)]
async fn a_future_that_moved_to_another_task_is_woken_there() {
    let limiter = patient(STEADY);
    let mut waiter = pin!(limiter.acquire(1));
    let mut tasks = [(); 3].map(|()| task::spawn(()));
    for task in &mut tasks {
        task.enter(|cx, _| assert_pending!(waiter.as_mut().poll(cx)));
    }
    time::advance(SECOND).await;
    assert_eq!(tasks.map(|task| task.is_woken()), [false, false, true]);
}

#[tokio::test(start_paused = true)]
async fn a_future_that_moved_to_another_task_is_woken_there_by_a_cancelled_waiter() {
    let limiter = patient(STEADY);
    let first = waiting(&limiter, 1);
    let mut second = pin!(limiter.acquire(1));
    let mut tasks = [(); 3].map(|()| task::spawn(()));
    for task in &mut tasks {
        task.enter(|cx, _| assert_pending!(second.as_mut().poll(cx)));
    }
    time::advance(SECOND).await;
    drop(first);
    assert_eq!(tasks.map(|task| task.is_woken()), [false, false, true]);
}

// Decided without waiting

#[tokio::test(start_paused = true)]
async fn a_rejected_call_is_told_when_it_would_be_granted_behind_the_waiters() {
    let limiter = patient(TENTHS.burst(3));
    let (start, mut tasks) = (Instant::now(), JoinSet::new());
    for cost in [2, 3, 0, 1] {
        let limiter = limiter.clone();
        tasks.spawn(async move { limiter.acquire(cost).await });
        tokio::task::yield_now().await;
    }
    for twentieths in 0..16 {
        sleep_until(start + SECOND * twentieths / 20).await;
        let wait = tenths(8).abs_diff(start.elapsed());
        assert_eq!(limiter.try_acquire(2), Err(denied(wait)));
    }
    time::advance((SECOND / 20).abs_diff(NANO)).await;
    assert_eq!(limiter.try_acquire(2), Err(denied(NANO)));
    time::advance(NANO).await;
    assert_eq!(limiter.try_acquire(2), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_turn_comes_too_late_is_rejected_at_once_and_delays_no_other() {
    let limiter = waits_up_to(tenths(2), TENTHS);
    limiter.try_acquire(1).unwrap();
    let _waiters = [waiting(&limiter, 1), waiting(&limiter, 1)];
    for _ in 0..100 {
        let mut late = unpolled(&limiter, 1);
        assert_eq!(assert_ready_err!(late.poll()), denied(tenths(3)));
    }
    assert_eq!(limiter.snapshot().waiting, 2);
}

#[test]
fn calls_that_do_not_wait_need_no_runtime() {
    let limiter = RateLimiter::new(Quota::new(1, 3600 * SECOND).burst(2));
    let mut acquire = unpolled(&limiter, 1);
    assert_ready_ok!(acquire.poll());
    limiter.try_acquire(1).unwrap();
    limiter.try_acquire(1).unwrap_err();
    let mut rejected = unpolled(&limiter, 1);
    assert_ready_err!(rejected.poll());
    limiter.set_quota(Quota::per_second(1).burst(9));
    limiter.resume();
    assert_eq!(limiter.snapshot().waiting, 0);
}
