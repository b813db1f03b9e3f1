//! `http::stack()`, the recommended stack.

#[path = "support/events.rs"]
mod events;

use buttress::circuit_breaker::CircuitState;
use buttress::http::{AttemptTimeout, Stack, StackBuilder, StatusClassifier, stack};
use buttress::rate_limit::RateLimiter;
use buttress::retry::Backoff;
use buttress::{
    Deadline, Error, LoadShedLayer, Name, Quota, RateLimitLayer, Rejection, StackError,
};
use http::{Method, Request, Response};
use std::convert::Infallible;
use std::future::{Ready, pending, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;
use tower::{Service, service_fn};

const SECOND: Duration = Duration::from_secs(1);

/// A client whose upstream always responds with one status. It counts the requests that it sends.
#[derive(Clone)]
struct Client {
    status: u16,
    sent: Arc<AtomicU32>,
}

impl Client {
    fn of(status: u16) -> Self {
        Self {
            status,
            sent: Arc::default(),
        }
    }

    fn sent(&self) -> u32 {
        self.sent.load(Relaxed)
    }
}

impl Service<Request<()>> for Client {
    type Response = Response<()>;
    type Error = Infallible;
    type Future = Ready<Result<Response<()>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        self.sent.fetch_add(1, Relaxed);
        let response = Response::builder().status(self.status);
        ready(Ok(response.header("retry-after", "2").body(()).unwrap()))
    }
}

fn request(method: Method) -> Request<()> {
    Request::builder().method(method).body(()).unwrap()
}

fn get() -> Request<()> {
    request(Method::GET)
}

/// Retries without waiting.
fn at_once(stack: StackBuilder) -> StackBuilder {
    stack.retry(|retry| retry.backoff(Backoff::constant(Duration::ZERO)))
}

// How it prints

#[test]
fn it_prints_all_its_parts_outermost_first() {
    let expected = "\
timeout: 30s for the whole call
retry: 3 attempts, waits of 50ms to 5s, × 2 with full jitter, up to 60s if asked for, \
budget of 0.1 per success of the last 5s, floor 2 (+0.1 per second)
load shed: none
rate limit: none
circuit breaker: opens at 50% failures of at least 20 calls in 10s, for 500ms to 1s, \
3 probes of which 2 close, written off after 30s, cancelled calls fail from 10s
timeout: 5s for each attempt";
    assert_eq!(stack().build().unwrap().to_string(), expected);
    assert_eq!(stack().to_string(), expected);
}

#[test]
fn a_stack_that_cannot_be_built_prints_why() {
    let stack = stack().retry(|retry| retry.attempts(0));
    assert_eq!(stack.to_string(), "attempts must be at least 1, but is 0");
}

#[test]
fn it_prints_what_was_set_and_what_was_left_out() {
    let stack = stack()
        .name("orders")
        .deadline(SECOND)
        .no_retry()
        .load_shed(256)
        .rate_limit(Quota::per_second(200))
        .attempt_timeout(Duration::MAX);
    let printed = stack.clone().build().unwrap().to_string();
    assert!(printed.contains("waits up to 1s\n"), "{printed}");
    let paused = stack
        .clone()
        .retry(|retry| retry)
        .pause_on_429()
        .to_string();
    assert!(
        paused.contains("waits up to 1s, paused by a 429 for up to 60s"),
        "{paused}"
    );
    let stack = stack.no_circuit_breaker();
    let expected = "\
timeout \"orders\": 1s for the whole call
retry: none
load shed \"orders\": 256 in flight
rate limit \"orders\": 200 per 1s, 20 at once, waits up to 1s
circuit breaker: none
timeout \"orders\": ∞ for each attempt";
    assert_eq!(stack.build().unwrap().to_string(), expected);
}

#[test]
fn an_invalid_part_is_named_in_the_error() {
    let error = stack()
        .retry(|retry| retry.attempts(0))
        .build()
        .unwrap_err();
    assert_eq!(error.field(), "attempts");
    let error = stack().circuit_breaker(|breaker| breaker.probes(0));
    assert_eq!(error.build().unwrap_err().field(), "probes");
}

#[test]
fn a_layer_changed_twice_keeps_both_changes() {
    let stack = stack()
        .circuit_breaker(|breaker| breaker.probes(7))
        .circuit_breaker(|breaker| breaker.min_calls(9));
    let printed = stack.build().unwrap().to_string();
    assert!(
        printed.contains("7 probes") && printed.contains("at least 9 calls"),
        "{printed}"
    );
}

// Traits

#[test]
fn it_can_be_named_cloned_and_shared_between_threads() {
    #[derive(Clone)]
    struct Orders {
        client: Stack<Client>,
    }
    fn shared<T: Clone + Send + Sync + 'static>(_: &T) {}
    let orders = Orders {
        client: stack().service(Client::of(200)).unwrap(),
    };
    shared(&orders);
    shared(&orders.client);
}

#[tokio::test(start_paused = true)]
async fn a_call_can_be_spawned() {
    let client = stack().service(Client::of(200)).unwrap();
    let response = tokio::spawn(client.oneshot(get())).await.unwrap();
    assert_eq!(response.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_stack_for_other_requests_takes_custom_rules() {
    let client = service_fn(|n: u32| async move { Ok::<_, Infallible>(n + 1) });
    let judge = |_: Result<&u32, &Error<Infallible>>| buttress::Verdict::Healthy;
    let stack = stack()
        .replay(buttress::retry::Cloned)
        .classify(judge)
        .carrier(());
    assert_eq!(stack.service(client).unwrap().oneshot(1).await, Ok(2));
}

// What it does

#[tokio::test(start_paused = true)]
async fn a_failed_request_is_sent_three_times_if_it_is_idempotent() {
    for (method, sends) in [(Method::GET, 3), (Method::POST, 1)] {
        let client = Client::of(503);
        let service = stack().service(client.clone()).unwrap();
        let response = service.oneshot(request(method)).await.unwrap();
        assert_eq!((response.status().as_u16(), client.sent()), (503, sends));
    }
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_fails_opens_the_circuit() {
    let client = Client::of(500);
    let layer = stack().no_retry().build().unwrap();
    let service = tower::Layer::layer(&layer, client.clone());
    for _ in 0..20 {
        service.clone().oneshot(get()).await.unwrap();
    }
    assert_eq!(layer.circuit().unwrap().state(), CircuitState::Open);
    let rejection = service.oneshot(get()).await.unwrap_err();
    assert!(matches!(
        rejection,
        Error::Rejected(Rejection::CircuitOpen { .. })
    ));
    assert_eq!(client.sent(), 20);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_hangs_is_retried() {
    let hanging = service_fn(|_: Request<()>| pending::<Result<Response<()>, Infallible>>());
    let start = Instant::now();
    let error = at_once(stack())
        .service(hanging)
        .unwrap()
        .oneshot(get())
        .await;
    let after = 5 * SECOND;
    assert_eq!(
        error.unwrap_err(),
        Error::Rejected(Rejection::TimedOut {
            after,
            by: Name::UNNAMED
        })
    );
    assert_eq!(start.elapsed(), 15 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_call_ends_at_its_deadline() {
    let hanging = service_fn(|_: Request<()>| pending::<Result<Response<()>, Infallible>>());
    let service = stack()
        .attempt_timeout(Duration::MAX)
        .service(hanging)
        .unwrap();
    let start = Instant::now();
    let after = 30 * SECOND;
    let error = service.oneshot(get()).await.unwrap_err();
    assert_eq!(
        error,
        Error::Rejected(Rejection::TimedOut {
            after,
            by: Name::UNNAMED
        })
    );
    assert_eq!(start.elapsed(), after);
}

#[tokio::test(start_paused = true)]
async fn the_client_sees_the_deadline_of_its_attempt() {
    let client = service_fn(|request: Request<()>| async move {
        let deadline = request.extensions().get().map(Deadline::remaining);
        Ok::<_, Infallible>(Response::new(deadline))
    });
    let left = |stack: StackBuilder, own: Option<Duration>| async move {
        let mut request = get();
        if let Some(own) = own {
            request.extensions_mut().insert(Deadline::after(own));
        }
        let service = stack.service(client).unwrap();
        service.oneshot(request).await.unwrap().into_body()
    };
    assert_eq!(left(stack(), None).await, Some(5 * SECOND));
    assert_eq!(
        left(stack().deadline(2 * SECOND), None).await,
        Some(2 * SECOND)
    );
    assert_eq!(left(stack(), Some(SECOND)).await, Some(SECOND));
}

#[tokio::test(start_paused = true)]
async fn calls_above_the_concurrency_limit_are_shed() {
    let client = Client::of(200);
    let stack = stack().no_retry().load_shed(LoadShedLayer::new(0));
    let error = stack
        .service(client)
        .unwrap()
        .oneshot(get())
        .await
        .unwrap_err();
    assert_eq!(
        error,
        Error::Rejected(Rejection::Overloaded {
            limit: 0,
            by: Name::UNNAMED
        })
    );
}

#[tokio::test(start_paused = true)]
async fn calls_do_not_exceed_the_quota() {
    let limit = RateLimitLayer::builder(Quota::per_second(1)).max_wait(Duration::ZERO);
    let stack = stack().no_retry().rate_limit(limit.build().unwrap());
    let service = stack.service(Client::of(200)).unwrap();
    service.clone().oneshot(get()).await.unwrap();
    let error = service.oneshot(get()).await.unwrap_err();
    assert!(matches!(
        error,
        Error::Rejected(Rejection::RateLimited { .. })
    ));
}

#[tokio::test(start_paused = true)]
async fn a_429_pauses_the_rate_limit_once_however_many_layers_classify_it() {
    let once = stack().retry(|retry| retry.attempts(1));
    let failure = StatusClassifier::default().throttled_is_failure();
    for stack in [once.clone(), stack().no_retry(), once.classify(failure)] {
        let stack = stack.rate_limit(Quota::per_second(1_000)).pause_on_429();
        let service = stack.service(Client::of(429)).unwrap();
        let events = events::of(async { service.oneshot(get()).await.unwrap() }).await;
        let paused = "DEBUG buttress::rate_limit paused pause_ms=2000";
        let told = events.iter().filter(|event| *event == paused);
        assert_eq!(told.count(), 1, "{events:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_429_of_one_endpoint_does_not_pause_the_others_by_default() {
    let stack = stack().no_retry().rate_limit(Quota::per_second(1_000));
    let service = stack.service(Client::of(429)).unwrap();
    for _ in 0..2 {
        let response = service.clone().oneshot(get()).await.unwrap();
        assert_eq!(response.status(), 429);
    }
}

#[test]
fn pause_on_429_is_invalid_without_a_rate_limit_or_a_classifier() {
    let no_limit = stack().pause_on_429();
    let nobody_sees = stack()
        .no_retry()
        .no_circuit_breaker()
        .rate_limit(Quota::per_second(1))
        .pause_on_429();
    for stack in [no_limit, nobody_sees] {
        let error = stack.service(Client::of(200)).unwrap_err();
        assert_eq!(error.field(), "pause_on_429");
    }
}

#[tokio::test(start_paused = true)]
async fn stacks_of_one_builder_share_only_the_handles_given_to_it() {
    let limiter = RateLimiter::new(Quota::per_second(1));
    let template = stack().load_shed(1).rate_limit(limiter);
    let [one, two] = [(); 2].map(|()| template.clone().build().unwrap());
    let _slot = one.limit().unwrap().try_acquire().unwrap();
    assert_eq!(two.limit().unwrap().in_flight(), 0);
    one.circuit().unwrap().force_open();
    assert_eq!(two.circuit().unwrap().state(), CircuitState::Closed);
    one.budget().unwrap().try_withdraw().unwrap().spend();
    assert!(one.budget().unwrap().tokens() < two.budget().unwrap().tokens());
    one.limiter().unwrap().try_acquire(1).unwrap();
    assert!(two.limiter().unwrap().try_acquire(1).is_err());
}

#[tokio::test(start_paused = true)]
async fn the_name_of_a_stack_is_the_name_of_its_parts() {
    let own = LoadShedLayer::builder(7).name("shed");
    let layer = stack()
        .name("orders")
        .load_shed(own)
        .rate_limit(Quota::per_second(9))
        .build()
        .unwrap();
    let names = [
        layer.limit().unwrap().snapshot().name,
        layer.limiter().unwrap().snapshot().name,
        layer.circuit().unwrap().snapshot().name,
    ];
    assert_eq!(
        names.map(|name| name.as_str().unwrap()),
        ["shed", "orders", "orders"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_request_can_carry_its_own_attempt_timeout() {
    let hanging = service_fn(|_: Request<()>| pending::<Result<http::Response<()>, Infallible>>());
    let service = stack()
        .no_retry()
        .attempt_timeout(SECOND)
        .service(hanging)
        .unwrap();
    let mut upload = get();
    upload.extensions_mut().insert(AttemptTimeout(7 * SECOND));
    let after = 7 * SECOND;
    let by = Name::UNNAMED;
    let start = Instant::now();
    let outcome = service.oneshot(upload).await.unwrap_err();
    assert_eq!(outcome.rejection(), Some(Rejection::TimedOut { after, by }));
    assert_eq!(start.elapsed(), after);
}

#[tokio::test(start_paused = true)]
async fn the_clones_of_a_service_share_circuit_and_limits() {
    let layer = stack()
        .load_shed(7)
        .rate_limit(Quota::per_second(9))
        .build()
        .unwrap();
    let (one, two) = (
        tower::Layer::layer(&layer, Client::of(200)),
        tower::Layer::layer(&layer, Client::of(200)),
    );
    for service in [one.clone(), one, two] {
        service.oneshot(get()).await.unwrap();
    }
    assert_eq!(layer.circuit().unwrap().snapshot().calls, 3);
    assert_eq!(layer.limit().unwrap().snapshot().limit, 7);
    assert!(layer.limiter().is_some() && layer.budget().is_some());
}

#[tokio::test(start_paused = true)]
async fn the_layer_shows_the_counters_of_its_retry() {
    let layer = stack().build().unwrap();
    let service = tower::Layer::layer(&layer, Client::of(503));
    service.oneshot(get()).await.unwrap();
    let retried = layer.retry_snapshot().unwrap();
    assert_eq!((retried.retries, retried.gave_up.attempts), (2, 1));
    assert!(
        stack()
            .no_retry()
            .build()
            .unwrap()
            .retry_snapshot()
            .is_none()
    );
}

#[tokio::test(start_paused = true)]
async fn the_verdicts_of_statuses_can_be_changed() {
    const LIST: &[http::StatusCode] = &[http::StatusCode::NOT_FOUND];
    let client = Client::of(404);
    let stack = at_once(stack()).classify(StatusClassifier::default().transient(LIST));
    stack
        .service(client.clone())
        .unwrap()
        .oneshot(get())
        .await
        .unwrap();
    assert_eq!(client.sent(), 3);
}
