//! The upstream of the README's quick start. It runs until it is stopped.
//!
//! `cargo run --example upstream`, or `cargo run --example upstream -- 8080` for another port than 3000.
//! With the port 0 the system chooses a free one.

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use tokio::net::TcpListener;

/// How many requests came to `/flaky`.
static REQUESTS: AtomicU32 = AtomicU32::new(0);

/// `/flaky` fails on every other request, `/down` always, and any other path never.
async fn respond(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path();
    let (status, body) = match path {
        "/flaky" => match REQUESTS.fetch_add(1, Relaxed) + 1 {
            number if number % 2 == 1 => (StatusCode::SERVICE_UNAVAILABLE, "busy".to_owned()),
            number => (StatusCode::OK, format!("order 7, on request {number}")),
        },
        "/down" => (StatusCode::SERVICE_UNAVAILABLE, "down".to_owned()),
        _ => (StatusCode::OK, "hello".to_owned()),
    };
    println!("{path}: {status}");
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    Ok(response)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let port = std::env::args()
        .nth(1)
        .map_or(Ok(3000), |port| port.parse())?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    println!("upstream on http://{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        let http1 = http1::Builder::new();
        tokio::spawn(http1.serve_connection(TokioIo::new(stream), service_fn(respond)));
    }
}
