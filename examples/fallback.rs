//! While the upstream fails, a call gets the news of yesterday. The answer is marked, and counted.
//!
//! `cargo run --example fallback`

use buttress::fallback::Failed;
use buttress::http::{Degraded, stack};
use buttress::{Error, FallbackLayer};
use http::{Request, Response};
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use tower::{Layer, ServiceExt, service_fn};

static UP: AtomicBool = AtomicBool::new(true);

async fn upstream(_: Request<()>) -> Result<Response<&'static str>, Infallible> {
    let status = if UP.load(Relaxed) { 200 } else { 503 };
    let response = Response::builder().status(status).body("today's news");
    Ok(response.expect("a valid response"))
}

/// The answer for a call that failed.
async fn yesterday(
    failed: Failed<Request<()>, Response<&'static str>, Error<Infallible>>,
) -> Result<Response<&'static str>, Error<Infallible>> {
    match failed.req {
        Some(req) if req.uri().path() == "/news" => Ok(Response::new("yesterday's news")),
        _ => failed.outcome,
    }
}

// With a paused clock, a machine that stalls changes nothing.
#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let stack = stack().name("news");
    let stack = stack.fallback(FallbackLayer::new(yesterday));
    let layer = stack.build()?;
    let client = layer.layer(service_fn(upstream));

    for (is_up, expected) in [(true, "today's news"), (false, "yesterday's news")] {
        UP.store(is_up, Relaxed);
        let request = Request::get("/news").body(())?;
        let response = client.clone().oneshot(request).await?;
        let degraded = response.extensions().get::<Degraded>().is_some();
        println!("{} (degraded: {degraded})", response.body());
        assert_eq!((*response.body(), degraded), (expected, !is_up));
    }
    let snapshot = layer.fallback().snapshot();
    println!("calls that fell back: {}", snapshot.fell_back);
    assert_eq!(snapshot.fell_back, 1);
    Ok(())
}
