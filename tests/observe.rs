//! Observers receive the events of the layers that they were added to, and the counters agree with them.

use buttress::event::{CircuitState, Event, GiveUpReason, Observe, OverloadReason};
use buttress::http::{Authority, stack};
use buttress::{Error, ErrorLayer, Quota, RateLimitLayer, Rejection, TimeoutLayer};
use http::{Request, Response};
use std::convert::Infallible;
use std::future::{Ready, pending, ready};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tower::{ServiceBuilder, ServiceExt, service_fn};

#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Event>>>);

impl Observe for Seen {
    fn on_event(&self, event: &Event) {
        self.0.lock().unwrap().push(*event);
    }
}

impl Seen {
    fn take(&self) -> Vec<Event> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

fn status(code: u16) -> Ready<Result<Response<()>, Infallible>> {
    ready(Ok(Response::builder().status(code).body(()).unwrap()))
}

fn get() -> Request<()> {
    Request::get("http://orders.internal/").body(()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_observer_of_a_stack_sees_the_events_of_every_part() {
    let seen = Seen::default();
    let layer = stack()
        .observer(seen.clone())
        .load_shed(1)
        .rate_limit(Quota::per_second(1_000))
        .retry(|retry| retry.attempts(2))
        .circuit_breaker(|breaker| breaker.consecutive_failures(2))
        .build()
        .unwrap();
    let service = tower::Layer::layer(&layer, service_fn(|_| status(503)));
    service.clone().oneshot(get()).await.unwrap();
    let events = seen.take();
    assert!(
        matches!(
            events[..],
            [
                Event::Retrying { attempt: 1, .. },
                Event::Transition {
                    to: CircuitState::Open,
                    ..
                },
                Event::GaveUp {
                    attempt: 2,
                    reason: GiveUpReason::Attempts,
                    ..
                },
            ]
        ),
        "{events:?}"
    );
    service.clone().oneshot(get()).await.unwrap_err();
    let rejected = |event: &Event| matches!(event, Event::CircuitRejected { .. });
    assert!(seen.take().iter().any(rejected));

    layer.circuit().unwrap().force_closed();
    let _slot = layer.limit().unwrap().try_acquire().unwrap();
    seen.take();
    service.oneshot(get()).await.unwrap_err();
    let overloaded = |event: &Event| {
        let reason = OverloadReason::Full;
        matches!(event, Event::Overloaded { reason: found, .. } if *found == reason)
    };
    assert!(seen.take().iter().any(overloaded));
}

#[tokio::test(start_paused = true)]
async fn a_timeout_counts_and_tells_the_calls_that_ran_out_of_time() {
    let seen = Seen::default();
    let layer = stack()
        .name("orders")
        .deadline(Duration::from_secs(3))
        .attempt_timeout(Duration::from_secs(2))
        .observer(seen.clone())
        .build()
        .unwrap();
    let hangs = service_fn(|_| pending::<Result<Response<()>, Infallible>>());
    tower::Layer::layer(&layer, hangs)
        .oneshot(get())
        .await
        .unwrap_err();
    let timed_out = |after| Event::TimedOut {
        name: "orders".into(),
        after: Duration::from_secs(after),
    };
    let events = seen.take();
    assert_eq!(events.first(), Some(&timed_out(2)));
    assert_eq!(events.last(), Some(&timed_out(3)));
    assert_eq!(layer.attempt_snapshot().timed_out, 1);
    assert_eq!(layer.deadline_snapshot().timed_out, 1);
    assert_eq!(layer.deadline_snapshot().after, Duration::from_secs(3));

    // The caller's own deadline is shorter.
    let mut request = get();
    let deadline = buttress::Deadline::after(Duration::ZERO);
    request.extensions_mut().insert(deadline);
    let service = tower::Layer::layer(&layer, service_fn(|_| status(200)));
    service.oneshot(request).await.unwrap_err();
    assert_eq!(layer.deadline_snapshot().deadline_passed, 1);
    assert_eq!(layer.deadline_snapshot().timed_out, 1);
}

#[tokio::test(start_paused = true)]
async fn clones_of_a_timeout_share_its_counters_and_two_builds_do_not() {
    let layer = TimeoutLayer::new(Duration::ZERO);
    for _ in 0..3 {
        let hangs = service_fn(|()| pending::<Result<(), Infallible>>());
        let service = ServiceBuilder::new()
            .layer(layer.clone())
            .layer(ErrorLayer)
            .service(hangs);
        service.clone().oneshot(()).await.unwrap_err();
    }
    assert_eq!(layer.snapshot().timed_out, 3);
    assert_eq!(TimeoutLayer::new(Duration::ZERO).snapshot().timed_out, 0);
}

#[tokio::test(start_paused = true)]
async fn a_keyed_stack_tells_the_events_of_all_keys() {
    let seen = Seen::default();
    let stack = stack()
        .observer(seen.clone())
        .load_shed(4)
        .rate_limit(Quota::per_second(1_000))
        .circuit_breaker(|breaker| breaker.consecutive_failures(1))
        .no_retry()
        .per_key(Authority)
        .service(service_fn(|_| status(503)))
        .unwrap();
    for host in ["a", "b"] {
        let request = Request::get(format!("http://{host}/")).body(()).unwrap();
        stack.clone().oneshot(request).await.unwrap();
    }
    let opened = |event: &Event| matches!(event, Event::Transition { .. });
    assert_eq!(seen.take().into_iter().filter(opened).count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_clone_of_a_builder_keeps_its_own_observers() {
    let (first, second) = (Seen::default(), Seen::default());
    let template = stack().observer(first.clone());
    let with_both = template.clone().observer(second.clone()).build().unwrap();
    let with_first = template.build().unwrap();
    with_first.circuit().unwrap().force_open();
    assert_eq!((first.take().len(), second.take().len()), (1, 0));
    with_both.circuit().unwrap().force_open();
    assert_eq!((first.take().len(), second.take().len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_handle_that_two_stacks_share_tells_an_observer_once() {
    let seen = Seen::default();
    let limits = RateLimitLayer::new(Quota::per_second(1));
    let template = stack().observer(seen.clone()).no_retry();
    let template = template.rate_limit(limits.clone());
    let (orders, _users) = (template.clone().build().unwrap(), template.build().unwrap());
    let service = tower::Layer::layer(&orders, service_fn(|_| status(200)));
    limits
        .limiter()
        .pause_until(tokio::time::Instant::now() + Duration::from_secs(60));
    let error = service.oneshot(get()).await.unwrap_err();
    assert!(matches!(
        error,
        Error::Rejected(Rejection::RateLimited { .. })
    ));
    let events = seen.take();
    assert!(
        matches!(events[..], [Event::RateLimited { .. }]),
        "{events:?}"
    );
}

#[test]
fn a_changed_limit_is_told_and_the_same_limit_is_not() {
    let seen = Seen::default();
    let limit = buttress::load_shed::ConcurrencyLimit::new(4);
    limit.observe(seen.clone());
    limit.set_limit(4);
    limit.set_limit(9);
    let name = buttress::Name::UNNAMED;
    let (from, to) = (4, 9);
    assert_eq!(seen.take(), [Event::LimitChanged { name, from, to }]);
}

/// Panics at each event.
fn panicking(_: &Event) {
    panic!("the observer panics");
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_an_observer_reaches_that_call_and_no_other() {
    let layer = stack().load_shed(1).no_retry().build().unwrap();
    layer.observe(panicking);
    let service = tower::Layer::layer(&layer, service_fn(|_| status(200)));
    let slot = layer.limit().unwrap().try_acquire().unwrap();
    let rejected = tokio::spawn(service.clone().oneshot(get()));
    assert!(rejected.await.unwrap_err().is_panic());
    drop(slot);
    assert_eq!(service.oneshot(get()).await.unwrap().status(), 200);
    assert_eq!(layer.limit().unwrap().snapshot().rejected.full, 1);
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_an_observer_is_dropped_if_a_call_is_dropped() {
    let circuit = buttress::circuit_breaker::Circuit::builder()
        .consecutive_failures(1)
        .abandoned_after(Duration::ZERO);
    let circuit = circuit.build().unwrap();
    circuit.observe(panicking);
    let permit = circuit.try_acquire().unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| drop(permit))).is_ok());
    assert_eq!(circuit.state(), CircuitState::Open);
    // An observer that panics while its thread panics would abort the process.
    circuit.observe(|_: &Event| ());
    let _ = catch_unwind(AssertUnwindSafe(|| circuit.reset()));
    let unwinding = catch_unwind(AssertUnwindSafe(|| {
        let _permit = circuit.try_acquire().unwrap();
        panic!("the call panics");
    }));
    assert!(unwinding.is_err());
    assert_eq!(circuit.state(), CircuitState::Open);
}

#[test]
fn observers_that_are_added_during_events_all_see_the_later_ones() {
    let circuit = buttress::circuit_breaker::Circuit::builder()
        .build()
        .unwrap();
    let observers: Vec<_> = (0..8).map(|_| Seen::default()).collect();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..2_000 {
                    circuit.force_open();
                    circuit.reset();
                }
            });
        }
        for observer in &observers {
            scope.spawn(|| circuit.observe(observer.clone()));
        }
    });
    for observer in &observers {
        observer.take();
    }
    circuit.force_open();
    for observer in &observers {
        assert_eq!(observer.take().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn an_observer_of_a_keyed_layer_sees_all_keys() {
    let seen = Seen::default();
    let layer = RateLimitLayer::builder(Quota::per_second(1).burst(1))
        .max_wait(Duration::ZERO)
        .per_key(Authority)
        .build()
        .unwrap();
    layer.observe(seen.clone());
    let service = ServiceBuilder::new()
        .layer(layer)
        .layer(ErrorLayer)
        .service(service_fn(|_| status(200)));
    for host in ["one", "two"] {
        let get = || Request::get(format!("http://{host}/")).body(()).unwrap();
        service.clone().oneshot(get()).await.unwrap();
        service.clone().oneshot(get()).await.unwrap_err();
    }
    assert!(matches!(
        seen.take()[..],
        [Event::RateLimited { .. }, Event::RateLimited { .. }]
    ));
}
