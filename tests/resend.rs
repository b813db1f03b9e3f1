//! What is sent again, against real servers: one that cannot be reached, one that reads bytes, and an
//! HTTP/2 server written frame by frame. A POST that may have been processed is never sent twice.
#![cfg(all(feature = "hyper-util", feature = "reqwest"))]

#[path = "support/frames.rs"]
#[expect(dead_code, reason = "other tests need more")]
mod frames;

use buttress::http::{FreshConnectionLayer, StatusClassifier, stack};
use buttress::retry::Backoff;
use frames::Frames;
use http::{Method, Request};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper_util::client::legacy;
use hyper_util::rt::TokioExecutor;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tower::{ServiceBuilder, ServiceExt};

const NO_ERROR: u32 = 0;
const INTERNAL_ERROR: u32 = 2;
const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;
const ENHANCE_YOUR_CALM: u32 = 11;

/// What a server does with its first request. It responds to the others with a 200.
#[derive(Clone, Copy, Debug)]
enum First {
    Reset(u32),
    /// A `GOAWAY` with the last stream and the code. Then the connection ends.
    GoAway(u32, u32),
    Close,
}

/// Before a retry.
const WAIT: Duration = Duration::from_millis(100);

/// How many whole requests a server has received.
type Received = Arc<AtomicUsize>;

async fn http2_server(first: First) -> (SocketAddr, Received) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let received = Received::default();
    let counted = received.clone();
    tokio::spawn(async move {
        loop {
            let connection = Frames::accept(&listener).await.unwrap();
            tokio::spawn(serve(connection, first, counted.clone()));
        }
    });
    (address, received)
}

async fn serve(mut connection: Frames, first: First, received: Received) -> io::Result<()> {
    loop {
        let id = connection.request().await?;
        if received.fetch_add(1, SeqCst) > 0 {
            connection.respond(id).await?;
            continue;
        }
        match first {
            First::Reset(code) => connection.reset(id, code).await?,
            First::GoAway(last, code) => return connection.go_away(last, code).await,
            First::Close => return Ok(()),
        }
    }
}

/// Closes or resets its first connection after it has read a request. Responds to the others.
async fn http1_server(resets: bool) -> (SocketAddr, Received) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let received = Received::default();
    let counted = received.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _read = stream.read(&mut [0; 4_096]).await;
            if counted.fetch_add(1, SeqCst) == 0 {
                if resets {
                    stream.set_zero_linger().unwrap();
                }
                continue;
            }
            let response = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
            let _written = stream.write_all(response).await;
        }
    });
    (address, received)
}

/// The status that a call gets, through the stack around each client. `None` if it fails.
async fn call(client: Client, method: &Method, address: SocketAddr) -> Option<u16> {
    let stack = stack()
        .deadline(Duration::from_secs(10))
        .retry(|retry| retry.backoff(Backoff::constant(WAIT)));
    let uri = format!("http://{address}/orders");
    match client {
        Client::Hyper(version) => {
            let mut http = legacy::Client::builder(TokioExecutor::new());
            http.retry_canceled_requests(false);
            http.http2_only(version == 2);
            let client = stack.service(http.build_http()).unwrap();
            let request = Request::builder().method(method).uri(uri);
            let request = request.body(Full::new(Bytes::from_static(b"two books")));
            let response = client.oneshot(request.unwrap()).await;
            response.ok().map(|response| response.status().as_u16())
        }
        Client::Reqwest(version) => {
            let mut http = reqwest::Client::builder()
                .no_proxy()
                .redirect(reqwest::redirect::Policy::none())
                .retry(reqwest::retry::never());
            if version == 2 {
                http = http.http2_prior_knowledge();
            }
            let http = http.build().unwrap();
            let request = http.request(method.clone(), uri).body("two books").build();
            let classify = StatusClassifier::default().no_redirects();
            let client = stack.classify(classify).service(http).unwrap();
            let response = client.oneshot(request.unwrap()).await;
            response.ok().map(|response| response.status().as_u16())
        }
    }
}

/// A client that speaks this version of HTTP.
#[derive(Clone, Copy, Debug)]
enum Client {
    Hyper(u8),
    Reqwest(u8),
}
use Client::{Hyper, Reqwest};

#[tokio::test]
async fn a_stream_that_was_not_processed_is_sent_again_whatever_its_method() {
    for first in [
        First::Reset(REFUSED_STREAM),
        First::GoAway(0, NO_ERROR),
        First::GoAway(0, ENHANCE_YOUR_CALM),
    ] {
        for client in [Hyper(2), Reqwest(2)] {
            for method in [Method::POST, Method::GET] {
                let (address, received) = http2_server(first).await;
                let status = call(client, &method, address).await;
                let outcome = (status, received.load(SeqCst));
                assert_eq!(outcome, (Some(200), 2), "{first:?}, {client:?}, {method}");
            }
        }
    }
}

#[tokio::test]
async fn a_stream_that_may_have_been_processed_is_sent_again_only_if_it_is_idempotent() {
    for first in [
        First::Reset(INTERNAL_ERROR),
        First::Reset(CANCEL),
        First::GoAway(1, NO_ERROR),
        First::GoAway(1, INTERNAL_ERROR),
        First::Close,
    ] {
        for client in [Hyper(2), Reqwest(2)] {
            let (address, received) = http2_server(first).await;
            let status = call(client, &Method::POST, address).await;
            let outcome = (status, received.load(SeqCst));
            assert_eq!(outcome, (None, 1), "{first:?}, {client:?}, POST");

            let (address, received) = http2_server(first).await;
            let status = call(client, &Method::GET, address).await;
            let outcome = (status, received.load(SeqCst));
            assert_eq!(outcome, (Some(200), 2), "{first:?}, {client:?}, GET");
        }
    }
}

#[tokio::test]
async fn a_request_that_was_read_is_sent_again_only_if_it_is_idempotent() {
    for resets in [false, true] {
        for client in [Hyper(1), Reqwest(1)] {
            let (address, received) = http1_server(resets).await;
            let status = call(client, &Method::POST, address).await;
            let outcome = (status, received.load(SeqCst));
            assert_eq!(outcome, (None, 1), "resets: {resets}, {client:?}, POST");

            let (address, received) = http1_server(resets).await;
            let status = call(client, &Method::PUT, address).await;
            let outcome = (status, received.load(SeqCst));
            assert_eq!(outcome, (Some(200), 2), "resets: {resets}, {client:?}, PUT");
        }
    }
}

#[tokio::test]
async fn a_post_survives_a_refused_connection() {
    for client in [Hyper(1), Hyper(2), Reqwest(1), Reqwest(2)] {
        // Nobody listens on the port before the retry.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let server = async {
            tokio::time::sleep(WAIT / 2).await;
            let listener = TcpListener::bind(address).await.unwrap();
            respond_once(&listener, client).await;
        };
        let (status, ()) = tokio::join!(call(client, &Method::POST, address), server);
        assert_eq!(status, Some(200), "{client:?}");
    }
}

async fn respond_once(listener: &TcpListener, client: Client) {
    if let Hyper(2) | Reqwest(2) = client {
        let mut connection = Frames::accept(listener).await.unwrap();
        let id = connection.request().await.unwrap();
        connection.respond(id).await.unwrap();
    } else {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _read = stream.read(&mut [0; 4_096]).await;
        let response = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(response).await.unwrap();
    }
}

/// Responds to the first request of its first connection, and never again on that connection.
async fn server_that_goes_silent() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut silent = Frames::accept(&listener).await?;
        let id = silent.request().await?;
        silent.respond(id).await?;
        loop {
            let mut connection = Frames::accept(&listener).await?;
            let id = connection.request().await?;
            connection.respond(id).await?;
        }
        #[expect(unreachable_code, reason = "names the type of the error")]
        Ok::<_, io::Error>(silent)
    });
    address
}

#[tokio::test]
async fn a_retry_avoids_a_connection_that_has_gone_silent_if_the_layer_is_there() {
    for (is_there, expected) in [(true, Some(200)), (false, None)] {
        let address = server_that_goes_silent().await;
        let mut http = legacy::Client::builder(TokioExecutor::new());
        let http = http.http2_only(true).build_http();
        let stack = stack()
            .attempt_timeout(Duration::from_millis(100))
            .retry(|retry| retry.backoff(Backoff::constant(Duration::ZERO)))
            .build();
        let client = ServiceBuilder::new()
            .option_layer(is_there.then_some(FreshConnectionLayer))
            .layer(stack.unwrap())
            .service(http);
        let mut status = None;
        for _ in 0..2 {
            let request = Request::get(format!("http://{address}/orders"));
            let request = request.body(Full::new(Bytes::new())).unwrap();
            let response = client.clone().oneshot(request).await;
            status = response.ok().map(|response| response.status().as_u16());
        }
        assert_eq!(status, expected, "the layer is there: {is_there}");
    }
}

#[tokio::test]
async fn a_post_that_was_redirected_to_a_host_that_is_down_runs_once() {
    // An address where nobody listens.
    let down = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let posts = Received::default();
    let counted = posts.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4_096];
            let read = stream.read(&mut request).await.unwrap();
            counted.fetch_add(usize::from(request[..read].starts_with(b"POST")), SeqCst);
            let response = format!(
                "HTTP/1.1 303 See Other\r\nlocation: http://{down}/\r\nconnection: close\r\n\r\n"
            );
            let _written = stream.write_all(response.as_bytes()).await;
        }
    });
    // With its defaults reqwest follows redirects, and reports the last request's error alone.
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = http.post(format!("http://{address}/")).body("two books");
    let client = stack().service(http).unwrap();
    let error = client.oneshot(request.build().unwrap()).await.unwrap_err();
    assert!(
        format!("{error:?}").contains("ConnectionRefused"),
        "{error:?}"
    );
    assert_eq!(posts.load(SeqCst), 1);
}
