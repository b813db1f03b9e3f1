//! Deadlines and the two limits: rate limit and load shed.

use super::Behavior::Succeeds;
use super::{
    FULL, HOUR, NANO, SECOND, TICK, Upstream, bare, by, ends, last_instant, limited, shed, within,
};
use crate::events;
use buttress::http::InExtensions;
use buttress::{Deadline, LoadShedLayer, Quota, RateLimitLayer};
use std::time::Duration;
use tokio::time::{Instant, advance};
use tokio_test::{assert_pending, assert_ready, task};
use tower::{Layer, Service, ServiceExt};

// Rate limit

/// One call per second; other calls wait without a limit.
fn limit() -> RateLimitLayer<(), InExtensions> {
    let builder = RateLimitLayer::builder(Quota::per_second(1));
    let builder = builder.max_wait(Duration::MAX).carrier(InExtensions);
    let layer = builder.build().unwrap();
    layer.limiter().try_acquire(1).unwrap();
    layer
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_turn_comes_after_the_deadline_is_rejected_at_once() {
    let service = limit().layer(Upstream::new(Succeeds).service());
    let ended = ends(service.oneshot(within(SECOND / 2))).await;
    assert_eq!(ended, (limited(SECOND), Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_turn_comes_exactly_at_the_deadline_is_rejected() {
    let service = limit().layer(Upstream::new(Succeeds).service());
    let ended = ends(service.oneshot(within(SECOND))).await;
    assert_eq!(ended, (limited(SECOND), Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_for_a_turn_just_before_the_deadline() {
    let upstream = Upstream::new(Succeeds);
    let service = limit().layer(upstream.service());
    assert_eq!(service.oneshot(within(SECOND + NANO)).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_turn_rejected_for_the_deadline_goes_to_the_next_caller() {
    let layer = limit();
    let service = layer.layer(Upstream::new(Succeeds).service());
    let _refused = service.clone().oneshot(within(SECOND / 2)).await;
    let (outcome, took) = ends(service.oneshot(bare())).await;
    assert_eq!((outcome, took < SECOND + 2 * TICK), (Ok(()), true));
}

#[tokio::test(start_paused = true)]
async fn a_call_past_its_deadline_does_not_wait_for_a_turn() {
    let service = limit().layer(Upstream::new(Succeeds).service());
    let late = within(Duration::ZERO);
    advance(SECOND / 4).await;
    let ended = ends(service.oneshot(late)).await;
    assert_eq!(ended, (limited(SECOND * 3 / 4), Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_deadline_is_older_than_the_limiter_does_not_wait() {
    let before = Deadline::at(Instant::now());
    advance(SECOND).await;
    let service = limit().layer(Upstream::new(Succeeds).service());
    let ended = ends(service.oneshot(by(before))).await;
    assert_eq!(ended, (limited(SECOND), Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn an_available_turn_is_granted_whatever_the_deadline() {
    let upstream = Upstream::new(Succeeds);
    let layer = limit();
    advance(2 * SECOND).await;
    let service = layer.layer(upstream.service());
    assert_eq!(service.oneshot(within(Duration::ZERO)).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_late_deadline_does_not_lengthen_the_wait_for_a_turn() {
    let builder = RateLimitLayer::builder(Quota::per_second(1)).max_wait(SECOND / 2);
    let layer = builder.carrier(InExtensions).build().unwrap();
    layer.limiter().try_acquire(1).unwrap();
    let service = layer.layer(Upstream::new(Succeeds).service());
    let ended = ends(service.oneshot(within(HOUR))).await;
    assert_eq!(ended, (limited(SECOND), Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn the_latest_possible_deadlines_allow_a_wait_for_a_turn() {
    for deadline in [Deadline::NEVER, Deadline::at(last_instant())] {
        let service = limit().layer(Upstream::new(Succeeds).service());
        assert_eq!(service.oneshot(by(deadline)).await, Ok(()), "{deadline:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_without_a_carrier_ignores_deadlines() {
    let builder = RateLimitLayer::builder(Quota::per_second(1)).max_wait(Duration::MAX);
    let layer = builder.build().unwrap();
    layer.limiter().try_acquire(1).unwrap();
    let service = layer.layer(Upstream::new(Succeeds).service());
    assert_eq!(service.oneshot(within(SECOND / 2)).await, Ok(()));
}

// Load shed

#[tokio::test(start_paused = true)]
async fn a_wait_in_the_queue_ends_with_the_deadline() {
    let layer = shed();
    let _slot = layer.limit().try_acquire().unwrap();
    let service = layer.layer(Upstream::new(Succeeds).service());
    let ended = ends(service.oneshot(within(SECOND))).await;
    assert_eq!(ended, (FULL, SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_late_deadline_does_not_lengthen_the_wait_in_the_queue() {
    let layer = shed();
    let _slot = layer.limit().try_acquire().unwrap();
    let service = layer.layer(Upstream::new(Succeeds).service());
    let ended = ends(service.oneshot(within(HOUR / 2))).await;
    assert_eq!(ended, (FULL, 60 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_call_past_its_deadline_does_not_enter_the_queue() {
    let layer = shed();
    let _slot = layer.limit().try_acquire().unwrap();
    let mut service = layer.layer(Upstream::new(Succeeds).service());
    let _call = service.ready().await.unwrap().call(within(Duration::ZERO));
    assert_eq!(layer.limit().snapshot().waiting, 0);
}

#[test]
fn a_call_past_its_deadline_is_shed_without_a_timer_or_a_runtime() {
    let layer = shed();
    let _slot = layer.limit().try_acquire().unwrap();
    let service = layer.layer(Upstream::new(Succeeds).service());
    let mut call = task::spawn(service.oneshot(by(Deadline::at(Instant::now()))));
    assert_eq!(assert_ready!(call.poll()), FULL);
}

#[tokio::test(start_paused = true)]
async fn an_available_slot_is_granted_whatever_the_deadline() {
    let service = shed().layer(Upstream::new(Succeeds).service());
    assert_eq!(service.oneshot(within(Duration::ZERO)).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_slot_released_exactly_at_the_deadline_is_granted() {
    let layer = shed();
    let slot = layer.limit().try_acquire().unwrap();
    let service = layer.layer(Upstream::new(Succeeds).service());
    let mut call = task::spawn(service.oneshot(within(SECOND)));
    assert_pending!(call.poll());
    advance(SECOND).await;
    drop(slot);
    assert_eq!(assert_ready!(call.poll()), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn an_unlimited_wait_in_the_queue_ends_with_the_deadline() {
    let builder = LoadShedLayer::builder(1).queue(9, Duration::MAX);
    let layer = builder.carrier(InExtensions).build().unwrap();
    let _slot = layer.limit().try_acquire().unwrap();
    let service = layer.layer(Upstream::new(Succeeds).service());
    let ended = ends(service.oneshot(within(SECOND))).await;
    assert_eq!(ended, (FULL, SECOND));
}

#[tokio::test(start_paused = true)]
async fn the_latest_possible_deadlines_allow_a_wait_for_a_slot() {
    for deadline in [Deadline::NEVER, Deadline::at(last_instant())] {
        let builder = LoadShedLayer::builder(1).queue(9, Duration::MAX);
        let layer = builder.carrier(InExtensions).build().unwrap();
        let slot = layer.limit().try_acquire().unwrap();
        let service = layer.layer(Upstream::new(Succeeds).service());
        let mut call = task::spawn(service.oneshot(by(deadline)));
        assert_pending!(call.poll());
        drop(slot);
        assert_eq!(assert_ready!(call.poll()), Ok(()), "{deadline:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_event_for_a_wait_ended_by_the_deadline_names_the_deadline() {
    for time in [Duration::ZERO, SECOND] {
        let layer = shed();
        let _slot = layer.limit().try_acquire().unwrap();
        let service = layer.layer(Upstream::new(Succeeds).service());
        assert_eq!(
            events::of(service.oneshot(within(time))).await,
            [r#"DEBUG buttress::load_shed overloaded reason="deadline" limit=1"#],
            "{time:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_load_shed_without_a_carrier_ignores_deadlines() {
    let layer = LoadShedLayer::builder(1).queue(9, 2 * SECOND);
    let layer = layer.build().unwrap();
    let _slot = layer.limit().try_acquire().unwrap();
    let service = layer.layer(Upstream::new(Succeeds).service());
    let ended = ends(service.oneshot(within(SECOND))).await;
    assert_eq!(ended, (FULL, 2 * SECOND));
}
