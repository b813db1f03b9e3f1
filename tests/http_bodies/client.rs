//! Replayed request bodies with hyper's client, over a socket.

use super::{BoxError, Streaming, respond, retrying, streaming, trailers};
use crate::loopback::{BoxedResponse, serve, soon};
use buttress::http::{Attempt, ReplayBody, ReplayBodyLayer};
use buttress::{ErrorLayer, TimeoutLayer};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Request, StatusCode, Version};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::sleep;
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};

const VERSIONS: [Version; 2] = [Version::HTTP_11, Version::HTTP_2];

/// A request as the server received it.
#[derive(Clone, Debug)]
struct Got {
    headers: HeaderMap,
    data: Bytes,
    trailers: Option<HeaderMap>,
}

type Gots = Arc<Mutex<Vec<Got>>>;

/// What the server does with the first request. It reads all later ones and responds with 200.
#[derive(Clone, Copy)]
enum First {
    /// Reads the whole body and responds with 503.
    Refuse,
    /// Reads a part of the body and responds with 503.
    RefuseEarly,
    /// Reads a part of the body and never responds.
    Hang,
}

async fn receive(
    request: Request<Incoming>,
    first: First,
    log: Gots,
    count: usize,
) -> BoxedResponse {
    let (head, mut body) = request.into_parts();
    if count == 0 && !matches!(first, First::Refuse) {
        body.frame().await.unwrap().unwrap();
        if matches!(first, First::Hang) {
            pending::<()>().await;
        }
        return respond(503);
    }
    let Ok(body) = body.collect().await else {
        return respond(400);
    };
    log.lock().unwrap().push(Got {
        headers: head.headers,
        trailers: body.trailers().cloned(),
        data: body.to_bytes(),
    });
    respond(if count == 0 { 503 } else { 200 })
}

struct Exchange {
    /// How many requests arrived.
    sent: usize,
    /// Those that arrived completely.
    got: Vec<Got>,
    outcome: Result<StatusCode, BoxError>,
}

/// Sends a body to such a server.
async fn exchange<B>(version: Version, first: First, keep: usize, body: B) -> Exchange
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let got = Gots::default();
    let count = Arc::new(AtomicUsize::new(0));
    let (log, counter) = (got.clone(), count.clone());
    let serving = serve(version, move |request| {
        receive(request, first, log.clone(), counter.fetch_add(1, SeqCst))
    });
    let (uri, _) = serving.await;
    // Long, unless the test is about the timeout.
    let limit = Duration::from_millis(match first {
        First::Hang => 300,
        First::Refuse | First::RefuseEarly => 10_000,
    });
    let service = ServiceBuilder::new()
        .layer(ReplayBodyLayer::new().keep(keep))
        .layer(retrying().build().unwrap())
        .layer(TimeoutLayer::new(limit))
        .layer(ErrorLayer)
        .service(client(version));
    let request = Request::put(uri).header("trailer", "checksum").body(body);
    let outcome = soon(service.oneshot(request.unwrap())).await;
    Exchange {
        sent: count.load(SeqCst),
        got: got.lock().unwrap().clone(),
        outcome: outcome
            .map(|response| response.status())
            .map_err(Into::into),
    }
}

fn client<B>(version: Version) -> Client<HttpConnector, B>
where
    B: Body<Data: Send> + Send,
{
    let mut builder = Client::builder(TokioExecutor::new());
    builder.http2_only(version == Version::HTTP_2).build_http()
}

/// 128 KiB and trailers, sent in small parts.
fn upload() -> Streaming {
    let (sender, body) = streaming();
    tokio::spawn(async move {
        for _ in 0..8 {
            let part = Frame::data(Bytes::from(vec![7; 16 * 1024]));
            if sender.send(Ok(part)).await.is_err() {
                return;
            }
            sleep(Duration::from_millis(2)).await;
        }
        sender.send(Ok(Frame::trailers(trailers()))).await.ok();
    });
    body
}

const WHOLE: usize = 128 * 1024;
const PLENTY: usize = 1024 * 1024;

#[tokio::test]
async fn a_refused_upload_is_sent_again_completely() {
    for version in VERSIONS {
        let exchange = exchange(version, First::Refuse, PLENTY, upload()).await;
        let lengths: Vec<_> = exchange.got.iter().map(|got| got.data.len()).collect();
        assert_eq!(lengths, [WHOLE; 2], "{version:?}");
    }
}

#[tokio::test]
async fn an_upload_that_is_sent_again_ends_with_its_trailers() {
    for version in VERSIONS {
        let exchange = exchange(version, First::Refuse, PLENTY, upload()).await;
        let got: Vec<_> = exchange.got.into_iter().map(|got| got.trailers).collect();
        assert_eq!(got, [Some(trailers()), Some(trailers())], "{version:?}");
    }
}

#[tokio::test]
async fn an_upload_that_is_too_long_to_keep_is_sent_once() {
    for version in VERSIONS {
        let exchange = exchange(version, First::Refuse, WHOLE - 1, upload()).await;
        assert_eq!((exchange.sent, exchange.got[0].data.len()), (1, WHOLE));
        assert_eq!(exchange.outcome.unwrap(), 503, "{version:?}");
    }
}

#[tokio::test]
async fn an_upload_refused_before_its_end_is_sent_again_completely() {
    for version in VERSIONS {
        let exchange = exchange(version, First::RefuseEarly, PLENTY, upload()).await;
        assert_eq!(exchange.outcome.unwrap(), 200, "{version:?}");
        assert_eq!(exchange.got[0].data.len(), WHOLE, "{version:?}");
    }
}

#[tokio::test]
async fn an_upload_refused_before_its_end_and_too_long_to_keep_returns_the_503() {
    for version in VERSIONS {
        let exchange = exchange(version, First::RefuseEarly, 1, upload()).await;
        assert_eq!(exchange.outcome.unwrap(), 503, "{version:?}");
        assert_eq!(exchange.sent, 1, "{version:?}");
    }
}

#[tokio::test]
async fn an_upload_whose_attempt_timed_out_is_sent_again_completely() {
    for version in VERSIONS {
        let exchange = exchange(version, First::Hang, PLENTY, upload()).await;
        assert_eq!(exchange.outcome.unwrap(), 200, "{version:?}");
        assert_eq!(exchange.got[0].data.len(), WHOLE, "{version:?}");
    }
}

/// The framing headers of each attempt.
async fn framings<B>(version: Version, body: B) -> Vec<[Option<HeaderValue>; 2]>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let exchange = exchange(version, First::Refuse, PLENTY, body).await;
    let framing =
        |got: &Got| [CONTENT_LENGTH, TRANSFER_ENCODING].map(|name| got.headers.get(name).cloned());
    exchange.got.iter().map(framing).collect()
}

#[tokio::test]
async fn each_attempt_sends_the_known_length_of_a_body() {
    for version in VERSIONS {
        let length = Some(HeaderValue::from_static("5"));
        let framings = framings(version, Full::from("to be")).await;
        assert_eq!(
            framings,
            [[length.clone(), None], [length, None]],
            "{version:?}"
        );
    }
}

#[tokio::test]
async fn each_attempt_sends_an_empty_body_as_no_body() {
    // This is how hyper sends a PUT without a body.
    let zero = Some(HeaderValue::from_static("0"));
    for (version, length) in [(Version::HTTP_11, None), (Version::HTTP_2, zero)] {
        let framings = framings(version, Empty::new()).await;
        assert_eq!(
            framings,
            [[length.clone(), None], [length, None]],
            "{version:?}"
        );
    }
}

#[tokio::test]
async fn each_attempt_sends_a_stream_in_chunks() {
    let chunked = Some(HeaderValue::from_static("chunked"));
    let framings = framings(Version::HTTP_11, upload()).await;
    assert_eq!(framings, [[None, chunked.clone()], [None, chunked]]);
}

#[tokio::test]
async fn a_request_that_could_not_connect_is_sent_again_whatever_its_size() {
    for version in VERSIONS {
        let got = Gots::default();
        let log = got.clone();
        // The first attempt fails before it reaches the server: nobody listens at its address.
        let serving = serve(version, move |request| {
            receive(request, First::Refuse, log.clone(), 1)
        });
        let (uri, _) = serving.await;
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr();
        let nobody = format!("http://{}/", nobody.unwrap());
        let client = client(version);
        let astray = service_fn(move |mut request: Request<ReplayBody<Streaming>>| {
            if Attempt::of(request.extensions()).number() == 1 {
                *request.uri_mut() = nobody.parse().unwrap();
            }
            client.clone().call(request)
        });
        let service = ServiceBuilder::new()
            .layer(ReplayBodyLayer::new().keep(0))
            .layer(retrying().build().unwrap())
            .layer(ErrorLayer)
            .service(astray);
        let request = Request::put(uri).body(upload()).unwrap();
        soon(service.oneshot(request)).await.unwrap();
        assert_eq!(got.lock().unwrap()[0].data.len(), WHOLE, "{version:?}");
    }
}
