//! One run of the script: everything is started, everything is stopped, and the record is returned.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::client::{self, Client};
use crate::connector::{Connector, Sockets};
use crate::load::{self, Caller};
use crate::record::{CLIENTS, Log, Record, Sent, Side};
use crate::script::Script;
use crate::server::Server;
use crate::{stack, watch};

/// No client takes longer over a call, so one that does has lost it.
const LAST_CALLS: Duration = Duration::from_secs(10);

/// A server, its client, and what is written down about them.
struct Pair {
    server: Server,
    caller: Caller,
    sends: Arc<Log<Sent>>,
    sockets: Arc<Sockets>,
}

pub async fn run(script: Script) -> Result<Record, Box<dyn Error>> {
    let start = Instant::now();
    let script = Arc::new(script);
    let mut circuit = None;
    let mut pairs = [
        pair(start, &script, |http| Ok(Client::Bare(http)))?,
        pair(start, &script, |http| Ok(Client::Naive(http)))?,
        pair(start, &script, |http| {
            let (stack, its_circuit) = stack::new(http)?;
            circuit = Some(its_circuit);
            Ok(Client::Buttress(stack))
        })?,
    ];
    let circuit = circuit.expect("the third client has a breaker");
    let callers: Vec<Caller> = pairs.iter().map(|pair| pair.caller.clone()).collect();

    let gaps = Arc::new(Log::new(start));
    let changes = Arc::new(Log::new(start));
    let mut watchers = JoinSet::new();
    watchers.spawn(watch::machine(Arc::clone(&gaps)));
    watchers.spawn(watch::breaker(circuit.clone(), Arc::clone(&changes)));
    watchers.spawn(watch::progress(start, callers.clone(), circuit));

    let mut fired = 0;
    for (index, &phase) in script.phases.iter().enumerate() {
        println!("{}: {}", phase.condition.name(), phase.condition.in_words());
        for pair in &mut pairs {
            pair.server.face(phase.condition).await?;
        }
        fired += load::fire(start, index, phase, &callers).await;
        if phase.condition.is_good() {
            // No trouble begins under a call that was promised a callee that is well. The last phase
            // is such a one, so that no call outlasts the run.
            all_ended(&callers, fired).await?;
        }
    }
    watchers.shutdown().await;

    Ok(Record {
        script: (*script).clone(),
        sides: pairs.map(|pair| Side {
            calls: pair.caller.calls.take(),
            sends: pair.sends.take(),
            sockets: pair.sockets.most(),
        }),
        gaps: gaps.take(),
        breaker: changes.take(),
    })
}

/// Waits until every caller has had so many outcomes.
async fn all_ended(callers: &[Caller], fired: usize) -> Result<(), String> {
    for (name, caller) in CLIENTS.iter().zip(callers) {
        let ended = async {
            while caller.calls.entries().len() < fired {
                sleep(Duration::from_millis(1)).await;
            }
        };
        let in_time = timeout(LAST_CALLS, ended).await;
        in_time.map_err(|_| format!("some calls of {name} never ended"))?;
    }
    Ok(())
}

fn pair(
    start: Instant,
    script: &Arc<Script>,
    client: impl FnOnce(client::Http) -> Result<Client, Box<dyn Error>>,
) -> Result<Pair, Box<dyn Error>> {
    let sends = Arc::new(Log::new(start));
    let sockets = Arc::new(Sockets::new());
    let server = Server::start(Arc::clone(&sends))?;
    let connector = Connector::new(
        server.address(),
        Arc::clone(script),
        Arc::clone(&sends),
        Arc::clone(&sockets),
    );
    let caller = Caller {
        client: client(client::http(connector))?,
        server: server.address(),
        calls: Arc::new(Log::new(start)),
    };
    Ok(Pair {
        server,
        caller,
        sends,
        sockets,
    })
}
