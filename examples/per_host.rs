//! One stack per host, made from a template: a host that is down does not affect the others. The hosts are
//! a fixed list: each stays in the map, and its name stays in the process.
//!
//! `cargo run --example per_host`

use buttress::http::stack;
use buttress::{Error, Rejection};
use http::{Request, Response};
use std::collections::HashMap;
use std::io;
use tower::service_fn;

/// An HTTP client. Connections to the second host are refused.
async fn send(request: Request<String>) -> Result<Response<()>, io::Error> {
    match request.uri().host() {
        Some("users.internal") => Err(io::ErrorKind::ConnectionRefused.into()),
        _ => Ok(Response::new(())),
    }
}

// With a paused clock, a machine that stalls changes nothing.
#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The stacks share the client and the settings. Each has its own circuit, budget and limits.
    let template = stack()
        .no_retry()
        .circuit_breaker(|breaker| breaker.consecutive_failures(3));
    let mut clients = HashMap::new();
    for host in ["orders.internal", "users.internal"] {
        let client = template.clone().name(host).service(service_fn(send))?;
        clients.insert(host, client);
    }

    // Three calls to one host fail. Its circuit opens, and calls to the other host still succeed.
    let mut outcomes = Vec::new();
    for host in ["users.internal"; 4].into_iter().chain(["orders.internal"]) {
        let request = Request::get(format!("http://{host}/7")).body(String::new())?;
        let outcome = clients[host].clone().oneshot(request).await;
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
    Ok(())
}
