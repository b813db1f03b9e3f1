//! When the service is ready.

use super::{
    DOWN, Failure, MS, brittle, brittle_not_ready, echo, retry_after, trip, trip_and_wait,
};
use buttress::StackError;
use buttress::circuit_breaker::CircuitState;
use std::future::Ready;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::Semaphore;
use tokio::time::advance;
use tokio_test::task::spawn;
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok};
use tower::limit::ConcurrencyLimit;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_test::mock::Spawn;

#[tokio::test(start_paused = true)]
async fn an_open_circuit_rejects_at_once_even_if_the_service_is_never_ready() {
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
    // The mock panics if it is called before it is ready.
    let (mock, mut handle) = tower_test::mock::pair::<(), ()>();
    handle.allow(0);
    let mut service = Spawn::new(layer.layer(mock));
    assert_ready_ok!(service.poll_ready());
    layer.circuit().reset();
    let outcome = service.call(()).await;
    assert!(outcome.unwrap_err().rejection().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_rejection_reports_the_open_time_that_remained_at_poll_ready() {
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
async fn a_ready_clone_called_after_the_last_probe_is_rejected() {
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

/// A service whose `poll_ready` always fails.
#[derive(Clone)]
struct Gone;

impl Service<()> for Gone {
    type Response = ();
    type Error = Failure;
    type Future = Ready<Result<(), Failure>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Err(DOWN))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        unreachable!("it is never ready")
    }
}

#[tokio::test(start_paused = true)]
async fn readiness_errors_are_passed_on_and_not_counted() {
    let layer = brittle();
    let mut service = Spawn::new(layer.layer(Gone));
    for _ in 0..100 {
        assert_eq!(assert_ready_err!(service.poll_ready()), DOWN);
    }
    let seen = layer.circuit().snapshot();
    let counted = (seen.state, seen.calls, seen.consecutive_failures);
    assert_eq!(counted, (CircuitState::Closed, 0, Some(0)));
}
