//! The recommended stack around hyper-util's client. A streamed body is sent again.
//!
//! `cargo run --example stack --features http-body,hyper-util`

use buttress::http::{Drain, ReplayBodyLayer, stack};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::{Request, Response, server::conn::http1, service::service_fn};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use tokio::net::TcpListener;
use tower::{ServiceBuilder, ServiceExt};

static REQUESTS: AtomicU32 = AtomicU32::new(0);

/// Responds 503 to the first two requests, and returns the body of the third.
async fn upstream(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let body = request.into_body().collect().await?.to_bytes();
    let number = REQUESTS.fetch_add(1, Relaxed) + 1;
    let status = if number < 3 { 503 } else { 200 };
    println!("upstream: request {number}, {body:?}, {status}");
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status.try_into().expect("a valid status");
    Ok(response)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let http1 = http1::Builder::new();
            tokio::spawn(http1.serve_connection(TokioIo::new(stream), service_fn(upstream)));
        }
    });

    let stack = stack().name("orders").load_shed(256).discard(Drain::new());
    let client = ServiceBuilder::new()
        .layer(ReplayBodyLayer::new()) // keeps what was sent of a body that is not `Clone`
        .layer(stack.build()?)
        .service(Client::builder(TokioExecutor::new()).build_http());

    let parts = ["two books ", "and a pen"].map(Bytes::from);
    let parts = parts.map(|part| Ok::<_, Infallible>(Frame::data(part)));
    let request = Request::put(format!("http://{address}/orders/7"));
    let request = request.body(StreamBody::new(tokio_stream::iter(parts)))?;
    let response = client.oneshot(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    println!("client: {status}, {body:?}");
    assert_eq!(
        (status.as_u16(), &body[..]),
        (200, &b"two books and a pen"[..])
    );
    Ok(())
}
