//! What is watched from beside: the machine, the breaker, and how far the run has come.

use std::sync::Arc;
use std::time::Duration;

use buttress::circuit_breaker::Circuit;
use tokio::time::{Instant, sleep, sleep_until};

use crate::load::Caller;
use crate::record::{CLIENTS, Change, Gap, Log, Outcome};

/// Ticks every millisecond and does nothing else: what it sees late, everybody saw late, because
/// the whole run shares its thread.
pub async fn machine(gaps: Arc<Log<Gap>>) {
    let mut from = gaps.now();
    loop {
        sleep(Duration::from_millis(1)).await;
        let to = gaps.now();
        gaps.push(Gap { from, to });
        from = to;
    }
}

/// Looks at the breaker far more often than it can open and close.
pub async fn breaker(circuit: Circuit, changes: Arc<Log<Change>>) {
    let mut last = None;
    loop {
        let state = circuit.state();
        if last != Some(state) {
            changes.push(Change {
                at: changes.now(),
                to: state,
            });
            last = Some(state);
        }
        sleep(Duration::from_millis(2)).await;
    }
}

/// Prints a line a second: the calls that ended in it, how many of them well, and the breaker.
pub async fn progress(start: Instant, callers: Vec<Caller>, circuit: Circuit) {
    let mut seen = [0; CLIENTS.len()];
    for second in 1.. {
        sleep_until(start + Duration::from_secs(second)).await;
        let clients = CLIENTS.iter().zip(&callers).zip(&mut seen);
        let clients = clients.map(|((client, caller), seen)| {
            let calls = caller.calls.entries();
            let ended = &calls[*seen..];
            *seen = calls.len();
            let succeeded = ended
                .iter()
                .filter(|call| call.outcome == Outcome::Succeeded)
                .count();
            format!("{client} {succeeded:>3} of {:<3}", ended.len())
        });
        let clients = clients.collect::<Vec<_>>().join("   ");
        println!(
            "  {second:>3} s   {clients}   breaker {:?}",
            circuit.state()
        );
    }
}
