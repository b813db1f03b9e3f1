//! Futures that are kept after they completed, and the resources that a call releases.

use super::{Fine, SECOND};
use buttress::{ErrorLayer, LoadShedLayer, TimeoutLayer};
use std::convert::Infallible;
use tokio::time::sleep;
use tokio_test::task;
use tower::limit::ConcurrencyLimit;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

// Futures that are kept after they completed

#[tokio::test(start_paused = true)]
async fn a_completed_call_through_a_load_shed_releases_the_inner_permit() {
    let limited = ConcurrencyLimit::new(Fine, 1);
    let mut other = limited.clone();
    let mut service = LoadShedLayer::new(9).layer(limited);
    let mut call = Box::pin(service.ready().await.unwrap().call(()));
    (&mut call).await.unwrap();
    let readied = task::spawn(()).enter(|cx, _| other.poll_ready(cx));
    assert!(readied.is_ready());
}

#[tokio::test(start_paused = true)]
async fn the_timer_of_a_completed_call_does_not_wake_its_task() {
    let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
    let mut receiver = Some(receiver);
    let mut service = ServiceBuilder::new()
        .layer(TimeoutLayer::new(SECOND))
        .layer(ErrorLayer)
        .service(service_fn(move |()| receiver.take().unwrap()));
    let mut call = task::spawn(service.ready().await.unwrap().call(()));
    assert!(call.poll().is_pending());
    sender.send(()).unwrap();
    assert!(call.poll().is_ready());
    let woken_by_the_response = call.is_woken();
    sleep(2 * SECOND).await;
    assert_eq!(call.is_woken(), woken_by_the_response);
}

#[tokio::test(start_paused = true)]
async fn the_timer_of_a_finished_wait_does_not_wake_its_task() {
    let (mock, mut handle) = tower_test::mock::pair::<(), ()>();
    handle.allow(0);
    let mut service = TimeoutLayer::new(SECOND).layer(mock);
    let mut task = task::spawn(());
    let mut poll = || task.enter(|cx, _| Service::<()>::poll_ready(&mut service, cx));
    assert!(poll().is_pending());
    handle.allow(1);
    assert!(poll().is_ready());
    sleep(2 * SECOND).await;
    assert!(!task.is_woken());
}

// Resources of a completed call

#[tokio::test(start_paused = true)]
async fn a_completed_call_releases_the_inner_permit_even_if_its_future_is_kept() {
    let slow = service_fn(|()| async {
        sleep(SECOND).await;
        Ok::<_, Infallible>(())
    });
    let timeout = TimeoutLayer::new(60 * SECOND);
    let mut service = timeout.layer(ErrorLayer.layer(ConcurrencyLimit::new(slow, 1)));
    let mut kept = Box::pin(service.ready().await.unwrap().call(()));
    assert_eq!(kept.as_mut().await, Ok(()));
    assert_eq!(service.ready().await.unwrap().call(()).await, Ok(()));
}
