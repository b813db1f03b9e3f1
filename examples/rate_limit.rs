//! A quota of calls per second: calls wait for a short time, and some cost more than others.
//!
//! `cargo run --example rate_limit`

use buttress::{Error, ErrorLayer, Quota, RateLimitLayer, Rejection};
use std::convert::Infallible;
use std::time::Duration;
use tokio::time::Instant;
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};

/// A request, with the number of its items.
struct Batch(u32);

/// A batch costs as many units of the quota as it has items.
fn cost(batch: &Batch) -> u32 {
    batch.0
}

// A paused clock jumps from timer to timer, so the times below are exact.
#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let layer = RateLimitLayer::builder(Quota::per_second(100).burst(10))
        .name("orders")
        .cost(cost)
        .max_wait(Duration::from_millis(50))
        .build()?;
    let mut client = ServiceBuilder::new()
        .layer(layer)
        .layer(ErrorLayer)
        .service(service_fn(|batch: Batch| async move {
            Ok::<_, Infallible>(batch.0)
        }));

    // The burst is sent at once. Four more items wait until the quota has room for them.
    let start = Instant::now();
    for items in [10, 4] {
        client.ready().await?.call(Batch(items)).await?;
        println!("{items} items: sent after {:?}", start.elapsed());
    }
    assert_eq!(start.elapsed(), Duration::from_millis(40));

    // A call that would wait for more than `max_wait` is rejected at once.
    let outcome = client.ready().await?.call(Batch(10)).await;
    let Err(Error::Rejected(rejection @ Rejection::RateLimited { .. })) = outcome else {
        panic!("{outcome:?}");
    };
    println!("10 items more: {rejection}");

    // A call that costs more than the burst is never granted.
    let outcome = client.ready().await?.call(Batch(11)).await;
    let Err(Error::Rejected(rejection @ Rejection::TooCostly { .. })) = outcome else {
        panic!("{outcome:?}");
    };
    println!("11 items: {rejection}");
    Ok(())
}
