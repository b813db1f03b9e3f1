//! What retries cost, and which layers share a budget.

use super::{
    BAD, Failed, GOOD, HOUR, ResponseIsVerdict, SECOND, Upstream, drain, five_tokens_of_ten,
    retrying, send, sends, spent, ten_tokens, time_of, transient,
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
    let _outcome = send(retrying, &Upstream::new([BAD])).await;
    assert_eq!(drain(&budget), 6);
}

#[tokio::test(start_paused = true)]
async fn a_success_after_a_retry_earns_no_token() {
    let budget = five_tokens_of_ten();
    let upstream = Upstream::new([BAD, GOOD]);
    let _outcome = send(retrying().budget(budget.clone()), &upstream).await;
    assert_eq!(drain(&budget), 4);
}

#[tokio::test(start_paused = true)]
async fn a_success_at_the_first_attempt_earns_the_ratio() {
    let budget = five_tokens_of_ten();
    let upstream = Upstream::new([GOOD]);
    let _outcome = send(retrying().budget(budget.clone()), &upstream).await;
    assert_eq!(drain(&budget), 6);
}

#[tokio::test(start_paused = true)]
async fn only_successes_earn_tokens() {
    for verdict in [
        Verdict::TRANSIENT,
        Verdict::THROTTLED,
        Verdict::Permanent,
        Verdict::Ignored,
    ] {
        let budget = five_tokens_of_ten();
        let retrying = retrying().attempts(1).budget(budget.clone());
        let _outcome = send(retrying, &Upstream::new([Ok(verdict)])).await;
        assert_eq!(drain(&budget), 5, "{verdict:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_token_there_is_no_retry() {
    assert_eq!(sends(spent(), &[BAD, GOOD]).await, 1);
}

#[tokio::test(start_paused = true)]
async fn without_a_token_the_outcome_is_returned_unchanged() {
    let upstream = Upstream::new([Err(Error::Service(Failed(1))), GOOD]);
    let outcome = send(spent(), &upstream).await;
    assert_eq!(outcome, Err(Error::Service(Failed(1))));
}

#[tokio::test(start_paused = true)]
async fn without_a_token_the_call_does_not_wait() {
    // The call does not wait for a `retry_after` either.
    let upstream = Upstream::new([Ok(transient(3 * SECOND)), GOOD]);
    assert_eq!(time_of(send(spent(), &upstream)).await, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_is_down_receives_few_retries() {
    const CALLS: usize = 6_000;
    let layer = RetryLayer::default();
    let upstream = Upstream::new([Err(Error::Service(Failed(0)))]);
    let mut ticks = interval(Duration::from_millis(10));
    let mut calls = JoinSet::new();
    for _ in 0..CALLS {
        ticks.tick().await;
        let service = layer.layer(upstream.clone());
        calls.spawn(service.oneshot(http::Request::new(())));
    }
    calls.join_all().await;
    // The floor is 2 tokens, and the reserve adds 0.1 per second for 60 s.
    let bound = CALLS + 2..=CALLS + 2 + 6;
    assert!(bound.contains(&upstream.sent()), "{}", upstream.sent());
}

#[tokio::test(start_paused = true)]
async fn the_default_budget_has_two_tokens_at_the_start() {
    assert_eq!(drain(RetryLayer::default().budget().unwrap()), 2);
}

#[tokio::test(start_paused = true)]
async fn the_default_budget_adds_a_token_every_ten_seconds() {
    let layer = RetryLayer::default();
    drain(layer.budget().unwrap());
    // Time is credited in steps of 134.2 ms, at the end of each step.
    advance(10 * SECOND + Duration::from_millis(135)).await;
    assert_eq!(drain(layer.budget().unwrap()), 1);
}

#[tokio::test(start_paused = true)]
async fn the_default_reserve_refills_to_two_tokens() {
    let layer = RetryLayer::default();
    drain(layer.budget().unwrap());
    advance(HOUR).await;
    assert_eq!(drain(layer.budget().unwrap()), 2);
}

#[tokio::test(start_paused = true)]
async fn by_default_a_success_earns_a_tenth_of_a_retry() {
    let layer = retrying().build().unwrap();
    drain(layer.budget().unwrap());
    for _ in 0..100 {
        let service = layer.layer(Upstream::new([GOOD]));
        service.oneshot(()).await.unwrap();
    }
    assert_eq!(drain(layer.budget().unwrap()), 10);
}

#[tokio::test(start_paused = true)]
async fn by_default_earned_tokens_expire() {
    let layer = retrying().build().unwrap();
    for _ in 0..1_000 {
        let service = layer.layer(Upstream::new([GOOD]));
        service.oneshot(()).await.unwrap();
    }
    // The budget holds 102 tokens. After 30 s, fewer of them are left than the floor.
    advance(30 * SECOND).await;
    assert_eq!(drain(layer.budget().unwrap()), 2);
}

/// Whether a call through this service is retried when the upstream is down.
async fn is_retried<S>(service: S) -> bool
where
    S: Service<(), Response = Verdict>,
{
    // Only a retry makes the call wait.
    time_of(service.oneshot(())).await > Duration::ZERO
}

/// A layer whose budget pays for one retry.
fn one_token() -> RetryLayer<ResponseIsVerdict, Cloned> {
    let budget = Budget::builder().floor(1).reserve(0.0).build().unwrap();
    retrying().attempts(2).budget(budget).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn services_of_one_layer_share_its_budget() {
    let layer = one_token();
    assert!(is_retried(layer.layer(Upstream::new([BAD]))).await);
    assert!(!is_retried(layer.layer(Upstream::new([BAD]))).await);
}

#[tokio::test(start_paused = true)]
async fn clones_of_a_layer_share_its_budget() {
    let layer = one_token();
    let clone = layer.clone();
    assert!(is_retried(layer.layer(Upstream::new([BAD]))).await);
    assert!(!is_retried(clone.layer(Upstream::new([BAD]))).await);
}

#[tokio::test(start_paused = true)]
async fn clones_of_a_service_share_its_budget() {
    let service = one_token().layer(Upstream::new([BAD]));
    assert!(is_retried(service.clone()).await);
    assert!(!is_retried(service).await);
}

#[tokio::test(start_paused = true)]
async fn services_of_one_layer_share_its_default_budget() {
    let layer = retrying().build().unwrap();
    drain(layer.budget().unwrap());
    assert!(!is_retried(layer.layer(Upstream::new([BAD]))).await);
}

#[tokio::test(start_paused = true)]
async fn layers_built_with_the_same_budget_share_it() {
    let budget = ten_tokens();
    drain(&budget);
    let layer = retrying().budget(budget).build().unwrap();
    assert!(!is_retried(layer.layer(Upstream::new([BAD]))).await);
}

#[tokio::test(start_paused = true)]
async fn layers_built_without_a_budget_have_one_each() {
    let builder = retrying();
    let (one, two) = (builder.clone().build().unwrap(), builder.build().unwrap());
    drain(one.budget().unwrap());
    assert!(is_retried(two.layer(Upstream::new([BAD]))).await);
}

#[tokio::test(start_paused = true)]
async fn with_no_budget_every_call_makes_all_attempts() {
    let layer = retrying().no_budget().build().unwrap();
    let upstream = Upstream::new([BAD]);
    for _ in 0..200 {
        layer.layer(upstream.clone()).oneshot(()).await.unwrap();
    }
    assert_eq!(upstream.sent(), 600);
}

#[test]
fn a_layer_with_no_budget_returns_none() {
    assert!(retrying().no_budget().build().unwrap().budget().is_none());
}
