//! Forced states, resets, and settings.

use super::{
    DAY, MS, SECOND, brittle, brittle_for_seconds, calls, just_before, open_and_wait, rejected,
    transient,
};
use buttress::Verdict;
use buttress::circuit_breaker::{Circuit, CircuitState, Window};
use std::time::Duration;
use tokio::time::advance;

// Forced states and resets

#[tokio::test(start_paused = true)]
async fn a_circuit_forced_open_ignores_time() {
    let circuit = brittle().build().unwrap();
    circuit.force_open();
    advance(365 * DAY).await;
    assert_eq!(rejected(&circuit), None);
}

#[tokio::test(start_paused = true)]
async fn a_circuit_forced_closed_rejects_no_call() {
    let circuit = brittle().build().unwrap();
    circuit.force_closed();
    calls(&circuit, &"F".repeat(100));
    assert_eq!(circuit.state(), CircuitState::ForcedClosed);
}

#[tokio::test(start_paused = true)]
async fn a_circuit_forced_closed_still_counts() {
    let circuit = Circuit::builder().build().unwrap();
    circuit.force_closed();
    calls(&circuit, "SFFF");
    let snapshot = circuit.snapshot();
    assert_eq!((snapshot.calls, snapshot.failures), (4, 3));
}

#[tokio::test(start_paused = true)]
async fn reset_ends_a_forced_state() {
    for force in [Circuit::force_open, Circuit::force_closed] {
        let circuit = brittle().build().unwrap();
        force(&circuit);
        circuit.reset();
        assert_eq!(circuit.state(), CircuitState::Closed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_reset_circuit_behaves_like_a_new_one() {
    for window in [Window::count(10), Window::time(10 * SECOND)] {
        let circuit = Circuit::builder().consecutive_failures(4).window(window);
        let circuit = circuit.build().unwrap();
        let new = circuit.snapshot();
        calls(&circuit, "SFFF");
        circuit.reset();
        assert_eq!(circuit.snapshot(), new, "{window:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reset_starts_open_times_at_open_for_again() {
    let circuit = brittle_for_seconds().build().unwrap();
    for _ in 0..3 {
        open_and_wait(&circuit).await;
    }
    circuit.reset();
    calls(&circuit, "F");
    assert!(circuit.snapshot().retry_after.unwrap() <= 5 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn no_outcome_of_an_older_call_undoes_a_forced_state_or_a_reset() {
    let hands = [
        (
            Circuit::force_open as fn(&Circuit),
            CircuitState::ForcedOpen,
        ),
        (Circuit::force_closed, CircuitState::ForcedClosed),
        (Circuit::reset, CircuitState::Closed),
    ];
    for (hand, state) in hands {
        for verdict in [Verdict::Healthy, Verdict::TRANSIENT] {
            let circuit = brittle().build().unwrap();
            let call = circuit.try_acquire().unwrap();
            open_and_wait(&circuit).await;
            let probe = circuit.try_acquire().unwrap();
            hand(&circuit);
            call.settle(verdict);
            probe.settle(verdict);
            assert_eq!(circuit.state(), state, "{verdict:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn calls_from_before_a_forced_state_or_a_reset_are_not_counted() {
    let hands: [fn(&Circuit); 3] = [Circuit::force_open, Circuit::force_closed, Circuit::reset];
    for hand in hands {
        let circuit = Circuit::builder().build().unwrap();
        calls(&circuit, "F");
        let stale = circuit.try_acquire().unwrap();
        hand(&circuit);
        let before = circuit.snapshot();
        stale.settle(Verdict::TRANSIENT);
        assert_eq!((before.calls, circuit.snapshot().calls), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn the_name_is_in_snapshot_and_debug() {
    let circuit = brittle().name("payments").build().unwrap();
    let debug = format!("{circuit:?}");
    assert!(debug.contains("payments"), "{debug}");
    assert_eq!(circuit.snapshot().name.as_str(), Some("payments"));
}

// Settings

#[test]
fn an_invalid_setting_is_named_in_the_error() {
    let new = Circuit::builder;
    let cases = [
        ("failure_rate", new().failure_rate(0.0)),
        ("failure_rate", new().failure_rate(-0.5)),
        ("failure_rate", new().failure_rate(1.000_001)),
        ("failure_rate", new().failure_rate(0.000_000_9)),
        ("failure_rate", new().failure_rate(f64::NAN)),
        ("failure_rate", new().failure_rate(f64::INFINITY)),
        ("slow_calls", new().slow_calls(SECOND, 0.0)),
        ("slow_calls", new().slow_calls(SECOND, 1.000_001)),
        ("slow_calls", new().slow_calls(SECOND, f64::NAN)),
        ("min_calls", new().min_calls(0)),
        ("min_calls", new().window(Window::count(10)).min_calls(11)),
        ("window", new().window(Window::time(Duration::ZERO))),
        ("window", new().window(Window::count(0))),
        ("window", new().window(Window::count(4_097))),
        ("consecutive_failures", new().consecutive_failures(0)),
        (
            "max_open_for",
            new().open_for(SECOND).max_open_for(just_before(SECOND)),
        ),
        ("probes", new().probes(0)),
        ("probes", new().probes(128)),
        ("probe_successes", new().probe_successes(0)),
        ("probe_successes", new().probes(2).probe_successes(3)),
        ("probe_lease", new().probe_lease(Duration::ZERO)),
    ];
    for (field, builder) in cases {
        let error = builder.clone().build().expect_err(field);
        assert_eq!(error.field(), field, "{builder:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn extreme_valid_settings_do_not_panic() {
    let new = || Circuit::builder().min_calls(1);
    let builders = [
        new().failure_rate(0.000_001),
        new().failure_rate(1.0),
        new().min_calls(u32::MAX),
        new().window(Window::time(Duration::MAX)),
        new().window(Window::time(Duration::from_nanos(1))),
        new().window(Window::count(1)),
        new().window(Window::count(4_096)),
        new().consecutive_failures(u32::MAX),
        new().slow_calls(Duration::ZERO, 1.0),
        new().slow_calls(Duration::MAX, 0.000_001),
        new().open_for(Duration::ZERO),
        new().open_for(Duration::ZERO).max_open_for(Duration::ZERO),
        new().open_for(Duration::MAX),
        new().max_open_for(Duration::MAX),
        new().probes(127),
        new().probes(127).probe_successes(127),
        new().probe_lease(Duration::from_nanos(1)),
        new().probe_lease(Duration::MAX),
        new().abandoned_after(Duration::ZERO),
        new().abandoned_after(Duration::MAX),
    ];
    for builder in builders {
        let circuit = builder.build().unwrap();
        let verdicts = [
            transient(Duration::MAX),
            Verdict::Healthy,
            Verdict::Permanent,
            Verdict::Ignored,
        ];
        for pause in [Duration::ZERO, 60 * SECOND, 3 * 365 * DAY] {
            for verdict in verdicts {
                if let Ok(permit) = circuit.try_acquire() {
                    advance(MS).await;
                    permit.settle(verdict);
                }
                drop(circuit.try_acquire());
                advance(pause).await;
                let _seen = circuit.snapshot();
            }
        }
    }
}
