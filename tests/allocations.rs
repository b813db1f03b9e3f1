//! Allocations per call: none, unless the call has to wait, and then one or two boxes.

use buttress::http::stack;
use buttress::retry::{Backoff, Cloned, Jitter};
use buttress::verdict::Outcome;
use buttress::{
    ChaosLayer, CircuitBreakerLayer, Error, ErrorLayer, FallbackLayer, HedgeLayer, LoadShedLayer,
    Quota, RateLimitLayer, RetryLayer, TimeoutLayer, Verdict,
};
use std::alloc::{GlobalAlloc, Layout, System};
use std::borrow::Cow;
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

// SAFETY: forwards every request to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller upholds the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller upholds the contract of `dealloc`.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Responds on the first poll, or on the second if `pending`.
#[derive(Clone)]
struct Inner {
    pending: bool,
}

impl Service<u32> for Inner {
    type Response = u32;
    type Error = Error<Infallible>;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, n: u32) -> ResponseFuture {
        ResponseFuture {
            n,
            pending: self.pending,
        }
    }
}

struct ResponseFuture {
    n: u32,
    pending: bool,
}

impl Future for ResponseFuture {
    type Output = Result<u32, Error<Infallible>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if std::mem::replace(&mut self.pending, false) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Ok(self.n))
    }
}

/// As [`Inner`], with an error that holds no rejection. Pending on the first poll if it is `true`.
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
        Bare(ResponseFuture { n, pending: self.0 })
    }
}

struct Bare(ResponseFuture);

impl Future for Bare {
    type Output = Result<u32, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = Pin::new(&mut self.0).poll(cx);
        polled.map(|response| Ok(response.unwrap()))
    }
}

/// Counts the allocations of the third call. The first call sets up what later calls reuse. If the
/// first call used up the limit, the later ones have to wait.
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

/// The test itself allocates nothing around a call; otherwise the counts below would be wrong.
#[tokio::test(start_paused = true)]
async fn the_counter_sees_a_box_and_nothing_else() {
    assert_eq!(allocations(&mut Inner { pending: true }).await, 0);
    let mut boxed = tower::service_fn(|n: u32| Box::pin(async move { Ok(n) }));
    assert_eq!(allocations(&mut boxed).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_does_not_wait_allocates_only_the_timer_of_its_timeout() {
    for pending in [false, true] {
        let inner = Inner { pending };
        let second = Duration::from_secs(1);
        let counts = [
            allocations(&mut TimeoutLayer::new(second).layer(inner.clone())).await,
            allocations(&mut retry().layer(inner.clone())).await,
            allocations(&mut CircuitBreakerLayer::default().layer(inner.clone())).await,
            allocations(
                &mut RateLimitLayer::new(Quota::per_second(9).burst(9)).layer(inner.clone()),
            )
            .await,
            allocations(&mut LoadShedLayer::new(9).layer(inner.clone())).await,
            allocations(&mut fallback().layer(inner.clone())).await,
            allocations(&mut hedge().layer(inner.clone())).await,
            allocations(
                &mut ChaosLayer::builder()
                    .hang(1.0)
                    .build()
                    .unwrap()
                    .layer(inner),
            )
            .await,
        ];
        assert_eq!(
            counts,
            [usize::from(pending), 0, 0, 0, 0, 0, usize::from(pending), 0],
            "timeout, retry, breaker, rate limit, shed, fallback, hedge, chaos; pending: {pending}"
        );
    }
}

fn fallback() -> FallbackLayer<buttress::fallback::To<Inner>, buttress::verdict::Outcome, Cloned> {
    FallbackLayer::to(Inner { pending: false }).replay(Cloned)
}

fn hedge() -> HedgeLayer<buttress::verdict::Outcome, Cloned> {
    HedgeLayer::builder().replay(Cloned).build().unwrap()
}

fn retry() -> RetryLayer<buttress::verdict::Outcome, Cloned> {
    RetryLayer::builder().replay(Cloned).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn finding_a_known_key_allocates_nothing() {
    #[expect(clippy::unnecessary_wraps, reason = "a request may have no key")]
    fn key(_: &u32) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed("key"))
    }
    let inner = Inner { pending: false };
    let breaker = CircuitBreakerLayer::builder().per_key(key).build();
    let limit = RateLimitLayer::builder(Quota::per_second(9).burst(9)).per_key(key);
    let shed = LoadShedLayer::builder(9).per_key(key).build();
    let stack = stack().carrier(()).replay(Cloned).classify(Outcome);
    let stack = stack.load_shed(9).rate_limit(Quota::per_second(9));
    let counts = [
        allocations(&mut breaker.unwrap().layer(inner.clone())).await,
        allocations(&mut limit.build().unwrap().layer(inner.clone())).await,
        allocations(&mut shed.unwrap().layer(inner)).await,
        allocations(&mut stack.per_key(key).service(Client(false)).unwrap()).await,
    ];
    assert_eq!(counts, [0; 4], "breaker, rate limit, shed, stack");
}

#[tokio::test(start_paused = true)]
async fn the_whole_stack_allocates_only_the_timers_of_its_two_timeouts() {
    for pending in [false, true] {
        let mut stack = tower::ServiceBuilder::new()
            .layer(TimeoutLayer::new(Duration::from_secs(10)))
            .layer(retry())
            .layer(LoadShedLayer::new(9))
            .layer(RateLimitLayer::new(Quota::per_second(9).burst(9)))
            .layer(CircuitBreakerLayer::default())
            .layer(TimeoutLayer::new(Duration::from_secs(2)))
            .layer(ErrorLayer)
            .service(Client(pending));
        let timers = if pending { 2 } else { 0 };
        assert_eq!(allocations(&mut stack).await, timers, "pending: {pending}");
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
async fn a_call_that_waits_allocates_one_box_and_one_timer() {
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
        .no_budget()
        .classify(judge);
    let retry = retry.build().unwrap();
    assert_eq!(
        allocations(&mut retry.layer(inner.clone())).await,
        1,
        "retry: its timer is in the box"
    );

    let limit = RateLimitLayer::new(Quota::new(1, tick).burst(1));
    assert_eq!(
        allocations(&mut limit.layer(inner.clone())).await,
        2,
        "rate limit"
    );

    let shed = LoadShedLayer::builder(1).queue(4, tick).build().unwrap();
    let _slot = shed.limit().try_acquire().unwrap();
    assert_eq!(allocations(&mut shed.layer(inner)).await, 2, "load shed");
}

#[tokio::test(start_paused = true)]
async fn waiting_for_readiness_allocates_only_the_timer() {
    /// Returns `Pending` once before each call.
    #[derive(Clone)]
    struct SlowToReady {
        polled: bool,
    }

    impl Service<u32> for SlowToReady {
        type Response = u32;
        type Error = Error<Infallible>;
        type Future = ResponseFuture;

        fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            self.polled = !self.polled;
            if self.polled {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, n: u32) -> ResponseFuture {
            ResponseFuture { n, pending: false }
        }
    }

    let layer = TimeoutLayer::new(Duration::from_secs(1));
    let mut service = layer.layer(SlowToReady { polled: false });
    assert_eq!(allocations(&mut service).await, 1);
}
