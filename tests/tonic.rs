//! The stack around tonic's channel, against a real gRPC server on loopback.
#![cfg(feature = "http-body")]

#[path = "support/grpc.rs"]
mod grpc_server;

use buttress::circuit_breaker::CircuitState;
use buttress::http::{RepeatIf, ReplayBody, ReplayBodyLayer, StatusClassifier, judge_error, stack};
use buttress::retry::Backoff;
use buttress::{Deadline, Error, Rejection, Verdict};
use grpc_server::{Server, get, seven};
use http::{Request, Response};
use std::error::Error as _;
use std::time::Duration;
use tonic::body::Body;
use tonic::transport;
use tonic::{Code, Status};
use tower::{Layer, ServiceBuilder};

/// As on the guide's page.
fn judge(outcome: Result<&Response<Body>, &Error<transport::Error>>) -> Verdict {
    let response = match outcome {
        Ok(response) => response,
        Err(Error::Service(error)) => return judge_error(error),
        Err(Error::Rejected(_)) => return Verdict::Ignored,
    };
    match Status::from_header_map(response.headers()).map(|status| status.code()) {
        Some(Code::Unavailable) => Verdict::TRANSIENT,
        Some(Code::ResourceExhausted) => Verdict::THROTTLED,
        _ => StatusClassifier::default().judge_response(response),
    }
}

fn never(_: &Request<Body>) -> Option<Request<Body>> {
    None
}

#[tokio::test]
async fn a_server_that_is_gone_opens_the_circuit() {
    let server = Server::failing_first(0);
    let stack = stack().no_retry().replay(never).classify(judge);
    let stack =
        stack.circuit_breaker(|breaker| breaker.consecutive_failures(2).open_for(Duration::MAX));
    let stack = stack.build().unwrap();
    let client = stack.layer(server.channel());
    assert_eq!(get(&client, seven()).await.unwrap(), "seven");

    drop(server);
    let circuit = stack.circuit().unwrap();
    for _ in 0..2 {
        assert_eq!(circuit.state(), CircuitState::Closed);
        get(&client, seven()).await.unwrap_err();
    }
    assert_eq!(circuit.state(), CircuitState::Open);

    let status = get(&client, seven()).await.unwrap_err();
    let error: &Error<transport::Error> = status.source().unwrap().downcast_ref().unwrap();
    assert!(matches!(
        error,
        Error::Rejected(Rejection::CircuitOpen { .. })
    ));
    assert_eq!(status.code(), Code::Unknown);
}

#[tokio::test]
async fn a_call_to_a_server_that_is_not_there_is_unavailable() {
    let server = Server::failing_first(0);
    let channel = server.channel();
    drop(server);
    let stack = stack().no_retry().replay(never).classify(judge);
    let client = stack.service(channel).unwrap();
    let status = get(&client, seven()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
}

#[tokio::test]
async fn an_unavailable_call_is_sent_again_with_its_message() {
    let server = Server::failing_first(2);
    let stack = stack()
        .retry(|retry| retry.backoff(Backoff::constant(Duration::ZERO)))
        .replay(RepeatIf(|_: &Request<ReplayBody<Body>>| true))
        .classify(judge);
    let client = ServiceBuilder::new()
        .layer(ReplayBodyLayer::new())
        .layer(stack.build().unwrap())
        .map_request(|request: Request<ReplayBody<Body>>| request.map(Body::new))
        .service(server.channel());
    assert_eq!(get(&client, seven()).await.unwrap(), "seven");
    assert_eq!(server.calls(), 3);
}

#[tokio::test]
async fn by_the_stacks_own_classifier_an_unavailable_call_is_a_success() {
    let response = Status::unavailable("restarting").into_http::<Body>();
    let verdict = StatusClassifier::default().judge_response(&response);
    assert_eq!(verdict, Verdict::Healthy);
}

#[tokio::test]
async fn a_deadline_among_the_extensions_of_a_call_holds() {
    let server = Server::failing_first(0);
    let stack = stack().no_retry().replay(never).classify(judge);
    let client = stack.service(server.channel()).unwrap();
    let mut request = seven();
    request
        .extensions_mut()
        .insert(Deadline::after(Duration::ZERO));
    let status = get(&client, request).await.unwrap_err();
    let error: &Error<transport::Error> = status.source().unwrap().downcast_ref().unwrap();
    assert!(matches!(
        error,
        Error::Rejected(Rejection::DeadlinePassed { .. })
    ));
    assert_eq!(server.calls(), 0);
}
