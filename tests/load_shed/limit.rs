//! The limit, and which services share it.

use super::{OVERLOADED, SECOND, around_strict, queueing, rejection};
use crate::strict::{call, sent};
use buttress::load_shed::ConcurrencyLimit;
use buttress::{LoadShedLayer, Name, Rejection};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;
use tokio::task::{JoinSet, yield_now};
use tower::{BoxError, Layer, Service, ServiceExt, service_fn};

// The limit

#[tokio::test]
async fn as_many_calls_as_the_limit_are_admitted() {
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
async fn a_limit_of_zero_rejects_everything() {
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
async fn a_limit_above_the_maximum_becomes_the_maximum() {
    let limit = ConcurrencyLimit::new(usize::MAX);
    let _slot = limit.try_acquire().unwrap();
    let snapshot = limit.snapshot();
    assert_eq!((snapshot.limit, snapshot.in_flight), ((1 << 24) - 1, 1));
}

#[tokio::test]
async fn a_changed_limit_above_the_maximum_becomes_the_maximum() {
    let limit = ConcurrencyLimit::new(1);
    let _slot = limit.try_acquire().unwrap();
    limit.set_limit(usize::MAX);
    let snapshot = limit.snapshot();
    assert_eq!((snapshot.limit, snapshot.in_flight), ((1 << 24) - 1, 1));
}

#[test]
fn a_layer_made_by_new_reduces_the_limit_to_the_maximum() {
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
fn a_builder_accepts_the_largest_limit_and_queue() {
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
fn no_call_is_admitted_until_in_flight_is_below_a_lowered_limit() {
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
fn a_rejection_names_the_current_limit() {
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
            // Calls that the higher limit admitted may still run. Once they are done, the lower
            // limit must hold.
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
fn a_slot_released_while_the_next_waiter_is_cancelled_is_free_again() {
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
async fn calls_that_wait_on_many_threads_are_all_sent_and_never_exceed_the_limit() {
    // A waiter that is never woken is rejected in the end and fails the test.
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
