//! Extreme durations and clock values.

use super::SECOND;
use buttress::rate_limit::RateLimiter;
use buttress::retry::{Backoff, Cloned};
use buttress::{ErrorLayer, LoadShedLayer, Quota, RetryLayer, TimeoutLayer};
use std::convert::Infallible;
use std::future::{pending, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;
use tokio::time::Instant;
use tokio_test::task;
use tower::{ServiceBuilder, ServiceExt, service_fn};

fn of_nanos(nanos: u128) -> Duration {
    let (seconds, nanos) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    Duration::new(seconds.try_into().unwrap(), nanos.try_into().unwrap())
}

/// The longest duration that can be added to the current instant, less `nanos` nanoseconds.
fn longest_but(nanos: u128) -> Duration {
    let countable = |nanos| Instant::now().checked_add(of_nanos(nanos)).is_some();
    let (mut least, mut most) = (0, Duration::MAX.as_nanos());
    while least + 1 < most {
        let middle = least.midpoint(most);
        *(if countable(middle) {
            &mut least
        } else {
            &mut most
        }) = middle;
    }
    of_nanos(least.saturating_sub(nanos))
}

#[tokio::test(start_paused = true)]
async fn the_longest_possible_durations_do_not_panic() {
    let never = || service_fn(|()| pending::<Result<(), Infallible>>());
    for length in [0, 1, 1_000_000, 1_000_000_000].map(longest_but) {
        let timed = ServiceBuilder::new()
            .layer(TimeoutLayer::new(length))
            .layer(ErrorLayer);
        assert!(
            task::spawn(timed.service(never()).oneshot(()))
                .poll()
                .is_pending()
        );
        let queue = LoadShedLayer::builder(0).queue(1, length).build().unwrap();
        let queued = ServiceBuilder::new().layer(queue).layer(ErrorLayer);
        assert!(
            task::spawn(queued.service(never()).oneshot(()))
                .poll()
                .is_pending()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_very_long_pause_can_be_resumed() {
    let limiter = RateLimiter::new(Quota::per_second(1));
    limiter.pause_until(Instant::now() + longest_but(0) / 2);
    limiter.try_acquire(1).unwrap_err();
    limiter.resume();
    limiter.try_acquire(1).unwrap();
}

#[tokio::test(start_paused = true)]
async fn retries_without_a_wait_yield_to_the_runtime() {
    let sends = Arc::new(AtomicU32::new(0));
    let sent = sends.clone();
    let retry = RetryLayer::builder()
        .attempts(u32::MAX)
        .no_budget()
        .backoff(Backoff::constant(Duration::ZERO))
        .replay(Cloned)
        .build()
        .unwrap();
    let service = ServiceBuilder::new()
        .layer(TimeoutLayer::new(SECOND))
        .layer(retry)
        .layer(ErrorLayer)
        .service(service_fn(move |()| {
            sent.fetch_add(1, SeqCst);
            ready(Err::<(), _>("down"))
        }));
    assert!(task::spawn(service.oneshot(())).poll().is_pending());
    assert_eq!(sends.load(SeqCst), 1);
}
