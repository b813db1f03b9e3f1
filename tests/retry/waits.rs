//! The waits between attempts.

use super::{
    AsAnswered, BAD, Callee, GOOD, HOUR, SECOND, TICK, WAIT, drain, retrying, send, sends, spent,
    ten_tokens, time_of, transient, waits,
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
        let layer = RetryLayer::builder().replay(Cloned).classify(AsAnswered);
        let waits = waits(layer.attempts(3).seed(seed), &[BAD]).await;
        assert!(
            waits[0] <= WAIT + TICK && waits[1] <= 2 * WAIT + TICK,
            "{waits:?}"
        );
    }
}

fn jittered(seed: u64) -> RetryBuilder<AsAnswered, Cloned> {
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
    let (one, two) = (Callee::new([BAD]), Callee::new([BAD]));
    layer.layer(one.clone()).oneshot(()).await.unwrap();
    layer.layer(two.clone()).oneshot(()).await.unwrap();
    assert_ne!(one.waits(), two.waits());
}

#[tokio::test(start_paused = true)]
async fn what_the_callee_asks_for_is_never_cut_short() {
    for seed in 0..100 {
        let script = [Ok(transient(3 * SECOND)), GOOD];
        let waits = waits(retrying().seed(seed), &script).await;
        assert!(waits[0] >= 3 * SECOND, "{waits:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_callee_asks_for_is_exceeded_by_a_quarter_at_most() {
    for seed in 0..100 {
        let script = [Ok(transient(4 * SECOND)), GOOD];
        let waits = waits(retrying().seed(seed), &script).await;
        assert!(waits[0] <= 5 * SECOND + TICK, "{waits:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_callee_asks_for_is_exceeded_by_five_seconds_at_most() {
    for seed in 0..100 {
        let script = [Ok(transient(60 * SECOND)), GOOD];
        let waits = waits(retrying().seed(seed), &script).await;
        assert!(waits[0] <= 65 * SECOND + TICK, "{waits:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn callers_that_are_asked_for_the_same_wait_do_not_return_together() {
    let script = [Ok(transient(3 * SECOND)), GOOD];
    let mut all = Vec::new();
    for seed in 0..100 {
        all.extend(waits(retrying().seed(seed), &script).await);
    }
    // Of the 750 ms that there are to spread over.
    let spread = all
        .iter()
        .max()
        .unwrap()
        .abs_diff(*all.iter().min().unwrap());
    assert!(spread > Duration::from_millis(650), "{spread:?}");
}

#[tokio::test(start_paused = true)]
async fn a_throttled_call_waits_for_what_the_callee_asks() {
    let retry_after = RetryAfter::Delay(3 * SECOND);
    let script = [Ok(Verdict::Throttled { retry_after }), GOOD];
    let waits = waits(retrying(), &script).await;
    let asked = 3 * SECOND..=15 * SECOND / 4 + TICK;
    assert!(asked.contains(&waits[0]), "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn a_backoff_that_is_longer_than_what_the_callee_asks_for_holds() {
    let retrying = retrying().backoff(Backoff::constant(10 * SECOND));
    let script = [Ok(transient(SECOND)), GOOD];
    assert_eq!(waits(retrying, &script).await, [10 * SECOND]);
}

#[tokio::test(start_paused = true)]
async fn a_callee_that_asks_for_too_long_is_not_sent_a_retry() {
    assert_eq!(sends(retrying(), &[Ok(transient(2 * HOUR)), GOOD]).await, 1);
}

#[tokio::test(start_paused = true)]
async fn the_response_of_a_callee_that_asks_for_too_long_is_returned() {
    let callee = Callee::new([Ok(transient(2 * HOUR)), GOOD]);
    assert_eq!(send(retrying(), &callee).await, Ok(transient(2 * HOUR)));
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_callee_that_asks_for_too_long() {
    let callee = Callee::new([Ok(transient(2 * HOUR)), GOOD]);
    assert_eq!(time_of(send(retrying(), &callee)).await, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_callee_that_asks_for_too_long_costs_no_token() {
    let budget = ten_tokens();
    let callee = Callee::new([Ok(transient(2 * HOUR)), GOOD]);
    let _answer = send(retrying().budget(budget.clone()), &callee).await;
    assert_eq!(drain(&budget), 10);
}

#[tokio::test(start_paused = true)]
async fn a_wait_as_long_as_the_longest_allowed_is_waited() {
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
async fn a_callee_that_asks_for_ever_is_not_sent_a_retry() {
    for asked in [Duration::MAX, Duration::from_secs(u64::MAX)] {
        assert_eq!(sends(retrying(), &[Ok(transient(asked)), GOOD]).await, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_callee_that_asks_for_ever() {
    for asked in [Duration::MAX, Duration::from_secs(u64::MAX)] {
        let callee = Callee::new([Ok(transient(asked)), GOOD]);
        assert_eq!(time_of(send(retrying(), &callee)).await, Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_may_allow_any_wait() {
    let callee = Callee::new([Ok(transient(Duration::MAX)), GOOD]);
    let retrying = retrying().max_retry_after(Duration::MAX);
    let mut call = task::spawn(send(retrying, &callee));
    assert_pending!(call.poll());
}

#[tokio::test(start_paused = true)]
async fn a_backoff_may_be_as_long_as_there_are_durations() {
    let callee = Callee::new([BAD, GOOD]);
    let retrying = retrying().backoff(Backoff::constant(Duration::MAX));
    let mut call = task::spawn(send(retrying, &callee));
    assert_pending!(call.poll());
}

// Without a runtime there is no timer to be had.

#[test]
fn a_call_that_succeeds_at_once_makes_no_timer() {
    assert_ready_ok!(task::spawn(send(retrying(), &Callee::new([GOOD]))).poll());
}

#[test]
fn a_call_that_finds_no_token_makes_no_timer() {
    assert_ready_ok!(task::spawn(send(spent(), &Callee::new([BAD]))).poll());
}

#[test]
fn no_wait_at_all_makes_no_timer() {
    let callee = Callee::new([BAD, BAD, GOOD]);
    let retrying = retrying().backoff(Backoff::constant(Duration::ZERO));
    let mut call = task::spawn(send(retrying, &callee));
    // Others have their turn between two attempts.
    for _ in 0..2 {
        assert_pending!(call.poll());
        assert!(call.is_woken());
    }
    assert_ready_ok!(call.poll());
}
