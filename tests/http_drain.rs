//! Draining of discarded responses.

#![cfg(all(feature = "http-body", feature = "hyper-util"))]

#[path = "support/loopback.rs"]
mod loopback;

use buttress::http::{Drain, Draining, StatusClassifier};
use buttress::retry::{Backoff, Budget, Cloned, Discard, RetryBuilder};
use buttress::{Error, ErrorLayer, RetryLayer};
use bytes::Bytes;
use http::header::CONNECTION;
use http::{Request, Response, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::channel::Channel;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use loopback::{BoxedResponse, serve, soon};
use std::convert::Infallible;
use std::future::ready;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};
use tokio_test::{assert_pending, assert_ready, task};
use tower::limit::ConcurrencyLimit;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

const MILLI: Duration = Duration::from_millis(1);
const WAIT: Duration = Duration::from_millis(10);
const SECOND: Duration = Duration::from_secs(1);

/// A body that yields the same frame `more` times and then `then`.
#[derive(Clone, Debug)]
struct Frames {
    data: &'static [u8],
    more: usize,
    then: Poll<Option<Result<(), ()>>>,
    /// The length that it reports, in bytes.
    len: Option<u64>,
    /// How many frames were read of this body and its clones.
    read: Arc<AtomicUsize>,
}

impl Frames {
    fn new(data: &'static [u8], more: usize) -> Self {
        Self {
            data,
            more,
            then: Poll::Ready(None),
            len: None,
            read: Arc::default(),
        }
    }

    /// A body that never yields anything.
    fn silent() -> Self {
        let mut body = Self::new(b"", 0);
        body.then = Poll::Pending;
        body
    }

    fn read(&self) -> usize {
        self.read.load(SeqCst)
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = ();

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ()>>> {
        let Some(more) = self.more.checked_sub(1) else {
            return self
                .then
                .map(|end| end.map(|end| end.map(|()| unreachable!())));
        };
        self.more = more;
        self.read.fetch_add(1, SeqCst);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(self.data)))))
    }

    fn size_hint(&self) -> SizeHint {
        self.len.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}

fn unavailable<B>(body: B) -> Response<B> {
    Response::builder().status(503).body(body).unwrap()
}

/// Two attempts, ten milliseconds apart.
fn retrying() -> RetryBuilder<StatusClassifier, Cloned> {
    RetryLayer::builder()
        .attempts(2)
        .classify(StatusClassifier::default())
        .backoff(Backoff::constant(WAIT))
        .replay(Cloned)
}

/// The time between two attempts whose response is a copy of this one.
async fn wait_of<D>(
    retry: RetryBuilder<StatusClassifier, Cloned, D>,
    response: &Response<Frames>,
) -> Duration
where
    D: Discard<Response<Frames>> + Clone,
{
    let start = Instant::now();
    let copy = response.clone();
    let upstream = service_fn(move |(): ()| ready(Ok::<_, Error<Infallible>>(copy.clone())));
    let service = retry.build().unwrap().layer(upstream);
    // The last response is not drained, so the call ends when the second attempt is sent.
    service.oneshot(()).await.unwrap();
    start.elapsed()
}

/// How many frames of a discarded response are read.
async fn drained(drain: Drain, response: Response<Frames>) -> usize {
    wait_of(retrying().discard(drain), &response).await;
    response.body().read()
}

// How much is read

#[tokio::test(start_paused = true)]
async fn a_response_is_read_to_its_end() {
    let response = unavailable(Frames::new(&[7; 1024], 100));
    assert_eq!(drained(Drain::new(), response).await, 100);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_read_by_default() {
    let response = unavailable(Frames::new(&[7; 1024], 100));
    wait_of(retrying(), &response).await;
    assert_eq!(response.body().read(), 0);
}

#[tokio::test(start_paused = true)]
async fn no_more_than_128_kib_is_read_by_default() {
    let response = unavailable(Frames::new(&[7; 1024], usize::MAX));
    // Reading stops once the limit is exceeded, and the 129th frame exceeds it.
    assert_eq!(drained(Drain::default(), response).await, 129);
}

#[tokio::test(start_paused = true)]
async fn no_more_is_read_than_configured() {
    let response = unavailable(Frames::new(&[7; 1024], usize::MAX));
    assert_eq!(drained(Drain::new().max_bytes(4_095), response).await, 4);
}

#[tokio::test(start_paused = true)]
async fn an_endless_body_of_empty_frames_is_not_read_for_ever() {
    let response = unavailable(Frames::new(b"", usize::MAX));
    assert_eq!(drained(Drain::new().max_bytes(100), response).await, 101);
}

#[tokio::test(start_paused = true)]
async fn a_body_with_a_length_above_the_limit_is_not_read() {
    let mut body = Frames::new(&[7; 1024], 129);
    body.len = Some(129 * 1024);
    assert_eq!(drained(Drain::new(), unavailable(body)).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_response_over_http_2_is_not_read() {
    let mut response = unavailable(Frames::new(b"busy", 1));
    *response.version_mut() = Version::HTTP_2;
    assert_eq!(drained(Drain::new(), response).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_response_whose_connection_closes_anyway_is_not_read() {
    for value in ["close", "Close", "x-hop, close"] {
        let mut response = unavailable(Frames::new(b"busy", 1));
        response
            .headers_mut()
            .insert(CONNECTION, value.parse().unwrap());
        assert_eq!(drained(Drain::new(), response).await, 0, "{value}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_body_that_fails_does_not_delay_the_retry() {
    let mut body = Frames::new(b"bu", 1);
    body.then = Poll::Ready(Some(Err(())));
    let retry = retrying()
        .discard(Drain::new())
        .backoff(Backoff::constant(Duration::ZERO));
    assert_eq!(wait_of(retry, &unavailable(body)).await, Duration::ZERO);
}

// How long it takes

/// `time`, or a little later, because tokio's timers may fire late.
fn about(time: Duration) -> std::ops::RangeInclusive<Duration> {
    time..=time + 2 * MILLI
}

#[tokio::test(start_paused = true)]
async fn a_silent_response_delays_its_retry_by_100_ms_by_default() {
    let wait = wait_of(
        retrying().discard(Drain::new()),
        &unavailable(Frames::silent()),
    )
    .await;
    assert!(about(100 * MILLI).contains(&wait), "{wait:?}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_response_delays_its_retry_by_the_configured_time() {
    let drain = Drain::new().max_time(30 * MILLI);
    let wait = wait_of(retrying().discard(drain), &unavailable(Frames::silent())).await;
    assert!(about(30 * MILLI).contains(&wait), "{wait:?}");
}

#[tokio::test(start_paused = true)]
async fn a_retry_with_a_longer_wait_is_not_delayed() {
    let retry = retrying().backoff(Backoff::constant(SECOND));
    let wait = wait_of(retry.discard(Drain::new()), &unavailable(Frames::silent())).await;
    assert!(about(SECOND).contains(&wait), "{wait:?}");
}

#[tokio::test(start_paused = true)]
async fn with_a_time_of_zero_only_available_data_is_read() {
    let mut body = Frames::new(b"busy", 3);
    body.then = Poll::Pending;
    let drain = Drain::new().max_time(Duration::ZERO);
    let retry = retrying().backoff(Backoff::constant(Duration::ZERO));
    let response = unavailable(body);
    let wait = wait_of(retry.discard(drain), &response).await;
    assert_eq!((wait, response.body().read()), (Duration::ZERO, 3));
}

/// Drains a body in a task of its own.
fn draining<B: Body>(body: B) -> task::Spawn<Draining<B>> {
    let draining = Drain::new().discard(Response::new(body));
    task::spawn(draining.unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_response_that_does_not_end_is_dropped_in_time() {
    let (mut sender, body) = Channel::<Bytes, Infallible>::new(1);
    let mut draining = draining(body);
    assert_pending!(draining.poll());
    sleep(Duration::from_millis(99)).await;
    assert_pending!(draining.poll());
    sleep(Duration::from_millis(2)).await;
    assert_ready!(draining.poll());
    assert!(sender.try_send(Frame::data(Bytes::new())).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_response_that_has_ended_does_not_delay_the_retry() {
    let (sender, body) = Channel::<Bytes, Infallible>::new(1);
    let mut draining = draining(body);
    assert_pending!(draining.poll());
    drop(sender);
    assert_ready!(draining.poll());
}

#[test]
fn a_time_of_zero_needs_no_timer() {
    let drain = Drain::new().max_time(Duration::ZERO);
    let draining = drain.discard(Response::new(Frames::silent()));
    assert_ready!(task::spawn(draining.unwrap()).poll());
}

// What is released while a response is drained

#[tokio::test(start_paused = true)]
async fn the_permit_of_an_attempt_is_released_while_its_response_is_drained() {
    let upstream =
        service_fn(|(): ()| ready(Ok::<_, Error<Infallible>>(unavailable(Frames::silent()))));
    let permits = Arc::new(Semaphore::new(1));
    let limited = ConcurrencyLimit::with_semaphore(upstream, permits.clone());
    let retry = retrying().discard(Drain::new()).build().unwrap();
    let _call = tokio::spawn(retry.layer(limited).oneshot(()));
    sleep(50 * MILLI).await;
    assert_eq!(permits.available_permits(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_token_of_a_retry_cancelled_while_it_drains_is_returned() {
    let budget = Budget::builder().floor(1).reserve(0.0).build().unwrap();
    let upstream =
        service_fn(|(): ()| ready(Ok::<_, Error<Infallible>>(unavailable(Frames::silent()))));
    let retry = retrying().discard(Drain::new()).budget(budget.clone());
    let call = tokio::spawn(retry.build().unwrap().layer(upstream).oneshot(()));
    sleep(50 * MILLI).await;
    call.abort();
    call.await.unwrap_err();
    assert!(budget.try_withdraw().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_response_is_dropped_when_its_time_is_up() {
    let (mut sender, body) = Channel::<Bytes, Infallible>::new(1);
    let mut draining = draining(body);
    assert_pending!(draining.poll());
    sleep(SECOND).await;
    assert_ready!(draining.poll());
    assert!(sender.try_send(Frame::data(Bytes::new())).is_err());
}

// Connection reuse

/// 64 kB in two parts that do not arrive at the same time.
fn page() -> BoxedResponse {
    let (mut sender, body) = Channel::<Bytes, Infallible>::new(1);
    tokio::spawn(async move {
        for _ in 0..2 {
            sender.send_data(Bytes::from(vec![7; 32_000])).await.ok();
            sleep(5 * MILLI).await;
        }
    });
    unavailable(body.boxed_unsync())
}

/// How many sockets one call opens if it gets five responses with status 503 and a page.
async fn sockets<D>(retry: RetryBuilder<StatusClassifier, Cloned, D>) -> usize
where
    D: Discard<Response<hyper::body::Incoming>> + Clone,
{
    let (uri, sockets) = serve(Version::HTTP_11, |_| async { page() }).await;
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let retry = retry.attempts(5).no_budget();
    let retry = retry.backoff(Backoff::constant(30 * MILLI));
    let mut client = ServiceBuilder::new()
        .layer(retry.build().unwrap())
        .layer(ErrorLayer)
        .service(client);
    let request = Request::get(uri).body(Empty::new()).unwrap();
    soon(client.ready().await.unwrap().call(request))
        .await
        .unwrap();
    sockets.load(SeqCst)
}

#[tokio::test]
async fn all_attempts_share_a_connection_whose_responses_are_drained() {
    assert_eq!(sockets(retrying().discard(Drain::new())).await, 1);
}

/// Without draining, connections are not reused. Otherwise the test above would prove nothing.
#[tokio::test]
async fn without_draining_each_attempt_opens_a_connection() {
    assert_eq!(sockets(retrying()).await, 5);
}
