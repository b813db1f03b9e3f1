//! A POST with an `Idempotency-Key` is sent again after a 503, and a POST without one is not. This is
//! what `Idempotent` does, the replay policy of `stack()` unless you set another.
//!
//! `cargo run --example idempotency_key`

use buttress::http::stack;
use http::{Request, Response};
use std::convert::Infallible;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use tower::service_fn;

static SENDS: AtomicU32 = AtomicU32::new(0);

/// Responds 503 to the first send of a call, and 201 to the next.
async fn upstream(_: Request<String>) -> Result<Response<()>, Infallible> {
    let status = if SENDS.fetch_add(1, Relaxed) == 0 {
        503
    } else {
        201
    };
    let response = Response::builder().status(status).body(());
    Ok(response.expect("a valid response"))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = stack().name("payments").service(service_fn(upstream))?;

    let no_key = Request::post("/payments").body("7 EUR".to_owned())?;
    let status = client.clone().oneshot(no_key).await?.status();
    let sends = SENDS.swap(0, Relaxed);
    println!("without a key: {status}, sends: {sends}");
    assert_eq!((status.as_u16(), sends), (503, 1));

    // Every attempt carries the key, so that the upstream can tell that it is the same payment.
    let payment = Request::post("/payments")
        .header("idempotency-key", "f3a1-order-7")
        .body("7 EUR".to_owned())?;
    let status = client.oneshot(payment).await?.status();
    let sends = SENDS.swap(0, Relaxed);
    println!("with a key:    {status}, sends: {sends}");
    assert_eq!((status.as_u16(), sends), (201, 2));
    Ok(())
}
