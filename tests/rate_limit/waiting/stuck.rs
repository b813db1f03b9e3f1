//! Waiters that are never polled again, and wakers, which run user code.

use super::{SECOND, STEADY, TENTHS, patient, tenths, unpolled, waiting, waits_up_to};
use buttress::rate_limit::RateLimiter;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::Duration;
use tokio::runtime::{self, Runtime};
use tokio::time::{self, Instant, timeout};
use tokio_test::{assert_pending, assert_ready_ok};

fn runtime() -> Runtime {
    runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
}

// Waiters that are never polled again

#[tokio::test(start_paused = true)]
async fn waiters_that_are_never_polled_delay_others_only_by_their_own_turns() {
    let limiter = patient(TENTHS);
    let start = Instant::now();
    // Five waiters are polled once and never again.
    let _stuck: Vec<_> = (0..5).map(|_| waiting(&limiter, 1)).collect();
    let mut waiter = pin!(limiter.acquire(1));
    waiter.as_mut().await.unwrap();
    assert!(start.elapsed() <= tenths(6 + 5), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_is_never_taken_does_not_delay_the_next_one() {
    let limiter = patient(TENTHS);
    let start = Instant::now();
    let stuck = waiting(&limiter, 1);
    time::sleep(tenths(1)).await;
    limiter.try_acquire(1).unwrap_err();
    assert!(stuck.is_woken());
    for i in 2..10 {
        limiter.acquire(1).await.unwrap();
        assert_eq!(start.elapsed(), tenths(i));
    }
}

#[test]
fn a_waiter_on_a_runtime_that_ended_does_not_delay_others() {
    let (limiter, ended) = (waits_up_to(Duration::MAX, TENTHS), runtime());
    limiter.try_acquire(1).unwrap();
    let left: Vec<_> = ended.block_on(async { (0..3).map(|_| waiting(&limiter, 1)).collect() });
    drop(ended);
    runtime().block_on(async {
        let start = Instant::now();
        limiter.acquire(1).await.unwrap();
        assert!(start.elapsed() <= tenths(4 + 3));
        drop(left);
        assert_eq!(limiter.snapshot().waiting, 0);
    });
}

#[test]
fn a_waiter_may_move_to_another_runtime() {
    for ends in [true, false] {
        let (limiter, first) = (waits_up_to(Duration::MAX, TENTHS), runtime());
        limiter.try_acquire(1).unwrap();
        let entered = first.enter();
        let mut future = waiting(&limiter, 1);
        drop(entered);
        // The first runtime has ended, or nothing drives its timers.
        let kept = (!ends).then_some(first);
        runtime().block_on(async {
            let granted = poll_fn(|cx| pin!(&mut *future).poll(cx));
            timeout(SECOND, granted).await.unwrap().unwrap();
        });
        drop(kept);
    }
}

// Wakers run user code

/// A waker that uses the limiter whenever it is woken or dropped.
struct Nosy {
    limiter: RateLimiter,
    looks: Arc<AtomicUsize>,
}

impl Nosy {
    fn waker(limiter: &RateLimiter, looks: &Arc<AtomicUsize>) -> Waker {
        Waker::from(Arc::new(Self {
            limiter: limiter.clone(),
            looks: looks.clone(),
        }))
    }

    fn look(&self) {
        let _ = self.limiter.snapshot();
        let _ = self.limiter.try_acquire(1);
        self.looks.fetch_add(1, SeqCst);
    }
}

impl Wake for Nosy {
    fn wake(self: Arc<Self>) {
        self.look();
    }
}

impl Drop for Nosy {
    fn drop(&mut self) {
        self.look();
    }
}

#[test]
fn wakers_may_use_the_limiter() {
    // Use a separate thread, so that a deadlock fails the test instead of blocking it.
    let (done, end) = mpsc::channel();
    thread::spawn(move || {
        runtime().block_on(async {
            let looks = Arc::default();
            let limiter = waits_up_to(10 * SECOND, STEADY);
            limiter.try_acquire(1).unwrap();
            let mut waiters: Vec<_> = (0..6).map(|_| unpolled(&limiter, 1)).collect();
            for waiter in &mut waiters {
                for _ in 0..2 {
                    let waker = Nosy::waker(&limiter, &looks);
                    let mut cx = Context::from_waker(&waker);
                    assert_pending!(pin!(&mut **waiter).poll(&mut cx));
                }
            }
            let replaced = looks.load(SeqCst);
            assert!(replaced >= 6, "{replaced}");
            drop(waiters.remove(2)); // gives up
            time::advance(SECOND).await;
            limiter.try_acquire(1).unwrap_err(); // hands a turn to a waiter
            drop(waiters.remove(0)); // hands the turn to the next one
            limiter.set_quota(TENTHS);
            limiter.pause_until(Instant::now() + 60 * SECOND); // rejects the waiters
            limiter.resume();
            drop(waiters);
            assert!(looks.load(SeqCst) >= replaced + 6);
        });
        done.send(()).unwrap();
    });
    end.recv_timeout(30 * SECOND)
        .expect("a deadlock, or a panic");
}

// Snapshots

#[tokio::test(start_paused = true)]
async fn a_snapshot_counts_the_waiters() {
    let limiter = patient(TENTHS);
    let counts = |limiter: &RateLimiter| {
        let snapshot = limiter.snapshot();
        (snapshot.waiting, snapshot.available)
    };
    assert_eq!(counts(&limiter), (0, 0));
    let first = waiting(&limiter, 1);
    let mut second = waiting(&limiter, 1);
    assert_eq!(counts(&limiter), (2, 0));
    drop(first);
    assert_eq!(counts(&limiter), (1, 0));
    time::advance(tenths(1)).await;
    assert_ready_ok!(second.poll());
    assert_eq!(counts(&limiter), (0, 0));
}
