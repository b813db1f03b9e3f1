//! The counts of a circuit as its handle shows them: large numbers, many resets, and what opened
//! the circuit.

use crate::events;
use buttress::Verdict;
use buttress::circuit_breaker::{Circuit, CircuitState, Window};
use std::time::Duration;
use tokio::time::advance;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);

/// Records one call per letter: `S` succeeds, `F` fails.
fn calls(circuit: &Circuit, outcomes: &str) {
    for outcome in outcomes.bytes() {
        let permit = circuit.try_acquire().expect("the call may go");
        permit.settle(match outcome {
            b'S' => Verdict::Healthy,
            _ => Verdict::TRANSIENT,
        });
    }
}

#[tokio::test(start_paused = true)]
async fn a_rate_of_700_000_calls_opens_the_circuit_when_all_of_them_fail() {
    let circuit = Circuit::builder().min_calls(700_000).build().unwrap();
    for _ in 1..700_000 {
        calls(&circuit, "F");
    }
    assert_eq!(circuit.state(), CircuitState::Closed);
    calls(&circuit, "F");
    let opening = circuit.snapshot().opened_by.unwrap();
    assert_eq!((opening.calls, opening.failures), (700_000, 700_000));
}

#[tokio::test(start_paused = true)]
async fn a_true_rate_of_7_percent_does_not_open_a_circuit_that_opens_at_8() {
    let circuit = Circuit::builder().failure_rate(0.08).min_calls(700_000);
    let circuit = circuit.window(Window::time(HOUR)).build().unwrap();
    let hundred = "FSSSSSSSSSSSSSFSSSSSSSSSSSSSFSSSSSSSSSSSSSFSSSSSSSSSSSSSFSSSSSSSSSSSSSFSSSSSSSSSSSSSFSSSSSSSSSSSSSSS";
    assert_eq!(hundred.len(), 100);
    for _ in 0..12_000 {
        calls(&circuit, hundred);
    }
    let seen = circuit.snapshot();
    assert_eq!(
        (seen.state, seen.calls, seen.failures),
        (CircuitState::Closed, 1_200_000, 84_000)
    );
    assert_eq!(seen.failure_rate(), Some(0.07));
}

#[tokio::test(start_paused = true)]
async fn a_time_window_counts_700_000_calls_and_drops_the_oldest() {
    let circuit = Circuit::builder().build().unwrap();
    circuit.force_closed();
    for second in 0..12 {
        calls(&circuit, &"SF".repeat(35_000));
        let buckets = u64::min(second + 1, 10);
        let seen = circuit.snapshot();
        assert_eq!(
            (seen.calls, seen.failures),
            (buckets * 70_000, buckets * 35_000)
        );
        advance(SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn old_calls_and_permits_stay_uncounted_after_a_million_resets() {
    for window in [Window::time(10 * SECOND), Window::count(10)] {
        let circuit = Circuit::builder().window(window).consecutive_failures(5);
        let circuit = circuit.build().unwrap();
        let permits = (0..300).map(|_| circuit.try_acquire().unwrap());
        let mut stale: Vec<_> = permits.collect();
        calls(&circuit, "FFF");
        for n in 1..=1_u32 << 20 {
            circuit.reset();
            if n % 4_096 == 0 {
                stale.pop().unwrap().settle(Verdict::TRANSIENT);
                let seen = circuit.snapshot();
                let counted = (seen.calls, seen.consecutive_failures);
                assert_eq!(counted, (0, Some(0)), "{window:?} {n}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_of_an_open_circuit_shows_what_opened_it() {
    let circuit = Circuit::builder().build().unwrap();
    calls(&circuit, &"F".repeat(20));
    for pause in [Duration::ZERO, HOUR] {
        advance(pause).await;
        let opening = circuit.snapshot().opened_by.unwrap();
        let counts = (opening.calls, opening.failures, opening.slow_calls);
        assert_eq!(
            (opening.reason.as_str(), counts),
            ("failure_rate", (20, 20, 0))
        );
    }
    calls(&circuit, "FF");
    let opening = circuit.snapshot().opened_by.unwrap();
    let counts = (opening.calls, opening.failures, opening.slow_calls);
    assert_eq!(
        (opening.reason.as_str(), counts),
        ("probes_failed", (2, 2, 0))
    );
    advance(HOUR).await;
    calls(&circuit, "SS");
    assert_eq!(circuit.snapshot().opened_by, None);
}

#[tokio::test(start_paused = true)]
async fn consecutive_failures_are_shown_only_if_they_are_limited() {
    let rates = Circuit::builder().build().unwrap();
    let row = Circuit::builder().consecutive_failures(3).build().unwrap();
    let shown = [rates, row].map(|circuit| {
        calls(&circuit, "FF");
        circuit.snapshot().consecutive_failures
    });
    assert_eq!(shown, [None, Some(2)]);
}

#[tokio::test]
async fn forcing_and_resetting_emit_events_only_if_the_state_changes() {
    let circuit = Circuit::builder().name("by hand").build().unwrap();
    let told = events::of(async {
        circuit.reset();
        circuit.force_open();
        circuit.force_open();
        circuit.force_closed();
        circuit.force_closed();
        circuit.reset();
        circuit.reset();
    });
    let names = |line: String| line.split(' ').nth(2).unwrap().to_owned();
    let names: Vec<_> = told.await.into_iter().map(names).collect();
    assert_eq!(names, ["opened", "closed", "closed"]);
}
