//! Tasks that use up their cooperative budget, and calls that move to another task.

use super::{AFTER, BoxError, TIMED_OUT, rejection, timed, timed_and_waiting};
use buttress::TimeoutLayer;
use std::future::poll_fn;
use std::task::{Context, Poll};
use tokio::task::coop;
use tokio::time::advance;
use tokio_test::{assert_pending, assert_ready_ok, task};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_test::mock::Spawn;

/// Uses up the cooperative budget of the current task and wakes it.
fn burn_and_wake(cx: &mut Context<'_>) {
    while let Poll::Ready(budget) = coop::poll_proceed(cx) {
        budget.made_progress();
    }
    cx.waker().wake_by_ref();
}

/// After this many polls a busy future completes, so that a timeout that never fires fails the test
/// instead of blocking it.
const PATIENCE: u32 = 1_000;

#[tokio::test(start_paused = true)]
async fn a_call_that_uses_up_the_cooperative_budget_at_every_poll_times_out() {
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
    tokio::task::yield_now().await; // lets the call be polled, which starts its timeout
    advance(AFTER).await;
    assert_eq!(rejection(call.await.unwrap()), TIMED_OUT);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_uses_up_the_cooperative_budget_once_the_timer_runs_times_out() {
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

/// Is never ready and uses up the budget at every poll.
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
async fn a_wait_that_uses_up_the_cooperative_budget_at_every_poll_times_out() {
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
