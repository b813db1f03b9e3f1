//! The rate limit, through its handle and as a Tower service.

#[path = "../support/events.rs"]
mod events;
#[path = "../support/strict.rs"]
mod strict;

mod control;
mod cost;
mod giving_up;
mod in_line;
mod readiness;
mod seeing;
mod sharing;
mod turns;
mod waiting;

use buttress::error::Rejected;
use buttress::rate_limit::{RateLimit, RateLimitFuture};
use buttress::{Name, Quota, RateLimitLayer, Rejection};
use std::future::{self};
use std::time::Duration;
use strict::{Strict, call};
use tokio::time::{self};
use tokio_test::assert_pending;
use tokio_test::task::Spawn;
use tower::{BoxError, Layer, Service, service_fn};
use tower_test::mock::{self, Handle};

const NANO: Duration = Duration::from_nanos(1);
const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);
const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// One call per second with a burst of one, so that turns are easy to compute.
const STEADY: Quota = Quota::per_second(1);

/// One nanosecond less.
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

fn echo() -> impl Service<u32, Response = u32, Error = BoxError, Future: Send> + Clone + Send {
    service_fn(|req| future::ready(Ok(req)))
}

type StrictCall = Spawn<RateLimitFuture<Strict, u32>>;

/// Two calls. The turn of the second one has come, but the inner service is not ready.
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
