//! Retries that honour `Retry-After`, send a POST once, and stay within a budget.
//!
//! `cargo run --example retry`

use buttress::http::{Idempotent, StatusClassifier};
use buttress::retry::{Backoff, Budget};
use buttress::{ErrorLayer, RetryLayer};
use http::{Request, Response};
use std::convert::Infallible;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;
use tower::{ServiceBuilder, ServiceExt, service_fn};

static SENDS: AtomicU32 = AtomicU32::new(0);

/// Always responds 503, and allows a retry after no time.
async fn upstream(_: Request<()>) -> Result<Response<()>, Infallible> {
    SENDS.fetch_add(1, Relaxed);
    let response = Response::builder().status(503).header("retry-after", "0");
    Ok(response.body(()).expect("a valid response"))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Three retries, and no more: nothing succeeds, so nothing is earned.
    let budget = Budget::builder().floor(3).reserve(0.0).build()?;
    let (base, cap) = (Duration::from_millis(1), Duration::from_millis(9));
    let retry = RetryLayer::builder()
        .attempts(3)
        .backoff(Backoff::exponential(base, cap))
        .budget(budget.clone())
        .classify(StatusClassifier::default())
        .replay(Idempotent)
        .build()?;
    let client = ServiceBuilder::new()
        .layer(retry)
        .layer(ErrorLayer)
        .service(service_fn(upstream));

    for (method, expected) in [("POST", 1), ("GET", 3), ("GET", 2), ("GET", 1)] {
        let request = Request::builder().method(method).body(())?;
        let status = client.clone().oneshot(request).await?.status();
        let (sends, tokens) = (SENDS.swap(0, Relaxed), budget.tokens());
        println!("{method}: {status}, sends: {sends}, retries left in the budget: {tokens}");
        assert_eq!((status.as_u16(), sends), (503, expected));
    }
    Ok(())
}
