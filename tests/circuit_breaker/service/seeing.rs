//! Events.

use super::{DOWN, SECOND, echo, trip, trip_and_wait};
use crate::events;
use buttress::Verdict;
use buttress::circuit_breaker::{CircuitBreakerLayer, CircuitState};
use std::sync::Barrier;
use std::thread;
use tokio::time::advance;
use tower::{Layer, ServiceExt, service_fn};

/// Like `brittle`, with a name.
fn named(name: &str) -> CircuitBreakerLayer {
    let layer = CircuitBreakerLayer::builder().consecutive_failures(1);
    layer.probes(1).name(name).build().unwrap()
}

/// The level, name and fields of the events that `work` emits. All of them must belong to the
/// circuit with this name.
async fn events_of(name: &str, work: impl Future) -> Vec<String> {
    let of_name = format!(" name=\"{name}\"");
    let told = |line: String| {
        assert!(line.contains(&of_name), "of another circuit: {line}");
        let line = line.replacen(" buttress::circuit_breaker ", " ", 1);
        line.replacen(&of_name, "", 1)
    };
    events::of(work).await.into_iter().map(told).collect()
}

#[tokio::test(start_paused = true)]
async fn the_event_for_a_failure_rate_that_opens_the_circuit_has_its_counts() {
    let layer = CircuitBreakerLayer::builder().min_calls(4).name("rate");
    let layer = layer.build().unwrap();
    let told = events_of("rate", async {
        for outcome in [Ok(()), Ok(()), Err(DOWN), Err(DOWN)] {
            let _same = layer.layer(service_fn(echo)).oneshot(outcome).await;
        }
    });
    let line = r#"WARN opened from="closed" to="open" reason="failure_rate" calls=4 failures=2 slow_calls=0"#;
    assert_eq!(told.await, [line]);
}

#[tokio::test(start_paused = true)]
async fn the_event_for_a_slow_rate_that_opens_the_circuit_has_its_counts() {
    let layer = CircuitBreakerLayer::builder().min_calls(2).name("slow");
    let layer = layer.slow_calls(SECOND, 1.0).build().unwrap();
    let told = events_of("slow", async {
        let permits = [(); 2].map(|()| layer.circuit().try_acquire().unwrap());
        advance(SECOND).await;
        for permit in permits {
            permit.settle(Verdict::Healthy);
        }
    });
    let line = r#"WARN opened from="closed" to="open" reason="slow_calls" calls=2 failures=0 slow_calls=2"#;
    assert_eq!(told.await, [line]);
}

#[tokio::test(start_paused = true)]
async fn each_transition_emits_one_event() {
    let layer = CircuitBreakerLayer::builder().consecutive_failures(2);
    let layer = layer.probes(3).name("way").build().unwrap();
    let circuit = layer.circuit();
    let told = events_of("way", async {
        for verdict in [Verdict::TRANSIENT, Verdict::TRANSIENT, Verdict::Healthy] {
            for _ in 0..2 {
                circuit.try_acquire().unwrap().settle(verdict);
            }
            advance(circuit.snapshot().retry_after.unwrap_or_default()).await;
        }
    });
    let lines = [
        r#"WARN opened from="closed" to="open" reason="consecutive_failures" calls=0 failures=0 slow_calls=0"#,
        r#"INFO half_opened from="open" to="half_open" reason="open_time_over" calls=0 failures=0 slow_calls=0"#,
        r#"WARN opened from="half_open" to="open" reason="probes_failed" calls=2 failures=2 slow_calls=0"#,
        r#"INFO half_opened from="open" to="half_open" reason="open_time_over" calls=0 failures=0 slow_calls=0"#,
        r#"INFO closed from="half_open" to="closed" reason="probes_succeeded" calls=2 failures=0 slow_calls=0"#,
    ];
    assert_eq!(told.await, lines);
}

#[tokio::test(start_paused = true)]
async fn a_lapsed_lease_emits_an_event() {
    let layer = named("lease");
    let circuit = layer.circuit();
    trip_and_wait(circuit).await;
    let _hung = circuit.try_acquire().unwrap();
    let told = events_of("lease", async {
        advance(30 * SECOND).await;
        let _probe = circuit.try_acquire().unwrap();
    });
    let line = r#"INFO half_opened from="half_open" to="half_open" reason="lease_lapsed" calls=0 failures=0 slow_calls=0"#;
    assert_eq!(told.await, [line]);
}

#[tokio::test(start_paused = true)]
async fn forcing_and_resetting_emit_events() {
    let layer = named("hand");
    let told = events_of("hand", async {
        layer.circuit().force_open();
        layer.circuit().force_closed();
        layer.circuit().reset();
    });
    let lines = [
        r#"WARN opened from="closed" to="forced_open" reason="forced" calls=0 failures=0 slow_calls=0"#,
        r#"INFO closed from="forced_open" to="forced_closed" reason="forced" calls=0 failures=0 slow_calls=0"#,
        r#"INFO closed from="forced_closed" to="closed" reason="reset" calls=0 failures=0 slow_calls=0"#,
    ];
    assert_eq!(told.await, lines);
}

#[tokio::test(start_paused = true)]
async fn the_event_for_a_rejection_has_the_remaining_time() {
    let layer = named("rejected");
    let open = trip(layer.circuit());
    let rejected = layer.layer(service_fn(echo)).oneshot(Ok(()));
    let line = format!("DEBUG rejected retry_after_ms={}", open.as_millis());
    assert_eq!(events_of("rejected", rejected).await, [line]);
}

#[tokio::test(start_paused = true)]
async fn the_event_for_a_rejection_without_a_retry_after_has_none() {
    let layer = named("forced");
    layer.circuit().force_open();
    let rejected = layer.layer(service_fn(echo)).oneshot(Ok(()));
    assert_eq!(events_of("forced", rejected).await, ["DEBUG rejected"]);
}

#[tokio::test(start_paused = true)]
async fn stale_outcomes_emit_no_event() {
    let layer = named("stale");
    let circuit = layer.circuit();
    let [good, bad, cancelled] = [(); 3].map(|()| circuit.try_acquire().unwrap());
    trip_and_wait(circuit).await;
    let _probe = circuit.try_acquire().unwrap();
    let told = events_of("stale", async {
        good.settle(Verdict::Healthy);
        bad.settle(Verdict::TRANSIENT);
        advance(SECOND).await;
        drop(cancelled);
    });
    assert_eq!(told.await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn reading_the_state_emits_no_event() {
    let layer = named("read");
    trip_and_wait(layer.circuit()).await;
    let told = events_of("read", async {
        let seen = (layer.circuit().state(), layer.circuit().snapshot().state);
        assert_eq!(seen, (CircuitState::HalfOpen, CircuitState::HalfOpen));
    });
    assert_eq!(told.await, [""; 0]);
}

#[test]
fn many_threads_that_open_the_circuit_emit_one_event() {
    let layer = named("threads");
    for _ in 0..100 {
        let permits = [(); 4].map(|()| layer.circuit().try_acquire().unwrap());
        let together = &Barrier::new(permits.len());
        // Events are recorded per thread.
        let told = thread::scope(|threads| {
            let settling = permits.map(|permit| {
                let told = events_of("threads", async {
                    together.wait();
                    permit.settle(Verdict::TRANSIENT);
                });
                threads.spawn(|| tokio_test::block_on(told))
            });
            settling.map(|thread| thread.join().unwrap()).concat()
        });
        assert_eq!(told.len(), 1, "{told:?}");
        layer.circuit().reset();
    }
}
