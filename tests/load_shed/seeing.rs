//! Snapshots and events.

use super::{SECOND, around_strict, queueing};
use crate::events;
use crate::strict::{call, poll_ready};
use buttress::LoadShedLayer;
use tokio::time;
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok};
use tower::Service;

#[tokio::test(start_paused = true)]
async fn a_snapshot_counts_calls_in_flight_and_waiting() {
    let layer = queueing(2, 5);
    let (mut service, _handle) = around_strict(&layer);
    let _calls = [1, 2, 3, 4, 5].map(|req| call(&mut service, req));
    let snapshot = layer.limit().snapshot();
    assert_eq!(
        (snapshot.limit, snapshot.in_flight, snapshot.waiting),
        (2, 2, 3)
    );
}

#[test]
fn a_snapshot_shows_the_name() {
    let layer = LoadShedLayer::builder(1).name("payments").build().unwrap();
    assert_eq!(layer.limit().snapshot().name.as_str(), Some("payments"));
}

#[tokio::test]
async fn a_call_over_the_limit_emits_an_event() {
    let layer = LoadShedLayer::builder(1).name("payments").build().unwrap();
    let (mut service, _handle) = around_strict(&layer);
    let events = events::of(async {
        let (_one, _two) = (call(&mut service, 1), call(&mut service, 2));
    })
    .await;
    assert_eq!(
        events,
        [r#"DEBUG buttress::load_shed overloaded name="payments" reason="full" limit=1"#]
    );
}

#[tokio::test]
async fn a_call_over_a_limit_reached_after_poll_ready_emits_an_event() {
    let layer = LoadShedLayer::new(1);
    let (mut service, _handle) = around_strict(&layer);
    assert_ready_ok!(poll_ready(&mut service));
    let _slot = layer.limit().try_acquire().unwrap();
    let events = events::of(async { drop(service.call(1)) }).await;
    assert_eq!(
        events,
        [r#"DEBUG buttress::load_shed overloaded reason="full" limit=1"#]
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_beyond_the_queue_emits_an_event() {
    let (mut service, _handle) = around_strict(&queueing(1, 1));
    let events = events::of(async {
        let _calls = [1, 2, 3].map(|req| call(&mut service, req));
    })
    .await;
    assert_eq!(
        events,
        [r#"DEBUG buttress::load_shed overloaded reason="full" limit=1"#]
    );
}

#[tokio::test]
async fn a_call_rejected_for_the_inner_service_emits_an_event() {
    let (mut service, mut handle) = around_strict(&LoadShedLayer::new(3));
    handle.allow(0);
    let events = events::of(async { drop(call(&mut service, 1)) }).await;
    assert_eq!(
        events,
        [r#"DEBUG buttress::load_shed overloaded reason="inner_not_ready" limit=3"#]
    );
}

#[tokio::test(start_paused = true)]
async fn a_waiter_rejected_for_the_inner_service_emits_an_event() {
    let (mut service, mut handle) = around_strict(&queueing(1, 1));
    let first = call(&mut service, 1);
    let mut waiter = call(&mut service, 2);
    handle.allow(0);
    drop(first);
    let events = events::of(async {
        assert_ready_err!(waiter.poll());
    })
    .await;
    assert_eq!(
        events,
        [r#"DEBUG buttress::load_shed overloaded reason="inner_not_ready" limit=1"#]
    );
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_waited_too_long_emits_an_event() {
    let (mut service, _handle) = around_strict(&queueing(1, 1));
    let _first = call(&mut service, 1);
    let mut waiter = call(&mut service, 2);
    assert_pending!(waiter.poll());
    time::advance(SECOND).await;
    let events = events::of(async {
        assert_ready_err!(waiter.poll());
    })
    .await;
    assert_eq!(
        events,
        [r#"DEBUG buttress::load_shed overloaded reason="waited_too_long" limit=1"#]
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_emits_no_event() {
    let (mut service, _handle) = around_strict(&queueing(1, 1));
    let events = events::of(async {
        let (_one, mut two) = (call(&mut service, 1), call(&mut service, 2));
        assert_pending!(two.poll());
    })
    .await;
    assert_eq!(events, [""; 0]);
}
