//! The waits between attempts.

use super::{
    BAD, GOOD, HOUR, ResponseIsVerdict, SECOND, TICK, Upstream, WAIT, drain, retrying, send, sends,
    spent, ten_tokens, time_of, transient, waits,
};
use buttress::retry::{Backoff, Cloned, Jitter, RetryBuilder};
use buttress::verdict::RetryAfter;
use buttress::{RetryLayer, Verdict};
use std::time::Duration;
use tokio_test::{assert_pending, assert_ready_ok, task};
use tower::{Layer, ServiceExt};

// Waits

#[tokio::test(start_paused = true)]
async fn the_waits_are_those_of_the_backoff() {
    let backoff = Backoff::exponential(2 * WAIT, SECOND).jitter(Jitter::None);
    assert_eq!(
        waits(retrying().backoff(backoff).attempts(7).no_budget(), &[BAD]).await,
        [100, 200, 400, 800, 1_000, 1_000].map(Duration::from_millis)
    );
}

#[tokio::test(start_paused = true)]
async fn a_decorrelated_wait_grows_from_the_wait_before() {
    let backoff = Backoff::exponential(SECOND, HOUR).jitter(Jitter::Decorrelated);
    let retrying = retrying().backoff(backoff).attempts(100).seed(1);
    let waits = waits(retrying.no_budget(), &[BAD]).await;
    assert!(waits.iter().any(|wait| *wait > 9 * SECOND), "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn a_decorrelated_wait_is_at_most_three_times_the_wait_before() {
    let backoff = Backoff::exponential(SECOND, HOUR).jitter(Jitter::Decorrelated);
    let retrying = retrying().backoff(backoff).attempts(100).seed(1);
    for pair in waits(retrying, &[BAD]).await.windows(2) {
        assert!(pair[1] <= 3 * pair[0] + TICK, "{pair:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_default_backoff_never_waits_longer_than_its_steps() {
    for seed in 0..50 {
        let layer = RetryLayer::builder()
            .replay(Cloned)
            .classify(ResponseIsVerdict);
        let waits = waits(layer.attempts(3).seed(seed), &[BAD]).await;
        assert!(
            waits[0] <= WAIT + TICK && waits[1] <= 2 * WAIT + TICK,
            "{waits:?}"
        );
    }
}

fn jittered(seed: u64) -> RetryBuilder<ResponseIsVerdict, Cloned> {
    let backoff = Backoff::exponential(SECOND, HOUR);
    retrying().backoff(backoff).attempts(6).seed(seed)
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_makes_the_same_waits() {
    assert_eq!(
        waits(jittered(7), &[BAD]).await,
        waits(jittered(7), &[BAD]).await
    );
}

#[tokio::test(start_paused = true)]
async fn another_seed_makes_other_waits() {
    assert_ne!(
        waits(jittered(7), &[BAD]).await,
        waits(jittered(8), &[BAD]).await
    );
}

#[tokio::test(start_paused = true)]
async fn without_a_seed_two_layers_wait_differently() {
    let unseeded = || retrying().backoff(Backoff::exponential(HOUR, HOUR));
    assert_ne!(
        waits(unseeded(), &[BAD]).await,
        waits(unseeded(), &[BAD]).await
    );
}

#[tokio::test(start_paused = true)]
async fn two_calls_of_one_layer_wait_differently() {
    let layer = jittered(7).build().unwrap();
    let (one, two) = (Upstream::new([BAD]), Upstream::new([BAD]));
    layer.layer(one.clone()).oneshot(()).await.unwrap();
    layer.layer(two.clone()).oneshot(()).await.unwrap();
    assert_ne!(one.waits(), two.waits());
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_is_never_shortened() {
    for seed in 0..100 {
        let script = [Ok(transient(3 * SECOND)), GOOD];
        let waits = waits(retrying().seed(seed), &script).await;
        assert!(waits[0] >= 3 * SECOND, "{waits:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_is_exceeded_by_a_quarter_at_most() {
    for seed in 0..100 {
        let script = [Ok(transient(4 * SECOND)), GOOD];
        let waits = waits(retrying().seed(seed), &script).await;
        assert!(waits[0] <= 5 * SECOND + TICK, "{waits:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_is_exceeded_by_five_seconds_at_most() {
    for seed in 0..100 {
        let script = [Ok(transient(60 * SECOND)), GOOD];
        let waits = waits(retrying().seed(seed), &script).await;
        assert!(waits[0] <= 65 * SECOND + TICK, "{waits:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn callers_with_the_same_retry_after_do_not_retry_together() {
    let script = [Ok(transient(3 * SECOND)), GOOD];
    let mut all = Vec::new();
    for seed in 0..100 {
        all.extend(waits(retrying().seed(seed), &script).await);
    }
    // The waits can spread over 750 ms.
    let spread = all
        .iter()
        .max()
        .unwrap()
        .abs_diff(*all.iter().min().unwrap());
    assert!(spread > Duration::from_millis(650), "{spread:?}");
}

#[tokio::test(start_paused = true)]
async fn a_throttled_call_waits_for_the_retry_after() {
    let retry_after = RetryAfter::Delay(3 * SECOND);
    let script = [Ok(Verdict::Throttled { retry_after }), GOOD];
    let waits = waits(retrying(), &script).await;
    let asked = 3 * SECOND..=15 * SECOND / 4 + TICK;
    assert!(asked.contains(&waits[0]), "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn a_backoff_longer_than_the_retry_after_is_used() {
    let retrying = retrying().backoff(Backoff::constant(10 * SECOND));
    let script = [Ok(transient(SECOND)), GOOD];
    assert_eq!(waits(retrying, &script).await, [10 * SECOND]);
}

#[tokio::test(start_paused = true)]
async fn too_long_a_retry_after_prevents_the_retry() {
    assert_eq!(sends(retrying(), &[Ok(transient(2 * HOUR)), GOOD]).await, 1);
}

#[tokio::test(start_paused = true)]
async fn the_response_with_too_long_a_retry_after_is_returned() {
    let upstream = Upstream::new([Ok(transient(2 * HOUR)), GOOD]);
    assert_eq!(send(retrying(), &upstream).await, Ok(transient(2 * HOUR)));
}

#[tokio::test(start_paused = true)]
async fn a_call_with_too_long_a_retry_after_does_not_wait() {
    let upstream = Upstream::new([Ok(transient(2 * HOUR)), GOOD]);
    assert_eq!(time_of(send(retrying(), &upstream)).await, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn too_long_a_retry_after_costs_no_token() {
    let budget = ten_tokens();
    let upstream = Upstream::new([Ok(transient(2 * HOUR)), GOOD]);
    let _outcome = send(retrying().budget(budget.clone()), &upstream).await;
    assert_eq!(drain(&budget), 10);
}

#[tokio::test(start_paused = true)]
async fn a_wait_exactly_as_long_as_allowed_is_waited() {
    let retrying = retrying().max_retry_after(5 * SECOND);
    assert_eq!(sends(retrying, &[Ok(transient(5 * SECOND)), GOOD]).await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_wait_a_little_longer_than_the_longest_allowed_is_not_waited() {
    let retrying = retrying().max_retry_after(5 * SECOND);
    let asked = 5 * SECOND + Duration::from_nanos(1);
    assert_eq!(sends(retrying, &[Ok(transient(asked)), GOOD]).await, 1);
}

#[tokio::test(start_paused = true)]
async fn an_infinite_retry_after_prevents_the_retry() {
    for asked in [Duration::MAX, Duration::from_secs(u64::MAX)] {
        assert_eq!(sends(retrying(), &[Ok(transient(asked)), GOOD]).await, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_with_an_infinite_retry_after_does_not_wait() {
    for asked in [Duration::MAX, Duration::from_secs(u64::MAX)] {
        let upstream = Upstream::new([Ok(transient(asked)), GOOD]);
        assert_eq!(time_of(send(retrying(), &upstream)).await, Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn the_longest_allowed_wait_can_be_any_duration() {
    let upstream = Upstream::new([Ok(transient(Duration::MAX)), GOOD]);
    let retrying = retrying().max_retry_after(Duration::MAX);
    let mut call = task::spawn(send(retrying, &upstream));
    assert_pending!(call.poll());
}

#[tokio::test(start_paused = true)]
async fn a_backoff_may_be_the_longest_duration() {
    let upstream = Upstream::new([BAD, GOOD]);
    let retrying = retrying().backoff(Backoff::constant(Duration::MAX));
    let mut call = task::spawn(send(retrying, &upstream));
    assert_pending!(call.poll());
}

// These tests run without a runtime, so creating a timer would panic.

#[test]
fn a_call_that_succeeds_at_once_makes_no_timer() {
    assert_ready_ok!(task::spawn(send(retrying(), &Upstream::new([GOOD]))).poll());
}

#[test]
fn a_call_without_a_token_makes_no_timer() {
    assert_ready_ok!(task::spawn(send(spent(), &Upstream::new([BAD]))).poll());
}

#[test]
fn a_wait_of_zero_makes_no_timer() {
    let upstream = Upstream::new([BAD, BAD, GOOD]);
    let retrying = retrying().backoff(Backoff::constant(Duration::ZERO));
    let mut call = task::spawn(send(retrying, &upstream));
    // The call yields between two attempts.
    for _ in 0..2 {
        assert_pending!(call.poll());
        assert!(call.is_woken());
    }
    assert_ready_ok!(call.poll());
}
