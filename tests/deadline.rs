//! What a deadline that travels with the request promises, on tokio's paused clock.

#[path = "support/events.rs"]
mod events;

use buttress::http::InExtensions;
use buttress::retry::{Backoff, Budget, Cloned, Jitter, Within};
use buttress::timeout::Timeout;
use buttress::{
    Carrier, CircuitBreakerLayer, Deadline, Error, LoadShedLayer, Name, Quota, RateLimitLayer,
    Rejection, Replay, RetryLayer, TimeoutLayer,
};
use http::Request;
use std::future::{Future, pending, ready};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, advance};
use tokio_test::{assert_pending, assert_ready, assert_ready_ok, task};
use tower::util::BoxCloneSyncService;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_test::mock;

type Req = Request<()>;
type Outcome = Result<(), Error<&'static str>>;

const NANO: Duration = Duration::from_nanos(1);
const TICK: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const CENTURY: Duration = Duration::from_secs(100 * 365 * 86_400);

const PASSED: Outcome = Err(Error::Rejected(Rejection::DeadlinePassed {
    by: Name::UNNAMED,
}));
const FULL: Outcome = Err(Error::Rejected(Rejection::Overloaded {
    limit: 1,
    by: Name::UNNAMED,
}));
const FAILED: Outcome = Err(Error::Service("failed"));

const fn timed_out(after: Duration) -> Outcome {
    Err(Error::Rejected(Rejection::TimedOut {
        after,
        by: Name::UNNAMED,
    }))
}

fn limited(after: Duration) -> Outcome {
    let retry_after = Some(after);
    Err(Error::Rejected(Rejection::RateLimited {
        retry_after,
        by: Name::UNNAMED,
    }))
}

/// A request with a deadline, as its caller sends it.
fn by(deadline: Deadline) -> Req {
    let mut request = Request::new(());
    InExtensions.set(&mut request, deadline);
    request
}

fn within(time: Duration) -> Req {
    by(Deadline::after(time))
}

fn bare() -> Req {
    Request::new(())
}

/// Answers as it is told, and notes the deadline of each request that reaches it.
#[derive(Clone)]
struct Callee {
    answer: Answer,
    seen: Arc<Mutex<Vec<Option<Deadline>>>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Answer {
    Answers,
    Fails,
    Hangs,
}

use Answer::{Answers, Fails, Hangs};

impl Callee {
    fn new(answer: Answer) -> Self {
        let seen = Arc::default();
        Self { answer, seen }
    }

    fn seen(&self) -> Vec<Option<Deadline>> {
        self.seen.lock().unwrap().clone()
    }

    fn sent(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    fn service(
        &self,
    ) -> impl Service<Req, Response = (), Error = Error<&'static str>, Future: Send>
    + Clone
    + Send
    + Sync
    + use<> {
        let Self { answer, seen } = self.clone();
        service_fn(move |request: Req| {
            seen.lock().unwrap().push(InExtensions.get(&request));
            async move {
                match answer {
                    Answers => Ok(()),
                    Fails => FAILED,
                    Hangs => pending().await,
                }
            }
        })
    }
}

fn timeout(after: Duration) -> TimeoutLayer<InExtensions> {
    let builder = TimeoutLayer::builder(after).carrier(InExtensions);
    builder.build().unwrap()
}

/// What a call ends with, and how long it takes. One that never ends fails its test.
async fn ends(call: impl Future<Output = Outcome>) -> (Outcome, Duration) {
    let start = Instant::now();
    let outcome = tokio::time::timeout(HOUR, call).await;
    (outcome.expect("the call never ended"), start.elapsed())
}

/// The deadline with which a request reaches the callee below a timeout.
async fn seen_below(layer: TimeoutLayer<InExtensions>, request: Req) -> Option<Deadline> {
    let callee = Callee::new(Answers);
    let outcome = layer.layer(callee.service()).oneshot(request).await;
    assert_eq!(outcome, Ok(()));
    callee.seen()[0]
}

// The deadline itself

#[tokio::test(start_paused = true)]
async fn a_deadline_tells_how_long_there_is() {
    let deadline = Deadline::after(3 * SECOND);
    advance(SECOND).await;
    assert_eq!(deadline.remaining(), 2 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_has_passed_leaves_nothing() {
    let deadline = Deadline::after(SECOND);
    advance(HOUR).await;
    assert_eq!(deadline.remaining(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn the_longest_wait_never_ends() {
    assert_eq!(Deadline::after(Duration::MAX), Deadline::NEVER);
}

#[tokio::test(start_paused = true)]
async fn never_leaves_all_the_time_there_is() {
    assert_eq!(Deadline::NEVER.remaining(), Duration::MAX);
}

#[tokio::test(start_paused = true)]
async fn never_is_later_than_any_instant() {
    assert!(Deadline::NEVER > Deadline::at(Instant::now() + 9 * CENTURY));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_is_the_instant_that_it_was_made_of() {
    let instant = Instant::now() + SECOND;
    assert_eq!(Deadline::at(instant).instant(), Some(instant));
}

// What a timeout leaves

#[tokio::test(start_paused = true)]
async fn a_timeout_leaves_its_deadline_in_the_request() {
    let own = Deadline::after(SECOND);
    assert_eq!(seen_below(timeout(SECOND), bare()).await, Some(own));
}

#[tokio::test(start_paused = true)]
async fn a_timeout_without_a_carrier_leaves_nothing() {
    let callee = Callee::new(Answers);
    let service = TimeoutLayer::new(SECOND).layer(callee.service());
    service.oneshot(bare()).await.unwrap();
    assert_eq!(callee.seen(), [None]);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_keeps_an_earlier_deadline() {
    let early = Deadline::after(SECOND);
    let seen = seen_below(timeout(2 * SECOND), by(early)).await;
    assert_eq!(seen, Some(early));
}

#[tokio::test(start_paused = true)]
async fn a_timeout_replaces_a_later_deadline_by_its_own() {
    let own = Deadline::after(SECOND);
    let seen = seen_below(timeout(SECOND), within(2 * SECOND)).await;
    assert_eq!(seen, Some(own));
}

#[tokio::test(start_paused = true)]
async fn a_timeout_replaces_a_deadline_that_never_comes() {
    let own = Deadline::after(SECOND);
    let seen = seen_below(timeout(SECOND), by(Deadline::NEVER)).await;
    assert_eq!(seen, Some(own));
}

#[tokio::test(start_paused = true)]
async fn an_endless_timeout_leaves_no_deadline() {
    assert_eq!(seen_below(timeout(Duration::MAX), bare()).await, None);
}

#[tokio::test(start_paused = true)]
async fn an_endless_timeout_keeps_the_callers_deadline() {
    let early = Deadline::after(SECOND);
    let seen = seen_below(timeout(Duration::MAX), by(early)).await;
    assert_eq!(seen, Some(early));
}

#[tokio::test(start_paused = true)]
async fn what_waiting_for_readiness_took_is_gone_from_the_deadline() {
    let (mut service, mut handle) =
        mock::spawn_layer::<Req, (), TimeoutLayer<InExtensions>>(timeout(SECOND));
    let own = Deadline::after(SECOND);
    handle.allow(0);
    assert_pending!(service.poll_ready());
    advance(SECOND / 4).await;
    handle.allow(1);
    assert_ready_ok!(service.poll_ready());
    let _call = service.call(bare());
    let (request, _send) = assert_ready!(handle.poll_request()).unwrap();
    assert_eq!(InExtensions.get(&request), Some(own));
}

#[tokio::test(start_paused = true)]
async fn a_clone_of_a_service_leaves_deadlines_of_its_own() {
    let callee = Callee::new(Answers);
    let service = timeout(SECOND).layer(callee.service());
    service.clone().oneshot(bare()).await.unwrap();
    advance(HOUR).await;
    let own = Deadline::after(SECOND);
    service.clone().oneshot(bare()).await.unwrap();
    assert_eq!(callee.seen()[1], Some(own));
}

#[tokio::test(start_paused = true)]
async fn a_copy_of_a_request_carries_its_deadline() {
    let deadline = Deadline::after(SECOND);
    assert_eq!(InExtensions.get(&by(deadline).clone()), Some(deadline));
}

// When a timeout ends a call

#[tokio::test(start_paused = true)]
async fn with_a_carrier_a_call_is_timed_from_the_call() {
    let callee = Callee::new(Hangs);
    let mut service = timeout(SECOND).layer(callee.service());
    let call = service.ready().await.unwrap().call(bare());
    advance(SECOND / 4).await;
    assert_eq!(ends(call).await, (timed_out(SECOND), SECOND * 3 / 4));
}

#[tokio::test(start_paused = true)]
async fn the_callers_deadline_ends_the_call_if_it_is_earlier() {
    let callee = Callee::new(Hangs);
    let service = timeout(HOUR).layer(callee.service());
    let ended = ends(service.oneshot(within(SECOND))).await;
    assert_eq!(ended, (PASSED, SECOND));
}

#[tokio::test(start_paused = true)]
async fn the_callers_deadline_gives_no_more_time_than_the_timeout() {
    let callee = Callee::new(Hangs);
    let service = timeout(SECOND).layer(callee.service());
    let ended = ends(service.oneshot(within(HOUR))).await;
    assert_eq!(ended, (timed_out(SECOND), SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_at_the_end_of_the_timeout_is_the_timeouts_own() {
    let callee = Callee::new(Hangs);
    let service = timeout(SECOND).layer(callee.service());
    let ended = ends(service.oneshot(within(SECOND))).await;
    assert_eq!(ended, (timed_out(SECOND), SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_timeout_without_a_carrier_sees_no_deadline() {
    let callee = Callee::new(Hangs);
    let service = TimeoutLayer::new(2 * SECOND).layer(callee.service());
    let ended = ends(service.oneshot(within(SECOND))).await;
    assert_eq!(ended, (timed_out(2 * SECOND), 2 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_has_passed_rejects_the_call() {
    let callee = Callee::new(Answers);
    let service = timeout(SECOND).layer(callee.service());
    let late = within(Duration::ZERO);
    advance(NANO).await;
    assert_eq!(service.oneshot(late).await, PASSED);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_has_just_come_has_passed() {
    let callee = Callee::new(Answers);
    let service = timeout(SECOND).layer(callee.service());
    assert_eq!(service.oneshot(within(Duration::ZERO)).await, PASSED);
}

#[tokio::test(start_paused = true)]
async fn a_call_past_its_deadline_never_reaches_the_inner_service() {
    let callee = Callee::new(Answers);
    let service = timeout(SECOND).layer(callee.service());
    let _rejected = service.oneshot(within(Duration::ZERO)).await;
    assert_eq!(callee.sent(), 0);
}

#[test]
fn a_deadline_that_has_passed_needs_no_timer_and_no_runtime() {
    let service = timeout(SECOND).layer(Callee::new(Answers).service());
    let mut call = task::spawn(service.oneshot(by(Deadline::at(Instant::now()))));
    assert_eq!(assert_ready!(call.poll()), PASSED);
}

#[tokio::test(start_paused = true)]
async fn no_time_at_all_lets_an_answer_pass_that_is_there_at_once() {
    let seen = seen_below(timeout(Duration::ZERO), bare()).await;
    assert_eq!(seen, Some(Deadline::after(Duration::ZERO)));
}

#[tokio::test(start_paused = true)]
async fn no_time_at_all_ends_a_call_at_its_first_pending_poll() {
    let service = timeout(Duration::ZERO).layer(Callee::new(Hangs).service());
    let mut call = task::spawn(service.oneshot(bare()));
    assert_eq!(assert_ready!(call.poll()), timed_out(Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_with_the_deadline_wins() {
    let slow = service_fn(|_: Req| async {
        tokio::time::sleep(SECOND).await;
        Outcome::Ok(())
    });
    let mut call = task::spawn(timeout(HOUR).layer(slow).oneshot(within(SECOND)));
    assert_pending!(call.poll());
    advance(SECOND).await;
    assert_eq!(assert_ready!(call.poll()), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_call_without_end_by_timeout_and_deadline_goes_on() {
    let service = timeout(Duration::MAX).layer(Callee::new(Hangs).service());
    let mut call = task::spawn(service.oneshot(by(Deadline::NEVER)));
    assert_pending!(call.poll());
    advance(CENTURY).await;
    assert_pending!(call.poll());
}

/// The last instant that the clock can tell.
fn last_instant() -> Instant {
    let seconds = (0..64).rev().map(|power| Duration::from_secs(1 << power));
    let nanos = (0..30).rev().map(|power| Duration::from_nanos(1 << power));
    let last = |at: Instant, step| at.checked_add(step).unwrap_or(at);
    seconds.chain(nanos).fold(Instant::now(), last)
}

#[tokio::test(start_paused = true)]
async fn a_deadline_at_the_end_of_time_is_one() {
    let service = timeout(Duration::MAX).layer(Callee::new(Hangs).service());
    let mut call = task::spawn(service.oneshot(by(Deadline::at(last_instant()))));
    assert_pending!(call.poll());
    advance(CENTURY).await;
    assert_pending!(call.poll());
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_passes_is_told_of_once() {
    let layer = TimeoutLayer::builder(HOUR).name("payments");
    let layer = layer.carrier(InExtensions).build().unwrap();
    let service = layer.layer(Callee::new(Hangs).service());
    let events = events::of(service.oneshot(within(SECOND))).await;
    assert_eq!(
        events,
        [r#"DEBUG buttress::timeout deadline_passed name="payments""#]
    );
}

// Timeouts within timeouts

#[tokio::test(start_paused = true)]
async fn an_attempt_ends_with_its_own_timeout_if_more_remains() {
    let inner = timeout(SECOND).layer(Callee::new(Hangs).service());
    let ended = ends(timeout(2 * SECOND).layer(inner).oneshot(bare())).await;
    assert_eq!(ended, (timed_out(SECOND), SECOND));
}

#[tokio::test(start_paused = true)]
async fn an_attempt_ends_with_what_remains_if_that_is_less() {
    // Not below the timeout that left the deadline, which would end it in any case.
    let inner = timeout(2 * SECOND).layer(Callee::new(Hangs).service());
    let ended = ends(inner.oneshot(within(SECOND))).await;
    assert_eq!(ended, (PASSED, SECOND));
}

#[tokio::test(start_paused = true)]
async fn the_timeout_that_set_the_deadline_is_the_one_that_timed_out() {
    let inner = timeout(2 * SECOND).layer(Callee::new(Hangs).service());
    let ended = ends(timeout(SECOND).layer(inner).oneshot(bare())).await;
    assert_eq!(ended, (timed_out(SECOND), SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_was_set_further_in_is_not_the_outer_timeouts() {
    let hurry = service_fn(|mut request: Req| {
        InExtensions.set(&mut request, Deadline::after(SECOND));
        timeout(HOUR)
            .layer(Callee::new(Hangs).service())
            .oneshot(request)
    });
    let ended = ends(timeout(2 * SECOND).layer(hurry).oneshot(bare())).await;
    assert_eq!(ended, (PASSED, SECOND));
}

// Circuit breaker

#[tokio::test(start_paused = true)]
async fn a_young_call_ended_by_its_deadline_is_not_counted_against_the_callee() {
    let breaker = CircuitBreakerLayer::default();
    let attempt = timeout(HOUR).layer(Callee::new(Hangs).service());
    let ended = breaker.layer(attempt).oneshot(within(TICK)).await;
    assert_eq!((ended, breaker.circuit().snapshot().failures), (PASSED, 0));
}

#[tokio::test(start_paused = true)]
async fn a_call_ended_by_its_deadline_after_long_counts_as_failed() {
    let breaker = CircuitBreakerLayer::builder().abandoned_after(SECOND);
    let breaker = breaker.build().unwrap();
    let attempt = timeout(HOUR).layer(Callee::new(Hangs).service());
    let ended = breaker.layer(attempt).oneshot(within(SECOND)).await;
    assert_eq!((ended, breaker.circuit().snapshot().failures), (PASSED, 1));
}

#[tokio::test(start_paused = true)]
async fn a_probe_ended_young_by_its_deadline_gives_its_place_back() {
    let breaker = CircuitBreakerLayer::builder()
        .consecutive_failures(1)
        .probes(1)
        .open_for(SECOND);
    let breaker = breaker.build().unwrap();
    let failing = breaker.layer(Callee::new(Fails).service());
    assert_eq!(failing.oneshot(bare()).await, FAILED);
    advance(SECOND).await;
    let hanging = breaker.layer(timeout(HOUR).layer(Callee::new(Hangs).service()));
    assert_eq!(hanging.oneshot(within(TICK)).await, PASSED);
    let well = breaker.layer(Callee::new(Answers).service());
    assert_eq!(well.oneshot(bare()).await, Ok(()));
}

// Retry

/// Sends again a second later, as often as it takes.
fn retry() -> RetryLayer {
    let backoff = Backoff::constant(SECOND).jitter(Jitter::None);
    let builder = RetryLayer::builder().attempts(u32::MAX).no_budget();
    builder.backoff(backoff).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_would_come_after_the_deadline_is_given_up_at_once() {
    let callee = Callee::new(Fails);
    let service = retry().layer(callee.service());
    let ended = ends(service.oneshot(within(SECOND / 2))).await;
    assert_eq!(ended, (FAILED, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_would_come_with_the_deadline_is_given_up() {
    let callee = Callee::new(Fails);
    let service = retry().layer(callee.service());
    let ended = ends(service.oneshot(within(SECOND))).await;
    assert_eq!(ended, (FAILED, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_a_late_timer_could_send_after_the_deadline_is_given_up() {
    let callee = Callee::new(Fails);
    let service = retry().layer(callee.service());
    let ended = ends(service.oneshot(within(SECOND + Duration::from_micros(500)))).await;
    assert_eq!(ended, (FAILED, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn retries_go_on_until_the_last_that_comes_before_the_deadline() {
    let callee = Callee::new(Fails);
    let service = retry().layer(callee.service());
    // A timer may be a tick late.
    let tick = Duration::from_millis(1);
    let ended = ends(service.oneshot(within(3 * SECOND + tick + NANO))).await;
    assert_eq!((callee.sent(), ended), (4, (FAILED, 3 * SECOND)));
}

#[tokio::test(start_paused = true)]
async fn a_retry_without_a_wait_is_given_up_once_the_deadline_has_passed() {
    let callee = Callee::new(Fails);
    let at_once = RetryLayer::builder().backoff(Backoff::constant(Duration::ZERO));
    let service = at_once.build().unwrap().layer(callee.service());
    let _failed = service.oneshot(within(Duration::ZERO)).await;
    assert_eq!(callee.sent(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_never_comes_stops_no_retry() {
    let callee = Callee::new(Fails);
    let layer = RetryLayer::builder().attempts(2).build().unwrap();
    let service = layer.layer(callee.service());
    let _failed = service.oneshot(by(Deadline::NEVER)).await;
    assert_eq!(callee.sent(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_retry_given_up_for_the_deadline_takes_no_token() {
    let budget = Budget::default();
    let backoff = Backoff::constant(SECOND).jitter(Jitter::None);
    let layer = RetryLayer::builder()
        .backoff(backoff)
        .budget(budget.clone());
    let service = layer.build().unwrap().layer(Callee::new(Fails).service());
    let tokens = budget.tokens();
    let _failed = service.oneshot(within(SECOND)).await;
    assert!((budget.tokens() - tokens).abs() < 0.001);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_is_told_as_the_reason_even_if_the_budget_is_empty() {
    let budget = Budget::default();
    while let Some(withdrawal) = budget.try_withdraw() {
        withdrawal.spend();
    }
    let backoff = Backoff::constant(SECOND).jitter(Jitter::None);
    let layer = RetryLayer::builder().backoff(backoff).budget(budget);
    let service = layer.build().unwrap().layer(Callee::new(Fails).service());
    assert_eq!(
        events::of(service.oneshot(within(SECOND))).await,
        [r#"DEBUG buttress::retry gave_up attempt=1 verdict="transient" reason="deadline""#]
    );
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_is_sent_again_carries_the_deadline_of_the_whole_call() {
    let callee = Callee::new(Fails);
    let whole = Deadline::after(2 * SECOND);
    let client = callee.service();
    let service = retry().layer(service_fn(move |mut request: Req| {
        let seen = InExtensions.get(&request);
        // An attempt's own, as a timeout inside would set it.
        InExtensions.set(&mut request, Deadline::after(TICK));
        assert_eq!(seen, Some(whole));
        client.clone().oneshot(request)
    }));
    let _failed = service.oneshot(by(whole)).await;
    assert_eq!(callee.sent(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_timed_out_is_sent_again_though_a_timeout_inside_found_its_deadline() {
    let callee = Callee::new(Hangs);
    let attempt = timeout(SECOND).layer(timeout(HOUR).layer(callee.service()));
    let layer = RetryLayer::builder().attempts(2).build().unwrap();
    let outcome = layer.layer(attempt).oneshot(within(HOUR)).await;
    assert_eq!((outcome, callee.sent()), (timed_out(SECOND), 2));
}

#[tokio::test(start_paused = true)]
async fn a_call_ended_by_its_deadline_is_not_sent_again() {
    let callee = Callee::new(Hangs);
    let at_once = RetryLayer::builder()
        .replay(Cloned)
        .backoff(Backoff::constant(Duration::ZERO));
    let service = at_once.build().unwrap();
    let service = service.layer(timeout(HOUR).layer(callee.service()));
    let outcome = service.oneshot(within(SECOND)).await;
    assert_eq!((outcome, callee.sent()), (PASSED, 1));
}

#[tokio::test(start_paused = true)]
async fn a_retry_ended_by_its_deadline_has_spent_its_token() {
    let budget = Budget::builder().reserve(0.0).build().unwrap();
    let layer = RetryLayer::builder().budget(budget.clone());
    let sent = AtomicUsize::new(0);
    let fails_once = service_fn(|_: Req| {
        let first = sent.fetch_add(1, Relaxed) == 0;
        async move { if first { FAILED } else { pending().await } }
    });
    let service = layer
        .build()
        .unwrap()
        .layer(timeout(HOUR).layer(fails_once));
    let tokens = budget.tokens();
    assert_eq!(service.oneshot(within(HOUR / 2)).await, PASSED);
    assert!((budget.tokens() - tokens + 1.0).abs() < 0.001);
}

#[tokio::test(start_paused = true)]
async fn a_policy_of_ones_own_sees_the_deadline_where_it_is_told_to() {
    let again = Within::new(Cloned, InExtensions);
    let deadline = Deadline::after(SECOND);
    assert_eq!(again.deadline(&by(deadline)), Some(deadline));
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_is_told_of_no_carrier_sees_no_deadline() {
    let once_more = |request: &Req| Some(request.clone());
    assert_eq!(once_more.deadline(&within(SECOND)), None);
}

// Rate limit

/// One call a second, for which others wait as long as it takes.
fn limit() -> RateLimitLayer<(), InExtensions> {
    let builder = RateLimitLayer::builder(Quota::per_second(1));
    let builder = builder.max_wait(Duration::MAX).carrier(InExtensions);
    let layer = builder.build().unwrap();
    layer.limiter().try_acquire(1).unwrap();
    layer
}

#[tokio::test(start_paused = true)]
async fn a_turn_after_the_deadline_is_refused_at_once() {
    let service = limit().layer(Callee::new(Answers).service());
    let ended = ends(service.oneshot(within(SECOND / 2))).await;
    assert_eq!(ended, (limited(SECOND), Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_comes_with_the_deadline_is_refused() {
    let service = limit().layer(Callee::new(Answers).service());
    let ended = ends(service.oneshot(within(SECOND))).await;
    assert_eq!(ended, (limited(SECOND), Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_turn_just_before_the_deadline_is_waited_for() {
    let callee = Callee::new(Answers);
    let service = limit().layer(callee.service());
    assert_eq!(service.oneshot(within(SECOND + NANO)).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_turn_refused_for_the_deadline_is_the_next_callers() {
    let layer = limit();
    let service = layer.layer(Callee::new(Answers).service());
    let _refused = service.clone().oneshot(within(SECOND / 2)).await;
    let (outcome, took) = ends(service.oneshot(bare())).await;
    assert_eq!((outcome, took < SECOND + 2 * TICK), (Ok(()), true));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_has_passed_refuses_a_turn_that_has_to_be_waited_for() {
    let service = limit().layer(Callee::new(Answers).service());
    let late = within(Duration::ZERO);
    advance(SECOND / 4).await;
    let ended = ends(service.oneshot(late)).await;
    assert_eq!(ended, (limited(SECOND * 3 / 4), Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_before_the_limiters_own_beginning_refuses_a_wait() {
    let before = Deadline::at(Instant::now());
    advance(SECOND).await;
    let service = limit().layer(Callee::new(Answers).service());
    let ended = ends(service.oneshot(by(before))).await;
    assert_eq!(ended, (limited(SECOND), Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_has_come_is_not_measured_by_the_deadline() {
    let callee = Callee::new(Answers);
    let layer = limit();
    advance(2 * SECOND).await;
    let service = layer.layer(callee.service());
    assert_eq!(service.oneshot(within(Duration::ZERO)).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_far_deadline_does_not_lengthen_the_wait_for_a_turn() {
    let builder = RateLimitLayer::builder(Quota::per_second(1)).max_wait(SECOND / 2);
    let layer = builder.carrier(InExtensions).build().unwrap();
    layer.limiter().try_acquire(1).unwrap();
    let service = layer.layer(Callee::new(Answers).service());
    let ended = ends(service.oneshot(within(HOUR))).await;
    assert_eq!(ended, (limited(SECOND), Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn deadlines_at_the_end_of_time_let_a_turn_be_waited_for() {
    for deadline in [Deadline::NEVER, Deadline::at(last_instant())] {
        let service = limit().layer(Callee::new(Answers).service());
        assert_eq!(service.oneshot(by(deadline)).await, Ok(()), "{deadline:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_without_a_carrier_sees_no_deadline() {
    let builder = RateLimitLayer::builder(Quota::per_second(1)).max_wait(Duration::MAX);
    let layer = builder.build().unwrap();
    layer.limiter().try_acquire(1).unwrap();
    let service = layer.layer(Callee::new(Answers).service());
    assert_eq!(service.oneshot(within(SECOND / 2)).await, Ok(()));
}

// Load shed

/// One slot, and a queue in which calls wait for a minute.
fn shed() -> LoadShedLayer<InExtensions> {
    let builder = LoadShedLayer::builder(1).queue(9, 60 * SECOND);
    builder.carrier(InExtensions).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_wait_in_the_queue_ends_with_the_deadline() {
    let layer = shed();
    let _slot = layer.limit().try_acquire().unwrap();
    let service = layer.layer(Callee::new(Answers).service());
    let ended = ends(service.oneshot(within(SECOND))).await;
    assert_eq!(ended, (FULL, SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_far_deadline_does_not_lengthen_the_wait_in_the_queue() {
    let layer = shed();
    let _slot = layer.limit().try_acquire().unwrap();
    let service = layer.layer(Callee::new(Answers).service());
    let ended = ends(service.oneshot(within(HOUR / 2))).await;
    assert_eq!(ended, (FULL, 60 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_call_past_its_deadline_does_not_enter_the_queue() {
    let layer = shed();
    let _slot = layer.limit().try_acquire().unwrap();
    let mut service = layer.layer(Callee::new(Answers).service());
    let _call = service.ready().await.unwrap().call(within(Duration::ZERO));
    assert_eq!(layer.limit().snapshot().waiting, 0);
}

#[test]
fn a_call_past_its_deadline_is_shed_without_a_timer_and_a_runtime() {
    let layer = shed();
    let _slot = layer.limit().try_acquire().unwrap();
    let service = layer.layer(Callee::new(Answers).service());
    let mut call = task::spawn(service.oneshot(by(Deadline::at(Instant::now()))));
    assert_eq!(assert_ready!(call.poll()), FULL);
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_is_free_is_not_measured_by_the_deadline() {
    let service = shed().layer(Callee::new(Answers).service());
    assert_eq!(service.oneshot(within(Duration::ZERO)).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_comes_with_the_deadline_wins() {
    let layer = shed();
    let slot = layer.limit().try_acquire().unwrap();
    let service = layer.layer(Callee::new(Answers).service());
    let mut call = task::spawn(service.oneshot(within(SECOND)));
    assert_pending!(call.poll());
    advance(SECOND).await;
    drop(slot);
    assert_eq!(assert_ready!(call.poll()), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_may_be_waited_in_for_ever_ends_with_the_deadline() {
    let builder = LoadShedLayer::builder(1).queue(9, Duration::MAX);
    let layer = builder.carrier(InExtensions).build().unwrap();
    let _slot = layer.limit().try_acquire().unwrap();
    let service = layer.layer(Callee::new(Answers).service());
    let ended = ends(service.oneshot(within(SECOND))).await;
    assert_eq!(ended, (FULL, SECOND));
}

#[tokio::test(start_paused = true)]
async fn deadlines_at_the_end_of_time_let_a_slot_be_waited_for() {
    for deadline in [Deadline::NEVER, Deadline::at(last_instant())] {
        let builder = LoadShedLayer::builder(1).queue(9, Duration::MAX);
        let layer = builder.carrier(InExtensions).build().unwrap();
        let slot = layer.limit().try_acquire().unwrap();
        let service = layer.layer(Callee::new(Answers).service());
        let mut call = task::spawn(service.oneshot(by(deadline)));
        assert_pending!(call.poll());
        drop(slot);
        assert_eq!(assert_ready!(call.poll()), Ok(()), "{deadline:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_deadline_is_told_as_the_reason_of_a_wait_that_it_ended() {
    for time in [Duration::ZERO, SECOND] {
        let layer = shed();
        let _slot = layer.limit().try_acquire().unwrap();
        let service = layer.layer(Callee::new(Answers).service());
        assert_eq!(
            events::of(service.oneshot(within(time))).await,
            [r#"DEBUG buttress::load_shed overloaded reason="deadline" limit=1"#],
            "{time:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_load_shed_without_a_carrier_sees_no_deadline() {
    let layer = LoadShedLayer::builder(1).queue(9, 2 * SECOND);
    let layer = layer.build().unwrap();
    let _slot = layer.limit().try_acquire().unwrap();
    let service = layer.layer(Callee::new(Answers).service());
    let ended = ends(service.oneshot(within(SECOND))).await;
    assert_eq!(ended, (FULL, 2 * SECOND));
}

// Another carrier

#[derive(Clone)]
struct Query {
    deadline: Option<Deadline>,
}

#[derive(Clone)]
struct InQuery;

impl Carrier<Query> for InQuery {
    fn get(&self, query: &Query) -> Option<Deadline> {
        query.deadline
    }

    fn set(&self, query: &mut Query, deadline: Deadline) {
        query.deadline = Some(deadline);
    }
}

#[tokio::test(start_paused = true)]
async fn requests_of_any_type_carry_a_deadline_through_every_layer() {
    let again = RetryLayer::builder().replay(Within::new(Cloned, InQuery));
    let service = ServiceBuilder::new()
        .layer(
            TimeoutLayer::builder(SECOND)
                .carrier(InQuery)
                .build()
                .unwrap(),
        )
        .layer(again.build().unwrap())
        .layer(LoadShedLayer::builder(9).carrier(InQuery).build().unwrap())
        .layer(
            RateLimitLayer::builder(Quota::per_second(9))
                .carrier(InQuery)
                .build()
                .unwrap(),
        )
        .layer(CircuitBreakerLayer::default())
        .layer(
            TimeoutLayer::builder(HOUR)
                .carrier(InQuery)
                .build()
                .unwrap(),
        )
        .service(service_fn(|query: Query| {
            ready(Ok::<_, Error<&'static str>>(query.deadline))
        }));
    let own = Deadline::after(SECOND);
    let seen = service.oneshot(Query { deadline: None }).await;
    assert_eq!(seen, Ok(Some(own)));
}

// The whole stack

const WHOLE: Duration = Duration::from_secs(10);
const ATTEMPT: Duration = Duration::from_secs(4);

struct Stack {
    shed: LoadShedLayer<InExtensions>,
    limit: RateLimitLayer<(), InExtensions>,
    breaker: CircuitBreakerLayer,
    callee: Callee,
}

impl Stack {
    fn around(answer: Answer) -> Self {
        let limit = RateLimitLayer::builder(Quota::per_second(1).burst(9));
        Self {
            shed: shed(),
            limit: limit
                .max_wait(Duration::MAX)
                .carrier(InExtensions)
                .build()
                .unwrap(),
            breaker: CircuitBreakerLayer::default(),
            callee: Callee::new(answer),
        }
    }

    fn service(&self) -> BoxCloneSyncService<Req, (), Error<&'static str>> {
        BoxCloneSyncService::new(
            ServiceBuilder::new()
                .layer(timeout(WHOLE))
                .layer(retry())
                .layer(self.shed.clone())
                .layer(self.limit.clone())
                .layer(self.breaker.clone())
                .layer(timeout(ATTEMPT))
                .service(self.callee.service()),
        )
    }

    async fn ends(&self, request: Req) -> (Outcome, Duration) {
        ends(self.service().oneshot(request)).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_stack_answers_within_the_deadline() {
    let stack = Stack::around(Answers);
    assert_eq!(stack.ends(within(SECOND)).await, (Ok(()), Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn each_attempt_of_a_stack_is_sent_with_the_earliest_deadline() {
    let stack = Stack::around(Hangs);
    let start = Instant::now();
    let _timed_out = stack.ends(bare()).await;
    // Attempts at 0, 5 and 10 s: the last one would come with the end.
    let after_start = |time| Some(Deadline::at(start + time));
    assert_eq!(
        stack.callee.seen(),
        [after_start(ATTEMPT), after_start(5 * SECOND + ATTEMPT)]
    );
}

#[tokio::test(start_paused = true)]
async fn a_stack_gives_up_where_no_attempt_can_follow() {
    let stack = Stack::around(Hangs);
    // The second attempt times out at 9 s; another would be sent at 10 s, which is too late.
    let ended = stack.ends(bare()).await;
    assert_eq!(ended, (timed_out(ATTEMPT), 9 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_stack_ends_with_the_callers_deadline() {
    let stack = Stack::around(Hangs);
    assert_eq!(stack.ends(within(SECOND)).await, (PASSED, SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_stack_ends_with_the_callers_deadline_in_its_second_attempt() {
    let stack = Stack::around(Hangs);
    let ended = stack.ends(within(6 * SECOND)).await;
    assert_eq!((ended, stack.callee.sent()), ((PASSED, 6 * SECOND), 2));
}

#[tokio::test(start_paused = true)]
async fn a_stack_sends_nothing_that_is_past_its_deadline() {
    let stack = Stack::around(Answers);
    let ended = stack.ends(within(Duration::ZERO)).await;
    assert_eq!((ended, stack.callee.sent()), ((PASSED, Duration::ZERO), 0));
}

#[tokio::test(start_paused = true)]
async fn a_stack_says_at_once_that_no_turn_comes_in_time() {
    let stack = Stack::around(Answers);
    stack.limit.limiter().try_acquire(9).unwrap();
    let ended = stack.ends(within(SECOND / 2)).await;
    assert_eq!(ended, (limited(SECOND), Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_stack_queues_to_the_end_of_the_whole_call() {
    let stack = Stack::around(Answers);
    let _slot = stack.shed.limit().try_acquire().unwrap();
    assert_eq!(stack.ends(bare()).await, (FULL, WHOLE));
}

#[tokio::test(start_paused = true)]
async fn a_stack_holds_nothing_of_a_call_that_its_deadline_ended() {
    let stack = Stack::around(Hangs);
    let mut call = task::spawn(stack.service().oneshot(within(SECOND)));
    assert_pending!(call.poll());
    advance(SECOND).await;
    assert_eq!(assert_ready!(call.poll()), PASSED);
    assert_eq!(stack.shed.limit().in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn callers_in_a_hurry_do_not_open_the_circuit_for_others() {
    let stack = Stack::around(Hangs);
    for _ in 0..100 {
        let _passed = stack.ends(within(TICK)).await;
    }
    assert_eq!(stack.breaker.circuit().snapshot().failures, 0);
}

#[test]
fn layers_with_a_carrier_and_their_futures_are_what_a_runtime_asks_for() {
    fn shared<T: Clone + Send + Sync + 'static>() {}
    fn sent<T: Send + 'static>() {}
    type Inner = BoxCloneSyncService<Req, (), Error<&'static str>>;
    shared::<TimeoutLayer<InExtensions>>();
    shared::<Timeout<Inner, InExtensions>>();
    shared::<LoadShedLayer<InExtensions>>();
    shared::<RateLimitLayer<(), InExtensions>>();
    shared::<Within<Cloned, InExtensions>>();
    shared::<Deadline>();
    sent::<<Timeout<Inner, InExtensions> as Service<Req>>::Future>();
}
