//! A circuit opens when its upstream fails, and closes when probes succeed.
//!
//! `cargo run --example circuit_breaker`

use buttress::circuit_breaker::{CircuitState, Window};
use buttress::{CircuitBreakerLayer, Error, ErrorLayer, Rejection};
use std::time::Duration;
use tower::{ServiceBuilder, ServiceExt, service_fn};

// With a paused clock, a machine that stalls changes nothing.
#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let layer = CircuitBreakerLayer::builder()
        .name("payments")
        .window(Window::count(10))
        .failure_rate(0.3)
        .open_for(Duration::from_millis(100))
        .build()?;
    let circuit = layer.circuit().clone();
    let client = ServiceBuilder::new()
        .layer(layer)
        .layer(ErrorLayer)
        .service(service_fn(|up: bool| async move {
            if up { Ok("paid") } else { Err("down") }
        }));

    // Seven calls succeed and three fail: the failure rate is 30 %.
    for number in 1..=10 {
        assert_eq!(circuit.state(), CircuitState::Closed);
        let _outcome = client.clone().oneshot(number <= 7).await;
    }
    println!("3 of 10 calls failed: {:?}", circuit.state());
    assert_eq!(circuit.state(), CircuitState::Open);

    // An open circuit rejects every call. The rejection says when it lets a probe through.
    let outcome = client.clone().oneshot(true).await;
    let Err(Error::Rejected(rejection @ Rejection::CircuitOpen { .. })) = outcome else {
        panic!("{outcome:?}");
    };
    println!("the next call was not sent: {rejection}");

    let wait = rejection.retry_after().ok_or("no time is known")?;
    tokio::time::sleep(wait).await;
    println!("the open time is over: {:?}", circuit.state());
    assert_eq!(circuit.state(), CircuitState::HalfOpen);
    for _ in 0..2 {
        assert_eq!(client.clone().oneshot(true).await, Ok("paid"));
    }
    println!("2 probes succeeded: {:?}", circuit.state());
    assert_eq!(circuit.state(), CircuitState::Closed);
    Ok(())
}
