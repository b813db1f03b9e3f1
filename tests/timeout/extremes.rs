//! The longest timeout, a timeout of zero, and calls without a runtime.

use super::{AFTER, BoxError, in_time, rejection, timed};
use buttress::{Name, Rejection, TimeoutLayer};
use std::time::Duration;
use tokio::time::advance;
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};
use tower::{Layer, Service, service_fn};

const CENTURY: Duration = Duration::from_secs(100 * 365 * 86_400);

#[tokio::test(start_paused = true)]
async fn the_longest_timeout_never_ends_a_call() {
    let (mut service, _handle) = timed(Duration::MAX);
    assert_ready_ok!(service.poll_ready());
    let mut call = task::spawn(service.call(()));
    assert_pending!(call.poll());
    advance(CENTURY).await;
    assert_pending!(call.poll());
}

#[tokio::test(start_paused = true)]
async fn the_longest_timeout_never_ends_a_wait() {
    let (mut service, mut handle) = timed(Duration::MAX);
    handle.allow(0);
    assert_pending!(service.poll_ready());
    advance(CENTURY).await;
    assert_pending!(service.poll_ready());
}

#[tokio::test(start_paused = true)]
async fn the_longest_timeout_never_ends_a_call_that_waited() {
    let (mut service, mut handle) = timed(Duration::MAX);
    handle.allow(0);
    assert_pending!(service.poll_ready());
    advance(CENTURY).await;
    handle.allow(1);
    assert_ready_ok!(service.poll_ready());
    let mut call = task::spawn(service.call(()));
    assert_pending!(call.poll());
    advance(CENTURY).await;
    assert_pending!(call.poll());
}

#[tokio::test(start_paused = true)]
async fn a_timeout_of_zero_ends_a_call_at_its_first_pending_poll() {
    let (mut service, _handle) = timed(Duration::ZERO);
    assert_ready_ok!(service.poll_ready());
    let mut call = task::spawn(service.call(()));
    let after = Duration::ZERO;
    assert_eq!(
        rejection(assert_ready!(call.poll())),
        Some(Rejection::TimedOut {
            after,
            by: Name::UNNAMED
        })
    );
}

#[tokio::test(start_paused = true)]
async fn a_timeout_of_zero_passes_an_immediate_response_on() {
    let (mut service, mut handle) = timed(Duration::ZERO);
    assert_ready_ok!(service.poll_ready());
    let mut call = task::spawn(service.call(()));
    let ((), send) = handle.next_request().await.unwrap();
    send.send_response("response");
    assert_eq!(assert_ready_ok!(call.poll()), "response");
}

#[tokio::test(start_paused = true)]
async fn a_timeout_of_zero_rejects_a_call_that_would_have_to_wait() {
    let (mut service, mut handle) = timed(Duration::ZERO);
    handle.allow(0);
    assert_ready_ok!(service.poll_ready());
    let after = Duration::ZERO;
    assert_eq!(
        rejection(in_time(service.call(())).await),
        Some(Rejection::TimedOut {
            after,
            by: Name::UNNAMED
        })
    );
}

#[test]
fn a_call_that_is_ready_at_once_makes_no_timer() {
    let mut service =
        TimeoutLayer::new(AFTER).layer(service_fn(|()| async { Ok::<_, BoxError>(()) }));
    let mut task = task::spawn(());
    assert_ready_ok!(task.enter(|cx, _| service.poll_ready(cx)));
    assert_ready_ok!(task::spawn(service.call(())).poll());
}

#[test]
fn a_timeout_of_zero_makes_no_timer() {
    let (mut service, mut handle) = timed(Duration::ZERO);
    assert_ready_ok!(service.poll_ready());
    assert_ready_err!(task::spawn(service.call(())).poll());
    handle.allow(0);
    assert_ready_ok!(service.poll_ready());
    assert_ready_err!(task::spawn(service.call(())).poll());
}

#[test]
fn the_longest_timeout_makes_no_timer() {
    let (mut service, mut handle) = timed(Duration::MAX);
    assert_ready_ok!(service.poll_ready());
    assert_pending!(task::spawn(service.call(())).poll());
    handle.allow(0);
    assert_pending!(service.poll_ready());
}
