//! The recommended stack around hyper-util's client, and a server that fails at first.
//!
//! `cargo run --example stack --features http-body,hyper-util`

use buttress::Quota;
use buttress::http::{Drain, ReplayBodyLayer, stack};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::{Request, Response, server::conn::http1, service::service_fn};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::net::TcpListener;
use tower::{ServiceBuilder, ServiceExt};

static REQUESTS: AtomicU32 = AtomicU32::new(0);

/// Says 503 to the first two requests, and what was sent to the others.
async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let body = request.into_body().collect().await?.to_bytes();
    let number = REQUESTS.fetch_add(1, Ordering::Relaxed) + 1;
    let status = if number < 3 { 503 } else { 200 };
    println!("server: request {number} of {} bytes, {status}", body.len());
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status.try_into().expect("a status");
    Ok(response)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let connection = http1::Builder::new();
            tokio::spawn(connection.serve_connection(TokioIo::new(stream), service_fn(answer)));
        }
    });

    let stack = stack()
        .name("orders")
        .rate_limit(Quota::per_second(200))
        .load_shed(256);
    let stack = stack.discard(Drain::new()).build()?;
    println!("{stack}\n");
    let client = ServiceBuilder::new()
        .layer(ReplayBodyLayer::new())
        .layer(stack)
        .service(Client::builder(TokioExecutor::new()).build_http());

    // A body that streams, and so cannot be cloned.
    let parts = ["two books ", "and a pen"].map(Bytes::from);
    let parts = parts.map(|part| Ok::<_, Infallible>(Frame::data(part)));
    let request = Request::put(format!("http://{address}/orders/7"));
    let request = request.body(StreamBody::new(tokio_stream::iter(parts)))?;
    let response = client.oneshot(request).await?;
    assert_eq!(response.status(), 200);
    assert_eq!(
        response.into_body().collect().await?.to_bytes(),
        "two books and a pen"
    );
    println!("client: 200, at the third attempt");
    Ok(())
}
