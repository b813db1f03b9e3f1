//! The table of verdicts in the documentation, row by row: statuses against the classifier, errors
//! against real clients that meet them. No feature changes a verdict.

use buttress::http::StatusClassifier;
use buttress::{Classify, Verdict};
use http::{Response, StatusCode};
use std::convert::Infallible;

const TABLE: &str = include_str!("../src/http/verdicts.md");

/// Outcome and verdict of each row.
fn rows() -> impl Iterator<Item = (&'static str, &'static str)> {
    let rows = TABLE.lines().skip(2).map(|row| {
        let mut cells = row.split('|').skip(1).map(str::trim);
        (cells.next().unwrap(), cells.next().unwrap())
    });
    rows.filter(|(outcome, _)| !outcome.is_empty())
}

fn word(verdict: Verdict) -> String {
    let word = format!("{verdict:?}");
    word.split(' ').next().unwrap().to_owned()
}

#[test]
fn every_status_is_judged_as_its_row_says() {
    let mut next = 100;
    for (outcome, expected) in rows() {
        let (first, last) = outcome.split_once('–').unwrap_or((outcome, outcome));
        let (Ok(first), Ok(last)) = (first.parse(), last.parse()) else {
            continue;
        };
        assert_eq!(first, next, "a row for each status, in order");
        for status in first..=last {
            let mut response = Response::new(());
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            let outcome = Ok::<_, &Infallible>(&response);
            let verdict = StatusClassifier::default().classify(outcome);
            assert_eq!(word(verdict), expected, "{status}");
        }
        next = last + 1;
    }
    assert_eq!(next, 1_000);
}

mod errors {
    use super::*;
    use buttress::http::{ClientError, judge_error};
    use bytes::Bytes;
    use http::{Request, Uri, Version};
    use http_body::Frame;
    use http_body_util::{Empty, Full, StreamBody};
    use hyper::body::Incoming;
    use hyper::server::conn::http2;
    use hyper::service::service_fn;
    use hyper_util::client::legacy;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use std::error::Error;
    use std::future::pending;
    use std::io;
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    #[cfg(feature = "reqwest")]
    use tower::Service;
    use tower::ServiceExt;

    type BoxError = Box<dyn Error + Send + Sync>;
    type Met = Vec<(&'static str, BoxError)>;

    /// What a server does with a connection on which a request has begun to come in.
    #[derive(Clone, Copy)]
    enum Does {
        Close,
        Reset,
        Say(&'static str),
        Nothing,
    }

    async fn server(does: Does) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, does));
            }
        });
        address
    }

    async fn serve(mut stream: TcpStream, does: Does) {
        let _read = stream.read(&mut [0; 4_096]).await;
        match does {
            Does::Close => {}
            Does::Reset => stream.set_zero_linger().unwrap(),
            Does::Say(words) => stream.write_all(words.as_bytes()).await.unwrap(),
            Does::Nothing => std::future::pending().await,
        }
    }

    /// An address where nobody listens.
    async fn nobody() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    }

    /// A body that panics after its first frame.
    fn panicking() -> impl http_body::Body<Data = Bytes, Error = io::Error> + Send + Sync + 'static
    {
        let frames = [
            Frame::data(Bytes::from_static(b"first")),
            Frame::data(Bytes::new()),
        ];
        let frames = frames.into_iter().map(|frame| {
            assert!(
                frame.data_ref().is_some_and(|data| !data.is_empty()),
                "the caller's own"
            );
            Ok(frame)
        });
        StreamBody::new(tokio_stream::iter(frames))
    }

    /// A body that fails after its first frame.
    fn failing() -> impl http_body::Body<Data = Bytes, Error = io::Error> + Send + Sync + 'static {
        let frames = [
            Ok(Frame::data(Bytes::from_static(b"first"))),
            Err(io::Error::other("the caller's own")),
        ];
        StreamBody::new(tokio_stream::iter(frames))
    }

    fn uri_of(listens_at: SocketAddr) -> String {
        format!("http://{listens_at}/")
    }

    /// Servers, and what the table calls the error that a call of them ends in.
    async fn servers() -> Vec<(&'static str, SocketAddr)> {
        let cut_off = Does::Say("HTTP/1.1 200 OK\r\ncontent-le");
        vec![
            ("connection refused", nobody().await),
            ("connection reset", server(Does::Reset).await),
            (
                "connection closed before the response",
                server(Does::Close).await,
            ),
            ("response cut off in its head", server(cut_off).await),
            (
                "response that is not HTTP",
                server(Does::Say("SSH-2.0-OpenSSH_9.6\r\n\r\n")).await,
            ),
        ]
    }

    async fn met_by_hyper_util() -> Met {
        let mut met = Met::new();
        let client = legacy::Client::builder(TokioExecutor::new());
        let client = client.build_http::<Empty<Bytes>>();
        let request = |uri: &str| Request::get(uri).body(Empty::new()).unwrap();
        let mut call = async |row, request| {
            let error = client.clone().oneshot(request).await.unwrap_err();
            met.push((row, error.into()));
        };
        for (row, address) in servers().await {
            call(row, request(&uri_of(address))).await;
        }
        call("URI without a host", request("/orders")).await;
        call(
            "scheme that the client cannot use",
            request("https://127.0.0.1:9/"),
        )
        .await;
        let mut version = request("http://127.0.0.1:9/");
        *version.version_mut() = Version::HTTP_3;
        call("version that the client cannot use", version).await;

        met.push(("connection whose runtime has ended", runtime_ended().await));

        let client = legacy::Client::builder(TokioExecutor::new()).build_http();
        let request = Request::post(uri_of(server(Does::Nothing).await));
        let error = client
            .request(request.body(Box::pin(failing())).unwrap())
            .await;
        met.push(("request's body stream failed", error.unwrap_err().into()));

        let client = legacy::Client::builder(TokioExecutor::new()).build_http();
        let request = Request::post(uri_of(server(Does::Nothing).await));
        let request = request.body(Box::pin(panicking()));
        let error = client.request(request.unwrap()).await;
        met.push(("request's body stream panicked", error.unwrap_err().into()));
        met
    }

    /// What a call meets that is under way on another runtime's connection when that ends.
    async fn runtime_ended() -> BoxError {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let request = || Request::get(uri_of(address)).body(Empty::<Bytes>::new());
        // Connects once, so that the second call has to take the connection of the first.
        let connected = AtomicBool::new(false);
        let connect = Arc::new(move || connected.swap(true, SeqCst));
        let connector = tower::service_fn(move |_: Uri| {
            let again = connect();
            Box::pin(async move {
                if again {
                    pending::<()>().await;
                }
                TcpStream::connect(address).await.map(TokioIo::new)
            })
        });
        let client = legacy::Client::builder(TokioExecutor::new()).build(connector);
        let mut other = tokio::runtime::Builder::new_multi_thread();
        let other = other.worker_threads(1).enable_all().build().unwrap();

        let first = other.spawn(client.request(request().unwrap()));
        let (mut stream, _) = listener.accept().await.unwrap();
        let _read = stream.read(&mut [0; 4_096]).await;
        let response = b"HTTP/1.1 204 No Content\r\n\r\n";
        stream.write_all(response).await.unwrap();
        first.await.unwrap().unwrap();

        let second = tokio::spawn(client.request(request().unwrap()));
        let _read = stream.read(&mut [0; 4_096]).await;
        other.shutdown_background();
        second.await.unwrap().unwrap_err().into()
    }

    /// Takes connections of HTTP/2, and never responds.
    async fn silent_server() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let silent = service_fn(|_: Request<Incoming>| {
                    pending::<Result<Response<Empty<Bytes>>, Infallible>>()
                });
                let connection = http2::Builder::new(TokioExecutor::new());
                tokio::spawn(connection.serve_connection(TokioIo::new(stream), silent));
            }
        });
        address
    }

    /// What the connections of hyper say of requests that they cannot send.
    async fn met_by_hyper() -> Met {
        let mut met = Met::new();
        let stream = TcpStream::connect(silent_server().await).await.unwrap();
        let stream = TokioIo::new(stream);
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream);
        let (mut sender, connection) = handshake.await.unwrap();
        tokio::spawn(connection);
        let relative = Request::get("/orders").version(Version::HTTP_2);
        for (row, request) in [
            ("CONNECT with a body over HTTP/2", Request::connect("a:1")),
            ("URI without a host", relative),
        ] {
            let body = Full::new(Bytes::from_static(b"body"));
            sender.ready().await.unwrap();
            let error = sender.send_request(request.body(body).unwrap()).await;
            met.push((row, error.unwrap_err().into()));
        }
        let upgraded = hyper::upgrade::on(Response::new(())).await;
        let row = "upgrade that the response does not grant";
        met.push((row, upgraded.unwrap_err().into()));
        met
    }

    async fn met_over_http_2() -> Met {
        let mut met = Met::new();
        let mut client = legacy::Client::builder(TokioExecutor::new());
        client.http2_only(true);
        let post = |address| Request::post(uri_of(address)).version(Version::HTTP_2);
        let request = post(silent_server().await).body(Box::pin(failing()));
        let error = client.build_http().request(request.unwrap()).await;
        met.push(("request's body stream failed", error.unwrap_err().into()));

        let client = client.build_http::<Empty<Bytes>>();
        let closing = server(Does::Close).await;
        for (row, address) in [
            ("connection refused", nobody().await),
            ("connection closed before the response", closing),
        ] {
            let error = client
                .request(post(address).body(Empty::new()).unwrap())
                .await;
            met.push((row, error.unwrap_err().into()));
        }
        met
    }

    #[cfg(feature = "reqwest")]
    async fn met_by_reqwest() -> Met {
        let mut met = Met::new();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut call = async |row, request: reqwest::RequestBuilder| {
            // As the layers call it, by `Service`; what cannot be built fails before.
            let mut client = client.clone();
            let called = async { Service::call(&mut client, request.build()?).await };
            met.push((row, called.await.unwrap_err().into()));
        };
        let get = |uri: &str| client.get(uri);
        for (row, address) in servers().await {
            call(row, get(&uri_of(address))).await;
        }
        let late = get(&uri_of(server(Does::Nothing).await));
        call(
            "client's own timeout",
            late.timeout(Duration::from_millis(20)),
        )
        .await;
        let circle = Does::Say("HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n");
        call("too many redirects", get(&uri_of(server(circle).await))).await;
        call("URI without a host", get("http://")).await;
        call(
            "scheme that the client cannot use",
            get("https://127.0.0.1:9/"),
        )
        .await;
        call(
            "header or URI that cannot be built",
            get("http://127.0.0.1:9/").header("a b", "c"),
        )
        .await;
        let body = reqwest::Body::wrap(failing());
        let post = client.post(uri_of(server(Does::Nothing).await)).body(body);
        call("request's body stream failed", post).await;
        met
    }

    #[tokio::test]
    async fn every_error_that_a_client_meets_is_judged_as_its_row_says() {
        let met = async {
            vec![
                met_by_hyper_util().await,
                met_over_http_2().await,
                met_by_hyper().await,
                #[cfg(feature = "reqwest")]
                met_by_reqwest().await,
            ]
        };
        let met = tokio::time::timeout(Duration::from_secs(20), met)
            .await
            .unwrap();
        for met in &met {
            for (row, error) in met {
                let expected = rows().find(|(outcome, _)| outcome == row).expect(row).1;
                assert_eq!(word(judge_error(&**error)), expected, "{row}: {error:?}");
                // In its box it cannot be downcast.
                assert_eq!(word(error.verdict()), expected, "boxed, {row}: {error:?}");
            }
        }
        // And no row is there that nobody met.
        #[cfg(feature = "reqwest")]
        for (row, _) in rows() {
            let met = met.iter().flatten().any(|(outcome, _)| *outcome == row);
            let status = row.starts_with(char::is_numeric);
            assert!(met || status || row == "any other error", "{row}");
        }
    }

    #[test]
    fn any_other_error_is_transient() {
        let expected = rows().find(|(outcome, _)| *outcome == "any other error");
        let verdict = judge_error(&io::Error::other("who knows"));
        assert_eq!(word(verdict), expected.unwrap().1);
    }

    #[cfg(feature = "reqwest")]
    #[tokio::test]
    async fn the_classifier_knows_a_clients_error_alone_lifted_and_boxed() {
        fn verdict<E: ClientError>(error: &E) -> Verdict {
            StatusClassifier::default().classify(Err::<&Response<()>, _>(error))
        }
        let build = || reqwest::Client::new().get("http://").build().unwrap_err();
        assert_eq!(verdict(&build()), Verdict::Ignored);
        assert_eq!(
            verdict(&buttress::Error::Service(build())),
            Verdict::Ignored
        );
        assert_eq!(verdict(&BoxError::from(build())), Verdict::Ignored);
        let boxed = buttress::Error::Service(BoxError::from(build()));
        assert_eq!(verdict(&boxed), Verdict::Ignored);
        for (status, expected) in [(503, Verdict::TRANSIENT), (501, Verdict::Permanent)] {
            let response = Response::builder().status(status).body("").unwrap();
            let error = reqwest::Response::from(response).error_for_status();
            let error = error.unwrap_err();
            assert_eq!(verdict(&error), expected);
            assert_eq!(verdict(&BoxError::from(error)), expected);
        }
        let wrapped = BoxError::from(io::Error::other(build()));
        assert_eq!(verdict(&wrapped), Verdict::Ignored);
    }
}
