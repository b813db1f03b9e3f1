//! The stack around a gRPC channel: a method that may be called twice is retried when the server is
//! unavailable, and a rejection reaches the caller as a status of gRPC.
//!
//! `cargo run --example grpc --features http-body`

use buttress::grpc::{self, Methods};
use buttress::{Deadline, http::ReplayBody};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{Empty, Full};
use std::convert::Infallible;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;
use tower::{ServiceExt, service_fn};

static SENDS: AtomicU32 = AtomicU32::new(0);

/// Stands for a channel of tonic. It reports that the server is unavailable, except for each third call.
async fn channel(
    _: Request<ReplayBody<Full<Bytes>>>,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    let third = SENDS.fetch_add(1, Relaxed) % 3 == 2;
    let status = if third { "0" } else { "14" };
    let response = Response::builder().header("grpc-status", status);
    Ok(response.body(Empty::new()).expect("a valid response"))
}

// With a paused clock, a machine that stalls changes nothing.
#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let reads = Methods::new().retry("/orders.Orders/Get");
    let stack = grpc::stack().name("orders").replay(reads).build()?;
    // With tonic, the last argument is `tonic::body::Body::new`.
    let channel = grpc::service(&stack, service_fn(channel), |body| body);

    for (method, deadline, status, sends) in [
        ("Get", Deadline::NEVER, "0", 3),  // sent again, twice
        ("Pay", Deadline::NEVER, "14", 4), // must not be processed twice
        ("Get", Deadline::after(Duration::ZERO), "4", 4), // not sent
    ] {
        let call = Request::post(format!("/orders.Orders/{method}")).extension(deadline);
        let call = call.body(Full::new(Bytes::from_static(b"a message")))?;
        let response = channel.clone().oneshot(call).await?;
        let (found, message) = ("grpc-status", "grpc-message");
        let [found, message] = [found, message].map(|name| response.headers().get(name));
        println!("{method}: status {found:?}, message {message:?}");
        assert_eq!(found.ok_or("no status")?, status);
        assert_eq!(SENDS.load(Relaxed), sends);
    }
    Ok(())
}
