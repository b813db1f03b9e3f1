//! Replayed request bodies: alone, below a retry, and with hyper's client.

#![cfg(all(feature = "http-body", feature = "hyper-util"))]

#[path = "../support/events.rs"]
mod events;
#[path = "../support/loopback.rs"]
mod loopback;

mod client;
mod kept;
mod readers;
mod retry;

use buttress::RetryLayer;
use buttress::http::{ReplayBody, ReplayBodyLayer, StatusClassifier};
use buttress::retry::{Backoff, RetryBuilder};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use loopback::BoxedResponse;
use pin_project_lite::pin_project;
use std::cell::Cell;
use std::convert::Infallible;
use std::future::ready;
use std::marker::{PhantomData, PhantomPinned};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio_test::{assert_ready, task};
use tower::{Layer, Service, service_fn};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, thiserror::Error)]
#[error("disk gone")]
struct DiskGone;

type Part = Result<Frame<Bytes>, DiskGone>;

pin_project! {
    /// As restricted as a body can be: neither `Clone` nor `Sync` nor `Unpin`.
    struct Streaming {
        parts: Receiver<Part>,
        #[pin]
        pinned: PhantomPinned,
        unsync: PhantomData<Cell<()>>,
    }
}

impl Body for Streaming {
    type Data = Bytes;
    type Error = DiskGone;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Part>> {
        self.project().parts.poll_recv(cx)
    }
}

/// A body and the sender of its parts. Dropping the sender ends the body.
fn streaming() -> (Sender<Part>, Streaming) {
    let (sender, parts) = channel(64);
    let body = Streaming {
        parts,
        pinned: PhantomPinned,
        unsync: PhantomData,
    };
    (sender, body)
}

fn data(bytes: &'static str) -> Frame<Bytes> {
    Frame::data(Bytes::from_static(bytes.as_bytes()))
}

fn trailers() -> HeaderMap {
    HeaderMap::from_iter([(
        "checksum".parse().unwrap(),
        HeaderValue::from_static("c0ffee"),
    )])
}

/// A body with these parts, and with trailers.
fn body_of(parts: &[&'static str]) -> Streaming {
    let (sender, body) = streaming();
    for part in parts {
        sender.try_send(Ok(data(part))).unwrap();
    }
    sender.try_send(Ok(Frame::trailers(trailers()))).unwrap();
    body
}

/// The request as the retry below the replay layer sees it.
fn kept<B: Body + Send + 'static>(keep: usize, body: B) -> Request<ReplayBody<B>> {
    let hand_out = service_fn(|request| ready(Ok::<_, Infallible>(request)));
    let mut service = ReplayBodyLayer::new().keep(keep).layer(hand_out);
    let mut call = task::spawn(service.call(Request::put("/").body(body).unwrap()));
    assert_ready!(call.poll()).unwrap()
}

type Frames = Vec<Result<Frame<Bytes>, BoxError>>;
type Polled = Poll<Option<Result<Frame<Bytes>, BoxError>>>;

/// A body that is read in a task of its own.
type Reading<B> = task::Spawn<ReplayBody<B>>;

fn read<B>(reading: &mut Reading<B>) -> Polled
where
    B: Body,
    B::Error: Into<BoxError>,
{
    reading.enter(|cx, body| body.poll_frame(cx))
}

/// All frames that can be read without waiting.
fn rest<B>(reading: &mut Reading<B>) -> Frames
where
    B: Body,
    B::Error: Into<BoxError>,
{
    std::iter::from_fn(|| match read(reading) {
        Poll::Ready(frame) => frame,
        Poll::Pending => None,
    })
    .collect()
}

/// The data of these frames.
fn text(frames: Frames) -> String {
    let data = frames
        .into_iter()
        .filter_map(|frame| frame.ok()?.into_data().ok());
    data.map(|data| String::from_utf8(data.to_vec()).unwrap())
        .collect()
}

fn error(polled: Polled) -> String {
    let Poll::Ready(Some(Err(error))) = polled else {
        panic!("no error: {polled:?}");
    };
    error.to_string()
}

/// What hyper bases the framing on: whether the body is empty, and its exact length.
fn framing<B>(body: &ReplayBody<B>) -> (bool, Option<u64>)
where
    ReplayBody<B>: Body,
{
    (body.is_end_stream(), body.size_hint().exact())
}

fn retrying() -> RetryBuilder<StatusClassifier> {
    RetryLayer::builder()
        .classify(StatusClassifier::default())
        .backoff(Backoff::constant(Duration::from_millis(10)))
}

fn respond(status: u16) -> BoxedResponse {
    let body = Full::from("response").boxed_unsync();
    Response::builder().status(status).body(body).unwrap()
}
