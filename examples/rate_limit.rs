//! A quota that calls wait for a little, and weighted calls.

use buttress::{Error, ErrorLayer, Name, Quota, RateLimitLayer, Rejection};
use std::convert::Infallible;
use std::time::Duration;
use tokio::time::Instant;
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};

struct Batch {
    items: u32,
}

/// A batch costs as much as it holds.
fn cost(batch: &Batch) -> u32 {
    batch.items
}

// A paused clock jumps from timer to timer: the example waits for nothing.
#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let layer = RateLimitLayer::builder(Quota::per_second(100).burst(10))
        .cost(cost)
        .max_wait(Duration::from_millis(50))
        .build()?;
    let mut client = ServiceBuilder::new()
        .layer(layer)
        .layer(ErrorLayer)
        .service(service_fn(|batch: Batch| async move {
            Ok::<_, Infallible>(batch.items)
        }));

    // The burst goes at once, and four more wait for their turn.
    let begun = Instant::now();
    assert_eq!(
        client.ready().await?.call(Batch { items: 10 }).await,
        Ok(10)
    );
    assert_eq!(client.ready().await?.call(Batch { items: 4 }).await, Ok(4));
    assert_eq!(begun.elapsed(), Duration::from_millis(40));

    // What would wait for more than 50 ms is told so at once, and takes nothing.
    let wait = Duration::from_millis(100);
    let limited = Rejection::RateLimited {
        retry_after: Some(wait),
        by: Name::UNNAMED,
    };
    let outcome = client.ready().await?.call(Batch { items: 10 }).await;
    assert_eq!(outcome, Err(Error::Rejected(limited)));
    println!("14 in 40 ms, and 10 more: {limited}");

    // What can never be granted is not waited for.
    let too_costly = Rejection::TooCostly {
        cost: 11,
        burst: 10,
        by: Name::UNNAMED,
    };
    let outcome = client.ready().await?.call(Batch { items: 11 }).await;
    assert_eq!(outcome, Err(Error::Rejected(too_costly)));
    println!("11 at once: {too_costly}");
    Ok(())
}
