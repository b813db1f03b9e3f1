//! A server on a real socket, for what only one can show.

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

pub(crate) type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// Serves requests on loopback until the runtime ends: where, and how many sockets it accepted.
pub(crate) async fn serve<F, A>(version: Version, answer: F) -> (String, Arc<AtomicUsize>)
where
    F: Fn(Request<Incoming>) -> A + Clone + Send + 'static,
    A: Future<Output = Answer> + Send + 'static,
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
            let answer = answer.clone();
            let service = service_fn(move |request| {
                let answer = answer(request);
                async { Ok::<_, Infallible>(answer.await) }
            });
            // A connection that the client breaks off is an error of no interest.
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

/// What hangs is a failure, not a wait.
pub(crate) async fn soon<T>(work: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(20);
    timeout(limit, work).await.expect("nothing may hang")
}
