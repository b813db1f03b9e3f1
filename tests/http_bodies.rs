//! What the replay of request bodies promises: by itself, under a retry, and with hyper's client.

#![cfg(all(feature = "http-body", feature = "hyper-util"))]

#[path = "support/events.rs"]
mod events;
#[path = "support/loopback.rs"]
mod loopback;

use buttress::http::{
    Attempt, Idempotent, RepeatIf, ReplayBody, ReplayBodyLayer, StatusClassifier,
};
use buttress::retry::{Backoff, Budget, Cloned, RetryBuilder};
use buttress::{Error, ErrorLayer, Replay, RetryLayer, TimeoutLayer};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Collected, Empty, Full, StreamBody};
use hyper::body::Incoming;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use loopback::{Answer, serve, soon};
use pin_project_lite::pin_project;
use std::cell::Cell;
use std::convert::Infallible;
use std::future::{pending, ready};
use std::marker::{PhantomData, PhantomPinned};
use std::pin::Pin;

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::sleep;
use tokio_test::{assert_pending, assert_ready, task};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, thiserror::Error)]
#[error("disk gone")]
struct DiskGone;

type Part = Result<Frame<Bytes>, DiskGone>;

pin_project! {
    /// As awkward as bodies get: neither `Clone` nor `Sync` nor `Unpin`.
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

/// A body and what feeds it. Dropping the sender ends it.
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

/// A body of these parts, with trailers.
fn body_of(parts: &[&'static str]) -> Streaming {
    let (sender, body) = streaming();
    for part in parts {
        sender.try_send(Ok(data(part))).unwrap();
    }
    sender.try_send(Ok(Frame::trailers(trailers()))).unwrap();
    body
}

/// The request as the retry below the layer sees it.
fn kept<B: Body + Send + 'static>(keep: usize, body: B) -> Request<ReplayBody<B>> {
    let hand_out = service_fn(|request| ready(Ok::<_, Infallible>(request)));
    let mut service = ReplayBodyLayer::new().keep(keep).layer(hand_out);
    let mut call = task::spawn(service.call(Request::put("/").body(body).unwrap()));
    assert_ready!(call.poll()).unwrap()
}

type Frames = Vec<Result<Frame<Bytes>, BoxError>>;
type Polled = Poll<Option<Result<Frame<Bytes>, BoxError>>>;

/// A reader of a body, on a task of its own.
type Reading<B> = task::Spawn<ReplayBody<B>>;

fn read<B>(reading: &mut Reading<B>) -> Polled
where
    B: Body,
    B::Error: Into<BoxError>,
{
    reading.enter(|cx, body| body.poll_frame(cx))
}

/// What there is to read without waiting, and its end if it was reached.
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

/// The data of what was read.
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

const SUPERSEDED: &str = "the request body is sent by a newer attempt";

// What is kept

#[test]
fn a_copy_sends_the_same_data() {
    let request = kept(64, body_of(&["to ", "be"]));
    let copy = Idempotent.replay(&request).unwrap();
    rest(&mut task::spawn(request.into_body()));
    assert_eq!(text(rest(&mut task::spawn(copy.into_body()))), "to be");
}

#[test]
fn a_copy_sends_the_same_trailers() {
    let request = kept(64, body_of(&["to be"]));
    let copy = Idempotent.replay(&request).unwrap();
    rest(&mut task::spawn(request.into_body()));
    let last = rest(&mut task::spawn(copy.into_body())).pop().unwrap();
    assert_eq!(last.unwrap().into_trailers().unwrap(), trailers());
}

#[test]
fn a_copy_sends_what_was_sent_and_goes_on_from_there() {
    let (sender, body) = streaming();
    let request = kept(64, body);
    let copy = Idempotent.replay(&request).unwrap();
    sender.try_send(Ok(data("to "))).unwrap();
    rest(&mut task::spawn(request.into_body()));
    sender.try_send(Ok(data("be"))).unwrap();
    assert_eq!(text(rest(&mut task::spawn(copy.into_body()))), "to be");
}

#[test]
fn a_copy_made_halfway_starts_from_the_start() {
    let (sender, body) = streaming();
    let request = kept(64, body);
    let _copy = Idempotent.replay(&request).unwrap();
    sender.try_send(Ok(data("to "))).unwrap();
    let mut reading = task::spawn(request.into_body());
    rest(&mut reading);
    let copy = reading.clone();
    sender.try_send(Ok(data("be"))).unwrap();
    assert_eq!(text(rest(&mut task::spawn(copy))), "to be");
}

#[test]
fn the_bytes_are_in_memory_once() {
    let (sender, body) = streaming();
    let request = kept(64, body);
    let copy = Idempotent.replay(&request).unwrap();
    let sent = Bytes::from(vec![7; 32]);
    let place = sent.as_ptr();
    sender.try_send(Ok(Frame::data(sent))).unwrap();
    for request in [request, copy] {
        let Poll::Ready(Some(Ok(frame))) = read(&mut task::spawn(request.into_body())) else {
            panic!("nothing to read");
        };
        assert_eq!(frame.into_data().unwrap().as_ptr(), place);
    }
}

#[test]
fn nothing_is_kept_of_a_request_that_is_not_copied() {
    let (sender, body) = streaming();
    let mut reading = task::spawn(kept(64, body).into_body());
    let sent = Bytes::from(vec![7; 32]);
    sender.try_send(Ok(Frame::data(sent.clone()))).unwrap();
    rest(&mut reading);
    assert!(sent.is_unique());
}

#[test]
fn what_was_kept_is_let_go_when_the_body_is_too_long() {
    let (sender, body) = streaming();
    let request = kept(40, body);
    let _copy = Idempotent.replay(&request).unwrap();
    let mut reading = task::spawn(request.into_body());
    let sent = Bytes::from(vec![7; 32]);
    for _ in 0..2 {
        sender.try_send(Ok(Frame::data(sent.clone()))).unwrap();
    }
    rest(&mut reading);
    assert!(sent.is_unique());
}

#[test]
fn a_body_that_is_too_long_streams_on() {
    let request = kept(4, body_of(&["to be ", "or not ", "to be"]));
    let _copy = Idempotent.replay(&request).unwrap();
    let sent = text(rest(&mut task::spawn(request.into_body())));
    assert_eq!(sent, "to be or not to be");
}

/// Whether a body of five bytes and 14 of trailers can be sent again after it was sent.
fn repeats(keep: usize) -> bool {
    let request = kept(keep, body_of(&["to ", "be"]));
    let copy = Idempotent.replay(&request).unwrap();
    rest(&mut task::spawn(request.into_body()));
    Idempotent.replayable(&copy)
}

#[test]
fn a_body_just_as_long_as_is_kept_can_be_sent_again() {
    assert!(repeats(19));
}

#[test]
fn a_body_whose_trailers_are_one_byte_too_long_cannot_be_sent_again() {
    assert!(!repeats(18));
}

#[test]
fn a_body_in_very_many_parts_counts_as_too_long() {
    for (parts, repeated) in [(1_024, true), (1_025, false)] {
        let part = || Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"x")));
        let body = StreamBody::new(tokio_stream::iter((0..parts).map(move |_| part())));
        let request = kept(64 * 1024, body);
        let copy = Idempotent.replay(&request).unwrap();
        let mut reading = task::spawn(request.into_body());
        // The stream lets others have their turn now and then.
        let read = (0..100)
            .map(|_| text(rest(&mut reading)).len())
            .sum::<usize>();
        assert_eq!(read, parts);
        assert_eq!(Idempotent.replayable(&copy), repeated, "{parts}");
    }
}

#[test]
fn a_body_of_which_nothing_was_read_can_be_sent_again_whatever_its_size() {
    let request = kept(0, body_of(&["to be"]));
    let copy = Idempotent.replay(&request).unwrap();
    drop(request);
    assert!(Idempotent.replayable(&copy));
}

#[test]
fn up_to_64_kib_are_kept_by_default() {
    for (len, repeated) in [(65_536, true), (65_537, false)] {
        let hand_out = service_fn(|request| ready(Ok::<_, Infallible>(request)));
        let mut service = ReplayBodyLayer::default().layer(hand_out);
        let body = Full::new(Bytes::from(vec![7; len]));
        let mut call = task::spawn(service.call(Request::new(body)));
        let request = assert_ready!(call.poll()).unwrap();
        let copy = Idempotent.replay(&request).unwrap();
        rest(&mut task::spawn(request.into_body()));
        assert_eq!(Idempotent.replayable(&copy), repeated, "{len}");
    }
}

#[test]
fn empty_data_is_not_kept() {
    let (sender, body) = streaming();
    let request = kept(64, body);
    let copy = Idempotent.replay(&request).unwrap();
    for frame in [data(""), data("to be"), data("")] {
        sender.try_send(Ok(frame)).unwrap();
    }
    rest(&mut task::spawn(request.into_body()));
    assert_eq!(rest(&mut task::spawn(copy.into_body())).len(), 1);
}

// How it is framed

/// How hyper would frame it: whether there is anything, and how long it is.
fn framing<B>(body: &ReplayBody<B>) -> (bool, Option<u64>)
where
    ReplayBody<B>: Body,
{
    (body.is_end_stream(), body.size_hint().exact())
}

#[test]
fn each_attempt_says_the_length_of_the_whole() {
    let request = kept(64, Full::new(Bytes::from("to be")));
    let copy = Idempotent.replay(&request).unwrap();
    let mut reading = task::spawn(request.into_body());
    assert_eq!(framing(&reading), (false, Some(5)));
    rest(&mut reading);
    assert_eq!(framing(copy.body()), (false, Some(5)));
}

#[test]
fn the_length_that_is_left_shrinks_and_ends() {
    let request = kept(64, Full::new(Bytes::from("to be")));
    let copy = Idempotent.replay(&request).unwrap();
    for request in [request, copy] {
        let mut reading = task::spawn(request.into_body());
        assert_ready!(read(&mut reading)).unwrap().unwrap();
        assert_eq!(framing(&reading), (true, Some(0)));
    }
}

#[test]
fn an_empty_body_is_at_its_end_at_once() {
    let request = kept(64, Empty::<Bytes>::new());
    let copy = Idempotent.replay(&request).unwrap();
    for request in [request, copy] {
        assert_eq!(framing(request.body()), (true, Some(0)));
    }
}

#[test]
fn a_body_of_unknown_length_is_so_in_each_attempt() {
    let request = kept(64, body_of(&["to be"]));
    let copy = Idempotent.replay(&request).unwrap();
    rest(&mut task::spawn(request.into_body()));
    assert_eq!(framing(copy.body()), (false, None));
}

#[test]
fn a_body_that_gives_more_than_it_said_makes_nothing_panic() {
    struct Liar(u8);
    impl Body for Liar {
        type Data = Bytes;
        type Error = Infallible;
        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.0 += 1;
            Poll::Ready((self.0 <= 2).then(|| Ok(data("more"))))
        }
        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(5)
        }
    }
    let mut reading = task::spawn(kept(64, Liar(0)).into_body());
    rest(&mut reading);
    assert_eq!(reading.size_hint().exact(), Some(0));
}

// One reader

#[test]
fn an_older_attempt_ends_with_an_error_not_an_end() {
    let (sender, body) = streaming();
    let request = kept(64, body);
    let copy = Idempotent.replay(&request).unwrap();
    let mut older = task::spawn(request.into_body());
    sender.try_send(Ok(data("to "))).unwrap();
    rest(&mut older);
    assert!(Idempotent.replayable(&copy));
    assert_eq!(error(read(&mut older)), SUPERSEDED);
}

#[test]
fn an_older_attempt_that_waits_is_woken_to_end() {
    let (_sender, body) = streaming();
    let request = kept(64, body);
    let copy = Idempotent.replay(&request).unwrap();
    let mut older = task::spawn(request.into_body());
    assert_pending!(read(&mut older));
    assert!(Idempotent.replayable(&copy));
    assert!(older.is_woken());
}

#[test]
fn without_a_policy_that_asks_the_first_poll_of_the_newer_ends_the_older() {
    let (_sender, body) = streaming();
    let request = kept(64, body);
    let copy = Cloned.replay(&request).unwrap();
    let mut older = task::spawn(request.into_body());
    assert_pending!(read(&mut older));
    assert_pending!(read(&mut task::spawn(copy.into_body())));
    assert!(older.is_woken());
    assert_eq!(error(read(&mut older)), SUPERSEDED);
}

#[test]
fn an_older_attempt_takes_nothing_while_the_next_waits_for_its_turn() {
    let (sender, body) = streaming();
    let request = kept(1, body);
    let mut copy = Idempotent.replay(&request).unwrap();
    // Not polled yet, as behind a full connection.
    let mut older = task::spawn(request.into_body());
    assert!(Idempotent.replayable(&copy));
    sender.try_send(Ok(data("to be"))).unwrap();
    assert_eq!(error(read(&mut older)), SUPERSEDED);
    Idempotent.resend(&mut copy, 2);
    assert_eq!(text(rest(&mut task::spawn(copy.into_body()))), "to be");
}

#[test]
fn a_copy_that_cannot_be_sent_does_not_disturb_the_one_under_way() {
    let (sender, body) = streaming();
    let request = kept(1, body);
    let copy = Idempotent.replay(&request).unwrap();
    let mut reading = task::spawn(request.into_body());
    sender.try_send(Ok(data("to "))).unwrap();
    rest(&mut reading);
    assert!(!Idempotent.replayable(&copy));
    assert!(read(&mut task::spawn(copy.into_body())).is_ready());
    sender.try_send(Ok(data("be"))).unwrap();
    assert_eq!(text(rest(&mut reading)), "be");
}

#[test]
fn with_a_policy_that_does_not_ask_a_copy_of_a_body_too_long_fails() {
    let request = kept(1, body_of(&["to be"]));
    let copy = Cloned.replay(&request).unwrap();
    rest(&mut task::spawn(request.into_body()));
    assert_eq!(
        error(read(&mut task::spawn(copy.into_body()))),
        "the request body cannot be sent again: more was sent of it than is kept"
    );
}

#[test]
fn a_reader_that_moves_to_another_task_is_woken_there() {
    let (sender, body) = streaming();
    let mut reading = task::spawn(kept(64, body).into_body());
    assert_pending!(read(&mut reading));
    let mut moved = task::spawn(reading.into_inner());
    assert_pending!(read(&mut moved));
    sender.try_send(Ok(data("to be"))).unwrap();
    assert!(moved.is_woken());
}

#[test]
fn a_newer_reader_that_waits_is_woken_by_what_comes() {
    let (sender, body) = streaming();
    let request = kept(64, body);
    let copy = Idempotent.replay(&request).unwrap();
    let mut older = task::spawn(request.into_body());
    assert_pending!(read(&mut older));
    let mut newer = task::spawn(copy.into_body());
    assert_pending!(read(&mut newer));
    sender.try_send(Ok(data("to be"))).unwrap();
    assert!(newer.is_woken());
}

/// A body that is polled by a second reader while the first is inside its poll.
struct Reentrant {
    meanwhile: Option<Box<dyn FnOnce() + Send>>,
    answer: Poll<Option<Part>>,
}

impl Body for Reentrant {
    type Data = Bytes;
    type Error = DiskGone;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, DiskGone>>> {
        if let Some(meanwhile) = self.meanwhile.take() {
            meanwhile();
        }
        std::mem::replace(&mut self.answer, Poll::Pending)
    }
}

type Newer = Arc<Mutex<Option<Reading<Reentrant>>>>;

/// Two readers, the second of which comes while the first polls the body: what the first got, and
/// the second.
fn overlapping(keep: usize, answer: Poll<Option<Part>>) -> (Polled, Reading<Reentrant>) {
    let newer = Newer::default();
    let inside = newer.clone();
    let meanwhile = move || {
        assert_pending!(read(inside.lock().unwrap().as_mut().unwrap()));
    };
    let request = kept(
        keep,
        Reentrant {
            meanwhile: Some(Box::new(meanwhile)),
            answer,
        },
    );
    let copy = Cloned.replay(&request).unwrap();
    *newer.lock().unwrap() = Some(task::spawn(copy.into_body()));
    let polled = read(&mut task::spawn(request.into_body()));
    let newer = newer.lock().unwrap().take().unwrap();
    (polled, newer)
}

#[test]
fn a_reader_that_comes_while_the_body_is_polled_is_woken_when_it_is_back() {
    for answer in [
        Poll::Pending,
        Poll::Ready(None),
        Poll::Ready(Some(Ok(data("to be")))),
        Poll::Ready(Some(Err(DiskGone))),
    ] {
        let case = format!("{answer:?}");
        let (_, newer) = overlapping(64, answer);
        assert!(newer.is_woken(), "{case}");
    }
}

#[test]
fn a_reader_that_is_overtaken_inside_its_poll_ends_with_an_error() {
    for answer in [
        Poll::Pending,
        Poll::Ready(None),
        Poll::Ready(Some(Ok(data("to be")))),
        Poll::Ready(Some(Err(DiskGone))),
    ] {
        let (polled, _) = overlapping(64, answer);
        assert_eq!(error(polled), SUPERSEDED);
    }
}

#[test]
fn what_an_overtaken_reader_read_is_not_lost_however_long() {
    let (_, mut newer) = overlapping(1, Poll::Ready(Some(Ok(data("to be")))));
    assert_eq!(text(rest(&mut newer)), "to be");
}

#[test]
fn two_threads_that_read_at_once_lose_nothing_and_nobody_hangs() {
    for _ in 0..200 {
        let (sender, body) = streaming();
        let request = kept(64, body);
        let copy = Cloned.replay(&request).unwrap();
        let readers = [request, copy].map(|request| {
            let body = request.into_body();
            std::thread::spawn(|| whole(body))
        });
        for part in ["to ", "be ", "or ", "not"] {
            sender.try_send(Ok(data(part))).unwrap();
            std::thread::yield_now();
        }
        drop(sender);
        let got = readers.map(|reader| reader.join().unwrap());
        // Whoever came last has the whole.
        assert!(got.iter().flatten().any(|body| body == "to be or not"));
    }
}

/// On a runtime of its own.
fn whole(body: ReplayBody<Streaming>) -> Result<Bytes, BoxError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.unwrap();
    runtime.block_on(async { Ok(body.collect().await?.to_bytes()) })
}

// A body that fails

#[test]
fn an_error_of_the_body_is_passed_on_as_it_is() {
    let (sender, body) = streaming();
    sender.try_send(Err(DiskGone)).unwrap();
    let polled = read(&mut task::spawn(kept(64, body).into_body()));
    let Poll::Ready(Some(Err(error))) = polled else {
        panic!("no error: {polled:?}");
    };
    assert!(error.is::<DiskGone>());
}

#[test]
fn a_body_that_failed_cannot_be_sent_again() {
    let (sender, body) = streaming();
    let request = kept(64, body);
    let copy = Idempotent.replay(&request).unwrap();
    sender.try_send(Err(DiskGone)).unwrap();
    rest(&mut task::spawn(request.into_body()));
    assert!(!Idempotent.replayable(&copy));
}

#[test]
fn a_body_that_panics_leaves_nobody_waiting() {
    let request = kept(
        64,
        Reentrant {
            meanwhile: Some(Box::new(|| panic!("in the body"))),
            answer: Poll::Pending,
        },
    );
    let copy = Cloned.replay(&request).unwrap();
    let mut older = task::spawn(request.into_body());
    let poll = std::panic::AssertUnwindSafe(|| read(&mut older));
    std::panic::catch_unwind(poll).unwrap_err();
    let polled = read(&mut task::spawn(copy.into_body()));
    assert_eq!(
        error(polled),
        "the request body cannot be sent again: it failed"
    );
}

#[test]
fn the_body_is_dropped_with_its_last_handle() {
    let (sender, body) = streaming();
    let request = kept(64, body);
    let extensions = request.extensions().clone();
    drop(request);
    assert!(sender.is_closed());
    drop(extensions);
}

#[test]
fn a_body_that_is_send_makes_one_that_is_send_sync_and_unpin() {
    fn shared<T: Send + Sync + Unpin>() {}
    shared::<ReplayBody<Streaming>>();
}

// Under a retry

/// The bodies that arrived.
type Log = Arc<Mutex<Vec<String>>>;

/// A callee that reads the whole body and answers 503 as often as this says.
fn failing<B>(
    times: usize,
    log: &Log,
) -> impl Service<Request<ReplayBody<B>>, Response = Response<()>, Error = Error<Infallible>>
+ Clone
+ use<B>
where
    B: Body + Send + 'static,
    B::Error: Into<BoxError>,
{
    let log = log.clone();
    service_fn(move |request: Request<ReplayBody<B>>| {
        let log = log.clone();
        async move {
            let body = request.into_body().collect().await;
            let body = body.map_or_else(|error| error.to_string().into(), Collected::to_bytes);
            let mut log = log.lock().unwrap();
            log.push(String::from_utf8(body.to_vec()).unwrap());
            let status = if log.len() > times { 200 } else { 503 };
            Ok(Response::builder().status(status).body(()).unwrap())
        }
    })
}

fn retrying() -> RetryBuilder<StatusClassifier> {
    RetryLayer::builder()
        .classify(StatusClassifier::default())
        .backoff(Backoff::constant(Duration::from_millis(10)))
}

/// The bodies that arrive of this one at a callee that fails twice.
async fn arrivals<R>(retry: RetryBuilder<StatusClassifier, R>, keep: usize) -> Vec<String>
where
    R: Replay<Request<ReplayBody<Streaming>>> + Clone,
{
    let log = Log::default();
    let callee = failing(2, &log);
    let retry = retry.build().unwrap();
    let service = ReplayBodyLayer::new().keep(keep).layer(retry.layer(callee));
    let request = Request::put("/").body(body_of(&["to ", "be"])).unwrap();
    service.oneshot(request).await.unwrap();
    std::mem::take(&mut log.lock().unwrap())
}

#[tokio::test(start_paused = true)]
async fn each_attempt_sends_the_whole_body() {
    assert_eq!(arrivals(retrying(), 64).await, ["to be"; 3]);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_too_long_is_sent_once() {
    assert_eq!(arrivals(retrying(), 4).await, ["to be"]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_gives_up_on_a_long_body_says_so() {
    assert_eq!(
        events::of(arrivals(retrying(), 4)).await,
        ["DEBUG buttress::retry gave_up attempt=1 verdict=\"transient\" reason=\"not_replayable\""]
    );
}

#[tokio::test(start_paused = true)]
async fn giving_up_on_a_long_body_costs_no_token() {
    let budget = Budget::builder().floor(1).reserve(0.0).build().unwrap();
    let retry = retrying().budget(budget.clone()).build().unwrap();
    let callee = failing(1, &Log::default());
    let service = ReplayBodyLayer::new().keep(4).layer(retry.layer(callee));
    let request = Request::put("/").body(body_of(&["to ", "be"])).unwrap();
    service.oneshot(request).await.unwrap();
    assert!(budget.try_withdraw().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_policy_of_ones_own_repeats_any_method_and_knows_of_long_bodies() {
    for (keep, sent) in [(64, 3), (4, 1)] {
        let every = |_: &Request<ReplayBody<Streaming>>| true;
        let sends = arrivals(retrying().replay(RepeatIf(every)), keep).await;
        assert_eq!(sends, vec!["to be"; sent]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_nothing_is_left_to_pay_for_lets_the_upload_go_on() {
    let budget = Budget::builder().floor(1).reserve(0.0).build().unwrap();
    budget.try_withdraw().unwrap().spend();
    let (_sender, body) = streaming();
    let upload = Arc::new(Mutex::new(None));
    let inside = upload.clone();
    let early = service_fn(move |request: Request<ReplayBody<Streaming>>| {
        *inside.lock().unwrap() = Some(task::spawn(request.into_body()));
        let response = Response::builder().status(503).body(()).unwrap();
        ready(Ok::<_, Error<Infallible>>(response))
    });
    let retry = retrying().budget(budget).build().unwrap();
    let service = ReplayBodyLayer::new().layer(retry.layer(early));
    service
        .oneshot(Request::put("/").body(body).unwrap())
        .await
        .unwrap();
    assert_pending!(read(upload.lock().unwrap().as_mut().unwrap()));
}

#[tokio::test(start_paused = true)]
async fn a_retry_carries_the_head_of_the_request_and_its_own_number() {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let log = heads.clone();
    let callee = service_fn(move |request: Request<ReplayBody<Streaming>>| {
        let (head, _) = request.into_parts();
        let answer = Attempt::of(&head.extensions).number();
        let tenant = head.extensions.get::<&str>().copied();
        let version = head.version;
        log.lock()
            .unwrap()
            .push((answer, tenant, version, head.headers));
        ready(Ok::<_, Error<Infallible>>(
            Response::builder().status(503).body(()).unwrap(),
        ))
    });
    let service = ReplayBodyLayer::new().layer(retrying().build().unwrap().layer(callee));
    let request = Request::put("/")
        .version(Version::HTTP_2)
        .header("x-of", "1");
    let request = request
        .extension("tenant")
        .body(body_of(&["to be"]))
        .unwrap();
    let headers = request.headers().clone();
    service.oneshot(request).await.unwrap();
    let expected = |n| (n, Some("tenant"), Version::HTTP_2, headers.clone());
    assert_eq!(*heads.lock().unwrap(), [1, 2, 3].map(expected));
}

// With hyper's client, on a socket

const VERSIONS: [Version; 2] = [Version::HTTP_11, Version::HTTP_2];

/// A request as the server got it.
#[derive(Clone, Debug)]
struct Got {
    headers: HeaderMap,
    data: Bytes,
    trailers: Option<HeaderMap>,
}

type Gots = Arc<Mutex<Vec<Got>>>;

/// What a server does with the first request; it reads all others and answers 200.
#[derive(Clone, Copy)]
enum First {
    /// Answers 503 when it has the whole.
    Refuse,
    /// Answers 503 when it has some of it.
    RefuseEarly,
    /// Reads some of it, and does not answer.
    Hang,
}

fn answer(status: u16) -> Answer {
    let body = Full::from("answer").boxed_unsync();
    Response::builder().status(status).body(body).unwrap()
}

async fn receive(request: Request<Incoming>, first: First, log: Gots, count: usize) -> Answer {
    let (head, mut body) = request.into_parts();
    if count == 0 && !matches!(first, First::Refuse) {
        body.frame().await.unwrap().unwrap();
        if matches!(first, First::Hang) {
            pending::<()>().await;
        }
        return answer(503);
    }
    let Ok(body) = body.collect().await else {
        return answer(400);
    };
    log.lock().unwrap().push(Got {
        headers: head.headers,
        trailers: body.trailers().cloned(),
        data: body.to_bytes(),
    });
    answer(if count == 0 { 503 } else { 200 })
}

struct Exchange {
    /// How many requests there were.
    sent: usize,
    /// Those that arrived whole.
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
    // Long where it is not to run out.
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

/// 128 KiB and trailers, which come little by little.
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
async fn an_upload_that_was_refused_is_sent_again_whole() {
    for version in VERSIONS {
        let exchange = exchange(version, First::Refuse, PLENTY, upload()).await;
        let lengths: Vec<_> = exchange.got.iter().map(|got| got.data.len()).collect();
        assert_eq!(lengths, [WHOLE; 2], "{version:?}");
    }
}

#[tokio::test]
async fn an_upload_that_is_sent_again_ends_in_its_trailers() {
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
async fn an_upload_that_was_refused_early_is_sent_again_whole() {
    for version in VERSIONS {
        let exchange = exchange(version, First::RefuseEarly, PLENTY, upload()).await;
        assert_eq!(exchange.outcome.unwrap(), 200, "{version:?}");
        assert_eq!(exchange.got[0].data.len(), WHOLE, "{version:?}");
    }
}

#[tokio::test]
async fn an_upload_that_was_refused_early_and_is_too_long_ends_in_the_refusal() {
    for version in VERSIONS {
        let exchange = exchange(version, First::RefuseEarly, 1, upload()).await;
        assert_eq!(exchange.outcome.unwrap(), 503, "{version:?}");
        assert_eq!(exchange.sent, 1, "{version:?}");
    }
}

#[tokio::test]
async fn an_upload_whose_attempt_timed_out_is_sent_again_whole() {
    for version in VERSIONS {
        let exchange = exchange(version, First::Hang, PLENTY, upload()).await;
        assert_eq!(exchange.outcome.unwrap(), 200, "{version:?}");
        assert_eq!(exchange.got[0].data.len(), WHOLE, "{version:?}");
    }
}

/// How each attempt was framed.
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
async fn a_body_of_known_length_is_sent_with_it_each_time() {
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
async fn an_empty_body_is_sent_as_none_each_time() {
    // As hyper sends a PUT without a body.
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
async fn a_stream_is_sent_in_chunks_each_time() {
    let chunked = Some(HeaderValue::from_static("chunked"));
    let framings = framings(Version::HTTP_11, upload()).await;
    assert_eq!(framings, [[None, chunked.clone()], [None, chunked]]);
}

#[tokio::test]
async fn a_request_that_found_no_connection_is_sent_again_whatever_its_size() {
    for version in VERSIONS {
        let got = Gots::default();
        let log = got.clone();
        // Not the first: that one is sent to where nobody listens.
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
