//! 429 responses, and the rate limiter that they pause.

#[path = "support/events.rs"]
mod events;

use buttress::circuit_breaker::CircuitState;
use buttress::http::PauseOn429;
use buttress::http::StatusClassifier;
use buttress::rate_limit::RateLimiter;
use buttress::{CircuitBreakerLayer, Classify, ErrorLayer, Quota, RateLimitLayer, Verdict};
use http::{Response, StatusCode};
use std::convert::Infallible;
use std::time::Duration;
use tower::{ServiceBuilder, ServiceExt, service_fn};

const SECOND: Duration = Duration::from_secs(1);

fn throttled(retry_after: &str) -> Response<()> {
    let response = Response::builder().status(429);
    response
        .header("retry-after", retry_after)
        .body(())
        .unwrap()
}

fn judged_by(
    classify: &impl Classify<Response<()>, Infallible>,
    response: &Response<()>,
) -> Verdict {
    classify.classify(Ok(response))
}

/// For how long this response pauses the limiter.
async fn paused_for(classify: impl Fn(&RateLimiter) -> Paused, response: Response<()>) -> Duration {
    let limiter = RateLimiter::new(Quota::per_second(1_000_000_000));
    let start = tokio::time::Instant::now();
    judged_by(&classify(&limiter), &response);
    while limiter.try_acquire(1).is_err() {
        tokio::time::advance(Duration::from_millis(500)).await;
    }
    start.elapsed()
}

type Paused = PauseOn429<StatusClassifier>;

fn pausing(limiter: &RateLimiter) -> Paused {
    PauseOn429::new(StatusClassifier::default(), limiter)
}

#[tokio::test(start_paused = true)]
async fn a_429_pauses_the_limiter_for_its_retry_after() {
    assert_eq!(paused_for(pausing, throttled("7")).await, 7 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn an_excessive_429_pauses_the_limiter_for_a_minute() {
    let asked = throttled("18446744073709551615");
    assert_eq!(paused_for(pausing, asked).await, 60 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn the_longest_pause_can_be_set() {
    let pausing = |limiter: &RateLimiter| pausing(limiter).max_pause(3 * SECOND);
    assert_eq!(paused_for(pausing, throttled("7")).await, 3 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_pause_may_have_the_longest_duration() {
    let limiter = RateLimiter::new(Quota::per_second(10));
    let pausing = pausing(&limiter).max_pause(Duration::MAX);
    judged_by(&pausing, &throttled("99999999999999999999"));
    tokio::time::advance(365 * 86_400 * SECOND).await;
    assert!(limiter.try_acquire(1).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_429_without_a_retry_after_does_not_pause_the_limiter() {
    for asked in ["soon", "0"] {
        let limiter = RateLimiter::new(Quota::per_second(10).burst(10));
        judged_by(&pausing(&limiter), &throttled(asked));
        assert_eq!(limiter.snapshot().available, 10, "{asked}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_503_with_a_retry_after_does_not_pause_the_limiter() {
    let response = Response::builder().status(503).header("retry-after", "7");
    let asked = response.body(()).unwrap();
    assert_eq!(paused_for(pausing, asked).await, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn the_verdict_passes_unchanged() {
    let limiter = RateLimiter::new(Quota::per_second(10));
    let retry_after = buttress::verdict::RetryAfter::Delay(7 * SECOND);
    let verdict = judged_by(&pausing(&limiter), &throttled("7"));
    assert_eq!(verdict, Verdict::Throttled { retry_after });
}

#[tokio::test(start_paused = true)]
async fn calls_after_a_429_are_not_sent_until_the_pause_is_over() {
    let limit = RateLimitLayer::new(Quota::per_second(1_000));
    let classify = PauseOn429::new(StatusClassifier::default(), limit.limiter());
    let service = ServiceBuilder::new()
        .layer(limit)
        .layer(
            CircuitBreakerLayer::builder()
                .classify(classify)
                .build()
                .unwrap(),
        )
        .layer(ErrorLayer)
        .service(service_fn(|()| async {
            Ok::<_, Infallible>(throttled("2"))
        }));

    assert_eq!(service.clone().oneshot(()).await.unwrap().status(), 429);
    assert!(service.clone().oneshot(()).await.is_err());
    tokio::time::advance(2 * SECOND).await;
    assert_eq!(service.oneshot(()).await.unwrap().status(), 429);
}

#[tokio::test(start_paused = true)]
async fn a_pause_emits_an_event() {
    let limiter = RateLimiter::new(Quota::per_second(10));
    let events = events::of(async { judged_by(&pausing(&limiter), &throttled("7")) }).await;
    assert_eq!(events, ["DEBUG buttress::rate_limit paused pause_ms=7000"]);
}

#[tokio::test(start_paused = true)]
async fn a_429_that_counts_as_a_failure_opens_the_circuit() {
    for (classify, state) in [
        (StatusClassifier::default(), CircuitState::Closed),
        (
            StatusClassifier::default().throttled_is_failure(),
            CircuitState::Open,
        ),
    ] {
        let breaker = CircuitBreakerLayer::builder().consecutive_failures(2);
        let breaker = breaker.classify(classify).build().unwrap();
        let service = ServiceBuilder::new()
            .layer(&breaker)
            .layer(ErrorLayer)
            .service(service_fn(|()| async {
                Ok::<_, Infallible>(throttled("1"))
            }));
        for _ in 0..2 {
            service.clone().oneshot(()).await.unwrap();
        }
        assert_eq!(breaker.circuit().state(), state);
    }
}

#[test]
fn a_custom_list_replaces_the_transient_statuses() {
    const LIST: &[StatusCode] = &[StatusCode::CONFLICT, StatusCode::TOO_MANY_REQUESTS];
    let classify = StatusClassifier::default().transient(LIST);
    let verdict = |status: u16| {
        let response = Response::builder().status(status).body(()).unwrap();
        judged_by(&classify, &response)
    };
    assert_eq!(verdict(409), Verdict::TRANSIENT);
    assert_eq!(verdict(429), Verdict::TRANSIENT);
    assert_eq!(verdict(503), Verdict::Healthy);
    assert_eq!(verdict(501), Verdict::Permanent);
}
