//! The layers around a real axum server, over HTTP/1.1 and HTTP/2.
#![cfg(feature = "hyper-util")]

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::routing::get;
use buttress::http::{InExtensions, InTask, InboundDeadlineLayer, RespondLayer, stack};
use buttress::retry::Backoff;
use buttress::{
    CircuitBreakerLayer, Deadline, ErrorLayer, LoadShedLayer, Quota, RateLimitLayer, Rejection,
    TimeoutLayer,
};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tower::{Layer, ServiceBuilder};

const SECOND: Duration = Duration::from_secs(1);

async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

type Client = legacy::Client<legacy::connect::HttpConnector, Empty<Bytes>>;

/// A client that speaks this version of HTTP.
fn client(version: u8) -> Client {
    let mut client = legacy::Client::builder(TokioExecutor::new());
    client.http2_only(version == 2).build_http()
}

fn request(address: SocketAddr, path: &str) -> Request<Empty<Bytes>> {
    let request = Request::get(format!("http://{address}{path}"));
    request.body(Empty::new()).unwrap()
}

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(20);
    tokio::time::timeout(limit, work).await.expect("in time")
}

/// The status, `Retry-After` and body of a response.
async fn seen<B>(response: Response<B>) -> (u16, Option<String>, String)
where
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    let header = response.headers().get(RETRY_AFTER);
    let retry_after = header.map(|value| value.to_str().unwrap().to_owned());
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (
        status,
        retry_after,
        String::from_utf8(body.to_vec()).unwrap(),
    )
}

async fn hangs() {
    pending::<()>().await;
}

async fn hello() -> &'static str {
    "hello"
}

fn two<B>(_: &Request<B>) -> u32 {
    2
}

/// One route for each rejection. All routes reject their first call.
fn rejecting() -> Router {
    let timeout = ServiceBuilder::new()
        .layer(RespondLayer::new())
        .layer(TimeoutLayer::new(Duration::from_millis(20)))
        .layer(ErrorLayer);
    let deadline = TimeoutLayer::builder(SECOND).carrier(InExtensions);
    let deadline = ServiceBuilder::new()
        .layer(RespondLayer::new())
        .layer(InboundDeadlineLayer::new(Duration::ZERO))
        .layer(deadline.build().unwrap())
        .layer(ErrorLayer);
    let full = ServiceBuilder::new()
        .layer(RespondLayer::new())
        .layer(LoadShedLayer::builder(0).name("secret").build().unwrap())
        .layer(ErrorLayer);
    let used_up = RateLimitLayer::builder(Quota::at_most(1, 100 * SECOND)).name("secret");
    let used_up = used_up.build().unwrap();
    used_up.limiter().try_acquire(1).unwrap();
    let used_up = ServiceBuilder::new()
        .layer(RespondLayer::new())
        .layer(used_up)
        .layer(ErrorLayer);
    let costly = RateLimitLayer::builder(Quota::per_second(1).burst(1)).cost(two::<Body>);
    let costly = ServiceBuilder::new()
        .layer(RespondLayer::new())
        .layer(costly.build().unwrap())
        .layer(ErrorLayer);
    let open = CircuitBreakerLayer::builder().open_for(100 * SECOND);
    let open = open.name("secret").consecutive_failures(1).build().unwrap();
    let permit = open.circuit().try_acquire().unwrap();
    permit.settle(buttress::Verdict::TRANSIENT);
    let open = ServiceBuilder::new()
        .layer(RespondLayer::new())
        .layer(open)
        .layer(ErrorLayer);
    Router::new()
        .route("/timeout", get(hangs).layer(timeout))
        .route("/deadline", get(hangs).layer(deadline))
        .route("/full", get(hello).layer(full))
        .route("/used-up", get(hello).layer(used_up))
        .route("/costly", get(hello).layer(costly))
        .route("/open", get(hello).layer(open))
}

#[tokio::test]
async fn each_rejection_is_a_response_that_names_nothing() {
    let address = serve(rejecting()).await;
    for version in [1, 2] {
        let client = client(version);
        for (path, status) in [
            ("/timeout", 503),
            ("/deadline", 503),
            ("/full", 503),
            ("/used-up", 429),
            ("/costly", 429),
            ("/open", 503),
        ] {
            let response = in_time(client.request(request(address, path)))
                .await
                .unwrap();
            assert_eq!(response.headers()[CONTENT_LENGTH], "0", "{path}");
            assert!(!format!("{:?}", response.headers()).contains("secret"));
            let (found, retry_after, body) = seen(response).await;
            assert_eq!((found, body), (status, String::new()), "{path}");
            let seconds = retry_after.map(|seconds| seconds.parse::<u64>().unwrap());
            match path {
                // An open time is up to a tenth shorter than what is set.
                "/used-up" | "/open" => {
                    assert!(
                        seconds.is_some_and(|seconds| (80..=100).contains(&seconds)),
                        "{path}"
                    );
                }
                _ => assert_eq!(seconds, None, "{path}"),
            }
        }
    }
}

#[tokio::test]
async fn a_body_can_be_added_to_a_rejection() {
    fn problem(rejection: &Rejection, response: &mut Response<Body>) {
        assert!(matches!(rejection, Rejection::Overloaded { .. }));
        let problem = format!(r#"{{"status":{}}}"#, response.status().as_u16());
        *response.body_mut() = Body::from(problem);
        let json = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(CONTENT_TYPE, json);
    }
    let layers = ServiceBuilder::new()
        .layer(RespondLayer::with(problem))
        .layer(LoadShedLayer::new(0))
        .layer(ErrorLayer);
    let address = serve(Router::new().route("/", get(hello)).layer(layers)).await;
    let response = in_time(client(1).request(request(address, "/")))
        .await
        .unwrap();
    assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
    assert_eq!(
        seen(response).await,
        (503, None, r#"{"status":503}"#.to_owned())
    );
}

/// Counts the calls in its handler, and the most that were there at once.
#[derive(Clone, Default)]
struct Inside {
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

async fn stays(State(inside): State<Inside>) {
    let now = inside.now.fetch_add(1, SeqCst) + 1;
    inside.most.fetch_max(now, SeqCst);
    tokio::time::sleep(Duration::from_millis(1)).await;
    inside.now.fetch_sub(1, SeqCst);
}

#[tokio::test]
async fn all_connections_share_one_limit_and_every_call_gets_a_response() {
    for version in [1, 2] {
        let inside = Inside::default();
        let layers = ServiceBuilder::new()
            .layer(RespondLayer::new())
            .layer(LoadShedLayer::new(5))
            .layer(ErrorLayer);
        let app = Router::new().route("/", get(stays)).layer(layers);
        let address = serve(app.with_state(inside.clone())).await;
        let mut calls = Vec::new();
        for _ in 0..10 {
            let client = client(version); // a connection of its own
            calls.push(tokio::spawn(async move {
                let mut statuses = Vec::new();
                for _ in 0..100 {
                    let response = client.request(request(address, "/")).await.unwrap();
                    statuses.push(response.status().as_u16());
                }
                statuses
            }));
        }
        let mut statuses = Vec::new();
        for call in calls {
            statuses.extend(in_time(call).await.unwrap());
        }
        let count = |status| statuses.iter().filter(|found| **found == status).count();
        assert_eq!(count(200) + count(503), 1_000);
        assert!(count(503) > 0);
        assert_eq!(inside.most.load(SeqCst), 5);
    }
}

#[tokio::test]
async fn nested_routers_share_the_limit_of_one_layer() {
    let shed = LoadShedLayer::new(1);
    let limit = shed.limit().clone();
    let layers = ServiceBuilder::new()
        .layer(RespondLayer::new())
        .layer(shed)
        .layer(ErrorLayer);
    // With the state before the layers, and after them.
    let orders = Router::new()
        .route("/a", get(stays))
        .with_state(Inside::default());
    let users = Router::new().route("/b", get(stays));
    let app = Router::new()
        .nest("/orders", orders.layer(layers.clone()))
        .nest("/users", users.layer(layers).with_state(Inside::default()));
    let address = serve(app).await;
    let client = client(1);
    let status = async |path| {
        let response = in_time(client.request(request(address, path))).await;
        response.unwrap().status().as_u16()
    };
    assert_eq!(
        [status("/orders/a").await, status("/users/b").await],
        [200, 200]
    );
    let slot = limit.try_acquire().unwrap();
    assert_eq!(
        [status("/orders/a").await, status("/users/b").await],
        [503, 503]
    );
    drop(slot);
    assert_eq!(status("/users/b").await, 200);
}

#[tokio::test]
async fn a_server_of_hyper_takes_the_layers_as_well() {
    let layers = ServiceBuilder::new()
        .layer(RespondLayer::new())
        .layer(RateLimitLayer::from(Quota::at_most(1, 100 * SECOND)))
        .layer(ErrorLayer);
    let hello = tower::service_fn(|_: Request<hyper::body::Incoming>| async {
        Ok::<_, Infallible>(Response::new(String::from("hello")))
    });
    let service = layers.service(hello);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper_util::service::TowerToHyperService::new(service.clone());
            let connection = hyper::server::conn::http1::Builder::new();
            tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
        }
    });
    let mut statuses = Vec::new();
    for _ in 0..2 {
        let response = in_time(client(1).request(request(address, "/")))
            .await
            .unwrap();
        statuses.push(response.status().as_u16());
    }
    assert_eq!(statuses, [200, 429]);
}

#[tokio::test]
async fn a_caller_that_leaves_frees_its_slot() {
    let shed = LoadShedLayer::new(1);
    let limit = shed.limit().clone();
    let entered = Arc::new(Notify::new());
    let enters = entered.clone();
    let handler = move || async move {
        enters.notify_one();
        pending::<()>().await;
    };
    let layers = ServiceBuilder::new()
        .layer(RespondLayer::new())
        .layer(shed)
        .layer(ErrorLayer);
    let address = serve(Router::new().route("/", get(handler)).layer(layers)).await;
    for version in [1, 2] {
        let client = client(version);
        let call = tokio::spawn(async move { client.request(request(address, "/")).await });
        in_time(entered.notified()).await;
        assert_eq!(limit.in_flight(), 1);
        call.abort();
        in_time(async {
            while limit.in_flight() > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    // A connection that breaks is a caller that leaves.
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut stream, head)
        .await
        .unwrap();
    in_time(entered.notified()).await;
    drop(stream);
    in_time(async {
        while limit.in_flight() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[cfg(feature = "reqwest")]
#[tokio::test]
async fn a_client_with_the_stack_obeys_the_retry_after_of_a_server_with_the_layers() {
    let quota = Quota::at_most(1, Duration::from_millis(1_500));
    let limit = RateLimitLayer::builder(quota).max_wait(Duration::ZERO);
    let layers = ServiceBuilder::new()
        .layer(RespondLayer::new())
        .layer(limit.build().unwrap())
        .layer(ErrorLayer);
    let address = serve(Router::new().route("/", get(hello)).layer(layers)).await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let client = stack()
        .retry(|retry| retry.backoff(Backoff::constant(Duration::ZERO)))
        .service(http.clone());
    let client = client.unwrap();
    let start = tokio::time::Instant::now();
    for _ in 0..2 {
        let request = http.get(format!("http://{address}/")).build().unwrap();
        let response = in_time(client.clone().oneshot(request)).await.unwrap();
        assert_eq!(response.status(), 200);
    }
    // The second call was told to come back in 2 s: 1.5 s, rounded up.
    assert!(start.elapsed() >= 2 * SECOND, "{:?}", start.elapsed());
}

#[tokio::test]
async fn the_callers_time_ends_the_calls_that_the_handler_makes() {
    // The upstream never responds. The handler calls it through a stack, and reports what it got.
    let upstream = serve(Router::new().route("/", get(hangs))).await;
    let calls = stack().carrier(InTask).service(client(1)).unwrap();
    let handler = async move || {
        let outcome = calls.oneshot(request(upstream, "/")).await;
        outcome.unwrap_err().to_string()
    };
    let app = Router::new().route("/", get(handler));
    let address = serve(app.layer(InboundDeadlineLayer::new(30 * SECOND))).await;
    let mut request = request(address, "/");
    let header = HeaderValue::from_static("100");
    request.headers_mut().insert("x-request-timeout-ms", header);
    let response = in_time(client(1).request(request)).await.unwrap();
    let expected = (200, None, "deadline passed at timeout".to_owned());
    assert_eq!(seen(response).await, expected);
}

// The deadline of a request, on a paused clock

/// The time that the handler of this request has.
async fn time_left(layer: InboundDeadlineLayer, request: Request<()>) -> (Duration, Duration) {
    let handler = tower::service_fn(|request: Request<()>| async move {
        let carried: Deadline = *request.extensions().get().unwrap();
        let of_task = InTask::deadline().unwrap();
        Ok::<_, Infallible>((carried.remaining(), of_task.remaining()))
    });
    tower::ServiceExt::oneshot(layer.layer(handler), request)
        .await
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_header_shortens_the_time_and_never_lengthens_it() {
    let max = 10 * SECOND;
    for (values, expected) in [
        (&["250"][..], Duration::from_millis(250)),
        (&["0"], Duration::ZERO),
        (&["00000250"], Duration::from_millis(250)),
        (&["99999999"], max),
        (&["7000", "3000", "soon"], 3 * SECOND),
        (&[], max),
        (&[""], max),
        (&["soon"], max),
        (&["-1"], max),
        (&["+250"], max),
        (&["2.5"], max),
        (&[" 250"], max),
        (&["000000250"], max),
        (&["18446744073709551616"], max),
    ] {
        let mut request = Request::new(());
        for value in values {
            let value = HeaderValue::from_str(value).unwrap();
            request.headers_mut().append("x-request-timeout-ms", value);
        }
        let (carried, of_task) = time_left(InboundDeadlineLayer::new(max), request).await;
        assert_eq!([carried, of_task], [expected; 2], "{values:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_earlier_deadline_of_the_request_stays() {
    for (found, expected) in [(SECOND, SECOND), (20 * SECOND, 10 * SECOND)] {
        let mut request = Request::new(());
        request.extensions_mut().insert(Deadline::after(found));
        let layer = InboundDeadlineLayer::new(10 * SECOND);
        assert_eq!(time_left(layer, request).await, (expected, expected));
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_limit_and_a_header_the_deadline_never_passes() {
    let layer = InboundDeadlineLayer::new(Duration::MAX);
    let (carried, _) = time_left(layer, Request::new(())).await;
    assert_eq!(carried, Duration::MAX);
    let layer = InboundDeadlineLayer::new(Duration::MAX);
    let layer = layer.header(http::HeaderName::from_static("x-time"));
    let request = Request::get("/").header("x-time", "9").body(()).unwrap();
    let (carried, _) = time_left(layer, request).await;
    assert_eq!(carried, Duration::from_millis(9));
}

#[tokio::test(start_paused = true)]
async fn a_scope_within_a_scope_keeps_the_earlier_deadline() {
    let [soon, late] = [SECOND, 2 * SECOND].map(Deadline::after);
    for (outer, inner) in [(soon, late), (late, soon)] {
        let seen = InTask::scope(outer, async {
            InTask::scope(inner, async { InTask::deadline() }).await
        });
        assert_eq!(seen.await, Some(soon));
    }
    // The same without an `async` block around the inner scope.
    let seen = InTask::scope(soon, InTask::scope(late, async { InTask::deadline() }));
    assert_eq!(seen.await, Some(soon));
    assert_eq!(InTask::deadline(), None);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_of_a_task_holds_for_an_inbound_request() {
    let layer = InboundDeadlineLayer::new(10 * SECOND);
    let seen = InTask::scope(Deadline::after(SECOND), time_left(layer, Request::new(())));
    assert_eq!(seen.await, (SECOND, SECOND));
}

#[tokio::test(start_paused = true)]
async fn retry_sees_the_deadline_of_the_task() {
    let upstream = tower::service_fn(|_: Request<()>| async {
        let response = Response::builder().status(503).header(RETRY_AFTER, "5");
        Ok::<_, Infallible>(response.body(()).unwrap())
    });
    let client = stack().carrier(InTask).service(upstream).unwrap();
    let start = tokio::time::Instant::now();
    // The next attempt would come too late, so the caller gets the response at once.
    let call = async { client.oneshot(Request::new(())).await };
    let response = InTask::scope(Deadline::after(SECOND), call).await;
    assert_eq!(
        (response.unwrap().status().as_u16(), start.elapsed()),
        (503, Duration::ZERO)
    );
}

#[test]
fn a_rejected_call_to_an_upstream_is_a_503_or_a_504() {
    let by = buttress::Name::new("secret");
    let retry_after = Some(Duration::from_millis(1_001));
    for (rejection, status, seconds) in [
        (Rejection::TimedOut { after: SECOND, by }, 504, None),
        (Rejection::DeadlinePassed { by }, 504, None),
        (Rejection::CircuitOpen { retry_after, by }, 503, Some("2")),
        (Rejection::RateLimited { retry_after, by }, 503, Some("2")),
        (
            Rejection::RateLimited {
                retry_after: None,
                by,
            },
            503,
            None,
        ),
        (
            Rejection::TooCostly {
                cost: 2,
                burst: 1,
                by,
            },
            503,
            None,
        ),
        (Rejection::Overloaded { limit: 1, by }, 503, None),
    ] {
        assert_eq!(rejection.status(), status);
        let response = rejection.to_response::<String>();
        let header = response.headers().get(RETRY_AFTER);
        let found = header.map(|value| value.to_str().unwrap());
        assert_eq!(
            (response.status().as_u16(), found),
            (status, seconds),
            "{rejection}"
        );
        assert!(!format!("{response:?}").contains("secret"));
    }
    for (wait, seconds) in [
        (Duration::ZERO, "1"),
        (SECOND, "1"),
        (Duration::MAX, "18446744073709551615"),
    ] {
        let open = Rejection::CircuitOpen {
            retry_after: Some(wait),
            by,
        };
        assert_eq!(open.to_response::<String>().headers()[RETRY_AFTER], seconds);
    }
}
