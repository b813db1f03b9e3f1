//! How retry obeys `Retry-After`, from the header to the clock.

use buttress::circuit_breaker::Circuit;
use buttress::http::StatusClassifier;
use buttress::retry::{Backoff, RetryBuilder};
use buttress::verdict::RetryAfter;
use buttress::verdict::Sent;
use buttress::{CircuitBreakerLayer, Error, RetryLayer, Verdict};
use http::{Request, Response};
use std::convert::Infallible;
use std::future::ready;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;
use tower::{Layer, ServiceExt, service_fn};

const SECOND: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(1);

/// The first wait is at most 10 ms, and later ones are at most 7 s.
fn retrying() -> RetryBuilder<StatusClassifier> {
    RetryLayer::builder()
        .attempts(2)
        .classify(StatusClassifier::default())
        .backoff(Backoff::exponential(10 * TICK, 7 * SECOND))
}

fn response(status: u16, fields: &[&str]) -> Response<()> {
    let mut response = Response::builder().status(status);
    for field in fields {
        response = response.header("retry-after", *field);
    }
    response.body(()).unwrap()
}

/// The time between the first and the second attempt, or `None` if there was no second one.
async fn wait_after(
    retry: RetryBuilder<StatusClassifier>,
    response: Response<()>,
) -> Option<Duration> {
    let sent = Arc::new(Mutex::new(Vec::new()));
    let log = sent.clone();
    let upstream = service_fn(move |_: Request<()>| {
        log.lock().unwrap().push(Instant::now());
        ready(Ok::<_, Error<Infallible>>(response.clone()))
    });
    let service = retry.build().unwrap().layer(upstream);
    service.oneshot(Request::new(())).await.unwrap();
    let sent = sent.lock().unwrap();
    sent.get(1).map(|second| *second - sent[0])
}

/// Asserts that the wait is as long as asked, or longer by at most a quarter and at most 5 s.
fn assert_asked(wait: Option<Duration>, asked: Duration) {
    let longest = asked + (asked / 4).min(5 * SECOND) + TICK;
    assert!(
        wait.is_some_and(|wait| asked <= wait && wait <= longest),
        "{wait:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_that_cannot_be_read_waits_for_the_longest_backoff() {
    for status in [503, 429] {
        for field in ["soon", "", "-1", "Sun, 06 Nov 1994 08:49:37 EST"] {
            let wait = wait_after(retrying(), response(status, &[field])).await;
            assert_asked(wait, 7 * SECOND);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_retry_after_the_call_waits_for_the_backoff() {
    let wait = wait_after(retrying(), response(503, &[])).await;
    assert!(wait.unwrap() <= 11 * TICK, "{wait:?}");
}

#[tokio::test(start_paused = true)]
async fn the_longest_readable_retry_after_is_obeyed() {
    for fields in [["1", "30"], ["soon", "30"], ["29.5", "later"]] {
        let wait = wait_after(retrying(), response(503, &fields)).await;
        assert_asked(wait, 30 * SECOND);
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_that_cannot_be_read_is_limited_like_any_other() {
    let patient = retrying().backoff(Backoff::exponential(TICK, Duration::MAX));
    let wait = wait_after(patient, response(503, &["soon"])).await;
    assert_eq!(wait, None);
    let in_haste = retrying().max_retry_after(6 * SECOND);
    let wait = wait_after(in_haste, response(503, &["soon"])).await;
    assert_eq!(wait, None);
}

#[tokio::test(start_paused = true)]
async fn a_circuit_opens_for_open_for_if_the_retry_after_cannot_be_read() {
    let circuit = Circuit::builder()
        .consecutive_failures(1)
        .open_for(2 * SECOND);
    let circuit = circuit.build().unwrap();
    let layer = CircuitBreakerLayer::new(circuit.clone(), StatusClassifier::default());
    let upstream = service_fn(|()| ready(Ok::<_, Error<Infallible>>(response(503, &["soon"]))));
    layer.layer(upstream).oneshot(()).await.unwrap();
    assert!(circuit.snapshot().retry_after.unwrap() <= 2 * SECOND);
}

#[test]
fn only_transient_and_throttled_verdicts_have_a_retry_after() {
    let retry_after = RetryAfter::Delay(SECOND);
    for asking in [
        Verdict::Transient {
            retry_after,
            sent: Sent::Unknown,
        },
        Verdict::Throttled { retry_after },
    ] {
        assert_eq!(asking.retry_after(), retry_after);
    }
    for verdict in [
        Verdict::TRANSIENT,
        Verdict::THROTTLED,
        Verdict::Healthy,
        Verdict::Permanent,
        Verdict::Ignored,
    ] {
        assert_eq!(verdict.retry_after(), RetryAfter::None);
    }
}
