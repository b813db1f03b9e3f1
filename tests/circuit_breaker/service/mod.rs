//! The circuit breaker as a Tower service: readiness, cancellation, panics, and its events.

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

/// A millisecond earlier.
fn just_before(duration: Duration) -> Duration {
    duration.saturating_sub(MS)
}

type Failure = Error<&'static str>;
const DOWN: Failure = Error::Service("down");

/// Answers with what it is asked to answer.
async fn echo(answer: Result<(), Failure>) -> Result<(), Failure> {
    answer
}

/// Never answers.
fn hang((): ()) -> Pending<Result<(), Failure>> {
    pending()
}

/// A layer whose circuit opens on one failure, and which one probe decides.
fn brittle() -> CircuitBreakerLayer {
    let layer = CircuitBreakerLayer::builder().consecutive_failures(1);
    layer.probes(1).build().unwrap()
}

/// As `brittle`, not ready while open.
fn brittle_not_ready() -> CircuitBreakerLayer {
    let layer = CircuitBreakerLayer::builder().consecutive_failures(1);
    let layer = layer.probes(1).when_open(WhenOpen::NotReady);
    layer.build().unwrap()
}

/// Opens a circuit that one failure opens; how long it is open.
fn trip(circuit: &Circuit) -> Duration {
    let permit = circuit.try_acquire().unwrap();
    permit.settle(Verdict::TRANSIENT);
    circuit.snapshot().retry_after.unwrap()
}

/// Opens a circuit that one failure opens, and waits until probes may go.
async fn trip_and_wait(circuit: &Circuit) {
    advance(trip(circuit)).await;
}

/// What the breaker says that rejected a call.
fn retry_after<E: StackError + Debug>(outcome: &Result<(), E>) -> Option<Duration> {
    match outcome.as_ref().map_err(StackError::rejection) {
        Err(Some(Rejection::CircuitOpen { retry_after, .. })) => retry_after,
        _ => panic!("not rejected by the breaker: {outcome:?}"),
    }
}
