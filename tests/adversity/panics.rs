//! Panics in code that the user supplies.

use super::{Fine, SECOND};
use buttress::circuit_breaker::{Circuit, CircuitState, WhenOpen};
use buttress::retry::Budget;
use buttress::{CircuitBreakerLayer, Error, ErrorLayer, RetryLayer, Verdict};
use std::convert::Infallible;
use std::future::{poll_fn, ready};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use tokio::time::{advance, sleep};
use tokio_test::task;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tracing_subscriber::layer::SubscriberExt;

/// A subscriber that panics on the event with this name.
struct Panics(&'static str);

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Panics {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        assert_ne!(event.metadata().name(), self.0);
    }
}

/// Runs `act` and returns whether the subscriber panicked.
fn subscriber_panics_on(subscriber: Panics, act: impl FnOnce()) -> bool {
    // With a single subscriber registered, tracing decides whether a call site is enabled on the
    // thread that reaches it first, which may belong to another test. A second subscriber avoids
    // that.
    let _another = tracing::Dispatch::new(tracing_subscriber::registry());
    let subscriber = tracing_subscriber::registry().with(subscriber);
    tracing::subscriber::with_default(subscriber, || {
        tracing::callsite::rebuild_interest_cache();
        catch_unwind(AssertUnwindSafe(act)).is_err()
    })
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_panics_leaks_no_probe() {
    let circuit = Circuit::builder()
        .consecutive_failures(1)
        .probes(1)
        .build()
        .unwrap();
    circuit.try_acquire().unwrap().settle(Verdict::TRANSIENT);
    advance(6 * SECOND).await;
    assert!(subscriber_panics_on(Panics("half_opened"), || drop(
        circuit.try_acquire()
    )));
    assert!(circuit.try_acquire().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_panics_loses_no_wakeup() {
    let layer = CircuitBreakerLayer::builder()
        .when_open(WhenOpen::NotReady)
        .build()
        .unwrap();
    layer.circuit().force_open();
    let mut service = layer.layer(Fine);
    let mut readying = task::spawn(poll_fn(move |cx| service.poll_ready(cx)));
    assert!(readying.poll().is_pending());
    assert!(subscriber_panics_on(Panics("closed"), || layer
        .circuit()
        .reset()));
    assert!(readying.is_woken());
}

#[tokio::test(start_paused = true)]
async fn a_classifier_that_panics_does_not_count_as_a_failure() {
    fn judge(_: Result<&(), &Error<Infallible>>) -> Verdict {
        panic!("classifier")
    }
    let layer = CircuitBreakerLayer::builder()
        .consecutive_failures(1)
        .classify(judge)
        .build()
        .unwrap();
    let circuit = layer.circuit().clone();
    let service = ServiceBuilder::new()
        .layer(layer)
        .layer(ErrorLayer)
        .service(service_fn(|()| async {
            sleep(2 * SECOND).await; // longer than `abandoned_after`
            Ok::<_, Infallible>(())
        }));
    assert!(tokio::spawn(service.oneshot(())).await.is_err());
    assert_eq!(circuit.state(), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_replay_that_panics_costs_no_token() {
    let budget = Budget::builder().floor(5).reserve(0.0).build().unwrap();
    let copies = AtomicU32::new(0);
    let replay = Arc::new(move |(): &()| {
        assert_eq!(
            copies.fetch_add(1, SeqCst),
            0,
            "only the first attempt is copied for"
        );
        Some(())
    });
    let service = ServiceBuilder::new()
        .layer(
            RetryLayer::builder()
                .budget(budget.clone())
                .replay(move |request: &()| replay(request))
                .build()
                .unwrap(),
        )
        .layer(ErrorLayer)
        .service(service_fn(|()| ready(Err::<(), _>("down"))));
    assert!(tokio::spawn(service.oneshot(())).await.is_err());
    assert!((budget.tokens() - 5.0).abs() < f64::EPSILON);
}
