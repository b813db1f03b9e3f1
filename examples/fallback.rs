//! While the circuit is open, a call gets the last known price from a cache.
//!
//! `cargo run --example fallback`

use buttress::{CircuitBreakerLayer, Error, ErrorLayer, Rejection};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};

static UP: AtomicBool = AtomicBool::new(true);

/// Responds with the price of a product.
async fn upstream(product: u32) -> Result<u32, &'static str> {
    let price = UP.load(Relaxed).then_some(product * 100);
    price.ok_or("down")
}

/// Calls the upstream, and falls back to the cache while the circuit is open.
async fn price(
    client: &mut impl Service<u32, Response = u32, Error = Error<&'static str>>,
    cache: &mut HashMap<u32, u32>,
    product: u32,
) -> Result<u32, Error<&'static str>> {
    match client.ready().await?.call(product).await {
        Ok(price) => {
            cache.insert(product, price);
            Ok(price)
        }
        Err(error @ Error::Rejected(Rejection::CircuitOpen { .. })) => {
            cache.get(&product).copied().ok_or(error)
        }
        Err(error) => Err(error),
    }
}

// With a paused clock, a machine that stalls changes nothing.
#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let breaker = CircuitBreakerLayer::builder().consecutive_failures(2);
    let mut client = ServiceBuilder::new()
        .layer(breaker.build()?)
        .layer(ErrorLayer)
        .service(service_fn(upstream));
    let mut cache = HashMap::new();

    assert_eq!(price(&mut client, &mut cache, 7).await, Ok(700));
    println!("product 7: 700, from the upstream");

    UP.store(false, Relaxed);
    for _ in 0..2 {
        let error = price(&mut client, &mut cache, 7).await.unwrap_err();
        println!("product 7: {error}");
    }
    assert_eq!(price(&mut client, &mut cache, 7).await, Ok(700));
    println!("product 7: 700, from the cache");
    let error = price(&mut client, &mut cache, 8).await.unwrap_err();
    println!("product 8: {error}");
    Ok(())
}
