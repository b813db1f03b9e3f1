//! A caller that keeps a future after it is done, and what is left of a call.

use super::{Fine, SECOND};
use buttress::{ErrorLayer, LoadShedLayer, TimeoutLayer};
use std::convert::Infallible;
use tokio::time::sleep;
use tokio_test::task;
use tower::limit::ConcurrencyLimit;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

// A caller that keeps a future after it is done

#[tokio::test(start_paused = true)]
async fn a_load_shed_frees_what_an_answered_call_held() {
    let limited = ConcurrencyLimit::new(Fine, 1);
    let mut other = limited.clone();
    let mut service = LoadShedLayer::new(9).layer(limited);
    let mut call = Box::pin(service.ready().await.unwrap().call(()));
    (&mut call).await.unwrap();
    let readied = task::spawn(()).enter(|cx, _| other.poll_ready(cx));
    assert!(readied.is_ready());
}

#[tokio::test(start_paused = true)]
async fn the_timer_of_an_answered_call_wakes_nobody() {
    let (answer, answered) = tokio::sync::oneshot::channel::<()>();
    let mut answered = Some(answered);
    let mut service = ServiceBuilder::new()
        .layer(TimeoutLayer::new(SECOND))
        .layer(ErrorLayer)
        .service(service_fn(move |()| answered.take().unwrap()));
    let mut call = task::spawn(service.ready().await.unwrap().call(()));
    assert!(call.poll().is_pending());
    answer.send(()).unwrap();
    assert!(call.poll().is_ready());
    let woken_by_the_answer = call.is_woken();
    sleep(2 * SECOND).await;
    assert_eq!(call.is_woken(), woken_by_the_answer);
}

#[tokio::test(start_paused = true)]
async fn the_timer_of_a_wait_that_ended_wakes_nobody() {
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

// What is left of a call

#[tokio::test(start_paused = true)]
async fn what_a_call_held_is_free_with_its_answer_even_if_its_future_is_kept() {
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
