//! gRPC: verdicts of every code, and the stack around tonic's channel, against real servers.
#![cfg(feature = "http-body")]

#[path = "support/frames.rs"]
#[expect(dead_code, reason = "other tests need more")]
mod frames;
#[path = "support/grpc.rs"]
mod grpc_server;

use buttress::circuit_breaker::CircuitState;
use buttress::grpc::{
    self, Code, Methods, PeekTrailersLayer, StatusClassifier, TimeoutHeaderLayer,
};
use buttress::http::{ReplayBody, StackBuilder};
use buttress::retry::Backoff;
use buttress::verdict::{RetryAfter, Sent};
use buttress::{Classify, Deadline, Error, LoadShedLayer, Quota, Verdict};
use bytes::Bytes;
use frames::Frames;
use grpc_server::{Raw, Server, get, seven};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use tokio::net::TcpListener;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tower::{Layer, ServiceExt, service_fn};

const SECOND: Duration = Duration::from_secs(1);

type Outcome = Result<Response<()>, Error<std::io::Error>>;

fn judge<B>(response: &Response<B>) -> Verdict {
    StatusClassifier::default().classify(Ok::<_, &Error<std::io::Error>>(response))
}

const fn transient(retry_after: RetryAfter) -> Verdict {
    let sent = Sent::Unknown;
    Verdict::Transient { retry_after, sent }
}

/// A response that has these fields in its head, or in trailers right after it.
async fn with_fields(fields: &[(&'static str, &str)], in_trailers: bool) -> Response<()> {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.insert(*name, HeaderValue::from_str(value).unwrap());
    }
    let mut response = Response::new(());
    if !in_trailers {
        *response.headers_mut() = headers;
        return response;
    }
    let peek = PeekTrailersLayer.layer(service_fn(move |_: Request<()>| {
        let frames = [Ok::<_, Infallible>(Frame::<Bytes>::trailers(
            headers.clone(),
        ))];
        let body = StreamBody::new(tokio_stream::iter(frames));
        async move { Ok::<_, Infallible>(Response::new(body)) }
    }));
    let response = peek.oneshot(Request::new(())).await.unwrap();
    let (head, body) = response.into_parts();
    // The reader of the body gets the trailers as well.
    let trailers = body.collect().await.unwrap().trailers().cloned().unwrap();
    assert_eq!(trailers.len(), fields.len());
    Response::from_parts(head, ())
}

#[tokio::test]
async fn every_code_has_its_verdict_in_the_head_and_in_trailers() {
    let throttled = Verdict::THROTTLED;
    let transient = Verdict::TRANSIENT;
    let expected = [
        (0, Verdict::Healthy),
        (1, Verdict::Ignored),
        (2, Verdict::Permanent),
        (3, Verdict::Healthy),
        (4, transient),
        (5, Verdict::Healthy),
        (6, Verdict::Healthy),
        (7, Verdict::Healthy),
        (8, throttled),
        (9, Verdict::Healthy),
        (10, Verdict::Healthy),
        (11, Verdict::Healthy),
        (12, Verdict::Healthy),
        (13, Verdict::Permanent),
        (14, transient),
        (15, Verdict::Permanent),
        (16, Verdict::Healthy),
        (17, Verdict::Permanent), // not a code: `UNKNOWN`
    ];
    for in_trailers in [false, true] {
        for (number, verdict) in expected {
            let response = with_fields(&[("grpc-status", &number.to_string())], in_trailers).await;
            assert_eq!(
                judge(&response),
                verdict,
                "{number}, in trailers: {in_trailers}"
            );
            let code: &'static [Code] = Box::leak(Box::new([Code::from(number)]));
            let all = StatusClassifier::default().retryable(code);
            let verdict = all.judge_response(&response);
            assert_eq!(verdict, Verdict::TRANSIENT, "{number}");
        }
        for garbage in ["", "-1", "007", "14 ", "unavailable"] {
            let response = with_fields(&[("grpc-status", garbage)], in_trailers).await;
            assert_eq!(judge(&response), Verdict::Permanent, "{garbage:?}");
        }
    }
}

#[tokio::test]
async fn a_pushback_sets_the_wait_or_ends_the_call() {
    // A `google.rpc.Status` with a `RetryInfo` of 7 s.
    let details = "CA4aMAoodHlwZS5nb29nbGVhcGlzLmNvbS9nb29nbGUucnBjLlJldHJ5SW5mbxIECgIIBw==";
    let pushback = "grpc-retry-pushback-ms";
    let after = |millis| RetryAfter::Delay(Duration::from_millis(millis));
    for in_trailers in [false, true] {
        for (status, field, value, expected) in [
            ("14", pushback, "250", transient(after(250))),
            ("14", pushback, "0", transient(after(0))),
            ("14", pushback, "-1", Verdict::Permanent),
            ("14", pushback, "soon", Verdict::Permanent),
            (
                "14",
                "grpc-status-details-bin",
                details,
                transient(after(7_000)),
            ),
            (
                "14",
                "grpc-status-details-bin",
                "!",
                transient(RetryAfter::None),
            ),
            (
                "8",
                pushback,
                "250",
                Verdict::Throttled {
                    retry_after: after(250),
                },
            ),
            ("8", pushback, "-1", Verdict::Ignored),
            ("0", pushback, "-1", Verdict::Healthy),
        ] {
            let fields = [("grpc-status", status), (field, value)];
            let response = with_fields(&fields, in_trailers).await;
            assert_eq!(judge(&response), expected, "{status}, {field}: {value}");
        }
    }
}

#[test]
fn an_http_status_counts_if_there_is_no_grpc_status() {
    for (status, expected) in [
        (200, Verdict::Healthy),
        (400, Verdict::Permanent),
        (401, Verdict::Permanent),
        (403, Verdict::Permanent),
        (404, Verdict::Permanent),
        (429, Verdict::TRANSIENT),
        (500, Verdict::Permanent),
        (502, Verdict::TRANSIENT),
        (503, Verdict::TRANSIENT),
        (504, Verdict::TRANSIENT),
    ] {
        let response = Response::builder().status(status);
        assert_eq!(judge(&response.body(()).unwrap()), expected, "{status}");
    }
    let response = Response::builder().status(503).header("grpc-status", "0");
    assert_eq!(judge(&response.body(()).unwrap()), Verdict::Healthy);
}

#[tokio::test]
async fn an_end_without_a_status_is_unknown() {
    let peek = PeekTrailersLayer.layer(service_fn(|_: Request<()>| async {
        Ok::<_, Infallible>(Response::new(http_body_util::Empty::<Bytes>::new()))
    }));
    assert_eq!(
        judge(&peek.oneshot(Request::new(())).await.unwrap()),
        Verdict::Permanent
    );
}

#[tokio::test]
async fn a_refused_connection_is_known_not_to_be_processed() {
    let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
    let outcome: Outcome = Err(Error::Service(refused));
    let verdict = StatusClassifier::default().classify(outcome.as_ref());
    assert_eq!(verdict, Verdict::NOT_SENT);
}

// Around tonic's channel

fn quick() -> StackBuilder<StatusClassifier, Methods> {
    let backoff = Backoff::constant(Duration::from_millis(1));
    grpc::stack()
        .name("orders")
        .retry(|retry| retry.backoff(backoff))
}

type Around = grpc::Channel<Channel, fn(ReplayBody<Body>) -> Body>;

fn around(stack: StackBuilder<StatusClassifier, Methods>, channel: Channel) -> Around {
    grpc::service(&stack.build().unwrap(), channel, Body::new)
}

fn every_method() -> Methods {
    Methods::new().retry("/")
}

#[tokio::test]
async fn an_unavailable_call_is_sent_again_if_its_method_may_be() {
    for (methods, sends) in [
        (every_method(), 3),
        (Methods::new(), 1),
        (every_method().never("/orders.Orders/Get"), 1),
        (
            every_method()
                .never("/orders.Orders/G")
                .retry("/orders.Orders/Get"),
            3,
        ),
    ] {
        let server = Server::new(|number, request| {
            let previous = request.metadata().get("grpc-previous-rpc-attempts");
            let previous = previous.map(|value| value.to_str().unwrap().to_owned());
            let expected = (number > 1).then(|| (number - 1).to_string());
            assert_eq!(previous, expected);
            if number < 3 {
                return Err(tonic::Status::unavailable("restarting"));
            }
            Ok(request.into_inner())
        });
        let client = around(quick().replay(methods), server.channel());
        let outcome = get(&client, seven()).await;
        assert_eq!(server.calls(), sends);
        if sends == 3 {
            assert_eq!(outcome.unwrap(), "seven");
        } else {
            assert_eq!(outcome.unwrap_err().code(), tonic::Code::Unavailable);
        }
    }
}

/// The stub of tonic, with a service config in place of `Methods`.
#[cfg(feature = "grpc-config")]
#[tokio::test]
async fn a_service_config_sets_the_codes_and_the_time_of_a_method() {
    let config = r#"{"methodConfig": [{
        "name": [{"service": "orders.Orders", "method": "Get"}],
        "timeout": "0.9s",
        "retryPolicy": {
            "maxAttempts": 3,
            "initialBackoff": "0.001s",
            "maxBackoff": "0.001s",
            "backoffMultiplier": 1,
            "retryableStatusCodes": ["ABORTED"]
        }
    }]}"#;
    let config = grpc::ServiceConfig::from_json(config).unwrap();
    for (code, sends) in [(tonic::Code::Aborted, 3), (tonic::Code::Unavailable, 1)] {
        let server = Server::new(move |number, request| {
            let told = request.metadata().get("grpc-timeout").unwrap();
            let micros = told.to_str().unwrap().strip_suffix('u').unwrap();
            assert!(micros.parse::<u64>().unwrap() <= 900_000);
            if number < 3 {
                return Err(tonic::Status::new(code, "busy"));
            }
            Ok(request.into_inner())
        });
        let stack = config.stack().build().unwrap();
        let client = grpc::service(&stack, server.channel(), Body::new);
        let outcome = get(&config.layer(client), seven()).await;
        assert_eq!(outcome.is_ok(), sends == 3, "{outcome:?}");
        assert_eq!(server.calls(), sends);
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable_and_opens_the_circuit() {
    let server = Server::failing_first(0);
    let channel = server.channel();
    drop(server);
    let stack = quick().circuit_breaker(|breaker| breaker.consecutive_failures(3));
    let client = around(stack, channel);
    // Nothing was sent: the call is repeated whatever its method, within the budget.
    let status = get(&client, seven()).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable);
    let status = get(&client, seven()).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable);
    assert!(
        status
            .message()
            .starts_with(r#"circuit "orders" open, retry in"#),
        "{status:?}"
    );
    let pushback = status.metadata().get("grpc-retry-pushback-ms").unwrap();
    let millis: u64 = pushback.to_str().unwrap().parse().unwrap();
    assert!((1..=500).contains(&millis), "{millis}");
}

#[tokio::test]
async fn each_rejection_reaches_the_stub_as_its_code() {
    let server = Server::failing_first(0);
    let one = Quota::at_most(1, 100 * SECOND);
    let hangs = Endpoint::from_shared(format!("http://{}", black_hole().await));
    for (stack, channel, code, message) in [
        (
            quick().rate_limit(one),
            server.channel(),
            tonic::Code::ResourceExhausted,
            r#"rate limit "orders" reached, retry in"#,
        ),
        (
            quick().load_shed(0),
            server.channel(),
            tonic::Code::Unavailable,
            r#"load shed "orders" full, at most 0 calls in flight"#,
        ),
        (
            quick().deadline(Duration::from_millis(50)),
            hangs.unwrap().connect_lazy(),
            tonic::Code::DeadlineExceeded,
            r#"timeout "orders" ran out after 50ms"#,
        ),
    ] {
        let client = around(stack, channel);
        let _first = get(&client, seven()).await;
        let status = get(&client, seven()).await.unwrap_err();
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().starts_with(message), "{status:?}");
    }
}

/// Accepts connections and never responds.
async fn black_hole() -> std::net::SocketAddr {
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
async fn an_interceptor_goes_around_the_stack() {
    let server = Server::failing_first(0);
    let client = around(quick(), server.channel());
    let accepts = |request: tonic::Request<()>| Ok(request);
    let client = tonic::service::interceptor::InterceptedService::new(client, accepts);
    assert_eq!(get(&client, seven()).await.unwrap(), "seven");
}

#[tokio::test]
async fn a_server_of_tonic_or_axum_takes_the_layers_as_well() {
    let layers = tower::ServiceBuilder::new()
        .layer(grpc::respond())
        .layer(LoadShedLayer::new(0))
        .layer(buttress::ErrorLayer);
    let routes = axum::Router::new().route("/orders.Orders/Get", axum::routing::post(""));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, routes.layer(layers)).await });
    let channel = Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .connect_lazy();
    let status = get(&channel, seven()).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable);
    assert_eq!(
        status.message(),
        "load shed full, at most 0 calls in flight"
    );
}

#[tokio::test]
async fn the_upstream_is_told_how_much_time_is_left() {
    let server = Server::new(|_, request| {
        let timeout = request.metadata().get("grpc-timeout").unwrap();
        Ok(Bytes::copy_from_slice(timeout.as_bytes()))
    });
    let client = around(quick(), server.channel());
    let mut request = seven();
    request.extensions_mut().insert(Deadline::after(SECOND));
    let told = get(&client, request).await.unwrap();
    let (micros, unit) = told.split_at(told.len() - 1);
    assert_eq!(unit, b"u");
    let micros: u64 = std::str::from_utf8(micros).unwrap().parse().unwrap();
    assert!((900_000..1_000_000).contains(&micros), "{micros}");
}

#[tokio::test(start_paused = true)]
async fn a_shorter_timeout_of_the_call_stays_and_two_hops_keep_one_deadline() {
    let seen = |request: Request<()>| {
        let timeout = request.headers().get("grpc-timeout").cloned();
        std::future::ready(Ok::<_, Infallible>(timeout))
    };
    let client = TimeoutHeaderLayer.layer(service_fn(seen));
    for (deadline, header, expected) in [
        (Some(SECOND), None, Some("1000000u")),
        (Some(SECOND), Some("5S"), Some("1000000u")),
        (Some(SECOND), Some("250m"), Some("250m")),
        (Some(SECOND), Some("soon"), Some("1000000u")),
        (None, Some("250m"), Some("250m")),
        (None, None, None),
        (Some(Duration::MAX), None, None),
    ] {
        let mut request = Request::new(());
        if let Some(deadline) = deadline {
            request.extensions_mut().insert(Deadline::after(deadline));
        }
        if let Some(header) = header {
            let header = HeaderValue::from_static(header);
            request.headers_mut().insert("grpc-timeout", header);
        }
        let found = client.clone().oneshot(request).await.unwrap();
        let found = found.as_ref().map(|value| value.to_str().unwrap());
        assert_eq!(found, expected, "{deadline:?}, {header:?}");
    }

    // The second hop is told what the first was told, less the time that passed.
    let second = client.clone();
    let first =
        grpc::inbound_deadline(10 * SECOND).layer(service_fn(move |request: Request<()>| {
            let second = second.clone();
            let mut call = Request::new(());
            let deadline: Deadline = *request.extensions().get().unwrap();
            call.extensions_mut().insert(deadline);
            async move {
                tokio::time::advance(Duration::from_millis(300)).await;
                second.oneshot(call).await
            }
        }));
    let request = Request::builder()
        .header("grpc-timeout", "1S")
        .body(())
        .unwrap();
    let told = first.oneshot(request).await.unwrap().unwrap();
    assert_eq!(told, "700000u");
}

/// How a server that is written frame by frame ends its first two calls. It responds to the third.
#[derive(Clone, Copy)]
enum Ends {
    /// By trailers that arrive with the head.
    AtOnce,
    /// By trailers that arrive later.
    Late,
    /// By trailers after a message.
    AfterAMessage,
    /// Without trailers: the stream is reset.
    Never,
}

async fn unavailable(ends: Ends) -> (Channel, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    tokio::spawn(async move {
        let mut connection = Frames::accept(&listener).await?;
        loop {
            let id = connection.request().await?;
            if counted.fetch_add(1, SeqCst) == 2 {
                connection.head(id).await?;
                connection.message(id, b"seven").await?;
                connection.trailers(id, "0").await?;
                continue;
            }
            match ends {
                Ends::AtOnce => connection.head_and_trailers(id, "14").await?,
                Ends::Late => {
                    connection.head(id).await?;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    connection.trailers(id, "14").await?;
                }
                Ends::AfterAMessage => {
                    connection.head(id).await?;
                    connection.message(id, b"half").await?;
                    connection.trailers(id, "14").await?;
                }
                Ends::Never => {
                    connection.head(id).await?;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    connection.reset(id, 2).await?;
                }
            }
        }
        #[expect(unreachable_code, reason = "names the type of the error")]
        Ok::<_, std::io::Error>(())
    });
    let endpoint = Endpoint::from_shared(format!("http://{address}"));
    (endpoint.unwrap().connect_lazy(), calls)
}

#[tokio::test]
async fn a_status_in_trailers_is_retried_if_it_comes_with_the_head_and_never_after_a_message() {
    for (ends, sends, code) in [
        (Ends::AtOnce, 3, None),
        (Ends::Late, 1, Some(tonic::Code::Unavailable)),
        (Ends::AfterAMessage, 1, Some(tonic::Code::Unavailable)),
        (Ends::Never, 1, Some(tonic::Code::Internal)),
    ] {
        let (channel, calls) = unavailable(ends).await;
        let stack = quick().replay(every_method());
        let client = around(stack, channel);
        let outcome = get(&client, seven()).await;
        assert_eq!(outcome.as_ref().err().map(tonic::Status::code), code);
        assert_eq!(calls.load(SeqCst), sends, "{outcome:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_neither_buffered_nor_delayed() {
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
    let body = StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(receiver));
    let body = std::sync::Mutex::new(Some(body));
    let peek = PeekTrailersLayer.layer(service_fn(|_: Request<()>| {
        let body = body.lock().unwrap().take().unwrap();
        async move { Ok::<_, Infallible>(Response::new(body)) }
    }));
    // The head is there before any message is.
    let response = peek.oneshot(Request::new(())).await.unwrap();
    let mut body = response.into_body();
    for message in ["one", "two"] {
        sender.send(Ok(Frame::data(message.into()))).await.unwrap();
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), message);
    }
    drop(sender);
    assert!(body.frame().await.is_none());
}

#[tokio::test]
async fn until_its_trailers_a_stream_holds_its_slot_and_its_verdict() {
    let (channel, _) = unavailable(Ends::AfterAMessage).await;
    let stack = quick().no_retry().load_shed(1).until(grpc::UntilTrailers);
    let stack = stack.circuit_breaker(|breaker| breaker.consecutive_failures(2));
    let stack = stack.build().unwrap();
    let client = grpc::service(&stack, channel, Body::new);
    let circuit = stack.circuit().unwrap();
    for _ in 0..2 {
        assert_eq!(circuit.state(), CircuitState::Closed);
        let status = get(&client, seven()).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::Unavailable);
        assert_eq!(stack.limit().unwrap().in_flight(), 0);
    }
    assert_eq!(circuit.state(), CircuitState::Open);
}

#[tokio::test]
async fn two_stubs_of_one_stack_share_its_budget() {
    let server = Server::new(|_, _| Err(tonic::Status::unavailable("restarting")));
    let stack = quick().replay(every_method()).build().unwrap();
    for sends in [3, 4, 5] {
        // A stub of its own, around a channel of its own.
        let client = grpc::service(&stack, server.channel(), Body::new);
        get(&client, seven()).await.unwrap_err();
        assert_eq!(server.calls(), sends);
    }
}

#[tokio::test]
async fn a_balanced_channel_with_a_dead_endpoint_is_called_again() {
    let server = Server::failing_first(0);
    let dead = Server::failing_first(0);
    let endpoints = [dead.address, server.address];
    let endpoints = endpoints.map(|at| Endpoint::from_shared(format!("http://{at}")).unwrap());
    drop(dead);
    let channel = Channel::balance_list(endpoints.into_iter());
    let stack = quick()
        .retry(|retry| retry.attempts(10).no_budget())
        .no_circuit_breaker();
    let client = around(stack, channel);
    // What could not connect was not sent, so it is sent again whatever its method.
    for _ in 0..10 {
        assert_eq!(get(&client, seven()).await.unwrap(), "seven");
    }
    assert_eq!(server.calls(), 10);
}

#[tokio::test]
async fn a_call_that_is_dropped_at_any_point_leaks_nothing() {
    let server = Server::failing_first(0);
    let stack = quick()
        .load_shed(5)
        .rate_limit(Quota::per_second(1_000_000));
    let stack = stack.replay(every_method()).build().unwrap();
    let client = grpc::service(&stack, server.channel(), Body::new);
    for polls in 0..20 {
        let mut call = Box::pin(get(&client, seven()));
        for _ in 0..polls {
            let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(call.as_mut().poll(cx)));
            if polled.await.is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(call);
        assert_eq!(stack.limit().unwrap().in_flight(), 0, "after {polls} polls");
    }
    assert_eq!(get(&client, seven()).await.unwrap(), "seven");
}

#[tokio::test]
async fn streams_of_each_kind_pass_message_by_message() {
    let server = Server::failing_first(0);
    let client = around(quick().replay(every_method()), server.channel());
    let mut client = tonic::client::Grpc::new(client);
    let path = PathAndQuery::from_static;
    let streams = async {
        client.ready().await.unwrap();
        let watch = path("/orders.Orders/Watch");
        let watched = client.server_streaming(seven(), watch, Raw).await.unwrap();
        let mut watched = watched.into_inner();
        for byte in b"seven" {
            assert_eq!(watched.message().await.unwrap().unwrap(), vec![*byte]);
        }
        assert!(watched.message().await.unwrap().is_none());

        client.ready().await.unwrap();
        let messages = ["a", "b", "c"].map(Bytes::from);
        let messages = tonic::Request::new(tokio_stream::iter(messages));
        let count = path("/orders.Orders/Count");
        let count = client.client_streaming(messages, count, Raw).await.unwrap();
        assert_eq!(count.into_inner(), "3");

        // Each message is sent after the response to the one before has arrived.
        client.ready().await.unwrap();
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        let sent = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let chat = path("/orders.Orders/Chat");
        let chat = client.streaming(tonic::Request::new(sent), chat, Raw);
        let mut chat = chat.await.unwrap().into_inner();
        for message in ["one", "two", "three"] {
            sender.send(Bytes::from(message)).await.unwrap();
            assert_eq!(chat.message().await.unwrap().unwrap(), message);
        }
        drop(sender);
        assert!(chat.message().await.unwrap().is_none());
    };
    tokio::time::timeout(20 * SECOND, streams).await.unwrap();
}

/// An upstream that says `DEADLINE_EXCEEDED` one millisecond before the `grpc-timeout` is over.
async fn punctual(
    request: Request<ReplayBody<Full<Bytes>>>,
    in_trailers: bool,
) -> Result<Response<Body>, Infallible> {
    let timeout = request.headers()["grpc-timeout"].to_str().unwrap();
    let micros: u64 = timeout.strip_suffix('u').unwrap().parse().unwrap();
    tokio::time::sleep(Duration::from_micros(micros - 1_000)).await;
    let status = HeaderValue::from_static("4");
    if in_trailers {
        let trailers = [("grpc-status".parse().unwrap(), status)];
        let frame = Ok::<_, Infallible>(Frame::trailers(trailers.into_iter().collect()));
        return Ok(Response::new(Body::new(StreamBody::new(
            tokio_stream::iter([frame]),
        ))));
    }
    let mut response = Response::new(Body::empty());
    response.headers_mut().insert("grpc-status", status);
    Ok(response)
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_the_upstream_keeps_counts_as_if_the_stack_had_kept_it() {
    for in_trailers in [false, true] {
        // The caller's own deadline says nothing of the upstream; the timeout of an attempt does.
        for (own, failures) in [(Some(SECOND / 10), 0), (None, 5)] {
            let stack = grpc::stack().no_retry().build().unwrap();
            let upstream = service_fn(move |request| punctual(request, in_trailers));
            let client = grpc::service(&stack, upstream, |body| body);
            for _ in 0..5 {
                let mut call = Request::post("/a.B/C")
                    .body(Full::new(Bytes::new()))
                    .unwrap();
                let deadline = own.map(Deadline::after);
                deadline.map(|deadline| call.extensions_mut().insert(deadline));
                let response = client.clone().oneshot(call).await.unwrap();
                assert_eq!(response.headers()["grpc-status"], "4");
            }
            let seen = stack.circuit().unwrap().snapshot();
            assert_eq!(seen.failures, failures, "{in_trailers} {own:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_at_its_deadline_leaks_nothing() {
    let stack = grpc::stack().load_shed(1).build().unwrap();
    let upstream = service_fn(|request| punctual(request, false));
    let client = grpc::service(&stack, upstream, |body| body);
    let mut call = Request::post("/a.B/C")
        .body(Full::new(Bytes::new()))
        .unwrap();
    call.extensions_mut().insert(Deadline::after(SECOND / 10));
    let call = client.oneshot(call);
    // The response has arrived 1 ms before the deadline.
    let left = tokio::time::timeout_at(
        tokio::time::Instant::now() + Duration::from_millis(99),
        call,
    );
    assert!(left.await.is_err());
    assert_eq!(stack.limit().unwrap().in_flight(), 0);
    assert_eq!(stack.circuit().unwrap().snapshot().calls, 0);
}

#[tokio::test(start_paused = true)]
async fn without_a_timeout_above_a_response_waits_ten_milliseconds_after_its_deadline() {
    let upstream = service_fn(|_: Request<()>| async {
        let response = Response::builder().header("grpc-status", "4");
        response.body(Full::new(Bytes::new()))
    });
    let peek = PeekTrailersLayer.layer(upstream);
    let millis = Duration::from_millis;
    for (left, waits) in [(0, 10), (1, 11), (2, 12), (3, 0), (1_000, 0)] {
        let mut request = Request::new(());
        request
            .extensions_mut()
            .insert(Deadline::after(millis(left)));
        let start = tokio::time::Instant::now();
        let response = peek.clone().oneshot(request).await.unwrap();
        assert_eq!(response.headers()["grpc-status"], "4");
        let late = start.elapsed().checked_sub(millis(waits)).unwrap();
        assert!(late <= millis(1), "{left}: {late:?}");
    }
    for deadline in [None, Some(Deadline::NEVER)] {
        let mut request = Request::new(());
        deadline.map(|deadline| request.extensions_mut().insert(deadline));
        let start = tokio::time::Instant::now();
        peek.clone().oneshot(request).await.unwrap();
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_of_the_upstream_itself_is_reported_at_once() {
    let own_timer = service_fn(|_: Request<ReplayBody<Full<Bytes>>>| async {
        let response = Response::builder().header("grpc-status", "4");
        response.body(Body::empty())
    });
    let stack = grpc::stack().no_retry().build().unwrap();
    let client = grpc::service(&stack, own_timer, |body| body);
    let start = tokio::time::Instant::now();
    let call = Request::post("/a.B/C").body(Full::new(Bytes::new()));
    client.oneshot(call.unwrap()).await.unwrap();
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(stack.circuit().unwrap().snapshot().failures, 1);
}

// Under load, in the process, on a paused clock

/// Makes 100 calls per second. Returns whether each succeeded, and the sends in each second.
async fn under_load(
    seconds: usize,
    fails: impl Fn(Duration, usize) -> bool + Clone + Send + 'static,
) -> (Vec<bool>, Vec<usize>) {
    let start = tokio::time::Instant::now();
    let sends = Arc::new(std::sync::Mutex::new(vec![0; seconds + 10]));
    let counted = sends.clone();
    let upstream = service_fn(move |_: Request<ReplayBody<Full<Bytes>>>| {
        let at = start.elapsed();
        let mut sends = counted.lock().unwrap();
        sends[at.as_secs() as usize] += 1;
        let failed = fails(at, sends.iter().sum());
        let response = Response::builder().header("grpc-status", if failed { "14" } else { "0" });
        let response = response.body(http_body_util::Empty::<Bytes>::new());
        async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            Ok::<_, Infallible>(response.unwrap())
        }
    });
    let stack = grpc::stack().replay(every_method()).build().unwrap();
    let client = grpc::service(&stack, upstream, |body| body);
    let mut calls = Vec::new();
    for _ in 0..seconds * 100 {
        let call = Request::post("/orders.Orders/Get").body(Full::new(Bytes::new()));
        calls.push(tokio::spawn(client.clone().oneshot(call.unwrap())));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut succeeded = Vec::new();
    for call in calls {
        let response = call.await.unwrap().unwrap();
        succeeded.push(response.headers()["grpc-status"] == "0");
    }
    let sends = sends.lock().unwrap().clone();
    (succeeded, sends)
}

fn count(succeeded: &[bool]) -> usize {
    succeeded.iter().filter(|succeeded| **succeeded).count()
}

#[tokio::test(start_paused = true)]
async fn with_one_response_in_twenty_unavailable_hardly_a_call_fails() {
    // One send in twenty fails, without a pattern.
    let fails = |_, number: usize| {
        let mixed = (number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (mixed >> 40) % 20 == 0
    };
    let (succeeded, sends) = under_load(60, fails).await;
    let (calls, sends) = (succeeded.len(), sends.iter().sum::<usize>());
    let succeeded = count(&succeeded);
    assert!(succeeded * 1_000 >= calls * 999, "{succeeded} of {calls}");
    assert!(
        sends * 20 >= calls * 21,
        "{sends} sends of {calls} calls: too few failed"
    );
    assert!(sends * 10 <= calls * 11, "{sends} sends of {calls} calls");
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_two_seconds_adds_few_sends_and_ends_soon() {
    let outage = 20..22;
    let fails = move |at: Duration, _| outage.contains(&at.as_secs());
    let (succeeded, sends) = under_load(30, fails).await;
    for (second, sends) in sends.iter().enumerate() {
        assert!(*sends <= 125, "second {second}: {sends} sends of 100 calls");
    }
    // From `max_open_for` (1 s) and 0.2 s after the outage on.
    let after = &succeeded[2_320..];
    assert!(
        count(after) * 100 >= after.len() * 99,
        "{} of {}",
        count(after),
        after.len()
    );
}
