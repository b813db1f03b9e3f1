//! The load: open-loop, so a call is fired when it is due, whatever became of those before it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::client::{self, Client};
use crate::record::{Call, Log};
use crate::script::Phase;

/// One client, the server it calls, and where its calls are written down.
#[derive(Clone, Debug)]
pub struct Caller {
    pub client: Client,
    pub server: SocketAddr,
    pub calls: Arc<Log<Call>>,
}

/// Fires the calls of one phase, for all callers at the same moments, and leaves them under way.
/// Returns how many calls each caller has made.
pub async fn fire(start: Instant, index: usize, phase: Phase, callers: &[Caller]) -> usize {
    let rate = phase.condition.rate();
    let mut fired = 0;
    loop {
        let due = phase.start + Duration::from_secs(1) * fired / rate;
        if due >= phase.end {
            break;
        }
        // Ticks that are late already are not waited for: the machine's pause must not thin the load.
        if start + due > Instant::now() {
            sleep_until(start + due).await;
        }
        for caller in callers {
            tokio::spawn(call(caller.clone(), index, due));
        }
        fired += 1;
    }
    sleep_until(start + phase.end).await;
    fired as usize
}

async fn call(caller: Caller, phase: usize, due: Duration) {
    let request = client::request(caller.server, phase);
    let fired = caller.calls.now();
    let outcome = caller.client.call(request).await;
    let ended = caller.calls.now();
    caller.calls.push(Call {
        phase,
        due,
        fired,
        ended,
        outcome,
    });
}
