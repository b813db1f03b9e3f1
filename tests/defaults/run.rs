//! One run: clients that share a server, and the record of their calls.

use crate::server::{CAPACITY, Mode, Received, Server};
use buttress::Quota;
use buttress::http::stack;
use http::{Request, Response};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tower::util::BoxCloneSyncService;
use tower::{ServiceExt, service_fn};

/// The timeout of each attempt, with and without a stack.
pub(crate) const ATTEMPT: Duration = Duration::from_millis(500);
/// The deadline of a call through a stack.
const DEADLINE: Duration = Duration::from_millis(2_500);
/// The normal load, as a share of the server's capacity.
const USUAL: f64 = 0.72;

/// Normal load, then an incident, then normal load again. Times are in seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    before: f64,
    incident: f64,
    after: f64,
    /// The factor by which the incident multiplies the load.
    load: f64,
    /// What the server does during the incident.
    mode: Mode,
    /// The cost of a refused call to the server, as a share of a served call.
    refusal: f64,
    /// The factor by which the server and the load are scaled up.
    scale: usize,
}

impl Scenario {
    /// The load is doubled for three seconds.
    pub(crate) const OVERLOAD: Self = Self {
        before: 5.0,
        incident: 3.0,
        after: 20.0,
        load: 2.0,
        mode: Mode::Serving,
        refusal: 0.25,
        scale: 1,
    };

    /// The load is doubled for 30 seconds.
    pub(crate) const LONG_OVERLOAD: Self = Self {
        incident: 30.0,
        ..Self::OVERLOAD
    };

    /// The load is doubled for three seconds, and each refused call costs half as much as a served
    /// one.
    pub(crate) const COSTLY: Self = Self {
        refusal: 0.5,
        ..Self::OVERLOAD
    };

    /// The server serves nothing for ten seconds.
    pub(crate) const fn outage(mode: Mode) -> Self {
        Self {
            before: 10.0,
            incident: 10.0,
            after: 12.0,
            load: 1.0,
            mode,
            ..Self::OVERLOAD
        }
    }

    /// A constant share of the calls fails.
    pub(crate) const fn errors(share: f64) -> Self {
        Self {
            before: 0.0,
            incident: 20.0,
            after: 0.0,
            load: 1.0,
            mode: Mode::Erring(share),
            ..Self::OVERLOAD
        }
    }

    /// 10 000 calls per second; connections are refused for 30 ms.
    pub(crate) const fn blip(before: f64) -> Self {
        Self {
            before,
            incident: 0.03,
            after: 0.5,
            load: 1.0,
            mode: Mode::Refusing,
            scale: 70,
            ..Self::OVERLOAD
        }
    }

    fn incident(&self) -> Range<f64> {
        self.before..self.before + self.incident
    }

    fn end(&self) -> f64 {
        self.before + self.incident + self.after
    }
}

/// How the clients are built.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ClientKind {
    /// A timeout and nothing else.
    Bare,
    /// One stack with default settings per client.
    Stack,
    /// The same with a rate limit: this multiple of the client's share of the server's capacity.
    Limited(f64),
}

/// Runs the scenario. The same arguments give the same record.
pub(crate) fn play(scenario: Scenario, clients: usize, made: ClientKind, seed: u64) -> Record {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let server = Server::start(scenario.scale, scenario.refusal, seed);
        let share = CAPACITY * scenario.scale as f64 / clients as f64;
        let clients: Vec<Client> = (0..clients)
            .map(|client| made.client(&server, client, share, seed))
            .collect();
        let calls = call(scenario, &server, &clients, seed).await;
        Record {
            scenario,
            clients: clients.len(),
            calls,
            received: server.take_received(),
        }
    })
}

/// A client. Its response says whether the call succeeded.
type Client = BoxCloneSyncService<Request<()>, bool, io::Error>;

impl ClientKind {
    fn client(self, server: &Arc<Server>, client: usize, share: f64, seed: u64) -> Client {
        let server = server.clone();
        let http = service_fn(move |_: Request<()>| {
            let server = server.clone();
            async move { server.respond(client).await }
        });
        // Repeatable, and different for each client.
        let seed = seed << 32 | client as u64;
        let stack = stack()
            .deadline(DEADLINE)
            .attempt_timeout(ATTEMPT)
            .retry(|retry| retry.seed(seed))
            .circuit_breaker(|breaker| breaker.seed(seed));
        let stack = match self {
            Self::Bare => {
                return Client::new(service_fn(move |request| {
                    let call = timeout(ATTEMPT, http.clone().oneshot(request));
                    async move { Ok(matches!(call.await, Ok(Ok(response)) if is_good(&response))) }
                }));
            }
            Self::Stack => stack,
            Self::Limited(multiple) => {
                let per_minute = Quota::per_minute((share * multiple * 60.0) as u32);
                stack.rate_limit(per_minute)
            }
        };
        let stack = stack.service(http).unwrap();
        Client::new(service_fn(move |request| {
            let call = stack.clone().oneshot(request);
            async move { Ok(call.await.is_ok_and(|response| is_good(&response))) }
        }))
    }
}

fn is_good(response: &Response<()>) -> bool {
    response.status().is_success()
}

/// Makes calls at random times (a Poisson process), each by a random client.
async fn call(scenario: Scenario, server: &Server, clients: &[Client], seed: u64) -> Vec<Call> {
    let start = Instant::now();
    let usual = USUAL * CAPACITY * scenario.scale as f64;
    let mut rng = StdRng::seed_from_u64(seed);
    let mut calls = JoinSet::new();
    let mut at = 0.0;
    loop {
        let (load, mode) = if scenario.incident().contains(&at) {
            (scenario.load, scenario.mode)
        } else {
            (1.0, Mode::Serving)
        };
        server.set_mode(mode);
        at -= (1.0 - rng.random::<f64>()).ln() / (usual * load);
        if at >= scenario.end() {
            let mut calls: Vec<Call> = calls.join_all().await;
            calls.sort_by(|one, other| one.at.total_cmp(&other.at));
            return calls;
        }
        sleep_until(start + Duration::from_secs_f64(at)).await;
        let client = rng.random_range(0..clients.len());
        let call = clients[client].clone().oneshot(Request::new(()));
        calls.spawn(async move {
            let succeeded = call.await.unwrap();
            Call {
                client,
                at,
                succeeded,
            }
        });
    }
}

/// The record of a run.
pub(crate) struct Record {
    scenario: Scenario,
    clients: usize,
    /// In order of time.
    calls: Vec<Call>,
    received: Vec<Received>,
}

struct Call {
    client: usize,
    at: f64,
    succeeded: bool,
}

impl Record {
    /// The number of failed calls.
    pub(crate) fn lost(&self) -> usize {
        self.calls.iter().filter(|call| !call.succeeded).count()
    }

    /// The percentage of all calls that succeeded.
    pub(crate) fn success(&self) -> f64 {
        self.success_in(0.0..self.scenario.end())
    }

    fn success_in(&self, time: Range<f64>) -> f64 {
        let before = |time: f64| self.calls.partition_point(|call| call.at < time);
        let calls = &self.calls[before(time.start)..before(time.end)];
        let good = calls.iter().filter(|call| call.succeeded).count();
        good as f64 / calls.len() as f64 * 100.0
    }

    /// Seconds from the end of the incident until at least 99 % succeed in every following second.
    pub(crate) fn back_after(&self) -> f64 {
        let end = self.scenario.incident().end;
        let steps = ((self.scenario.after - 1.0) * 10.0) as u32;
        let tenths = |step| f64::from(step) / 10.0;
        let is_bad = |step: &u32| {
            let from = end + tenths(*step);
            self.success_in(from..from + 1.0) < 99.0
        };
        (0..=steps)
            .rev()
            .find(is_bad)
            .map_or(0.0, |last| tenths(last + 1))
    }

    /// The most requests above 1.1 times its calls that any client sent in any ten seconds.
    pub(crate) fn most_added(&self) -> f64 {
        (0..self.clients)
            .map(|client| {
                let calls = self.calls.iter().filter(|call| call.client == client);
                let calls: Vec<f64> = calls.map(|call| call.at).collect();
                let sends = self.received.iter().filter(|sent| sent.client == client);
                let sends: Vec<f64> = sends.map(|sent| sent.at).collect();
                self.most_in_ten_seconds(&sends, &calls, |sends, calls| sends - 1.1 * calls)
            })
            .fold(f64::NEG_INFINITY, f64::max)
    }

    /// The most requests per call that all clients together sent in any ten seconds.
    pub(crate) fn most_sends_per_call(&self) -> f64 {
        let calls: Vec<f64> = self.calls.iter().map(|call| call.at).collect();
        let sends: Vec<f64> = self.received.iter().map(|sent| sent.at).collect();
        self.most_in_ten_seconds(&sends, &calls, |sends, calls| sends / calls)
    }

    fn most_in_ten_seconds(
        &self,
        sends: &[f64],
        calls: &[f64],
        measure: impl Fn(f64, f64) -> f64,
    ) -> f64 {
        let count = |times: &[f64], window: &Range<f64>| {
            times.iter().filter(|at| window.contains(at)).count() as f64
        };
        let steps = ((self.scenario.end() - 10.0) * 2.0) as u32;
        (0..=steps)
            .map(|step| f64::from(step) / 2.0)
            .map(|from| from..from + 10.0)
            .map(|window| measure(count(sends, &window), count(calls, &window)))
            .fold(f64::NEG_INFINITY, f64::max)
    }
}
