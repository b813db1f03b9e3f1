//! Several threads, and state that changes between two checks of it.

use super::Fine;
use buttress::circuit_breaker::{Circuit, WhenOpen, Window};
use buttress::load_shed::Slot;
use buttress::retry::{Backoff, Cloned};
use buttress::{
    Carrier, CircuitBreakerLayer, Deadline, Error, LoadShedLayer, Name, Rejection, RetryLayer,
    Verdict,
};
use std::future::{Ready, ready};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use tower::limit::ConcurrencyLimit;
use tower::{Layer, Service, ServiceExt, service_fn};

// Threads

#[test]
fn a_snapshot_never_shows_more_failures_than_calls() {
    let circuit = Circuit::builder()
        .window(Window::count(100))
        .build()
        .unwrap();
    circuit.force_closed();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(SeqCst) {
                circuit.try_acquire().unwrap().settle(Verdict::TRANSIENT);
            }
        });
        let odd = (0..200_000)
            .map(|_| circuit.snapshot())
            .find(|seen| seen.failures > seen.calls);
        stop.store(true, SeqCst);
        assert_eq!(odd, None);
    });
}

/// Yields to other threads while it is cloned.
#[derive(Debug)]
struct SlowToClone {
    sends: Arc<AtomicU32>,
}

impl Clone for SlowToClone {
    fn clone(&self) -> Self {
        std::thread::yield_now();
        Self {
            sends: self.sends.clone(),
        }
    }
}

impl Service<()> for SlowToClone {
    type Response = ();
    type Error = Error<&'static str>;
    type Future = Ready<Result<(), Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        self.sends.fetch_add(1, SeqCst);
        ready(Err(Error::Service("down")))
    }
}

#[test]
fn concurrent_retries_make_all_their_attempts() {
    let sends = Arc::new(AtomicU32::new(0));
    let retry = RetryLayer::builder()
        .no_budget()
        .backoff(Backoff::constant(Duration::ZERO))
        .replay(Cloned)
        .build()
        .unwrap();
    let service = retry.layer(SlowToClone {
        sends: sends.clone(),
    });
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let service = service.clone();
            scope.spawn(move || {
                for _ in 0..100 {
                    let outcome = tokio_test::block_on(service.clone().oneshot(()));
                    assert_eq!(outcome, Err(Error::Service("down")));
                }
            });
        }
    });
    assert_eq!(sends.load(SeqCst), 4 * 100 * 3);
}

// State that changes between two checks of it

/// Releases a slot when the layer looks for a deadline, as another thread might at any time.
#[derive(Clone)]
struct GivesBack(Arc<Mutex<Option<Slot>>>);

impl Carrier<()> for GivesBack {
    fn get(&self, (): &()) -> Option<Deadline> {
        self.0.lock().unwrap().take();
        None
    }

    fn set(&self, (): &mut (), _: Deadline) {}
}

#[tokio::test(start_paused = true)]
async fn a_slot_freed_during_a_call_is_used_by_the_ready_instance() {
    let slot = Arc::new(Mutex::new(None));
    let shed = LoadShedLayer::builder(1).carrier(GivesBack(slot.clone()));
    let shed = shed.build().unwrap();
    let mut service = shed.layer(ConcurrencyLimit::new(Fine, 1));
    let readied = service.ready().await.unwrap();
    *slot.lock().unwrap() = Some(shed.limit().try_acquire().unwrap());
    assert_eq!(readied.call(()).await, Ok(()));
}

/// Panics when it is woken for the first time.
struct BadWaker(AtomicBool);

impl Wake for BadWaker {
    fn wake(self: Arc<Self>) {
        assert!(self.0.swap(true, SeqCst), "a waker that panics");
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_ended_by_the_callers_deadline_is_released_once_even_if_a_waker_panics() {
    let breaker = CircuitBreakerLayer::builder()
        .consecutive_failures(1)
        .open_for(Duration::ZERO)
        .probes(2)
        .when_open(WhenOpen::NotReady)
        .build()
        .unwrap();
    let circuit = breaker.circuit().clone();
    circuit.try_acquire().unwrap().settle(Verdict::TRANSIENT);
    let no_time = |()| {
        ready(Err::<(), _>(Error::<&str>::Rejected(
            Rejection::DeadlinePassed { by: Name::UNNAMED },
        )))
    };
    let service = breaker.layer(service_fn(no_time));

    let mut first = service.clone();
    let mut probe = Box::pin(first.ready().await.unwrap().call(()));
    let _other = circuit.try_acquire().unwrap();
    let waker = Waker::from(Arc::new(BadWaker(AtomicBool::new(false))));
    let mut third = service.clone();
    let waits = third.poll_ready(&mut Context::from_waker(&waker));
    assert!(waits.is_pending());

    let mut cx = Context::from_waker(Waker::noop());
    let polled = catch_unwind(AssertUnwindSafe(|| probe.as_mut().poll(&mut cx).is_ready()));
    assert!(polled.is_err());
    drop(probe);
    assert_eq!(circuit.snapshot().probes_out, 1);
}
