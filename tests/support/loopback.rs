//! A server on a real socket, for tests that need one.

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::timeout;

pub(crate) type BoxedResponse = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// Serves requests on loopback until the runtime ends. Returns the address and a count of the
/// accepted sockets.
pub(crate) async fn serve<F, A>(version: Version, respond: F) -> (String, Arc<AtomicUsize>)
where
    F: Fn(Request<Incoming>) -> A + Clone + Send + 'static,
    A: Future<Output = BoxedResponse> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/", listener.local_addr().unwrap());
    let sockets = Arc::new(AtomicUsize::new(0));
    let accepted = sockets.clone();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            accepted.fetch_add(1, SeqCst);
            let io = TokioIo::new(socket);
            let respond = respond.clone();
            let service = service_fn(move |request| {
                let response = respond(request);
                async { Ok::<_, Infallible>(response.await) }
            });
            // Ignore the error if the client closes the connection.
            if version == Version::HTTP_2 {
                let server = http2::Builder::new(TokioExecutor::new());
                tokio::spawn(async move { drop(server.serve_connection(io, service).await) });
            } else {
                let server = http1::Builder::new();
                tokio::spawn(async move { drop(server.serve_connection(io, service).await) });
            }
        }
    });
    (uri, sockets)
}

/// Fails the test if `work` hangs.
pub(crate) async fn soon<T>(work: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(20);
    timeout(limit, work).await.expect("nothing may hang")
}
