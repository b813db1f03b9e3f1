//! HTTP: the verdict of each status, and which requests are retried.

use buttress::http::{ClientError, Idempotent, StatusClassifier};
use buttress::retry::{Cloned, RetryBuilder};
use buttress::verdict::RetryAfter;
use buttress::verdict::Sent;
use buttress::{Classify, Error, Replay, RetryLayer, Verdict};
use http::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Method, Request, Response, StatusCode, Version};
use std::convert::Infallible;
use std::future::ready;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;
use tower::{Layer, ServiceExt, service_fn};

const SECOND: Duration = Duration::from_secs(1);
const KEY: &str = "idempotency-key";

fn verdict(status: u16, retry_after: Option<&'static str>) -> Verdict {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    if let Some(value) = retry_after {
        let value = HeaderValue::from_static(value);
        response.headers_mut().insert(RETRY_AFTER, value);
    }
    StatusClassifier::default().classify(Ok::<_, &Infallible>(&response))
}

// The verdict of a response

#[test]
fn every_status_has_its_verdict() {
    for status in 100..=999 {
        let expected = match status {
            501 | 505 => Verdict::Permanent,
            408 | 425 | 500.. => Verdict::TRANSIENT,
            429 => Verdict::THROTTLED,
            _ => Verdict::Healthy,
        };
        assert_eq!(verdict(status, None), expected, "{status}");
    }
}

#[test]
fn an_unknown_status_is_judged_like_the_first_of_its_class() {
    const LIST: &[StatusCode] = &[StatusCode::BAD_REQUEST, StatusCode::BAD_GATEWAY];
    let classify = StatusClassifier::default().transient(LIST);
    for (status, expected) in [
        (400, Verdict::TRANSIENT),
        (404, Verdict::Healthy),
        (499, Verdict::TRANSIENT),
        (500, Verdict::Healthy),
        (502, Verdict::TRANSIENT),
        (522, Verdict::Healthy),
        (600, Verdict::Healthy),
    ] {
        let response = Response::builder().status(status).body(()).unwrap();
        let verdict = classify.classify(Ok::<_, &Infallible>(&response));
        assert_eq!(verdict, expected, "{status}");
    }
}

#[test]
fn an_unknown_status_can_be_listed() {
    const LIST: &[StatusCode] = &[StatusCode::NETWORK_AUTHENTICATION_REQUIRED];
    let classify = StatusClassifier::default().transient(LIST);
    for (status, expected) in [(511, Verdict::TRANSIENT), (510, Verdict::Healthy)] {
        let response = Response::builder().status(status).body(()).unwrap();
        let verdict = classify.classify(Ok::<_, &Infallible>(&response));
        assert_eq!(verdict, expected, "{status}");
    }
}

#[test]
fn a_custom_error_decides_its_own_verdict() {
    struct Own(Verdict);
    impl ClientError for Own {
        fn verdict(&self) -> Verdict {
            self.0
        }
    }
    for expected in [Verdict::Ignored, Verdict::Permanent, Verdict::TRANSIENT] {
        let outcome: Result<&Response<()>, _> = Err(&Own(expected));
        assert_eq!(StatusClassifier::default().classify(outcome), expected);
        let lifted: Result<&Response<()>, _> = Err(&Error::Service(Own(expected)));
        assert_eq!(StatusClassifier::default().classify(lifted), expected);
    }
}

#[test]
fn the_verdict_of_a_transient_status_carries_the_retry_after() {
    let retry_after = RetryAfter::Delay(7 * SECOND);
    for status in [408, 425, 500, 502, 503, 504] {
        let expected = Verdict::Transient {
            retry_after,
            sent: Sent::Unknown,
        };
        assert_eq!(verdict(status, Some("7")), expected, "{status}");
    }
}

#[test]
fn the_verdict_of_a_throttled_status_carries_the_retry_after() {
    let retry_after = RetryAfter::Delay(7 * SECOND);
    assert_eq!(verdict(429, Some("7")), Verdict::Throttled { retry_after });
}

#[test]
fn a_retry_after_that_cannot_be_read_is_reported_as_unreadable() {
    let retry_after = RetryAfter::Unreadable;
    let transient = Verdict::Transient {
        retry_after,
        sent: Sent::Unknown,
    };
    assert_eq!(verdict(503, Some("soon")), transient);
    let throttled = Verdict::Throttled { retry_after };
    assert_eq!(verdict(429, Some("soon")), throttled);
}

#[test]
fn a_retry_after_date_is_relative_to_the_date_of_the_response() {
    let response = Response::builder()
        .status(503)
        .header("date", "Sun, 06 Nov 1994 08:49:37 GMT")
        .header("retry-after", "Sun, 06 Nov 1994 08:49:47 GMT")
        .body(())
        .unwrap();
    let verdict = StatusClassifier::default().classify(Ok::<_, &Infallible>(&response));
    let retry_after = RetryAfter::Delay(10 * SECOND);
    assert_eq!(
        verdict,
        Verdict::Transient {
            retry_after,
            sent: Sent::Unknown
        }
    );
}

// Copies of a request

fn request(method: &Method) -> Request<&'static str> {
    let request = Request::builder().method(method).uri("/orders?of=1");
    request.body("body").unwrap()
}

fn keyed(key: &'static str) -> Request<&'static str> {
    let mut request = request(&Method::POST);
    let key = HeaderValue::from_static(key);
    request.headers_mut().insert(KEY, key);
    request
}

/// Whether a request that may have been processed is sent again.
fn repeats(request: &Request<&'static str>) -> bool {
    let copy = Idempotent.keep(request).unwrap();
    // What was not processed is always sent again.
    assert!(Idempotent.may_resend(&copy, Verdict::NOT_SENT));
    let repeats = Idempotent.may_resend(&copy, Verdict::TRANSIENT);
    assert_eq!(Idempotent.may_resend(&copy, Verdict::Local), repeats);
    // A function that calls `replay` gets only what may be processed twice.
    assert_eq!(Idempotent.replay(request).is_some(), repeats);
    repeats
}

#[test]
fn idempotent_methods_are_repeated() {
    for method in [
        Method::GET,
        Method::HEAD,
        Method::OPTIONS,
        Method::TRACE,
        Method::PUT,
        Method::DELETE,
    ] {
        assert!(repeats(&request(&method)), "{method}");
    }
}

#[test]
fn other_methods_are_not_repeated() {
    let unknown = Method::from_bytes(b"PURGE").unwrap();
    for method in [Method::POST, Method::PATCH, Method::CONNECT, unknown] {
        assert!(!repeats(&request(&method)), "{method}");
    }
}

#[test]
fn a_request_with_an_idempotency_key_is_repeated() {
    assert!(repeats(&keyed("8e03978e-40d5")));
}

#[test]
fn an_empty_idempotency_key_does_not_count() {
    for key in ["", " ", "\t"] {
        assert!(!repeats(&keyed(key)), "{key:?}");
    }
}

#[test]
fn a_copy_has_all_parts_of_the_request() {
    let mut request = request(&Method::PUT);
    *request.version_mut() = Version::HTTP_2;
    let value = HeaderValue::from_static("1");
    request.headers_mut().insert("x-tenant", value);
    request.extensions_mut().insert(42_u8);
    let whole = |request: &Request<&'static str>| {
        let extension = request.extensions().get::<u8>().copied();
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let headers: HeaderMap = request.headers().clone();
        let body = *request.body();
        (method, uri, request.version(), headers, extension, body)
    };
    let copy = Idempotent.replay(&request).unwrap();
    assert_eq!(whole(&copy), whole(&request));
}

// Retries

/// When each attempt was sent to a server that always returns this response.
async fn attempts<R>(
    retry: RetryBuilder<StatusClassifier, R>,
    request: Request<&'static str>,
    response: Response<()>,
) -> Vec<Instant>
where
    R: Replay<Request<&'static str>> + Clone,
{
    let sent = Arc::new(Mutex::new(Vec::new()));
    let log = sent.clone();
    let server = service_fn(move |_: Request<&str>| {
        log.lock().unwrap().push(Instant::now());
        ready(Ok::<_, Error<Infallible>>(response.clone()))
    });
    let service = retry.build().unwrap().layer(server);
    service.oneshot(request).await.unwrap();
    std::mem::take(&mut sent.lock().unwrap())
}

fn retrying() -> RetryBuilder<StatusClassifier> {
    RetryLayer::builder().classify(StatusClassifier::default())
}

fn unavailable() -> Response<()> {
    Response::builder().status(503).body(()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_get_is_retried() {
    let sent = attempts(retrying(), request(&Method::GET), unavailable()).await;
    assert_eq!(sent.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_post_is_sent_once() {
    let sent = attempts(retrying(), request(&Method::POST), unavailable()).await;
    assert_eq!(sent.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_post_with_an_idempotency_key_is_retried() {
    let sent = attempts(retrying(), keyed("8e03978e-40d5"), unavailable()).await;
    assert_eq!(sent.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn the_retry_of_a_keyed_post_carries_the_same_key() {
    let keys = Arc::new(Mutex::new(Vec::new()));
    let log = keys.clone();
    let server = service_fn(move |request: Request<&str>| {
        let key = request.headers()[HeaderName::from_static(KEY)].clone();
        log.lock().unwrap().push(key);
        ready(Ok::<_, Error<Infallible>>(unavailable()))
    });
    let service = retrying().build().unwrap().layer(server);
    service.oneshot(keyed("8e03978e-40d5")).await.unwrap();
    assert_eq!(*keys.lock().unwrap(), ["8e03978e-40d5"; 3]);
}

#[tokio::test(start_paused = true)]
async fn a_post_is_retried_if_every_request_may_be() {
    let retrying = retrying().replay(Cloned);
    let sent = attempts(retrying, request(&Method::POST), unavailable()).await;
    assert_eq!(sent.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_request_with_a_permanent_failure_is_sent_once() {
    for status in [200, 404, 501, 505] {
        let mut response = unavailable();
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        let sent = attempts(retrying(), request(&Method::GET), response).await;
        assert_eq!(sent.len(), 1, "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_waits_for_the_retry_after_of_the_response() {
    for status in [429, 503] {
        let mut response = unavailable();
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        let value = HeaderValue::from_static("4");
        response.headers_mut().insert(RETRY_AFTER, value);
        let sent = attempts(retrying(), request(&Method::GET), response).await;
        let wait = sent[1] - sent[0];
        // At most a quarter longer, plus one tick of the timer.
        let asked = 4 * SECOND..=5 * SECOND + Duration::from_millis(1);
        assert!(asked.contains(&wait), "{status}: {wait:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_excessive_retry_after_delays_no_call() {
    for value in ["18446744073709551615", "99999999999999999999999"] {
        let mut response = unavailable();
        let value = HeaderValue::from_static(value);
        response.headers_mut().insert(RETRY_AFTER, value);
        let start = Instant::now();
        attempts(retrying(), request(&Method::GET), response).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
