//! A gRPC server on loopback whose messages are bytes as they are, and calls to it.

use bytes::{Buf, BufMut, Bytes};
use http::uri::PathAndQuery;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tonic::Status;
use tonic::body::Body;
use tonic::client::{Grpc, GrpcService};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};

/// A server with one method.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    calls: Arc<AtomicUsize>,
    /// The server and its connections live on a runtime of their own, and end with it.
    runtime: Option<Runtime>,
}

impl Drop for Server {
    fn drop(&mut self) {
        // A runtime must not be dropped on the thread of another one.
        let runtime = self.runtime.take();
        thread::spawn(|| drop(runtime)).join().unwrap();
    }
}

impl Server {
    /// Responds `UNAVAILABLE` to the first calls, and with the message that it was sent to the others.
    pub(crate) fn failing_first(failures: usize) -> Self {
        Self::new(move |number, request| {
            if number <= failures {
                return Err(Status::unavailable("restarting"));
            }
            Ok(request.into_inner())
        })
    }

    /// Responds what `respond` says, which gets the number of the call, from 1.
    pub(crate) fn new<F>(respond: F) -> Self
    where
        F: Fn(usize, tonic::Request<Bytes>) -> Result<Bytes, Status>
            + Clone
            + Send
            + Sync
            + 'static,
    {
        let runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = { runtime }.worker_threads(1).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let echo = tower::service_fn(move |request: tonic::Request<Bytes>| {
            let number = counted.fetch_add(1, SeqCst) + 1;
            let outcome = respond(number, request);
            async move { outcome.map(tonic::Response::new) }
        });
        let handler = move |request: axum::extract::Request| {
            let echo = echo.clone();
            async move {
                let response = tonic::server::Grpc::new(Raw).unary(echo, request).await;
                response.map(axum::body::Body::new)
            }
        };
        let routes = axum::Router::new()
            .route("/orders.Orders/Get", axum::routing::post(handler))
            .route("/orders.Orders/Watch", axum::routing::post(watch))
            .route("/orders.Orders/Count", axum::routing::post(count))
            .route("/orders.Orders/Chat", axum::routing::post(chat));
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            axum::serve(listener, routes).await.unwrap();
        });
        Self {
            address,
            calls,
            runtime: Some(runtime),
        }
    }

    pub(crate) fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.address))
            .unwrap()
            .connect_lazy()
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.load(SeqCst)
    }
}

type Stream = std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<Bytes, Status>> + Send>>;

/// Responds with a message for each byte of the one that it got.
async fn watch(request: axum::extract::Request) -> axum::response::Response {
    let stream = tower::service_fn(|request: tonic::Request<Bytes>| async move {
        let bytes = request.into_inner().to_vec().into_iter();
        let messages = bytes.map(|byte| Ok(Bytes::from(vec![byte])));
        let stream: Stream = Box::pin(tokio_stream::iter(messages));
        Ok(tonic::Response::new(stream))
    });
    let mut server = tonic::server::Grpc::new(Raw);
    let response = server.server_streaming(stream, request).await;
    response.map(axum::body::Body::new)
}

/// Responds with the number of messages that it got.
async fn count(request: axum::extract::Request) -> axum::response::Response {
    let count = tower::service_fn(
        |request: tonic::Request<tonic::Streaming<Bytes>>| async move {
            let mut messages = request.into_inner();
            let mut count = 0;
            while messages.message().await?.is_some() {
                count += 1;
            }
            Ok(tonic::Response::new(Bytes::from(count.to_string())))
        },
    );
    let mut server = tonic::server::Grpc::new(Raw);
    let response = server.client_streaming(count, request).await;
    response.map(axum::body::Body::new)
}

/// Responds with each message that it gets.
async fn chat(request: axum::extract::Request) -> axum::response::Response {
    let chat = tower::service_fn(
        |request: tonic::Request<tonic::Streaming<Bytes>>| async move {
            let stream: Stream = Box::pin(request.into_inner());
            Ok(tonic::Response::new(stream))
        },
    );
    let mut server = tonic::server::Grpc::new(Raw);
    let response = server.streaming(chat, request).await;
    response.map(axum::body::Body::new)
}

/// Messages are bytes as they are.
#[derive(Clone, Copy, Default)]
pub(crate) struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

pub(crate) async fn get<T>(
    client: &T,
    request: impl tonic::IntoRequest<Bytes>,
) -> Result<Bytes, Status>
where
    T: GrpcService<Body, ResponseBody: Send + 'static> + Clone,
    <T::ResponseBody as http_body::Body>::Error: Into<tower::BoxError> + Send,
    T::ResponseBody: http_body::Body<Data = Bytes>,
{
    let mut client = Grpc::new(client.clone());
    let path = PathAndQuery::from_static("/orders.Orders/Get");
    let call = async {
        client
            .ready()
            .await
            .map_err(|error| Status::from_error(error.into()))?;
        client.unary(request.into_request(), path, Raw).await
    };
    let limit = Duration::from_secs(20);
    let response = timeout(limit, call).await.expect("nothing may hang");
    response.map(tonic::Response::into_inner)
}

pub(crate) fn seven() -> tonic::Request<Bytes> {
    tonic::Request::new(Bytes::from_static(b"seven"))
}
