//! One timeout for the whole call, and a shorter one for each attempt.
//!
//! `cargo run --example timeout`

use buttress::retry::Cloned;
use buttress::{Error, ErrorLayer, Rejection, RetryLayer, TimeoutLayer};
use std::convert::Infallible;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tower::{ServiceBuilder, ServiceExt, service_fn};

/// Responds after as many milliseconds as the request says.
async fn upstream(millis: u64) -> Result<&'static str, Infallible> {
    sleep(Duration::from_millis(millis)).await;
    Ok("a response")
}

// A paused clock jumps from timer to timer, so the times below are exact.
#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let call = TimeoutLayer::builder(Duration::from_millis(500)).name("whole call");
    let attempt = TimeoutLayer::builder(Duration::from_millis(200)).name("attempt");
    let client = ServiceBuilder::new()
        .layer(call.build()?)
        .layer(RetryLayer::builder().attempts(100).replay(Cloned).build()?)
        .layer(attempt.build()?)
        .layer(ErrorLayer)
        .service(service_fn(upstream));

    let response = client.clone().oneshot(10).await?;
    println!("an upstream that takes 10 ms: {response}");

    // Each attempt times out and is retried, until the whole call times out.
    let start = Instant::now();
    let outcome = client.oneshot(60_000).await;
    let Err(Error::Rejected(rejection @ Rejection::TimedOut { .. })) = outcome else {
        panic!("{outcome:?}");
    };
    println!("an upstream that takes a minute: {rejection}");
    assert_eq!(rejection.by().as_str(), Some("whole call"));
    assert_eq!(start.elapsed(), Duration::from_millis(500));
    Ok(())
}
