//! Replayed request bodies below a retry.

use super::{BoxError, Streaming, body_of, read, retrying, streaming};
use crate::events;
use buttress::http::{Attempt, RepeatIf, ReplayBody, ReplayBodyLayer, StatusClassifier};
use buttress::retry::{Budget, RetryBuilder};
use buttress::{Error, Replay};
use http::{Request, Response, Version};
use http_body::Body;
use http_body_util::{BodyExt, Collected};
use std::convert::Infallible;
use std::future::ready;
use std::sync::{Arc, Mutex};
use tokio_test::{assert_pending, task};
use tower::{Layer, Service, ServiceExt, service_fn};

/// The bodies that arrived.
type Log = Arc<Mutex<Vec<String>>>;

/// An upstream that reads the whole body. It responds with 503 this many times.
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

/// The bodies that arrive at an upstream that fails twice.
async fn arrivals<R>(retry: RetryBuilder<StatusClassifier, R>, keep: usize) -> Vec<String>
where
    R: Replay<Request<ReplayBody<Streaming>>> + Clone,
{
    let log = Log::default();
    let upstream = failing(2, &log);
    let retry = retry.build().unwrap();
    let service = ReplayBodyLayer::new()
        .keep(keep)
        .layer(retry.layer(upstream));
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
async fn a_call_that_cannot_replay_a_long_body_emits_an_event() {
    assert_eq!(
        events::of(arrivals(retrying(), 4)).await,
        ["DEBUG buttress::retry gave_up attempt=1 verdict=\"transient\" reason=\"not_replayable\""]
    );
}

#[tokio::test(start_paused = true)]
async fn a_long_body_that_cannot_be_replayed_costs_no_token() {
    let budget = Budget::builder().floor(1).reserve(0.0).build().unwrap();
    let retry = retrying().budget(budget.clone()).build().unwrap();
    let upstream = failing(1, &Log::default());
    let service = ReplayBodyLayer::new().keep(4).layer(retry.layer(upstream));
    let request = Request::put("/").body(body_of(&["to ", "be"])).unwrap();
    service.oneshot(request).await.unwrap();
    assert!(budget.try_withdraw().is_some());
}

#[tokio::test(start_paused = true)]
async fn repeat_if_repeats_any_method_but_no_body_that_is_too_long() {
    for (keep, sent) in [(64, 3), (4, 1)] {
        let every = |_: &Request<ReplayBody<Streaming>>| true;
        let sends = arrivals(retrying().replay(RepeatIf(every)), keep).await;
        assert_eq!(sends, vec!["to be"; sent]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_without_a_token_lets_the_upload_continue() {
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
async fn a_retry_carries_the_head_of_the_request_and_its_attempt_number() {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let log = heads.clone();
    let upstream = service_fn(move |request: Request<ReplayBody<Streaming>>| {
        let (head, _) = request.into_parts();
        let number = Attempt::of(&head.extensions).number();
        let tenant = head.extensions.get::<&str>().copied();
        let version = head.version;
        log.lock()
            .unwrap()
            .push((number, tenant, version, head.headers));
        ready(Ok::<_, Error<Infallible>>(
            Response::builder().status(503).body(()).unwrap(),
        ))
    });
    let service = ReplayBodyLayer::new().layer(retrying().build().unwrap().layer(upstream));
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
