//! A stack that pauses its rate limit by the headers of responses.

use buttress::http::{PauseOn429, StatusClassifier, stack};
use buttress::rate_limit::RateLimiter;
use buttress::{Classify, Quota, RateLimitLayer};
use http::{Request, Response};
use std::convert::Infallible;
use std::future::ready;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;
use tower::{Layer, service_fn};

type Headers = &'static [(&'static str, &'static str)];

fn response(status: u16, headers: Headers) -> Response<()> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(()).unwrap()
}

/// How long the second call waits if the first one gets this response.
async fn waits(by_headers: bool, status: u16, headers: Headers) -> Duration {
    let responses = Arc::new(Mutex::new(vec![
        response(200, &[]),
        response(status, headers),
    ]));
    let client = service_fn(move |_: Request<()>| {
        ready(Ok::<_, Infallible>(
            responses.lock().unwrap().pop().unwrap(),
        ))
    });
    let limit = RateLimitLayer::builder(Quota::per_second(1_000)).max_wait(Duration::MAX);
    let stack = stack().deadline(Duration::MAX).no_retry().rate_limit(limit);
    let get = || Request::get("/").body(()).unwrap();
    let start = Instant::now();
    if by_headers {
        let service = stack.pause_by_headers().build().unwrap().layer(client);
        service.clone().oneshot(get()).await.unwrap();
        service.oneshot(get()).await.unwrap();
    } else {
        let service = stack.pause_on_429().build().unwrap().layer(client);
        service.clone().oneshot(get()).await.unwrap();
        service.oneshot(get()).await.unwrap();
    }
    start.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_quota_that_is_used_up_pauses_the_limit_if_asked_for() {
    let seconds = Duration::from_secs;
    let used_up: Headers = &[("ratelimit", "\"default\";r=0;t=7")];
    assert_eq!(waits(true, 200, used_up).await, seconds(7));
    assert_eq!(waits(false, 200, used_up).await, seconds(0));
    let left: Headers = &[("ratelimit", "\"default\";r=1;t=7")];
    assert_eq!(waits(true, 200, left).await, seconds(0));
    // Clamped to a minute.
    let hour: Headers = &[
        ("x-ratelimit-remaining", "0"),
        ("x-ratelimit-reset", "3600"),
    ];
    assert_eq!(waits(true, 200, hour).await, seconds(60));
    // A 429 pauses as before, and more exactly if it can.
    let later: Headers = &[("retry-after", "3")];
    assert_eq!(waits(true, 429, later).await, seconds(3));
    assert_eq!(waits(false, 429, later).await, seconds(3));
    let exact: Headers = &[("retry-after", "3"), ("retry-after-ms", "2100")];
    assert_eq!(waits(true, 429, exact).await, Duration::from_millis(2_100));
    assert_eq!(waits(false, 429, exact).await, seconds(3));
    assert_eq!(waits(true, 200, exact).await, seconds(0));
    // The longest wins.
    let both: Headers = &[("retry-after", "3"), ("ratelimit", "\"default\";r=0;t=7")];
    assert_eq!(waits(true, 429, both).await, seconds(7));
}

#[tokio::test(start_paused = true)]
async fn the_longest_pause_can_be_set() {
    let limiter = RateLimiter::new(Quota::per_second(1_000));
    let classify = PauseOn429::new(StatusClassifier::default(), &limiter);
    let classify = classify.by_headers().max_pause(Duration::from_secs(2));
    let used_up = response(
        200,
        &[("ratelimit", "\"default\";r=0;t=99999999999999999999")],
    );
    classify.classify(Ok::<_, &Infallible>(&used_up));
    assert!(limiter.try_acquire(1).is_err());
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(limiter.try_acquire(1).is_ok());
}
