//! What is watched from the side: the machine, the circuits, and how far the act has come.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use buttress::circuit_breaker::{Circuit, CircuitState};
use tokio::time::{Instant, sleep, sleep_until};

use super::{Log, OpenCircuits, Stand};
use crate::clients::Client;
use crate::scenario::Trouble;

/// Keeps the longest time between two ticks of a millisecond. The whole program runs on one thread,
/// so that nobody was served in that time.
pub async fn machine(longest: Arc<Mutex<Duration>>) {
    let mut last = Instant::now();
    loop {
        sleep(Duration::from_millis(1)).await;
        let mut longest = longest.lock().unwrap_or_else(PoisonError::into_inner);
        *longest = last.elapsed().max(*longest);
        last = Instant::now();
    }
}

/// Counts the circuits that are not closed, far more often than a circuit can open and close.
pub fn circuits(
    clients: &[Client],
    log: Arc<Log<OpenCircuits>>,
) -> impl Future<Output = ()> + use<> {
    let circuits = clients.iter().filter_map(Client::circuit).cloned();
    let circuits: Vec<Circuit> = circuits.collect();
    async move {
        let mut last = None;
        while !circuits.is_empty() {
            let is_open = |circuit: &&Circuit| circuit.state() != CircuitState::Closed;
            let count = circuits.iter().filter(is_open).count();
            if last != Some(count) {
                let from = log.now();
                log.push(OpenCircuits { from, count });
                last = Some(count);
            }
            sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Prints a line a second: how many of the calls that ended in it succeeded.
pub fn progress(
    trouble: Trouble,
    start: Instant,
    stands: &[Stand],
) -> impl Future<Output = ()> + use<> {
    let logs = stands
        .iter()
        .map(|stand| (stand.kind, Arc::clone(&stand.calls), 0));
    let mut logs: Vec<_> = logs.collect();
    async move {
        for second in 1.. {
            sleep_until(start + Duration::from_secs(second)).await;
            print!("  {:<9}{second:>3} s", trouble.name());
            for (kind, log, seen) in &mut logs {
                let calls = log.entries();
                let ended = &calls[*seen..];
                let succeeded = ended.iter().filter(|call| call.succeeded()).count();
                print!("   {} {succeeded:>3}/{:<3}", kind.name(), ended.len());
                *seen = calls.len();
            }
            println!();
        }
    }
}
