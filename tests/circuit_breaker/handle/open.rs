//! How long a circuit stays open.

use super::{
    DAY, MS, SECOND, brittle, brittle_for_seconds, calls, just_before, open_and_wait, rejected,
    transient,
};
use buttress::Verdict;
use buttress::circuit_breaker::CircuitState;
use std::collections::HashSet;
use std::time::Duration;
use tokio::time::advance;

#[tokio::test(start_paused = true)]
async fn a_rejection_reports_the_remaining_open_time() {
    let circuit = brittle_for_seconds().build().unwrap();
    calls(&circuit, "F");
    let open = circuit.snapshot().retry_after.unwrap();
    let first = rejected(&circuit);
    advance(500 * MS).await;
    let later = rejected(&circuit);
    assert_eq!(
        (first, later),
        (Some(open), Some(open.saturating_sub(500 * MS)))
    );
}

#[tokio::test(start_paused = true)]
async fn an_open_circuit_rejects_up_to_the_last_millisecond() {
    let circuit = brittle().build().unwrap();
    calls(&circuit, "F");
    advance(just_before(circuit.snapshot().retry_after.unwrap())).await;
    assert_eq!(rejected(&circuit), Some(MS));
}

#[tokio::test(start_paused = true)]
async fn a_probe_is_admitted_exactly_at_the_end_of_the_open_time() {
    let circuit = brittle().build().unwrap();
    calls(&circuit, "F");
    advance(circuit.snapshot().retry_after.unwrap()).await;
    let _probe = circuit.try_acquire().unwrap();
    assert_eq!(circuit.snapshot().probes_out, 1);
}

#[tokio::test(start_paused = true)]
async fn a_stale_failure_does_not_prolong_the_open_time() {
    let circuit = brittle().build().unwrap();
    let stale = circuit.try_acquire().unwrap();
    calls(&circuit, "F");
    advance(SECOND).await;
    let before = circuit.snapshot();
    stale.settle(Verdict::TRANSIENT);
    assert_eq!(circuit.snapshot(), before);
}

#[tokio::test(start_paused = true)]
async fn a_stale_success_does_not_close_an_open_circuit() {
    let circuit = brittle().build().unwrap();
    let stale = circuit.try_acquire().unwrap();
    calls(&circuit, "F");
    stale.settle(Verdict::Healthy);
    assert_eq!(circuit.state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn open_times_double_up_to_their_maximum() {
    let circuit = brittle_for_seconds().build().unwrap();
    for longest in [5, 10, 20, 40, 60, 60, 60] {
        calls(&circuit, "F");
        let open = circuit.snapshot().retry_after.unwrap();
        let drawn_from = longest * SECOND * 9 / 10..=longest * SECOND;
        assert!(drawn_from.contains(&open), "{open:?} of {longest} s");
        advance(open).await;
    }
}

#[tokio::test(start_paused = true)]
async fn open_times_of_months_double_without_overflow() {
    // 208 days. A power of two, because doubling it would wrap around to zero.
    let base = Duration::from_nanos(1 << 54);
    let circuit = brittle().open_for(base).max_open_for(Duration::MAX);
    let circuit = circuit.build().unwrap();
    for _ in 0..40 {
        calls(&circuit, "F");
        let open = circuit.snapshot().retry_after.unwrap();
        assert!(open >= base * 9 / 10, "{open:?}");
        advance(open).await;
    }
}

#[tokio::test(start_paused = true)]
async fn after_the_circuit_closed_open_times_start_at_open_for_again() {
    let circuit = brittle_for_seconds().build().unwrap();
    for _ in 0..3 {
        open_and_wait(&circuit).await;
    }
    calls(&circuit, "SF");
    assert!(circuit.snapshot().retry_after.unwrap() <= 5 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn circuits_that_open_together_probe_at_different_times_even_at_the_longest_open_time() {
    let mut open = HashSet::new();
    for _ in 0..100 {
        let circuit = brittle().open_for(60 * SECOND).max_open_for(60 * SECOND);
        let circuit = circuit.build().unwrap();
        calls(&circuit, "F");
        open.insert(circuit.snapshot().retry_after.unwrap());
    }
    // There are 6000 possible values. Twenty different ones would already mean coarse jitter.
    assert!(open.len() > 80, "{} open times of 100", open.len());
}

fn open_times_of(seed: u64) -> Vec<Duration> {
    let circuit = brittle().open_for(60 * SECOND).seed(seed).build().unwrap();
    let open = |_| {
        circuit.reset();
        calls(&circuit, "F");
        circuit.snapshot().retry_after.unwrap()
    };
    (0..10).map(open).collect()
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_draws_the_same_open_times() {
    assert_eq!(open_times_of(7), open_times_of(7));
}

#[tokio::test(start_paused = true)]
async fn another_seed_draws_other_open_times() {
    assert_ne!(open_times_of(7), open_times_of(8));
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_lengthens_the_open_time() {
    let circuit = brittle_for_seconds().build().unwrap();
    let permit = circuit.try_acquire().unwrap();
    permit.settle(transient(20 * SECOND));
    assert_eq!(rejected(&circuit), Some(20 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_does_not_shorten_the_open_time() {
    let circuit = brittle_for_seconds().build().unwrap();
    let permit = circuit.try_acquire().unwrap();
    permit.settle(transient(SECOND));
    assert!(rejected(&circuit).unwrap() >= 5 * SECOND * 9 / 10);
}

#[tokio::test(start_paused = true)]
async fn a_very_long_retry_after_opens_the_circuit_for_no_longer_than_max_open_for() {
    for wish in [Duration::from_secs(u64::MAX), Duration::MAX] {
        let circuit = brittle().max_open_for(60 * SECOND).build().unwrap();
        let permit = circuit.try_acquire().unwrap();
        permit.settle(transient(wish));
        assert_eq!(rejected(&circuit), Some(60 * SECOND));
    }
}

#[tokio::test(start_paused = true)]
async fn the_retry_after_of_a_probe_lengthens_the_open_time_too() {
    let circuit = brittle_for_seconds().build().unwrap();
    open_and_wait(&circuit).await;
    let probe = circuit.try_acquire().unwrap();
    probe.settle(transient(30 * SECOND));
    assert_eq!(rejected(&circuit), Some(30 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_rejection_has_no_retry_after_if_the_open_time_is_infinite() {
    let circuit = brittle().open_for(Duration::MAX).build().unwrap();
    calls(&circuit, "F");
    assert_eq!(rejected(&circuit), None);
}

#[tokio::test(start_paused = true)]
async fn a_circuit_with_an_infinite_open_time_stays_open() {
    let circuit = brittle().open_for(Duration::MAX).build().unwrap();
    calls(&circuit, "F");
    for _ in 0..10 {
        advance(365 * DAY).await;
        assert_eq!(circuit.state(), CircuitState::Open);
    }
}

#[tokio::test(start_paused = true)]
async fn the_state_is_half_open_after_the_open_time_even_without_calls() {
    let circuit = brittle().build().unwrap();
    calls(&circuit, "F");
    let open = circuit.snapshot().retry_after.unwrap();
    advance(just_before(open)).await;
    let before = circuit.state();
    advance(MS).await;
    assert_eq!(
        (before, circuit.state()),
        (CircuitState::Open, CircuitState::HalfOpen)
    );
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_after_the_open_time_has_no_retry_after() {
    let circuit = brittle().build().unwrap();
    open_and_wait(&circuit).await;
    advance(DAY).await;
    let snapshot = circuit.snapshot();
    assert_eq!(
        (snapshot.state, snapshot.retry_after),
        (CircuitState::HalfOpen, None)
    );
}
