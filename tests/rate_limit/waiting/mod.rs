//! Calls that wait for the rate limit, and the calls behind them.

mod changes;
mod leaving;
mod order;
mod stuck;

use buttress::error::Rejected;
use buttress::rate_limit::RateLimiter;
use buttress::{Name, Quota, RateLimitLayer, Rejection};
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;
use tokio_test::assert_pending;
use tokio_test::task::{self, Spawn};

const SECOND: Duration = Duration::from_secs(1);

/// One call per second with a burst of one, so that turns are easy to compute.
const STEADY: Quota = Quota::per_second(1).burst(1);

/// One turn every tenth of a second.
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

/// A limiter whose burst is used up and whose waits have no limit.
fn patient(quota: Quota) -> RateLimiter {
    let limiter = waits_up_to(Duration::MAX, quota);
    while limiter.try_acquire(1).is_ok() {}
    limiter
}

type Acquire = Spawn<Pin<Box<dyn Future<Output = Result<(), Rejected>> + Send>>>;

/// A waiter that was polled once.
fn waiting(limiter: &RateLimiter, cost: u32) -> Acquire {
    let mut acquire = unpolled(limiter, cost);
    assert_pending!(acquire.poll());
    acquire
}

fn unpolled(limiter: &RateLimiter, cost: u32) -> Acquire {
    let limiter = limiter.clone();
    task::spawn(Box::pin(async move { limiter.acquire(cost).await }))
}
