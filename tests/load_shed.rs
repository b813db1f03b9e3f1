//! What the load shed promises, through its handle and as a Tower service.

#[path = "support/events.rs"]
mod events;

use buttress::load_shed::{ConcurrencyLimit, LoadShed};
use buttress::{LoadShedLayer, Name, Rejection, StackError};
use std::future::{self, Future};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Barrier, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use std::{iter, thread};
use tokio::task::{JoinSet, yield_now};
use tokio::time;
use tokio_test::task::Spawn;
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};
use tower::limit::ConcurrencyLimit as TowersLimit;
use tower::{BoxError, Layer, Service, ServiceExt, service_fn};
use tower_test::mock::{self, Handle, Mock, SendResponse};

const NANO: Duration = Duration::from_nanos(1);
const SECOND: Duration = Duration::from_secs(1);
const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// Panics when called unready; its clones start unready.
type Strict = Mock<u32, u32>;

/// A nanosecond less.
fn almost(duration: Duration) -> Duration {
    duration.saturating_sub(NANO)
}

/// With a queue of this length, where one waits for a second.
fn queueing(limit: usize, len: usize) -> LoadShedLayer {
    let builder = LoadShedLayer::builder(limit).queue(len, SECOND);
    builder.build().unwrap()
}

fn around_strict(layer: &LoadShedLayer) -> (LoadShed<Strict>, Handle<u32, u32>) {
    let (inner, handle) = mock::pair();
    (layer.layer(inner), handle)
}

fn poll_ready<S: Service<u32>>(service: &mut S) -> Poll<Result<(), S::Error>> {
    task::spawn(()).enter(|cx, _| service.poll_ready(cx))
}

fn call<S: Service<u32, Error = BoxError>>(service: &mut S, req: u32) -> Spawn<S::Future> {
    assert_ready_ok!(poll_ready(service));
    task::spawn(service.call(req))
}

/// The rejection that a call ends in at this poll.
fn rejection<F>(call: &mut Spawn<F>) -> Option<Rejection>
where
    F: Future<Output = Result<u32, BoxError>>,
{
    assert_ready_err!(call.poll()).rejection()
}

/// What reached the callee since the last look.
fn sent(handle: &mut Handle<u32, u32>) -> Vec<u32> {
    iter::from_fn(|| match handle.poll_request() {
        Poll::Ready(request) => request.map(|(req, _)| req),
        Poll::Pending => None,
    })
    .collect()
}

fn next_sent(handle: &mut Handle<u32, u32>) -> (u32, SendResponse<u32>) {
    assert_ready!(handle.poll_request()).unwrap()
}

const OVERLOADED: Option<Rejection> = Some(Rejection::Overloaded {
    limit: 1,
    by: Name::UNNAMED,
});

// The limit

#[tokio::test]
async fn as_many_calls_as_the_limit_are_in_flight() {
    let (mut service, mut handle) = around_strict(&LoadShedLayer::new(2));
    let _calls = [1, 2, 3].map(|req| call(&mut service, req));
    assert_eq!(sent(&mut handle), [1, 2]);
}

#[tokio::test]
async fn a_call_over_the_limit_is_rejected_at_once() {
    let (mut service, _handle) = around_strict(&LoadShedLayer::new(1));
    let _first = call(&mut service, 1);
    assert_eq!(rejection(&mut call(&mut service, 2)), OVERLOADED);
}

#[tokio::test]
async fn a_limit_of_none_rejects_everything() {
    let (mut service, _handle) = around_strict(&LoadShedLayer::new(0));
    assert_eq!(
        rejection(&mut call(&mut service, 1)),
        Some(Rejection::Overloaded {
            limit: 0,
            by: Name::UNNAMED
        })
    );
}

#[tokio::test]
async fn a_limit_beyond_the_largest_is_the_largest() {
    let limit = ConcurrencyLimit::new(usize::MAX);
    let _slot = limit.try_acquire().unwrap();
    let snapshot = limit.snapshot();
    assert_eq!((snapshot.limit, snapshot.in_flight), ((1 << 24) - 1, 1));
}

#[tokio::test]
async fn a_changed_limit_beyond_the_largest_is_the_largest() {
    let limit = ConcurrencyLimit::new(1);
    let _slot = limit.try_acquire().unwrap();
    limit.set_limit(usize::MAX);
    let snapshot = limit.snapshot();
    assert_eq!((snapshot.limit, snapshot.in_flight), ((1 << 24) - 1, 1));
}

#[test]
fn a_layer_that_cannot_fail_saturates() {
    let layer = LoadShedLayer::new(1 << 24);
    assert_eq!(layer.limit().snapshot().limit, (1 << 24) - 1);
}

#[test]
fn a_builder_refuses_a_limit_that_does_not_fit() {
    let error = LoadShedLayer::builder(1 << 24).build().unwrap_err();
    assert_eq!(
        (error.field(), error.value(), error.allowed()),
        ("max_in_flight", "16777216", "at most 16777215")
    );
}

#[test]
fn a_builder_refuses_a_queue_that_does_not_fit() {
    let builder = LoadShedLayer::builder(1).queue(1 << 16, SECOND);
    let error = builder.build().unwrap_err();
    assert_eq!(
        (error.field(), error.value(), error.allowed()),
        ("queue", "65536", "at most 65535")
    );
}

#[test]
fn a_builder_takes_the_largest_limit_and_queue() {
    let builder = LoadShedLayer::builder((1 << 24) - 1).queue((1 << 16) - 1, Duration::MAX);
    let layer = builder.build().unwrap();
    assert_eq!(layer.limit().snapshot().limit, (1 << 24) - 1);
}

#[tokio::test]
async fn a_raised_limit_admits_more() {
    let layer = LoadShedLayer::new(1);
    let (mut service, mut handle) = around_strict(&layer);
    let _first = call(&mut service, 1);
    layer.limit().set_limit(2);
    let _second = call(&mut service, 2);
    assert_eq!(sent(&mut handle), [1, 2]);
}

#[test]
fn slots_above_a_lowered_limit_stay_valid() {
    let limit = ConcurrencyLimit::new(3);
    let _slots = [(); 3].map(|()| limit.try_acquire().unwrap());
    limit.set_limit(1);
    assert_eq!(limit.in_flight(), 3);
}

#[test]
fn nobody_is_admitted_until_in_flight_is_below_a_lowered_limit() {
    let limit = ConcurrencyLimit::new(3);
    let [one, two, three] = [(); 3].map(|()| limit.try_acquire().unwrap());
    limit.set_limit(1);
    let admitted = [one, two, three].map(|slot| {
        drop(slot);
        limit.try_acquire().is_ok()
    });
    assert_eq!(admitted, [false, false, true]);
}

#[test]
fn a_refusal_names_the_limit_in_force() {
    let limit = ConcurrencyLimit::new(5);
    let _slots = [(); 5].map(|()| limit.try_acquire().unwrap());
    limit.set_limit(4);
    assert_eq!(
        limit.try_acquire().unwrap_err().0,
        Rejection::Overloaded {
            limit: 4,
            by: Name::UNNAMED
        }
    );
}

#[test]
fn threads_never_hold_more_slots_than_the_limit() {
    let limit = ConcurrencyLimit::new(2);
    let (held, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20_000 {
                    let Ok(_slot) = limit.try_acquire() else {
                        continue;
                    };
                    most.fetch_max(held.fetch_add(1, SeqCst) + 1, SeqCst);
                    thread::yield_now();
                    held.fetch_sub(1, SeqCst);
                }
            });
        }
    });
    assert_eq!((most.into_inner(), limit.in_flight()), (2, 0));
}

#[test]
fn no_thread_is_admitted_above_a_limit_that_changes() {
    let limit = ConcurrencyLimit::new(0);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..20_000 {
                    let _slot = limit.try_acquire();
                    thread::yield_now();
                }
            });
        }
        for allowed in (0..4).cycle().take(2_000) {
            limit.set_limit(allowed);
            // What a higher limit admitted ends by itself; from then on there is no more than this.
            while limit.in_flight() > allowed {
                thread::yield_now();
            }
            for _ in 0..20 {
                let in_flight = limit.in_flight();
                assert!(in_flight <= allowed, "{in_flight} above {allowed}");
            }
        }
    });
    assert_eq!(limit.in_flight(), 0);
}

#[test]
fn a_slot_released_while_its_heir_leaves_is_free_again() {
    let layer = LoadShedLayer::builder(1).queue(1, Duration::MAX);
    let layer = layer.build().unwrap();
    let (mut service, _handle) = around_strict(&layer);
    for _ in 0..10_000 {
        let first = call(&mut service, 1);
        let heir = call(&mut service, 2);
        let together = Barrier::new(2);
        thread::scope(|scope| {
            scope.spawn(|| {
                together.wait();
                drop(heir);
            });
            together.wait();
            drop(first);
        });
        let snapshot = layer.limit().snapshot();
        assert_eq!((snapshot.in_flight, snapshot.waiting), (0, 0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn calls_that_wait_on_many_threads_all_go_and_never_above_the_limit() {
    // A waiter that is forgotten is rejected in the end, and fails the test.
    let layer = LoadShedLayer::builder(1).queue(64, 60 * SECOND);
    let layer = layer.build().unwrap();
    let (held, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let service = layer.layer(service_fn({
        let most = most.clone();
        move |req: u32| {
            let (held, most) = (held.clone(), most.clone());
            async move {
                most.fetch_max(held.fetch_add(1, SeqCst) + 1, SeqCst);
                yield_now().await;
                held.fetch_sub(1, SeqCst);
                Ok::<_, BoxError>(req)
            }
        }
    }));
    let mut callers = JoinSet::new();
    for _ in 0..16 {
        let mut service = service.clone();
        callers.spawn(async move {
            for req in 0..200 {
                service.ready().await.unwrap().call(req).await.unwrap();
            }
        });
    }
    for limit in [3, 1, 2].into_iter().cycle().take(1_000) {
        layer.limit().set_limit(limit);
        yield_now().await;
    }
    callers.join_all().await;
    let snapshot = layer.limit().snapshot();
    let most = most.load(SeqCst);
    assert!(most <= 3, "{most}");
    assert_eq!((snapshot.in_flight, snapshot.waiting), (0, 0));
}

// The slot of a call

#[tokio::test]
async fn a_call_in_flight_holds_a_slot() {
    let layer = LoadShedLayer::new(1);
    let (mut service, _handle) = around_strict(&layer);
    let _call = call(&mut service, 1);
    assert_eq!(layer.limit().in_flight(), 1);
}

#[tokio::test]
async fn an_answered_call_frees_its_slot_before_the_caller_sees_the_answer() {
    let layer = LoadShedLayer::new(1);
    let (mut service, mut handle) = around_strict(&layer);
    let mut call = call(&mut service, 1);
    let (_, response) = next_sent(&mut handle);
    response.send_response(2);
    assert_ready_ok!(call.poll());
    // The future is still there.
    assert_eq!(layer.limit().in_flight(), 0);
}

#[tokio::test]
async fn a_call_that_errs_frees_its_slot_before_the_caller_sees_the_error() {
    let layer = LoadShedLayer::new(1);
    let (mut service, mut handle) = around_strict(&layer);
    let mut call = call(&mut service, 1);
    let (_, response) = next_sent(&mut handle);
    response.send_error("refused");
    assert_ready_err!(call.poll());
    assert_eq!(layer.limit().in_flight(), 0);
}

#[tokio::test]
async fn a_dropped_call_frees_its_slot() {
    let layer = LoadShedLayer::new(1);
    let (mut service, _handle) = around_strict(&layer);
    let mut call = call(&mut service, 1);
    assert_pending!(call.poll());
    drop(call);
    assert_eq!(layer.limit().in_flight(), 0);
}

#[tokio::test]
async fn a_call_dropped_before_its_first_poll_frees_its_slot() {
    let layer = LoadShedLayer::new(1);
    let (mut service, _handle) = around_strict(&layer);
    drop(call(&mut service, 1));
    assert_eq!(layer.limit().in_flight(), 0);
}

#[tokio::test]
async fn a_call_that_panics_when_made_frees_its_slot() {
    let layer = LoadShedLayer::new(1);
    let mut service = layer.layer(service_fn(
        |_: u32| -> future::Ready<Result<u32, BoxError>> { panic!("made") },
    ));
    let caller = tokio::spawn(async move { service.ready().await?.call(1).await });
    assert!(caller.await.unwrap_err().is_panic());
    assert_eq!(layer.limit().in_flight(), 0);
}

#[tokio::test]
async fn a_call_that_panics_when_polled_frees_its_slot() {
    let layer = LoadShedLayer::new(1);
    let mut service = layer.layer(service_fn(|_: u32| {
        future::poll_fn(|_| -> Poll<Result<u32, BoxError>> { panic!("polled") })
    }));
    let caller = tokio::spawn(async move { service.ready().await?.call(1).await });
    assert!(caller.await.unwrap_err().is_panic());
    assert_eq!(layer.limit().in_flight(), 0);
}

#[tokio::test]
async fn a_slot_is_freed_only_after_the_inner_future_is_gone() {
    let layer = LoadShedLayer::new(1);
    let seen = Arc::new(AtomicUsize::new(0));
    let mut service = layer.layer(service_fn(|_: u32| {
        let at_drop = OnDrop(layer.limit().clone(), seen.clone());
        async move {
            future::pending::<()>().await;
            drop(at_drop);
            Ok::<u32, BoxError>(1)
        }
    }));
    let mut call = call(&mut service, 1);
    assert_pending!(call.poll());
    drop(call);
    assert_eq!(seen.load(SeqCst), 1);
}

/// Writes down how many are in flight when it is dropped.
struct OnDrop(ConcurrencyLimit, Arc<AtomicUsize>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.1.store(self.0.in_flight(), SeqCst);
    }
}

#[tokio::test]
async fn every_clone_is_admitted_after_a_call_ended_though_one_was_shed() {
    let (inner, mut handle) = mock::pair();
    let mut clones = clones_after_a_shed(&LoadShedLayer::new(1), inner, &mut handle);
    for clone in &mut clones {
        drop(call(clone, 3));
    }
    assert_eq!(sent(&mut handle), [3, 3, 3]);
}

#[tokio::test]
async fn every_clone_is_admitted_by_an_inner_limit_of_the_same_size() {
    let (inner, mut handle) = mock::pair();
    let inner = TowersLimit::new(inner, 1);
    let mut clones = clones_after_a_shed(&LoadShedLayer::new(1), inner, &mut handle);
    for clone in &mut clones {
        drop(call(clone, 3));
    }
    assert_eq!(sent(&mut handle), [3, 3, 3]);
}

#[tokio::test]
async fn a_clone_shed_by_an_inner_limit_does_not_capture_its_next_permit() {
    let (inner, mut handle) = mock::pair();
    let inner = TowersLimit::new(inner, 1);
    let mut clones = clones_after_a_shed(&LoadShedLayer::new(8), inner, &mut handle);
    for clone in &mut clones {
        drop(call(clone, 3));
    }
    assert_eq!(sent(&mut handle), [3, 3, 3]);
}

/// A fresh clone, the one whose call was in flight and has ended, and one that was shed meanwhile
/// and has idled since.
fn clones_after_a_shed<S>(
    layer: &LoadShedLayer,
    inner: S,
    handle: &mut Handle<u32, u32>,
) -> [LoadShed<S>; 3]
where
    S: Service<u32, Response = u32, Error = BoxError> + Clone,
{
    let mut busy = layer.layer(inner);
    let mut idle = busy.clone();
    let mut in_flight = call(&mut busy, 1);
    assert!(rejection(&mut call(&mut idle, 2)).is_some());
    let (_, response) = next_sent(handle);
    response.send_response(1);
    assert_ready_ok!(in_flight.poll());
    [busy.clone(), busy, idle]
}

// Readiness

#[tokio::test]
async fn an_inner_service_that_is_not_ready_rejects_at_once() {
    let (mut service, mut handle) = around_strict(&LoadShedLayer::new(1));
    handle.allow(0);
    assert_eq!(rejection(&mut call(&mut service, 1)), OVERLOADED);
}

#[tokio::test]
async fn an_inner_service_that_is_not_ready_rejects_at_once_queue_or_not() {
    let (mut service, mut handle) = around_strict(&queueing(1, 2));
    handle.allow(0);
    assert_eq!(rejection(&mut call(&mut service, 1)), OVERLOADED);
}

#[tokio::test]
async fn a_call_rejected_for_the_inner_service_holds_no_slot() {
    let layer = LoadShedLayer::new(1);
    let (mut service, mut handle) = around_strict(&layer);
    handle.allow(0);
    let _rejected = call(&mut service, 1);
    assert_eq!(layer.limit().in_flight(), 0);
}

#[tokio::test]
async fn an_instance_that_found_the_inner_service_unready_rejects_whatever_changed_since() {
    let (mut service, mut handle) = around_strict(&LoadShedLayer::new(1));
    handle.allow(0);
    assert_ready_ok!(poll_ready(&mut service));
    handle.allow(1);
    assert_eq!(rejection(&mut task::spawn(service.call(1))), OVERLOADED);
}

#[tokio::test]
async fn an_instance_that_was_full_when_polled_rejects_though_a_slot_was_freed_since() {
    let impatient = LoadShedLayer::builder(1).queue(1, Duration::ZERO);
    for layer in [LoadShedLayer::new(1), impatient.build().unwrap()] {
        let (mut service, _handle) = around_strict(&layer);
        let first = call(&mut service, 1);
        assert_ready_ok!(poll_ready(&mut service));
        drop(first);
        assert_eq!(rejection(&mut task::spawn(service.call(2))), OVERLOADED);
    }
}

#[tokio::test]
async fn an_instance_that_was_ready_when_polled_rejects_if_the_slot_is_gone() {
    let layer = LoadShedLayer::new(1);
    let (mut service, _handle) = around_strict(&layer);
    assert_ready_ok!(poll_ready(&mut service));
    let _slot = layer.limit().try_acquire().unwrap();
    assert_eq!(rejection(&mut task::spawn(service.call(1))), OVERLOADED);
}

#[tokio::test]
async fn an_instance_that_was_to_wait_takes_a_slot_freed_since() {
    let (mut service, mut handle) = around_strict(&queueing(1, 1));
    let first = call(&mut service, 1);
    assert_ready_ok!(poll_ready(&mut service));
    drop(first);
    let mut second = task::spawn(service.call(2));
    assert_pending!(second.poll());
    assert_eq!(sent(&mut handle), [1, 2]);
}

#[tokio::test]
async fn an_instance_that_was_to_wait_rejects_if_its_place_is_gone() {
    let (mut service, _handle) = around_strict(&queueing(1, 1));
    let mut other = service.clone();
    let _first = call(&mut service, 1);
    assert_ready_ok!(poll_ready(&mut service));
    let _waiter = call(&mut other, 2);
    assert_eq!(rejection(&mut task::spawn(service.call(3))), OVERLOADED);
}

#[tokio::test]
async fn an_instance_that_found_the_queue_full_rejects_though_a_place_was_freed_since() {
    let (mut service, _handle) = around_strict(&queueing(1, 1));
    let _first = call(&mut service, 1);
    let second = call(&mut service, 2);
    assert_ready_ok!(poll_ready(&mut service));
    drop(second);
    assert_eq!(rejection(&mut task::spawn(service.call(3))), OVERLOADED);
}

#[tokio::test]
async fn a_full_service_does_not_poll_the_inner_one() {
    for layer in [LoadShedLayer::new(1), queueing(1, 1)] {
        let (mut service, mut handle) = around_strict(&layer);
        let _first = call(&mut service, 1);
        handle.send_error("whoever polls first gets this");
        assert_ready_ok!(poll_ready(&mut service));
    }
}

#[tokio::test]
async fn an_error_of_readiness_passes() {
    let (mut service, mut handle) = around_strict(&LoadShedLayer::new(1));
    handle.send_error("gone");
    let error = assert_ready_err!(poll_ready(&mut service));
    assert_eq!(error.to_string(), "gone");
}

#[tokio::test]
async fn an_error_of_the_call_passes() {
    let (mut service, mut handle) = around_strict(&LoadShedLayer::new(1));
    let mut call = call(&mut service, 1);
    let (_, response) = next_sent(&mut handle);
    response.send_error("refused");
    assert_eq!(assert_ready_err!(call.poll()).to_string(), "refused");
}

#[tokio::test]
async fn an_answer_passes() {
    let (mut service, mut handle) = around_strict(&LoadShedLayer::new(1));
    let mut call = call(&mut service, 1);
    let (req, response) = next_sent(&mut handle);
    response.send_response(req + 41);
    assert_eq!(assert_ready_ok!(call.poll()), 42);
}

#[tokio::test]
#[should_panic(expected = "poll_ready must be called before call")]
async fn a_call_that_was_not_readied_panics_with_the_promise() {
    let (mut service, _handle) = around_strict(&LoadShedLayer::new(1));
    drop(service.call(1));
}

#[tokio::test]
#[should_panic(expected = "poll_ready must be called before call")]
async fn readiness_is_good_for_one_call() {
    let (mut service, _handle) = around_strict(&LoadShedLayer::new(2));
    let _first = call(&mut service, 1);
    drop(service.call(2));
}

#[tokio::test]
#[should_panic(expected = "poll_ready must be called before call")]
async fn a_clone_starts_unready() {
    let (mut service, _handle) = around_strict(&LoadShedLayer::new(1));
    assert_ready_ok!(poll_ready(&mut service));
    drop(service.clone().call(1));
}

#[tokio::test]
#[should_panic(expected = "poll_ready must be called before call")]
async fn an_instance_whose_readiness_erred_is_not_ready() {
    let (mut service, mut handle) = around_strict(&LoadShedLayer::new(1));
    assert_ready_ok!(poll_ready(&mut service));
    handle.send_error("gone");
    assert_ready_err!(poll_ready(&mut service));
    drop(service.call(1));
}

#[tokio::test]
async fn ready_clones_that_are_never_called_hold_nothing() {
    let (service, mut handle) = around_strict(&LoadShedLayer::new(1));
    let mut clones = vec![service; 5_000];
    for clone in &mut clones {
        assert_ready_ok!(poll_ready(clone));
    }
    let _call = call(&mut clones[0], 1);
    assert_eq!(sent(&mut handle), [1]);
}

#[tokio::test]
async fn a_rejected_call_leaves_the_readiness_it_did_not_use() {
    let layer = LoadShedLayer::new(1);
    let (mut service, mut handle) = around_strict(&layer);
    assert_ready_ok!(poll_ready(&mut service));
    let slot = layer.limit().try_acquire().unwrap();
    drop(service.call(1));
    drop(slot);
    // Nothing new becomes ready: only what was readied for the rejected call is.
    handle.allow(0);
    let _call = call(&mut service, 2);
    assert_eq!(sent(&mut handle), [2]);
}

#[tokio::test]
async fn the_readied_instance_stays_with_the_caller_of_a_call_that_waits() {
    let layer = queueing(1, 1);
    let (mut service, mut handle) = around_strict(&layer);
    assert_ready_ok!(poll_ready(&mut service));
    let slot = layer.limit().try_acquire().unwrap();
    drop(service.call(1));
    drop(slot);
    handle.allow(0);
    let _call = call(&mut service, 2);
    assert_eq!(sent(&mut handle), [2]);
}

// Sharing

#[tokio::test]
async fn clones_of_a_service_share_one_limit() {
    let (mut one, mut handle) = around_strict(&LoadShedLayer::new(1));
    let mut two = one.clone();
    let (_one, _two) = (call(&mut one, 1), call(&mut two, 2));
    assert_eq!(sent(&mut handle), [1]);
}

#[tokio::test]
async fn services_of_a_layer_and_its_clones_share_one_limit() {
    let layer = LoadShedLayer::new(1);
    let (mut one, mut first) = around_strict(&layer);
    let (mut two, mut second) = around_strict(&layer.clone());
    let (_one, _two) = (call(&mut one, 1), call(&mut two, 2));
    assert_eq!((sent(&mut first), sent(&mut second)), (vec![1], vec![]));
}

#[tokio::test]
async fn the_handle_of_the_layer_is_the_limit_of_its_services() {
    let layer = LoadShedLayer::new(1);
    let (mut service, _handle) = around_strict(&layer);
    let _slot = layer.limit().try_acquire().unwrap();
    assert_eq!(rejection(&mut call(&mut service, 1)), OVERLOADED);
}

#[tokio::test(start_paused = true)]
async fn services_of_a_layer_wait_in_one_queue() {
    let layer = queueing(1, 1);
    let (mut one, _first) = around_strict(&layer);
    let (mut two, _second) = around_strict(&layer);
    let (_in_flight, _waiter) = (call(&mut one, 1), call(&mut two, 2));
    assert_eq!(rejection(&mut call(&mut one, 3)), OVERLOADED);
}

// The queue

#[tokio::test(start_paused = true)]
async fn waiters_go_in_the_order_of_calling_however_they_are_polled() {
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
async fn a_freed_slot_wakes_the_head_of_the_queue_alone() {
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
async fn as_many_calls_as_the_queue_is_long_wait() {
    let (mut service, _handle) = around_strict(&queueing(1, 2));
    let _first = call(&mut service, 1);
    let mut waiters = [2, 3].map(|req| call(&mut service, req));
    assert!(waiters.iter_mut().all(|waiter| waiter.poll().is_pending()));
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_leaves_frees_its_place() {
    let (mut service, _handle) = around_strict(&queueing(1, 2));
    let _first = call(&mut service, 1);
    let [mut leaver, _stayer] = [2, 3].map(|req| call(&mut service, req));
    assert_pending!(leaver.poll());
    drop(leaver);
    assert_pending!(call(&mut service, 4).poll());
}

#[tokio::test(start_paused = true)]
async fn those_behind_a_waiter_that_left_keep_their_order() {
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
async fn a_wait_is_measured_from_the_call() {
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
    // The clock moves, but no timer has been looked at yet.
    let mut advance = task::spawn(time::advance(2 * SECOND));
    assert_pending!(advance.poll());
    assert_eq!(rejection(&mut waiter), OVERLOADED);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_waited_too_long_frees_its_place_before_its_caller_sees_it() {
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
async fn a_turn_and_the_end_of_the_wait_together_are_a_turn() {
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
async fn without_patience_nothing_waits() {
    let layer = LoadShedLayer::builder(1).queue(2, Duration::ZERO);
    let (mut service, _handle) = around_strict(&layer.build().unwrap());
    let _first = call(&mut service, 1);
    assert_eq!(rejection(&mut call(&mut service, 2)), OVERLOADED);
}

#[tokio::test(start_paused = true)]
async fn endless_patience_waits_for_years() {
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
async fn a_granted_slot_that_is_not_redeemed_goes_to_the_next_waiter() {
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
async fn a_slot_granted_to_a_waiter_that_was_never_polled_is_its_own() {
    let (mut service, mut handle) = around_strict(&queueing(1, 2));
    let first = call(&mut service, 1);
    let [mut two, mut three] = [2, 3].map(|req| call(&mut service, req));
    drop(first);
    assert_pending!(three.poll());
    assert_pending!(two.poll());
    assert_eq!(sent(&mut handle), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_granted_slot_that_nobody_redeems_is_free_again() {
    let layer = queueing(1, 2);
    let (mut service, _handle) = around_strict(&layer);
    let first = call(&mut service, 1);
    let waiter = call(&mut service, 2);
    drop(first);
    drop(waiter);
    assert_eq!(layer.limit().in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_does_not_overtake_those_who_wait() {
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
async fn the_handle_does_not_overtake_those_who_wait() {
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
async fn a_slot_of_the_handle_goes_to_those_who_wait() {
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
async fn nobody_overtakes_a_waiter_while_a_raised_limit_lets_others_go() {
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

/// Asks for a slot as soon as it is woken, and notes whether it got one.
struct Newcomer(ConcurrencyLimit, OnceLock<bool>);

impl Wake for Newcomer {
    fn wake(self: Arc<Self>) {
        self.1.set(self.0.try_acquire().is_ok()).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_waiter_goes_when_a_limit_of_none_is_raised() {
    let layer = queueing(0, 1);
    let (mut service, mut handle) = around_strict(&layer);
    let mut waiter = call(&mut service, 1);
    assert_pending!(waiter.poll());
    layer.limit().set_limit(1);
    assert_pending!(waiter.poll());
    assert_eq!(sent(&mut handle), [1]);
}

#[tokio::test(start_paused = true)]
async fn a_lowered_limit_takes_freed_slots_before_those_who_wait_do() {
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
async fn a_waiter_rejected_at_its_turn_leaves_its_slot_to_the_next() {
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
async fn an_error_of_readiness_at_the_turn_passes() {
    let (mut service, mut handle) = around_strict(&queueing(1, 1));
    let first = call(&mut service, 1);
    let mut waiter = call(&mut service, 2);
    drop(first);
    handle.send_error("gone");
    assert_eq!(assert_ready_err!(waiter.poll()).to_string(), "gone");
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_cannot_be_readied_frees_its_slot() {
    let layer = queueing(1, 1);
    let (mut service, mut handle) = around_strict(&layer);
    let first = call(&mut service, 1);
    let mut waiter = call(&mut service, 2);
    drop(first);
    handle.send_error("gone");
    assert_ready_err!(waiter.poll());
    assert_eq!(layer.limit().in_flight(), 0);
}

// Seeing

#[tokio::test(start_paused = true)]
async fn a_snapshot_counts_who_is_in_flight_and_who_waits() {
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
async fn a_call_over_the_limit_is_an_event() {
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
async fn a_call_over_a_limit_that_was_reached_since_it_was_readied_is_an_event() {
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
async fn a_call_beyond_the_queue_is_an_event() {
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
async fn a_call_rejected_for_the_inner_service_is_an_event() {
    let (mut service, mut handle) = around_strict(&LoadShedLayer::new(3));
    handle.allow(0);
    let events = events::of(async { drop(call(&mut service, 1)) }).await;
    assert_eq!(
        events,
        [r#"DEBUG buttress::load_shed overloaded reason="inner_not_ready" limit=3"#]
    );
}

#[tokio::test(start_paused = true)]
async fn a_waiter_rejected_for_the_inner_service_is_an_event() {
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
async fn a_waiter_that_waited_too_long_is_an_event() {
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
async fn a_call_that_waits_is_no_event() {
    let (mut service, _handle) = around_strict(&queueing(1, 1));
    let events = events::of(async {
        let (_one, mut two) = (call(&mut service, 1), call(&mut service, 2));
        assert_pending!(two.poll());
    })
    .await;
    assert_eq!(events, [""; 0]);
}
