//! The circuit breaker as a Tower service: readiness, cancellation, panics, and its events.

use buttress::circuit_breaker::{Circuit, CircuitBreakerLayer, CircuitState, WhenOpen};
use buttress::retry::Cloned;
use buttress::{Error, Name, Rejection, RetryLayer, StackError, Verdict};
use std::fmt::{Debug, Write};
use std::future::{Pending, pending, ready};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Barrier, LazyLock, Mutex};
use std::thread;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{advance, sleep, timeout};
use tokio_test::task::spawn;
use tokio_test::{assert_pending, assert_ready, assert_ready_ok};
use tower::balance::p2c::Balance;
use tower::discover::ServiceList;
use tower::limit::ConcurrencyLimit;
use tower::load::{CompleteOnResponse, PendingRequests};
use tower::{BoxError, Layer, Service, ServiceExt, service_fn};
use tower_test::mock::Spawn;
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, SubscriberExt};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// A millisecond earlier.
fn just_before(duration: Duration) -> Duration {
    duration.saturating_sub(MS)
}

type Failure = Error<&'static str>;
const DOWN: Failure = Error::Service("down");

/// Answers with what it is asked to answer.
async fn echo(answer: Result<(), Failure>) -> Result<(), Failure> {
    answer
}

/// Never answers.
fn hang((): ()) -> Pending<Result<(), Failure>> {
    pending()
}

async fn panic_in_poll((): ()) -> Result<(), Failure> {
    panic!("the callee panics")
}

fn panic_in_call((): ()) -> Pending<Result<(), Failure>> {
    panic!("the callee panics")
}

/// A layer whose circuit opens on one failure, and which one probe decides.
fn brittle() -> CircuitBreakerLayer {
    let layer = CircuitBreakerLayer::builder().consecutive_failures(1);
    layer.probes(1).build().unwrap()
}

/// As `brittle`, not ready while open.
fn brittle_not_ready() -> CircuitBreakerLayer {
    let layer = CircuitBreakerLayer::builder().consecutive_failures(1);
    let layer = layer.probes(1).when_open(WhenOpen::NotReady);
    layer.build().unwrap()
}

/// Opens a circuit that one failure opens; how long it is open.
fn trip(circuit: &Circuit) -> Duration {
    let permit = circuit.try_acquire().unwrap();
    permit.settle(Verdict::TRANSIENT);
    circuit.snapshot().retry_after.unwrap()
}

/// Opens a circuit that one failure opens, and waits until probes may go.
async fn trip_and_wait(circuit: &Circuit) {
    advance(trip(circuit)).await;
}

/// What the breaker says that rejected a call.
fn retry_after<E: StackError + Debug>(outcome: &Result<(), E>) -> Option<Duration> {
    match outcome.as_ref().map_err(StackError::rejection) {
        Err(Some(Rejection::CircuitOpen { retry_after, .. })) => retry_after,
        _ => panic!("not rejected by the breaker: {outcome:?}"),
    }
}

// Calls, and what becomes of them.

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
async fn a_good_probe_through_the_service_closes_the_circuit() {
    let layer = brittle();
    trip_and_wait(layer.circuit()).await;
    let outcome = layer.layer(service_fn(echo)).oneshot(Ok(())).await;
    assert_eq!(
        (outcome, layer.circuit().state()),
        (Ok(()), CircuitState::Closed)
    );
}

#[tokio::test(start_paused = true)]
async fn the_classifier_decides_what_fails() {
    let teapot = |outcome: Result<&u16, &Failure>| match outcome {
        Ok(503) => Verdict::Permanent,
        Ok(429) => Verdict::THROTTLED,
        Ok(_) => Verdict::Healthy,
        Err(_) => Verdict::Ignored,
    };
    let layer = CircuitBreakerLayer::builder().classify(teapot);
    let layer = layer.build().unwrap();
    let answer = service_fn(|answer: Result<u16, Failure>| ready(answer));
    for outcome in [Ok(200), Ok(404), Ok(429), Ok(503), Err(DOWN)] {
        let _same = layer.layer(answer).oneshot(outcome).await;
    }
    let snapshot = layer.circuit().snapshot();
    assert_eq!((snapshot.calls, snapshot.failures), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn a_call_is_as_slow_as_it_was_in_flight() {
    let layer = CircuitBreakerLayer::builder().slow_calls(100 * MS, 1.0);
    let layer = layer.min_calls(1).build().unwrap();
    let nap = service_fn(|duration| async move {
        sleep(duration).await;
        Ok::<_, Failure>(())
    });
    let mut fast = layer.layer(nap);
    let call = fast.ready().await.unwrap().call(99 * MS);
    advance(SECOND).await; // a future that is not polled is not in flight
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
async fn callers_in_a_hurry_do_not_open_the_circuit_of_a_slow_upstream() {
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
async fn calls_cancelled_young_are_not_counted() {
    let layer = CircuitBreakerLayer::default();
    for _ in 0..20 {
        let call = layer.layer(service_fn(hang)).oneshot(());
        timeout(3 * MS, call).await.unwrap_err();
    }
    let snapshot = layer.circuit().snapshot();
    assert_eq!((snapshot.state, snapshot.calls), (CircuitState::Closed, 0));
}

#[tokio::test(start_paused = true)]
async fn a_probe_dropped_before_its_first_poll_is_free() {
    let layer = brittle();
    trip_and_wait(layer.circuit()).await;
    let mut service = layer.layer(service_fn(hang));
    let call = service.ready().await.unwrap().call(());
    advance(3_600 * SECOND).await; // kept for long, but never sent
    drop(call);
    let snapshot = layer.circuit().snapshot();
    assert_eq!(
        (snapshot.state, snapshot.probes_out),
        (CircuitState::HalfOpen, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_probe_dropped_young_in_flight_is_free() {
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
async fn a_probe_dropped_at_abandoned_after_is_bad() {
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
async fn a_probe_that_panics_in_call_is_bad() {
    let layer = brittle();
    trip_and_wait(layer.circuit()).await;
    let mut service = layer.layer(service_fn(panic_in_call));
    service.ready().await.unwrap();
    catch_unwind(AssertUnwindSafe(|| service.call(()))).unwrap_err();
    assert_eq!(layer.circuit().state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_panics_in_poll_is_bad() {
    let layer = brittle();
    trip_and_wait(layer.circuit()).await;
    let mut call = spawn(layer.layer(service_fn(panic_in_poll)).oneshot(()));
    catch_unwind(AssertUnwindSafe(|| call.poll())).unwrap_err();
    // After the unwinding: whether the thread panics says nothing here.
    drop(call);
    assert_eq!(layer.circuit().state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_probe_dropped_by_the_panic_of_another_is_only_cancelled() {
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
async fn exactly_the_probes_reach_the_callee_however_many_clones_call_at_once() {
    let runtime = Handle::current();
    // Many rounds, since threads seldom meet at the word that decides.
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
                    // A probe dropped while others still call would be free again.
                    together.wait();
                });
            }
        });
        assert_eq!(sent.into_inner(), 3);
    }
}

// Rejections of ours, from below.

/// Says of every error, ours included, that the callee failed.
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
async fn a_rejection_of_ours_is_not_counted_whatever_the_classifier_says() {
    let layer = CircuitBreakerLayer::builder().classify(every_error_is_a_failure);
    let layer = layer.build().unwrap();
    for rejection in NOT_SENT {
        let outcome = Err(Error::Rejected(rejection));
        let _same = layer.layer(service_fn(echo)).oneshot(outcome).await;
    }
    assert_eq!(layer.circuit().snapshot().calls, 0);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_of_ours_is_a_failure_whatever_the_classifier_says() {
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
async fn a_rejection_of_ours_is_not_retried_whatever_the_classifier_says() {
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

// One layer, one circuit.

#[tokio::test(start_paused = true)]
async fn one_layer_value_is_one_breaker_however_often_it_is_applied() {
    let layer = brittle();
    let other = layer.layer(service_fn(|()| ready(Ok::<_, Failure>(()))));
    // As axum does: the layer is applied for each connection.
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

// Readiness.

#[tokio::test(start_paused = true)]
async fn an_open_circuit_rejects_at_once_over_a_service_that_is_never_ready() {
    let layer = brittle();
    let open = trip(layer.circuit());
    let (mock, mut handle) = tower_test::mock::pair::<(), ()>();
    handle.allow(0);
    let mut service = Spawn::new(layer.layer(mock));
    assert_ready_ok!(service.poll_ready());
    let mut call = spawn(service.call(()));
    assert_eq!(retry_after(&assert_ready!(call.poll())), Some(open));
}

#[tokio::test(start_paused = true)]
async fn an_open_circuit_does_not_ready_the_inner_service() {
    let slots = Arc::new(Semaphore::new(1));
    let limited = ConcurrencyLimit::with_semaphore(service_fn(echo), slots.clone());
    let layer = brittle();
    trip(layer.circuit());
    let mut service = Spawn::new(layer.layer(limited));
    assert_ready_ok!(service.poll_ready());
    assert_eq!(slots.available_permits(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_closed_circuit_is_as_ready_as_the_inner_service() {
    let (mock, mut handle) = tower_test::mock::pair::<(), ()>();
    handle.allow(0);
    let mut service = Spawn::new(brittle().layer(mock));
    let before = service.poll_ready();
    handle.allow(1);
    assert!(before.is_pending() && service.poll_ready().is_ready());
}

#[tokio::test(start_paused = true)]
async fn an_instance_polled_while_open_rejects_though_the_circuit_was_reset() {
    let layer = brittle();
    trip(layer.circuit());
    // It panics when called unready.
    let (mock, mut handle) = tower_test::mock::pair::<(), ()>();
    handle.allow(0);
    let mut service = Spawn::new(layer.layer(mock));
    assert_ready_ok!(service.poll_ready());
    layer.circuit().reset();
    let outcome = service.call(()).await;
    assert!(outcome.unwrap_err().rejection().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_rejection_says_what_remained_when_readiness_was_asked_for() {
    let layer = brittle();
    let open = trip(layer.circuit());
    let mut service = Spawn::new(layer.layer(service_fn(echo)));
    advance(100 * MS).await;
    assert_ready_ok!(service.poll_ready());
    advance(100 * MS).await;
    let outcome = service.call(Ok(())).await;
    assert_eq!(retry_after(&outcome), Some(open.saturating_sub(100 * MS)));
}

#[tokio::test(start_paused = true)]
async fn an_instance_readied_before_the_circuit_opened_is_rejected() {
    let layer = brittle();
    let mut service = Spawn::new(layer.layer(service_fn(echo)));
    assert_ready_ok!(service.poll_ready());
    let open = trip(layer.circuit());
    let outcome = service.call(Ok(())).await;
    assert_eq!(retry_after(&outcome), Some(open));
}

#[tokio::test(start_paused = true)]
async fn ready_clones_that_are_never_called_hold_no_probe() {
    let layer = brittle();
    trip_and_wait(layer.circuit()).await;
    let idle = [(); 10].map(|()| {
        let mut clone = Spawn::new(layer.layer(service_fn(echo)));
        assert_ready_ok!(clone.poll_ready());
        clone
    });
    let outcome = layer.layer(service_fn(echo)).oneshot(Ok(())).await;
    drop(idle);
    assert_eq!(outcome, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_ready_clone_that_comes_after_the_last_probe_is_rejected() {
    let layer = brittle();
    trip_and_wait(layer.circuit()).await;
    let mut late = Spawn::new(layer.layer(service_fn(echo)));
    assert_ready_ok!(late.poll_ready());
    let _probe = layer.circuit().try_acquire().unwrap();
    assert_eq!(retry_after(&late.call(Ok(())).await), None);
}

#[tokio::test]
#[should_panic(expected = "poll_ready must be called before call")]
async fn a_call_without_poll_ready_panics() {
    let _call = brittle().layer(service_fn(echo)).call(Ok(()));
}

#[tokio::test]
#[should_panic(expected = "poll_ready must be called before call")]
async fn one_poll_ready_is_for_one_call() {
    let mut service = brittle().layer(service_fn(echo));
    let _call = service.ready().await.unwrap().call(Ok(()));
    let _call = service.call(Ok(()));
}

#[tokio::test]
#[should_panic(expected = "poll_ready must be called before call")]
async fn a_clone_of_a_ready_service_is_not_ready() {
    let mut service = brittle().layer(service_fn(echo));
    let _call = service.ready().await.unwrap().clone().call(Ok(()));
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "poll_ready must be called before call")]
async fn a_clone_of_a_rejecting_service_is_not_ready() {
    let layer = brittle();
    trip(layer.circuit());
    let mut service = layer.layer(service_fn(echo));
    let _call = service.ready().await.unwrap().clone().call(Ok(()));
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "poll_ready must be called before call")]
async fn an_instance_that_became_unready_forgets_that_it_was_ready() {
    let layer = brittle_not_ready();
    let mut service = Spawn::new(layer.layer(service_fn(echo)));
    assert_ready_ok!(service.poll_ready());
    trip(layer.circuit());
    assert_pending!(service.poll_ready());
    let _call = service.call(Ok(()));
}

// Not ready while open.

#[tokio::test(start_paused = true)]
async fn an_instance_that_waits_sleeps_up_to_the_last_millisecond() {
    let layer = brittle_not_ready();
    let open = trip(layer.circuit());
    let mut service = Spawn::new(layer.layer(service_fn(echo)));
    assert_pending!(service.poll_ready());
    advance(just_before(open)).await;
    assert!(!service.is_woken());
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_waits_is_woken_at_the_end_of_the_open_time() {
    let layer = brittle_not_ready();
    let open = trip(layer.circuit());
    let mut service = Spawn::new(layer.layer(service_fn(echo)));
    assert_pending!(service.poll_ready());
    advance(open).await;
    assert!(service.is_woken());
    assert_ready_ok!(service.poll_ready());
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_waits_is_woken_by_a_reset() {
    let layer = brittle_not_ready();
    layer.circuit().force_open();
    let mut service = Spawn::new(layer.layer(service_fn(echo)));
    assert_pending!(service.poll_ready());
    layer.circuit().reset();
    assert!(service.is_woken());
    assert_ready_ok!(service.poll_ready());
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_waits_is_woken_when_the_circuit_is_forced_closed() {
    let layer = brittle_not_ready();
    trip(layer.circuit());
    let mut service = Spawn::new(layer.layer(service_fn(echo)));
    assert_pending!(service.poll_ready());
    layer.circuit().force_closed();
    assert!(service.is_woken());
    assert_ready_ok!(service.poll_ready());
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_waits_is_woken_by_a_probe_that_is_given_back() {
    let layer = brittle_not_ready();
    trip_and_wait(layer.circuit()).await;
    let mut probe = spawn(layer.layer(service_fn(hang)).oneshot(()));
    assert_pending!(probe.poll());
    let mut service = Spawn::new(layer.layer(service_fn(echo)));
    assert_pending!(service.poll_ready());
    drop(probe);
    assert!(service.is_woken());
    assert_ready_ok!(service.poll_ready());
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_waits_is_woken_when_a_probe_closes_the_circuit() {
    let layer = brittle_not_ready();
    trip_and_wait(layer.circuit()).await;
    let probe = layer.circuit().try_acquire().unwrap();
    let mut service = Spawn::new(layer.layer(service_fn(echo)));
    assert_pending!(service.poll_ready());
    probe.settle(Verdict::Healthy);
    assert!(service.is_woken());
    assert_ready_ok!(service.poll_ready());
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_waits_is_woken_when_the_lease_lapses() {
    let layer = brittle_not_ready();
    trip_and_wait(layer.circuit()).await;
    let _hung = layer.circuit().try_acquire().unwrap();
    advance(10 * SECOND).await;
    let mut service = Spawn::new(layer.layer(service_fn(echo)));
    assert_pending!(service.poll_ready());
    advance(20 * SECOND).await; // 30 s from the issue of the probe
    assert!(service.is_woken());
    assert_ready_ok!(service.poll_ready());
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_waits_follows_a_reopening() {
    let layer = brittle_not_ready();
    trip_and_wait(layer.circuit()).await;
    let probe = layer.circuit().try_acquire().unwrap();
    let mut service = Spawn::new(layer.layer(service_fn(echo)));
    assert_pending!(service.poll_ready());
    probe.settle(Verdict::TRANSIENT);
    assert_pending!(service.poll_ready());
    advance(layer.circuit().snapshot().retry_after.unwrap()).await;
    assert!(service.is_woken());
    assert_ready_ok!(service.poll_ready());
}

#[tokio::test(start_paused = true)]
async fn instances_that_have_waited_hold_no_probe() {
    let layer = brittle_not_ready();
    let open = trip(layer.circuit());
    let mut waiting = [(); 10].map(|()| Spawn::new(layer.layer(service_fn(echo))));
    for service in &mut waiting {
        assert_pending!(service.poll_ready());
    }
    advance(open).await;
    for service in &mut waiting {
        assert_ready_ok!(service.poll_ready());
    }
    assert!(layer.circuit().try_acquire().is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_waits_does_not_ready_the_inner_service() {
    let slots = Arc::new(Semaphore::new(1));
    let limited = ConcurrencyLimit::with_semaphore(service_fn(echo), slots.clone());
    let layer = brittle_not_ready();
    trip(layer.circuit());
    let mut service = Spawn::new(layer.layer(limited));
    assert_pending!(service.poll_ready());
    assert_eq!(slots.available_permits(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_moves_to_another_task_is_woken_there_by_time() {
    let layer = brittle_not_ready();
    let open = trip(layer.circuit());
    let mut service = layer.layer(service_fn(echo));
    let (mut before, mut after) = (spawn(()), spawn(()));
    assert_pending!(before.enter(|cx, _| service.poll_ready(cx)));
    assert_pending!(after.enter(|cx, _| service.poll_ready(cx)));
    advance(open).await;
    assert!(after.is_woken());
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_moves_to_another_task_is_woken_there_by_a_reset() {
    let layer = brittle_not_ready();
    trip(layer.circuit());
    let mut service = layer.layer(service_fn(echo));
    let (mut before, mut after) = (spawn(()), spawn(()));
    assert_pending!(before.enter(|cx, _| service.poll_ready(cx)));
    assert_pending!(after.enter(|cx, _| service.poll_ready(cx)));
    layer.circuit().reset();
    assert!(after.is_woken());
}

/// Sends 400 calls through a balancer over five endpoints, each behind a breaker of its own, the
/// first of which is down. How many calls a breaker rejected.
async fn rejected_below_a_balancer(when_open: WhenOpen) -> usize {
    let endpoints = [0, 1, 2, 3, 4].map(|endpoint| {
        let layer = CircuitBreakerLayer::builder().consecutive_failures(1);
        let layer = layer.open_for(3_600 * SECOND).when_open(when_open);
        let answer = service_fn(move |()| async move {
            if endpoint == 0 {
                return Err(BoxError::from("down"));
            }
            sleep(10 * MS).await;
            Ok(())
        });
        let service = layer.build().unwrap().layer(answer);
        PendingRequests::new(service, CompleteOnResponse::default())
    });
    let mut balance = Balance::new(ServiceList::new(endpoints));
    let mut calls = JoinSet::new();
    for call in 0..400 {
        // Twenty at a time, so that those who answer are seen to be busy.
        if call % 20 == 0 {
            sleep(10 * MS).await;
        }
        calls.spawn(balance.ready().await.unwrap().call(()));
        yield_now().await;
    }
    let errors = calls.join_all().await.into_iter().filter_map(Result::err);
    let rejected = errors.filter(|error| error.rejection().is_some());
    rejected.count()
}

#[tokio::test(start_paused = true)]
async fn below_a_balancer_a_breaker_that_is_not_ready_rejects_no_call() {
    assert_eq!(rejected_below_a_balancer(WhenOpen::NotReady).await, 0);
}

#[tokio::test(start_paused = true)]
async fn below_a_balancer_a_breaker_that_rejects_attracts_more_than_its_share() {
    let rejected = rejected_below_a_balancer(WhenOpen::Reject).await;
    assert!(rejected > 400 / 5, "{rejected} of 400 calls to 5 endpoints");
}

// Events.

/// What named circuits have told of and no test has looked at: the circuit, and the event in one
/// line.
static TOLD: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());

struct Capture;

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Capture {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        if metadata.target() != "buttress::circuit_breaker" {
            return;
        }
        let mut line = Line {
            circuit: String::new(),
            text: format!("{} {}", metadata.level(), metadata.name()),
        };
        event.record(&mut line);
        TOLD.lock().unwrap().push((line.circuit, line.text));
    }
}

struct Line {
    circuit: String,
    text: String,
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "name" {
            value.clone_into(&mut self.circuit);
        } else {
            write!(self.text, " {field}={value}").unwrap();
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() != "message" {
            write!(self.text, " {field}={value:?}").unwrap();
        }
    }
}

/// For every test of this program: a callsite that another test meets first is not lost to those
/// that look at events. Each of them names its circuit.
static CAPTURED: LazyLock<()> = LazyLock::new(|| {
    let subscriber = tracing_subscriber::registry().with(Capture);
    tracing::subscriber::set_global_default(subscriber).unwrap();
    tracing::callsite::rebuild_interest_cache();
});

/// As `brittle`, with its events captured under this name.
fn captured(name: &str) -> CircuitBreakerLayer {
    LazyLock::force(&CAPTURED);
    let layer = CircuitBreakerLayer::builder().consecutive_failures(1);
    layer.probes(1).name(name).build().unwrap()
}

/// What a circuit has told of since this was last asked.
fn told_by(name: &str) -> Vec<String> {
    let mut told = TOLD.lock().unwrap();
    let mine = |(circuit, _): &(String, String)| circuit == name;
    let (of_name, others): (Vec<_>, Vec<_>) = told.drain(..).partition(mine);
    *told = others;
    of_name.into_iter().map(|(_, line)| line).collect()
}

#[tokio::test(start_paused = true)]
async fn a_failure_rate_that_opens_the_circuit_is_told_with_its_counts() {
    LazyLock::force(&CAPTURED);
    let layer = CircuitBreakerLayer::builder().min_calls(4).name("rate");
    let layer = layer.build().unwrap();
    for outcome in [Ok(()), Ok(()), Err(DOWN), Err(DOWN)] {
        let _same = layer.layer(service_fn(echo)).oneshot(outcome).await;
    }
    let line =
        "WARN opened from=closed to=open reason=failure_rate calls=4 failures=2 slow_calls=0";
    assert_eq!(told_by("rate"), [line]);
}

#[tokio::test(start_paused = true)]
async fn a_slow_rate_that_opens_the_circuit_is_told_with_its_counts() {
    LazyLock::force(&CAPTURED);
    let layer = CircuitBreakerLayer::builder().min_calls(2).name("slow");
    let layer = layer.slow_calls(SECOND, 1.0).build().unwrap();
    let permits = [(); 2].map(|()| layer.circuit().try_acquire().unwrap());
    advance(SECOND).await;
    for permit in permits {
        permit.settle(Verdict::Healthy);
    }
    let line = "WARN opened from=closed to=open reason=slow_calls calls=2 failures=0 slow_calls=2";
    assert_eq!(told_by("slow"), [line]);
}

#[tokio::test(start_paused = true)]
async fn a_way_through_all_states_is_told_once_for_each_transition() {
    LazyLock::force(&CAPTURED);
    let layer = CircuitBreakerLayer::builder().consecutive_failures(2);
    let layer = layer.probes(3).name("way").build().unwrap();
    let circuit = layer.circuit();
    let outcomes = [Verdict::TRANSIENT, Verdict::TRANSIENT, Verdict::Healthy];
    for verdict in outcomes {
        for _ in 0..2 {
            circuit.try_acquire().unwrap().settle(verdict);
        }
        advance(circuit.snapshot().retry_after.unwrap_or_default()).await;
    }
    let lines = [
        "WARN opened from=closed to=open reason=consecutive_failures calls=0 failures=0 slow_calls=0",
        "INFO half_opened from=open to=half_open reason=open_time_over calls=0 failures=0 slow_calls=0",
        "WARN opened from=half_open to=open reason=probes_failed calls=2 failures=2 slow_calls=0",
        "INFO half_opened from=open to=half_open reason=open_time_over calls=0 failures=0 slow_calls=0",
        "INFO closed from=half_open to=closed reason=probes_succeeded calls=2 failures=0 slow_calls=0",
    ];
    assert_eq!(told_by("way"), lines);
}

#[tokio::test(start_paused = true)]
async fn a_lapsed_lease_is_told() {
    let layer = captured("lease");
    let circuit = layer.circuit();
    trip_and_wait(circuit).await;
    let _hung = circuit.try_acquire().unwrap();
    told_by("lease");
    advance(30 * SECOND).await;
    let _probe = circuit.try_acquire().unwrap();
    let line = "INFO half_opened from=half_open to=half_open reason=lease_lapsed calls=0 failures=0 slow_calls=0";
    assert_eq!(told_by("lease"), [line]);
}

#[tokio::test(start_paused = true)]
async fn what_is_done_by_hand_is_told() {
    let layer = captured("hand");
    layer.circuit().force_open();
    layer.circuit().force_closed();
    layer.circuit().reset();
    let lines = [
        "WARN opened from=closed to=forced_open reason=forced calls=0 failures=0 slow_calls=0",
        "INFO closed from=forced_open to=forced_closed reason=forced calls=0 failures=0 slow_calls=0",
        "INFO closed from=forced_closed to=closed reason=reset calls=0 failures=0 slow_calls=0",
    ];
    assert_eq!(told_by("hand"), lines);
}

#[tokio::test(start_paused = true)]
async fn a_rejection_is_told_with_the_time_that_remains() {
    let layer = captured("rejected");
    let open = trip(layer.circuit());
    told_by("rejected");
    let _rejected = layer.layer(service_fn(echo)).oneshot(Ok(())).await;
    let line = format!("DEBUG rejected retry_after_ms={}", open.as_millis());
    assert_eq!(told_by("rejected"), [line]);
}

#[tokio::test(start_paused = true)]
async fn a_rejection_without_a_time_is_told_without_one() {
    let layer = captured("forced");
    layer.circuit().force_open();
    told_by("forced");
    let _rejected = layer.layer(service_fn(echo)).oneshot(Ok(())).await;
    assert_eq!(told_by("forced"), ["DEBUG rejected"]);
}

#[tokio::test(start_paused = true)]
async fn stale_outcomes_are_not_told() {
    let layer = captured("stale");
    let circuit = layer.circuit();
    let [good, bad, cancelled] = [(); 3].map(|()| circuit.try_acquire().unwrap());
    trip_and_wait(circuit).await;
    let _probe = circuit.try_acquire().unwrap();
    told_by("stale");
    good.settle(Verdict::Healthy);
    bad.settle(Verdict::TRANSIENT);
    advance(SECOND).await;
    drop(cancelled);
    assert_eq!(told_by("stale"), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn reading_the_state_is_not_told() {
    let layer = captured("read");
    trip_and_wait(layer.circuit()).await;
    told_by("read");
    let seen = (layer.circuit().state(), layer.circuit().snapshot().state);
    assert_eq!(seen, (CircuitState::HalfOpen, CircuitState::HalfOpen));
    assert_eq!(told_by("read"), [""; 0]);
}

#[test]
fn failures_of_many_threads_that_open_the_circuit_are_told_once() {
    let layer = captured("threads");
    for _ in 0..100 {
        let permits = [(); 4].map(|()| layer.circuit().try_acquire().unwrap());
        let together = Barrier::new(permits.len());
        thread::scope(|threads| {
            for permit in permits {
                threads.spawn(|| {
                    together.wait();
                    permit.settle(Verdict::TRANSIENT);
                });
            }
        });
        let told = told_by("threads");
        assert_eq!(told.len(), 1, "{told:?}");
        layer.circuit().reset();
        told_by("threads");
    }
}
