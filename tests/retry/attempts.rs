//! How many times a call is sent, and what it returns.

use super::{BAD, Failed, GOOD, SECOND, Upstream, WAIT, retrying, send, sends, transient};
use buttress::retry::{Backoff, Cloned};
use buttress::{Error, RetryLayer, Verdict};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tower::{Layer, ServiceExt};
use tower_test::mock::{self};

#[tokio::test(start_paused = true)]
async fn a_call_that_failed_is_sent_until_it_succeeds() {
    assert_eq!(sends(retrying().attempts(5), &[BAD, BAD, GOOD]).await, 3);
}

#[tokio::test(start_paused = true)]
async fn the_success_of_a_retry_is_returned() {
    let upstream = Upstream::new([BAD, BAD, GOOD]);
    assert_eq!(send(retrying(), &upstream).await, GOOD);
}

#[tokio::test(start_paused = true)]
async fn a_call_makes_as_many_attempts_as_configured() {
    for attempts in 1..=5 {
        let retrying = retrying().attempts(attempts).no_budget();
        assert_eq!(sends(retrying, &[BAD]).await, attempts as usize);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_is_sent_three_times_by_default() {
    let layer = RetryLayer::builder().replay(Cloned).build().unwrap();
    let upstream = Upstream::new([Err(Error::Service(Failed(0)))]);
    layer.layer(upstream.clone()).oneshot(()).await.unwrap_err();
    assert_eq!(upstream.sent(), 3);
}

#[tokio::test(start_paused = true)]
async fn each_attempt_sends_the_same_request() {
    let (service, mut handle) = mock::pair::<&str, ()>();
    let layer = RetryLayer::builder().replay(Cloned).build().unwrap();
    let _call = tokio::spawn(layer.layer(service).oneshot("pay"));
    for _ in 0..3 {
        let (request, send) = handle.next_request().await.unwrap();
        assert_eq!(request, "pay");
        send.send_error("reset");
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_response_is_returned_unchanged() {
    let script = [1, 2, 3].map(|millis| Ok(transient(Duration::from_millis(millis))));
    let upstream = Upstream::new(script);
    assert_eq!(send(retrying(), &upstream).await, script[2]);
}

#[tokio::test(start_paused = true)]
async fn the_last_error_is_returned_unchanged() {
    let upstream = Upstream::new([1, 2, 3].map(|n| Err(Error::Service(Failed(n)))));
    let outcome = send(retrying(), &upstream).await;
    assert_eq!(outcome, Err(Error::Service(Failed(3))));
}

#[tokio::test(start_paused = true)]
async fn success_permanent_failure_and_ignored_are_not_retried() {
    for verdict in [Verdict::Healthy, Verdict::Permanent, Verdict::Ignored] {
        assert_eq!(sends(retrying(), &[Ok(verdict)]).await, 1, "{verdict:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_with_a_permanent_or_ignored_outcome_is_the_last() {
    for verdict in [Verdict::Permanent, Verdict::Ignored] {
        let script = [BAD, Ok(verdict)];
        assert_eq!(sends(retrying(), &script).await, 2, "{verdict:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_throttled_call_is_sent_again() {
    let script = [Ok(Verdict::THROTTLED), GOOD];
    assert_eq!(sends(retrying(), &script).await, 2);
}

#[tokio::test(start_paused = true)]
async fn each_attempt_is_judged_once() {
    let judged = AtomicUsize::new(0);
    let counted = |_: Result<&Verdict, &Error<Failed>>| {
        judged.fetch_add(1, Relaxed);
        Verdict::TRANSIENT
    };
    let layer = retrying().classify(counted).build().unwrap();
    let _outcome = layer.layer(Upstream::new([BAD])).oneshot(()).await;
    assert_eq!(judged.load(Relaxed), 3);
}

#[test]
fn zero_attempts_are_rejected_as_a_setting() {
    let error = retrying().attempts(0).build().unwrap_err();
    assert_eq!((error.field(), error.value()), ("attempts", "0"));
}

#[test]
fn a_backoff_whose_base_is_above_its_cap_is_invalid() {
    let backoff = Backoff::exponential(2 * SECOND, SECOND);
    let error = retrying().backoff(backoff).build().unwrap_err();
    assert_eq!((error.field(), error.value()), ("backoff.base", "2s"));
}

#[test]
fn a_backoff_with_a_factor_below_one_or_not_a_number_is_invalid() {
    for factor in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -2.0, 0.5] {
        let backoff = Backoff::exponential(WAIT, SECOND).factor(factor);
        let error = retrying().backoff(backoff).build().unwrap_err();
        assert_eq!(error.field(), "backoff.factor", "{factor}");
    }
}
