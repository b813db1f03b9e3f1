//! Servers that each fail in one way, and bodies that fail.

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{Empty, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What a server does with a connection after the first bytes of a request have arrived.
#[derive(Clone, Copy)]
pub(crate) enum Does {
    Close,
    Reset,
    Say(&'static str),
    Nothing,
}

pub(crate) async fn server(does: Does) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, does));
        }
    });
    address
}

pub(crate) async fn serve(mut stream: TcpStream, does: Does) {
    let _read = stream.read(&mut [0; 4_096]).await;
    match does {
        Does::Close => {}
        Does::Reset => stream.set_zero_linger().unwrap(),
        Does::Say(words) => stream.write_all(words.as_bytes()).await.unwrap(),
        Does::Nothing => std::future::pending().await,
    }
}

/// An address where nobody listens.
pub(crate) async fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

/// A body that panics after its first frame.
pub(crate) fn panicking() -> impl Body<Data = Bytes, Error = io::Error> + Send + Sync + 'static {
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
pub(crate) fn failing() -> impl Body<Data = Bytes, Error = io::Error> + Send + Sync + 'static {
    let frames = [
        Ok(Frame::data(Bytes::from_static(b"first"))),
        Err(io::Error::other("the caller's own")),
    ];
    StreamBody::new(tokio_stream::iter(frames))
}

pub(crate) fn uri_of(listens_at: SocketAddr) -> String {
    format!("http://{listens_at}/")
}

/// Servers, each with the row of the table for the error that a call to it returns.
pub(crate) async fn servers() -> Vec<(&'static str, SocketAddr)> {
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

/// Accepts HTTP/2 connections and never responds.
pub(crate) async fn silent_server() -> SocketAddr {
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
