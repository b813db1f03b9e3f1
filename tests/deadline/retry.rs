//! Deadlines, the circuit breaker and retry.

use super::Behavior::{Fails, Hangs, Succeeds};
use super::{
    FAILED, HOUR, NANO, PASSED, Req, SECOND, TICK, Upstream, bare, by, ends, retry, timed_out,
    timeout, within,
};
use crate::events;
use buttress::http::InExtensions;
use buttress::retry::{Backoff, Budget, Cloned, Jitter, Within};
use buttress::{Carrier, CircuitBreakerLayer, Deadline, Replay, RetryLayer};
use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio::time::advance;
use tower::{Layer, ServiceExt, service_fn};

// Circuit breaker

#[tokio::test(start_paused = true)]
async fn a_call_ended_by_its_deadline_before_abandoned_after_is_not_counted() {
    let breaker = CircuitBreakerLayer::default();
    let attempt = timeout(HOUR).layer(Upstream::new(Hangs).service());
    let ended = breaker.layer(attempt).oneshot(within(TICK)).await;
    assert_eq!((ended, breaker.circuit().snapshot().failures), (PASSED, 0));
}

#[tokio::test(start_paused = true)]
async fn a_call_ended_by_its_deadline_after_abandoned_after_counts_as_a_failure() {
    let breaker = CircuitBreakerLayer::builder().abandoned_after(SECOND);
    let breaker = breaker.build().unwrap();
    let attempt = timeout(HOUR).layer(Upstream::new(Hangs).service());
    let ended = breaker.layer(attempt).oneshot(within(SECOND)).await;
    assert_eq!((ended, breaker.circuit().snapshot().failures), (PASSED, 1));
}

#[tokio::test(start_paused = true)]
async fn a_probe_ended_by_its_deadline_before_abandoned_after_is_released() {
    let breaker = CircuitBreakerLayer::builder()
        .consecutive_failures(1)
        .probes(1)
        .open_for(SECOND);
    let breaker = breaker.build().unwrap();
    let failing = breaker.layer(Upstream::new(Fails).service());
    assert_eq!(failing.oneshot(bare()).await, FAILED);
    advance(SECOND).await;
    let hanging = breaker.layer(timeout(HOUR).layer(Upstream::new(Hangs).service()));
    assert_eq!(hanging.oneshot(within(TICK)).await, PASSED);
    let well = breaker.layer(Upstream::new(Succeeds).service());
    assert_eq!(well.oneshot(bare()).await, Ok(()));
}

// Retry

#[tokio::test(start_paused = true)]
async fn a_retry_that_would_start_after_the_deadline_is_abandoned_at_once() {
    let upstream = Upstream::new(Fails);
    let service = retry().layer(upstream.service());
    let ended = ends(service.oneshot(within(SECOND / 2))).await;
    assert_eq!(ended, (FAILED, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_would_start_exactly_at_the_deadline_is_abandoned() {
    let upstream = Upstream::new(Fails);
    let service = retry().layer(upstream.service());
    let ended = ends(service.oneshot(within(SECOND))).await;
    assert_eq!(ended, (FAILED, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_a_late_timer_could_send_after_the_deadline_is_abandoned() {
    let upstream = Upstream::new(Fails);
    let service = retry().layer(upstream.service());
    let ended = ends(service.oneshot(within(SECOND + Duration::from_micros(500)))).await;
    assert_eq!(ended, (FAILED, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn retries_continue_as_long_as_they_start_before_the_deadline() {
    let upstream = Upstream::new(Fails);
    let service = retry().layer(upstream.service());
    // A timer may fire one tick late.
    let tick = Duration::from_millis(1);
    let ended = ends(service.oneshot(within(3 * SECOND + tick + NANO))).await;
    assert_eq!((upstream.sent(), ended), (4, (FAILED, 3 * SECOND)));
}

#[tokio::test(start_paused = true)]
async fn a_retry_without_a_wait_is_abandoned_once_the_deadline_has_passed() {
    let upstream = Upstream::new(Fails);
    let at_once = RetryLayer::builder().backoff(Backoff::constant(Duration::ZERO));
    let service = at_once.build().unwrap().layer(upstream.service());
    let _failed = service.oneshot(within(Duration::ZERO)).await;
    assert_eq!(upstream.sent(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_of_never_stops_no_retry() {
    let upstream = Upstream::new(Fails);
    let layer = RetryLayer::builder().attempts(2).build().unwrap();
    let service = layer.layer(upstream.service());
    let _failed = service.oneshot(by(Deadline::NEVER)).await;
    assert_eq!(upstream.sent(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_retry_abandoned_for_the_deadline_costs_no_token() {
    let budget = Budget::default();
    let backoff = Backoff::constant(SECOND).jitter(Jitter::None);
    let layer = RetryLayer::builder()
        .backoff(backoff)
        .budget(budget.clone());
    let service = layer.build().unwrap().layer(Upstream::new(Fails).service());
    let tokens = budget.tokens();
    let _failed = service.oneshot(within(SECOND)).await;
    assert!((budget.tokens() - tokens).abs() < 0.001);
}

#[tokio::test(start_paused = true)]
async fn the_event_names_the_deadline_even_if_the_budget_is_empty() {
    let budget = Budget::default();
    while let Some(withdrawal) = budget.try_withdraw() {
        withdrawal.spend();
    }
    let backoff = Backoff::constant(SECOND).jitter(Jitter::None);
    let layer = RetryLayer::builder().backoff(backoff).budget(budget);
    let service = layer.build().unwrap().layer(Upstream::new(Fails).service());
    assert_eq!(
        events::of(service.oneshot(within(SECOND))).await,
        [r#"DEBUG buttress::retry gave_up attempt=1 verdict="transient" reason="deadline""#]
    );
}

#[tokio::test(start_paused = true)]
async fn a_retried_copy_carries_the_deadline_of_the_whole_call() {
    let upstream = Upstream::new(Fails);
    let whole = Deadline::after(2 * SECOND);
    let client = upstream.service();
    let service = retry().layer(service_fn(move |mut request: Req| {
        let seen = InExtensions.get(&request);
        // The attempt's own deadline, as a timeout below the retry would set it.
        InExtensions.set(&mut request, Deadline::after(TICK));
        assert_eq!(seen, Some(whole));
        client.clone().oneshot(request)
    }));
    let _failed = service.oneshot(by(whole)).await;
    assert_eq!(upstream.sent(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_timed_out_is_retried_though_an_inner_timeout_saw_its_deadline() {
    let upstream = Upstream::new(Hangs);
    let attempt = timeout(SECOND).layer(timeout(HOUR).layer(upstream.service()));
    let layer = RetryLayer::builder().attempts(2).build().unwrap();
    let outcome = layer.layer(attempt).oneshot(within(HOUR)).await;
    assert_eq!((outcome, upstream.sent()), (timed_out(SECOND), 2));
}

#[tokio::test(start_paused = true)]
async fn a_call_ended_by_its_deadline_is_not_retried() {
    let upstream = Upstream::new(Hangs);
    let at_once = RetryLayer::builder()
        .replay(Cloned)
        .backoff(Backoff::constant(Duration::ZERO));
    let service = at_once.build().unwrap();
    let service = service.layer(timeout(HOUR).layer(upstream.service()));
    let outcome = service.oneshot(within(SECOND)).await;
    assert_eq!((outcome, upstream.sent()), (PASSED, 1));
}

#[tokio::test(start_paused = true)]
async fn a_retry_ended_by_its_deadline_has_spent_its_token() {
    let budget = Budget::builder().reserve(0.0).build().unwrap();
    let layer = RetryLayer::builder().budget(budget.clone());
    let sent = AtomicUsize::new(0);
    let fails_once = service_fn(|_: Req| {
        let first = sent.fetch_add(1, Relaxed) == 0;
        async move { if first { FAILED } else { pending().await } }
    });
    let service = layer
        .build()
        .unwrap()
        .layer(timeout(HOUR).layer(fails_once));
    let tokens = budget.tokens();
    assert_eq!(service.oneshot(within(HOUR / 2)).await, PASSED);
    assert!((budget.tokens() - tokens + 1.0).abs() < 0.001);
}

#[tokio::test(start_paused = true)]
async fn a_custom_policy_reads_the_deadline_from_its_carrier() {
    let again = Within::new(Cloned, InExtensions);
    let deadline = Deadline::after(SECOND);
    assert_eq!(again.deadline(&by(deadline)), Some(deadline));
}

#[tokio::test(start_paused = true)]
async fn a_policy_without_a_carrier_sees_no_deadline() {
    let once_more = |request: &Req| Some(request.clone());
    assert_eq!(once_more.deadline(&within(SECOND)), None);
}
