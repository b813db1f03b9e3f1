//! What opens a closed circuit.

use super::{DAY, MS, SECOND, brittle, call_cancelled_after, call_lasting, calls, just_before};
use buttress::Verdict;
use buttress::circuit_breaker::{Circuit, CircuitState, Window};
use std::time::Duration;
use tokio::time::advance;

#[tokio::test(start_paused = true)]
async fn a_failure_rate_opens_the_circuit_at_its_threshold_and_min_calls() {
    let cases = [
        ("SSSSSSSSSS", CircuitState::Closed),
        ("SSSSSSSSSF", CircuitState::Open),
        ("FSSSSSSSSF", CircuitState::Open),
        ("SSSSSSSSF", CircuitState::Closed),
    ];
    for (outcomes, state) in cases {
        let circuit = Circuit::builder().failure_rate(0.1).min_calls(10).build();
        let circuit = circuit.unwrap();
        calls(&circuit, outcomes);
        assert_eq!(circuit.state(), state, "{outcomes}");
    }
}

fn half_of_five() -> Circuit {
    let circuit = Circuit::builder().failure_rate(0.5).min_calls(5);
    circuit.build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_rate_below_the_threshold_leaves_the_circuit_closed() {
    let circuit = half_of_five();
    calls(&circuit, "SSSFF");
    assert_eq!(circuit.state(), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn the_failure_that_reaches_the_threshold_opens_the_circuit() {
    let circuit = half_of_five();
    calls(&circuit, "SSSFFF");
    assert_eq!(circuit.state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_fast_success_never_opens_the_circuit() {
    let circuit = half_of_five();
    calls(&circuit, "FFFSS"); // 60 % at the fifth call, which is a success
    assert_eq!(circuit.state(), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_failure_opens_a_circuit_that_a_success_left_above_the_threshold() {
    let circuit = half_of_five();
    calls(&circuit, "FFFSSF");
    assert_eq!(circuit.state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_permanent_failure_counts_as_a_failure() {
    let circuit = brittle().build().unwrap();
    let permit = circuit.try_acquire().unwrap();
    permit.settle(Verdict::Permanent);
    assert_eq!(circuit.state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_throttled_call_is_not_counted() {
    let circuit = half_of_five();
    calls(&circuit, "TTTTTTTTTT");
    assert_eq!(circuit.snapshot().calls, 0);
}

#[tokio::test(start_paused = true)]
async fn an_ignored_call_is_not_counted() {
    let circuit = half_of_five();
    calls(&circuit, "IIIIIIIIII");
    assert_eq!(circuit.snapshot().calls, 0);
}

#[tokio::test(start_paused = true)]
async fn a_count_window_has_no_rate_below_min_calls_and_slides_above() {
    let window = Window::count(10);
    let circuit = Circuit::builder().window(window).min_calls(10);
    let circuit = circuit.failure_rate(1.0).build().unwrap();
    let mut rates = Vec::new();
    for outcomes in ["SSFF", "FFFFSSSS", "SSS"] {
        calls(&circuit, outcomes);
        rates.push(circuit.snapshot().failure_rate());
    }
    assert_eq!(rates, [None, Some(0.6), Some(0.3)]);
}

#[tokio::test(start_paused = true)]
async fn a_count_window_forgets_its_oldest_call_first() {
    let circuit = Circuit::builder().window(Window::count(4)).min_calls(1);
    let circuit = circuit.build().unwrap();
    circuit.force_closed();
    let mut rates = Vec::new();
    for outcome in ["F", "S", "S", "S", "S"] {
        calls(&circuit, outcome);
        rates.push(circuit.snapshot().failure_rate().unwrap());
    }
    assert_eq!(rates, [1.0, 0.5, 1.0 / 3.0, 0.25, 0.0]);
}

#[tokio::test(start_paused = true)]
async fn many_earlier_successes_do_not_delay_a_count_window() {
    let circuit = Circuit::builder().window(Window::count(10));
    let circuit = circuit.failure_rate(0.5).build().unwrap();
    calls(&circuit, &"S".repeat(10_000));
    let mut failures = 0;
    while circuit.state() == CircuitState::Closed && failures < 100 {
        calls(&circuit, "F");
        failures += 1;
    }
    assert_eq!(failures, 5);
}

/// The numbers of calls and failures in a window of 10 s after three failures, `pause`, and a
/// success.
async fn counted_after(pause: Duration) -> Vec<(u64, u64)> {
    let mut counted = Vec::new();
    // Start in each tenth of the window, in case the first or the last one is special.
    for tenth in 0..10 {
        let circuit = Circuit::builder().window(Window::time(10 * SECOND));
        let circuit = circuit.build().unwrap();
        advance(tenth * SECOND).await;
        calls(&circuit, "FFF");
        advance(pause).await;
        calls(&circuit, "S");
        let snapshot = circuit.snapshot();
        counted.push((snapshot.calls, snapshot.failures));
    }
    counted
}

#[tokio::test(start_paused = true)]
async fn a_time_window_drops_calls_older_than_the_window() {
    for seconds in [10, 14] {
        let counted = counted_after(seconds * SECOND).await;
        assert_eq!(counted, [(1, 0); 10], "after {seconds} s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_time_window_keeps_calls_younger_than_the_window() {
    let counted = counted_after(just_before(10 * SECOND)).await;
    assert_eq!(counted, [(4, 3); 10]);
}

#[tokio::test(start_paused = true)]
async fn a_time_window_still_trips_after_days_without_calls() {
    for days in [0, 1, 2, 3, 30] {
        let circuit = half_of_five();
        // Go around all buckets twice, so that each one holds old counts.
        for _ in 0..20 {
            calls(&circuit, "SSSSS");
            advance(SECOND).await;
        }
        advance(10 * SECOND + days * DAY).await;
        let mut failures = 0;
        while circuit.state() == CircuitState::Closed && failures < 100 {
            calls(&circuit, "F");
            failures += 1;
        }
        assert_eq!(failures, 5, "idle for {days} days");
    }
}

#[tokio::test(start_paused = true)]
async fn a_success_resets_consecutive_failures() {
    let circuit = Circuit::builder().consecutive_failures(2).build().unwrap();
    calls(&circuit, "FSF");
    assert_eq!(circuit.state(), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn consecutive_failures_open_the_circuit() {
    let circuit = Circuit::builder().consecutive_failures(2).build().unwrap();
    calls(&circuit, "FSFF");
    assert_eq!(circuit.state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn ignored_and_throttled_calls_do_not_reset_consecutive_failures() {
    let circuit = Circuit::builder().consecutive_failures(2).build().unwrap();
    calls(&circuit, "FITF");
    assert_eq!(circuit.state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_limit_on_consecutive_failures_alone_replaces_the_failure_rate() {
    let circuit = Circuit::builder().consecutive_failures(3).build().unwrap();
    calls(&circuit, &"FFS".repeat(40)); // 67 %
    assert_eq!(circuit.state(), CircuitState::Closed);
}

fn three_consecutive_failures_and_window_of_ten() -> Circuit {
    let circuit = Circuit::builder().consecutive_failures(3);
    circuit.window(Window::count(10)).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn consecutive_failures_open_a_circuit_that_also_has_a_window() {
    let circuit = three_consecutive_failures_and_window_of_ten();
    calls(&circuit, "FFF"); // fewer than `min_calls`
    assert_eq!(circuit.state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_window_opens_a_circuit_that_also_limits_consecutive_failures() {
    let circuit = three_consecutive_failures_and_window_of_ten();
    calls(&circuit, "SFSFSFSFSF");
    assert_eq!(circuit.state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_rate_of_slow_calls_can_open_the_circuit() {
    let circuit = Circuit::builder().slow_calls(100 * MS, 1.0).min_calls(3);
    let circuit = circuit.build().unwrap();
    for _ in 0..3 {
        call_lasting(&circuit, 100 * MS).await;
    }
    assert_eq!(circuit.state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_share_of_slow_calls_below_the_threshold_leaves_the_circuit_closed() {
    let circuit = Circuit::builder().slow_calls(100 * MS, 0.5).min_calls(3);
    let circuit = circuit.build().unwrap();
    calls(&circuit, "SS");
    call_lasting(&circuit, 100 * MS).await;
    assert_eq!(circuit.state(), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_call_just_below_the_duration_of_slow_calls_is_not_slow() {
    let circuit = Circuit::builder().slow_calls(100 * MS, 1.0);
    let circuit = circuit.min_calls(1).build().unwrap();
    call_lasting(&circuit, 99 * MS).await;
    assert_eq!(circuit.snapshot().slow_rate(), Some(0.0));
}

#[tokio::test(start_paused = true)]
async fn a_slow_failure_counts_as_slow_and_as_a_failure() {
    let circuit = Circuit::builder().slow_calls(100 * MS, 1.0);
    let circuit = circuit.build().unwrap();
    let permit = circuit.try_acquire().unwrap();
    advance(100 * MS).await;
    permit.settle(Verdict::TRANSIENT);
    let snapshot = circuit.snapshot();
    let counts = (snapshot.calls, snapshot.failures, snapshot.slow_calls);
    assert_eq!(counts, (1, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn calls_cancelled_at_abandoned_after_open_the_circuit() {
    let circuit = Circuit::builder().build().unwrap();
    let permits: Vec<_> = (0..20).map(|_| circuit.try_acquire().unwrap()).collect();
    advance(10 * SECOND).await;
    drop(permits);
    assert_eq!(circuit.state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_call_cancelled_just_before_abandoned_after_is_not_counted() {
    let circuit = Circuit::builder().build().unwrap();
    call_cancelled_after(&circuit, just_before(10 * SECOND)).await;
    assert_eq!(circuit.snapshot().calls, 0);
}

#[tokio::test(start_paused = true)]
async fn a_slow_call_cancelled_before_abandoned_after_is_not_a_failure() {
    let circuit = Circuit::builder().slow_calls(3 * SECOND, 1.0);
    let circuit = circuit.build().unwrap();
    call_cancelled_after(&circuit, 3 * SECOND).await;
    let younger = circuit.snapshot().failures;
    call_cancelled_after(&circuit, 10 * SECOND).await;
    assert_eq!((younger, circuit.snapshot().failures), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn abandoned_after_alone_decides_about_cancelled_calls() {
    let circuit = Circuit::builder().slow_calls(3 * SECOND, 1.0);
    let circuit = circuit.abandoned_after(5 * SECOND).build().unwrap();
    call_cancelled_after(&circuit, just_before(5 * SECOND)).await;
    let younger = circuit.snapshot().failures;
    call_cancelled_after(&circuit, 5 * SECOND).await;
    assert_eq!((younger, circuit.snapshot().failures), (0, 1));
}
