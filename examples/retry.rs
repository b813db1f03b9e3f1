//! Retries that heed `Retry-After`, leave a POST alone, and stay within a budget.

use buttress::http::{Idempotent, StatusClassifier};
use buttress::retry::{Backoff, Budget};
use buttress::{ErrorLayer, RetryLayer};
use http::{Request, Response};
use std::convert::Infallible;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;
use tower::{ServiceBuilder, ServiceExt, service_fn};

static SENDS: AtomicU32 = AtomicU32::new(0);

/// Fails for ever, and wishes to be asked again at once.
async fn callee(_: Request<()>) -> Result<Response<()>, Infallible> {
    SENDS.fetch_add(1, SeqCst);
    let response = Response::builder().status(503).header("retry-after", "0");
    Ok(response.body(()).expect("a valid response"))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let budget = Budget::builder().floor(3).reserve(0.0).build()?;
    let client = ServiceBuilder::new()
        .layer(
            RetryLayer::builder()
                .attempts(3)
                .backoff(Backoff::exponential(
                    Duration::from_millis(1),
                    Duration::from_millis(9),
                ))
                .budget(budget.clone())
                .classify(StatusClassifier::default())
                .replay(Idempotent)
                .build()?,
        )
        .layer(ErrorLayer)
        .service(service_fn(callee));

    // (method, sends): the budget has three tokens, and nothing is earned.
    for (method, expected) in [("POST", 1), ("GET", 3), ("GET", 2), ("GET", 1)] {
        let request = Request::builder().method(method).body(())?;
        let response = client.clone().oneshot(request).await?;
        let sends = SENDS.swap(0, SeqCst);
        println!(
            "{method}: {} after {sends} sends, {budget:?}",
            response.status()
        );
        assert_eq!((response.status().as_u16(), sends), (503, expected));
    }
    Ok(())
}
