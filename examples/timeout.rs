//! A deadline for the whole call and a limit for each attempt.

use buttress::retry::Cloned;
use buttress::{Error, ErrorLayer, Name, Rejection, RetryLayer, TimeoutLayer};
use std::convert::Infallible;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tower::{ServiceBuilder, ServiceExt, service_fn};

// A paused clock jumps from timer to timer: the example waits for nothing.
#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let attempt = Duration::from_millis(20);
    let deadline = Duration::from_millis(50);

    // Answers after as many milliseconds as it is asked to.
    let callee = service_fn(|millis: u64| async move {
        sleep(Duration::from_millis(millis)).await;
        Ok::<_, Infallible>("answer")
    });
    let client = ServiceBuilder::new()
        .layer(TimeoutLayer::new(deadline))
        .layer(RetryLayer::builder().attempts(100).replay(Cloned).build()?)
        .layer(TimeoutLayer::new(attempt))
        .layer(ErrorLayer)
        .service(callee);

    assert_eq!(client.clone().oneshot(1).await, Ok("answer"));

    // Every attempt runs out of its own time, and the retries out of the deadline.
    let begun = Instant::now();
    let outcome = client.oneshot(60_000).await;
    let rejection = Rejection::TimedOut {
        after: deadline,
        by: Name::UNNAMED,
    };
    assert_eq!(outcome, Err(Error::Rejected(rejection)));
    assert_eq!(begun.elapsed(), deadline);
    println!("{rejection}");
    Ok(())
}
