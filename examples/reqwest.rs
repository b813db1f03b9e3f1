//! The recommended stack around reqwest's client, and a server that is down.
//!
//! `cargo run --example reqwest --features reqwest`

use buttress::{Error, Rejection};
use std::net::TcpListener;
use tower::Service;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let down = TcpListener::bind("127.0.0.1:0")?.local_addr()?;

    // Its hidden retries off: the stack counts every attempt.
    let http = reqwest::Client::builder()
        .retry(reqwest::retry::never())
        .no_proxy()
        .build()?;
    let mut client = buttress::http::stack()
        .no_retry()
        .circuit_breaker(|breaker| breaker.consecutive_failures(3))
        .service(http.clone())?;

    for number in 1..=4 {
        let request = http.get(format!("http://{down}/orders/7")).build()?;
        match client.ready().await?.call(request).await {
            Ok(response) => println!("call {number}: {}", response.status()),
            Err(Error::Rejected(Rejection::CircuitOpen { retry_after, .. })) => {
                println!("call {number}: not sent, may be tried again in {retry_after:?}");
                assert_eq!(number, 4);
            }
            Err(Error::Rejected(rejection)) => println!("call {number}: {rejection}"),
            Err(Error::Service(error)) => println!("call {number}: {error}"),
        }
    }
    Ok(())
}
