//! Errors of the clients of hyper and hyper-util.

use super::frames::Frames;
use super::servers::{Does, failing, nobody, panicking, server, servers, silent_server, uri_of};
use super::{BoxError, Met};
use bytes::Bytes;
use http::{Request, Response, Uri, Version};
use http_body_util::{Empty, Full};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::{HttpConnector, dns::Name};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::future::{pending, ready};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::{ServiceExt, service_fn};

pub(crate) async fn met() -> Met {
    let mut met = by_client().await;
    met.extend(of_bodies().await);
    met.extend(of_shortages().await);
    met.extend(of_connecting().await);
    met.extend(over_http_2().await);
    met.extend(of_streams().await);
    met.extend(by_connection().await);
    met.push(("connection whose runtime has ended", runtime_ended().await));
    met
}

async fn by_client() -> Met {
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

    met
}

async fn of_bodies() -> Met {
    let uri = uri_of(server(Does::Nothing).await);
    let client = legacy::Client::builder(TokioExecutor::new());
    let request = Request::post(&uri).body(Box::pin(failing())).unwrap();
    let failed = client.build_http().request(request).await;
    let request = Request::post(&uri).body(Box::pin(panicking())).unwrap();
    let panicked = client.build_http().request(request).await;
    vec![
        ("request's body stream failed", failed.unwrap_err().into()),
        (
            "request's body stream panicked",
            panicked.unwrap_err().into(),
        ),
    ]
}

async fn of_shortages() -> Met {
    let row = "no descriptor, port, buffer or memory left to connect";
    let mut met = Met::new();
    let client = legacy::Client::builder(TokioExecutor::new());
    let request = || Request::get("http://127.0.0.1:9/").body(Empty::<Bytes>::new());
    // This machine does not have this address.
    let mut connector = HttpConnector::new();
    connector.set_local_address(Some([192, 0, 2, 1].into()));
    let error = client.build(connector).request(request().unwrap()).await;
    met.push((row, error.unwrap_err().into()));
    // ENOMEM, ENFILE, EMFILE, EADDRNOTAVAIL, ENOBUFS
    #[cfg(target_os = "linux")]
    for code in [12, 23, 24, 99, 105] {
        let shortage = move || io::Error::from_raw_os_error(code);
        let connector = service_fn(move |_: Uri| ready(Err::<TokioIo<TcpStream>, _>(shortage())));
        let error = client.build(connector).request(request().unwrap()).await;
        met.push((row, error.unwrap_err().into()));
        met.push((row, shortage().into()));
    }
    met
}

async fn of_connecting() -> Met {
    let client = legacy::Client::builder(TokioExecutor::new());
    let request = || Request::get("http://orders.invalid/").body(Empty::<Bytes>::new());
    let resolver = service_fn(|_: Name| async {
        Err::<std::vec::IntoIter<SocketAddr>, _>(io::Error::other("no such host"))
    });
    let connector = HttpConnector::new_with_resolver(resolver);
    let unknown = client.build(connector).request(request().unwrap()).await;
    // As `HttpConnector::set_connect_timeout` ends an attempt.
    let late = || ready(Err::<TokioIo<TcpStream>, _>(io::ErrorKind::TimedOut));
    let connector = service_fn(move |_: Uri| late());
    let connector = connector.map_err(io::Error::from);
    let late = client.build(connector).request(request().unwrap()).await;
    vec![
        ("host name not found", unknown.unwrap_err().into()),
        ("connecting took too long", late.unwrap_err().into()),
    ]
}

/// The errors of HTTP/2 streams, from a server written frame by frame.
async fn of_streams() -> Met {
    let mut met = Met::new();
    let mut client = legacy::Client::builder(TokioExecutor::new());
    let client = client
        .http2_only(true)
        .retry_canceled_requests(false)
        .build_http::<Empty<Bytes>>();
    for (row, go_away, code) in [
        ("HTTP/2 stream refused (`REFUSED_STREAM`)", None, 7),
        ("HTTP/2 stream above the last one of a `GOAWAY`", Some(0), 0),
        ("connection closed before the response", Some(1), 0),
        ("any other error", None, 2),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = uri_of(listener.local_addr().unwrap());
        let server = async {
            let mut connection = Frames::accept(&listener).await.unwrap();
            let id = connection.request().await.unwrap();
            match go_away {
                Some(last) => connection.go_away(last, code).await.unwrap(),
                None => connection.reset(id, code).await.unwrap(),
            }
            // A closed connection loses a frame that was not read yet.
            (go_away != Some(1)).then_some(connection)
        };
        let request = Request::post(uri).body(Empty::new()).unwrap();
        let (outcome, _open) = tokio::join!(client.request(request), server);
        met.push((row, outcome.unwrap_err().into()));
    }
    met
}

/// The error of a call whose connection belongs to another runtime when that runtime ends.
async fn runtime_ended() -> BoxError {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let request = || Request::get(uri_of(address)).body(Empty::<Bytes>::new());
    // Allow only one connection, so that the second call has to reuse the first one.
    let connected = AtomicBool::new(false);
    let connect = Arc::new(move || connected.swap(true, SeqCst));
    let connector = service_fn(move |_: Uri| {
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

async fn over_http_2() -> Met {
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

/// The errors of hyper's connections for requests that they cannot send.
async fn by_connection() -> Met {
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
    let stream = TcpStream::connect(server(Does::Close).await).await.unwrap();
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.unwrap();
    drop(connection);
    let request = Request::post("/").body(Empty::<Bytes>::new()).unwrap();
    let error = sender.send_request(request).await.unwrap_err();
    let row = "connection closed before the request was written";
    met.push((row, error.into()));
    let upgraded = hyper::upgrade::on(Response::new(())).await;
    let row = "upgrade that the response does not grant";
    met.push((row, upgraded.unwrap_err().into()));
    met
}
