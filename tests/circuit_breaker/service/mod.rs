//! The circuit breaker as a Tower service: readiness, cancellation, panics and events.

mod not_ready;
mod outcomes;
mod readiness;
mod seeing;

use buttress::circuit_breaker::{Circuit, CircuitBreakerLayer, WhenOpen};
use buttress::{Error, Rejection, StackError, Verdict};
use std::fmt::Debug;
use std::future::{Pending, pending};
use std::time::Duration;
use tokio::time::advance;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// One millisecond less.
fn just_before(duration: Duration) -> Duration {
    duration.saturating_sub(MS)
}

type Failure = Error<&'static str>;
const DOWN: Failure = Error::Service("down");

/// Returns its request as the outcome.
async fn echo(outcome: Result<(), Failure>) -> Result<(), Failure> {
    outcome
}

/// Never responds.
fn hang((): ()) -> Pending<Result<(), Failure>> {
    pending()
}

/// A layer whose circuit opens on the first failure. One probe decides whether it closes.
fn brittle() -> CircuitBreakerLayer {
    let layer = CircuitBreakerLayer::builder().consecutive_failures(1);
    layer.probes(1).build().unwrap()
}

/// Like `brittle`, but not ready while the circuit is open.
fn brittle_not_ready() -> CircuitBreakerLayer {
    let layer = CircuitBreakerLayer::builder().consecutive_failures(1);
    let layer = layer.probes(1).when_open(WhenOpen::NotReady);
    layer.build().unwrap()
}

/// Opens the circuit with one failure and returns how long it stays open.
fn trip(circuit: &Circuit) -> Duration {
    let permit = circuit.try_acquire().unwrap();
    permit.settle(Verdict::TRANSIENT);
    circuit.snapshot().retry_after.unwrap()
}

/// Opens the circuit with one failure and waits until it admits a probe.
async fn trip_and_wait(circuit: &Circuit) {
    advance(trip(circuit)).await;
}

/// The `retry_after` of a call that the circuit breaker rejected.
fn retry_after<E: StackError + Debug>(outcome: &Result<(), E>) -> Option<Duration> {
    match outcome.as_ref().map_err(StackError::rejection) {
        Err(Some(Rejection::CircuitOpen { retry_after, .. })) => retry_after,
        _ => panic!("not rejected by the breaker: {outcome:?}"),
    }
}
