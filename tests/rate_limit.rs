//! What the rate limit promises, through its handle and as a Tower service.

#[path = "support/events.rs"]
mod events;

use buttress::error::Rejected;
use buttress::rate_limit::{RateLimit, RateLimitFuture, RateLimiter};
use buttress::{Cost, Name, Quota, RateLimitLayer, Rejection, StackError};
use proptest::prelude::*;
use std::future::{self, Future};
use std::pin::pin;
use std::sync::{Arc, Barrier, Mutex};
use std::task::Poll;
use std::time::Duration;
use std::{iter, thread};
use tokio::runtime;
use tokio::task::JoinSet;
use tokio::time::{self, Instant};
use tokio_test::task::Spawn;
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};
use tower::{BoxError, Layer, Service, service_fn};
use tower_test::mock::{self, Handle, Mock, SendResponse};

const NANO: Duration = Duration::from_nanos(1);
const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);
const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// One call per second, one at once: its turns are easy to read.
const STEADY: Quota = Quota::per_second(1);

/// Panics when called unready; its clones start unready.
type Strict = Mock<u32, u32>;

/// A nanosecond less.
fn almost(duration: Duration) -> Duration {
    duration.saturating_sub(NANO)
}

fn limited(after: Duration) -> Rejection {
    Rejection::RateLimited {
        retry_after: Some(after),
        by: Name::UNNAMED,
    }
}

fn denied(after: Duration) -> Rejected {
    Rejected(limited(after))
}

fn retry_after(denied: Result<(), Rejected>) -> Duration {
    match denied {
        Err(Rejected(Rejection::RateLimited {
            retry_after: Some(wait),
            ..
        })) => wait,
        other => panic!("not a denial with a time: {other:?}"),
    }
}

fn patient(quota: Quota) -> RateLimitLayer {
    let builder = RateLimitLayer::builder(quota).max_wait(Duration::MAX);
    builder.build().unwrap()
}

fn impatient(quota: Quota) -> RateLimitLayer {
    let builder = RateLimitLayer::builder(quota).max_wait(Duration::ZERO);
    builder.build().unwrap()
}

fn around_strict<W: Clone>(layer: &RateLimitLayer<W>) -> (RateLimit<Strict, W>, Handle<u32, u32>) {
    let (inner, handle) = mock::pair();
    (layer.layer(inner), handle)
}

fn poll_ready<S: Service<u32>>(service: &mut S) -> Poll<Result<(), S::Error>> {
    task::spawn(()).enter(|cx, _| service.poll_ready(cx))
}

fn call<W: Cost<u32> + Clone>(
    service: &mut RateLimit<Strict, W>,
    req: u32,
) -> Spawn<RateLimitFuture<Strict, u32, W>> {
    assert_ready_ok!(poll_ready(service));
    task::spawn(service.call(req))
}

/// What reached the callee since the last look.
fn sent(handle: &mut Handle<u32, u32>) -> Vec<u32> {
    iter::from_fn(|| match handle.poll_request() {
        Poll::Ready(request) => request.map(|(req, _)| req),
        Poll::Pending => None,
    })
    .collect()
}

fn next_sent(handle: &mut Handle<u32, u32>) -> (u32, SendResponse<u32>) {
    assert_ready!(handle.poll_request()).unwrap()
}

/// The output of a future, and how often it was polled for it.
async fn count_polls<F: Future>(future: F) -> (F::Output, usize) {
    let mut future = pin!(future);
    let mut polls = 0;
    let output = future::poll_fn(|cx| {
        polls += 1;
        future.as_mut().poll(cx)
    });
    (output.await, polls)
}

// Turns

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn no_window_holds_more_than_the_burst_and_its_share(
        interval_ms in 1..200_u32,
        burst in 1..6_u32,
        calls in prop::collection::vec((0..400_u64, 0..4_u32, 0..4_u8), 1..60),
    ) {
        // Whole milliseconds throughout: a timer then ends at the very turn.
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
                        // Gives up halfway to its turn, if that is not before.
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
    fn at_most_n_in_any_window_wherever_it_begins(
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
async fn denied_one_nanosecond_before_the_time_named() {
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
async fn granted_at_the_time_named() {
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
async fn a_rejected_call_is_sent_at_the_time_it_was_told() {
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
async fn nothing_is_granted_faster_than_asked() {
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
async fn one_call_per_eternity_is_one_call() {
    let limiter = RateLimiter::new(Quota::new(1, Duration::MAX).burst(u32::MAX));
    limiter.try_acquire(1).unwrap();
    time::advance(100 * YEAR).await;
    assert!(limiter.try_acquire(1).is_err());
}

#[tokio::test(start_paused = true)]
async fn at_most_one_never_grants_two_within_its_window() {
    let limiter = RateLimiter::new(Quota::at_most(1, SECOND).burst(9));
    limiter.try_acquire(1).unwrap();
    time::advance(SECOND).await;
    assert_eq!(limiter.try_acquire(1), Err(denied(NANO)));
}

#[tokio::test(start_paused = true)]
async fn a_quota_of_none_admits_nothing_and_names_no_time() {
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
async fn nobody_waits_for_a_quota_of_none() {
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
async fn a_quota_per_no_time_is_unlimited() {
    let limiter = RateLimiter::new(Quota::new(1, Duration::ZERO));
    assert!((0..100_000).all(|_| limiter.try_acquire(u32::MAX).is_ok()));
}

#[tokio::test(start_paused = true)]
async fn a_year_of_idling_earns_one_burst() {
    let limiter = RateLimiter::new(Quota::per_second(200).burst(50));
    time::advance(YEAR).await;
    let granted = (0..1_000).filter(|_| limiter.try_acquire(1).is_ok());
    assert_eq!(granted.count(), 50);
}

#[tokio::test(start_paused = true)]
async fn a_cost_above_the_burst_is_too_costly_at_once() {
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
async fn a_free_call_takes_nothing() {
    let limiter = RateLimiter::new(STEADY.burst(3));
    for _ in 0..1_000 {
        limiter.try_acquire(0).unwrap();
    }
    assert_eq!(limiter.try_acquire(3), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_free_call_goes_when_nothing_is_left() {
    let limiter = RateLimiter::new(STEADY);
    limiter.try_acquire(1).unwrap();
    assert_eq!(limiter.try_acquire(0), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_free_call_does_not_overtake_those_who_wait() {
    let limiter = patient(STEADY).limiter().clone();
    limiter.try_acquire(1).unwrap();
    let mut waiter = task::spawn(limiter.acquire(1));
    assert_pending!(waiter.poll());
    assert_eq!(limiter.try_acquire(0), Err(denied(SECOND)));
}

// Waiting

#[tokio::test(start_paused = true)]
async fn waiters_are_served_in_order_each_at_its_turn() {
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
    // Once to begin, once when woken.
    assert_eq!(waiters.join_all().await, [2; 10]);
}

#[tokio::test(start_paused = true)]
async fn calls_are_sent_in_the_order_of_calling_however_they_are_polled() {
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

fn echo() -> impl Service<u32, Response = u32, Error = BoxError, Future: Send> + Clone + Send {
    service_fn(|req| future::ready(Ok(req)))
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
async fn a_wait_above_the_longest_is_rejected_at_once_with_that_wait() {
    let layer = RateLimitLayer::builder(STEADY).max_wait(almost(SECOND));
    let (mut service, _handle) = around_strict(&layer.build().unwrap());
    let _first = call(&mut service, 1);
    let error = assert_ready_err!(call(&mut service, 2).poll());
    assert_eq!(error.rejection(), Some(limited(SECOND)));
}

#[tokio::test(start_paused = true)]
async fn a_rejected_waiter_writes_nothing() {
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
async fn without_patience_nothing_waits() {
    let (mut service, _handle) = around_strict(&impatient(Quota::new(1, NANO).burst(1)));
    let _first = call(&mut service, 1);
    let error = assert_ready_err!(call(&mut service, 2).poll());
    assert_eq!(error.rejection(), Some(limited(NANO)));
}

#[tokio::test(start_paused = true)]
async fn endless_patience_waits_for_years() {
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
    // The clock moves, but no timer has been looked at yet.
    let mut advance = task::spawn(time::advance(2 * SECOND));
    assert_pending!(advance.poll());
    assert_pending!(waiter.poll());
    assert_eq!(sent(&mut handle), [1, 2]);
}

// Giving up

#[tokio::test(start_paused = true)]
async fn the_newest_waiter_gives_its_turn_back() {
    let limiter = patient(STEADY).limiter().clone();
    limiter.try_acquire(1).unwrap();
    let mut newest = task::spawn(limiter.acquire(1));
    assert_pending!(newest.poll());
    drop(newest);
    assert_eq!(limiter.try_acquire(1), Err(denied(SECOND)));
}

#[tokio::test(start_paused = true)]
async fn a_weighted_waiter_gives_all_of_its_turn_back() {
    let limiter = patient(STEADY.burst(3)).limiter().clone();
    limiter.try_acquire(2).unwrap();
    let mut newest = task::spawn(limiter.acquire(3));
    assert_pending!(newest.poll());
    drop(newest);
    assert_eq!(limiter.try_acquire(1), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_middle_waiter_gives_its_place_to_those_behind_it() {
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
async fn those_behind_a_waiter_that_left_move_up() {
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
async fn a_waiter_that_was_served_gives_nothing_back() {
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
async fn a_call_dropped_while_readying_gives_its_turn_back() {
    let layer = patient(STEADY);
    let (_first, readying, _handle) = readying(&layer).await;
    drop(readying);
    assert_eq!(layer.limiter().try_acquire(1), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_middle_call_dropped_while_readying_hands_its_turn_on() {
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
async fn a_call_that_cannot_be_readied_gives_its_turn_back() {
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

type StrictCall = Spawn<RateLimitFuture<Strict, u32>>;

/// A call, and one behind it whose turn has come while the inner service is not ready.
async fn readying(layer: &RateLimitLayer) -> (StrictCall, StrictCall, Handle<u32, u32>) {
    let (mut service, mut handle) = around_strict(layer);
    let first = call(&mut service, 1);
    let mut second = call(&mut service, 2);
    handle.allow(0);
    assert_pending!(second.poll());
    time::advance(SECOND).await;
    assert_pending!(second.poll());
    (first, second, handle)
}

// The inner service

#[tokio::test(start_paused = true)]
async fn the_inner_service_is_polled_though_nothing_is_left() {
    let (mut service, mut handle) = around_strict(&impatient(Quota::per_second(0)));
    handle.allow(0);
    assert_pending!(poll_ready(&mut service));
}

#[tokio::test(start_paused = true)]
async fn an_error_of_readiness_passes() {
    let (mut service, mut handle) = around_strict(&impatient(Quota::per_second(0)));
    handle.send_error("gone");
    let error = assert_ready_err!(poll_ready(&mut service));
    assert_eq!(error.to_string(), "gone");
}

#[tokio::test(start_paused = true)]
async fn an_error_of_the_call_passes() {
    let (mut service, mut handle) = around_strict(&impatient(STEADY));
    let mut call = call(&mut service, 1);
    let (_, response) = next_sent(&mut handle);
    response.send_error("refused");
    assert_eq!(assert_ready_err!(call.poll()).to_string(), "refused");
}

#[tokio::test(start_paused = true)]
async fn an_answer_passes() {
    let (mut service, mut handle) = around_strict(&patient(STEADY));
    let _first = call(&mut service, 1);
    let mut waiter = call(&mut service, 2);
    assert_pending!(waiter.poll());
    time::advance(SECOND).await;
    assert_pending!(waiter.poll());
    let _ = next_sent(&mut handle);
    let (req, response) = next_sent(&mut handle);
    response.send_response(req + 40);
    assert_eq!(assert_ready_ok!(waiter.poll()), 42);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_call_is_not_sent() {
    let (mut service, mut handle) = around_strict(&impatient(STEADY));
    let _first = call(&mut service, 1);
    assert_ready_err!(call(&mut service, 2).poll());
    assert_eq!(sent(&mut handle), [1]);
}

#[tokio::test(start_paused = true)]
async fn the_readied_instance_stays_with_the_caller_of_a_call_that_waits() {
    let (mut service, mut handle) = around_strict(&patient(STEADY));
    let _first = call(&mut service, 1);
    let _waiter = call(&mut service, 2);
    handle.allow(0);
    // Nothing new becomes ready: only what was readied for the call that waits is.
    assert_ready_ok!(poll_ready(&mut service));
}

#[tokio::test(start_paused = true)]
async fn the_readiness_of_a_call_that_waits_makes_the_next_call() {
    let (mut service, mut handle) = around_strict(&patient(STEADY.burst(2)));
    let _first = call(&mut service, 1);
    let _second = call(&mut service, 2);
    let _waiter = call(&mut service, 3);
    time::advance(2 * SECOND).await;
    // The strict service would panic, had its readiness gone with the call that waits.
    let _next = service.call(4);
    assert_eq!(sent(&mut handle), [1, 2, 4]);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_call_leaves_the_readiness_it_did_not_use() {
    let (mut service, mut handle) = around_strict(&impatient(STEADY));
    let _first = call(&mut service, 1);
    assert_ready_err!(call(&mut service, 2).poll());
    handle.allow(0);
    assert_ready_ok!(poll_ready(&mut service));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_does_not_poll_the_inner_service_before_its_turn() {
    let (mut service, mut handle) = around_strict(&patient(STEADY));
    let _first = call(&mut service, 1);
    let mut waiter = call(&mut service, 2);
    handle.send_error("whoever polls first gets this");
    time::advance(almost(SECOND)).await;
    assert_pending!(waiter.poll());
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_turn_has_come_waits_for_the_inner_service() {
    let (_first, mut readying, mut handle) = readying(&patient(STEADY)).await;
    handle.allow(1);
    assert!(readying.is_woken());
    assert_pending!(readying.poll());
    assert_eq!(sent(&mut handle), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn an_error_of_readiness_at_the_turn_passes() {
    let (_first, mut readying, mut handle) = readying(&patient(STEADY)).await;
    handle.send_error("gone");
    assert_eq!(assert_ready_err!(readying.poll()).to_string(), "gone");
}

// Sharing

#[tokio::test(start_paused = true)]
async fn ready_clones_that_are_never_called_take_nothing() {
    let layer = impatient(STEADY.burst(2));
    let (service, _handle) = around_strict(&layer);
    let mut clones = vec![service; 5_000];
    for clone in &mut clones {
        assert_ready_ok!(poll_ready(clone));
    }
    assert_eq!(layer.limiter().try_acquire(2), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn clones_of_a_service_share_one_limit() {
    let (mut one, mut handle) = around_strict(&impatient(STEADY));
    let mut two = one.clone();
    let (_one, _two) = (call(&mut one, 1), call(&mut two, 2));
    assert_eq!(sent(&mut handle), [1]);
}

#[tokio::test(start_paused = true)]
async fn services_of_a_layer_and_its_clones_share_one_limit() {
    let layer = impatient(STEADY);
    let (mut one, mut first) = around_strict(&layer);
    let (mut two, mut second) = around_strict(&layer.clone());
    let (_one, _two) = (call(&mut one, 1), call(&mut two, 2));
    assert_eq!((sent(&mut first), sent(&mut second)), (vec![1], vec![]));
}

#[tokio::test(start_paused = true)]
async fn the_handle_of_the_layer_is_the_limit_of_its_services() {
    let layer = impatient(STEADY);
    let (mut service, mut handle) = around_strict(&layer);
    layer.limiter().try_acquire(1).unwrap();
    let _call = call(&mut service, 1);
    assert_eq!(sent(&mut handle), []);
}

#[test]
fn two_threads_share_one_limit() {
    // The lock of a paused clock would let the threads in one by one. An hour is long enough for
    // nothing to be earned meanwhile, a million calls for the threads to meet.
    let limiter = RateLimiter::new(Quota::new(1, DAY / 24).burst(1_000_000));
    let together = Barrier::new(2);
    let granted = thread::scope(|scope| {
        let threads = [limiter.clone(), limiter].map(|limiter| {
            let together = &together;
            scope.spawn(move || {
                together.wait();
                let granted = (0..1_000_000).filter(|_| limiter.try_acquire(1).is_ok());
                granted.count()
            })
        });
        threads.map(|thread| thread.join().unwrap())
    });
    assert_eq!(granted[0] + granted[1], 1_000_000);
}

#[tokio::test(start_paused = true)]
async fn two_clones_on_two_threads_share_one_limit() {
    let mut service = impatient(Quota::new(1, DAY).burst(100)).layer(echo());
    let clock = runtime::Handle::current();
    let mut other = service.clone();
    let (one, two) = thread::scope(|scope| {
        let other = scope.spawn(|| {
            let _paused = clock.enter();
            answers(&mut other)
        });
        (answers(&mut service), other.join().unwrap())
    });
    assert_eq!(one + two, 100);
}

/// How many of a hundred calls are answered at once.
fn answers(service: &mut impl Service<u32, Response = u32, Error = BoxError>) -> usize {
    let answered = |req: &u32| {
        assert_ready_ok!(poll_ready(service));
        matches!(task::spawn(service.call(*req)).poll(), Poll::Ready(Ok(_)))
    };
    (0..100).filter(answered).count()
}

// Cost

#[expect(clippy::trivially_copy_pass_by_ref, reason = "a cost is of `&Req`")]
fn doubled(req: &u32) -> u32 {
    req * 2
}

#[tokio::test(start_paused = true)]
async fn a_function_says_what_a_call_costs() {
    let layer = RateLimitLayer::builder(STEADY.burst(10)).cost(doubled);
    let layer = layer.build().unwrap();
    let (mut service, _handle) = around_strict(&layer);
    let _call = call(&mut service, 3);
    assert_eq!(layer.limiter().snapshot().available, 4);
}

#[tokio::test(start_paused = true)]
async fn a_closure_says_what_a_call_costs() {
    let each = 3;
    let layer = RateLimitLayer::builder(STEADY.burst(10)).cost(move |req: &u32| req * each);
    let layer = layer.build().unwrap();
    let (mut service, _handle) = around_strict(&layer);
    let _call = call(&mut service, 2);
    assert_eq!(layer.limiter().snapshot().available, 4);
}

#[tokio::test(start_paused = true)]
async fn a_call_costs_one_unless_said_otherwise() {
    let layer = RateLimitLayer::new(STEADY.burst(10));
    let (mut service, _handle) = around_strict(&layer);
    let _call = call(&mut service, 7);
    assert_eq!(layer.limiter().snapshot().available, 9);
}

#[tokio::test(start_paused = true)]
async fn a_call_of_no_cost_is_sent_when_nothing_is_left() {
    let layer = RateLimitLayer::builder(STEADY).cost(|req: &u32| *req);
    let (mut service, mut handle) = around_strict(&layer.build().unwrap());
    let (_one, _free) = (call(&mut service, 1), call(&mut service, 0));
    assert_eq!(sent(&mut handle), [1, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_costly_call_waits_for_all_that_it_costs() {
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

// Control

#[tokio::test(start_paused = true)]
async fn a_pause_grants_nothing_before_its_end() {
    let limiter = RateLimiter::new(Quota::per_second(10).burst(5));
    limiter.pause_until(Instant::now() + 5 * SECOND);
    time::advance(almost(5 * SECOND)).await;
    assert_eq!(limiter.try_acquire(1), Err(denied(NANO)));
}

#[tokio::test(start_paused = true)]
async fn one_call_goes_at_the_end_of_a_pause_and_the_rest_one_by_one() {
    let limiter = RateLimiter::new(Quota::per_second(10).burst(5));
    limiter.pause_until(Instant::now() + 5 * SECOND);
    time::advance(5 * SECOND).await;
    limiter.try_acquire(1).unwrap();
    let interval = Duration::from_millis(100);
    assert_eq!(limiter.try_acquire(1), Err(denied(interval)));
}

#[tokio::test(start_paused = true)]
async fn a_pause_leaves_nothing_of_the_burst_to_a_costly_call() {
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
async fn a_pause_holds_free_calls_too() {
    for quota in [Quota::per_second(10), Quota::new(1, DAY)] {
        let limiter = RateLimiter::new(quota);
        limiter.pause_until(Instant::now() + 5 * SECOND);
        time::advance(almost(5 * SECOND)).await;
        assert_eq!(limiter.try_acquire(0), Err(denied(NANO)), "{quota:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_holds_an_unlimited_quota_too() {
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
async fn a_pause_of_centuries_is_a_no() {
    let limiter = RateLimiter::new(STEADY);
    limiter.pause_until(Instant::now() + 500 * YEAR);
    time::advance(100 * YEAR).await;
    assert!(limiter.try_acquire(1).is_err());
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_are_served_after_a_pause_that_comes() {
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
async fn a_newcomer_is_served_after_a_pause_and_those_who_wait_for_its_end() {
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
async fn a_pause_holds_calls_of_a_service() {
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
async fn a_new_quota_leaves_its_whole_burst_to_a_limiter_at_rest() {
    let limiter = RateLimiter::new(STEADY);
    limiter.set_quota(Quota::per_second(10).burst(3));
    assert_eq!(limiter.snapshot().available, 3);
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_are_served_by_the_quota_in_force() {
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
async fn a_newcomer_does_not_overtake_those_who_wait_when_the_quota_is_raised() {
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
async fn a_quota_of_none_stops_newcomers_and_another_lets_them_go_again() {
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

// Seeing

#[tokio::test(start_paused = true)]
async fn a_snapshot_counts_what_would_be_granted_at_once() {
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
async fn a_snapshot_shows_the_quota_in_force() {
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
async fn a_call_over_the_limit_is_an_event() {
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
async fn a_call_that_is_too_costly_is_an_event() {
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
async fn a_call_that_waits_is_no_event() {
    let (mut service, _handle) = around_strict(&patient(STEADY));
    let events = events::of(async {
        let (_one, mut two) = (call(&mut service, 1), call(&mut service, 2));
        assert_pending!(two.poll());
    })
    .await;
    assert_eq!(events, [""; 0]);
}
