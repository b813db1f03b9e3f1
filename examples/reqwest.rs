//! The recommended stack around reqwest's client, and an upstream that is down.
//!
//! `cargo run --example reqwest --features reqwest`

use buttress::{Error, Rejection};
use std::net::TcpListener;
use tower::Service;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The listener is dropped at once, so that the port refuses connections.
    let down = TcpListener::bind("127.0.0.1:0")?.local_addr()?;

    // reqwest's own retries are off: no layer would see those attempts.
    let http = reqwest::Client::builder()
        .retry(reqwest::retry::never())
        .no_proxy()
        .build()?;
    let mut client = buttress::http::stack()
        .name("orders")
        .no_retry()
        .circuit_breaker(|breaker| breaker.consecutive_failures(3))
        .service(http.clone())?;

    for number in 1..=4 {
        let request = http.get(format!("http://{down}/orders/7")).build()?;
        match client.ready().await?.call(request).await {
            Ok(response) => println!("call {number}: {}", response.status()),
            Err(Error::Rejected(rejection @ Rejection::CircuitOpen { .. })) => {
                println!("call {number} was not sent: {rejection}");
                assert_eq!(number, 4);
            }
            Err(Error::Rejected(rejection)) => println!("call {number}: {rejection}"),
            Err(Error::Service(error)) => println!("call {number}: {error}"),
        }
    }
    Ok(())
}
