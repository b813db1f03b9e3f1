//! Local shortages, such as too few file descriptors: they say nothing about the upstream, and the
//! call is retried.

#[path = "support/events.rs"]
mod events;

use buttress::circuit_breaker::{Circuit, CircuitState};
use buttress::http::stack;
use buttress::retry::{Backoff, Budget, Cloned, RetryBuilder};
use buttress::{Error, RetryLayer, Verdict};
use http::{Request, Response};
use std::future::ready;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use tower::{Layer, Service, ServiceExt, service_fn};

const MILLI: Duration = Duration::from_millis(1);

/// A client that finds no free file descriptor this many times and then works.
fn short_of_descriptors(
    times: usize,
) -> (
    impl Service<Request<()>, Response = Response<()>, Error = io::Error, Future: Send> + Clone,
    Arc<AtomicUsize>,
) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let client = service_fn(move |_: Request<()>| {
        let short = counted.fetch_add(1, SeqCst) < times;
        let emfile = || io::Error::from_raw_os_error(24);
        ready(if short {
            Err(emfile())
        } else {
            Ok(Response::new(()))
        })
    });
    (client, calls)
}

#[tokio::test(start_paused = true)]
async fn a_call_short_of_file_descriptors_is_retried_and_opens_no_circuit() {
    let (client, calls) = short_of_descriptors(2);
    let stack = stack().circuit_breaker(|breaker| breaker.consecutive_failures(1));
    let layer = stack.build().unwrap();
    let response = layer.layer(client).oneshot(Request::new(())).await.unwrap();
    assert_eq!((response.status().as_u16(), calls.load(SeqCst)), (200, 3));
    assert_eq!(layer.circuit().unwrap().state(), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_local_shortage_does_not_decide_a_probe() {
    let circuit = Circuit::builder().consecutive_failures(1).probes(1);
    let circuit = circuit.open_for(MILLI).build().unwrap();
    circuit.try_acquire().unwrap().settle(Verdict::TRANSIENT);
    tokio::time::advance(MILLI).await;
    for _ in 0..3 {
        circuit.try_acquire().unwrap().settle(Verdict::Local);
        assert_eq!(circuit.state(), CircuitState::HalfOpen);
    }
    circuit.try_acquire().unwrap().settle(Verdict::Healthy);
    assert_eq!(circuit.state(), CircuitState::Closed);
}

/// Classifies every outcome as `Verdict::Local`.
fn local(_: Result<&Response<()>, &Error<io::Error>>) -> Verdict {
    Verdict::Local
}

type Judge = fn(Result<&Response<()>, &Error<io::Error>>) -> Verdict;

fn retrying(budget: &Budget) -> RetryBuilder<Judge, Cloned> {
    RetryLayer::builder()
        .attempts(9)
        .backoff(Backoff::constant(MILLI))
        .budget(budget.clone())
        .classify(local as Judge)
        .replay(Cloned)
}

#[tokio::test(start_paused = true)]
async fn a_local_shortage_is_retried_within_the_budget_and_earns_no_token() {
    let budget = Budget::builder().floor(3).ratio(1.0).reserve(0.0);
    let budget = budget.build().unwrap();
    let (client, calls) = short_of_descriptors(0);
    let client = client.map_err(Error::Service);
    let service = retrying(&budget).build().unwrap().layer(client);
    for sent in [4, 5] {
        service.clone().oneshot(Request::new(())).await.unwrap();
        assert_eq!(calls.load(SeqCst), sent);
    }
    assert!(budget.tokens() < 1.0);
}

#[tokio::test(start_paused = true)]
async fn the_event_for_a_local_shortage_names_it() {
    let budget = Budget::builder().floor(1).reserve(0.0).build().unwrap();
    let (client, _) = short_of_descriptors(0);
    let client = client.map_err(Error::Service);
    let service = retrying(&budget).build().unwrap().layer(client);
    assert_eq!(
        events::of(service.oneshot(Request::new(()))).await,
        [
            r#"DEBUG buttress::retry retrying attempt=1 wait_ms=1 verdict="local""#,
            r#"DEBUG buttress::retry gave_up attempt=2 verdict="local" reason="budget""#,
        ]
    );
}
