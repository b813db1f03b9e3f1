//! Changes of the quota and pauses while calls wait.

use super::{SECOND, STEADY, TENTHS, denied, patient, tenths, waiting, waits_up_to};
use crate::events;
use buttress::http::InExtensions;
use buttress::{Deadline, ErrorLayer, Quota, RateLimitLayer, Rejection, StackError};
use http::Request;
use std::convert::Infallible;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{self, Instant, sleep_until};
use tokio_test::task::{self};
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok};
use tower::{Layer, ServiceExt, service_fn};

// Changes

#[tokio::test(start_paused = true)]
async fn a_waiter_cancelled_during_a_pause_does_not_delay_later_calls() {
    let limiter = waits_up_to(Duration::MAX, TENTHS);
    limiter.pause_until(Instant::now() + 30 * SECOND);
    let waiter = waiting(&limiter, 1);
    drop(waiter);
    limiter.resume();
    assert_eq!(limiter.try_acquire(1), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn waiters_are_granted_one_by_one_at_the_end_of_a_pause() {
    let limiter = patient(TENTHS.burst(3));
    let mut waiters = [(); 3].map(|()| waiting(&limiter, 1));
    limiter.pause_until(Instant::now() + 5 * SECOND);
    time::advance(5 * SECOND).await;
    for i in 0..3 {
        let [first, rest @ ..] = &mut waiters[i..] else {
            unreachable!()
        };
        assert_ready_ok!(first.poll());
        for waiter in rest {
            assert_pending!(waiter.poll());
        }
        time::advance(tenths(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_would_wait_too_long_for_the_end_of_a_pause_is_rejected() {
    let limiter = waits_up_to(SECOND, TENTHS);
    limiter.try_acquire(1).unwrap();
    let mut waiters = [(); 2].map(|()| waiting(&limiter, 1));
    limiter.pause_until(Instant::now() + SECOND);
    assert!(!waiters[0].is_woken() && waiters[1].is_woken());
    // The first waiter goes when the pause ends.
    let error = assert_ready_err!(waiters[1].poll());
    assert_eq!(error, denied(SECOND + tenths(1)));
    time::advance(SECOND).await;
    assert_ready_ok!(waiters[0].poll());
}

#[tokio::test(start_paused = true)]
async fn a_resume_wakes_the_waiters() {
    let limiter = waits_up_to(Duration::MAX, TENTHS);
    limiter.pause_until(Instant::now() + 30 * SECOND);
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..3 {
        let limiter = limiter.clone();
        tasks.spawn(async move {
            limiter.acquire(1).await.unwrap();
            start.elapsed()
        });
    }
    time::sleep(SECOND).await;
    limiter.resume();
    let mut served = tasks.join_all().await;
    served.sort_unstable();
    assert_eq!(served, [0, 1, 2].map(|i| SECOND + tenths(i)));
}

#[tokio::test(start_paused = true)]
async fn a_faster_quota_grants_waiters_sooner() {
    let limiter = patient(STEADY);
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..3 {
        let limiter = limiter.clone();
        tasks.spawn(async move {
            limiter.acquire(1).await.unwrap();
            start.elapsed()
        });
    }
    tokio::task::yield_now().await;
    limiter.set_quota(TENTHS);
    let mut served = tasks.join_all().await;
    served.sort_unstable();
    assert_eq!(served, [1, 2, 3].map(tenths));
}

#[tokio::test(start_paused = true)]
async fn a_slower_quota_rejects_only_the_waiters_that_would_wait_too_long() {
    let limiter = waits_up_to(SECOND, TENTHS.burst(3));
    limiter.try_acquire(3).unwrap();
    let mut waiters = [1, 2, 1, 3, 1].map(|cost| waiting(&limiter, cost));
    time::advance(SECOND / 20).await;
    limiter.set_quota(Quota::per_second(5).burst(2));
    // Turns come every 0.2 s from 0 on. Each waiter may wait for another 0.95 s.
    let [first, second, third, fourth, fifth] = &mut waiters;
    let rejected = assert_ready_err!(fourth.poll());
    assert!(matches!(
        rejected.0,
        Rejection::TooCostly {
            cost: 3,
            burst: 2,
            ..
        }
    ));
    assert!(!fifth.is_woken());
    assert_eq!(limiter.snapshot().waiting, 4);
    time::advance(3 * SECOND / 20).await;
    assert_ready_ok!(first.poll());
    time::advance(tenths(4)).await;
    assert_ready_ok!(second.poll());
    time::advance(tenths(2)).await;
    assert_ready_ok!(third.poll());
    limiter.set_quota(STEADY);
    assert_eq!(assert_ready_err!(fifth.poll()), denied(SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_quota_of_zero_rejects_the_waiters() {
    let limiter = patient(STEADY);
    let mut waiter = waiting(&limiter, 1);
    limiter.set_quota(Quota::per_second(0));
    assert!(waiter.is_woken());
    let Rejection::RateLimited { retry_after, .. } = assert_ready_err!(waiter.poll()).0 else {
        panic!("not limited")
    };
    assert_eq!(retry_after, None);
    assert_eq!(limiter.snapshot().waiting, 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_a_pause_delays_past_its_deadline_is_rejected_with_an_event() {
    let layer = RateLimitLayer::builder(STEADY).name("payments");
    let layer = layer.max_wait(Duration::MAX).carrier(InExtensions);
    let layer = layer.build().unwrap();
    let inner = service_fn(|_: Request<()>| async { Ok::<_, Infallible>(()) });
    let service = layer.layer(ErrorLayer.layer(inner));
    layer.limiter().try_acquire(1).unwrap();
    let mut request = Request::new(());
    let deadline = Deadline::after(3 * SECOND);
    request.extensions_mut().insert(deadline);
    let events = events::of(async {
        let mut call = task::spawn(service.oneshot(request));
        assert_pending!(call.poll());
        layer.limiter().pause_until(Instant::now() + 3 * SECOND);
        assert!(call.is_woken());
        let error = assert_ready_err!(call.poll());
        let rejection = error.rejection().unwrap();
        assert_eq!(rejection.retry_after(), Some(3 * SECOND));
    });
    assert_eq!(
        events.await,
        [r#"DEBUG buttress::rate_limit rate_limited name="payments" cost=1 retry_after_ms=3000"#]
    );
}

// The burst

/// The share of calls that are rejected if calls arrive at random (a Poisson process) at 80 % of
/// `per_second`.
async fn lost(per_second: u32, quota: Quota, max_wait: Duration, of: u32) -> f64 {
    let (limiter, mut calls) = (waits_up_to(max_wait, quota), JoinSet::new());
    let (mut seed, mut at) = (7_u64, Instant::now());
    for _ in 0..of {
        // SplitMix64, a random number generator.
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = (seed ^ seed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        let draw = ((bits ^ bits >> 31) >> 11) as f64 / 2_f64.powi(53);
        at += SECOND.mul_f64(-(1.0 - draw).ln() / (0.8 * f64::from(per_second)));
        sleep_until(at).await;
        let limiter = limiter.clone();
        calls.spawn(async move { limiter.acquire(1).await.is_err() });
    }
    let lost = calls.join_all().await.into_iter().filter(|lost| *lost);
    lost.count() as f64 / f64::from(of)
}

#[tokio::test(start_paused = true)]
async fn at_80_percent_load_less_than_one_call_in_a_thousand_is_rejected() {
    for per_second in [7, 10, 30] {
        let quota = Quota::per_second(per_second);
        let lost = lost(per_second, quota, SECOND, 20_000).await;
        assert!(lost < 0.001, "{lost} of {per_second} per second");
    }
}

#[tokio::test(start_paused = true)]
async fn at_80_percent_load_without_waiting_the_documented_share_is_rejected() {
    let quota = Quota::per_second(10);
    for (quota, says) in [
        (quota, 0.004),
        (quota.burst(4), 0.06),
        (quota.burst(1), 0.44),
    ] {
        let lost = lost(10, quota, Duration::ZERO, 50_000).await;
        assert!((0.8..1.2).contains(&(lost / says)), "{lost}, not {says}");
    }
}
