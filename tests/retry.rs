//! What `Retry` promises, on tokio's paused clock.

#[path = "support/events.rs"]
mod events;

use buttress::retry::{Backoff, Budget, Cloned, Discard, Jitter, RetryBuilder, Withdrawal};
use buttress::verdict::RetryAfter;
use buttress::{
    CircuitBreakerLayer, Classify, Error, Name, Rejection, RetryLayer, TimeoutLayer, Verdict,
};
use std::fmt::Debug;
use std::future::{Ready, ready};
use std::iter;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::join;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, advance, interval, sleep, timeout};
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};
use tower::buffer::Buffer;
use tower::limit::ConcurrencyLimit;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_test::mock::{self, Handle, Mock};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

const WAIT: Duration = Duration::from_millis(50);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
/// The resolution of tokio's timers, which are never early.
const TICK: Duration = Duration::from_millis(1);

#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("failed")]
struct Failed(u32);

/// What a callee does: answers with the verdict on itself, or fails.
type Answer = Result<Verdict, Error<Failed>>;

const GOOD: Answer = Ok(Verdict::Healthy);
const BAD: Answer = Ok(Verdict::TRANSIENT);

/// The rejections after which nothing was sent.
const UNSENT: [Rejection; 4] = [
    Rejection::CircuitOpen {
        retry_after: None,
        by: Name::UNNAMED,
    },
    Rejection::RateLimited {
        retry_after: None,
        by: Name::UNNAMED,
    },
    Rejection::TooCostly {
        cost: 2,
        burst: 1,
        by: Name::UNNAMED,
    },
    Rejection::Overloaded {
        limit: 1,
        by: Name::UNNAMED,
    },
];
const TIMED_OUT: Rejection = Rejection::TimedOut {
    after: SECOND,
    by: Name::UNNAMED,
};

/// Answers by a script, the last line of it for ever. Panics if it is called without being ready,
/// and its clones start unready.
struct Callee {
    shared: Arc<Shared>,
    ready: bool,
}

struct Shared {
    script: Vec<Answer>,
    sent: Mutex<Vec<Instant>>,
}

impl Callee {
    fn new(script: impl Into<Vec<Answer>>) -> Self {
        let shared = Shared {
            script: script.into(),
            sent: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
            ready: false,
        }
    }

    /// How often it was sent something.
    fn sent(&self) -> usize {
        self.shared.sent.lock().unwrap().len()
    }

    /// The times between what it was sent.
    fn waits(&self) -> Vec<Duration> {
        let sent = self.shared.sent.lock().unwrap();
        sent.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }

    fn instances(&self) -> usize {
        Arc::strong_count(&self.shared)
    }
}

impl Clone for Callee {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            ready: false,
        }
    }
}

impl<Req> Service<Req> for Callee {
    type Response = Verdict;
    type Error = Error<Failed>;
    type Future = Ready<Answer>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Req) -> Self::Future {
        assert!(self.ready, "called while not ready");
        self.ready = false;
        let mut sent = self.shared.sent.lock().unwrap();
        sent.push(Instant::now());
        let last = self.shared.script.len() - 1;
        ready(self.shared.script[last.min(sent.len() - 1)])
    }
}

/// Takes an answer at its word; an error is transient.
#[derive(Clone)]
struct AsAnswered;

impl<E> Classify<Verdict, E> for AsAnswered {
    fn classify(&self, outcome: Result<&Verdict, &E>) -> Verdict {
        outcome.copied().unwrap_or(Verdict::TRANSIENT)
    }
}

/// Three attempts, half a tenth of a second apart.
fn retrying() -> RetryBuilder<AsAnswered, Cloned> {
    RetryLayer::builder()
        .backoff(Backoff::constant(WAIT))
        .classify(AsAnswered)
        .replay(Cloned)
}

async fn send(retrying: RetryBuilder<AsAnswered, Cloned>, callee: &Callee) -> Answer {
    let layer = retrying.build().unwrap();
    layer.layer(callee.clone()).oneshot(()).await
}

/// How often a call is sent to a callee of this script.
async fn sends(retrying: RetryBuilder<AsAnswered, Cloned>, script: &[Answer]) -> usize {
    let callee = Callee::new(script);
    let _answer = send(retrying, &callee).await;
    callee.sent()
}

/// The waits of a call to a callee of this script.
async fn waits(retrying: RetryBuilder<AsAnswered, Cloned>, script: &[Answer]) -> Vec<Duration> {
    let callee = Callee::new(script);
    let _answer = send(retrying, &callee).await;
    callee.waits()
}

async fn time_of(work: impl Future) -> Duration {
    let start = Instant::now();
    work.await;
    start.elapsed()
}

fn transient(retry_after: Duration) -> Verdict {
    Verdict::Transient {
        retry_after: RetryAfter::Delay(retry_after),
    }
}

/// Ten tokens at the start; none comes by itself, one for each deposit.
fn ten_tokens() -> Budget {
    let budget = Budget::builder().floor(10).ratio(1.0).reserve(0.0);
    budget.build().unwrap()
}

/// The same, half spent, so that what comes back or in has room.
fn five_tokens_of_ten() -> Budget {
    let budget = ten_tokens();
    for _ in 0..5 {
        budget.try_withdraw().unwrap().spend();
    }
    budget
}

/// Spends what is left, to count it.
fn drain(budget: &Budget) -> usize {
    iter::from_fn(|| budget.try_withdraw())
        .map(Withdrawal::spend)
        .count()
}

// Attempts

#[tokio::test(start_paused = true)]
async fn a_call_that_failed_is_sent_until_it_succeeds() {
    assert_eq!(sends(retrying().attempts(5), &[BAD, BAD, GOOD]).await, 3);
}

#[tokio::test(start_paused = true)]
async fn the_success_of_a_retry_is_returned() {
    let callee = Callee::new([BAD, BAD, GOOD]);
    assert_eq!(send(retrying(), &callee).await, GOOD);
}

#[tokio::test(start_paused = true)]
async fn a_call_is_sent_as_often_as_attempts_says_and_no_more() {
    for attempts in 1..=5 {
        let retrying = retrying().attempts(attempts).no_budget();
        assert_eq!(sends(retrying, &[BAD]).await, attempts as usize);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_is_sent_three_times_by_default() {
    let layer = RetryLayer::builder().replay(Cloned).build().unwrap();
    let callee = Callee::new([Err(Error::Service(Failed(0)))]);
    layer.layer(callee.clone()).oneshot(()).await.unwrap_err();
    assert_eq!(callee.sent(), 3);
}

#[tokio::test(start_paused = true)]
async fn each_attempt_sends_the_same_request() {
    let (service, mut handle) = mock::pair::<&str, ()>();
    let layer = RetryLayer::builder().replay(Cloned).build().unwrap();
    let _call = tokio::spawn(layer.layer(service).oneshot("pay"));
    for _ in 0..3 {
        let (request, send) = handle.next_request().await.unwrap();
        assert_eq!(request, "pay");
        send.send_error("reset");
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_response_is_returned_unchanged() {
    let script = [1, 2, 3].map(|millis| Ok(transient(Duration::from_millis(millis))));
    let callee = Callee::new(script);
    assert_eq!(send(retrying(), &callee).await, script[2]);
}

#[tokio::test(start_paused = true)]
async fn the_last_error_is_returned_unchanged() {
    let callee = Callee::new([1, 2, 3].map(|n| Err(Error::Service(Failed(n)))));
    let answer = send(retrying(), &callee).await;
    assert_eq!(answer, Err(Error::Service(Failed(3))));
}

#[tokio::test(start_paused = true)]
async fn what_no_retry_mends_is_sent_once() {
    for verdict in [Verdict::Healthy, Verdict::Permanent, Verdict::Ignored] {
        assert_eq!(sends(retrying(), &[Ok(verdict)]).await, 1, "{verdict:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_no_retry_mends_is_the_last() {
    for verdict in [Verdict::Permanent, Verdict::Ignored] {
        let script = [BAD, Ok(verdict)];
        assert_eq!(sends(retrying(), &script).await, 2, "{verdict:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_throttled_call_is_sent_again() {
    let script = [Ok(Verdict::THROTTLED), GOOD];
    assert_eq!(sends(retrying(), &script).await, 2);
}

#[tokio::test(start_paused = true)]
async fn each_attempt_is_judged_once() {
    let judged = AtomicUsize::new(0);
    let counted = |_: Result<&Verdict, &Error<Failed>>| {
        judged.fetch_add(1, Relaxed);
        Verdict::TRANSIENT
    };
    let layer = retrying().classify(counted).build().unwrap();
    let _answer = layer.layer(Callee::new([BAD])).oneshot(()).await;
    assert_eq!(judged.load(Relaxed), 3);
}

#[test]
fn no_attempts_at_all_are_refused() {
    let error = retrying().attempts(0).build().unwrap_err();
    assert_eq!((error.field(), error.value()), ("attempts", "0"));
}

#[test]
fn a_backoff_whose_base_is_above_its_cap_is_refused() {
    let backoff = Backoff::exponential(2 * SECOND, SECOND);
    let error = retrying().backoff(backoff).build().unwrap_err();
    assert_eq!((error.field(), error.value()), ("backoff.base", "2s"));
}

#[test]
fn a_backoff_that_would_shrink_or_has_no_number_is_refused() {
    for factor in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -2.0, 0.5] {
        let backoff = Backoff::exponential(WAIT, SECOND).factor(factor);
        let error = retrying().backoff(backoff).build().unwrap_err();
        assert_eq!(error.field(), "backoff.factor", "{factor}");
    }
}

// Responses that are thrown away

/// Discards by waiting until it is told to go on.
#[derive(Clone, Default)]
struct UntilTold(Arc<Notify>);

impl<Res> Discard<Res> for UntilTold {
    type Future = Pin<Box<dyn Future<Output = ()> + Send>>;

    fn discard(&self, _: Res) -> Option<Self::Future> {
        let told = self.0.clone();
        Some(Box::pin(async move { told.notified().await }))
    }
}

/// The wait between two attempts, the response of the first of which is discarded for so long.
async fn wait_with_discard_of(time: Duration, backoff: Duration) -> Duration {
    let told = UntilTold::default();
    let retrying = retrying().backoff(Backoff::constant(backoff));
    let layer = retrying.discard(told.clone()).build().unwrap();
    let callee = Callee::new([BAD, GOOD]);
    let call = layer.layer(callee.clone()).oneshot(());
    let tell = async {
        sleep(time).await;
        told.0.notify_one();
    };
    join!(call, tell).0.unwrap();
    callee.waits()[0]
}

#[tokio::test(start_paused = true)]
async fn an_attempt_waits_for_the_response_before_it_to_be_gone() {
    for backoff in [Duration::ZERO, WAIT] {
        let wait = wait_with_discard_of(SECOND, backoff).await;
        assert!((SECOND..=SECOND + TICK).contains(&wait), "{wait:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_waits_for_its_backoff_when_the_response_is_gone() {
    let wait = wait_with_discard_of(WAIT / 2, WAIT).await;
    assert!((WAIT..=WAIT + TICK).contains(&wait), "{wait:?}");
}

#[tokio::test(start_paused = true)]
async fn the_last_response_is_not_discarded() {
    let layer = retrying().attempts(1).discard(UntilTold::default());
    let call = layer.build().unwrap().layer(Callee::new([BAD])).oneshot(());
    assert_eq!(timeout(HOUR, call).await, Ok(BAD));
}

// Waits

#[tokio::test(start_paused = true)]
async fn the_waits_are_those_of_the_backoff() {
    let backoff = Backoff::exponential(2 * WAIT, SECOND).jitter(Jitter::None);
    assert_eq!(
        waits(retrying().backoff(backoff).attempts(7).no_budget(), &[BAD]).await,
        [100, 200, 400, 800, 1_000, 1_000].map(Duration::from_millis)
    );
}

#[tokio::test(start_paused = true)]
async fn a_decorrelated_wait_grows_from_the_wait_before() {
    let backoff = Backoff::exponential(SECOND, HOUR).jitter(Jitter::Decorrelated);
    let retrying = retrying().backoff(backoff).attempts(100).seed(1);
    let waits = waits(retrying.no_budget(), &[BAD]).await;
    assert!(waits.iter().any(|wait| *wait > 9 * SECOND), "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn a_decorrelated_wait_is_at_most_three_times_the_wait_before() {
    let backoff = Backoff::exponential(SECOND, HOUR).jitter(Jitter::Decorrelated);
    let retrying = retrying().backoff(backoff).attempts(100).seed(1);
    for pair in waits(retrying, &[BAD]).await.windows(2) {
        assert!(pair[1] <= 3 * pair[0] + TICK, "{pair:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_default_backoff_never_waits_longer_than_its_steps() {
    for seed in 0..50 {
        let layer = RetryLayer::builder().replay(Cloned).classify(AsAnswered);
        let waits = waits(layer.attempts(3).seed(seed), &[BAD]).await;
        assert!(
            waits[0] <= WAIT + TICK && waits[1] <= 2 * WAIT + TICK,
            "{waits:?}"
        );
    }
}

fn jittered(seed: u64) -> RetryBuilder<AsAnswered, Cloned> {
    let backoff = Backoff::exponential(SECOND, HOUR);
    retrying().backoff(backoff).attempts(6).seed(seed)
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_makes_the_same_waits() {
    assert_eq!(
        waits(jittered(7), &[BAD]).await,
        waits(jittered(7), &[BAD]).await
    );
}

#[tokio::test(start_paused = true)]
async fn another_seed_makes_other_waits() {
    assert_ne!(
        waits(jittered(7), &[BAD]).await,
        waits(jittered(8), &[BAD]).await
    );
}

#[tokio::test(start_paused = true)]
async fn without_a_seed_two_layers_wait_differently() {
    let unseeded = || retrying().backoff(Backoff::exponential(HOUR, HOUR));
    assert_ne!(
        waits(unseeded(), &[BAD]).await,
        waits(unseeded(), &[BAD]).await
    );
}

#[tokio::test(start_paused = true)]
async fn two_calls_of_one_layer_wait_differently() {
    let layer = jittered(7).build().unwrap();
    let (one, two) = (Callee::new([BAD]), Callee::new([BAD]));
    layer.layer(one.clone()).oneshot(()).await.unwrap();
    layer.layer(two.clone()).oneshot(()).await.unwrap();
    assert_ne!(one.waits(), two.waits());
}

#[tokio::test(start_paused = true)]
async fn what_the_callee_asks_for_is_never_cut_short() {
    for seed in 0..100 {
        let script = [Ok(transient(3 * SECOND)), GOOD];
        let waits = waits(retrying().seed(seed), &script).await;
        assert!(waits[0] >= 3 * SECOND, "{waits:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_callee_asks_for_is_exceeded_by_a_quarter_at_most() {
    for seed in 0..100 {
        let script = [Ok(transient(4 * SECOND)), GOOD];
        let waits = waits(retrying().seed(seed), &script).await;
        assert!(waits[0] <= 5 * SECOND + TICK, "{waits:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_callee_asks_for_is_exceeded_by_five_seconds_at_most() {
    for seed in 0..100 {
        let script = [Ok(transient(60 * SECOND)), GOOD];
        let waits = waits(retrying().seed(seed), &script).await;
        assert!(waits[0] <= 65 * SECOND + TICK, "{waits:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn callers_that_are_asked_for_the_same_wait_do_not_return_together() {
    let script = [Ok(transient(3 * SECOND)), GOOD];
    let mut all = Vec::new();
    for seed in 0..100 {
        all.extend(waits(retrying().seed(seed), &script).await);
    }
    // Of the 750 ms that there are to spread over.
    let spread = all
        .iter()
        .max()
        .unwrap()
        .abs_diff(*all.iter().min().unwrap());
    assert!(spread > Duration::from_millis(650), "{spread:?}");
}

#[tokio::test(start_paused = true)]
async fn a_throttled_call_waits_for_what_the_callee_asks() {
    let retry_after = RetryAfter::Delay(3 * SECOND);
    let script = [Ok(Verdict::Throttled { retry_after }), GOOD];
    let waits = waits(retrying(), &script).await;
    let asked = 3 * SECOND..=15 * SECOND / 4 + TICK;
    assert!(asked.contains(&waits[0]), "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn a_backoff_that_is_longer_than_what_the_callee_asks_for_holds() {
    let retrying = retrying().backoff(Backoff::constant(10 * SECOND));
    let script = [Ok(transient(SECOND)), GOOD];
    assert_eq!(waits(retrying, &script).await, [10 * SECOND]);
}

#[tokio::test(start_paused = true)]
async fn a_callee_that_asks_for_too_long_is_not_sent_a_retry() {
    assert_eq!(sends(retrying(), &[Ok(transient(2 * HOUR)), GOOD]).await, 1);
}

#[tokio::test(start_paused = true)]
async fn the_response_of_a_callee_that_asks_for_too_long_is_returned() {
    let callee = Callee::new([Ok(transient(2 * HOUR)), GOOD]);
    assert_eq!(send(retrying(), &callee).await, Ok(transient(2 * HOUR)));
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_callee_that_asks_for_too_long() {
    let callee = Callee::new([Ok(transient(2 * HOUR)), GOOD]);
    assert_eq!(time_of(send(retrying(), &callee)).await, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_callee_that_asks_for_too_long_costs_no_token() {
    let budget = ten_tokens();
    let callee = Callee::new([Ok(transient(2 * HOUR)), GOOD]);
    let _answer = send(retrying().budget(budget.clone()), &callee).await;
    assert_eq!(drain(&budget), 10);
}

#[tokio::test(start_paused = true)]
async fn a_wait_as_long_as_the_longest_allowed_is_waited() {
    let retrying = retrying().max_retry_after(5 * SECOND);
    assert_eq!(sends(retrying, &[Ok(transient(5 * SECOND)), GOOD]).await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_wait_a_little_longer_than_the_longest_allowed_is_not_waited() {
    let retrying = retrying().max_retry_after(5 * SECOND);
    let asked = 5 * SECOND + Duration::from_nanos(1);
    assert_eq!(sends(retrying, &[Ok(transient(asked)), GOOD]).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_callee_that_asks_for_ever_is_not_sent_a_retry() {
    for asked in [Duration::MAX, Duration::from_secs(u64::MAX)] {
        assert_eq!(sends(retrying(), &[Ok(transient(asked)), GOOD]).await, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_callee_that_asks_for_ever() {
    for asked in [Duration::MAX, Duration::from_secs(u64::MAX)] {
        let callee = Callee::new([Ok(transient(asked)), GOOD]);
        assert_eq!(time_of(send(retrying(), &callee)).await, Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_may_allow_any_wait() {
    let callee = Callee::new([Ok(transient(Duration::MAX)), GOOD]);
    let retrying = retrying().max_retry_after(Duration::MAX);
    let mut call = task::spawn(send(retrying, &callee));
    assert_pending!(call.poll());
}

#[tokio::test(start_paused = true)]
async fn a_backoff_may_be_as_long_as_there_are_durations() {
    let callee = Callee::new([BAD, GOOD]);
    let retrying = retrying().backoff(Backoff::constant(Duration::MAX));
    let mut call = task::spawn(send(retrying, &callee));
    assert_pending!(call.poll());
}

// Replay

/// Cannot be cloned.
struct Upload;

fn never<Req>(_: &Req) -> Option<Req> {
    None
}

/// Whatever an attempt may end in.
const OUTCOMES: [Answer; 6] = [
    GOOD,
    BAD,
    Ok(Verdict::THROTTLED),
    Ok(Verdict::Permanent),
    Err(Error::Service(Failed(0))),
    Err(Error::Rejected(TIMED_OUT)),
];

#[tokio::test(start_paused = true)]
async fn a_request_that_cannot_be_repeated_is_sent_once() {
    let layer = retrying().replay(never::<Upload>).build().unwrap();
    for outcome in OUTCOMES {
        let callee = Callee::new([outcome]);
        let _answer = layer.layer(callee.clone()).oneshot(Upload).await;
        assert_eq!(callee.sent(), 1, "{outcome:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_outcome_of_a_request_that_cannot_be_repeated_is_returned_unchanged() {
    let layer = retrying().replay(never::<Upload>).build().unwrap();
    for outcome in OUTCOMES {
        let callee = Callee::new([outcome]);
        assert_eq!(layer.layer(callee).oneshot(Upload).await, outcome);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_cannot_be_repeated_costs_no_token() {
    let budget = ten_tokens();
    let retrying = retrying().budget(budget.clone());
    let layer = retrying.replay(never::<Upload>).build().unwrap();
    let _answer = layer.layer(Callee::new([BAD])).oneshot(Upload).await;
    assert_eq!(drain(&budget), 10);
}

#[tokio::test(start_paused = true)]
async fn the_service_is_not_cloned_for_a_request_that_cannot_be_repeated() {
    let layer = retrying().replay(never::<Upload>).build().unwrap();
    let callee = Callee::new([BAD]);
    let mut service = layer.layer(callee.clone());
    let before = callee.instances();
    let _call = service.ready().await.unwrap().call(Upload);
    assert_eq!(callee.instances(), before);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_can_be_repeated_once_is_sent_twice() {
    // The request counts how often it may still be repeated.
    let layer = retrying().replay(|left: &u32| left.checked_sub(1));
    let callee = Callee::new([BAD]);
    let service = layer.attempts(5).build().unwrap().layer(callee.clone());
    let _answer = service.oneshot(1).await;
    assert_eq!(callee.sent(), 2);
}

#[tokio::test(start_paused = true)]
async fn no_copy_is_made_that_could_not_be_sent() {
    let copies = AtomicUsize::new(0);
    let counted = |(): &()| {
        copies.fetch_add(1, Relaxed);
        Some(())
    };
    let layer = retrying().replay(counted).attempts(3).build().unwrap();
    let _answer = layer.layer(Callee::new([BAD])).oneshot(()).await;
    assert_eq!(copies.load(Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn one_attempt_needs_no_copy() {
    let copies = AtomicUsize::new(0);
    let counted = |(): &()| {
        copies.fetch_add(1, Relaxed);
        Some(())
    };
    let layer = retrying().replay(counted).attempts(1).build().unwrap();
    let _answer = layer.layer(Callee::new([BAD])).oneshot(()).await;
    assert_eq!(copies.load(Relaxed), 0);
}

// Rejections of our own

fn unreachable_classifier(_: Result<&Verdict, &Error<Failed>>) -> Verdict {
    unreachable!("the layers judge their rejections themselves")
}

#[tokio::test(start_paused = true)]
async fn a_rejection_after_which_nothing_was_sent_is_not_retried() {
    for rejection in UNSENT {
        let script = [Err(Error::Rejected(rejection))];
        assert_eq!(sends(retrying(), &script).await, 1, "{rejection:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_rejection_is_returned_unchanged() {
    for rejection in UNSENT {
        let script = [Err(Error::Rejected(rejection))];
        let answer = send(retrying(), &Callee::new(script)).await;
        assert_eq!(answer, script[0]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_timeout_is_retried() {
    let script = [Err(Error::Rejected(TIMED_OUT)), GOOD];
    assert_eq!(sends(retrying(), &script).await, 2);
}

#[tokio::test(start_paused = true)]
async fn the_timeout_of_an_attempt_is_retried() {
    let (service, mut handle) = mock::pair::<(), ()>();
    let layer = RetryLayer::builder().replay(Cloned).build().unwrap();
    let service = layer.layer(TimeoutLayer::new(SECOND).layer(service));
    let call = tokio::spawn(service.oneshot(()));
    let ((), _unanswered) = handle.next_request().await.unwrap();
    let ((), send) = handle.next_request().await.unwrap();
    send.send_response(());
    call.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn no_rejection_reaches_the_classifier() {
    let layer = retrying().classify(unreachable_classifier).build().unwrap();
    for rejection in UNSENT.into_iter().chain([TIMED_OUT]) {
        let callee = Callee::new([Err(Error::Rejected(rejection))]);
        layer.layer(callee).oneshot(()).await.unwrap_err();
    }
}

fn breaker() -> CircuitBreakerLayer<AsAnswered> {
    let breaker = CircuitBreakerLayer::builder().consecutive_failures(3);
    breaker.classify(AsAnswered).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_once_the_breaker_inside_opens() {
    let callee = Callee::new([BAD]);
    let layer = retrying().attempts(7).no_budget().build().unwrap();
    let service = layer.layer(breaker().layer(callee.clone()));
    let _answer = service.oneshot(()).await;
    assert_eq!(callee.sent(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_caller_whose_retry_meets_an_open_breaker_hears_so() {
    let layer = retrying().attempts(7).no_budget().build().unwrap();
    let service = layer.layer(breaker().layer(Callee::new([BAD])));
    let error = service.oneshot(()).await.unwrap_err();
    assert!(
        matches!(error, Error::Rejected(Rejection::CircuitOpen { .. })),
        "{error:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_token_of_a_retry_that_meets_an_open_breaker_comes_back() {
    let budget = ten_tokens();
    let retrying = retrying().attempts(7).budget(budget.clone());
    let service = breaker().layer(Callee::new([BAD]));
    let service = retrying.build().unwrap().layer(service);
    let _answer = service.oneshot(()).await;
    // Two retries were sent.
    assert_eq!(drain(&budget), 8);
}

#[tokio::test(start_paused = true)]
async fn the_token_of_a_retry_that_was_not_sent_comes_back() {
    for rejection in UNSENT {
        let budget = ten_tokens();
        let callee = Callee::new([BAD, Err(Error::Rejected(rejection))]);
        let _answer = send(retrying().budget(budget.clone()), &callee).await;
        assert_eq!(drain(&budget), 10, "{rejection:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_token_of_a_retry_that_timed_out_stays_spent() {
    let budget = ten_tokens();
    let callee = Callee::new([BAD, Err(Error::Rejected(TIMED_OUT)), GOOD]);
    let _answer = send(retrying().budget(budget.clone()), &callee).await;
    assert_eq!(drain(&budget), 8);
}

#[tokio::test(start_paused = true)]
async fn a_first_attempt_that_was_not_sent_brings_no_token() {
    for rejection in UNSENT {
        let budget = five_tokens_of_ten();
        let callee = Callee::new([Err(Error::Rejected(rejection))]);
        let _answer = send(retrying().budget(budget.clone()), &callee).await;
        assert_eq!(drain(&budget), 5, "{rejection:?}");
    }
}

// Readiness

#[tokio::test(start_paused = true)]
async fn a_concurrency_limit_inside_is_never_called_unready() {
    let service = ConcurrencyLimit::new(Callee::new([BAD, BAD, GOOD]), 1);
    let service = retrying().build().unwrap().layer(service);
    assert_eq!(service.oneshot(()).await, GOOD);
}

#[tokio::test(start_paused = true)]
async fn a_buffer_inside_is_never_called_unready() {
    let service = Buffer::new(Callee::new([BAD, BAD, GOOD]), 1);
    let service = retrying().build().unwrap().layer(service);
    assert_eq!(service.oneshot(()).await.unwrap(), Verdict::Healthy);
}

#[tokio::test(start_paused = true)]
async fn an_inner_service_that_is_not_ready_yet_is_waited_for() {
    let (mut call, mut handle, _) = sleeping_call().await;
    handle.allow(0);
    advance(WAIT).await;
    assert_pending!(call.poll());
    handle.allow(1);
    assert!(call.is_woken());
    assert_pending!(call.poll());
    let ((), send) = handle.next_request().await.unwrap();
    send.send_response(());
    assert_ready_ok!(call.poll());
}

#[tokio::test(start_paused = true)]
async fn the_permit_of_an_attempt_is_free_while_the_next_is_waited_for() {
    let limited = ConcurrencyLimit::new(Callee::new([BAD]), 1);
    let service = retrying().build().unwrap().layer(limited.clone());
    let mut call = task::spawn(service.oneshot(()));
    assert_pending!(call.poll());
    let mut other = limited.clone();
    assert_ready_ok!(task::spawn(ServiceExt::<()>::ready(&mut other)).poll());
}

#[tokio::test(start_paused = true)]
async fn a_response_that_is_not_returned_is_dropped_before_the_wait() {
    fn failed(_: Result<&OwnedSemaphorePermit, &BoxError>) -> Verdict {
        Verdict::TRANSIENT
    }
    let connections = Arc::new(Semaphore::new(1));
    let pool = connections.clone();
    let service =
        service_fn(move |()| ready(pool.clone().try_acquire_owned().map_err(BoxError::from)));
    let service = retrying().classify(failed).build().unwrap().layer(service);
    let mut call = task::spawn(service.oneshot(()));
    assert_pending!(call.poll());
    assert_eq!(connections.available_permits(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_error_of_readiness_before_the_first_attempt_passes() {
    let (service, mut handle) = mock::pair::<(), ()>();
    handle.send_error("gone");
    let layer = RetryLayer::builder().replay(Cloned).build().unwrap();
    let mut service = layer.layer(service);
    let error = service.ready().await.err().unwrap();
    assert_eq!(error.to_string(), "gone");
}

#[tokio::test(start_paused = true)]
async fn an_error_of_readiness_before_a_retry_is_returned() {
    let (mut call, mut handle, _) = sleeping_call().await;
    handle.send_error("gone");
    advance(WAIT).await;
    assert_eq!(assert_ready_err!(call.poll()).to_string(), "gone");
}

#[tokio::test(start_paused = true)]
async fn the_token_of_a_retry_whose_readiness_failed_comes_back() {
    let (mut call, mut handle, budget) = sleeping_call().await;
    handle.send_error("gone");
    advance(WAIT).await;
    assert_ready_err!(call.poll());
    // Though the future still exists.
    assert_eq!(drain(&budget), 10);
    drop(call);
}

// Cancellation

type Call = task::Spawn<<MockRetry as Service<()>>::Future>;
type MockRetry = buttress::retry::Retry<Mock<(), ()>, buttress::verdict::Outcome, Cloned>;

/// A call whose first attempt is in the callee's hands, with a budget of ten tokens.
async fn call_in_flight() -> (MockRetry, Call, Handle<(), ()>, Budget) {
    let (service, handle) = mock::pair();
    let budget = ten_tokens();
    let layer = RetryLayer::builder()
        .backoff(Backoff::constant(WAIT))
        .budget(budget.clone())
        .replay(Cloned);
    let mut service = layer.build().unwrap().layer(service);
    let call = task::spawn(service.ready().await.unwrap().call(()));
    (service, call, handle, budget)
}

/// The same, with the first attempt failed and the second waited for.
async fn sleeping_call() -> (Call, Handle<(), ()>, Budget) {
    let (service, mut call, mut handle, budget) = call_in_flight().await;
    drop(service);
    assert_pending!(call.poll());
    let ((), send) = handle.next_request().await.unwrap();
    send.send_error("reset");
    assert_pending!(call.poll());
    (call, handle, budget)
}

/// Whether the callee is sent anything from now on.
async fn is_sent_more(handle: &mut Handle<(), ()>) -> bool {
    advance(HOUR).await;
    matches!(handle.poll_request(), Poll::Ready(Some(_)))
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_before_its_first_poll_is_not_retried() {
    let (_service, call, mut handle, _) = call_in_flight().await;
    let ((), send) = handle.next_request().await.unwrap();
    send.send_error("reset");
    drop(call);
    assert!(!is_sent_more(&mut handle).await);
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_before_its_first_poll_costs_no_token() {
    let (_service, call, _handle, budget) = call_in_flight().await;
    drop(call);
    assert_eq!(drain(&budget), 10);
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_in_flight_is_not_retried() {
    let (_service, mut call, mut handle, _) = call_in_flight().await;
    assert_pending!(call.poll());
    let ((), send) = handle.next_request().await.unwrap();
    send.send_error("reset");
    drop(call);
    assert!(!is_sent_more(&mut handle).await);
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_in_flight_costs_no_token() {
    let (_service, mut call, _handle, budget) = call_in_flight().await;
    assert_pending!(call.poll());
    drop(call);
    assert_eq!(drain(&budget), 10);
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_while_sleeping_is_not_retried() {
    let (call, mut handle, _) = sleeping_call().await;
    drop(call);
    assert!(!is_sent_more(&mut handle).await);
}

#[tokio::test(start_paused = true)]
async fn the_token_of_a_sleeping_call_is_taken() {
    let (_call, _handle, budget) = sleeping_call().await;
    assert_eq!(drain(&budget), 9);
}

#[tokio::test(start_paused = true)]
async fn the_token_of_a_call_dropped_while_sleeping_comes_back() {
    let (call, _handle, budget) = sleeping_call().await;
    drop(call);
    assert_eq!(drain(&budget), 10);
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_while_readying_is_not_retried() {
    let (mut call, mut handle, _) = sleeping_call().await;
    handle.allow(0);
    advance(WAIT).await;
    assert_pending!(call.poll());
    drop(call);
    handle.allow(1);
    assert!(!is_sent_more(&mut handle).await);
}

#[tokio::test(start_paused = true)]
async fn the_token_of_a_call_dropped_while_readying_comes_back() {
    let (mut call, mut handle, budget) = sleeping_call().await;
    handle.allow(0);
    advance(WAIT).await;
    assert_pending!(call.poll());
    drop(call);
    assert_eq!(drain(&budget), 10);
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_while_readying_leaves_its_place_to_others() {
    let limited = ConcurrencyLimit::new(Callee::new([BAD]), 1);
    let service = retrying().build().unwrap().layer(limited.clone());
    let mut call = task::spawn(service.oneshot(()));
    assert_pending!(call.poll());
    let mut holder = limited.clone();
    assert_ready_ok!(task::spawn(ServiceExt::<()>::ready(&mut holder)).poll());
    advance(WAIT).await;
    assert_pending!(call.poll());
    drop(holder);
    drop(call);
    let mut other = limited.clone();
    assert_ready_ok!(task::spawn(ServiceExt::<()>::ready(&mut other)).poll());
}

#[tokio::test(start_paused = true)]
async fn the_token_of_a_retry_dropped_in_flight_stays_spent() {
    let (mut call, mut handle, budget) = sleeping_call().await;
    advance(WAIT).await;
    assert_pending!(call.poll());
    let _request = handle.next_request().await.unwrap();
    drop(call);
    assert_eq!(drain(&budget), 9);
}

#[tokio::test(start_paused = true)]
async fn a_retry_dropped_in_flight_is_not_sent_again() {
    let (mut call, mut handle, _) = sleeping_call().await;
    advance(WAIT).await;
    assert_pending!(call.poll());
    let ((), send) = handle.next_request().await.unwrap();
    send.send_error("reset");
    drop(call);
    assert!(!is_sent_more(&mut handle).await);
}

// Budget

#[tokio::test(start_paused = true)]
async fn each_retry_that_is_sent_costs_a_token() {
    let budget = ten_tokens();
    let retrying = retrying().attempts(5).budget(budget.clone());
    let _answer = send(retrying, &Callee::new([BAD])).await;
    assert_eq!(drain(&budget), 6);
}

#[tokio::test(start_paused = true)]
async fn a_retrys_success_earns_nothing() {
    let budget = five_tokens_of_ten();
    let callee = Callee::new([BAD, GOOD]);
    let _answer = send(retrying().budget(budget.clone()), &callee).await;
    assert_eq!(drain(&budget), 4);
}

#[tokio::test(start_paused = true)]
async fn a_first_attempts_success_earns_the_ratio() {
    let budget = five_tokens_of_ten();
    let callee = Callee::new([GOOD]);
    let _answer = send(retrying().budget(budget.clone()), &callee).await;
    assert_eq!(drain(&budget), 6);
}

#[tokio::test(start_paused = true)]
async fn only_a_success_earns() {
    for verdict in [
        Verdict::TRANSIENT,
        Verdict::THROTTLED,
        Verdict::Permanent,
        Verdict::Ignored,
    ] {
        let budget = five_tokens_of_ten();
        let retrying = retrying().attempts(1).budget(budget.clone());
        let _answer = send(retrying, &Callee::new([Ok(verdict)])).await;
        assert_eq!(drain(&budget), 5, "{verdict:?}");
    }
}

fn spent() -> RetryBuilder<AsAnswered, Cloned> {
    let budget = ten_tokens();
    drain(&budget);
    retrying().budget(budget)
}

#[tokio::test(start_paused = true)]
async fn without_a_token_nothing_is_sent_again() {
    assert_eq!(sends(spent(), &[BAD, GOOD]).await, 1);
}

#[tokio::test(start_paused = true)]
async fn without_a_token_the_outcome_is_returned_unchanged() {
    let callee = Callee::new([Err(Error::Service(Failed(1))), GOOD]);
    let answer = send(spent(), &callee).await;
    assert_eq!(answer, Err(Error::Service(Failed(1))));
}

#[tokio::test(start_paused = true)]
async fn without_a_token_nobody_waits() {
    // What the callee asks for neither.
    let callee = Callee::new([Ok(transient(3 * SECOND)), GOOD]);
    assert_eq!(time_of(send(spent(), &callee)).await, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_callee_that_is_down_is_sent_little_more_than_its_calls() {
    const CALLS: usize = 6_000;
    let layer = RetryLayer::default();
    let callee = Callee::new([Err(Error::Service(Failed(0)))]);
    let mut ticks = interval(Duration::from_millis(10));
    let mut calls = JoinSet::new();
    for _ in 0..CALLS {
        ticks.tick().await;
        let service = layer.layer(callee.clone());
        calls.spawn(service.oneshot(http::Request::new(())));
    }
    calls.join_all().await;
    // A floor of 2, and a reserve of 0.1 per second for 60 s.
    let bound = CALLS + 2..=CALLS + 2 + 6;
    assert!(bound.contains(&callee.sent()), "{}", callee.sent());
}

#[tokio::test(start_paused = true)]
async fn the_budget_that_is_there_by_default_has_two_tokens_at_the_start() {
    assert_eq!(drain(RetryLayer::default().budget().unwrap()), 2);
}

#[tokio::test(start_paused = true)]
async fn a_token_comes_back_every_ten_seconds_by_default() {
    let layer = RetryLayer::default();
    drain(layer.budget().unwrap());
    // Time is credited in steps of 134.2 ms, once they are over.
    advance(10 * SECOND + Duration::from_millis(135)).await;
    assert_eq!(drain(layer.budget().unwrap()), 1);
}

#[tokio::test(start_paused = true)]
async fn the_reserve_brings_back_two_tokens_and_no_more_by_default() {
    let layer = RetryLayer::default();
    drain(layer.budget().unwrap());
    advance(HOUR).await;
    assert_eq!(drain(layer.budget().unwrap()), 2);
}

#[tokio::test(start_paused = true)]
async fn a_first_attempt_that_succeeds_earns_a_tenth_of_a_retry_by_default() {
    let layer = retrying().build().unwrap();
    drain(layer.budget().unwrap());
    for _ in 0..100 {
        let service = layer.layer(Callee::new([GOOD]));
        service.oneshot(()).await.unwrap();
    }
    assert_eq!(drain(layer.budget().unwrap()), 10);
}

#[tokio::test(start_paused = true)]
async fn what_was_earned_long_ago_is_gone_by_default() {
    let layer = retrying().build().unwrap();
    for _ in 0..1_000 {
        let service = layer.layer(Callee::new([GOOD]));
        service.oneshot(()).await.unwrap();
    }
    // 102 tokens, of which 30 s leave less than the floor.
    advance(30 * SECOND).await;
    assert_eq!(drain(layer.budget().unwrap()), 2);
}

/// Whether a call through this service, to a callee that is down, is retried.
async fn is_retried<S>(service: S) -> bool
where
    S: Service<(), Response = Verdict>,
{
    // Without a retry there is nothing to wait for.
    time_of(service.oneshot(())).await > Duration::ZERO
}

/// A layer with a token for one retry.
fn one_token() -> RetryLayer<AsAnswered, Cloned> {
    let budget = Budget::builder().floor(1).reserve(0.0).build().unwrap();
    retrying().attempts(2).budget(budget).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn services_of_one_layer_share_its_budget() {
    let layer = one_token();
    assert!(is_retried(layer.layer(Callee::new([BAD]))).await);
    assert!(!is_retried(layer.layer(Callee::new([BAD]))).await);
}

#[tokio::test(start_paused = true)]
async fn clones_of_a_layer_share_its_budget() {
    let layer = one_token();
    let clone = layer.clone();
    assert!(is_retried(layer.layer(Callee::new([BAD]))).await);
    assert!(!is_retried(clone.layer(Callee::new([BAD]))).await);
}

#[tokio::test(start_paused = true)]
async fn clones_of_a_service_share_its_budget() {
    let service = one_token().layer(Callee::new([BAD]));
    assert!(is_retried(service.clone()).await);
    assert!(!is_retried(service).await);
}

#[tokio::test(start_paused = true)]
async fn services_of_one_layer_share_the_budget_it_made_itself() {
    let layer = retrying().build().unwrap();
    drain(layer.budget().unwrap());
    assert!(!is_retried(layer.layer(Callee::new([BAD]))).await);
}

#[tokio::test(start_paused = true)]
async fn layers_that_are_given_one_budget_share_it() {
    let budget = ten_tokens();
    drain(&budget);
    let layer = retrying().budget(budget).build().unwrap();
    assert!(!is_retried(layer.layer(Callee::new([BAD]))).await);
}

#[tokio::test(start_paused = true)]
async fn layers_that_are_given_no_budget_have_one_each() {
    let builder = retrying();
    let (one, two) = (builder.clone().build().unwrap(), builder.build().unwrap());
    drain(one.budget().unwrap());
    assert!(is_retried(two.layer(Callee::new([BAD]))).await);
}

#[tokio::test(start_paused = true)]
async fn without_a_budget_every_call_has_all_its_attempts() {
    let layer = retrying().no_budget().build().unwrap();
    let callee = Callee::new([BAD]);
    for _ in 0..200 {
        layer.layer(callee.clone()).oneshot(()).await.unwrap();
    }
    assert_eq!(callee.sent(), 600);
}

#[test]
fn a_layer_without_a_budget_shows_none() {
    assert!(retrying().no_budget().build().unwrap().budget().is_none());
}

// Without a runtime there is no timer to be had.

#[test]
fn a_call_that_succeeds_at_once_makes_no_timer() {
    assert_ready_ok!(task::spawn(send(retrying(), &Callee::new([GOOD]))).poll());
}

#[test]
fn a_call_that_finds_no_token_makes_no_timer() {
    assert_ready_ok!(task::spawn(send(spent(), &Callee::new([BAD]))).poll());
}

#[test]
fn no_wait_at_all_makes_no_timer() {
    let callee = Callee::new([BAD, BAD, GOOD]);
    let retrying = retrying().backoff(Backoff::constant(Duration::ZERO));
    let mut call = task::spawn(send(retrying, &callee));
    // Others have their turn between two attempts.
    for _ in 0..2 {
        assert_pending!(call.poll());
        assert!(call.is_woken());
    }
    assert_ready_ok!(call.poll());
}

// Events

#[tokio::test(start_paused = true)]
async fn a_retry_says_so() {
    let callee = Callee::new([BAD, GOOD]);
    assert_eq!(
        events::of(send(retrying().name("payments"), &callee)).await,
        [
            r#"DEBUG buttress::retry retrying name="payments" attempt=1 wait_ms=50 verdict="transient""#
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_retry_of_a_throttled_call_says_so() {
    let callee = Callee::new([Ok(Verdict::THROTTLED), GOOD]);
    assert_eq!(
        events::of(send(retrying().name("payments"), &callee)).await,
        [
            r#"DEBUG buttress::retry retrying name="payments" attempt=1 wait_ms=50 verdict="throttled""#
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_retry_says_how_long_it_waits_for_what_the_callee_asked() {
    let callee = Callee::new([Ok(transient(3 * SECOND)), GOOD]);
    let events = events::of(send(retrying(), &callee)).await;
    let wait_ms = events[0].split("wait_ms=").nth(1).unwrap();
    let wait_ms: u64 = wait_ms.split(' ').next().unwrap().parse().unwrap();
    assert!((3_000..=3_750).contains(&wait_ms), "{events:?}");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_out_of_attempts_says_so_after_its_retries() {
    let callee = Callee::new([BAD]);
    let backoff = Backoff::exponential(WAIT, SECOND).jitter(Jitter::None);
    let retrying = retrying().backoff(backoff).name("payments");
    assert_eq!(
        events::of(send(retrying, &callee)).await,
        [
            r#"DEBUG buttress::retry retrying name="payments" attempt=1 wait_ms=50 verdict="transient""#,
            r#"DEBUG buttress::retry retrying name="payments" attempt=2 wait_ms=100 verdict="transient""#,
            r#"DEBUG buttress::retry gave_up name="payments" attempt=3 verdict="transient" reason="attempts""#,
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_cannot_be_repeated_says_so() {
    let retrying = retrying().name("payments").replay(never::<Upload>);
    let service = retrying.build().unwrap().layer(Callee::new([BAD]));
    assert_eq!(
        events::of(service.oneshot(Upload)).await,
        [
            r#"DEBUG buttress::retry gave_up name="payments" attempt=1 verdict="transient" reason="not_replayable""#
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_would_have_to_wait_for_too_long_says_so() {
    let retry_after = RetryAfter::Delay(HOUR);
    let callee = Callee::new([Ok(Verdict::Throttled { retry_after })]);
    assert_eq!(
        events::of(send(retrying().name("payments"), &callee)).await,
        [
            r#"DEBUG buttress::retry gave_up name="payments" attempt=1 verdict="throttled" reason="retry_after""#
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_finds_no_token_says_so() {
    let callee = Callee::new([BAD]);
    assert_eq!(
        events::of(send(spent().name("payments"), &callee)).await,
        [
            r#"DEBUG buttress::retry gave_up name="payments" attempt=1 verdict="transient" reason="budget""#
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_layer_without_a_name_gives_none_in_its_events() {
    let callee = Callee::new([BAD]);
    assert_eq!(
        events::of(send(retrying().attempts(2), &callee)).await,
        [
            r#"DEBUG buttress::retry retrying attempt=1 wait_ms=50 verdict="transient""#,
            r#"DEBUG buttress::retry gave_up attempt=2 verdict="transient" reason="attempts""#,
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn what_no_retry_mends_says_nothing() {
    let rejected = UNSENT.map(|rejection| Err(Error::Rejected(rejection)));
    let answers = [GOOD, Ok(Verdict::Permanent), Ok(Verdict::Ignored)];
    for answer in answers.into_iter().chain(rejected) {
        let callee = Callee::new([answer]);
        assert_eq!(events::of(send(retrying(), &callee)).await, [""; 0]);
    }
}
