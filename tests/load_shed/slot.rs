//! The slot of a call.

use super::{around_strict, rejection};
use crate::strict::{call, next_sent, sent};
use buttress::LoadShedLayer;
use buttress::load_shed::{ConcurrencyLimit, LoadShed};
use std::future::{self};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::Poll;
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok};
use tower::limit::ConcurrencyLimit as TowersLimit;
use tower::{BoxError, Layer, Service, ServiceExt, service_fn};
use tower_test::mock::{self, Handle};

#[tokio::test]
async fn a_call_in_flight_holds_a_slot() {
    let layer = LoadShedLayer::new(1);
    let (mut service, _handle) = around_strict(&layer);
    let _call = call(&mut service, 1);
    assert_eq!(layer.limit().in_flight(), 1);
}

#[tokio::test]
async fn a_successful_call_releases_its_slot_before_the_caller_sees_the_response() {
    let layer = LoadShedLayer::new(1);
    let (mut service, mut handle) = around_strict(&layer);
    let mut call = call(&mut service, 1);
    let (_, response) = next_sent(&mut handle);
    response.send_response(2);
    assert_ready_ok!(call.poll());
    // The future has completed but is not dropped yet.
    assert_eq!(layer.limit().in_flight(), 0);
}

#[tokio::test]
async fn a_failed_call_releases_its_slot_before_the_caller_sees_the_error() {
    let layer = LoadShedLayer::new(1);
    let (mut service, mut handle) = around_strict(&layer);
    let mut call = call(&mut service, 1);
    let (_, response) = next_sent(&mut handle);
    response.send_error("refused");
    assert_ready_err!(call.poll());
    assert_eq!(layer.limit().in_flight(), 0);
}

#[tokio::test]
async fn a_call_that_panics_in_call_releases_its_slot() {
    let layer = LoadShedLayer::new(1);
    let mut service = layer.layer(service_fn(
        |_: u32| -> future::Ready<Result<u32, BoxError>> { panic!("made") },
    ));
    let caller = tokio::spawn(async move { service.ready().await?.call(1).await });
    assert!(caller.await.unwrap_err().is_panic());
    assert_eq!(layer.limit().in_flight(), 0);
}

#[tokio::test]
async fn a_call_that_panics_in_poll_releases_its_slot() {
    let layer = LoadShedLayer::new(1);
    let mut service = layer.layer(service_fn(|_: u32| {
        future::poll_fn(|_| -> Poll<Result<u32, BoxError>> { panic!("polled") })
    }));
    let caller = tokio::spawn(async move { service.ready().await?.call(1).await });
    assert!(caller.await.unwrap_err().is_panic());
    assert_eq!(layer.limit().in_flight(), 0);
}

#[tokio::test]
async fn a_slot_is_released_only_after_the_inner_future_is_dropped() {
    let layer = LoadShedLayer::new(1);
    let seen = Arc::new(AtomicUsize::new(0));
    let mut service = layer.layer(service_fn(|_: u32| {
        let at_drop = OnDrop(layer.limit().clone(), seen.clone());
        async move {
            future::pending::<()>().await;
            drop(at_drop);
            Ok::<u32, BoxError>(1)
        }
    }));
    let mut call = call(&mut service, 1);
    assert_pending!(call.poll());
    drop(call);
    assert_eq!(seen.load(SeqCst), 1);
}

/// Records how many calls are in flight when it is dropped.
struct OnDrop(ConcurrencyLimit, Arc<AtomicUsize>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.1.store(self.0.in_flight(), SeqCst);
    }
}

#[tokio::test]
async fn every_clone_is_admitted_after_a_call_ended_even_one_that_was_shed() {
    let (inner, mut handle) = mock::pair();
    let mut clones = clones_after_a_shed(&LoadShedLayer::new(1), inner, &mut handle);
    for clone in &mut clones {
        drop(call(clone, 3));
    }
    assert_eq!(sent(&mut handle), [3, 3, 3]);
}

#[tokio::test]
async fn every_clone_is_admitted_by_an_inner_limit_of_the_same_size() {
    let (inner, mut handle) = mock::pair();
    let inner = TowersLimit::new(inner, 1);
    let mut clones = clones_after_a_shed(&LoadShedLayer::new(1), inner, &mut handle);
    for clone in &mut clones {
        drop(call(clone, 3));
    }
    assert_eq!(sent(&mut handle), [3, 3, 3]);
}

#[tokio::test]
async fn a_clone_shed_by_an_inner_limit_does_not_capture_its_next_permit() {
    let (inner, mut handle) = mock::pair();
    let inner = TowersLimit::new(inner, 1);
    let mut clones = clones_after_a_shed(&LoadShedLayer::new(8), inner, &mut handle);
    for clone in &mut clones {
        drop(call(clone, 3));
    }
    assert_eq!(sent(&mut handle), [3, 3, 3]);
}

/// Three clones: a fresh one, one whose call has ended, and one whose call was shed in the
/// meantime.
fn clones_after_a_shed<S>(
    layer: &LoadShedLayer,
    inner: S,
    handle: &mut Handle<u32, u32>,
) -> [LoadShed<S>; 3]
where
    S: Service<u32, Response = u32, Error = BoxError> + Clone,
{
    let mut busy = layer.layer(inner);
    let mut idle = busy.clone();
    let mut in_flight = call(&mut busy, 1);
    assert!(rejection(&mut call(&mut idle, 2)).is_some());
    let (_, response) = next_sent(handle);
    response.send_response(1);
    assert_ready_ok!(in_flight.poll());
    [busy.clone(), busy, idle]
}
