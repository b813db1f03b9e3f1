//! Plays one act: starts servers and clients, makes the calls, and writes down what became of them.

mod watch;

use std::error::Error;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::clients::{self, Client, Kind, Outcome, Sends};
use crate::scenario::{Act, CLIENTS, DEADLINE, Phase};
use crate::server::{Server, Work};

/// One call of one client. All times are counted from the start of the act.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// When the call was due. A busy machine may make it later.
    pub due: Duration,
    /// When the client got it.
    pub fired: Duration,
    /// When the caller had its outcome.
    pub ended: Duration,
    pub sends: u32,
    pub outcome: Outcome,
}

impl Call {
    /// How long the caller waited.
    pub fn waited(&self) -> Duration {
        self.ended.saturating_sub(self.fired)
    }

    pub fn succeeded(&self) -> bool {
        self.outcome == Outcome::Succeeded
    }
}

/// How many circuits of one kind of clients were not closed, from a time on.
#[derive(Clone, Copy, Debug)]
pub struct OpenCircuits {
    pub from: Duration,
    pub count: usize,
}

/// What became of one kind of clients and their server.
#[derive(Clone, Debug)]
pub struct Side {
    pub kind: Kind,
    pub calls: Vec<Call>,
    pub work: Vec<Work>,
    pub open: Vec<OpenCircuits>,
}

#[derive(Clone, Debug)]
pub struct Record {
    pub act: Act,
    pub sides: Vec<Side>,
    /// The longest time for which the machine did nothing for this process.
    pub stall: Duration,
}

/// A list that many tasks append to.
#[derive(Debug)]
pub struct Log<T> {
    start: Instant,
    entries: Mutex<Vec<T>>,
}

impl<T> Log<T> {
    fn new(start: Instant) -> Self {
        let entries = Mutex::new(Vec::new());
        Self { start, entries }
    }

    /// The time since the start of the act.
    pub fn now(&self) -> Duration {
        self.start.elapsed()
    }

    pub fn push(&self, entry: T) {
        self.entries().push(entry);
    }

    fn entries(&self) -> MutexGuard<'_, Vec<T>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Vec<T> {
        std::mem::take(&mut *self.entries())
    }
}

/// A server and the clients that share it.
struct Stand {
    kind: Kind,
    server: Server,
    clients: Vec<Client>,
    calls: Arc<Log<Call>>,
    work: Arc<Log<Work>>,
    open: Arc<Log<OpenCircuits>>,
}

impl Stand {
    fn new(kind: Kind, start: Instant) -> Result<Self, Box<dyn Error>> {
        let work = Arc::new(Log::new(start));
        let clients = (0..CLIENTS).map(|_| kind.client());
        Ok(Self {
            kind,
            server: Server::start(Arc::clone(&work))?,
            clients: clients.collect::<Result<_, _>>()?,
            calls: Arc::new(Log::new(start)),
            work,
            open: Arc::new(Log::new(start)),
        })
    }

    /// Makes the call that is due now, by one of the clients.
    fn call(&self, client: usize, due: Duration) -> impl Future<Output = ()> + use<> {
        let client = self.clients[client].clone();
        let (log, server) = (Arc::clone(&self.calls), self.server.address());
        async move {
            let sends = Sends::default();
            let fired = log.now();
            let outcome = client.call(clients::request(server, &sends)).await;
            let (ended, sends) = (log.now(), sends.count());
            log.push(Call {
                due,
                fired,
                ended,
                sends,
                outcome,
            });
        }
    }

    fn into_side(self) -> Side {
        Side {
            kind: self.kind,
            calls: self.calls.take(),
            work: self.work.take(),
            open: self.open.take(),
        }
    }
}

pub async fn play(act: Act) -> Result<Record, Box<dyn Error>> {
    let start = Instant::now();
    let stands = act.kinds.iter().map(|&kind| Stand::new(kind, start));
    let mut stands: Vec<Stand> = stands.collect::<Result<_, _>>()?;

    let stall = Arc::new(Mutex::new(Duration::ZERO));
    let mut watchers = JoinSet::new();
    watchers.spawn(watch::machine(Arc::clone(&stall)));
    watchers.spawn(watch::progress(act.trouble, start, &stands));
    for stand in &stands {
        watchers.spawn(watch::circuits(&stand.clients, Arc::clone(&stand.open)));
    }

    let calls = load(&act, start, &mut stands).await?;
    // Three attempts and the waits between them take less.
    timeout(2 * DEADLINE, calls.join_all())
        .await
        .map_err(|_| "some calls never ended")?;
    watchers.shutdown().await;

    let stall = *stall.lock().unwrap_or_else(PoisonError::into_inner);
    let sides = stands.into_iter().map(Stand::into_side).collect();
    Ok(Record { act, sides, stall })
}

/// Makes the calls when they are due, whatever became of those before them: callers outside do not
/// know how the server is. All kinds get the same calls.
async fn load(act: &Act, start: Instant, stands: &mut [Stand]) -> io::Result<JoinSet<()>> {
    let mut rng = StdRng::seed_from_u64(1);
    let mut calls = JoinSet::new();
    let mut phase = Phase::Before;
    let mut due = Duration::ZERO;
    while due < act.length() {
        // A call that is late already is made at once: a busy machine must not thin the load.
        if start + due > Instant::now() {
            sleep_until(start + due).await;
        }
        if phase != act.phase(due) {
            phase = act.phase(due);
            let trouble = (phase == Phase::During).then_some(act.trouble);
            for stand in &mut *stands {
                stand.server.suffer(trouble).await?;
            }
        }
        let client = rng.random_range(0..CLIENTS as usize);
        for stand in &*stands {
            calls.spawn(stand.call(client, due));
        }
        // Exponential distances make a Poisson process.
        let gap = -(1.0 - rng.random::<f64>()).ln() / act.load(due);
        due += Duration::from_secs_f64(gap);
    }
    Ok(calls)
}
