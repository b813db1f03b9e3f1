//! A circuit that opens when the callee fails, and closes when probes find it well.

use buttress::circuit_breaker::{CircuitState, Window};
use buttress::{CircuitBreakerLayer, Error, ErrorLayer, Rejection};
use std::time::Duration;
use tower::{ServiceBuilder, ServiceExt, service_fn};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let layer = CircuitBreakerLayer::builder()
        .window(Window::count(10))
        .failure_rate(0.3)
        .open_for(Duration::from_millis(100))
        .name("payments")
        .build()?;
    let circuit = layer.circuit().clone();
    let client = ServiceBuilder::new()
        .layer(layer)
        .layer(ErrorLayer)
        .service(service_fn(|up: bool| async move {
            if up { Ok("paid") } else { Err("down") }
        }));

    // Seven good calls and three that fail: 30 %.
    for up in [
        true, true, true, true, true, true, true, false, false, false,
    ] {
        assert_ne!(circuit.state(), CircuitState::Open);
        let _outcome = client.clone().oneshot(up).await;
    }
    println!("{circuit:?}");
    assert_eq!(circuit.state(), CircuitState::Open);

    // Nothing is sent now. The rejection says when to come back.
    let outcome = client.clone().oneshot(true).await;
    let Err(Error::Rejected(Rejection::CircuitOpen {
        retry_after: Some(wait),
        ..
    })) = outcome
    else {
        panic!("{outcome:?}");
    };
    println!("rejected; a probe may go in {wait:?}");

    tokio::time::sleep(wait).await;
    assert_eq!(circuit.state(), CircuitState::HalfOpen);
    for _ in 0..2 {
        assert_eq!(client.clone().oneshot(true).await, Ok("paid"));
    }
    println!("{circuit:?}");
    assert_eq!(circuit.state(), CircuitState::Closed);
    Ok(())
}
