//! The whole stack around real clients, against a real server on loopback.
#![cfg(all(feature = "http-body", feature = "reqwest"))]

use buttress::circuit_breaker::CircuitState;
use buttress::http::{Authority, Drain, ReplayBodyLayer, StackBuilder, stack};
use buttress::retry::Backoff;
use buttress::{Error, Rejection};
use bytes::Bytes;
use http::{Request, Response, Version};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio::net::TcpListener;
use tower::{Layer, Service, ServiceBuilder, ServiceExt};

/// Responds to the first requests with 503 and to the others with 200 and the body that they sent.
/// Supports HTTP/1 and HTTP/2.
struct Server {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
}

impl Server {
    async fn failing_first(failures: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = requests.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let counted = counted.clone();
                let respond = service_fn(move |request: Request<Incoming>| {
                    let failed = counted.fetch_add(1, Relaxed) < failures;
                    async move {
                        let sent = request.into_body().collect().await.unwrap().to_bytes();
                        let response = Response::builder().status(if failed { 503 } else { 200 });
                        Ok::<_, Infallible>(response.body(Full::new(sent)).unwrap())
                    }
                });
                tokio::spawn(async move {
                    let connection = auto::Builder::new(TokioExecutor::new());
                    let _closed = connection
                        .serve_connection(TokioIo::new(stream), respond)
                        .await;
                });
            }
        });
        Self { address, requests }
    }

    fn uri(&self) -> String {
        format!("http://{}/orders/7", self.address)
    }

    fn requests(&self) -> usize {
        self.requests.load(Relaxed)
    }
}

/// A stack that retries without waiting.
fn quick() -> StackBuilder {
    stack().retry(|retry| retry.backoff(Backoff::constant(Duration::ZERO)))
}

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(20);
    tokio::time::timeout(limit, work).await.expect("in time")
}

fn hyper_client<B>(version: Version) -> legacy::Client<legacy::connect::HttpConnector, B>
where
    B: http_body::Body<Data: Send> + Send,
{
    let mut client = legacy::Client::builder(TokioExecutor::new());
    client.http2_only(version == Version::HTTP_2).build_http()
}

// hyper-util

#[tokio::test]
async fn a_full_body_is_sent_again_over_http_1_and_2() {
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let server = Server::failing_first(2).await;
        let client = quick().service(hyper_client(version)).unwrap();
        let request = Request::put(server.uri()).version(version);
        let request = request
            .body(Full::new(Bytes::from_static(b"seven")))
            .unwrap();
        let response = in_time(client.oneshot(request)).await.unwrap();
        assert_eq!(
            (response.status().as_u16(), response.version()),
            (200, version)
        );
        assert_eq!(
            response.into_body().collect().await.unwrap().to_bytes(),
            "seven"
        );
        assert_eq!(server.requests(), 3);
    }
}

#[tokio::test]
async fn an_empty_body_is_sent_again_over_http_1_and_2() {
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let server = Server::failing_first(2).await;
        let client = quick().service(hyper_client(version)).unwrap();
        let request = Request::get(server.uri()).version(version);
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let response = in_time(client.oneshot(request)).await.unwrap();
        assert_eq!((response.status().as_u16(), server.requests()), (200, 3));
    }
}

#[tokio::test]
async fn a_streaming_body_is_sent_again_over_http_1_and_2() {
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let server = Server::failing_first(2).await;
        let stack = quick().discard(Drain::new()).build().unwrap();
        let client = ServiceBuilder::new()
            .layer(ReplayBodyLayer::new())
            .layer(stack)
            .service(hyper_client(version));
        let parts = ["se", "ven"].map(|part| Ok::<_, Infallible>(Frame::data(Bytes::from(part))));
        let body = StreamBody::new(tokio_stream::iter(parts));
        let request = Request::put(server.uri()).version(version).body(body);
        let response = in_time(client.oneshot(request.unwrap())).await.unwrap();
        assert_eq!(response.status(), 200, "{version:?}");
        assert_eq!(
            response.into_body().collect().await.unwrap().to_bytes(),
            "seven"
        );
        assert_eq!(server.requests(), 3);
    }
}

#[tokio::test]
async fn a_request_that_may_not_be_sent_twice_is_sent_once() {
    let server = Server::failing_first(2).await;
    let client = quick().service(hyper_client(Version::HTTP_11)).unwrap();
    let request = Request::post(server.uri())
        .body(Full::new(Bytes::new()))
        .unwrap();
    let response = in_time(client.oneshot(request)).await.unwrap();
    assert_eq!((response.status().as_u16(), server.requests()), (503, 1));
}

#[tokio::test]
async fn an_unreachable_upstream_opens_the_circuit() {
    let away = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/", away.local_addr().unwrap());
    drop(away);
    let stack = stack()
        .no_retry()
        .circuit_breaker(|breaker| breaker.consecutive_failures(3));
    let client = stack.service(hyper_client(Version::HTTP_11)).unwrap();
    let call = || {
        let request = Request::get(&uri).body(Empty::<Bytes>::new()).unwrap();
        in_time(client.clone().oneshot(request))
    };
    for _ in 0..3 {
        assert!(matches!(call().await, Err(Error::Service(error)) if error.is_connect()));
    }
    let open = call().await.unwrap_err();
    assert!(matches!(
        open,
        Error::Rejected(Rejection::CircuitOpen { .. })
    ));
}

#[tokio::test]
async fn invalid_requests_do_not_open_the_circuit() {
    let layer = stack().circuit_breaker(|breaker| breaker.consecutive_failures(1));
    let layer = layer.build().unwrap();
    let client = tower::Layer::layer(&layer, hyper_client(Version::HTTP_11));
    for uri in ["/no-host", "https://127.0.0.1:9/"] {
        let request = Request::get(uri).body(Empty::<Bytes>::new()).unwrap();
        assert!(in_time(client.clone().oneshot(request)).await.is_err());
    }
    let state = layer.circuit().unwrap().state();
    assert_eq!(state, CircuitState::Closed);
}

// reqwest

fn reqwest_client() -> reqwest::Client {
    // No hidden retries of HTTP/2 refusals: this test counts every attempt.
    let client = reqwest::Client::builder().retry(reqwest::retry::never());
    client.no_proxy().build().unwrap()
}

#[tokio::test]
async fn a_request_of_reqwest_is_sent_again_with_its_body() {
    let server = Server::failing_first(2).await;
    let mut client = quick().service(reqwest_client()).unwrap();
    let request = reqwest_client().put(server.uri()).body("seven").build();
    let client = client.ready().await.unwrap();
    let response = in_time(client.call(request.unwrap())).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.text().await.unwrap(), "seven");
    assert_eq!(server.requests(), 3);
}

#[tokio::test]
async fn a_streaming_body_of_reqwest_is_sent_once() {
    let server = Server::failing_first(2).await;
    let client = quick().service(reqwest_client()).unwrap();
    let part = Ok::<_, Infallible>(Frame::data(Bytes::from("seven")));
    let body = StreamBody::new(tokio_stream::iter([part]));
    let request = reqwest_client().put(server.uri());
    let request = request.body(reqwest::Body::wrap(body)).build().unwrap();
    let response = in_time(client.oneshot(request)).await.unwrap();
    assert_eq!((response.status().as_u16(), server.requests()), (503, 1));
}

#[tokio::test]
async fn a_reqwest_client_that_cannot_connect_opens_the_circuit() {
    let away = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/", away.local_addr().unwrap());
    drop(away);
    let stack = stack()
        .no_retry()
        .circuit_breaker(|breaker| breaker.consecutive_failures(1));
    let client = stack.service(reqwest_client()).unwrap();
    let call = || {
        let request = reqwest_client().get(&uri).build().unwrap();
        in_time(client.clone().oneshot(request))
    };
    assert!(matches!(call().await, Err(Error::Service(error)) if error.is_connect()));
    let open = call().await.unwrap_err();
    assert!(matches!(
        open,
        Error::Rejected(Rejection::CircuitOpen { .. })
    ));
}

#[tokio::test]
async fn a_call_through_reqwest_can_be_spawned() {
    let server = Server::failing_first(0).await;
    let client = stack().service(reqwest_client()).unwrap();
    let request = reqwest_client().get(server.uri()).build().unwrap();
    let response = in_time(tokio::spawn(client.oneshot(request)))
        .await
        .unwrap();
    assert_eq!(response.unwrap().status(), 200);
}

/// Accepts connections and never responds.
async fn black_hole() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    address
}

#[tokio::test]
async fn a_host_that_is_a_black_hole_takes_no_call_from_the_others() {
    let (orders, users) = (
        Server::failing_first(0).await,
        Server::failing_first(0).await,
    );
    let hosts = [orders.address, users.address, black_hole().await];
    let layer = quick()
        .attempt_timeout(Duration::from_secs(1))
        .circuit_breaker(|breaker| {
            breaker
                .consecutive_failures(5)
                .open_for(Duration::from_secs(60))
        })
        .load_shed(20)
        .per_key(Authority)
        .build()
        .unwrap();
    let http = reqwest_client();
    let client = layer.layer(http.clone());
    let mut calls = Vec::new();
    for _ in 0..100 {
        for (place, host) in hosts.iter().enumerate() {
            let request = http.get(format!("http://{host}/7")).build().unwrap();
            let call = client.clone().oneshot(request);
            calls.push(tokio::spawn(async move { (place, call.await) }));
        }
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    let mut succeeded = [0; 3];
    for call in calls {
        match in_time(call).await.unwrap() {
            (place, Ok(_)) => succeeded[place] += 1,
            (2, Err(_)) => {}
            (place, Err(error)) => panic!("host {place}: {error}"),
        }
    }
    assert_eq!(succeeded, [100, 100, 0]);
    let state = |host: SocketAddr| {
        let parts = layer.by_key().get(&host.to_string()).unwrap();
        parts.circuit().unwrap().state()
    };
    let expected = [
        CircuitState::Closed,
        CircuitState::Closed,
        CircuitState::Open,
    ];
    assert_eq!(hosts.map(state), expected);
}
