//! Calls that last until the end of the response body.
#![cfg(feature = "http-body")]

use buttress::circuit_breaker::{Circuit, CircuitState};
use buttress::http::{Drain, StatusClassifier, UntilBodyEnd};
use buttress::load_shed::ConcurrencyLimit;
use buttress::{CircuitBreakerLayer, ErrorLayer, LoadShedLayer, RetryLayer};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use std::{io, mem};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

const SECOND: Duration = Duration::from_secs(1);

type AnyBody = UnsyncBoxBody<Bytes, io::Error>;
type Part = Result<Frame<Bytes>, io::Error>;

#[expect(clippy::unnecessary_wraps, reason = "a part of a body is a result")]
fn data(bytes: &'static str) -> Part {
    Ok(Frame::data(Bytes::from_static(bytes.as_bytes())))
}

fn failure() -> Part {
    Err(io::Error::other("cut off"))
}

/// A body with these parts.
fn parts<const N: usize>(parts: [Part; N]) -> AnyBody {
    StreamBody::new(tokio_stream::iter(parts)).boxed_unsync()
}

fn known(bytes: &'static str) -> AnyBody {
    let body = Full::new(Bytes::from_static(bytes.as_bytes()));
    body.map_err(|never| match never {}).boxed_unsync()
}

fn empty() -> AnyBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A service that responds once, with this body.
fn responding(
    status: u16,
    body: AnyBody,
) -> impl Service<(), Response = Response<AnyBody>, Error = Infallible, Future: Send> + Clone {
    let response = Response::builder().status(status).body(body).unwrap();
    let response = Arc::new(Mutex::new(Some(response)));
    service_fn(move |()| {
        let response = response.lock().unwrap().take().expect("one call");
        async { Ok(response) }
    })
}

/// Sends a call through a load shed to a service that responds with this body.
async fn shed(
    body: AnyBody,
) -> (
    ConcurrencyLimit,
    Response<impl Body<Data = Bytes, Error = io::Error> + Unpin>,
) {
    let layer = LoadShedLayer::builder(8)
        .until(UntilBodyEnd)
        .build()
        .unwrap();
    let limit = layer.limit().clone();
    let service = ServiceBuilder::new()
        .layer(layer)
        .layer(ErrorLayer)
        .service(responding(200, body));
    (limit, service.oneshot(()).await.unwrap())
}

/// The same with this status, through a circuit breaker that opens on the first failure.
async fn guarded(
    status: u16,
    body: AnyBody,
) -> (
    Circuit,
    Response<impl Body<Data = Bytes, Error = io::Error> + Unpin>,
) {
    let circuit = Circuit::builder().consecutive_failures(1).open_for(SECOND);
    through(circuit.build().unwrap(), status, body).await
}

async fn through(
    circuit: Circuit,
    status: u16,
    body: AnyBody,
) -> (
    Circuit,
    Response<impl Body<Data = Bytes, Error = io::Error> + Unpin>,
) {
    let layer = CircuitBreakerLayer::new(circuit.clone(), StatusClassifier::default());
    let service = ServiceBuilder::new()
        .layer(layer.until(UntilBodyEnd))
        .layer(ErrorLayer)
        .service(responding(status, body));
    (circuit, service.oneshot(()).await.unwrap())
}

/// A half-open circuit. One probe decides whether it closes.
fn half_open() -> Circuit {
    let circuit = Circuit::builder()
        .consecutive_failures(1)
        .open_for(Duration::ZERO);
    let circuit = circuit.probes(1).build().unwrap();
    circuit
        .try_acquire()
        .unwrap()
        .settle(buttress::Verdict::TRANSIENT);
    assert_eq!(circuit.state(), CircuitState::HalfOpen);
    circuit
}

// Slots

#[tokio::test(start_paused = true)]
async fn a_slot_is_held_until_the_body_has_been_read() {
    let (limit, response) = shed(parts([data("a"), data("b")])).await;
    let mut body = response.into_body();
    for in_flight in [1, 1, 0] {
        let _frame = body.frame().await;
        assert_eq!(limit.in_flight(), in_flight);
    }
}

#[tokio::test(start_paused = true)]
async fn a_slot_is_released_by_the_last_part_of_a_body_of_known_length() {
    let (limit, response) = shed(known("abc")).await;
    let mut body = response.into_body();
    assert_eq!(limit.in_flight(), 1);
    body.frame().await.unwrap().unwrap();
    assert_eq!(limit.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_slot_is_released_when_the_body_is_dropped() {
    let (limit, response) = shed(parts([data("a"), data("b")])).await;
    assert_eq!(limit.in_flight(), 1);
    drop(response);
    assert_eq!(limit.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_slot_is_released_when_the_body_fails() {
    let (limit, response) = shed(parts([failure(), data("b")])).await;
    let mut body = response.into_body();
    assert!(body.frame().await.unwrap().is_err());
    assert_eq!(limit.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_empty_body_holds_no_slot() {
    let (limit, response) = shed(empty()).await;
    assert_eq!(limit.in_flight(), 0);
    drop(response);
    assert_eq!(limit.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn by_default_a_slot_is_released_with_the_response_head() {
    let layer = LoadShedLayer::new(8);
    let service = layer.layer(ErrorLayer.layer(responding(200, known("abc"))));
    let _response = service.oneshot(()).await.unwrap();
    assert_eq!(layer.limit().in_flight(), 0);
}

// The circuit breaker

#[tokio::test(start_paused = true)]
async fn a_body_that_fails_counts_as_a_failure() {
    let (circuit, response) = guarded(200, parts([data("a"), failure()])).await;
    let mut body = response.into_body();
    body.frame().await.unwrap().unwrap();
    assert_eq!(circuit.state(), CircuitState::Closed);
    assert!(body.frame().await.unwrap().is_err());
    assert_eq!(circuit.state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_probe_is_settled_by_the_response_head() {
    let (circuit, _streaming) = through(half_open(), 200, parts([data("a")])).await;
    assert_eq!(circuit.state(), CircuitState::Closed);
    assert_eq!(circuit.snapshot().probes_out, 0);
}

#[tokio::test(start_paused = true)]
async fn the_body_of_the_probe_that_closed_the_circuit_is_judged_like_any_other() {
    let (circuit, response) = through(half_open(), 200, parts([data("a"), failure()])).await;
    assert_eq!(circuit.state(), CircuitState::Closed);
    let opened = || circuit.snapshot().transitions.consecutive_failures;
    let before = opened();
    let _failed = response.into_body().collect().await;
    assert_eq!(opened(), before + 1);
}

#[tokio::test(start_paused = true)]
async fn the_body_of_a_probe_that_did_not_close_the_circuit_changes_nothing() {
    let circuit = Circuit::builder()
        .consecutive_failures(1)
        .open_for(Duration::ZERO);
    let circuit = circuit.probes(2).probe_successes(2).build().unwrap();
    let permit = circuit.try_acquire().unwrap();
    permit.settle(buttress::Verdict::TRANSIENT);
    let (circuit, response) = through(circuit, 200, parts([data("a"), failure()])).await;
    let _failed = response.into_body().collect().await;
    assert_eq!(circuit.state(), CircuitState::HalfOpen);
    let (circuit, _streaming) = through(circuit, 200, parts([data("a")])).await;
    assert_eq!(circuit.state(), CircuitState::Closed);
}

/// Readers drop their streams after a minute. The circuit still closes once an outage is over.
#[tokio::test(start_paused = true)]
async fn long_streams_do_not_keep_a_circuit_half_open() {
    let circuit = Circuit::builder()
        .open_for(SECOND)
        .abandoned_after(Duration::MAX);
    let circuit = circuit.build().unwrap();
    let outage: Vec<_> = (0..20).map(|_| circuit.try_acquire().unwrap()).collect();
    for permit in outage {
        permit.settle(buttress::Verdict::TRANSIENT);
    }
    assert_eq!(circuit.state(), CircuitState::Open);
    tokio::time::advance(SECOND).await;
    let mut streams = Vec::new();
    for _ in 0..2 {
        streams.push(through(circuit.clone(), 200, parts([data("a")])).await);
    }
    assert_eq!(circuit.state(), CircuitState::Closed);
    tokio::time::advance(60 * SECOND).await;
    drop(streams);
    assert_eq!(circuit.state(), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_body_dropped_before_abandoned_after_is_not_counted() {
    let (circuit, response) = guarded(200, parts([data("a")])).await;
    tokio::time::advance(Duration::from_millis(9_999)).await;
    drop(response);
    assert_eq!(circuit.state(), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_body_dropped_after_abandoned_after_counts_as_a_failure() {
    let (circuit, response) = guarded(200, parts([data("a")])).await;
    tokio::time::advance(10 * SECOND).await;
    drop(response);
    assert_eq!(circuit.state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_failed_response_head_is_counted_immediately_and_only_once() {
    let (circuit, response) = guarded(503, parts([data("a"), failure()])).await;
    assert_eq!(circuit.state(), CircuitState::Open);
    tokio::time::advance(SECOND).await;
    assert_eq!(circuit.state(), CircuitState::HalfOpen);
    let _failed = response.into_body().collect().await;
    assert_eq!(circuit.state(), CircuitState::HalfOpen);
}

#[tokio::test(start_paused = true)]
async fn an_empty_body_succeeds_with_the_response_head() {
    let (circuit, response) = through(half_open(), 200, empty()).await;
    assert_eq!(circuit.state(), CircuitState::Closed);
    drop(response);
    assert_eq!(circuit.state(), CircuitState::Closed);
}

/// Knows its length, but not yet that it has ended, like an HTTP/2 body before its last frame.
struct Unended(&'static [u8]);

impl Body for Unended {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Part>> {
        match mem::take(&mut self.get_mut().0) {
            [] => Poll::Pending,
            bytes => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(bytes))))),
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.len() as u64)
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_read_to_its_known_length_succeeds_before_its_end_arrives() {
    let (circuit, response) = through(half_open(), 200, Unended(b"abc").boxed_unsync()).await;
    let mut body = response.into_body();
    body.frame().await.unwrap().unwrap();
    assert_eq!(circuit.state(), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_discarded_response_holds_its_slot_only_while_it_is_drained() {
    let shed = LoadShedLayer::builder(8)
        .until(UntilBodyEnd)
        .build()
        .unwrap();
    let limit = shed.limit().clone();
    let retry = RetryLayer::builder().classify(StatusClassifier::default());
    let silent = || StreamBody::new(tokio_stream::pending::<Part>());
    let unavailable = move |_: Request<()>| async move {
        let response = Response::builder().status(503).header("retry-after", "20");
        Ok::<_, Infallible>(response.body(silent()).unwrap())
    };
    let service = ServiceBuilder::new()
        .layer(retry.discard(Drain::new()).build().unwrap())
        .layer(shed)
        .layer(ErrorLayer)
        .service(service_fn(unavailable));
    let call = tokio::spawn(service.oneshot(Request::new(())));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(limit.in_flight(), 1);
    tokio::time::sleep(SECOND).await;
    assert_eq!(limit.in_flight(), 0);
    call.abort();
}

// The body itself

#[tokio::test(start_paused = true)]
async fn data_and_trailers_pass_unchanged() {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    let body = parts([data("a"), data("bc"), Ok(Frame::trailers(trailers.clone()))]);
    let (_, response) = guarded(200, body).await;
    let all = response.into_body().collect().await.unwrap();
    assert_eq!(all.trailers(), Some(&trailers));
    assert_eq!(all.to_bytes(), "abc");
}

#[tokio::test(start_paused = true)]
async fn the_size_hint_is_unchanged() {
    let (_, response) = guarded(200, known("abc")).await;
    assert_eq!(response.body().size_hint().exact(), Some(3));
    assert!(!response.body().is_end_stream());
}

#[tokio::test(start_paused = true)]
async fn two_layers_can_wait_for_the_end_of_one_body() {
    let shed = LoadShedLayer::builder(8)
        .until(UntilBodyEnd)
        .build()
        .unwrap();
    let circuit = Circuit::builder().consecutive_failures(1).build().unwrap();
    let breaker = CircuitBreakerLayer::new(circuit.clone(), StatusClassifier::default());
    let service = ServiceBuilder::new()
        .layer(shed.clone())
        .layer(breaker.until(UntilBodyEnd))
        .layer(ErrorLayer)
        .service(responding(200, parts([data("a"), failure()])));
    let response = service.oneshot(()).await.unwrap();
    assert_eq!(
        (shed.limit().in_flight(), circuit.state()),
        (1, CircuitState::Closed)
    );
    let _failed = response.into_body().collect().await;
    assert_eq!(
        (shed.limit().in_flight(), circuit.state()),
        (0, CircuitState::Open)
    );
}
