//! What `Timeout` promises, on tokio's paused clock.

#[path = "support/events.rs"]
mod events;

use buttress::timeout::Timeout;
use buttress::{Name, Rejection, StackError, TimeoutLayer};
use std::fmt::Debug;
use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::coop;
use tokio::time::{Instant, advance};
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_test::mock::{self, Handle, Mock, Spawn};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

const AFTER: Duration = Duration::from_millis(100);
const HOUR: Duration = Duration::from_secs(3_600);
const CENTURY: Duration = Duration::from_secs(100 * 365 * 86_400);
const TIMED_OUT: Option<Rejection> = Some(Rejection::TimedOut {
    after: AFTER,
    by: Name::UNNAMED,
});

type Timed = Spawn<Timeout<Mock<(), &'static str>>>;

/// A callee under a timeout, ready unless the handle says otherwise.
fn timed(after: Duration) -> (Timed, Handle<(), &'static str>) {
    mock::spawn_layer(TimeoutLayer::new(after))
}

/// The same, found not ready once: the clock of its wait runs.
fn timed_and_waiting() -> (Timed, Handle<(), &'static str>) {
    let (mut service, mut handle) = timed(AFTER);
    handle.allow(0);
    assert_pending!(service.poll_ready());
    (service, handle)
}

/// Fails a test whose timeout never comes, which would hang otherwise.
async fn in_time<F: Future>(work: F) -> F::Output {
    let ended = tokio::time::timeout(HOUR, work).await;
    ended.expect("no timeout came")
}

async fn time_of(work: impl Future) -> Duration {
    let start = Instant::now();
    in_time(work).await;
    start.elapsed()
}

fn rejection<Res: Debug>(outcome: Result<Res, BoxError>) -> Option<Rejection> {
    outcome.unwrap_err().rejection()
}

#[tokio::test(start_paused = true)]
async fn an_answer_in_time_is_passed_on() {
    let (mut service, mut handle) = timed(AFTER);
    assert_ready_ok!(service.poll_ready());
    let mut call = task::spawn(service.call(()));
    assert_pending!(call.poll());
    let ((), send) = handle.next_request().await.unwrap();
    advance(AFTER * 99 / 100).await;
    assert_pending!(call.poll());
    send.send_response("answer");
    assert_eq!(assert_ready_ok!(call.poll()), "answer");
}

#[tokio::test(start_paused = true)]
async fn an_error_of_the_call_passes_unchanged() {
    let (mut service, mut handle) = timed(AFTER);
    assert_ready_ok!(service.poll_ready());
    let mut call = task::spawn(service.call(()));
    let ((), send) = handle.next_request().await.unwrap();
    send.send_error("reset");
    assert_eq!(assert_ready_err!(call.poll()).to_string(), "reset");
}

#[tokio::test(start_paused = true)]
async fn a_call_without_an_answer_is_rejected() {
    let (mut service, _handle) = timed(AFTER);
    assert_ready_ok!(service.poll_ready());
    assert_eq!(rejection(in_time(service.call(())).await), TIMED_OUT);
}

#[tokio::test(start_paused = true)]
async fn a_call_without_an_answer_ends_at_the_timeout() {
    let (mut service, _handle) = timed(AFTER);
    assert_ready_ok!(service.poll_ready());
    assert_eq!(time_of(service.call(())).await, AFTER);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_with_the_timer_wins() {
    let (mut service, mut handle) = timed(AFTER);
    assert_ready_ok!(service.poll_ready());
    let mut call = task::spawn(service.call(()));
    assert_pending!(call.poll());
    let ((), send) = handle.next_request().await.unwrap();
    advance(AFTER).await;
    send.send_response("answer");
    assert_eq!(assert_ready_ok!(call.poll()), "answer");
}

#[tokio::test(start_paused = true)]
async fn a_call_is_timed_from_its_first_pending_poll() {
    let (mut service, _handle) = timed(AFTER);
    assert_ready_ok!(service.poll_ready());
    let call = service.call(());
    advance(HOUR).await;
    assert_eq!(time_of(call).await, AFTER);
}

#[tokio::test(start_paused = true)]
async fn waiting_for_readiness_ends_at_the_timeout() {
    let (service, mut handle) = timed(AFTER);
    handle.allow(0);
    assert_eq!(time_of(service.into_inner().ready()).await, AFTER);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waited_for_too_long_is_rejected() {
    let (service, mut handle) = timed(AFTER);
    handle.allow(0);
    assert_eq!(
        rejection(in_time(service.into_inner().oneshot(())).await),
        TIMED_OUT
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waited_for_too_long_is_rejected_at_once() {
    let (mut service, _handle) = timed_and_waiting();
    advance(AFTER).await;
    assert_ready_ok!(service.poll_ready());
    assert_eq!(time_of(service.call(())).await, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waited_for_too_long_never_reaches_the_inner_service() {
    let (mut service, mut handle) = timed_and_waiting();
    advance(AFTER).await;
    assert_ready_ok!(service.poll_ready());
    service.call(()).await.unwrap_err();
    assert_pending!(handle.poll_request().map(|request| request.is_some()));
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_is_polled_late_is_out_of_time_all_the_same() {
    let (mut service, _handle) = timed_and_waiting();
    advance(AFTER * 3 / 2).await;
    assert_ready_ok!(service.poll_ready());
    assert_eq!(rejection(in_time(service.call(())).await), TIMED_OUT);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_takes_over_in_time_gets_what_is_left() {
    let (mut service, _handle) = timed_and_waiting();
    advance(AFTER * 4 / 10).await;
    assert_eq!(time_of(service.get_mut().ready()).await, AFTER * 6 / 10);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_long_after_another_left_has_the_whole_time() {
    let (mut service, _handle) = timed_and_waiting();
    advance(AFTER * 4 / 10).await;
    assert_pending!(service.poll_ready());
    advance(HOUR).await;
    assert_eq!(time_of(service.get_mut().ready()).await, AFTER);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_long_after_another_ran_out_of_time_has_the_whole_time() {
    let (mut service, _handle) = timed_and_waiting();
    advance(AFTER).await;
    assert_ready_ok!(service.poll_ready());
    advance(HOUR).await;
    assert_eq!(time_of(service.get_mut().ready()).await, AFTER);
}

#[tokio::test(start_paused = true)]
async fn a_call_long_after_a_waiter_left_has_the_whole_time() {
    let (mut service, mut handle) = timed_and_waiting();
    advance(HOUR).await;
    handle.allow(1);
    assert_ready_ok!(service.poll_ready());
    assert_eq!(time_of(service.call(())).await, AFTER);
}

#[tokio::test(start_paused = true)]
async fn a_clone_has_waited_for_nothing() {
    let (service, _handle) = timed_and_waiting();
    advance(AFTER * 4 / 10).await;
    let mut clone = service.get_ref().clone();
    assert_eq!(time_of(clone.ready()).await, AFTER);
}

#[tokio::test(start_paused = true)]
async fn a_call_gets_what_waiting_left() {
    let (mut service, mut handle) = timed_and_waiting();
    advance(AFTER * 4 / 10).await;
    handle.allow(1);
    assert_ready_ok!(service.poll_ready());
    assert_eq!(time_of(service.call(())).await, AFTER * 6 / 10);
}

#[tokio::test(start_paused = true)]
async fn a_rejection_tells_the_whole_timeout_even_if_some_was_spent_waiting() {
    let (mut service, mut handle) = timed_and_waiting();
    advance(AFTER * 4 / 10).await;
    handle.allow(1);
    assert_ready_ok!(service.poll_ready());
    assert_eq!(rejection(in_time(service.call(())).await), TIMED_OUT);
}

#[tokio::test(start_paused = true)]
async fn idling_once_ready_takes_nothing_from_what_is_left() {
    let (mut service, mut handle) = timed_and_waiting();
    advance(AFTER * 4 / 10).await;
    handle.allow(1);
    assert_ready_ok!(service.poll_ready());
    advance(HOUR).await;
    assert_ready_ok!(service.poll_ready());
    assert_eq!(time_of(service.call(())).await, AFTER * 6 / 10);
}

#[tokio::test(start_paused = true)]
async fn the_call_after_one_that_waited_has_the_whole_time() {
    let (mut service, mut handle) = timed_and_waiting();
    advance(AFTER * 4 / 10).await;
    handle.allow(2);
    assert_ready_ok!(service.poll_ready());
    drop(service.call(()));
    assert_ready_ok!(service.poll_ready());
    assert_eq!(time_of(service.call(())).await, AFTER);
}

#[tokio::test(start_paused = true)]
async fn the_wait_after_one_that_ran_out_has_the_whole_time() {
    let (mut service, _handle) = timed_and_waiting();
    advance(AFTER).await;
    assert_ready_ok!(service.poll_ready());
    drop(service.call(()));
    assert_eq!(time_of(service.get_mut().ready()).await, AFTER);
}

#[tokio::test(start_paused = true)]
async fn readiness_that_comes_with_the_timer_is_a_timeout() {
    let (mut service, mut handle) = timed_and_waiting();
    advance(AFTER).await;
    handle.allow(1);
    assert_ready_ok!(service.poll_ready());
    let mut call = task::spawn(service.call(()));
    assert_eq!(rejection(assert_ready!(call.poll())), TIMED_OUT);
}

#[tokio::test(start_paused = true)]
async fn readiness_that_comes_with_the_timer_leaves_the_inner_service_alone() {
    let (mut service, mut handle) = timed_and_waiting();
    advance(AFTER).await;
    handle.allow(1);
    assert_ready_ok!(service.poll_ready());
    drop(service.call(()));
    assert_pending!(handle.poll_request().map(|request| request.is_some()));
}

#[tokio::test(start_paused = true)]
async fn an_error_of_readiness_passes() {
    let (mut service, mut handle) = timed(AFTER);
    handle.send_error("gone");
    let readied = service.poll_ready();
    assert_eq!(assert_ready_err!(readied).to_string(), "gone");
}

#[tokio::test(start_paused = true)]
async fn an_error_of_readiness_passes_though_the_time_has_run_out() {
    let (mut service, mut handle) = timed_and_waiting();
    advance(AFTER).await;
    handle.send_error("gone");
    let readied = service.poll_ready();
    assert_eq!(assert_ready_err!(readied).to_string(), "gone");
}

#[tokio::test(start_paused = true)]
async fn what_the_inner_future_held_is_free_when_the_caller_sees_the_error() {
    let permits = Arc::new(Semaphore::new(1));
    let holder = permits.clone();
    let mut service = TimeoutLayer::new(AFTER).layer(service_fn(move |()| {
        let permit = holder.clone().try_acquire_owned().unwrap();
        async move {
            let _permit = permit;
            pending::<Result<(), BoxError>>().await
        }
    }));
    let mut call = task::spawn(service.ready().await.unwrap().call(()));
    assert_pending!(call.poll());
    advance(AFTER).await;
    assert_ready_err!(call.poll());
    // The call's future still exists.
    assert_eq!(permits.available_permits(), 1);
    drop(call);
}

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
async fn no_time_at_all_ends_a_call_at_its_first_pending_poll() {
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
async fn no_time_at_all_lets_an_answer_pass_that_is_there_at_once() {
    let (mut service, mut handle) = timed(Duration::ZERO);
    assert_ready_ok!(service.poll_ready());
    let mut call = task::spawn(service.call(()));
    let ((), send) = handle.next_request().await.unwrap();
    send.send_response("answer");
    assert_eq!(assert_ready_ok!(call.poll()), "answer");
}

#[tokio::test(start_paused = true)]
async fn no_time_at_all_rejects_a_call_that_would_have_to_wait() {
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

/// Uses up the cooperative budget of the task that polls, and asks to be polled again.
fn burn_and_wake(cx: &mut Context<'_>) {
    while let Poll::Ready(budget) = coop::poll_proceed(cx) {
        budget.made_progress();
    }
    cx.waker().wake_by_ref();
}

/// How often something busy is polled before it ends by itself, so that a timeout which never comes
/// fails a test and does not hang it.
const PATIENCE: u32 = 1_000;

#[tokio::test(start_paused = true)]
async fn a_call_that_burns_its_tasks_budget_at_every_poll_times_out() {
    let service = TimeoutLayer::new(AFTER).layer(service_fn(|()| {
        let mut polls = 0;
        poll_fn(move |cx| {
            burn_and_wake(cx);
            polls += 1;
            if polls < PATIENCE {
                Poll::Pending
            } else {
                Poll::Ready(Ok::<_, BoxError>(()))
            }
        })
    }));
    let call = tokio::spawn(service.oneshot(()));
    tokio::task::yield_now().await; // lets the call be polled, and its clock start
    advance(AFTER).await;
    assert_eq!(rejection(call.await.unwrap()), TIMED_OUT);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_burns_its_tasks_budget_once_the_timer_runs_times_out() {
    let service = TimeoutLayer::new(AFTER).layer(service_fn(|()| {
        let mut polls = 0;
        poll_fn(move |cx| {
            polls += 1;
            if polls == 1 {
                cx.waker().wake_by_ref();
            } else {
                burn_and_wake(cx);
            }
            if polls < PATIENCE {
                Poll::Pending
            } else {
                Poll::Ready(Ok::<_, BoxError>(()))
            }
        })
    }));
    let call = tokio::spawn(service.oneshot(()));
    tokio::task::yield_now().await;
    advance(AFTER).await;
    assert_eq!(rejection(call.await.unwrap()), TIMED_OUT);
}

/// Is never ready, and busy saying so.
struct Busy {
    polls: u32,
}

impl Service<()> for Busy {
    type Response = ();
    type Error = BoxError;
    type Future = std::future::Ready<Result<(), BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        burn_and_wake(cx);
        self.polls += 1;
        if self.polls < PATIENCE {
            Poll::Pending
        } else {
            Poll::Ready(Err("no timeout came".into()))
        }
    }

    fn call(&mut self, (): ()) -> Self::Future {
        unreachable!("never ready")
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_burns_its_tasks_budget_at_every_poll_times_out() {
    let service = TimeoutLayer::new(AFTER).layer(Busy { polls: 0 });
    let call = tokio::spawn(service.oneshot(()));
    tokio::task::yield_now().await;
    advance(AFTER).await;
    assert_eq!(rejection(call.await.unwrap()), TIMED_OUT);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_moved_to_another_task_is_woken_there() {
    let (mut service, _handle) = timed(AFTER);
    assert_ready_ok!(service.poll_ready());
    let mut first = task::spawn(Box::pin(service.call(())));
    assert_pending!(first.poll());
    let mut second = task::spawn(first.into_inner());
    assert_pending!(second.poll());
    advance(AFTER).await;
    assert!(second.is_woken());
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_moved_to_another_task_is_woken_there() {
    let (first, _handle) = timed_and_waiting();
    let mut second = Spawn::new(first.into_inner());
    assert_pending!(second.poll_ready());
    advance(AFTER).await;
    assert!(second.is_woken());
}

// Without a runtime there is no timer to be had.

#[test]
fn a_call_that_is_ready_at_once_makes_no_timer() {
    let mut service =
        TimeoutLayer::new(AFTER).layer(service_fn(|()| async { Ok::<_, BoxError>(()) }));
    let mut task = task::spawn(());
    assert_ready_ok!(task.enter(|cx, _| service.poll_ready(cx)));
    assert_ready_ok!(task::spawn(service.call(())).poll());
}

#[test]
fn no_time_at_all_makes_no_timer() {
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

#[tokio::test(start_paused = true)]
async fn a_call_that_times_out_says_so() {
    let layer = TimeoutLayer::builder(AFTER).name("payments").build();
    let (service, _handle) = mock::pair::<(), ()>();
    let service = layer.unwrap().layer(service);
    assert_eq!(
        events::of(in_time(service.oneshot(()))).await,
        [r#"DEBUG buttress::timeout timed_out name="payments" after_ms=100"#]
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waited_for_too_long_says_so_once() {
    let layer = TimeoutLayer::builder(AFTER).name("payments").build();
    let (service, mut handle) = mock::pair::<(), ()>();
    handle.allow(0);
    let service = layer.unwrap().layer(service);
    assert_eq!(
        events::of(in_time(service.oneshot(()))).await,
        [r#"DEBUG buttress::timeout timed_out name="payments" after_ms=100"#]
    );
}

#[tokio::test(start_paused = true)]
async fn a_layer_without_a_name_gives_none_in_its_events() {
    let (service, _handle) = timed(AFTER);
    assert_eq!(
        events::of(in_time(service.into_inner().oneshot(()))).await,
        ["DEBUG buttress::timeout timed_out after_ms=100"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_answered_says_nothing() {
    let service = TimeoutLayer::new(AFTER).layer(service_fn(|()| async { Ok::<_, BoxError>(()) }));
    assert_eq!(events::of(in_time(service.oneshot(()))).await, [""; 0]);
}
