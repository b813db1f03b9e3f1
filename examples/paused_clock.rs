//! A test with a paused clock: the waits of a retry and the open time of a circuit pass at once. In your
//! tests write `#[tokio::test(start_paused = true)]`, and turn on tokio's feature `test-util`.
//!
//! `cargo run --example paused_clock`

use buttress::circuit_breaker::CircuitState;
use buttress::retry::{Backoff, Cloned, Jitter};
use buttress::{CircuitBreakerLayer, ErrorLayer, RetryLayer};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;
use tokio::time::{Instant, advance};
use tower::{ServiceBuilder, ServiceExt, service_fn};

static SENDS: AtomicU32 = AtomicU32::new(0);

/// Fails three times, and then responds. It uses no socket: a paused clock does not wait for sockets.
async fn upstream((): ()) -> Result<&'static str, &'static str> {
    match SENDS.fetch_add(1, Relaxed) {
        0..3 => Err("down"),
        _ => Ok("a response"),
    }
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let backoff = Backoff::constant(Duration::from_secs(20)).jitter(Jitter::None);
    let retry = RetryLayer::builder().backoff(backoff).replay(Cloned);
    let breaker = CircuitBreakerLayer::builder()
        .consecutive_failures(3)
        .open_for(Duration::from_secs(60))
        .build()?;
    let circuit = breaker.circuit().clone();
    let client = ServiceBuilder::new()
        .layer(retry.build()?)
        .layer(breaker)
        .layer(ErrorLayer)
        .service(service_fn(upstream));

    // When every task waits, the clock jumps to the next timer: the two waits of 20 s pass at once.
    let start = Instant::now();
    let outcome = client.clone().oneshot(()).await;
    let (elapsed, state) = (start.elapsed(), circuit.state());
    println!("after {elapsed:?}: {outcome:?}, the circuit is {state:?}");
    assert_eq!(
        (elapsed, state),
        (Duration::from_secs(40), CircuitState::Open)
    );

    // An open circuit has no timer: `advance` moves the clock.
    advance(Duration::from_secs(60)).await;
    let (elapsed, state) = (start.elapsed(), circuit.state());
    println!("after {elapsed:?}: the circuit is {state:?}");
    assert_eq!(state, CircuitState::HalfOpen);
    let outcome = client.oneshot(()).await;
    println!("then a probe: {outcome:?}");
    assert_eq!(outcome, Ok("a response"));
    Ok(())
}
