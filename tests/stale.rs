//! Kept responses: what is kept, for how long, and when it is served.

use buttress::event::{Event, Observe};
use buttress::http::{Degraded, Stale, StaleBody, StaleBuilder, StaleLayer, stack};
use buttress::{Deadline, Error, ErrorLayer, Name, Rejection, Verdict};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full, StreamBody};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{advance, sleep};
use tower::util::BoxCloneService;
use tower::{Layer, ServiceExt, service_fn};

/// A body of frames, of which the last may be an error.
struct Frames(VecDeque<Result<Frame<Bytes>, io::Error>>);

impl Body for Frames {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Poll::Ready(self.0.pop_front())
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[expect(clippy::unnecessary_wraps, reason = "a frame may be an error")]
fn data(text: &'static str) -> Result<Frame<Bytes>, io::Error> {
    Ok(Frame::data(Bytes::from_static(text.as_bytes())))
}

fn frames(frames: impl Into<VecDeque<Result<Frame<Bytes>, io::Error>>>) -> Frames {
    Frames(frames.into())
}

type Client = BoxCloneService<Request<()>, Response<StaleBody<Frames>>, Error<io::Error>>;

/// The upstream's next response. If there is none, it is down.
#[derive(Clone, Default)]
struct Upstream(Arc<Mutex<Option<Response<Frames>>>>);

impl Upstream {
    fn next(&self, response: Response<Frames>) {
        *self.0.lock().unwrap() = Some(response);
    }

    fn responds(&self, headers: &[(&str, &str)], body: &'static str) {
        let mut response = Response::builder();
        for (name, value) in headers {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            response = response.header(*name, value);
        }
        self.next(response.body(frames([data(body)])).unwrap());
    }
}

fn client(builder: StaleBuilder) -> (Client, Upstream, Stale) {
    let upstream = Upstream::default();
    let next = upstream.clone();
    let layer = builder.build().unwrap();
    let service = service_fn(move |_: Request<()>| {
        let response = next.0.lock().unwrap().take();
        async move { response.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionRefused)) }
    });
    let service = layer.layer(ErrorLayer.layer(service));
    (
        BoxCloneService::new(service),
        upstream,
        layer.stale().clone(),
    )
}

fn get(uri: &str) -> Request<()> {
    Request::get(uri).body(()).unwrap()
}

/// The body of the response, if there is one.
async fn text(client: &Client, req: Request<()>) -> Result<String, Error<io::Error>> {
    let response = client.clone().oneshot(req).await?;
    let body = response
        .into_body()
        .collect()
        .await
        .map_err(Error::Service)?;
    Ok(String::from_utf8(body.to_bytes().to_vec()).unwrap())
}

const NEWS: &str = "http://news.internal/today?page=1";

/// Whether a response with these headers to such a request is served when the upstream is down.
async fn is_kept(headers: &[(&str, &str)], asked: &[(&str, &str)]) -> bool {
    let (client, upstream, _) = client(StaleLayer::builder());
    let req = || {
        let mut req = get(NEWS);
        for (name, value) in asked {
            let name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
            req.headers_mut().append(name, value.parse().unwrap());
        }
        req
    };
    upstream.responds(headers, "news");
    text(&client, req()).await.unwrap();
    text(&client, req()).await.is_ok()
}

#[tokio::test(start_paused = true)]
async fn a_good_response_is_served_while_the_upstream_fails() {
    let (client, upstream, stale) = client(StaleLayer::builder().name("news"));
    let events = Events::default();
    stale.observe(events.clone());
    text(&client, get(NEWS)).await.unwrap_err();
    upstream.responds(
        &[
            ("content-type", "text/plain"),
            ("age", "7"),
            ("connection", "x-hop"),
            ("x-hop", "1"),
        ],
        "news",
    );
    assert_eq!(text(&client, get(NEWS)).await.unwrap(), "news");
    advance(Duration::from_secs(5)).await;
    for _ in 0..2 {
        let response = client.clone().oneshot(get(NEWS)).await.unwrap();
        assert_eq!(
            (
                response.status().as_u16(),
                response.headers()["content-type"].as_bytes()
            ),
            (200, &b"text/plain"[..])
        );
        assert_eq!(response.headers()["age"], "12");
        assert!(
            !response.headers().contains_key("x-hop")
                && !response.headers().contains_key("connection")
        );
        let degraded = *response.extensions().get::<Degraded>().unwrap();
        assert_eq!(
            (degraded.because, degraded.age),
            (None, Some(Duration::from_secs(12)))
        );
        assert_eq!(response.body().size_hint().exact(), Some(4));
        assert_eq!(
            response.into_body().collect().await.unwrap().to_bytes(),
            "news"
        );
    }
    let snapshot = stale.snapshot();
    assert_eq!(
        (
            snapshot.entries,
            snapshot.bytes,
            snapshot.kept,
            snapshot.served
        ),
        (1, 4, 1, 2)
    );
    assert!(snapshot.degraded);
    upstream.responds(&[], "new");
    assert_eq!(text(&client, get(NEWS)).await.unwrap(), "new");
    assert_eq!(text(&client, get(NEWS)).await.unwrap(), "new");
    let name = Name::new("news");
    let verdict = Verdict::NOT_SENT;
    let served = |age| Event::ServedStale {
        name,
        verdict,
        age: Duration::from_secs(age),
    };
    let degraded = Event::Degraded { name, verdict };
    let expected = [
        degraded,
        served(12),
        served(12),
        Event::Restored { name },
        degraded,
        served(0),
    ];
    assert_eq!(events.0.lock().unwrap()[..], expected);
    stale.clear();
    text(&client, get(NEWS)).await.unwrap_err();
}

#[derive(Clone, Default)]
struct Events(Arc<Mutex<Vec<Event>>>);

impl Observe for Events {
    fn on_event(&self, event: &Event) {
        self.0.lock().unwrap().push(*event);
    }
}

#[tokio::test(start_paused = true)]
async fn what_must_not_be_kept_is_not() {
    assert!(is_kept(&[], &[]).await);
    for headers in [
        ("cache-control", "no-store"),
        ("cache-control", "max-age=9, No-Cache"),
        ("cache-control", "private"),
        ("cache-control", "must-revalidate"),
        ("cache-control", "s-maxage=60"),
        ("set-cookie", "a=b"),
        ("vary", "*"),
        ("content-length", "5"),
        ("content-length", "many"),
        ("trailer", "x"),
    ] {
        assert!(!is_kept(&[headers], &[]).await, "{headers:?}");
    }
    for asked in [
        ("cache-control", "no-store"),
        ("cache-control", "no-cache"),
        ("authorization", "Basic YTpi"),
        ("range", "bytes=0-1"),
    ] {
        assert!(!is_kept(&[], &[asked]).await, "{asked:?}");
    }
    assert!(
        is_kept(
            &[
                ("content-length", "4"),
                ("cache-control", "public, max-age=1")
            ],
            &[("accept", "text/html")]
        )
        .await
    );
    assert!(is_kept(&[("cache-control", "\u{e9}=\"no-store\", x")], &[]).await);
}

#[tokio::test(start_paused = true)]
async fn a_response_is_served_for_as_long_as_it_and_the_layer_allow() {
    for (builder, cache_control, seconds) in [
        (StaleLayer::builder(), "max-age=60", 3_600),
        (
            StaleLayer::builder().stale_for(Duration::from_secs(10)),
            "max-age=60, stale-if-error=600",
            10,
        ),
        (StaleLayer::builder(), "max-age=60, stale-if-error=600", 660),
        (
            StaleLayer::builder().stale_for(Duration::MAX),
            "stale-if-error=9",
            9,
        ),
    ] {
        let (client, upstream, _) = client(builder);
        upstream.responds(&[("cache-control", cache_control)], "news");
        text(&client, get(NEWS)).await.unwrap();
        advance(Duration::from_millis(seconds * 1_000 - 1)).await;
        assert!(text(&client, get(NEWS)).await.is_ok(), "{cache_control}");
        advance(Duration::from_millis(1)).await;
        assert!(text(&client, get(NEWS)).await.is_err(), "{cache_control}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_headers_that_it_varies_by_must_be_the_same() {
    let (client, upstream, _) = client(StaleLayer::builder());
    let with = |languages: &[&str]| {
        let mut req = get(NEWS);
        for language in languages {
            req.headers_mut()
                .append("accept-language", language.parse().unwrap());
        }
        req
    };
    upstream.responds(&[("vary", "Accept, accept-language")], "news");
    text(&client, with(&["en", "de"])).await.unwrap();
    assert!(text(&client, with(&["en", "de"])).await.is_ok());
    for other in [&["en"][..], &["de", "en"], &[], &["en", "de", "fr"]] {
        assert!(text(&client, with(other)).await.is_err(), "{other:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_uri_is_not_mistaken_for_another() {
    let (client, upstream, _) = client(StaleLayer::builder());
    upstream.responds(&[], "news");
    text(&client, get(NEWS)).await.unwrap();
    for other in [
        "http://news.internal/today?page=2",
        "http://news.internal/today",
        "https://news.internal/today?page=1",
        "http://news.internal:81/today?page=1",
        "/today?page=1",
    ] {
        assert!(text(&client, get(other)).await.is_err(), "{other}");
    }
    let of_host = |host: &str| {
        let req = Request::get("/today").header("host", host);
        req.body(()).unwrap()
    };
    upstream.responds(&[], "one");
    text(&client, of_host("one")).await.unwrap();
    assert!(text(&client, of_host("one")).await.is_ok());
    assert!(text(&client, of_host("two")).await.is_err());
    // An address in the URI, and a name in the header.
    let of_address = |host: &str| {
        let req = Request::get("http://10.0.0.7/today").header("host", host);
        req.body(()).unwrap()
    };
    upstream.responds(&[], "one");
    text(&client, of_address("one")).await.unwrap();
    assert!(text(&client, of_address("one")).await.is_ok());
    assert!(text(&client, of_address("two")).await.is_err());
    let post = Request::post(NEWS).body(()).unwrap();
    assert!(text(&client, post).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn another_success_drops_it_and_a_304_does_not() {
    for (status, kept) in [
        (404, false),
        (204, false),
        (301, false),
        (304, true),
        (500, true),
        (503, true),
    ] {
        let (client, upstream, _) = client(StaleLayer::builder());
        upstream.responds(&[], "news");
        text(&client, get(NEWS)).await.unwrap();
        upstream.next(Response::builder().status(status).body(frames([])).unwrap());
        text(&client, get(NEWS)).await.unwrap();
        assert_eq!(text(&client, get(NEWS)).await.is_ok(), kept, "{status}");
    }
    for (method, status, kept) in [
        ("PUT", 204, false),
        ("DELETE", 303, false),
        ("PUT", 404, true),
        ("HEAD", 200, true),
    ] {
        let (client, upstream, _) = client(StaleLayer::builder());
        upstream.responds(&[], "news");
        text(&client, get(NEWS)).await.unwrap();
        upstream.next(Response::builder().status(status).body(frames([])).unwrap());
        let req = Request::builder()
            .method(method)
            .uri(NEWS)
            .header("authorization", "Basic YTpi");
        text(&client, req.body(()).unwrap()).await.unwrap();
        assert_eq!(
            text(&client, get(NEWS)).await.is_ok(),
            kept,
            "{method} {status}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn credentials_are_never_mixed() {
    let (client, upstream, stale) = client(StaleLayer::builder().authorized());
    let of = |user: &str| {
        Request::get(NEWS)
            .header("authorization", user)
            .body(())
            .unwrap()
    };
    for user in ["Basic one", "Basic two"] {
        upstream.responds(
            &[("cache-control", "private")],
            if user.ends_with("one") { "1" } else { "2" },
        );
        text(&client, of(user)).await.unwrap();
    }
    assert_eq!(text(&client, of("Basic one")).await.unwrap(), "1");
    assert_eq!(text(&client, of("Basic two")).await.unwrap(), "2");
    assert!(text(&client, of("Basic three")).await.is_err());
    assert!(text(&client, get(NEWS)).await.is_err());
    assert!(!format!("{stale:?}").contains("Basic"));
    // A change by one user drops what was kept for all.
    upstream.responds(&[], "");
    let put = Request::put(NEWS)
        .header("authorization", "Basic three")
        .body(())
        .unwrap();
    text(&client, put).await.unwrap();
    assert!(text(&client, of("Basic one")).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_body_that_was_cut_left_or_too_long_is_not_kept() {
    let (client, upstream, stale) = client(StaleLayer::builder().max_body(4));
    let cut = || Err(io::Error::from(io::ErrorKind::ConnectionReset));
    let trailers = Ok(Frame::trailers(HeaderMap::new()));
    for body in [
        frames([data("ne"), cut()]),
        frames([data("new"), data("s!")]),
        frames([data("news"), trailers]),
    ] {
        upstream.next(Response::new(body));
        let _cut = text(&client, get(NEWS)).await;
        assert!(text(&client, get(NEWS)).await.is_err());
    }
    // Its reader leaves before the end.
    upstream.next(Response::new(frames([data("ne"), data("ws")])));
    let mut response = client.clone().oneshot(get(NEWS)).await.unwrap();
    response.body_mut().frame().await.unwrap().unwrap();
    drop(response);
    assert!(text(&client, get(NEWS)).await.is_err());
    // The longest that is kept, and an empty one.
    upstream.next(Response::new(frames([data("ne"), data("ws")])));
    text(&client, get(NEWS)).await.unwrap();
    assert_eq!(text(&client, get(NEWS)).await.unwrap(), "news");
    upstream.next(Response::new(frames([])));
    text(&client, get(NEWS)).await.unwrap();
    assert_eq!(text(&client, get(NEWS)).await.unwrap(), "");
    assert_eq!(stale.snapshot().bytes, 0);
}

#[tokio::test(start_paused = true)]
async fn the_first_caller_gets_the_body_as_it_comes() {
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
    let body = Mutex::new(Some(StreamBody::new(tokio_stream_of(receiver))));
    let service = service_fn(move |_: Request<()>| {
        let body = body.lock().unwrap().take().unwrap();
        async move { Ok::<_, Error<Infallible>>(Response::new(body)) }
    });
    let layer = StaleLayer::builder().build().unwrap();
    let response = layer.layer(service).oneshot(get(NEWS)).await.unwrap();
    let mut body = response.into_body();
    for part in ["one", "two"] {
        // The next part is sent only after the one before was received.
        sender
            .send(Ok(Frame::data(Bytes::from(part))))
            .await
            .unwrap();
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), part);
        assert_eq!(layer.stale().snapshot().entries, 0);
    }
    drop(sender);
    assert!(body.frame().await.is_none());
    assert_eq!(layer.stale().snapshot().bytes, 6);
}

fn tokio_stream_of<T>(
    mut receiver: tokio::sync::mpsc::Receiver<T>,
) -> impl tokio_stream::Stream<Item = T> + Unpin {
    struct Stream<F>(F);
    impl<T, F: FnMut(&mut Context<'_>) -> Poll<Option<T>> + Unpin> tokio_stream::Stream for Stream<F> {
        type Item = T;

        fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
            (self.0)(cx)
        }
    }
    Stream(move |cx: &mut Context<'_>| receiver.poll_recv(cx))
}

#[tokio::test(start_paused = true)]
async fn memory_is_bounded_and_what_is_used_stays() {
    let (client, upstream, stale) = client(StaleLayer::builder().keep(100).max_body(8));
    upstream.responds(&[], "popular");
    text(&client, get("http://news.internal/popular"))
        .await
        .unwrap();
    for n in 0..1_000_000 {
        upstream.responds(&[], "12345678");
        text(&client, get(&format!("http://news.internal/{n}")))
            .await
            .unwrap();
        if n % 50 == 0 {
            // Used now and then.
            let popular = text(&client, get("http://news.internal/popular")).await;
            assert_eq!(popular.unwrap(), "popular");
        }
    }
    let snapshot = stale.snapshot();
    assert_eq!(snapshot.entries, 100);
    assert_eq!(snapshot.bytes, 99 * 8 + 7);
}

#[tokio::test(start_paused = true)]
async fn a_hundred_pages_are_answered_while_the_upstream_is_down_for_a_minute() {
    let is_up = Arc::new(Mutex::new(true));
    let up = is_up.clone();
    let upstream = service_fn(move |req: Request<()>| {
        let is_up = *up.lock().unwrap();
        async move {
            if !is_up {
                sleep(Duration::from_millis(100)).await;
                return Err(io::Error::from(io::ErrorKind::ConnectionRefused));
            }
            Ok(Response::new(Full::new(Bytes::from(
                req.uri().path().to_owned(),
            ))))
        }
    });
    let layer = StaleLayer::builder().build().unwrap();
    let service = layer.layer(stack().service(upstream).unwrap());
    let page = |n: u32| get(&format!("http://news.internal/{n}"));
    for n in 0..100 {
        let response = service.clone().oneshot(page(n)).await.unwrap();
        response.into_body().collect().await.unwrap();
    }
    *is_up.lock().unwrap() = false;
    let mut open = 0;
    for second in 0..60 {
        let calls = (0..100).map(|n| {
            let call = service.clone().oneshot(page(n));
            tokio::spawn(async move {
                let response = call.await.unwrap();
                let degraded = *response.extensions().get::<Degraded>().unwrap();
                let body = response.into_body().collect().await.unwrap().to_bytes();
                assert_eq!(body, format!("/{n}"));
                matches!(degraded.because, Some(Rejection::CircuitOpen { .. }))
            })
        });
        for call in calls.collect::<Vec<_>>() {
            open += usize::from(call.await.unwrap());
        }
        advance(Duration::from_millis(900 - second)).await;
    }
    assert_eq!(layer.stale().snapshot().served, 6_000);
    assert!(open > 5_000, "{open}");
}

#[tokio::test(start_paused = true)]
async fn a_caller_whose_deadline_has_passed_gets_no_old_response() {
    let hangs = Arc::new(Mutex::new(false));
    let hang = hangs.clone();
    let upstream = service_fn(move |_: Request<()>| {
        let hangs = *hang.lock().unwrap();
        async move {
            if hangs {
                pending::<()>().await;
            }
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"news"))))
        }
    });
    let layer = StaleLayer::builder().build().unwrap();
    let service = layer.layer(stack().service(upstream).unwrap());
    let response = service.clone().oneshot(get(NEWS)).await.unwrap();
    response.into_body().collect().await.unwrap();
    *hangs.lock().unwrap() = true;
    let mut late = get(NEWS);
    late.extensions_mut()
        .insert(Deadline::after(Duration::from_secs(1)));
    let error = service.clone().oneshot(late).await.err().unwrap();
    assert!(matches!(
        error,
        Error::Rejected(Rejection::DeadlinePassed { .. })
    ));
    // The stack's own deadline is a failure of the upstream.
    let response = service.oneshot(get(NEWS)).await.unwrap();
    let degraded = response.extensions().get::<Degraded>().unwrap();
    assert!(matches!(degraded.because, Some(Rejection::TimedOut { .. })));
}

#[test]
fn a_layer_that_keeps_nothing_is_refused() {
    let error = StaleLayer::builder().keep(0).build().unwrap_err();
    assert_eq!(error.field(), "keep");
}

#[tokio::test]
async fn the_default_body_is_empty() {
    let mut body = StaleBody::<Frames>::default();
    assert!(body.is_end_stream());
    assert!(
        poll_fn(|cx| Pin::new(&mut body).poll_frame(cx))
            .await
            .is_none()
    );
}

#[tokio::test(start_paused = true)]
async fn a_registry_shows_how_often_it_served() {
    let (client, upstream, stale) = client(StaleLayer::builder().name("news"));
    let registry = buttress::observe::Registry::new();
    registry.add(&stale);
    upstream.responds(&[], "news");
    for _ in 0..3 {
        text(&client, get(NEWS)).await.unwrap();
    }
    let text = registry.text();
    assert!(
        text.contains("buttress_fallbacks_total{name=\"news\"} 2\n"),
        "{text}"
    );
    assert!(
        text.contains("buttress_degraded{name=\"news\"} 1\n"),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_announced_length_takes_no_memory() {
    struct Huge(Frames);

    impl Body for Huge {
        type Data = Bytes;
        type Error = io::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
            Pin::new(&mut self.0).poll_frame(cx)
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(u64::MAX / 4)
        }
    }

    let layer = StaleLayer::builder().max_body(usize::MAX).build().unwrap();
    let service = layer.layer(service_fn(|_: Request<()>| async {
        Ok::<_, Error<io::Error>>(Response::new(Huge(frames([data("news")]))))
    }));
    let response = service.oneshot(get(NEWS)).await.unwrap();
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        "news"
    );
}

/// Real sockets and the client of hyper-util: the upstream is well, then slow, then fails.
#[cfg(feature = "hyper-util")]
#[tokio::test]
async fn with_a_real_client_an_old_response_stands_for_a_slow_upstream() {
    use axum::Router;
    use axum::routing::get;
    use buttress::FallbackLayer;
    use buttress::fallback::Failed;
    use http_body_util::Empty;
    use hyper::body::Incoming;
    use hyper_util::client::legacy::{Client, Error as ClientError};
    use hyper_util::rt::TokioExecutor;
    use std::sync::atomic::{AtomicU8, Ordering::SeqCst};

    type Fails = Failed<Request<Empty<Bytes>>, Response<Incoming>, Error<ClientError>>;

    let mood = Arc::new(AtomicU8::new(0));
    let now = mood.clone();
    let news = move || {
        let mood = now.load(SeqCst);
        async move {
            if mood == 1 {
                sleep(Duration::from_secs(60)).await;
            }
            (
                axum::http::StatusCode::from_u16([200, 200, 503][usize::from(mood)]).unwrap(),
                "news",
            )
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/", listener.local_addr().unwrap());
    let app = Router::new().route("/", get(news));
    tokio::spawn(async move { axum::serve(listener, app).await });

    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let stack = || stack().deadline(Duration::from_millis(300));
    let stale = StaleLayer::builder().build().unwrap();
    let service = stale.layer(stack().service(client.clone()).unwrap());
    let request = || Request::get(&uri).body(Empty::new()).unwrap();
    // A caller that leaves early keeps nothing.
    let mut left = service
        .clone()
        .oneshot(request())
        .await
        .unwrap()
        .into_body();
    drop(left.frame());
    drop(left);
    assert_eq!(stale.stale().snapshot().entries, 0);
    for (mood_now, degraded) in [(0, false), (1, true), (2, true)] {
        mood.store(mood_now, SeqCst);
        let response = service.clone().oneshot(request()).await.unwrap();
        assert_eq!(response.extensions().get::<Degraded>().is_some(), degraded);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "news");
    }
    // A fallback sees the real error, and answers within the deadline.
    mood.store(1, SeqCst);
    let answer = |failed: Fails| async move {
        assert!(matches!(failed.rejection, Some(Rejection::TimedOut { .. })));
        assert!(failed.req.is_some());
        failed.outcome
    };
    let fallback = stack()
        .fallback(FallbackLayer::new(answer))
        .build()
        .unwrap();
    let error = fallback.layer(client).oneshot(request()).await.unwrap_err();
    assert!(matches!(error, Error::Rejected(Rejection::TimedOut { .. })));
    assert_eq!(fallback.fallback().snapshot().failed, 1);
}
