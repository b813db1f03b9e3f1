//! The circuit through its handle: when it opens, how long it stays open, and how it closes again.

mod by_hand;
mod closed;
mod half_open;
mod open;

use buttress::circuit_breaker::{Circuit, CircuitBuilder};
use buttress::error::Rejected;
use buttress::verdict::Sent;
use buttress::{Rejection, Verdict};
use std::time::Duration;
use tokio::time::advance;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

/// One millisecond less.
fn just_before(duration: Duration) -> Duration {
    duration.saturating_sub(MS)
}

/// Records one call per letter: `S` healthy, `F` transient failure, `I` ignored, `T` throttled.
fn calls(circuit: &Circuit, outcomes: &str) {
    for outcome in outcomes.chars() {
        let verdict = match outcome {
            'S' => Verdict::Healthy,
            'F' => Verdict::TRANSIENT,
            'I' => Verdict::Ignored,
            'T' => Verdict::THROTTLED,
            _ => unreachable!("{outcome}"),
        };
        let permit = circuit.try_acquire().expect("the call may go");
        permit.settle(verdict);
    }
}

/// A successful call that takes this long.
async fn call_lasting(circuit: &Circuit, duration: Duration) {
    let permit = circuit.try_acquire().expect("the call may go");
    advance(duration).await;
    permit.settle(Verdict::Healthy);
}

/// A call that its caller cancels after this long.
async fn call_cancelled_after(circuit: &Circuit, duration: Duration) {
    let permit = circuit.try_acquire().expect("the call may go");
    advance(duration).await;
    drop(permit);
}

/// The `retry_after` of a rejected call.
fn rejected(circuit: &Circuit) -> Option<Duration> {
    match circuit.try_acquire() {
        Err(Rejected(Rejection::CircuitOpen { retry_after, .. })) => retry_after,
        other => panic!("not rejected: {other:?}"),
    }
}

/// A circuit that opens on the first failure. One probe decides whether it closes.
fn brittle() -> CircuitBuilder {
    Circuit::builder().consecutive_failures(1).probes(1)
}

/// The same, with an open time of 5 s that doubles up to a minute.
fn brittle_for_seconds() -> CircuitBuilder {
    brittle().open_for(5 * SECOND).max_open_for(60 * SECOND)
}

/// Opens the circuit with one failure and waits until it admits a probe.
async fn open_and_wait(circuit: &Circuit) {
    calls(circuit, "F");
    advance(circuit.snapshot().retry_after.unwrap()).await;
}

fn transient(retry_after: Duration) -> Verdict {
    let retry_after = buttress::verdict::RetryAfter::Delay(retry_after);
    Verdict::Transient {
        retry_after,
        sent: Sent::Unknown,
    }
}
