//! Services that are not ready while the circuit is open.

use super::{MS, SECOND, brittle_not_ready, echo, hang, just_before, trip, trip_and_wait};
use buttress::circuit_breaker::{CircuitBreakerLayer, WhenOpen};
use buttress::{StackError, Verdict};
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{advance, sleep};
use tokio_test::task::spawn;
use tokio_test::{assert_pending, assert_ready_ok};
use tower::balance::p2c::Balance;
use tower::discover::ServiceList;
use tower::limit::ConcurrencyLimit;
use tower::load::{CompleteOnResponse, PendingRequests};
use tower::{BoxError, Layer, Service, ServiceExt, service_fn};
use tower_test::mock::Spawn;

#[tokio::test(start_paused = true)]
async fn an_instance_that_waits_is_not_woken_before_the_end_of_the_open_time() {
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
async fn an_instance_that_waits_is_woken_when_a_probe_is_released() {
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
    advance(20 * SECOND).await; // 30 s after the probe was admitted
    assert!(service.is_woken());
    assert_ready_ok!(service.poll_ready());
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_waits_keeps_waiting_if_the_circuit_reopens() {
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

/// Sends 400 calls through a balancer with five endpoints, each behind its own circuit breaker. The
/// first endpoint is down. Returns how many calls the circuit breakers rejected.
async fn rejected_below_a_balancer(when_open: WhenOpen) -> usize {
    let endpoints = [0, 1, 2, 3, 4].map(|endpoint| {
        let layer = CircuitBreakerLayer::builder().consecutive_failures(1);
        let layer = layer.open_for(3_600 * SECOND).when_open(when_open);
        let respond = service_fn(move |()| async move {
            if endpoint == 0 {
                return Err(BoxError::from("down"));
            }
            sleep(10 * MS).await;
            Ok(())
        });
        let service = layer.build().unwrap().layer(respond);
        PendingRequests::new(service, CompleteOnResponse::default())
    });
    let mut balance = Balance::new(ServiceList::new(endpoints));
    let mut calls = JoinSet::new();
    for call in 0..400 {
        // Twenty calls at a time, so that the balancer sees load on the endpoints that respond.
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
async fn below_a_balancer_a_breaker_that_rejects_attracts_too_many_calls() {
    let rejected = rejected_below_a_balancer(WhenOpen::Reject).await;
    assert!(rejected > 400 / 5, "{rejected} of 400 calls to 5 endpoints");
}
