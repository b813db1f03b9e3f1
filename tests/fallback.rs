//! Fallbacks: which calls they answer, with what, and what is told.

use buttress::circuit_breaker::Circuit;
use buttress::event::{Event, Observe};
use buttress::fallback::Failed;
use buttress::http::{Degraded, InExtensions, stack};
use buttress::observe::Registry;
use buttress::retry::Cloned;
use buttress::{
    CircuitBreakerLayer, Deadline, Error, ErrorLayer, FallbackLayer, LoadShedLayer, Name,
    Rejection, Verdict,
};
use http::{Request, Response};
use std::convert::Infallible;
use std::future::{Ready, pending, ready};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tower::util::ServiceFn;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

type Res = Result<&'static str, Error<&'static str>>;
type Fails = Failed<u32, &'static str, Error<&'static str>>;

/// A service that ends each call like this.
fn ends(
    outcome: Res,
) -> impl Service<u32, Response = &'static str, Error = Error<&'static str>, Future = Ready<Res>> + Clone
{
    service_fn(move |_: u32| ready(outcome))
}

fn spare(_: Fails) -> Ready<Res> {
    ready(Ok("spare"))
}

/// The outcome, if the first call has this verdict.
async fn with_verdict(verdict: Verdict) -> Res {
    let judge = move |_: Result<&&'static str, &Error<&'static str>>| verdict;
    let layer = FallbackLayer::new(spare).classify(judge).replay(Cloned);
    layer.layer(ends(Ok("first"))).oneshot(1).await
}

async fn with_rejection(rejection: Rejection) -> Res {
    let layer = FallbackLayer::new(spare).replay(Cloned);
    layer
        .layer(ends(Err(Error::Rejected(rejection))))
        .oneshot(1)
        .await
}

#[tokio::test(start_paused = true)]
async fn it_answers_failures_and_rejections_and_nothing_else() {
    for verdict in [Verdict::TRANSIENT, Verdict::NOT_SENT, Verdict::THROTTLED] {
        assert_eq!(with_verdict(verdict).await, Ok("spare"), "{verdict:?}");
    }
    for verdict in [
        Verdict::Healthy,
        Verdict::Permanent,
        Verdict::Local,
        Verdict::Ignored,
    ] {
        assert_eq!(with_verdict(verdict).await, Ok("first"), "{verdict:?}");
    }
    let by = Name::UNNAMED;
    let after = Duration::from_secs(1);
    for rejection in [
        Rejection::TimedOut { after, by },
        Rejection::CircuitOpen {
            retry_after: None,
            by,
        },
        Rejection::RateLimited {
            retry_after: None,
            by,
        },
        Rejection::TooCostly {
            cost: 2,
            burst: 1,
            by,
        },
        Rejection::Overloaded { limit: 1, by },
    ] {
        assert_eq!(
            with_rejection(rejection).await,
            Ok("spare"),
            "{rejection:?}"
        );
    }
    let late = Rejection::DeadlinePassed { by };
    assert_eq!(with_rejection(late).await, Err(Error::Rejected(late)));
}

#[tokio::test(start_paused = true)]
async fn a_function_sees_the_request_the_outcome_and_why() {
    let circuit = Circuit::builder().name("orders").build().unwrap();
    circuit.force_open();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let layer = FallbackLayer::new(move |failed: Fails| {
        let Failed {
            req,
            outcome,
            verdict,
            rejection,
            ..
        } = failed;
        log.lock().unwrap().push((req, outcome, verdict, rejection));
        async { Ok("spare") }
    });
    let layer = layer.replay(Cloned);
    let open = layer.layer(CircuitBreakerLayer::from(circuit).layer(ends(Ok("first"))));
    assert_eq!(open.oneshot(7).await, Ok("spare"));
    let down = layer.layer(ends(Err(Error::Service("down"))));
    assert_eq!(down.oneshot(8).await, Ok("spare"));
    let rejection = Rejection::CircuitOpen {
        retry_after: None,
        by: Name::new("orders"),
    };
    let expected = [
        (
            Some(7),
            Err(Error::Rejected(rejection)),
            Verdict::Ignored,
            Some(rejection),
        ),
        (
            Some(8),
            Err(Error::Service("down")),
            Verdict::TRANSIENT,
            None,
        ),
    ];
    assert_eq!(*seen.lock().unwrap(), expected);
}

#[tokio::test(start_paused = true)]
async fn when_replaces_the_default() {
    let layer = FallbackLayer::new(spare)
        .replay(Cloned)
        .when(|verdict, rejection| verdict == Verdict::Healthy && rejection.is_none());
    assert_eq!(layer.layer(ends(Ok("first"))).oneshot(1).await, Ok("spare"));
    let down = Err(Error::Service("down"));
    assert_eq!(layer.layer(ends(down)).oneshot(1).await, down);
}

#[tokio::test(start_paused = true)]
async fn a_second_service_gets_the_same_request() {
    let second = service_fn(|n: u32| {
        ready(if n == 7 {
            Ok("second")
        } else {
            Err(Error::Service("other"))
        })
    });
    let layer = FallbackLayer::to(second).replay(Cloned);
    let service = layer.layer(ends(Err(Error::Service("down"))));
    assert_eq!(service.clone().oneshot(7).await, Ok("second"));
    // Its own failure is returned as it is.
    assert_eq!(service.oneshot(8).await, Err(Error::Service("other")));
    let snapshot = layer.snapshot();
    assert_eq!((snapshot.fell_back, snapshot.failed), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn both_errors_can_be_told() {
    let second = ends(Err(Error::Service("second")));
    let join = |first: Option<Error<&'static str>>, second| match (first, second) {
        (Some(Error::Service("first")), Error::Service("second")) => Error::Service("both"),
        _ => Error::Service("else"),
    };
    let layer = FallbackLayer::to(second).both(join).replay(Cloned);
    let first = ends(Err(Error::Service("first")));
    assert_eq!(
        layer.layer(first).oneshot(1).await,
        Err(Error::Service("both"))
    );
}

type Status = Ready<Result<Response<()>, Infallible>>;

/// A service that responds with this status, and how many requests it got.
fn counted(
    status: u16,
) -> (
    Arc<AtomicUsize>,
    ServiceFn<impl FnMut(Request<()>) -> Status + Clone>,
) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let service = service_fn(move |_: Request<()>| {
        counted.fetch_add(1, SeqCst);
        ready(Ok(Response::builder().status(status).body(()).unwrap()))
    });
    (calls, service)
}

#[tokio::test(start_paused = true)]
async fn a_request_that_may_have_been_processed_is_not_sent_to_another_service() {
    let (calls, second) = counted(200);
    let fallback = FallbackLayer::to(ErrorLayer.layer(second));
    let (_, first) = counted(503);
    let layer = stack().no_retry().fallback(fallback).build().unwrap();
    let service = layer.layer(first);
    let post = || Request::post("/").body(()).unwrap();
    // The first upstream responded: it may have processed the POST.
    assert_eq!(service.clone().oneshot(post()).await.unwrap().status(), 503);
    assert_eq!(calls.load(SeqCst), 0);
    // It did not get this one.
    layer.stack().circuit().unwrap().force_open();
    assert_eq!(service.clone().oneshot(post()).await.unwrap().status(), 200);
    // Nor one whose deadline has passed.
    let mut late = Request::get("/").body(()).unwrap();
    late.extensions_mut()
        .insert(Deadline::after(Duration::ZERO));
    service.oneshot(late).await.unwrap_err();
    assert_eq!(calls.load(SeqCst), 1);
}

#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Event>>>);

impl Observe for Seen {
    fn on_event(&self, event: &Event) {
        self.0.lock().unwrap().push(*event);
    }
}

#[tokio::test(start_paused = true)]
async fn each_change_is_told_once_and_each_call_too() {
    let seen = Seen::default();
    let is_down = Arc::new(AtomicUsize::new(1));
    let down = is_down.clone();
    let layer = FallbackLayer::new(spare).replay(Cloned).name("news");
    layer.observe(seen.clone());
    let service = layer.layer(service_fn(move |_: u32| {
        ready(if down.load(SeqCst) == 1 {
            Err(Error::Service("down"))
        } else {
            Ok("first")
        })
    }));
    for down in [0, 1, 1, 0, 0, 1] {
        is_down.store(down, SeqCst);
        service.clone().oneshot(1).await.unwrap();
        assert_eq!(layer.snapshot().degraded, down == 1);
    }
    let name = Name::new("news");
    let (verdict, rejection) = (Verdict::TRANSIENT, None);
    let fell_back = Event::FellBack {
        name,
        verdict,
        rejection,
    };
    let degraded = Event::Degraded { name, verdict };
    let restored = Event::Restored { name };
    let expected = [
        degraded, fell_back, fell_back, restored, degraded, fell_back,
    ];
    assert_eq!(seen.0.lock().unwrap()[..], expected);
}

#[tokio::test(start_paused = true)]
async fn the_first_call_holds_nothing_when_the_fallback_is_asked() {
    let shed = LoadShedLayer::new(1);
    let limit = shed.limit().clone();
    let seen = limit.clone();
    let layer = FallbackLayer::new(move |_: Fails| {
        let in_flight = seen.snapshot().in_flight;
        async move {
            if in_flight == 0 {
                Ok("free")
            } else {
                Ok("held")
            }
        }
    });
    let layer = layer.replay(Cloned);
    let service = layer.layer(shed.layer(ends(Err(Error::Service("down")))));
    assert_eq!(service.oneshot(1).await, Ok("free"));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_ends_both() {
    let held = Arc::new(());
    let in_second = held.clone();
    let second = service_fn(move |_: u32| {
        let held = in_second.clone();
        async move {
            let outcome = pending::<Res>().await;
            drop(held);
            outcome
        }
    });
    let service = FallbackLayer::to(second)
        .replay(Cloned)
        .layer(ends(Err(Error::Service("down"))));
    let before = Arc::strong_count(&held);
    let mut call = tokio_test::task::spawn(service.oneshot(1));
    assert!(call.poll().is_pending());
    assert_eq!(Arc::strong_count(&held), before + 1);
    drop(call);
    assert_eq!(Arc::strong_count(&held), 1);
}

type HttpFails = Failed<Request<()>, Response<()>, Error<Infallible>>;

fn empty(failed: HttpFails) -> Ready<Result<Response<()>, Error<Infallible>>> {
    let uri = failed.req.map(|req| req.uri().path().to_owned());
    ready(Ok(Response::builder()
        .header("for", uri.unwrap())
        .body(())
        .unwrap()))
}

#[tokio::test(start_paused = true)]
async fn in_a_stack_it_comes_after_the_retries() {
    let (calls, first) = counted(503);
    let layer = stack().fallback(FallbackLayer::new(empty)).build().unwrap();
    let get = Request::get("/7").body(()).unwrap();
    let response = layer.layer(first).oneshot(get).await.unwrap();
    assert_eq!(response.headers()["for"], "/7");
    let degraded = response.extensions().get::<Degraded>().unwrap();
    assert_eq!((degraded.because, degraded.age), (None, None));
    assert_eq!(calls.load(SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_is_down_for_a_minute_is_answered_for() {
    let hangs = service_fn(|_: Request<()>| pending::<Result<Response<()>, Infallible>>());
    let fallback = FallbackLayer::new(empty);
    let layer = stack()
        .deadline(Duration::from_secs(2))
        .attempt_timeout(Duration::from_millis(500))
        .fallback(fallback)
        .build()
        .unwrap();
    let service = layer.layer(hangs);
    let start = Instant::now();
    let calls = (0..10).map(|_| {
        let service = service.clone();
        tokio::spawn(async move {
            let (mut because_open, mut slowest) = (0, Duration::ZERO);
            while start.elapsed() < Duration::from_secs(60) {
                let sent = Instant::now();
                let get = Request::get("/7").body(()).unwrap();
                let response = service.clone().oneshot(get).await.unwrap();
                let degraded = response.extensions().get::<Degraded>().unwrap();
                if sent.elapsed() <= Duration::from_millis(5) {
                    assert!(matches!(
                        degraded.because,
                        Some(Rejection::CircuitOpen { .. })
                    ));
                    because_open += 1;
                }
                slowest = slowest.max(sent.elapsed());
                sleep(Duration::from_millis(100)).await;
            }
            (because_open, slowest)
        })
    });
    let calls: Vec<_> = calls.collect();
    let mut all_because_open = 0;
    for call in calls {
        let (because_open, slowest) = call.await.unwrap();
        all_because_open += because_open;
        assert!(slowest < Duration::from_secs(2));
    }
    assert!(all_because_open > 4_000, "{all_because_open}");
}

#[tokio::test(start_paused = true)]
async fn a_fallback_that_hangs_ends_with_the_deadline() {
    let (_, first) = counted(503);
    let fallback = FallbackLayer::new(|_: HttpFails| pending());
    let service = stack()
        .no_retry()
        .fallback(fallback)
        .service(first)
        .unwrap();
    let start = Instant::now();
    let error = service.oneshot(Request::new(())).await.unwrap_err();
    assert!(
        matches!(error, Error::Rejected(Rejection::TimedOut { .. })),
        "{error:?}"
    );
    assert_eq!(start.elapsed(), Duration::from_secs(30));
}

#[test]
fn a_reserve_as_long_as_the_deadline_is_refused() {
    let stack = stack()
        .deadline(Duration::from_secs(1))
        .fallback(FallbackLayer::new(empty));
    let error = stack.reserve(Duration::from_secs(1)).build().unwrap_err();
    assert_eq!(error.field(), "reserve");
    let endless = stack_with(Duration::MAX).build().unwrap();
    assert!(endless.to_string().contains("timeout: ∞"), "{endless}");
    let short = stack_with(Duration::from_secs(2)).build().unwrap();
    assert!(short.to_string().contains("timeout: 1.8s"), "{short}");
}

fn stack_with(deadline: Duration) -> buttress::http::FallbackStackBuilder<fn(HttpFails) -> Status> {
    let answer: fn(HttpFails) -> Status = |_| unreachable!();
    stack()
        .deadline(deadline)
        .fallback(FallbackLayer::new(answer))
}

#[tokio::test(start_paused = true)]
async fn a_registry_shows_it_within_its_stack() {
    let registry = Registry::new();
    let (_, first) = counted(503);
    let stack = stack()
        .name("news")
        .registered(&registry)
        .fallback(FallbackLayer::new(empty));
    let layer = stack.build().unwrap();
    assert!(layer.to_string().contains("fallback \"news\"\n"), "{layer}");
    layer.layer(first).oneshot(Request::new(())).await.unwrap();
    let text = registry.text();
    for line in [
        "buttress_fallbacks_total{name=\"news\"} 1\n",
        "buttress_fallbacks_failed_total{name=\"news\"} 0\n",
        "buttress_degraded{name=\"news\"} 1\n",
        "buttress_retries_total{name=\"news\",verdict=\"transient\"} 2\n",
    ] {
        assert!(text.contains(line), "{line}{text}");
    }
    assert_eq!(
        text.matches("layer=\"deadline\",error_type=\"timed_out\"")
            .count(),
        1
    );
}

#[tokio::test(start_paused = true)]
async fn the_answers_of_a_layer_are_marked_and_other_responses_are_not() {
    let full = LoadShedLayer::new(0);
    let limit = full.limit().clone();
    let service = ServiceBuilder::new()
        .layer(FallbackLayer::new(empty).mark(InExtensions))
        .layer(full)
        .layer(ErrorLayer)
        .service(service_fn(|_: Request<()>| {
            ready(Ok::<_, Infallible>(Response::new(())))
        }));
    let get = || Request::get("/").body(()).unwrap();
    let answer = service.clone().oneshot(get()).await.unwrap();
    let degraded = answer.extensions().get::<Degraded>().unwrap();
    assert!(matches!(
        degraded.because,
        Some(Rejection::Overloaded { limit: 0, .. })
    ));
    limit.set_limit(1);
    let well = service.oneshot(get()).await.unwrap();
    assert!(well.extensions().get::<Degraded>().is_none());
}
