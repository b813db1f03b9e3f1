//! What retries cost, and who pays.

use super::{
    AsAnswered, BAD, Callee, Failed, GOOD, HOUR, SECOND, drain, five_tokens_of_ten, retrying, send,
    sends, spent, ten_tokens, time_of, transient,
};
use buttress::retry::{Budget, Cloned};
use buttress::{Error, RetryLayer, Verdict};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{advance, interval};
use tower::{Layer, Service, ServiceExt};

#[tokio::test(start_paused = true)]
async fn each_retry_that_is_sent_costs_a_token() {
    let budget = ten_tokens();
    let retrying = retrying().attempts(5).budget(budget.clone());
    let _answer = send(retrying, &Callee::new([BAD])).await;
    assert_eq!(drain(&budget), 6);
}

#[tokio::test(start_paused = true)]
async fn a_retrys_success_earns_nothing() {
    let budget = five_tokens_of_ten();
    let callee = Callee::new([BAD, GOOD]);
    let _answer = send(retrying().budget(budget.clone()), &callee).await;
    assert_eq!(drain(&budget), 4);
}

#[tokio::test(start_paused = true)]
async fn a_first_attempts_success_earns_the_ratio() {
    let budget = five_tokens_of_ten();
    let callee = Callee::new([GOOD]);
    let _answer = send(retrying().budget(budget.clone()), &callee).await;
    assert_eq!(drain(&budget), 6);
}

#[tokio::test(start_paused = true)]
async fn only_a_success_earns() {
    for verdict in [
        Verdict::TRANSIENT,
        Verdict::THROTTLED,
        Verdict::Permanent,
        Verdict::Ignored,
    ] {
        let budget = five_tokens_of_ten();
        let retrying = retrying().attempts(1).budget(budget.clone());
        let _answer = send(retrying, &Callee::new([Ok(verdict)])).await;
        assert_eq!(drain(&budget), 5, "{verdict:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_token_nothing_is_sent_again() {
    assert_eq!(sends(spent(), &[BAD, GOOD]).await, 1);
}

#[tokio::test(start_paused = true)]
async fn without_a_token_the_outcome_is_returned_unchanged() {
    let callee = Callee::new([Err(Error::Service(Failed(1))), GOOD]);
    let answer = send(spent(), &callee).await;
    assert_eq!(answer, Err(Error::Service(Failed(1))));
}

#[tokio::test(start_paused = true)]
async fn without_a_token_nobody_waits() {
    // What the callee asks for neither.
    let callee = Callee::new([Ok(transient(3 * SECOND)), GOOD]);
    assert_eq!(time_of(send(spent(), &callee)).await, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_callee_that_is_down_is_sent_little_more_than_its_calls() {
    const CALLS: usize = 6_000;
    let layer = RetryLayer::default();
    let callee = Callee::new([Err(Error::Service(Failed(0)))]);
    let mut ticks = interval(Duration::from_millis(10));
    let mut calls = JoinSet::new();
    for _ in 0..CALLS {
        ticks.tick().await;
        let service = layer.layer(callee.clone());
        calls.spawn(service.oneshot(http::Request::new(())));
    }
    calls.join_all().await;
    // A floor of 2, and a reserve of 0.1 per second for 60 s.
    let bound = CALLS + 2..=CALLS + 2 + 6;
    assert!(bound.contains(&callee.sent()), "{}", callee.sent());
}

#[tokio::test(start_paused = true)]
async fn the_budget_that_is_there_by_default_has_two_tokens_at_the_start() {
    assert_eq!(drain(RetryLayer::default().budget().unwrap()), 2);
}

#[tokio::test(start_paused = true)]
async fn a_token_comes_back_every_ten_seconds_by_default() {
    let layer = RetryLayer::default();
    drain(layer.budget().unwrap());
    // Time is credited in steps of 134.2 ms, once they are over.
    advance(10 * SECOND + Duration::from_millis(135)).await;
    assert_eq!(drain(layer.budget().unwrap()), 1);
}

#[tokio::test(start_paused = true)]
async fn the_reserve_brings_back_two_tokens_and_no_more_by_default() {
    let layer = RetryLayer::default();
    drain(layer.budget().unwrap());
    advance(HOUR).await;
    assert_eq!(drain(layer.budget().unwrap()), 2);
}

#[tokio::test(start_paused = true)]
async fn a_first_attempt_that_succeeds_earns_a_tenth_of_a_retry_by_default() {
    let layer = retrying().build().unwrap();
    drain(layer.budget().unwrap());
    for _ in 0..100 {
        let service = layer.layer(Callee::new([GOOD]));
        service.oneshot(()).await.unwrap();
    }
    assert_eq!(drain(layer.budget().unwrap()), 10);
}

#[tokio::test(start_paused = true)]
async fn what_was_earned_long_ago_is_gone_by_default() {
    let layer = retrying().build().unwrap();
    for _ in 0..1_000 {
        let service = layer.layer(Callee::new([GOOD]));
        service.oneshot(()).await.unwrap();
    }
    // 102 tokens, of which 30 s leave less than the floor.
    advance(30 * SECOND).await;
    assert_eq!(drain(layer.budget().unwrap()), 2);
}

/// Whether a call through this service, to a callee that is down, is retried.
async fn is_retried<S>(service: S) -> bool
where
    S: Service<(), Response = Verdict>,
{
    // Without a retry there is nothing to wait for.
    time_of(service.oneshot(())).await > Duration::ZERO
}

/// A layer with a token for one retry.
fn one_token() -> RetryLayer<AsAnswered, Cloned> {
    let budget = Budget::builder().floor(1).reserve(0.0).build().unwrap();
    retrying().attempts(2).budget(budget).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn services_of_one_layer_share_its_budget() {
    let layer = one_token();
    assert!(is_retried(layer.layer(Callee::new([BAD]))).await);
    assert!(!is_retried(layer.layer(Callee::new([BAD]))).await);
}

#[tokio::test(start_paused = true)]
async fn clones_of_a_layer_share_its_budget() {
    let layer = one_token();
    let clone = layer.clone();
    assert!(is_retried(layer.layer(Callee::new([BAD]))).await);
    assert!(!is_retried(clone.layer(Callee::new([BAD]))).await);
}

#[tokio::test(start_paused = true)]
async fn clones_of_a_service_share_its_budget() {
    let service = one_token().layer(Callee::new([BAD]));
    assert!(is_retried(service.clone()).await);
    assert!(!is_retried(service).await);
}

#[tokio::test(start_paused = true)]
async fn services_of_one_layer_share_the_budget_it_made_itself() {
    let layer = retrying().build().unwrap();
    drain(layer.budget().unwrap());
    assert!(!is_retried(layer.layer(Callee::new([BAD]))).await);
}

#[tokio::test(start_paused = true)]
async fn layers_that_are_given_one_budget_share_it() {
    let budget = ten_tokens();
    drain(&budget);
    let layer = retrying().budget(budget).build().unwrap();
    assert!(!is_retried(layer.layer(Callee::new([BAD]))).await);
}

#[tokio::test(start_paused = true)]
async fn layers_that_are_given_no_budget_have_one_each() {
    let builder = retrying();
    let (one, two) = (builder.clone().build().unwrap(), builder.build().unwrap());
    drain(one.budget().unwrap());
    assert!(is_retried(two.layer(Callee::new([BAD]))).await);
}

#[tokio::test(start_paused = true)]
async fn without_a_budget_every_call_has_all_its_attempts() {
    let layer = retrying().no_budget().build().unwrap();
    let callee = Callee::new([BAD]);
    for _ in 0..200 {
        layer.layer(callee.clone()).oneshot(()).await.unwrap();
    }
    assert_eq!(callee.sent(), 600);
}

#[test]
fn a_layer_without_a_budget_shows_none() {
    assert!(retrying().no_budget().build().unwrap().budget().is_none());
}
