//! Rejections by other layers.

use super::{
    BAD, Failed, GOOD, ResponseIsVerdict, SECOND, TIMED_OUT, UNSENT, Upstream, drain,
    five_tokens_of_ten, retrying, send, sends, ten_tokens,
};
use buttress::retry::Cloned;
use buttress::{CircuitBreakerLayer, Error, Rejection, RetryLayer, TimeoutLayer, Verdict};
use tower::{Layer, ServiceExt};
use tower_test::mock::{self};

fn unreachable_classifier(_: Result<&Verdict, &Error<Failed>>) -> Verdict {
    unreachable!("the layers judge their rejections themselves")
}

#[tokio::test(start_paused = true)]
async fn a_rejection_of_an_unsent_call_is_not_retried() {
    for rejection in UNSENT {
        let script = [Err(Error::Rejected(rejection))];
        assert_eq!(sends(retrying(), &script).await, 1, "{rejection:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_rejection_is_returned_unchanged() {
    for rejection in UNSENT {
        let script = [Err(Error::Rejected(rejection))];
        let outcome = send(retrying(), &Upstream::new(script)).await;
        assert_eq!(outcome, script[0]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_timeout_is_retried() {
    let script = [Err(Error::Rejected(TIMED_OUT)), GOOD];
    assert_eq!(sends(retrying(), &script).await, 2);
}

#[tokio::test(start_paused = true)]
async fn the_timeout_of_an_attempt_is_retried() {
    let (service, mut handle) = mock::pair::<(), ()>();
    let layer = RetryLayer::builder().replay(Cloned).build().unwrap();
    let service = layer.layer(TimeoutLayer::new(SECOND).layer(service));
    let call = tokio::spawn(service.oneshot(()));
    let ((), _no_response) = handle.next_request().await.unwrap();
    let ((), send) = handle.next_request().await.unwrap();
    send.send_response(());
    call.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn no_rejection_reaches_the_classifier() {
    let layer = retrying().classify(unreachable_classifier).build().unwrap();
    for rejection in UNSENT.into_iter().chain([TIMED_OUT]) {
        let upstream = Upstream::new([Err(Error::Rejected(rejection))]);
        layer.layer(upstream).oneshot(()).await.unwrap_err();
    }
}

fn breaker() -> CircuitBreakerLayer<ResponseIsVerdict> {
    let breaker = CircuitBreakerLayer::builder().consecutive_failures(3);
    breaker.classify(ResponseIsVerdict).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_once_the_inner_circuit_breaker_opens() {
    let upstream = Upstream::new([BAD]);
    let layer = retrying().attempts(7).no_budget().build().unwrap();
    let service = layer.layer(breaker().layer(upstream.clone()));
    let _outcome = service.oneshot(()).await;
    assert_eq!(upstream.sent(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_retry_meets_an_open_circuit_returns_that_rejection() {
    let layer = retrying().attempts(7).no_budget().build().unwrap();
    let service = layer.layer(breaker().layer(Upstream::new([BAD])));
    let error = service.oneshot(()).await.unwrap_err();
    assert!(
        matches!(error, Error::Rejected(Rejection::CircuitOpen { .. })),
        "{error:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_token_of_a_retry_that_meets_an_open_circuit_is_returned() {
    let budget = ten_tokens();
    let retrying = retrying().attempts(7).budget(budget.clone());
    let service = breaker().layer(Upstream::new([BAD]));
    let service = retrying.build().unwrap().layer(service);
    let _outcome = service.oneshot(()).await;
    // Two retries were sent.
    assert_eq!(drain(&budget), 8);
}

#[tokio::test(start_paused = true)]
async fn the_token_of_a_retry_that_was_not_sent_is_returned() {
    for rejection in UNSENT {
        let budget = ten_tokens();
        let upstream = Upstream::new([BAD, Err(Error::Rejected(rejection))]);
        let _outcome = send(retrying().budget(budget.clone()), &upstream).await;
        assert_eq!(drain(&budget), 10, "{rejection:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_token_of_a_retry_that_timed_out_stays_spent() {
    let budget = ten_tokens();
    let upstream = Upstream::new([BAD, Err(Error::Rejected(TIMED_OUT)), GOOD]);
    let _outcome = send(retrying().budget(budget.clone()), &upstream).await;
    assert_eq!(drain(&budget), 8);
}

#[tokio::test(start_paused = true)]
async fn a_first_attempt_that_was_not_sent_earns_no_token() {
    for rejection in UNSENT {
        let budget = five_tokens_of_ten();
        let upstream = Upstream::new([Err(Error::Rejected(rejection))]);
        let _outcome = send(retrying().budget(budget.clone()), &upstream).await;
        assert_eq!(drain(&budget), 5, "{rejection:?}");
    }
}
