//! Waiting for readiness.

use super::{AFTER, HOUR, TIMED_OUT, in_time, rejection, time_of, timed, timed_and_waiting};
use std::time::Duration;
use tokio::time::advance;
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};
use tower::ServiceExt;

#[tokio::test(start_paused = true)]
async fn waiting_for_readiness_ends_at_the_timeout() {
    let (service, mut handle) = timed(AFTER);
    handle.allow(0);
    assert_eq!(time_of(service.into_inner().ready()).await, AFTER);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waited_too_long_is_rejected() {
    let (service, mut handle) = timed(AFTER);
    handle.allow(0);
    assert_eq!(
        rejection(in_time(service.into_inner().oneshot(())).await),
        TIMED_OUT
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waited_too_long_is_rejected_at_once() {
    let (mut service, _handle) = timed_and_waiting();
    advance(AFTER).await;
    assert_ready_ok!(service.poll_ready());
    assert_eq!(time_of(service.call(())).await, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waited_too_long_never_reaches_the_inner_service() {
    let (mut service, mut handle) = timed_and_waiting();
    advance(AFTER).await;
    assert_ready_ok!(service.poll_ready());
    service.call(()).await.unwrap_err();
    assert_pending!(handle.poll_request().map(|request| request.is_some()));
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_is_polled_late_still_times_out() {
    let (mut service, _handle) = timed_and_waiting();
    advance(AFTER * 3 / 2).await;
    assert_ready_ok!(service.poll_ready());
    assert_eq!(rejection(in_time(service.call(())).await), TIMED_OUT);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_takes_over_in_time_gets_the_remaining_time() {
    let (mut service, _handle) = timed_and_waiting();
    advance(AFTER * 4 / 10).await;
    assert_eq!(time_of(service.get_mut().ready()).await, AFTER * 6 / 10);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_long_after_a_cancelled_one_has_the_whole_timeout() {
    let (mut service, _handle) = timed_and_waiting();
    advance(AFTER * 4 / 10).await;
    assert_pending!(service.poll_ready());
    advance(HOUR).await;
    assert_eq!(time_of(service.get_mut().ready()).await, AFTER);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_long_after_one_that_timed_out_has_the_whole_timeout() {
    let (mut service, _handle) = timed_and_waiting();
    advance(AFTER).await;
    assert_ready_ok!(service.poll_ready());
    advance(HOUR).await;
    assert_eq!(time_of(service.get_mut().ready()).await, AFTER);
}

#[tokio::test(start_paused = true)]
async fn a_call_long_after_a_cancelled_waiter_has_the_whole_timeout() {
    let (mut service, mut handle) = timed_and_waiting();
    advance(HOUR).await;
    handle.allow(1);
    assert_ready_ok!(service.poll_ready());
    assert_eq!(time_of(service.call(())).await, AFTER);
}

#[tokio::test(start_paused = true)]
async fn a_clone_starts_with_the_whole_timeout() {
    let (service, _handle) = timed_and_waiting();
    advance(AFTER * 4 / 10).await;
    let mut clone = service.get_ref().clone();
    assert_eq!(time_of(clone.ready()).await, AFTER);
}

#[tokio::test(start_paused = true)]
async fn a_call_gets_the_time_that_waiting_left() {
    let (mut service, mut handle) = timed_and_waiting();
    advance(AFTER * 4 / 10).await;
    handle.allow(1);
    assert_ready_ok!(service.poll_ready());
    assert_eq!(time_of(service.call(())).await, AFTER * 6 / 10);
}

#[tokio::test(start_paused = true)]
async fn a_rejection_reports_the_whole_timeout_even_after_a_wait() {
    let (mut service, mut handle) = timed_and_waiting();
    advance(AFTER * 4 / 10).await;
    handle.allow(1);
    assert_ready_ok!(service.poll_ready());
    assert_eq!(rejection(in_time(service.call(())).await), TIMED_OUT);
}

#[tokio::test(start_paused = true)]
async fn time_spent_idle_while_ready_does_not_count() {
    let (mut service, mut handle) = timed_and_waiting();
    advance(AFTER * 4 / 10).await;
    handle.allow(1);
    assert_ready_ok!(service.poll_ready());
    advance(HOUR).await;
    assert_ready_ok!(service.poll_ready());
    assert_eq!(time_of(service.call(())).await, AFTER * 6 / 10);
}

#[tokio::test(start_paused = true)]
async fn the_call_after_one_that_waited_has_the_whole_timeout() {
    let (mut service, mut handle) = timed_and_waiting();
    advance(AFTER * 4 / 10).await;
    handle.allow(2);
    assert_ready_ok!(service.poll_ready());
    drop(service.call(()));
    assert_ready_ok!(service.poll_ready());
    assert_eq!(time_of(service.call(())).await, AFTER);
}

#[tokio::test(start_paused = true)]
async fn the_wait_after_one_that_timed_out_has_the_whole_timeout() {
    let (mut service, _handle) = timed_and_waiting();
    advance(AFTER).await;
    assert_ready_ok!(service.poll_ready());
    drop(service.call(()));
    assert_eq!(time_of(service.get_mut().ready()).await, AFTER);
}

#[tokio::test(start_paused = true)]
async fn readiness_at_the_same_time_as_the_timer_is_a_timeout() {
    let (mut service, mut handle) = timed_and_waiting();
    advance(AFTER).await;
    handle.allow(1);
    assert_ready_ok!(service.poll_ready());
    let mut call = task::spawn(service.call(()));
    assert_eq!(rejection(assert_ready!(call.poll())), TIMED_OUT);
}

#[tokio::test(start_paused = true)]
async fn readiness_at_the_same_time_as_the_timer_does_not_use_the_inner_service() {
    let (mut service, mut handle) = timed_and_waiting();
    advance(AFTER).await;
    handle.allow(1);
    assert_ready_ok!(service.poll_ready());
    drop(service.call(()));
    assert_pending!(handle.poll_request().map(|request| request.is_some()));
}

#[tokio::test(start_paused = true)]
async fn a_readiness_error_is_passed_on() {
    let (mut service, mut handle) = timed(AFTER);
    handle.send_error("gone");
    let readied = service.poll_ready();
    assert_eq!(assert_ready_err!(readied).to_string(), "gone");
}

#[tokio::test(start_paused = true)]
async fn a_readiness_error_is_passed_on_even_after_the_timeout() {
    let (mut service, mut handle) = timed_and_waiting();
    advance(AFTER).await;
    handle.send_error("gone");
    let readied = service.poll_ready();
    assert_eq!(assert_ready_err!(readied).to_string(), "gone");
}
