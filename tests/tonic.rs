//! The stack around tonic's channel, against a real gRPC server on loopback.
#![cfg(feature = "http-body")]

use buttress::circuit_breaker::CircuitState;
use buttress::http::{RepeatIf, ReplayBody, ReplayBodyLayer, StatusClassifier, judge_error, stack};
use buttress::retry::Backoff;
use buttress::{Deadline, Error, Rejection, Verdict};
use bytes::{Buf, BufMut, Bytes};
use http::uri::PathAndQuery;
use http::{Request, Response};
use std::error::Error as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::client::{Grpc, GrpcService};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{self, Channel, Endpoint};
use tonic::{Code, Status};
use tower::{Layer, ServiceBuilder};

/// Responds `UNAVAILABLE` to the first calls, and with the message that it was sent to the others.
struct Server {
    address: SocketAddr,
    calls: Arc<AtomicUsize>,
    /// The server and its connections live on a runtime of their own, and end with it.
    runtime: Option<Runtime>,
}

impl Drop for Server {
    fn drop(&mut self) {
        // A runtime must not be dropped on the thread of another one.
        let runtime = self.runtime.take();
        thread::spawn(|| drop(runtime)).join().unwrap();
    }
}

impl Server {
    fn failing_first(failures: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = { runtime }.worker_threads(1).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let echo = tower::service_fn(move |request: tonic::Request<Bytes>| {
            let failed = counted.fetch_add(1, SeqCst) < failures;
            async move {
                if failed {
                    return Err(Status::unavailable("restarting"));
                }
                Ok(tonic::Response::new(request.into_inner()))
            }
        });
        let handler = move |request: axum::extract::Request| {
            let echo = echo.clone();
            async move {
                let response = tonic::server::Grpc::new(Raw).unary(echo, request).await;
                response.map(axum::body::Body::new)
            }
        };
        let routes = axum::Router::new().route("/orders.Orders/Get", axum::routing::post(handler));
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            axum::serve(listener, routes).await.unwrap();
        });
        Self {
            address,
            calls,
            runtime: Some(runtime),
        }
    }

    fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.address))
            .unwrap()
            .connect_lazy()
    }

    fn calls(&self) -> usize {
        self.calls.load(SeqCst)
    }
}

/// Messages are bytes as they are.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

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

async fn get<T>(client: &T, request: impl tonic::IntoRequest<Bytes>) -> Result<Bytes, Status>
where
    T: GrpcService<Body, ResponseBody: Send + 'static> + Clone,
    <T::ResponseBody as http_body::Body>::Error: Into<tower::BoxError> + Send,
    T::ResponseBody: http_body::Body<Data = Bytes>,
{
    let mut client = Grpc::new(client.clone());
    let path = PathAndQuery::from_static("/orders.Orders/Get");
    let call = async {
        client
            .ready()
            .await
            .map_err(|error| Status::from_error(error.into()))?;
        client.unary(request.into_request(), path, Raw).await
    };
    let limit = Duration::from_secs(20);
    let response = timeout(limit, call).await.expect("nothing may hang");
    response.map(tonic::Response::into_inner)
}

fn seven() -> tonic::Request<Bytes> {
    tonic::Request::new(Bytes::from_static(b"seven"))
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
