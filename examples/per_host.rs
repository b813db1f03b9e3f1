//! One client for many hosts: each has its own circuit, retry budget and limits. A host that is down does
//! not affect the others.
//!
//! `cargo run --example per_host`

use buttress::http::{Authority, stack};
use buttress::{Error, Rejection};
use http::{Request, Response};
use std::io;
use tower::{Layer, service_fn};

/// An HTTP client. Connections to one host are refused.
async fn send(request: Request<String>) -> Result<Response<()>, io::Error> {
    match request.uri().host() {
        Some("users.internal") => Err(io::ErrorKind::ConnectionRefused.into()),
        _ => Ok(Response::new(())),
    }
}

// With a paused clock, a machine that stalls changes nothing.
#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let stack = stack()
        .no_retry()
        .circuit_breaker(|breaker| breaker.consecutive_failures(3));
    let layer = stack.per_key(Authority).build()?;
    let client = layer.layer(service_fn(send));

    // Three calls to one host fail. Its circuit opens, and calls to the other host still succeed.
    let mut outcomes = Vec::new();
    for host in ["users.internal"; 4].into_iter().chain(["orders.internal"]) {
        let request = Request::get(format!("http://{host}/7")).body(String::new())?;
        let outcome = client.clone().oneshot(request).await;
        match &outcome {
            Ok(response) => println!("{host}: {}", response.status()),
            Err(error) => println!("{host}: {error}"),
        }
        outcomes.push(outcome);
    }
    assert!(matches!(outcomes[2], Err(Error::Service(_))));
    assert!(matches!(
        outcomes[3],
        Err(Error::Rejected(Rejection::CircuitOpen { .. }))
    ));
    assert!(outcomes[4].is_ok());

    // The handles of each host.
    layer.by_key().for_each(|host, parts| {
        let circuit = parts.circuit().expect("the stack has a circuit breaker");
        println!("{host}: {:?}", circuit.state());
    });
    Ok(())
}
