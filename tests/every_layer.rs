//! What holds for every layer, alone and in every ordered pair: a new layer is one line in `ALL`.

use buttress::circuit_breaker::Circuit;
use buttress::load_shed::ConcurrencyLimit;
use buttress::rate_limit::RateLimiter;
use buttress::retry::{Backoff, Budget, Cloned, Jitter};
use buttress::timeout::TimeoutLayer;
use buttress::{
    Carrier, CircuitBreakerLayer, Deadline, Error, LoadShedLayer, Quota, RateLimitLayer, Rejection,
    RetryLayer, Verdict,
};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio_test::task;
use tower::util::BoxCloneSyncService;
use tower::{Layer, Service, ServiceExt};

type Res = Result<u32, Error<&'static str>>;
type Boxed = BoxCloneSyncService<u32, u32, Error<&'static str>>;

const TICK: Duration = Duration::from_millis(10);

/// A service that panics when it is called unready, and counts what is reserved and in flight.
#[derive(Debug)]
struct Strict {
    shared: Arc<Shared>,
    ready: bool,
    polled: bool,
}

#[derive(Debug, Default)]
struct Shared {
    /// Each instance's first look at its readiness is pending.
    pending_once: bool,
    fails_to_ready: bool,
    reserved: AtomicUsize,
    in_flight: AtomicUsize,
    calls: AtomicUsize,
}

impl Strict {
    fn new(pending_once: bool) -> Self {
        Self::of(Shared {
            pending_once,
            ..Shared::default()
        })
    }

    fn of(shared: Shared) -> Self {
        Self {
            shared: Arc::new(shared),
            ready: false,
            polled: false,
        }
    }

    fn give_up_readiness(&mut self) {
        if std::mem::replace(&mut self.ready, false) {
            self.shared.reserved.fetch_sub(1, SeqCst);
        }
    }
}

impl Clone for Strict {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            ready: false,
            polled: false,
        }
    }
}

impl Drop for Strict {
    fn drop(&mut self) {
        self.give_up_readiness();
    }
}

impl Service<u32> for Strict {
    type Response = u32;
    type Error = Error<&'static str>;
    type Future = Answer;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        if self.shared.fails_to_ready {
            return Poll::Ready(Err(Error::Service("not ready")));
        }
        if self.shared.pending_once && !std::mem::replace(&mut self.polled, true) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if !std::mem::replace(&mut self.ready, true) {
            self.shared.reserved.fetch_add(1, SeqCst);
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, n: u32) -> Answer {
        assert!(self.ready, "called unready");
        self.give_up_readiness();
        self.polled = false;
        self.shared.calls.fetch_add(1, SeqCst);
        self.shared.in_flight.fetch_add(1, SeqCst);
        Answer {
            n,
            shared: self.shared.clone(),
            polled: false,
        }
    }
}

/// Pending once, then the answer.
struct Answer {
    n: u32,
    shared: Arc<Shared>,
    polled: bool,
}

impl Future for Answer {
    type Output = Res;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Res> {
        if std::mem::replace(&mut self.polled, true) {
            return Poll::Ready(Ok(self.n));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.shared.in_flight.fetch_sub(1, SeqCst);
    }
}

/// Every request has a deadline that it does not meet.
#[derive(Clone)]
struct FarAway;

impl Carrier<u32> for FarAway {
    fn get(&self, _: &u32) -> Option<Deadline> {
        Some(Deadline::after(Duration::from_secs(3_600)))
    }

    fn set(&self, _: &mut u32, _: Deadline) {}
}

/// A layer in one of its moods.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mood {
    Timeout,
    TimesOut,
    Deadline,
    Retry,
    RetriesOnce,
    Breaker,
    Open,
    Limit,
    OverLimit,
    WaitsForTurn,
    Shed,
    Full,
    Queues,
}

const ALL: [Mood; 13] = [
    Mood::Timeout,
    Mood::TimesOut,
    Mood::Deadline,
    Mood::Retry,
    Mood::RetriesOnce,
    Mood::Breaker,
    Mood::Open,
    Mood::Limit,
    Mood::OverLimit,
    Mood::WaitsForTurn,
    Mood::Shed,
    Mood::Full,
    Mood::Queues,
];

/// What the layers share, to see that nothing is left in it.
#[derive(Default)]
struct Handles {
    limits: Vec<ConcurrencyLimit>,
    circuits: Vec<Circuit>,
    budgets: Vec<Budget>,
    /// Held for one tick by each call.
    queues: Vec<ConcurrencyLimit>,
}

impl Handles {
    fn occupy_queues(&self) {
        for queue in &self.queues {
            if let Ok(slot) = queue.try_acquire() {
                tokio::spawn(async move {
                    tokio::time::sleep(TICK).await;
                    drop(slot);
                });
            }
        }
    }

    fn assert_nothing_held(&self, what: &dyn std::fmt::Debug) {
        for limit in &self.limits {
            let snapshot = limit.snapshot();
            assert_eq!((snapshot.in_flight, snapshot.waiting), (0, 0), "{what:?}");
        }
        for circuit in &self.circuits {
            assert_eq!(circuit.snapshot().probes_out, 0, "{what:?}");
        }
    }
}

impl Mood {
    fn over(self, inner: Boxed, handles: &mut Handles) -> Boxed {
        match self {
            Self::Timeout => box_of(TimeoutLayer::new(Duration::MAX).layer(inner)),
            Self::TimesOut => box_of(TimeoutLayer::new(Duration::ZERO).layer(inner)),
            Self::Deadline => {
                let builder = TimeoutLayer::builder(Duration::MAX).carrier(FarAway);
                box_of(builder.build().unwrap().layer(inner))
            }
            Self::Retry => {
                let layer = RetryLayer::builder().replay(Cloned).build().unwrap();
                handles.budgets.extend(layer.budget().cloned());
                box_of(layer.layer(inner))
            }
            Self::RetriesOnce => {
                // Every other outcome is called transient: each call is sent twice.
                let first = Arc::new(AtomicBool::new(false));
                let judge = move |_: Result<&u32, &Error<&'static str>>| {
                    let first = !first.fetch_xor(true, SeqCst);
                    if first {
                        Verdict::TRANSIENT
                    } else {
                        Verdict::Healthy
                    }
                };
                let backoff = Backoff::exponential(TICK, TICK).jitter(Jitter::None);
                let layer = RetryLayer::builder()
                    .attempts(2)
                    .replay(Cloned)
                    .classify(judge);
                let layer = layer.backoff(backoff).build().unwrap();
                handles.budgets.extend(layer.budget().cloned());
                box_of(layer.layer(inner))
            }
            Self::Breaker => {
                let layer = CircuitBreakerLayer::default();
                handles.circuits.push(layer.circuit().clone());
                box_of(layer.layer(inner))
            }
            Self::Open => {
                let layer = CircuitBreakerLayer::default();
                layer.circuit().force_open();
                box_of(layer.layer(inner))
            }
            Self::Limit => box_of(RateLimitLayer::new(Quota::per_second(1_000_000)).layer(inner)),
            Self::OverLimit => box_of(RateLimitLayer::new(Quota::per_second(0)).layer(inner)),
            Self::WaitsForTurn => {
                let quota = Quota::new(1, TICK).burst(1);
                let layer = RateLimitLayer::builder(quota)
                    .max_wait(Duration::MAX)
                    .build()
                    .unwrap();
                layer
                    .limiter()
                    .pause_until(tokio::time::Instant::now() + TICK);
                box_of(layer.layer(inner))
            }
            Self::Shed => {
                let layer = LoadShedLayer::new(100);
                handles.limits.push(layer.limit().clone());
                box_of(layer.layer(inner))
            }
            Self::Full => box_of(LoadShedLayer::new(0).layer(inner)),
            Self::Queues => {
                let layer = LoadShedLayer::builder(1)
                    .queue(5, Duration::MAX)
                    .build()
                    .unwrap();
                handles.limits.push(layer.limit().clone());
                handles.queues.push(layer.limit().clone());
                box_of(layer.layer(inner))
            }
        }
    }

    /// What the layer makes of what it stands on.
    fn expected(self, below: Expected) -> Expected {
        let answer = |outcome| Expected { outcome, ..below };
        let at_once = |outcome| Expected {
            readiness: Now,
            outcome: (Now, outcome),
        };
        let shed = match below.readiness {
            Later => (Now, Outcome::Overloaded),
            Now => below.outcome,
        };
        match self {
            Self::Timeout | Self::Deadline | Self::Retry | Self::Breaker | Self::Limit => below,
            Self::TimesOut => match below {
                // An answer that is there at once beats the timer.
                Expected {
                    readiness: Now,
                    outcome: (Now, outcome),
                } => at_once(outcome),
                _ => at_once(Outcome::TimedOut),
            },
            // Sent again, unless a rejection of another kind than a timeout says it was not sent.
            Self::RetriesOnce => match below.outcome.1 {
                Outcome::Ok | Outcome::TimedOut => answer((Later, below.outcome.1)),
                _ => below,
            },
            Self::Open => at_once(Outcome::CircuitOpen),
            Self::OverLimit => answer((Now, Outcome::RateLimited)),
            Self::WaitsForTurn => answer((Later, below.outcome.1)),
            Self::Shed => Expected {
                readiness: Now,
                outcome: shed,
            },
            Self::Full => at_once(Outcome::Overloaded),
            Self::Queues => Expected {
                readiness: Now,
                outcome: (Later, shed.1),
            },
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum When {
    Now,
    Later,
}
use When::{Later, Now};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    Ok,
    TimedOut,
    CircuitOpen,
    RateLimited,
    Overloaded,
}

#[derive(Clone, Copy, Debug)]
struct Expected {
    readiness: When,
    outcome: (When, Outcome),
}

fn seen(result: Res) -> Outcome {
    match result {
        Ok(7) => Outcome::Ok,
        Err(Error::Rejected(Rejection::TimedOut { .. })) => Outcome::TimedOut,
        Err(Error::Rejected(Rejection::CircuitOpen { .. })) => Outcome::CircuitOpen,
        Err(Error::Rejected(Rejection::RateLimited { .. })) => Outcome::RateLimited,
        Err(Error::Rejected(Rejection::Overloaded { .. })) => Outcome::Overloaded,
        other => panic!("{other:?}"),
    }
}

fn box_of<S>(service: S) -> Boxed
where
    S: Service<u32, Response = u32, Error = Error<&'static str>> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    BoxCloneSyncService::new(service)
}

/// Every mood alone, and every ordered pair of moods.
fn stacks() -> impl Iterator<Item = Vec<Mood>> {
    let alone = ALL.into_iter().map(|mood| vec![mood]);
    let pairs = ALL
        .into_iter()
        .flat_map(|outer| ALL.map(|inner| vec![outer, inner]));
    alone.chain(pairs)
}

/// Innermost last.
fn build(stack: &[Mood], inner: Boxed) -> (Boxed, Handles) {
    let mut handles = Handles::default();
    let service = stack
        .iter()
        .rev()
        .fold(inner, |service, mood| mood.over(service, &mut handles));
    (service, handles)
}

#[tokio::test(start_paused = true)]
async fn no_stack_calls_what_is_not_ready_or_leaks_and_each_ends_as_its_layers_say() {
    for pending_once in [false, true] {
        for stack in stacks() {
            let strict = Strict::new(pending_once);
            let shared = strict.shared.clone();
            let (mut service, handles) = build(&stack, box_of(strict));
            let inner = Expected {
                readiness: if pending_once { Later } else { Now },
                outcome: (Later, Outcome::Ok),
            };
            let expected = stack
                .iter()
                .rev()
                .fold(inner, |below, mood| mood.expected(below));
            // The same instance twice, and a clone of it.
            for round in 0..3 {
                if round == 2 {
                    service = service.clone();
                }
                // A timeout leaves the instance it gave up on as it is, half-way to ready.
                let half_ready = pending_once && stack.contains(&Mood::TimesOut);
                if round == 1 && half_ready {
                    continue;
                }
                handles.occupy_queues();
                let result = service.ready().await.unwrap().call(7).await;
                assert_eq!(
                    seen(result),
                    expected.outcome.1,
                    "{stack:?}, pending once: {pending_once}, round {round}"
                );
                tokio::time::sleep(TICK * 5).await;
            }
            drop(service);
            let what = (&stack, pending_once);
            assert_eq!(shared.reserved.load(SeqCst), 0, "{what:?}");
            assert_eq!(shared.in_flight.load(SeqCst), 0, "{what:?}");
            handles.assert_nothing_held(&what);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_of_readiness_passes_through_every_stack_that_asks_for_readiness() {
    for stack in stacks() {
        // These answer without asking the inner service.
        let silent = |mood: &Mood| matches!(mood, Mood::Open | Mood::Full);
        if stack.iter().any(silent) {
            continue;
        }
        let strict = Strict::of(Shared {
            fails_to_ready: true,
            ..Shared::default()
        });
        let (mut service, _handles) = build(&stack, box_of(strict));
        let error = service.ready().await.err();
        assert_eq!(error, Some(Error::Service("not ready")), "{stack:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_clone_of_a_ready_service_starts_unready() {
    for mood in ALL {
        let strict = Strict::new(false);
        let (mut service, _handles) = build(&[mood], box_of(strict));
        service.ready().await.unwrap();
        let mut clone = service.clone();
        let called = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            // Not polled: what panics, if anything, is the call.
            drop(clone.call(7));
        }));
        // A timeout and a retry keep no readiness of their own: there the inner service panics.
        assert!(called.is_err(), "{mood:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn dropped_after_any_number_of_polls_nothing_is_leaked() {
    for pending_once in [false, true] {
        for stack in stacks() {
            for polls in 0.. {
                let strict = Strict::new(pending_once);
                let shared = strict.shared.clone();
                let (service, handles) = build(&stack, box_of(strict));
                let tokens: Vec<f64> = handles.budgets.iter().map(Budget::tokens).collect();
                handles.occupy_queues();
                let mut call = task::spawn(service.oneshot(7));
                let mut done = false;
                for _ in 0..polls {
                    if call.poll().is_ready() {
                        done = true;
                        break;
                    }
                    tokio::time::sleep(TICK / 4).await;
                }
                drop(call);
                tokio::time::sleep(TICK * 2).await; // for the slots that the test itself holds
                let what = (&stack, pending_once, polls);
                assert_eq!(shared.reserved.load(SeqCst), 0, "{what:?}");
                assert_eq!(shared.in_flight.load(SeqCst), 0, "{what:?}");
                handles.assert_nothing_held(&what);
                let spent: f64 = tokens
                    .iter()
                    .zip(&handles.budgets)
                    .map(|(before, budget)| (before - budget.tokens()).max(0.0).ceil())
                    .sum();
                // A budget pays for what was sent and for nothing else; but what timed out may have
                // been sent, for all that the layers know.
                let unknown = stack.contains(&Mood::TimesOut);
                let sends = shared.calls.load(SeqCst) as f64 + if unknown { 3.0 } else { 0.0 };
                assert!(
                    spent <= (sends - 1.0).max(0.0),
                    "{what:?}: {spent} for {sends} sends"
                );
                if done {
                    break;
                }
                assert!(polls < 100, "{what:?} never ends");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_future_that_moved_to_another_task_is_woken_there() {
    for stack in stacks() {
        let (service, handles) = build(&stack, box_of(Strict::new(true)));
        handles.occupy_queues();
        let mut call = Box::pin(service.oneshot(7));
        let (mut here, mut there) = (task::spawn(()), task::spawn(()));
        // From task to task at every poll: the one that polled last is the one that is woken.
        for polls in 0.. {
            let (polling, other) = if polls % 2 == 0 {
                (&mut here, &mut there)
            } else {
                (&mut there, &mut here)
            };
            other.enter(|_, _| ());
            if polling.enter(|cx, _| call.as_mut().poll(cx)).is_ready() {
                break;
            }
            // No timer of this test is longer than a few ticks.
            tokio::time::sleep(TICK * 5).await;
            assert!(polling.is_woken(), "{stack:?} at poll {polls}");
            assert!(polls < 100, "{stack:?} never ends");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_layer_applied_again_shares_its_state() {
    let inner = || box_of(Strict::new(false));

    let shed = LoadShedLayer::new(1);
    let _slot = shed.limit().try_acquire().unwrap();
    assert_eq!(
        seen(shed.clone().layer(inner()).oneshot(7).await),
        Outcome::Overloaded
    );

    let limit = RateLimitLayer::builder(Quota::per_minute(1)).max_wait(Duration::ZERO);
    let limit = limit.build().unwrap();
    assert_eq!(seen(limit.layer(inner()).oneshot(7).await), Outcome::Ok);
    assert_eq!(
        seen(limit.clone().layer(inner()).oneshot(7).await),
        Outcome::RateLimited
    );

    let breaker = CircuitBreakerLayer::default();
    let service = breaker.layer(inner());
    breaker.clone().circuit().force_open();
    assert_eq!(seen(service.clone().oneshot(7).await), Outcome::CircuitOpen);
    assert_eq!(
        seen(breaker.layer(inner()).oneshot(7).await),
        Outcome::CircuitOpen
    );

    let retry = RetryLayer::builder()
        .replay(Cloned)
        .classify(fails)
        .build()
        .unwrap();
    for _ in 0..2 {
        assert_eq!(
            seen(retry.clone().layer(inner()).oneshot(7).await),
            Outcome::Ok
        );
    }
    // One retry of each call, or both of one, out of two tokens.
    assert!(retry.budget().unwrap().tokens() < 0.1);
}

fn fails(_: Result<&u32, &Error<&'static str>>) -> Verdict {
    Verdict::TRANSIENT
}

#[test]
fn layers_handles_services_and_futures_are_what_a_runtime_asks_for() {
    fn shared<T: Clone + Send + Sync + 'static>() {}
    fn sent<T: Send + 'static>() {}
    fn future_of<L, Inner>()
    where
        L: Layer<Inner>,
        L::Service: Service<u32> + Send + Sync + 'static,
        <L::Service as Service<u32>>::Future: Send,
    {
        sent::<<L::Service as Service<u32>>::Future>();
    }
    type Retried = RetryLayer<buttress::verdict::Outcome, Cloned>;

    shared::<TimeoutLayer>();
    shared::<RetryLayer>();
    shared::<CircuitBreakerLayer>();
    shared::<RateLimitLayer>();
    shared::<LoadShedLayer>();
    shared::<buttress::ErrorLayer>();
    shared::<(Circuit, RateLimiter, ConcurrencyLimit, Budget)>();
    shared::<Rejection>();
    sent::<buttress::circuit_breaker::Permit>();
    sent::<buttress::load_shed::Slot>();
    sent::<buttress::retry::Withdrawal>();

    future_of::<TimeoutLayer, Strict>();
    future_of::<Retried, Strict>();
    future_of::<CircuitBreakerLayer, Strict>();
    future_of::<RateLimitLayer, Strict>();
    future_of::<LoadShedLayer, Strict>();
    future_of::<buttress::ErrorLayer, Strict>();
}

#[test]
fn timeout_and_circuit_breaker_take_services_that_are_not_clone() {
    struct NotClone;
    impl Service<u32> for NotClone {
        type Response = u32;
        type Error = Error<&'static str>;
        type Future = std::future::Ready<Res>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            Poll::Ready(Ok(()))
        }
        fn call(&mut self, n: u32) -> Self::Future {
            std::future::ready(Ok(n))
        }
    }
    let breaker = CircuitBreakerLayer::default().layer(NotClone);
    let mut service = TimeoutLayer::new(TICK).layer(breaker);
    let mut task = task::spawn(());
    let polled = task.enter(|cx, _| service.poll_ready(cx));
    assert!(matches!(polled, Poll::Ready(Ok(()))));
    let mut call = task::spawn(service.call(7));
    assert_eq!(call.poll(), Poll::Ready(Ok(7)));
}
