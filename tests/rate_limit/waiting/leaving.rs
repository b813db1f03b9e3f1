//! Waiters that give up.

use super::{SECOND, STEADY, TENTHS, denied, patient, tenths, unpolled, waiting};
use buttress::rate_limit::RateLimiter;
use buttress::{Error, ErrorLayer, Quota, RateLimitLayer};
use http::Request;
use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{self, Instant, sleep_until, timeout};
use tokio_test::task::{self};
use tokio_test::{assert_pending, assert_ready_ok};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_test::mock;

/// Which calls got a turn, and when.
type Grants = Arc<Mutex<Vec<(u32, Duration)>>>;

/// Makes `per_second` calls for `secs` seconds. Each one runs in its own task, which gives up after
/// `patience`. Returns when all calls have ended.
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

/// Asserts that no window of up to a minute has more turns than the burst plus one per interval.
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
async fn remaining_waiters_use_the_whole_quota_however_many_give_up() {
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
async fn no_window_exceeds_the_quota_however_many_waiters_give_up() {
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
async fn remaining_waiters_use_the_whole_quota_through_the_layer() {
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
async fn remaining_waiters_use_the_whole_quota_of_a_stack() {
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
async fn a_cancelled_waiter_gives_its_place_to_those_behind_it() {
    let limiter = patient(STEADY);
    let first = waiting(&limiter, 1);
    let mut second = waiting(&limiter, 1);
    drop(first);
    time::advance(SECOND).await;
    assert_ready_ok!(second.poll());
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_costly_waiter_gives_its_whole_cost_back() {
    let limiter = patient(STEADY.burst(5));
    let first = waiting(&limiter, 5);
    let second = waiting(&limiter, 2);
    drop(first);
    assert_eq!(limiter.try_acquire(1), Err(denied(3 * SECOND)));
    drop(second);
    assert_eq!(limiter.try_acquire(1), Err(denied(SECOND)));
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_moves_up_is_woken_for_its_new_turn() {
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
async fn an_unused_turn_goes_to_the_next_waiter_at_once() {
    let limiter = patient(STEADY);
    let first = waiting(&limiter, 1);
    let mut second = waiting(&limiter, 1);
    time::advance(SECOND).await;
    // The newcomer hands the turn to the first waiter, which does not take it.
    limiter.try_acquire(1).unwrap_err();
    assert!(first.is_woken() && !second.is_woken());
    drop(first);
    assert!(second.is_woken());
    assert_ready_ok!(second.poll());
}

#[tokio::test(start_paused = true)]
async fn an_unused_turn_does_not_enlarge_a_later_burst() {
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
async fn a_dropped_call_gives_its_place_up_whether_it_was_polled_or_not() {
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
async fn a_call_dropped_while_waiting_for_readiness_hands_its_turn_on() {
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
