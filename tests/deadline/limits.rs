//! Deadlines under a rate limit and a load shed.

use super::Answer::Answers;
use super::{
    Callee, FULL, HOUR, NANO, SECOND, TICK, bare, by, ends, last_instant, limited, shed, within,
};
use crate::events;
use buttress::http::InExtensions;
use buttress::{Deadline, LoadShedLayer, Quota, RateLimitLayer};
use std::time::Duration;
use tokio::time::{Instant, advance};
use tokio_test::{assert_pending, assert_ready, task};
use tower::{Layer, Service, ServiceExt};

// Rate limit

/// One call a second, for which others wait as long as it takes.
fn limit() -> RateLimitLayer<(), InExtensions> {
    let builder = RateLimitLayer::builder(Quota::per_second(1));
    let builder = builder.max_wait(Duration::MAX).carrier(InExtensions);
    let layer = builder.build().unwrap();
    layer.limiter().try_acquire(1).unwrap();
    layer
}

#[tokio::test(start_paused = true)]
async fn a_turn_after_the_deadline_is_refused_at_once() {
    let service = limit().layer(Callee::new(Answers).service());
    let ended = ends(service.oneshot(within(SECOND / 2))).await;
    assert_eq!(ended, (limited(SECOND), Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_comes_with_the_deadline_is_refused() {
    let service = limit().layer(Callee::new(Answers).service());
    let ended = ends(service.oneshot(within(SECOND))).await;
    assert_eq!(ended, (limited(SECOND), Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_turn_just_before_the_deadline_is_waited_for() {
    let callee = Callee::new(Answers);
    let service = limit().layer(callee.service());
    assert_eq!(service.oneshot(within(SECOND + NANO)).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_turn_refused_for_the_deadline_is_the_next_callers() {
    let layer = limit();
    let service = layer.layer(Callee::new(Answers).service());
    let _refused = service.clone().oneshot(within(SECOND / 2)).await;
    let (outcome, took) = ends(service.oneshot(bare())).await;
    assert_eq!((outcome, took < SECOND + 2 * TICK), (Ok(()), true));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_has_passed_refuses_a_turn_that_has_to_be_waited_for() {
    let service = limit().layer(Callee::new(Answers).service());
    let late = within(Duration::ZERO);
    advance(SECOND / 4).await;
    let ended = ends(service.oneshot(late)).await;
    assert_eq!(ended, (limited(SECOND * 3 / 4), Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_before_the_limiters_own_beginning_refuses_a_wait() {
    let before = Deadline::at(Instant::now());
    advance(SECOND).await;
    let service = limit().layer(Callee::new(Answers).service());
    let ended = ends(service.oneshot(by(before))).await;
    assert_eq!(ended, (limited(SECOND), Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_has_come_is_not_measured_by_the_deadline() {
    let callee = Callee::new(Answers);
    let layer = limit();
    advance(2 * SECOND).await;
    let service = layer.layer(callee.service());
    assert_eq!(service.oneshot(within(Duration::ZERO)).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_far_deadline_does_not_lengthen_the_wait_for_a_turn() {
    let builder = RateLimitLayer::builder(Quota::per_second(1)).max_wait(SECOND / 2);
    let layer = builder.carrier(InExtensions).build().unwrap();
    layer.limiter().try_acquire(1).unwrap();
    let service = layer.layer(Callee::new(Answers).service());
    let ended = ends(service.oneshot(within(HOUR))).await;
    assert_eq!(ended, (limited(SECOND), Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn deadlines_at_the_end_of_time_let_a_turn_be_waited_for() {
    for deadline in [Deadline::NEVER, Deadline::at(last_instant())] {
        let service = limit().layer(Callee::new(Answers).service());
        assert_eq!(service.oneshot(by(deadline)).await, Ok(()), "{deadline:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_without_a_carrier_sees_no_deadline() {
    let builder = RateLimitLayer::builder(Quota::per_second(1)).max_wait(Duration::MAX);
    let layer = builder.build().unwrap();
    layer.limiter().try_acquire(1).unwrap();
    let service = layer.layer(Callee::new(Answers).service());
    assert_eq!(service.oneshot(within(SECOND / 2)).await, Ok(()));
}

// Load shed

#[tokio::test(start_paused = true)]
async fn a_wait_in_the_queue_ends_with_the_deadline() {
    let layer = shed();
    let _slot = layer.limit().try_acquire().unwrap();
    let service = layer.layer(Callee::new(Answers).service());
    let ended = ends(service.oneshot(within(SECOND))).await;
    assert_eq!(ended, (FULL, SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_far_deadline_does_not_lengthen_the_wait_in_the_queue() {
    let layer = shed();
    let _slot = layer.limit().try_acquire().unwrap();
    let service = layer.layer(Callee::new(Answers).service());
    let ended = ends(service.oneshot(within(HOUR / 2))).await;
    assert_eq!(ended, (FULL, 60 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_call_past_its_deadline_does_not_enter_the_queue() {
    let layer = shed();
    let _slot = layer.limit().try_acquire().unwrap();
    let mut service = layer.layer(Callee::new(Answers).service());
    let _call = service.ready().await.unwrap().call(within(Duration::ZERO));
    assert_eq!(layer.limit().snapshot().waiting, 0);
}

#[test]
fn a_call_past_its_deadline_is_shed_without_a_timer_and_a_runtime() {
    let layer = shed();
    let _slot = layer.limit().try_acquire().unwrap();
    let service = layer.layer(Callee::new(Answers).service());
    let mut call = task::spawn(service.oneshot(by(Deadline::at(Instant::now()))));
    assert_eq!(assert_ready!(call.poll()), FULL);
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_is_free_is_not_measured_by_the_deadline() {
    let service = shed().layer(Callee::new(Answers).service());
    assert_eq!(service.oneshot(within(Duration::ZERO)).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_comes_with_the_deadline_wins() {
    let layer = shed();
    let slot = layer.limit().try_acquire().unwrap();
    let service = layer.layer(Callee::new(Answers).service());
    let mut call = task::spawn(service.oneshot(within(SECOND)));
    assert_pending!(call.poll());
    advance(SECOND).await;
    drop(slot);
    assert_eq!(assert_ready!(call.poll()), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_may_be_waited_in_for_ever_ends_with_the_deadline() {
    let builder = LoadShedLayer::builder(1).queue(9, Duration::MAX);
    let layer = builder.carrier(InExtensions).build().unwrap();
    let _slot = layer.limit().try_acquire().unwrap();
    let service = layer.layer(Callee::new(Answers).service());
    let ended = ends(service.oneshot(within(SECOND))).await;
    assert_eq!(ended, (FULL, SECOND));
}

#[tokio::test(start_paused = true)]
async fn deadlines_at_the_end_of_time_let_a_slot_be_waited_for() {
    for deadline in [Deadline::NEVER, Deadline::at(last_instant())] {
        let builder = LoadShedLayer::builder(1).queue(9, Duration::MAX);
        let layer = builder.carrier(InExtensions).build().unwrap();
        let slot = layer.limit().try_acquire().unwrap();
        let service = layer.layer(Callee::new(Answers).service());
        let mut call = task::spawn(service.oneshot(by(deadline)));
        assert_pending!(call.poll());
        drop(slot);
        assert_eq!(assert_ready!(call.poll()), Ok(()), "{deadline:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_deadline_is_told_as_the_reason_of_a_wait_that_it_ended() {
    for time in [Duration::ZERO, SECOND] {
        let layer = shed();
        let _slot = layer.limit().try_acquire().unwrap();
        let service = layer.layer(Callee::new(Answers).service());
        assert_eq!(
            events::of(service.oneshot(within(time))).await,
            [r#"DEBUG buttress::load_shed overloaded reason="deadline" limit=1"#],
            "{time:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_load_shed_without_a_carrier_sees_no_deadline() {
    let layer = LoadShedLayer::builder(1).queue(9, 2 * SECOND);
    let layer = layer.build().unwrap();
    let _slot = layer.limit().try_acquire().unwrap();
    let service = layer.layer(Callee::new(Answers).service());
    let ended = ends(service.oneshot(within(SECOND))).await;
    assert_eq!(ended, (FULL, 2 * SECOND));
}
