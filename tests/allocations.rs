//! No allocation of ours on the way of a call: ready, pending, rejected or waiting.

use buttress::retry::{Backoff, Cloned, Jitter};
use buttress::{
    CircuitBreakerLayer, Error, ErrorLayer, LoadShedLayer, Quota, RateLimitLayer, RetryLayer,
    TimeoutLayer, Verdict,
};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll};
use std::time::Duration;
use tower::{Layer, Service, ServiceExt};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: passes every request on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Answers at once, or after one pending poll.
#[derive(Clone)]
struct Inner {
    pending: bool,
}

impl Service<u32> for Inner {
    type Response = u32;
    type Error = Error<Infallible>;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, n: u32) -> Answer {
        Answer {
            n,
            pending: self.pending,
        }
    }
}

struct Answer {
    n: u32,
    pending: bool,
}

impl Future for Answer {
    type Output = Result<u32, Error<Infallible>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if std::mem::replace(&mut self.pending, false) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Ok(self.n))
    }
}

/// The allocations of the third call: those before set up what is kept, the first one by itself, the
/// second one where it has to wait because of the first.
async fn allocations<S>(service: &mut S) -> usize
where
    S: Service<u32, Response = u32, Error = Error<Infallible>>,
{
    let mut counted = 0;
    for _ in 0..3 {
        let before = ALLOCATIONS.get();
        let ready = service.ready().await.unwrap();
        let call = pin!(ready.call(7));
        let _outcome = call.await;
        counted = ALLOCATIONS.get() - before;
    }
    counted
}

/// What the test itself allocates around a call: nothing, or the counts below mean nothing.
#[tokio::test(start_paused = true)]
async fn the_count_starts_from_nothing_and_sees_a_box() {
    assert_eq!(allocations(&mut Inner { pending: true }).await, 0);
    let mut boxed = tower::service_fn(|n: u32| Box::pin(async move { Ok(n) }));
    assert_eq!(allocations(&mut boxed).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_ready_or_pending_allocates_nothing() {
    for pending in [false, true] {
        let inner = Inner { pending };
        let second = Duration::from_secs(1);
        let counts = [
            allocations(&mut TimeoutLayer::new(second).layer(inner.clone())).await,
            allocations(&mut retry().layer(inner.clone())).await,
            allocations(&mut CircuitBreakerLayer::default().layer(inner.clone())).await,
            allocations(&mut RateLimitLayer::new(Quota::per_second(9)).layer(inner.clone())).await,
            allocations(&mut LoadShedLayer::new(9).layer(inner)).await,
        ];
        assert_eq!(
            counts, [0; 5],
            "timeout, retry, breaker, rate limit, shed; pending: {pending}"
        );
    }
}

fn retry() -> RetryLayer<buttress::classify::Outcome, Cloned> {
    RetryLayer::builder().replay(Cloned).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_whole_stack_allocates_nothing() {
    #[derive(Clone)]
    struct Client(bool);
    impl Service<u32> for Client {
        type Response = u32;
        type Error = Infallible;
        type Future = Bare;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }
        fn call(&mut self, n: u32) -> Bare {
            Bare(Answer { n, pending: self.0 })
        }
    }
    struct Bare(Answer);
    impl Future for Bare {
        type Output = Result<u32, Infallible>;
        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
            Pin::new(&mut self.0)
                .poll(cx)
                .map(|answer| Ok(answer.unwrap()))
        }
    }
    for pending in [false, true] {
        let mut stack = tower::ServiceBuilder::new()
            .layer(TimeoutLayer::new(Duration::from_secs(10)))
            .layer(retry())
            .layer(LoadShedLayer::new(9))
            .layer(RateLimitLayer::new(Quota::per_second(9)))
            .layer(CircuitBreakerLayer::default())
            .layer(TimeoutLayer::new(Duration::from_secs(2)))
            .layer(ErrorLayer)
            .service(Client(pending));
        assert_eq!(allocations(&mut stack).await, 0, "pending: {pending}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_rejection_allocates_nothing() {
    let inner = Inner { pending: true };
    let breaker = CircuitBreakerLayer::default();
    breaker.circuit().force_open();
    let counts = [
        allocations(&mut TimeoutLayer::new(Duration::ZERO).layer(inner.clone())).await,
        allocations(&mut breaker.layer(inner.clone())).await,
        allocations(&mut RateLimitLayer::new(Quota::per_second(0)).layer(inner.clone())).await,
        allocations(&mut LoadShedLayer::new(0).layer(inner)).await,
    ];
    assert_eq!(counts, [0; 4], "timeout, breaker, rate limit, shed");
}

#[tokio::test(start_paused = true)]
async fn a_wait_in_the_future_allocates_nothing() {
    let inner = Inner { pending: false };
    let tick = Duration::from_millis(10);

    let first = AtomicBool::new(false);
    let judge = move |_: Result<&u32, &Error<Infallible>>| {
        if first.fetch_xor(true, SeqCst) {
            Verdict::Healthy
        } else {
            Verdict::TRANSIENT
        }
    };
    let judge = std::sync::Arc::new(judge);
    let judge = move |outcome: Result<&u32, &Error<Infallible>>| judge(outcome);
    let backoff = Backoff::exponential(tick, tick).jitter(Jitter::None);
    let retry = RetryLayer::builder()
        .replay(Cloned)
        .backoff(backoff)
        .classify(judge);
    let retry = retry.build().unwrap();
    assert_eq!(
        allocations(&mut retry.layer(inner.clone())).await,
        0,
        "retry"
    );

    let limit = RateLimitLayer::new(Quota::new(1, tick).burst(1));
    assert_eq!(
        allocations(&mut limit.layer(inner.clone())).await,
        0,
        "rate limit"
    );

    let shed = LoadShedLayer::builder(1).queue(4, tick).build().unwrap();
    let _slot = shed.limit().try_acquire().unwrap();
    assert_eq!(allocations(&mut shed.layer(inner)).await, 0, "load shed");
}

/// Pending once before each call.
#[derive(Clone)]
struct SlowToReady {
    polled: bool,
}

impl Service<u32> for SlowToReady {
    type Response = u32;
    type Error = Error<Infallible>;
    type Future = Answer;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.polled = !self.polled;
        if self.polled {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, n: u32) -> Answer {
        Answer { n, pending: false }
    }
}

/// On a thread of its own: what a thread keeps is there for all its tests.
fn on_a_thread(paused: bool, test: impl Future<Output = ()> + Send + 'static) {
    let run = move || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(paused).build();
        runtime.unwrap().block_on(test);
    };
    std::thread::spawn(run).join().unwrap();
}

#[test]
fn a_wait_boxes_its_timer_once_a_thread() {
    // Kept registered, and not, be it for the clock or for the length.
    for (paused, seconds) in [(false, 1), (true, 1), (false, 300)] {
        on_a_thread(paused, async move {
            let layer = TimeoutLayer::new(Duration::from_secs(seconds));
            let before = ALLOCATIONS.get();
            layer
                .layer(Inner { pending: true })
                .oneshot(7)
                .await
                .unwrap();
            assert!(ALLOCATIONS.get() > before, "it is boxed");

            let before = ALLOCATIONS.get();
            let mut slow = layer.layer(SlowToReady { polled: false });
            slow.ready().await.unwrap().call(7).await.unwrap();
            layer
                .layer(Inner { pending: true })
                .oneshot(7)
                .await
                .unwrap();
            assert_eq!(ALLOCATIONS.get() - before, 0, "{paused} {seconds}");
        });
    }
}

#[test]
fn a_thousand_waits_at_once_box_their_timers_once() {
    on_a_thread(false, async {
        let layer = TimeoutLayer::new(Duration::from_secs(1));
        let mut counted = [0; 2];
        for counted in &mut counted {
            let mut calls: Vec<_> = (0..1_000)
                .map(|_| Box::pin(layer.layer(Inner { pending: true }).oneshot(7)))
                .collect();
            let before = ALLOCATIONS.get();
            for call in &mut calls {
                let mut task = tokio_test::task::spawn(());
                task.enter(|cx, _| assert!(call.as_mut().poll(cx).is_pending()));
            }
            *counted = ALLOCATIONS.get() - before;
        }
        // The tasks' own are in both.
        assert!(counted[1] + 1_000 <= counted[0], "{counted:?}");
    });
}
