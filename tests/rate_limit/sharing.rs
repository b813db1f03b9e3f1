//! Which services share a limit.

use super::{DAY, STEADY, around_strict, echo, impatient};
use crate::strict::{call, poll_ready, sent};
use buttress::Quota;
use buttress::rate_limit::RateLimiter;
use std::sync::Barrier;
use std::task::Poll;
use std::thread;
use tokio::runtime;
use tokio_test::{assert_ready_ok, task};
use tower::{BoxError, Layer, Service};

#[tokio::test(start_paused = true)]
async fn ready_clones_that_are_never_called_take_no_turn() {
    let layer = impatient(STEADY.burst(2));
    let (service, _handle) = around_strict(&layer);
    let mut clones = vec![service; 5_000];
    for clone in &mut clones {
        assert_ready_ok!(poll_ready(clone));
    }
    assert_eq!(layer.limiter().try_acquire(2), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn clones_of_a_service_share_one_limit() {
    let (mut one, mut handle) = around_strict(&impatient(STEADY));
    let mut two = one.clone();
    let (_one, _two) = (call(&mut one, 1), call(&mut two, 2));
    assert_eq!(sent(&mut handle), [1]);
}

#[tokio::test(start_paused = true)]
async fn services_of_a_layer_and_its_clones_share_one_limit() {
    let layer = impatient(STEADY);
    let (mut one, mut first) = around_strict(&layer);
    let (mut two, mut second) = around_strict(&layer.clone());
    let (_one, _two) = (call(&mut one, 1), call(&mut two, 2));
    assert_eq!((sent(&mut first), sent(&mut second)), (vec![1], vec![]));
}

#[tokio::test(start_paused = true)]
async fn the_handle_of_the_layer_is_the_limit_of_its_services() {
    let layer = impatient(STEADY);
    let (mut service, mut handle) = around_strict(&layer);
    layer.limiter().try_acquire(1).unwrap();
    let _call = call(&mut service, 1);
    assert_eq!(sent(&mut handle), [0_u32; 0]);
}

#[test]
fn two_threads_share_one_limit() {
    // Do not pause the clock: its lock would let the threads in one by one. At one call per hour
    // nothing is refilled during the test, and a million calls are enough for the threads to race.
    let limiter = RateLimiter::new(Quota::new(1, DAY / 24).burst(1_000_000));
    let together = Barrier::new(2);
    let granted = thread::scope(|scope| {
        let threads = [limiter.clone(), limiter].map(|limiter| {
            let together = &together;
            scope.spawn(move || {
                together.wait();
                let granted = (0..1_000_000).filter(|_| limiter.try_acquire(1).is_ok());
                granted.count()
            })
        });
        threads.map(|thread| thread.join().unwrap())
    });
    assert_eq!(granted[0] + granted[1], 1_000_000);
}

#[tokio::test(start_paused = true)]
async fn two_clones_on_two_threads_share_one_limit() {
    let mut service = impatient(Quota::new(1, DAY).burst(100)).layer(echo());
    let clock = runtime::Handle::current();
    let mut other = service.clone();
    let (one, two) = thread::scope(|scope| {
        let other = scope.spawn(|| {
            let _paused = clock.enter();
            succeed_at_once(&mut other)
        });
        (succeed_at_once(&mut service), other.join().unwrap())
    });
    assert_eq!(one + two, 100);
}

/// How many of a hundred calls succeed without waiting.
fn succeed_at_once(service: &mut impl Service<u32, Response = u32, Error = BoxError>) -> usize {
    let succeeds = |req: &u32| {
        assert_ready_ok!(poll_ready(service));
        matches!(task::spawn(service.call(*req)).poll(), Poll::Ready(Ok(_)))
    };
    (0..100).filter(succeeds).count()
}
