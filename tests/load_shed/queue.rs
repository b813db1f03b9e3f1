//! The queue.

use super::{OVERLOADED, SECOND, around_strict, queueing, rejection};
use crate::strict::{call, poll_ready, sent};
use buttress::load_shed::ConcurrencyLimit;
use buttress::{LoadShedLayer, Name, Rejection};
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Wake, Waker};
use std::time::Duration;
use tokio::task::{JoinSet, yield_now};
use tokio::time;
use tokio_test::task::Spawn;
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};
use tower::{BoxError, Layer, Service, service_fn};

const NANO: Duration = Duration::from_nanos(1);
const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// One nanosecond less.
fn almost(duration: Duration) -> Duration {
    duration.saturating_sub(NANO)
}

#[tokio::test(start_paused = true)]
async fn waiting_calls_are_sent_in_the_order_they_were_made_however_they_are_polled() {
    let mut service = queueing(1, 10).layer(service_fn(|req: u32| async move {
        yield_now().await;
        Ok::<_, BoxError>(req)
    }));
    let mut calls = Vec::new();
    for req in 0..=10 {
        assert_ready_ok!(poll_ready(&mut service));
        calls.push(service.call(req));
    }
    let mut tasks = JoinSet::new();
    for call in calls.into_iter().rev() {
        tasks.spawn(call);
    }
    let mut served = Vec::new();
    while let Some(call) = tasks.join_next().await {
        served.push(call.unwrap().unwrap());
    }
    assert_eq!(served, (0..=10).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_released_slot_wakes_only_the_head_of_the_queue() {
    let (mut service, _handle) = around_strict(&queueing(1, 2));
    let first = call(&mut service, 1);
    let mut waiters = [2, 3].map(|req| call(&mut service, req));
    for waiter in &mut waiters {
        assert_pending!(waiter.poll());
    }
    drop(first);
    assert_eq!(waiters.each_ref().map(Spawn::is_woken), [true, false]);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_is_sent_once_a_slot_is_free() {
    let (mut service, mut handle) = around_strict(&queueing(1, 2));
    let first = call(&mut service, 1);
    let mut waiter = call(&mut service, 2);
    assert_pending!(waiter.poll());
    assert_eq!(sent(&mut handle), [1]);
    drop(first);
    assert_pending!(waiter.poll());
    assert_eq!(sent(&mut handle), [2]);
}

#[tokio::test(start_paused = true)]
async fn a_call_beyond_the_queue_is_rejected_at_once() {
    let (mut service, _handle) = around_strict(&queueing(1, 2));
    let _calls = [1, 2, 3].map(|req| call(&mut service, req));
    assert_eq!(rejection(&mut call(&mut service, 4)), OVERLOADED);
}

#[tokio::test(start_paused = true)]
async fn the_queue_holds_as_many_calls_as_configured() {
    let (mut service, _handle) = around_strict(&queueing(1, 2));
    let _first = call(&mut service, 1);
    let mut waiters = [2, 3].map(|req| call(&mut service, req));
    assert!(waiters.iter_mut().all(|waiter| waiter.poll().is_pending()));
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_waiter_releases_its_place() {
    let (mut service, _handle) = around_strict(&queueing(1, 2));
    let _first = call(&mut service, 1);
    let [mut leaver, _stayer] = [2, 3].map(|req| call(&mut service, req));
    assert_pending!(leaver.poll());
    drop(leaver);
    assert_pending!(call(&mut service, 4).poll());
}

#[tokio::test(start_paused = true)]
async fn waiters_behind_a_cancelled_one_keep_their_order() {
    let (mut service, mut handle) = around_strict(&queueing(1, 3));
    let first = call(&mut service, 1);
    let [mut two, mut three, mut four] = [2, 3, 4].map(|req| call(&mut service, req));
    for waiter in [&mut four, &mut three, &mut two] {
        assert_pending!(waiter.poll());
    }
    drop(three);
    drop(first);
    assert_pending!(four.poll());
    assert_pending!(two.poll());
    drop(two);
    assert_pending!(four.poll());
    assert_eq!(sent(&mut handle), [1, 2, 4]);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_is_rejected_after_exactly_its_longest_wait() {
    let (mut service, _handle) = around_strict(&queueing(1, 2));
    let _first = call(&mut service, 1);
    let mut waiter = call(&mut service, 2);
    assert_pending!(waiter.poll());
    time::advance(almost(SECOND)).await;
    assert_pending!(waiter.poll());
    time::advance(NANO).await;
    assert!(waiter.is_woken());
    assert_eq!(rejection(&mut waiter), OVERLOADED);
}

#[tokio::test(start_paused = true)]
async fn a_wait_starts_at_the_call() {
    let (mut service, _handle) = around_strict(&queueing(1, 2));
    let _first = call(&mut service, 1);
    let mut waiter = call(&mut service, 2);
    time::advance(SECOND / 2).await;
    assert_pending!(waiter.poll());
    time::advance(SECOND / 2).await;
    assert_eq!(rejection(&mut waiter), OVERLOADED);
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_ended_before_the_first_poll_needs_no_timer() {
    let (mut service, _handle) = around_strict(&queueing(1, 2));
    let _first = call(&mut service, 1);
    let mut waiter = call(&mut service, 2);
    // The clock has moved, but no timer has fired yet.
    let mut advance = task::spawn(time::advance(2 * SECOND));
    assert_pending!(advance.poll());
    assert_eq!(rejection(&mut waiter), OVERLOADED);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_waited_too_long_releases_its_place_before_its_caller_sees_the_error() {
    let layer = queueing(1, 2);
    let (mut service, _handle) = around_strict(&layer);
    let _first = call(&mut service, 1);
    let mut waiter = call(&mut service, 2);
    assert_pending!(waiter.poll());
    time::advance(SECOND).await;
    assert_ready_err!(waiter.poll());
    assert_eq!(layer.limit().snapshot().waiting, 0);
}

#[tokio::test(start_paused = true)]
async fn a_slot_released_exactly_at_the_end_of_the_wait_is_granted() {
    let (mut service, mut handle) = around_strict(&queueing(1, 2));
    let first = call(&mut service, 1);
    let mut waiter = call(&mut service, 2);
    assert_pending!(waiter.poll());
    time::advance(SECOND).await;
    drop(first);
    assert_pending!(waiter.poll());
    assert_eq!(sent(&mut handle), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn with_a_longest_wait_of_zero_no_call_waits() {
    let layer = LoadShedLayer::builder(1).queue(2, Duration::ZERO);
    let (mut service, _handle) = around_strict(&layer.build().unwrap());
    let _first = call(&mut service, 1);
    assert_eq!(rejection(&mut call(&mut service, 2)), OVERLOADED);
}

#[tokio::test(start_paused = true)]
async fn with_an_unlimited_longest_wait_calls_wait_for_years() {
    let layer = LoadShedLayer::builder(1).queue(2, Duration::MAX);
    let (mut service, mut handle) = around_strict(&layer.build().unwrap());
    let first = call(&mut service, 1);
    let mut waiter = call(&mut service, 2);
    assert_pending!(waiter.poll());
    time::advance(100 * YEAR).await;
    assert_pending!(waiter.poll());
    drop(first);
    assert_pending!(waiter.poll());
    assert_eq!(sent(&mut handle), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_granted_slot_of_a_cancelled_waiter_goes_to_the_next_one() {
    let (mut service, mut handle) = around_strict(&queueing(1, 2));
    let first = call(&mut service, 1);
    let [mut two, mut three] = [2, 3].map(|req| call(&mut service, req));
    assert_pending!(two.poll());
    assert_pending!(three.poll());
    drop(first);
    drop(two);
    assert!(three.is_woken());
    assert_pending!(three.poll());
    assert_eq!(sent(&mut handle), [1, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_slot_granted_to_a_waiter_before_its_first_poll_is_kept_for_it() {
    let (mut service, mut handle) = around_strict(&queueing(1, 2));
    let first = call(&mut service, 1);
    let [mut two, mut three] = [2, 3].map(|req| call(&mut service, req));
    drop(first);
    assert_pending!(three.poll());
    assert_pending!(two.poll());
    assert_eq!(sent(&mut handle), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_granted_slot_of_the_last_cancelled_waiter_is_released() {
    let layer = queueing(1, 2);
    let (mut service, _handle) = around_strict(&layer);
    let first = call(&mut service, 1);
    let waiter = call(&mut service, 2);
    drop(first);
    drop(waiter);
    assert_eq!(layer.limit().in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_new_call_does_not_overtake_waiters() {
    let (mut service, mut handle) = around_strict(&queueing(1, 2));
    let first = call(&mut service, 1);
    let mut waiter = call(&mut service, 2);
    assert_pending!(waiter.poll());
    drop(first);
    assert_pending!(call(&mut service, 3).poll());
    assert_pending!(waiter.poll());
    assert_eq!(sent(&mut handle), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn the_handle_does_not_overtake_waiters() {
    let layer = queueing(1, 2);
    let (mut service, _handle) = around_strict(&layer);
    let first = call(&mut service, 1);
    let _waiter = call(&mut service, 2);
    drop(first);
    assert_eq!(
        layer.limit().try_acquire().unwrap_err().0,
        Rejection::Overloaded {
            limit: 1,
            by: Name::UNNAMED
        }
    );
}

#[tokio::test(start_paused = true)]
async fn a_slot_released_by_the_handle_goes_to_the_waiters() {
    let layer = queueing(1, 2);
    let (mut service, mut handle) = around_strict(&layer);
    let slot = layer.limit().try_acquire().unwrap();
    let mut waiter = call(&mut service, 1);
    assert_pending!(waiter.poll());
    drop(slot);
    assert!(waiter.is_woken());
    assert_pending!(waiter.poll());
    assert_eq!(sent(&mut handle), [1]);
}

#[tokio::test(start_paused = true)]
async fn a_raised_limit_wakes_as_many_waiters_as_it_has_room_for() {
    let layer = queueing(1, 3);
    let (mut service, _handle) = around_strict(&layer);
    let _first = call(&mut service, 1);
    let mut waiters = [2, 3, 4].map(|req| call(&mut service, req));
    for waiter in &mut waiters {
        assert_pending!(waiter.poll());
    }
    layer.limit().set_limit(3);
    let woken = waiters.each_ref().map(Spawn::is_woken);
    assert_eq!(woken, [true, true, false]);
}

#[tokio::test(start_paused = true)]
async fn no_call_overtakes_a_waiter_while_a_raised_limit_admits_others() {
    let layer = queueing(1, 2);
    let (mut service, _handle) = around_strict(&layer);
    let _first = call(&mut service, 1);
    assert_ready_ok!(poll_ready(&mut service));
    let mut head = pin!(service.call(2));
    let _behind = call(&mut service, 3);
    let newcomer = Arc::new(Newcomer(layer.limit().clone(), OnceLock::new()));
    let waker = Waker::from(newcomer.clone());
    assert_pending!(head.as_mut().poll(&mut Context::from_waker(&waker)));
    layer.limit().set_limit(3);
    assert_eq!(newcomer.1.get(), Some(&false));
}

/// A waker that asks for a slot when it is woken and records whether it got one.
struct Newcomer(ConcurrencyLimit, OnceLock<bool>);

impl Wake for Newcomer {
    fn wake(self: Arc<Self>) {
        self.1.set(self.0.try_acquire().is_ok()).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_waiter_is_sent_when_a_limit_of_zero_is_raised() {
    let layer = queueing(0, 1);
    let (mut service, mut handle) = around_strict(&layer);
    let mut waiter = call(&mut service, 1);
    assert_pending!(waiter.poll());
    layer.limit().set_limit(1);
    assert_pending!(waiter.poll());
    assert_eq!(sent(&mut handle), [1]);
}

#[tokio::test(start_paused = true)]
async fn no_waiter_gets_a_slot_while_in_flight_is_above_a_lowered_limit() {
    let layer = queueing(3, 1);
    let (mut service, _handle) = around_strict(&layer);
    let in_flight = [1, 2, 3].map(|req| call(&mut service, req));
    let mut waiter = call(&mut service, 4);
    assert_pending!(waiter.poll());
    layer.limit().set_limit(1);
    let woken = in_flight.map(|call| {
        drop(call);
        waiter.is_woken()
    });
    assert_eq!(woken, [false, false, true]);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_moved_to_another_task_is_woken_there() {
    let (mut service, _handle) = around_strict(&queueing(1, 1));
    let first = call(&mut service, 1);
    assert_ready_ok!(poll_ready(&mut service));
    let mut waiter = pin!(service.call(2));
    let [mut here, mut there] = [task::spawn(()), task::spawn(())];
    assert_pending!(here.enter(|cx, _| waiter.as_mut().poll(cx)));
    assert_pending!(there.enter(|cx, _| waiter.as_mut().poll(cx)));
    drop(first);
    assert_eq!((here.is_woken(), there.is_woken()), (false, true));
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_moved_to_another_task_is_rejected_there() {
    let (mut service, _handle) = around_strict(&queueing(1, 1));
    let _first = call(&mut service, 1);
    assert_ready_ok!(poll_ready(&mut service));
    let mut waiter = pin!(service.call(2));
    let [mut here, mut there] = [task::spawn(()), task::spawn(())];
    assert_pending!(here.enter(|cx, _| waiter.as_mut().poll(cx)));
    assert_pending!(there.enter(|cx, _| waiter.as_mut().poll(cx)));
    time::advance(SECOND).await;
    assert_eq!((here.is_woken(), there.is_woken()), (false, true));
}

#[tokio::test(start_paused = true)]
async fn a_waiter_does_not_poll_the_inner_service_before_its_turn() {
    let (mut service, mut handle) = around_strict(&queueing(1, 1));
    let _first = call(&mut service, 1);
    let mut waiter = call(&mut service, 2);
    handle.send_error("whoever polls first gets this");
    assert_pending!(waiter.poll());
}

#[tokio::test(start_paused = true)]
async fn a_waiter_whose_inner_service_is_not_ready_at_its_turn_is_rejected() {
    let (mut service, mut handle) = around_strict(&queueing(1, 1));
    let first = call(&mut service, 1);
    let mut waiter = call(&mut service, 2);
    handle.allow(0);
    assert_pending!(waiter.poll());
    drop(first);
    assert_eq!(rejection(&mut waiter), OVERLOADED);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_rejected_at_its_turn_hands_its_slot_to_the_next_one() {
    let (mut service, mut handle) = around_strict(&queueing(1, 2));
    let first = call(&mut service, 1);
    let [mut two, mut three] = [2, 3].map(|req| call(&mut service, req));
    assert_pending!(three.poll());
    handle.allow(0);
    drop(first);
    assert_ready_err!(two.poll());
    assert!(three.is_woken());
}

#[tokio::test(start_paused = true)]
async fn a_readiness_error_at_the_turn_is_passed_on() {
    let (mut service, mut handle) = around_strict(&queueing(1, 1));
    let first = call(&mut service, 1);
    let mut waiter = call(&mut service, 2);
    drop(first);
    handle.send_error("gone");
    assert_eq!(assert_ready_err!(waiter.poll()).to_string(), "gone");
}

#[tokio::test(start_paused = true)]
async fn a_waiter_whose_inner_service_fails_releases_its_slot() {
    let layer = queueing(1, 1);
    let (mut service, mut handle) = around_strict(&layer);
    let first = call(&mut service, 1);
    let mut waiter = call(&mut service, 2);
    drop(first);
    handle.send_error("gone");
    assert_ready_err!(waiter.poll());
    assert_eq!(layer.limit().in_flight(), 0);
}
