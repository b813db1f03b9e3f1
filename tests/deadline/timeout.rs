//! The `Deadline` type, and the deadlines that a timeout sets.

use super::Behavior::{Hangs, Succeeds};
use super::{
    HOUR, NANO, Outcome, PASSED, Req, SECOND, Upstream, bare, by, ends, last_instant, timed_out,
    timeout, within,
};
use crate::events;
use buttress::http::InExtensions;
use buttress::{Carrier, Deadline, TimeoutLayer};
use std::time::Duration;
use tokio::time::{Instant, advance};
use tokio_test::{assert_pending, assert_ready, assert_ready_ok, task};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_test::mock;

const CENTURY: Duration = Duration::from_secs(100 * 365 * 86_400);

/// The deadline of the request as it reaches the service below a timeout.
async fn seen_below(layer: TimeoutLayer<InExtensions>, request: Req) -> Option<Deadline> {
    let upstream = Upstream::new(Succeeds);
    let outcome = layer.layer(upstream.service()).oneshot(request).await;
    assert_eq!(outcome, Ok(()));
    upstream.seen()[0]
}

// The `Deadline` type

#[tokio::test(start_paused = true)]
async fn a_deadline_reports_the_remaining_time() {
    let deadline = Deadline::after(3 * SECOND);
    advance(SECOND).await;
    assert_eq!(deadline.remaining(), 2 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_has_passed_has_no_remaining_time() {
    let deadline = Deadline::after(SECOND);
    advance(HOUR).await;
    assert_eq!(deadline.remaining(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_after_the_longest_duration_never_comes() {
    assert_eq!(Deadline::after(Duration::MAX), Deadline::NEVER);
}

#[tokio::test(start_paused = true)]
async fn deadline_never_has_the_longest_remaining_time() {
    assert_eq!(Deadline::NEVER.remaining(), Duration::MAX);
}

#[tokio::test(start_paused = true)]
async fn deadline_never_is_later_than_any_instant() {
    assert!(Deadline::NEVER > Deadline::at(Instant::now() + 9 * CENTURY));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_returns_the_instant_it_was_made_from() {
    let instant = Instant::now() + SECOND;
    assert_eq!(Deadline::at(instant).instant(), Some(instant));
}

// The deadline that a timeout sets

#[tokio::test(start_paused = true)]
async fn a_timeout_sets_its_deadline_in_the_request() {
    let own = Deadline::after(SECOND);
    assert_eq!(seen_below(timeout(SECOND), bare()).await, Some(own));
}

#[tokio::test(start_paused = true)]
async fn a_timeout_without_a_carrier_sets_no_deadline() {
    let upstream = Upstream::new(Succeeds);
    let service = TimeoutLayer::new(SECOND).layer(upstream.service());
    service.oneshot(bare()).await.unwrap();
    assert_eq!(upstream.seen(), [None]);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_keeps_an_earlier_deadline() {
    let early = Deadline::after(SECOND);
    let seen = seen_below(timeout(2 * SECOND), by(early)).await;
    assert_eq!(seen, Some(early));
}

#[tokio::test(start_paused = true)]
async fn a_timeout_replaces_a_later_deadline_by_its_own() {
    let own = Deadline::after(SECOND);
    let seen = seen_below(timeout(SECOND), within(2 * SECOND)).await;
    assert_eq!(seen, Some(own));
}

#[tokio::test(start_paused = true)]
async fn a_timeout_replaces_a_deadline_of_never() {
    let own = Deadline::after(SECOND);
    let seen = seen_below(timeout(SECOND), by(Deadline::NEVER)).await;
    assert_eq!(seen, Some(own));
}

#[tokio::test(start_paused = true)]
async fn an_unlimited_timeout_sets_no_deadline() {
    assert_eq!(seen_below(timeout(Duration::MAX), bare()).await, None);
}

#[tokio::test(start_paused = true)]
async fn an_unlimited_timeout_keeps_the_callers_deadline() {
    let early = Deadline::after(SECOND);
    let seen = seen_below(timeout(Duration::MAX), by(early)).await;
    assert_eq!(seen, Some(early));
}

#[tokio::test(start_paused = true)]
async fn waiting_for_readiness_uses_up_time_of_the_deadline() {
    let (mut service, mut handle) =
        mock::spawn_layer::<Req, (), TimeoutLayer<InExtensions>>(timeout(SECOND));
    let own = Deadline::after(SECOND);
    handle.allow(0);
    assert_pending!(service.poll_ready());
    advance(SECOND / 4).await;
    handle.allow(1);
    assert_ready_ok!(service.poll_ready());
    let _call = service.call(bare());
    let (request, _send) = assert_ready!(handle.poll_request()).unwrap();
    assert_eq!(InExtensions.get(&request), Some(own));
}

#[tokio::test(start_paused = true)]
async fn clones_of_a_service_set_their_own_deadlines() {
    let upstream = Upstream::new(Succeeds);
    let service = timeout(SECOND).layer(upstream.service());
    service.clone().oneshot(bare()).await.unwrap();
    advance(HOUR).await;
    let own = Deadline::after(SECOND);
    service.clone().oneshot(bare()).await.unwrap();
    assert_eq!(upstream.seen()[1], Some(own));
}

#[tokio::test(start_paused = true)]
async fn a_copy_of_a_request_carries_its_deadline() {
    let deadline = Deadline::after(SECOND);
    assert_eq!(InExtensions.get(&by(deadline).clone()), Some(deadline));
}

// When a timeout ends a call

#[tokio::test(start_paused = true)]
async fn with_a_carrier_the_timeout_starts_at_the_call() {
    let upstream = Upstream::new(Hangs);
    let mut service = timeout(SECOND).layer(upstream.service());
    let call = service.ready().await.unwrap().call(bare());
    advance(SECOND / 4).await;
    assert_eq!(ends(call).await, (timed_out(SECOND), SECOND * 3 / 4));
}

#[tokio::test(start_paused = true)]
async fn the_callers_deadline_ends_the_call_if_it_is_earlier() {
    let upstream = Upstream::new(Hangs);
    let service = timeout(HOUR).layer(upstream.service());
    let ended = ends(service.oneshot(within(SECOND))).await;
    assert_eq!(ended, (PASSED, SECOND));
}

#[tokio::test(start_paused = true)]
async fn the_callers_deadline_does_not_extend_the_timeout() {
    let upstream = Upstream::new(Hangs);
    let service = timeout(SECOND).layer(upstream.service());
    let ended = ends(service.oneshot(within(HOUR))).await;
    assert_eq!(ended, (timed_out(SECOND), SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_equal_to_the_timeout_is_reported_as_the_timeout() {
    let upstream = Upstream::new(Hangs);
    let service = timeout(SECOND).layer(upstream.service());
    let ended = ends(service.oneshot(within(SECOND))).await;
    assert_eq!(ended, (timed_out(SECOND), SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_timeout_without_a_carrier_ignores_deadlines() {
    let upstream = Upstream::new(Hangs);
    let service = TimeoutLayer::new(2 * SECOND).layer(upstream.service());
    let ended = ends(service.oneshot(within(SECOND))).await;
    assert_eq!(ended, (timed_out(2 * SECOND), 2 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_has_passed_rejects_the_call() {
    let upstream = Upstream::new(Succeeds);
    let service = timeout(SECOND).layer(upstream.service());
    let late = within(Duration::ZERO);
    advance(NANO).await;
    assert_eq!(service.oneshot(late).await, PASSED);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_of_exactly_now_has_passed() {
    let upstream = Upstream::new(Succeeds);
    let service = timeout(SECOND).layer(upstream.service());
    assert_eq!(service.oneshot(within(Duration::ZERO)).await, PASSED);
}

#[tokio::test(start_paused = true)]
async fn a_call_past_its_deadline_never_reaches_the_inner_service() {
    let upstream = Upstream::new(Succeeds);
    let service = timeout(SECOND).layer(upstream.service());
    let _rejected = service.oneshot(within(Duration::ZERO)).await;
    assert_eq!(upstream.sent(), 0);
}

#[test]
fn a_deadline_that_has_passed_needs_no_timer_and_no_runtime() {
    let service = timeout(SECOND).layer(Upstream::new(Succeeds).service());
    let mut call = task::spawn(service.oneshot(by(Deadline::at(Instant::now()))));
    assert_eq!(assert_ready!(call.poll()), PASSED);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_of_zero_passes_an_immediate_response_on() {
    let seen = seen_below(timeout(Duration::ZERO), bare()).await;
    assert_eq!(seen, Some(Deadline::after(Duration::ZERO)));
}

#[tokio::test(start_paused = true)]
async fn a_timeout_of_zero_ends_a_call_at_its_first_pending_poll() {
    let service = timeout(Duration::ZERO).layer(Upstream::new(Hangs).service());
    let mut call = task::spawn(service.oneshot(bare()));
    assert_eq!(assert_ready!(call.poll()), timed_out(Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_response_exactly_at_the_deadline_wins() {
    let slow = service_fn(|_: Req| async {
        tokio::time::sleep(SECOND).await;
        Outcome::Ok(())
    });
    let mut call = task::spawn(timeout(HOUR).layer(slow).oneshot(within(SECOND)));
    assert_pending!(call.poll());
    advance(SECOND).await;
    assert_eq!(assert_ready!(call.poll()), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_call_with_unlimited_timeout_and_deadline_goes_on() {
    let service = timeout(Duration::MAX).layer(Upstream::new(Hangs).service());
    let mut call = task::spawn(service.oneshot(by(Deadline::NEVER)));
    assert_pending!(call.poll());
    advance(CENTURY).await;
    assert_pending!(call.poll());
}

#[tokio::test(start_paused = true)]
async fn the_latest_possible_deadline_does_not_end_a_call_early() {
    let service = timeout(Duration::MAX).layer(Upstream::new(Hangs).service());
    let mut call = task::spawn(service.oneshot(by(Deadline::at(last_instant()))));
    assert_pending!(call.poll());
    advance(CENTURY).await;
    assert_pending!(call.poll());
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_passes_emits_one_event() {
    let layer = TimeoutLayer::builder(HOUR).name("payments");
    let layer = layer.carrier(InExtensions).build().unwrap();
    let service = layer.layer(Upstream::new(Hangs).service());
    let events = events::of(service.oneshot(within(SECOND))).await;
    assert_eq!(
        events,
        [r#"DEBUG buttress::timeout deadline_passed name="payments""#]
    );
}

// Nested timeouts

#[tokio::test(start_paused = true)]
async fn an_attempt_ends_at_its_own_timeout_if_that_is_earlier() {
    let inner = timeout(SECOND).layer(Upstream::new(Hangs).service());
    let ended = ends(timeout(2 * SECOND).layer(inner).oneshot(bare())).await;
    assert_eq!(ended, (timed_out(SECOND), SECOND));
}

#[tokio::test(start_paused = true)]
async fn an_attempt_ends_at_the_deadline_if_that_is_earlier() {
    // Send it to the inner timeout directly: an outer timeout would end the call with its own
    // deadline.
    let inner = timeout(2 * SECOND).layer(Upstream::new(Hangs).service());
    let ended = ends(inner.oneshot(within(SECOND))).await;
    assert_eq!(ended, (PASSED, SECOND));
}

#[tokio::test(start_paused = true)]
async fn the_timeout_that_set_the_deadline_reports_it_as_its_own() {
    let inner = timeout(2 * SECOND).layer(Upstream::new(Hangs).service());
    let ended = ends(timeout(SECOND).layer(inner).oneshot(bare())).await;
    assert_eq!(ended, (timed_out(SECOND), SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_set_below_a_timeout_is_not_reported_as_that_timeouts_own() {
    let hurry = service_fn(|mut request: Req| {
        InExtensions.set(&mut request, Deadline::after(SECOND));
        timeout(HOUR)
            .layer(Upstream::new(Hangs).service())
            .oneshot(request)
    });
    let ended = ends(timeout(2 * SECOND).layer(hurry).oneshot(bare())).await;
    assert_eq!(ended, (PASSED, SECOND));
}
