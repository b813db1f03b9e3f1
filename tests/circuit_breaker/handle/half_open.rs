//! Probes, and how they decide whether the circuit closes.

use super::{
    DAY, MS, SECOND, brittle, call_cancelled_after, call_lasting, calls, just_before,
    open_and_wait, rejected,
};
use buttress::Verdict;
use buttress::circuit_breaker::{Circuit, CircuitState, Window};
use std::panic::catch_unwind;
use std::time::Duration;
use tokio::time::advance;

#[tokio::test(start_paused = true)]
async fn the_majority_of_three_probes_decides() {
    let cases = [
        ("SS", CircuitState::Closed),
        ("FF", CircuitState::Open),
        ("SFS", CircuitState::Closed),
        ("FSF", CircuitState::Open),
    ];
    for (outcomes, state) in cases {
        let circuit = Circuit::builder().consecutive_failures(1).build().unwrap();
        open_and_wait(&circuit).await;
        let (undecided, last) = outcomes.split_at(outcomes.len() - 1);
        calls(&circuit, undecided);
        assert_eq!(
            circuit.state(),
            CircuitState::HalfOpen,
            "{outcomes} too early"
        );
        calls(&circuit, last);
        assert_eq!(circuit.state(), state, "{outcomes}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_rejected_while_all_probes_are_in_flight_has_no_retry_after() {
    let circuit = Circuit::builder().consecutive_failures(1).probes(3);
    let circuit = circuit.build().unwrap();
    open_and_wait(&circuit).await;
    let _probes = [(); 3].map(|()| circuit.try_acquire().unwrap());
    assert_eq!(rejected(&circuit), None);
}

#[tokio::test(start_paused = true)]
async fn a_stale_success_does_not_close_the_circuit() {
    let circuit = brittle().build().unwrap();
    let stale = circuit.try_acquire().unwrap();
    open_and_wait(&circuit).await;
    let _probe = circuit.try_acquire().unwrap();
    let before = circuit.snapshot();
    stale.settle(Verdict::Healthy);
    assert_eq!(circuit.snapshot(), before);
}

#[tokio::test(start_paused = true)]
async fn a_stale_failure_does_not_reopen_the_circuit() {
    let circuit = brittle().build().unwrap();
    let stale = circuit.try_acquire().unwrap();
    open_and_wait(&circuit).await;
    let _probe = circuit.try_acquire().unwrap();
    let before = circuit.snapshot();
    stale.settle(Verdict::TRANSIENT);
    assert_eq!(circuit.snapshot(), before);
}

#[tokio::test(start_paused = true)]
async fn a_probe_of_an_earlier_round_does_not_decide_a_later_one() {
    for verdict in [Verdict::Healthy, Verdict::TRANSIENT] {
        let circuit = Circuit::builder().consecutive_failures(1).probes(2);
        let circuit = circuit.probe_successes(2).build().unwrap();
        open_and_wait(&circuit).await;
        let stale = circuit.try_acquire().unwrap();
        open_and_wait(&circuit).await;
        calls(&circuit, "S"); // one of two needed successes
        let before = circuit.snapshot();
        stale.settle(verdict);
        assert_eq!(circuit.snapshot(), before, "{verdict:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stale_ignored_call_does_not_release_a_probe() {
    let circuit = brittle().build().unwrap();
    let stale = circuit.try_acquire().unwrap();
    open_and_wait(&circuit).await;
    let _probe = circuit.try_acquire().unwrap();
    stale.settle(Verdict::Ignored);
    assert_eq!(rejected(&circuit), None);
}

#[tokio::test(start_paused = true)]
async fn a_stale_cancelled_call_does_not_release_a_probe() {
    let circuit = brittle().build().unwrap();
    let stale = circuit.try_acquire().unwrap();
    open_and_wait(&circuit).await;
    let _probe = circuit.try_acquire().unwrap();
    drop(stale);
    assert_eq!(rejected(&circuit), None);
}

#[tokio::test(start_paused = true)]
async fn a_failure_from_before_an_outage_does_not_count_after_it() {
    let circuit = brittle().build().unwrap();
    let stale = circuit.try_acquire().unwrap();
    open_and_wait(&circuit).await;
    calls(&circuit, "S");
    stale.settle(Verdict::TRANSIENT);
    assert_eq!(circuit.state(), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_circuit_that_closes_starts_with_an_empty_window() {
    for window in [Window::count(4), Window::time(60 * SECOND)] {
        let circuit = Circuit::builder().window(window).min_calls(4);
        let circuit = circuit.probes(1).build().unwrap();
        calls(&circuit, "FFF");
        open_and_wait(&circuit).await;
        calls(&circuit, "S");
        assert_eq!(circuit.snapshot().calls, 0, "{window:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_cancelled_before_abandoned_after_is_released_at_once() {
    let circuit = brittle().build().unwrap();
    open_and_wait(&circuit).await;
    drop(circuit.try_acquire().unwrap());
    let _next = circuit.try_acquire().unwrap();
    assert_eq!(circuit.snapshot().probes_out, 1);
}

#[tokio::test(start_paused = true)]
async fn a_probe_cancelled_just_before_abandoned_after_is_not_counted() {
    let circuit = brittle().build().unwrap();
    open_and_wait(&circuit).await;
    call_cancelled_after(&circuit, just_before(10 * SECOND)).await;
    assert_eq!(circuit.state(), CircuitState::HalfOpen);
}

#[tokio::test(start_paused = true)]
async fn a_probe_cancelled_at_abandoned_after_counts_as_a_failure() {
    let circuit = brittle().build().unwrap();
    open_and_wait(&circuit).await;
    call_cancelled_after(&circuit, 10 * SECOND).await;
    assert_eq!(circuit.state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_probe_dropped_by_an_unwinding_thread_counts_as_cancelled() {
    let circuit = brittle().build().unwrap();
    open_and_wait(&circuit).await;
    let probe = circuit.try_acquire().unwrap();
    let panic = catch_unwind(move || {
        let _probe = probe;
        panic!("for a reason of the caller's");
    });
    assert!(panic.is_err());
    assert_eq!(circuit.state(), CircuitState::HalfOpen);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_never_ends_is_written_off_after_the_probe_lease() {
    let circuit = brittle().probe_lease(30 * SECOND).build().unwrap();
    open_and_wait(&circuit).await;
    let _hung = circuit.try_acquire().unwrap();
    advance(just_before(30 * SECOND)).await;
    assert_eq!(rejected(&circuit), None);
    advance(MS).await;
    assert!(circuit.try_acquire().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_success_after_the_lease_does_not_close_the_circuit() {
    let circuit = brittle().probe_lease(30 * SECOND).build().unwrap();
    open_and_wait(&circuit).await;
    let hung = circuit.try_acquire().unwrap();
    advance(30 * SECOND).await;
    let _probe = circuit.try_acquire().unwrap();
    let before = circuit.snapshot();
    hung.settle(Verdict::Healthy);
    assert_eq!(circuit.snapshot(), before);
}

#[tokio::test(start_paused = true)]
async fn a_failure_after_the_lease_does_not_reopen_the_circuit() {
    let circuit = brittle().probe_lease(30 * SECOND).build().unwrap();
    open_and_wait(&circuit).await;
    let hung = circuit.try_acquire().unwrap();
    advance(30 * SECOND).await;
    let _probe = circuit.try_acquire().unwrap();
    let before = circuit.snapshot();
    hung.settle(Verdict::TRANSIENT);
    assert_eq!(circuit.snapshot(), before);
}

#[tokio::test(start_paused = true)]
async fn a_lease_writes_off_every_probe_in_flight() {
    let circuit = Circuit::builder().consecutive_failures(1).probes(3);
    let circuit = circuit.build().unwrap();
    open_and_wait(&circuit).await;
    let _hung = [(); 3].map(|()| circuit.try_acquire().unwrap());
    advance(30 * SECOND).await;
    let _probes = [(); 3].map(|()| circuit.try_acquire().unwrap());
    assert_eq!(circuit.snapshot().probes_out, 3);
}

#[tokio::test(start_paused = true)]
async fn a_lease_runs_from_the_latest_probe() {
    let circuit = Circuit::builder().consecutive_failures(1).probes(2);
    let circuit = circuit.probe_lease(30 * SECOND).build().unwrap();
    open_and_wait(&circuit).await;
    let _first = circuit.try_acquire().unwrap();
    advance(20 * SECOND).await;
    let _second = circuit.try_acquire().unwrap();
    advance(just_before(30 * SECOND)).await;
    assert_eq!(rejected(&circuit), None);
}

#[tokio::test(start_paused = true)]
async fn a_lapsed_lease_keeps_the_results_so_far() {
    let circuit = Circuit::builder().consecutive_failures(1).probes(2);
    let circuit = circuit.probe_successes(2).build().unwrap();
    open_and_wait(&circuit).await;
    calls(&circuit, "S");
    let _hung = circuit.try_acquire().unwrap();
    advance(30 * SECOND).await;
    calls(&circuit, "S");
    assert_eq!(circuit.state(), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn successful_probes_further_apart_than_the_lease_close_the_circuit() {
    let circuit = Circuit::builder().consecutive_failures(1);
    let circuit = circuit.probe_lease(30 * SECOND).probe_successes(2);
    let circuit = circuit.build().unwrap();
    open_and_wait(&circuit).await;
    calls(&circuit, "S");
    advance(40 * SECOND).await;
    calls(&circuit, "S");
    assert_eq!(circuit.state(), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn no_lease_lapses_while_another_probe_is_available() {
    let circuit = Circuit::builder().consecutive_failures(1).probes(3);
    let circuit = circuit.probe_successes(2).build().unwrap();
    open_and_wait(&circuit).await;
    let slow = circuit.try_acquire().unwrap();
    advance(40 * SECOND).await;
    calls(&circuit, "S");
    slow.settle(Verdict::Healthy);
    assert_eq!(circuit.state(), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_lease_without_end_never_lapses() {
    let circuit = brittle().probe_lease(Duration::MAX).build().unwrap();
    open_and_wait(&circuit).await;
    let _hung = circuit.try_acquire().unwrap();
    advance(10 * 365 * DAY).await;
    assert_eq!(rejected(&circuit), None);
}

#[tokio::test(start_paused = true)]
async fn ignored_probes_do_not_decide() {
    for undecided in ["IIII", "TTTT"] {
        let circuit = Circuit::builder().consecutive_failures(1).build().unwrap();
        open_and_wait(&circuit).await;
        calls(&circuit, undecided);
        assert_eq!(circuit.state(), CircuitState::HalfOpen, "{undecided}");
        calls(&circuit, "SS");
        assert_eq!(circuit.state(), CircuitState::Closed, "{undecided}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_probe_counts_as_a_failure() {
    let circuit = brittle().slow_calls(100 * MS, 1.0).build().unwrap();
    open_and_wait(&circuit).await;
    call_lasting(&circuit, 100 * MS).await;
    assert_eq!(circuit.state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_probe_just_below_the_duration_of_slow_calls_counts_as_a_success() {
    let circuit = brittle().slow_calls(100 * MS, 1.0).build().unwrap();
    open_and_wait(&circuit).await;
    call_lasting(&circuit, 99 * MS).await;
    assert_eq!(circuit.state(), CircuitState::Closed);
}
