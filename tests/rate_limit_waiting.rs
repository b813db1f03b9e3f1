//! What the rate limit promises to those who wait, and to those behind them.

#[path = "support/events.rs"]
mod events;

use buttress::error::Rejected;
use buttress::http::InExtensions;
use buttress::rate_limit::RateLimiter;
use buttress::{Deadline, Error, ErrorLayer, Name, Quota, RateLimitLayer, Rejection, StackError};
use http::Request;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::Duration;
use tokio::runtime::{self, Runtime};
use tokio::task::JoinSet;
use tokio::time::{self, Instant, sleep_until, timeout};
use tokio_test::task::{self, Spawn};
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_test::mock;

const NANO: Duration = Duration::from_nanos(1);
const SECOND: Duration = Duration::from_secs(1);

/// One call per second, one at once: its turns are easy to read.
const STEADY: Quota = Quota::per_second(1).burst(1);

/// A turn every tenth of a second.
const TENTHS: Quota = Quota::per_second(10).burst(1);

fn tenths(n: u32) -> Duration {
    n * SECOND / 10
}

fn denied(after: Duration) -> Rejected {
    Rejected(Rejection::RateLimited {
        retry_after: Some(after),
        by: Name::UNNAMED,
    })
}

fn waits_up_to(max_wait: Duration, quota: Quota) -> RateLimiter {
    let layer = RateLimitLayer::builder(quota).max_wait(max_wait).build();
    layer.unwrap().limiter().clone()
}

/// As long as it takes, and nothing is left at once.
fn patient(quota: Quota) -> RateLimiter {
    let limiter = waits_up_to(Duration::MAX, quota);
    while limiter.try_acquire(1).is_ok() {}
    limiter
}

type Acquire = Spawn<Pin<Box<dyn Future<Output = Result<(), Rejected>> + Send>>>;

/// Waits, and was polled.
fn waiting(limiter: &RateLimiter, cost: u32) -> Acquire {
    let mut acquire = unpolled(limiter, cost);
    assert_pending!(acquire.poll());
    acquire
}

fn unpolled(limiter: &RateLimiter, cost: u32) -> Acquire {
    let limiter = limiter.clone();
    task::spawn(Box::pin(async move { limiter.acquire(cost).await }))
}

fn runtime() -> Runtime {
    runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
}

// Those who leave

/// Who was granted, and when.
type Grants = Arc<Mutex<Vec<(u32, Duration)>>>;

/// So many calls a second for so long, each by a task of its own that leaves if it waits for too
/// long. Every call ends.
async fn callers<F>(
    per_second: u32,
    secs: u32,
    patience: Duration,
    call: impl Fn() -> F,
) -> Vec<(u32, Duration)>
where
    F: Future<Output = bool> + Send + 'static,
{
    let (start, grants) = (Instant::now(), Grants::default());
    let mut tasks = JoinSet::new();
    for i in 0..per_second * secs {
        sleep_until(start + SECOND * i / per_second).await;
        let (call, grants) = (call(), grants.clone());
        tasks.spawn(async move {
            if timeout(patience, call).await == Ok(true) {
                grants.lock().unwrap().push((i, start.elapsed()));
            }
        });
    }
    tasks.join_all().await;
    Arc::into_inner(grants).unwrap().into_inner().unwrap()
}

fn assert_in_order(grants: &[(u32, Duration)]) {
    assert!(grants.is_sorted(), "somebody overtook: {grants:?}");
}

/// In no window of up to a minute more than the burst and one per interval.
fn assert_bound(grants: &[(u32, Duration)], burst: usize, interval: Duration) {
    for (i, &(_, from)) in grants.iter().enumerate() {
        let within = grants[i..]
            .iter()
            .take_while(|(_, to)| to.abs_diff(from) <= 60 * SECOND);
        for (more, &(_, to)) in within.enumerate() {
            let share = to.abs_diff(from).as_nanos() / interval.as_nanos();
            assert!(
                more < burst + share as usize,
                "{} in {:?}",
                more + 1,
                to.abs_diff(from)
            );
        }
    }
}

const QUOTAS: [(Quota, usize, Duration); 4] = [
    (Quota::per_second(10), 10, Duration::from_millis(100)),
    (
        Quota::per_second(10).burst(4),
        4,
        Duration::from_millis(100),
    ),
    (TENTHS, 1, Duration::from_millis(100)),
    (
        Quota::at_most(10, SECOND),
        1,
        Duration::from_nanos(100_000_001),
    ),
];

#[tokio::test(start_paused = true)]
async fn those_who_stay_use_the_quota_however_many_leave() {
    for (quota, burst, interval) in QUOTAS {
        for secs in [20, 600] {
            let limiter = RateLimiter::new(quota);
            let grants = callers(11, secs, 3 * tenths(1), || {
                let limiter = limiter.clone();
                async move { limiter.acquire(1).await.is_ok() }
            })
            .await;
            let share = grants.len() as f64 / f64::from(10 * secs);
            assert!(share >= 0.95, "{quota}: {share} of {secs} s");
            assert_in_order(&grants);
            assert_bound(&grants, burst, interval);
            assert_eq!(limiter.snapshot().waiting, 0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn at_most_so_many_in_any_window_however_many_leave() {
    for burst in [1, 2, 5] {
        let limiter = RateLimiter::new(Quota::at_most(10, SECOND).burst(burst));
        let grants = callers(30, 60, 3 * tenths(1), || {
            let limiter = limiter.clone();
            async move { limiter.acquire(1).await.is_ok() }
        })
        .await;
        for (i, &(_, from)) in grants.iter().enumerate() {
            let within = grants[i..]
                .iter()
                .filter(|(_, to)| to.abs_diff(from) <= SECOND);
            assert!(within.count() <= 10, "from {from:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn those_who_stay_use_the_quota_through_the_layer() {
    for (quota, burst, interval) in QUOTAS {
        let service = RateLimitLayer::new(quota).layer(echo());
        let grants = callers(11, 60, 3 * tenths(1), || {
            let call = service.clone().oneshot(());
            async move { call.await.is_ok() }
        })
        .await;
        assert!(grants.len() >= 570, "{quota}: {} of 600", grants.len());
        assert_in_order(&grants);
        assert_bound(&grants, burst, interval);
    }
}

fn echo() -> impl Service<(), Response = (), Error = Error<Infallible>, Future: Send> + Clone + Send
{
    ErrorLayer.layer(service_fn(|()| async { Ok::<_, Infallible>(()) }))
}

#[tokio::test(start_paused = true)]
async fn those_who_stay_use_the_quota_of_a_stack() {
    let stack = buttress::http::stack().no_retry().rate_limit(TENTHS);
    let client =
        service_fn(|_: Request<()>| async { Ok::<_, Infallible>(http::Response::new(())) });
    let service = stack.service(client).unwrap();
    let grants = callers(11, 60, 3 * tenths(1), || {
        let call = service.clone().oneshot(Request::new(()));
        async move { call.await.is_ok() }
    })
    .await;
    assert!(grants.len() >= 570, "{} of 600", grants.len());
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_leaves_gives_its_place_to_those_behind_it() {
    let limiter = patient(STEADY);
    let first = waiting(&limiter, 1);
    let mut second = waiting(&limiter, 1);
    drop(first);
    time::advance(SECOND).await;
    assert_ready_ok!(second.poll());
}

#[tokio::test(start_paused = true)]
async fn a_weighted_waiter_that_leaves_gives_all_that_it_cost() {
    let limiter = patient(STEADY.burst(5));
    let first = waiting(&limiter, 5);
    let second = waiting(&limiter, 2);
    drop(first);
    assert_eq!(limiter.try_acquire(1), Err(denied(3 * SECOND)));
    drop(second);
    assert_eq!(limiter.try_acquire(1), Err(denied(SECOND)));
}

#[tokio::test(start_paused = true)]
async fn who_moves_up_is_woken_for_its_new_turn() {
    let limiter = patient(STEADY);
    let first = waiting(&limiter, 1);
    let limiter_too = limiter.clone();
    let start = Instant::now();
    let second = tokio::spawn(async move { limiter_too.acquire(1).await });
    tokio::task::yield_now().await;
    drop(first);
    second.await.unwrap().unwrap();
    assert_eq!(start.elapsed(), SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_is_not_used_is_the_next_ones_at_once() {
    let limiter = patient(STEADY);
    let first = waiting(&limiter, 1);
    let mut second = waiting(&limiter, 1);
    time::advance(SECOND).await;
    // Handed out by a newcomer, and not looked at.
    limiter.try_acquire(1).unwrap_err();
    assert!(first.is_woken() && !second.is_woken());
    drop(first);
    assert!(second.is_woken());
    assert_ready_ok!(second.poll());
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_is_not_used_does_not_add_to_a_burst_later() {
    let limiter = patient(STEADY.burst(3));
    let unused = waiting(&limiter, 1);
    time::advance(SECOND).await;
    limiter.try_acquire(1).unwrap_err();
    assert!(unused.is_woken());
    time::advance(60 * SECOND).await;
    limiter.try_acquire(3).unwrap();
    drop(unused);
    assert_eq!(limiter.try_acquire(1), Err(denied(SECOND)));
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_is_dropped_leaves_nothing_behind() {
    let stages = ["not polled", "waiting", "moved", "due", "handed out"];
    for stage in stages {
        let limiter = patient(STEADY);
        let mut waiter = unpolled(&limiter, 1);
        if stage != "not polled" {
            assert_pending!(waiter.poll());
        }
        if stage == "moved" {
            task::spawn(()).enter(|cx, _| assert_pending!(pin!(&mut *waiter).poll(cx)));
        }
        if stage == "due" || stage == "handed out" {
            time::advance(SECOND).await;
        }
        if stage == "handed out" {
            limiter.try_acquire(1).unwrap_err();
            assert_eq!(limiter.snapshot().waiting, 0);
        }
        drop(waiter);
        assert_eq!(limiter.snapshot().waiting, 0, "{stage}");
        let due = if stage.starts_with('d') || stage.starts_with('h') {
            Ok(())
        } else {
            Err(denied(SECOND))
        };
        assert_eq!(limiter.try_acquire(1), due, "{stage}");
        limiter.try_acquire(1).unwrap_err();
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_and_is_dropped_gives_its_place_up_polled_or_not() {
    for polled in [false, true] {
        let layer = RateLimitLayer::builder(STEADY).max_wait(Duration::MAX);
        let layer = layer.build().unwrap();
        let mut service = layer.layer(echo());
        layer.limiter().try_acquire(1).unwrap();
        let mut first = task::spawn(service.ready().await.unwrap().call(()));
        let mut second = task::spawn(service.ready().await.unwrap().call(()));
        if polled {
            assert_pending!(first.poll());
        }
        assert_pending!(second.poll());
        drop(first);
        time::advance(SECOND).await;
        assert_ready_ok!(second.poll());
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_while_readying_hands_its_turn_on() {
    let layer = RateLimitLayer::builder(STEADY).max_wait(Duration::MAX);
    let layer = layer.build().unwrap();
    let (inner, mut handle) = mock::pair::<(), ()>();
    let mut service = layer.layer(inner);
    layer.limiter().try_acquire(1).unwrap();
    handle.allow(1);
    assert_ready_ok!(task::spawn(()).enter(|cx, _| service.poll_ready(cx)));
    let mut readying = task::spawn(service.call(()));
    handle.allow(0);
    assert_pending!(readying.poll());
    time::advance(SECOND).await;
    assert_pending!(readying.poll());
    assert_eq!(layer.limiter().snapshot().waiting, 0);
    let mut next = waiting(layer.limiter(), 1);
    time::advance(SECOND / 2).await;
    drop(readying);
    assert_ready_ok!(next.poll());
}

// Order

#[tokio::test(start_paused = true)]
async fn a_cheap_call_does_not_overtake_a_dear_one() {
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
async fn calls_are_served_in_order_whatever_they_cost() {
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
async fn a_newcomer_does_not_overtake_even_when_there_is_enough() {
    let limiter = patient(STEADY.burst(5));
    let mut dear = waiting(&limiter, 5);
    time::advance(3 * SECOND).await;
    assert_eq!(limiter.try_acquire(1), Err(denied(3 * SECOND)));
    assert_pending!(dear.poll());
}

#[tokio::test(start_paused = true)]
async fn each_waiter_is_woken_once_though_newcomers_look_in() {
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
async fn a_future_that_moved_is_woken_there_by_those_who_hand_over() {
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

// Told at once

#[tokio::test(start_paused = true)]
async fn a_newcomer_is_told_exactly_when_it_would_be_granted_behind_the_others() {
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
async fn a_newcomer_whose_turn_comes_too_late_is_rejected_at_once_and_changes_nothing() {
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
fn nothing_needs_a_runtime_where_nothing_waits() {
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

// Changes

#[tokio::test(start_paused = true)]
async fn a_pause_that_ends_leaves_no_trace_of_a_waiter_that_left() {
    let limiter = waits_up_to(Duration::MAX, TENTHS);
    limiter.pause_until(Instant::now() + 30 * SECOND);
    let waiter = waiting(&limiter, 1);
    drop(waiter);
    limiter.resume();
    assert_eq!(limiter.try_acquire(1), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_go_at_the_end_of_a_pause_one_by_one() {
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
async fn who_would_wait_too_long_for_the_end_of_a_pause_is_rejected() {
    let limiter = waits_up_to(SECOND, TENTHS);
    limiter.try_acquire(1).unwrap();
    let mut waiters = [(); 2].map(|()| waiting(&limiter, 1));
    limiter.pause_until(Instant::now() + SECOND);
    assert!(!waiters[0].is_woken() && waiters[1].is_woken());
    // At the end of the pause goes the first.
    let error = assert_ready_err!(waiters[1].poll());
    assert_eq!(error, denied(SECOND + tenths(1)));
    time::advance(SECOND).await;
    assert_ready_ok!(waiters[0].poll());
}

#[tokio::test(start_paused = true)]
async fn a_resume_wakes_those_who_wait() {
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
async fn a_faster_quota_serves_those_who_wait_sooner() {
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
async fn a_slower_quota_rejects_those_for_whom_it_is_too_slow_and_no_more() {
    let limiter = waits_up_to(SECOND, TENTHS.burst(3));
    limiter.try_acquire(3).unwrap();
    let mut waiters = [1, 2, 1, 3, 1].map(|cost| waiting(&limiter, cost));
    time::advance(SECOND / 20).await;
    limiter.set_quota(Quota::per_second(5).burst(2));
    // Turns every 0.2 s from 0 on, and 0.95 s are left.
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
async fn a_quota_of_none_rejects_those_who_wait() {
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
async fn a_call_whose_deadline_a_pause_puts_out_of_reach_is_rejected_and_told_of() {
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

// Those who are stuck

#[tokio::test(start_paused = true)]
async fn those_who_are_stuck_cost_others_their_own_turns_and_no_more() {
    let limiter = patient(TENTHS);
    let start = Instant::now();
    // Polled once, and never again; or not at all.
    let _stuck: Vec<_> = (0..5).map(|_| waiting(&limiter, 1)).collect();
    let mut waiter = pin!(limiter.acquire(1));
    waiter.as_mut().await.unwrap();
    assert!(start.elapsed() <= tenths(6 + 5), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_is_never_looked_at_does_not_hold_up_the_next_one() {
    let limiter = patient(TENTHS);
    let start = Instant::now();
    let stuck = waiting(&limiter, 1);
    time::sleep(tenths(1)).await;
    limiter.try_acquire(1).unwrap_err();
    assert!(stuck.is_woken());
    for i in 2..10 {
        limiter.acquire(1).await.unwrap();
        assert_eq!(start.elapsed(), tenths(i));
    }
}

#[test]
fn a_runtime_that_ended_does_not_hold_others_up() {
    let (limiter, ended) = (waits_up_to(Duration::MAX, TENTHS), runtime());
    limiter.try_acquire(1).unwrap();
    let left: Vec<_> = ended.block_on(async { (0..3).map(|_| waiting(&limiter, 1)).collect() });
    drop(ended);
    runtime().block_on(async {
        let start = Instant::now();
        limiter.acquire(1).await.unwrap();
        assert!(start.elapsed() <= tenths(4 + 3));
        drop(left);
        assert_eq!(limiter.snapshot().waiting, 0);
    });
}

#[test]
fn a_future_may_leave_its_runtime_for_another_one() {
    for ends in [true, false] {
        let (limiter, first) = (waits_up_to(Duration::MAX, TENTHS), runtime());
        limiter.try_acquire(1).unwrap();
        let entered = first.enter();
        let mut future = waiting(&limiter, 1);
        drop(entered);
        // Either it has ended, or nobody drives its timers.
        let kept = (!ends).then_some(first);
        runtime().block_on(async {
            let granted = poll_fn(|cx| pin!(&mut *future).poll(cx));
            timeout(SECOND, granted).await.unwrap().unwrap();
        });
        drop(kept);
    }
}

// Wakers are user code

/// Looks at the limiter whenever it is woken or dropped.
struct Nosy {
    limiter: RateLimiter,
    looks: Arc<AtomicUsize>,
}

impl Nosy {
    fn waker(limiter: &RateLimiter, looks: &Arc<AtomicUsize>) -> Waker {
        Waker::from(Arc::new(Self {
            limiter: limiter.clone(),
            looks: looks.clone(),
        }))
    }

    fn look(&self) {
        let _ = self.limiter.snapshot();
        let _ = self.limiter.try_acquire(1);
        self.looks.fetch_add(1, SeqCst);
    }
}

impl Wake for Nosy {
    fn wake(self: Arc<Self>) {
        self.look();
    }
}

impl Drop for Nosy {
    fn drop(&mut self) {
        self.look();
    }
}

#[test]
fn wakers_may_use_the_limiter() {
    // On a thread of its own: a deadlock must not be waited for.
    let (done, end) = mpsc::channel();
    thread::spawn(move || {
        runtime().block_on(async {
            let looks = Arc::default();
            let limiter = waits_up_to(10 * SECOND, STEADY);
            limiter.try_acquire(1).unwrap();
            let mut waiters: Vec<_> = (0..6).map(|_| unpolled(&limiter, 1)).collect();
            for waiter in &mut waiters {
                for _ in 0..2 {
                    let waker = Nosy::waker(&limiter, &looks);
                    let mut cx = Context::from_waker(&waker);
                    assert_pending!(pin!(&mut **waiter).poll(&mut cx));
                }
            }
            let replaced = looks.load(SeqCst);
            assert!(replaced >= 6, "{replaced}");
            drop(waiters.remove(2)); // leaves
            time::advance(SECOND).await;
            limiter.try_acquire(1).unwrap_err(); // hands over
            drop(waiters.remove(0)); // hands over too
            limiter.set_quota(TENTHS);
            limiter.pause_until(Instant::now() + 60 * SECOND); // rejects
            limiter.resume();
            drop(waiters);
            assert!(looks.load(SeqCst) >= replaced + 6);
        });
        done.send(()).unwrap();
    });
    end.recv_timeout(30 * SECOND)
        .expect("a deadlock, or a panic");
}

// Seeing

#[tokio::test(start_paused = true)]
async fn a_snapshot_counts_those_who_wait() {
    let limiter = patient(TENTHS);
    let counts = |limiter: &RateLimiter| {
        let snapshot = limiter.snapshot();
        (snapshot.waiting, snapshot.available)
    };
    assert_eq!(counts(&limiter), (0, 0));
    let first = waiting(&limiter, 1);
    let mut second = waiting(&limiter, 1);
    assert_eq!(counts(&limiter), (2, 0));
    drop(first);
    assert_eq!(counts(&limiter), (1, 0));
    time::advance(tenths(1)).await;
    assert_ready_ok!(second.poll());
    assert_eq!(counts(&limiter), (0, 0));
}

// The burst

/// The share of calls that are rejected, if they come at random (as a Poisson process) at 80 % of
/// so many per second.
async fn lost(per_second: u32, quota: Quota, max_wait: Duration, of: u32) -> f64 {
    let (limiter, mut calls) = (waits_up_to(max_wait, quota), JoinSet::new());
    let (mut seed, mut at) = (7_u64, Instant::now());
    for _ in 0..of {
        // SplitMix64.
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
async fn usual_load_loses_less_than_one_call_in_a_thousand() {
    for per_second in [7, 10, 30] {
        let quota = Quota::per_second(per_second);
        let lost = lost(per_second, quota, SECOND, 20_000).await;
        assert!(lost < 0.001, "{lost} of {per_second} per second");
    }
}

#[tokio::test(start_paused = true)]
async fn usual_load_that_never_waits_loses_what_the_docs_say() {
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
