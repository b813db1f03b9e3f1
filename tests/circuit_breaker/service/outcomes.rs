//! How the outcome of a call is counted.

use super::{
    DOWN, Failure, MS, SECOND, brittle, echo, hang, just_before, retry_after, trip_and_wait,
};
use buttress::circuit_breaker::{CircuitBreakerLayer, CircuitState};
use buttress::retry::Cloned;
use buttress::{Error, Name, Rejection, RetryLayer, Verdict};
use std::future::{Pending, pending, ready};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::{advance, sleep, timeout};
use tokio_test::task::spawn;
use tokio_test::{assert_pending, assert_ready_ok};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_test::mock::Spawn;

async fn panic_in_poll((): ()) -> Result<(), Failure> {
    panic!("the upstream panics")
}

fn panic_in_call((): ()) -> Pending<Result<(), Failure>> {
    panic!("the upstream panics")
}

// Outcomes

#[tokio::test(start_paused = true)]
async fn failures_of_the_service_open_the_circuit() {
    let layer = CircuitBreakerLayer::default();
    for _ in 0..20 {
        let outcome = layer.layer(service_fn(echo)).oneshot(Err(DOWN)).await;
        assert_eq!(outcome, Err(DOWN));
    }
    let outcome = layer.layer(service_fn(echo)).oneshot(Ok(())).await;
    assert_eq!(
        retry_after(&outcome),
        layer.circuit().snapshot().retry_after
    );
}

#[tokio::test(start_paused = true)]
async fn a_successful_probe_through_the_service_closes_the_circuit() {
    let layer = brittle();
    trip_and_wait(layer.circuit()).await;
    let outcome = layer.layer(service_fn(echo)).oneshot(Ok(())).await;
    assert_eq!(
        (outcome, layer.circuit().state()),
        (Ok(()), CircuitState::Closed)
    );
}

#[tokio::test(start_paused = true)]
async fn the_classifier_decides_what_counts_as_a_failure() {
    let teapot = |outcome: Result<&u16, &Failure>| match outcome {
        Ok(503) => Verdict::Permanent,
        Ok(429) => Verdict::THROTTLED,
        Ok(_) => Verdict::Healthy,
        Err(_) => Verdict::Ignored,
    };
    let layer = CircuitBreakerLayer::builder().classify(teapot);
    let layer = layer.build().unwrap();
    let echo = service_fn(|outcome: Result<u16, Failure>| ready(outcome));
    for outcome in [Ok(200), Ok(404), Ok(429), Ok(503), Err(DOWN)] {
        let _same = layer.layer(echo).oneshot(outcome).await;
    }
    let snapshot = layer.circuit().snapshot();
    assert_eq!((snapshot.calls, snapshot.failures), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn the_duration_of_a_call_is_its_time_in_flight() {
    let layer = CircuitBreakerLayer::builder().slow_calls(100 * MS, 1.0);
    let layer = layer.min_calls(1).build().unwrap();
    let nap = service_fn(|duration| async move {
        sleep(duration).await;
        Ok::<_, Failure>(())
    });
    let mut fast = layer.layer(nap);
    let call = fast.ready().await.unwrap().call(99 * MS);
    advance(SECOND).await; // the call is in flight only once its future is polled
    call.await.unwrap();
    let before = layer.circuit().snapshot().slow_calls;
    layer.layer(nap).oneshot(100 * MS).await.unwrap();
    let snapshot = layer.circuit().snapshot();
    assert_eq!((before, snapshot.slow_calls), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn an_outer_timeout_of_ten_seconds_opens_the_circuit() {
    let layer = CircuitBreakerLayer::default();
    let mut calls = JoinSet::new();
    for _ in 0..20 {
        calls.spawn(timeout(
            10 * SECOND,
            layer.layer(service_fn(hang)).oneshot(()),
        ));
    }
    calls.join_all().await;
    assert_eq!(layer.circuit().state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn callers_with_short_timeouts_do_not_open_the_circuit_of_a_slow_upstream() {
    let layer = CircuitBreakerLayer::default();
    let slow = service_fn(|()| async {
        sleep(2 * SECOND).await;
        Ok::<_, Failure>(())
    });
    let mut calls = JoinSet::new();
    for _ in 0..20 {
        calls.spawn(timeout(1_500 * MS, layer.layer(slow).oneshot(())));
    }
    calls.join_all().await;
    let snapshot = layer.circuit().snapshot();
    assert_eq!((snapshot.state, snapshot.calls), (CircuitState::Closed, 0));
}

#[tokio::test(start_paused = true)]
async fn calls_cancelled_before_abandoned_after_are_not_counted() {
    let layer = CircuitBreakerLayer::default();
    for _ in 0..20 {
        let call = layer.layer(service_fn(hang)).oneshot(());
        timeout(3 * MS, call).await.unwrap_err();
    }
    let snapshot = layer.circuit().snapshot();
    assert_eq!((snapshot.state, snapshot.calls), (CircuitState::Closed, 0));
}

#[tokio::test(start_paused = true)]
async fn a_probe_dropped_before_its_first_poll_is_released() {
    let layer = brittle();
    trip_and_wait(layer.circuit()).await;
    let mut service = layer.layer(service_fn(hang));
    let call = service.ready().await.unwrap().call(());
    advance(3_600 * SECOND).await; // kept for a long time, but never sent
    drop(call);
    let snapshot = layer.circuit().snapshot();
    assert_eq!(
        (snapshot.state, snapshot.probes_out),
        (CircuitState::HalfOpen, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_probe_dropped_in_flight_before_abandoned_after_is_released() {
    let layer = brittle();
    trip_and_wait(layer.circuit()).await;
    let mut call = spawn(layer.layer(service_fn(hang)).oneshot(()));
    assert_pending!(call.poll());
    advance(just_before(10 * SECOND)).await;
    drop(call);
    let snapshot = layer.circuit().snapshot();
    assert_eq!(
        (snapshot.state, snapshot.probes_out),
        (CircuitState::HalfOpen, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_probe_dropped_at_abandoned_after_counts_as_a_failure() {
    let layer = brittle();
    trip_and_wait(layer.circuit()).await;
    let mut call = spawn(layer.layer(service_fn(hang)).oneshot(()));
    assert_pending!(call.poll());
    advance(10 * SECOND).await;
    drop(call);
    assert_eq!(layer.circuit().state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn the_next_call_after_a_cancelled_probe_is_a_probe() {
    let layer = brittle();
    trip_and_wait(layer.circuit()).await;
    let mut cancelled = spawn(layer.layer(service_fn(hang)).oneshot(()));
    assert_pending!(cancelled.poll());
    drop(cancelled);
    let outcome = layer.layer(service_fn(echo)).oneshot(Ok(())).await;
    assert_eq!(outcome, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_panics_in_call_counts_as_a_failure() {
    let layer = brittle();
    trip_and_wait(layer.circuit()).await;
    let mut service = layer.layer(service_fn(panic_in_call));
    service.ready().await.unwrap();
    catch_unwind(AssertUnwindSafe(|| service.call(()))).unwrap_err();
    assert_eq!(layer.circuit().state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_panics_in_poll_counts_as_a_failure() {
    let layer = brittle();
    trip_and_wait(layer.circuit()).await;
    let mut call = spawn(layer.layer(service_fn(panic_in_poll)).oneshot(()));
    catch_unwind(AssertUnwindSafe(|| call.poll())).unwrap_err();
    // The panic is over when the call is dropped, so `thread::panicking` returns false here.
    drop(call);
    assert_eq!(layer.circuit().state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_probe_dropped_by_an_unrelated_panic_counts_as_cancelled() {
    let layer = brittle();
    trip_and_wait(layer.circuit()).await;
    let mut call = spawn(layer.layer(service_fn(hang)).oneshot(()));
    assert_pending!(call.poll());
    let panic = catch_unwind(AssertUnwindSafe(move || {
        let _dropped_in_unwinding = call;
        panic!("for a reason of the caller's");
    }));
    assert!(panic.is_err());
    let snapshot = layer.circuit().snapshot();
    assert_eq!(
        (snapshot.state, snapshot.probes_out),
        (CircuitState::HalfOpen, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_service_that_always_panics_opens_the_circuit() {
    let layer = CircuitBreakerLayer::default();
    for _ in 0..10 {
        let call = layer.layer(service_fn(panic_in_poll)).oneshot(());
        let joined = tokio::spawn(call).await;
        assert!(joined.unwrap_err().is_panic());
        let mut service = layer.layer(service_fn(panic_in_call));
        service.ready().await.unwrap();
        catch_unwind(AssertUnwindSafe(|| service.call(()))).unwrap_err();
    }
    assert_eq!(layer.circuit().state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn panics_lose_no_probe() {
    let layer = CircuitBreakerLayer::builder().consecutive_failures(1);
    let layer = layer.probes(3).build().unwrap();
    trip_and_wait(layer.circuit()).await;
    for _ in 0..5 {
        for _ in 0..2 {
            let call = layer.layer(service_fn(panic_in_poll)).oneshot(());
            let joined = tokio::spawn(call).await;
            assert!(joined.unwrap_err().is_panic());
        }
        advance(layer.circuit().snapshot().retry_after.unwrap()).await;
    }
    let _probes = [(); 3].map(|()| layer.circuit().try_acquire().unwrap());
    assert_eq!(layer.circuit().snapshot().probes_out, 3);
}

#[tokio::test(start_paused = true)]
async fn only_the_probes_reach_the_upstream_however_many_clones_call_at_once() {
    let runtime = Handle::current();
    // Many rounds, because threads seldom race on the deciding atomic.
    for _ in 0..300 {
        let layer = CircuitBreakerLayer::builder().consecutive_failures(1);
        let layer = layer.probes(3).build().unwrap();
        trip_and_wait(layer.circuit()).await;
        let sent = AtomicUsize::new(0);
        let service = layer.layer(service_fn(|()| {
            sent.fetch_add(1, Relaxed);
            pending::<Result<(), Failure>>()
        }));
        let together = Barrier::new(4);
        thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| {
                    let _paused_clock = runtime.enter();
                    let mut clones = [(); 25].map(|()| Spawn::new(service.clone()));
                    for clone in &mut clones {
                        assert_ready_ok!(clone.poll_ready());
                    }
                    together.wait();
                    let _calls = clones.map(|mut clone| {
                        let mut call = spawn(clone.call(()));
                        let _rejected_or_pending = call.poll();
                        call
                    });
                    // Keep the probe until all threads have called: a dropped probe becomes
                    // available again.
                    together.wait();
                });
            }
        });
        assert_eq!(sent.into_inner(), 3);
    }
}

// Rejections by layers below the circuit breaker

/// Classifies every error as a failure, rejections included.
fn every_error_is_a_failure(outcome: Result<&(), &Failure>) -> Verdict {
    if outcome.is_ok() {
        Verdict::Healthy
    } else {
        Verdict::TRANSIENT
    }
}

const NOT_SENT: [Rejection; 3] = [
    Rejection::CircuitOpen {
        retry_after: None,
        by: Name::UNNAMED,
    },
    Rejection::RateLimited {
        retry_after: None,
        by: Name::UNNAMED,
    },
    Rejection::Overloaded {
        limit: 1,
        by: Name::UNNAMED,
    },
];

#[tokio::test(start_paused = true)]
async fn a_rejection_by_a_lower_layer_is_not_counted_whatever_the_classifier_says() {
    let layer = CircuitBreakerLayer::builder().classify(every_error_is_a_failure);
    let layer = layer.build().unwrap();
    for rejection in NOT_SENT {
        let outcome = Err(Error::Rejected(rejection));
        let _same = layer.layer(service_fn(echo)).oneshot(outcome).await;
    }
    assert_eq!(layer.circuit().snapshot().calls, 0);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_of_a_lower_layer_counts_as_a_failure_whatever_the_classifier_says() {
    let all_is_well = |_: Result<&(), &Failure>| Verdict::Healthy;
    let layer = CircuitBreakerLayer::builder().classify(all_is_well);
    let layer = layer.build().unwrap();
    let outcome = Err(Error::Rejected(Rejection::TimedOut {
        after: SECOND,
        by: Name::UNNAMED,
    }));
    let _same = layer.layer(service_fn(echo)).oneshot(outcome).await;
    assert_eq!(layer.circuit().snapshot().failures, 1);
}

#[tokio::test(start_paused = true)]
async fn a_rejection_is_not_retried_whatever_the_classifier_says() {
    for rejection in NOT_SENT {
        let sent = AtomicUsize::new(0);
        let layer = RetryLayer::builder().replay(Cloned);
        let layer = layer.classify(every_error_is_a_failure).build().unwrap();
        let retry = layer.layer(service_fn(|()| {
            sent.fetch_add(1, Relaxed);
            ready(Err(Error::Rejected(rejection)))
        }));
        retry.oneshot(()).await.unwrap_err();
        assert_eq!(sent.into_inner(), 1, "{rejection:?}");
    }
}

// One layer value, one circuit

#[tokio::test(start_paused = true)]
async fn one_layer_value_is_one_breaker_however_often_it_is_applied() {
    let layer = brittle();
    let other = layer.layer(service_fn(|()| ready(Ok::<_, Failure>(()))));
    // Apply the layer once per connection, as axum does.
    let connection = layer.clone().layer(service_fn(echo));
    connection.clone().oneshot(Err(DOWN)).await.unwrap_err();
    let next_connection = layer.layer(service_fn(echo));
    let outcomes = [
        other.oneshot(()).await,
        connection.oneshot(Ok(())).await,
        next_connection.oneshot(Ok(())).await,
    ];
    assert_eq!(
        outcomes.each_ref().map(retry_after),
        [layer.circuit().snapshot().retry_after; 3]
    );
}

#[tokio::test(start_paused = true)]
async fn two_layers_on_one_circuit_share_it() {
    let circuit = brittle().circuit().clone();
    let reads = CircuitBreakerLayer::new(circuit.clone(), every_error_is_a_failure);
    let writes = CircuitBreakerLayer::new(circuit.clone(), every_error_is_a_failure);
    let _failed = reads.layer(service_fn(echo)).oneshot(Err(DOWN)).await;
    let outcome = writes.layer(service_fn(echo)).oneshot(Ok(())).await;
    assert_eq!(retry_after(&outcome), circuit.snapshot().retry_after);
}
