//! When a call gets its turn.

use super::{DAY, NANO, SECOND, STEADY, YEAR, almost, around_strict, denied, impatient, patient};
use crate::strict::{call, sent};
use buttress::error::Rejected;
use buttress::rate_limit::RateLimiter;
use buttress::{Name, Quota, Rejection, StackError};
use proptest::prelude::*;
use std::future::Future;
use std::iter;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime;
use tokio::task::JoinSet;
use tokio::time::{self, Instant};
use tokio_test::{assert_pending, assert_ready_err, task};

fn retry_after(denied: Result<(), Rejected>) -> Duration {
    match denied {
        Err(Rejected(Rejection::RateLimited {
            retry_after: Some(wait),
            ..
        })) => wait,
        other => panic!("not a denial with a time: {other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn no_window_has_more_calls_than_the_burst_plus_the_rate(
        interval_ms in 1..200_u32,
        burst in 1..6_u32,
        calls in prop::collection::vec((0..400_u64, 0..4_u32, 0..4_u8), 1..60),
    ) {
        // Whole milliseconds, so that timers fire exactly when a turn comes.
        let interval = Duration::from_millis(interval_ms.into());
        let limiter = patient(Quota::new(1, interval).burst(burst)).limiter().clone();
        let grants = Arc::new(Mutex::new(Vec::new()));
        on_a_paused_clock(async {
            let mut waiters = JoinSet::new();
            for (step, cost, action) in calls {
                time::sleep(Duration::from_millis(step)).await;
                let (limiter, written) = (limiter.clone(), grants.clone());
                let granted = move || written.lock().unwrap().push((Instant::now(), cost));
                match action {
                    0 if limiter.try_acquire(cost).is_ok() => granted(),
                    0 => {}
                    1 => {
                        // Gives up after half an interval, unless its turn comes earlier.
                        let patience = interval / 2;
                        waiters.spawn(async move {
                            if let Ok(Ok(())) = time::timeout(patience, limiter.acquire(cost)).await {
                                granted();
                            }
                        });
                    }
                    _ => {
                        waiters.spawn(async move {
                            if limiter.acquire(cost).await.is_ok() {
                                granted();
                            }
                        });
                    }
                }
            }
            waiters.join_all().await;
        });

        let mut grants = grants.lock().unwrap().clone();
        grants.sort_unstable();
        for (i, &(from, _)) in grants.iter().enumerate() {
            let mut sum = 0;
            for &(to, cost) in &grants[i..] {
                sum += u128::from(cost);
                let share = (to - from).as_nanos() / interval.as_nanos();
                prop_assert!(sum <= u128::from(burst) + share, "{sum} in {:?}", to - from);
            }
        }
    }

    #[test]
    fn at_most_n_calls_in_any_window_wherever_it_starts(
        n in 1..20_u32,
        burst in 1..20_u32,
        per in 0..3_000_000_000_u64,
        calls in prop::collection::vec((0..400_000_000_u64, 1..4_u32), 1..100),
    ) {
        let per = Duration::from_nanos(per.max(1));
        let limiter = RateLimiter::new(Quota::at_most(n, per).burst(burst));
        let mut grants = Vec::new();
        on_a_paused_clock(async {
            for (step, cost) in calls {
                time::advance(Duration::from_nanos(step)).await;
                if limiter.try_acquire(cost).is_ok() {
                    grants.push((Instant::now(), cost));
                }
            }
        });

        for (i, &(from, _)) in grants.iter().enumerate() {
            let window = grants[i..].iter().take_while(|(to, _)| *to - from <= per);
            let sum: u32 = window.map(|(_, cost)| cost).sum();
            prop_assert!(sum <= n, "{sum} in {per:?}");
        }
    }
}

fn on_a_paused_clock(script: impl Future<Output = ()>) {
    runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(script);
}

#[tokio::test(start_paused = true)]
async fn a_call_is_denied_one_nanosecond_before_the_reported_time() {
    for (quota, cost) in odd_quotas() {
        let limiter = RateLimiter::new(quota);
        use_up(&limiter, cost);
        time::advance(Duration::from_nanos(12)).await;
        let wait = retry_after(limiter.try_acquire(cost));
        time::advance(almost(wait)).await;
        assert_eq!(limiter.try_acquire(cost), Err(denied(NANO)), "{quota:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_is_granted_at_the_reported_time() {
    for (quota, cost) in odd_quotas() {
        let limiter = RateLimiter::new(quota);
        use_up(&limiter, cost);
        time::advance(Duration::from_nanos(12)).await;
        time::advance(retry_after(limiter.try_acquire(cost))).await;
        assert_eq!(limiter.try_acquire(cost), Ok(()), "{quota:?}");
    }
}

fn use_up(limiter: &RateLimiter, cost: u32) {
    let mut calls = iter::repeat_with(|| limiter.try_acquire(cost)).take(10);
    assert!(calls.any(|call| call.is_err()));
}

fn odd_quotas() -> [(Quota, u32); 6] {
    [
        (Quota::per_second(7), 1),
        (Quota::per_second(7).burst(5), 3),
        (Quota::per_second(3_000_000).burst(2), 1),
        (Quota::per_minute(13), 1),
        (Quota::new(1, DAY), 1),
        (Quota::at_most(10, SECOND).burst(4), 4),
    ]
}

#[tokio::test(start_paused = true)]
async fn a_rejected_call_is_granted_after_its_retry_after() {
    let (mut service, mut handle) = around_strict(&impatient(Quota::per_second(7).burst(1)));
    let _first = call(&mut service, 1);
    let denied = assert_ready_err!(call(&mut service, 2).poll());
    let Some(Rejection::RateLimited {
        retry_after: Some(wait),
        ..
    }) = denied.rejection()
    else {
        panic!("{denied}")
    };
    time::advance(almost(wait)).await;
    let _early = call(&mut service, 3);
    time::advance(NANO).await;
    let _due = call(&mut service, 4);
    assert_eq!(sent(&mut handle), [1, 4]);
}

#[tokio::test(start_paused = true)]
async fn calls_are_not_granted_faster_than_the_quota() {
    let quotas = [
        (Quota::per_second(3_000_000), 3_000_000, SECOND),
        (Quota::per_second(7), 7, SECOND),
        (Quota::per_second(u32::MAX), u32::MAX, SECOND),
        (Quota::new(1, DAY), 1, DAY),
        (Quota::at_most(1, SECOND), 1, SECOND),
        (Quota::at_most(10, SECOND), 10, SECOND),
    ];
    for (quota, n, per) in quotas {
        let limiter = RateLimiter::new(quota.burst(1));
        limiter.try_acquire(1).unwrap();
        let start = Instant::now();
        for granted in 1..500_u32 {
            time::advance(retry_after(limiter.try_acquire(1))).await;
            limiter.try_acquire(1).unwrap();
            let due = per.as_nanos() * u128::from(granted);
            let elapsed = start.elapsed().as_nanos() * u128::from(n);
            assert!(due <= elapsed, "{quota:?}: {granted} too early");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_call_per_longest_duration_grants_one_call() {
    let limiter = RateLimiter::new(Quota::new(1, Duration::MAX).burst(u32::MAX));
    limiter.try_acquire(1).unwrap();
    time::advance(100 * YEAR).await;
    assert!(limiter.try_acquire(1).is_err());
}

#[tokio::test(start_paused = true)]
async fn at_most_one_never_grants_two_calls_in_one_window() {
    let limiter = RateLimiter::new(Quota::at_most(1, SECOND).burst(9));
    limiter.try_acquire(1).unwrap();
    time::advance(SECOND).await;
    assert_eq!(limiter.try_acquire(1), Err(denied(NANO)));
}

#[tokio::test(start_paused = true)]
async fn a_quota_of_zero_rejects_all_calls_without_a_retry_after() {
    let never = Err(Rejected(Rejection::RateLimited {
        retry_after: None,
        by: Name::UNNAMED,
    }));
    for quota in [Quota::per_second(0), Quota::at_most(0, Duration::MAX)] {
        let limiter = RateLimiter::new(quota.burst(5));
        time::advance(YEAR).await;
        assert_eq!(limiter.try_acquire(1), never);
    }
}

#[tokio::test(start_paused = true)]
async fn no_call_waits_for_a_quota_of_zero() {
    let limiter = patient(Quota::per_second(0)).limiter().clone();
    let mut call = task::spawn(limiter.acquire(1));
    assert_eq!(
        assert_ready_err!(call.poll()).0,
        Rejection::RateLimited {
            retry_after: None,
            by: Name::UNNAMED
        }
    );
}

#[tokio::test(start_paused = true)]
async fn a_quota_with_a_period_of_zero_is_unlimited() {
    let limiter = RateLimiter::new(Quota::new(1, Duration::ZERO));
    assert!((0..100_000).all(|_| limiter.try_acquire(u32::MAX).is_ok()));
}

#[tokio::test(start_paused = true)]
async fn after_a_year_without_calls_the_burst_is_not_larger() {
    let limiter = RateLimiter::new(Quota::per_second(200).burst(50));
    time::advance(YEAR).await;
    let granted = (0..1_000).filter(|_| limiter.try_acquire(1).is_ok());
    assert_eq!(granted.count(), 50);
}

#[tokio::test(start_paused = true)]
async fn a_cost_above_the_burst_is_rejected_at_once_as_too_costly() {
    let limiter = patient(STEADY.burst(3)).limiter().clone();
    let mut call = task::spawn(limiter.acquire(4));
    assert_eq!(
        assert_ready_err!(call.poll()).0,
        Rejection::TooCostly {
            cost: 4,
            burst: 3,
            by: Name::UNNAMED
        }
    );
}

#[tokio::test(start_paused = true)]
async fn a_cost_of_the_whole_burst_is_granted() {
    let limiter = RateLimiter::new(STEADY.burst(3));
    assert_eq!(limiter.try_acquire(3), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_too_costly_takes_nothing() {
    let limiter = RateLimiter::new(STEADY.burst(3));
    limiter.try_acquire(u32::MAX).unwrap_err();
    assert_eq!(limiter.try_acquire(3), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_call_of_cost_zero_takes_nothing() {
    let limiter = RateLimiter::new(STEADY.burst(3));
    for _ in 0..1_000 {
        limiter.try_acquire(0).unwrap();
    }
    assert_eq!(limiter.try_acquire(3), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_call_of_cost_zero_is_granted_when_the_quota_is_used_up() {
    let limiter = RateLimiter::new(STEADY);
    limiter.try_acquire(1).unwrap();
    assert_eq!(limiter.try_acquire(0), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_call_of_cost_zero_does_not_overtake_waiters() {
    let limiter = patient(STEADY).limiter().clone();
    limiter.try_acquire(1).unwrap();
    let mut waiter = task::spawn(limiter.acquire(1));
    assert_pending!(waiter.poll());
    assert_eq!(limiter.try_acquire(0), Err(denied(SECOND)));
}
