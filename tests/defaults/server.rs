//! A server that can be overloaded.

use http::{Response, StatusCode};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::VecDeque;
use std::future::pending;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, sleep};

/// How many calls the server works on at the same time.
const WORKERS: usize = 8;
/// The work of one call. It continues if the caller cancels the call.
const WORK: Duration = Duration::from_millis(40);
/// Calls per second that keep all workers busy.
pub(crate) const CAPACITY: f64 = 200.0;
/// How many calls may wait for a worker. Working off a full queue takes 750 ms, which is longer
/// than an attempt may take.
const QUEUE: usize = 150;
/// The delay of a response that needs no worker.
const AT_ONCE: Duration = Duration::from_millis(1);

/// What the server does with a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mode {
    /// Queues it for a worker. If the queue is full, a worker refuses it with a 503.
    Serving,
    /// The same, but this share of the requests ends in a 500.
    Erring(f64),
    /// Responds with a 503 immediately.
    Unavailable,
    /// Refuses the connection.
    Refusing,
    /// Never responds.
    Hanging,
}

/// A request that the server received.
pub(crate) struct Received {
    pub(crate) client: usize,
    pub(crate) at: f64,
}

pub(crate) struct Server {
    start: Instant,
    /// The factor by which the server is scaled up.
    scale: usize,
    /// The work of refusing a call.
    refusal: Duration,
    state: Mutex<State>,
    /// One permit per job in the queues.
    jobs: Semaphore,
}

struct State {
    mode: Mode,
    accepted: VecDeque<Job>,
    refused: VecDeque<Job>,
    received: Vec<Received>,
    rng: StdRng,
}

/// The channel for the response.
type Job = oneshot::Sender<StatusCode>;

impl Server {
    /// Starts a server that is `scale` times as large as the constants say. Refusing a call costs
    /// `refusal` times as much as serving one.
    pub(crate) fn start(scale: usize, refusal: f64, seed: u64) -> Arc<Self> {
        let state = State {
            mode: Mode::Serving,
            accepted: VecDeque::new(),
            refused: VecDeque::new(),
            received: Vec::new(),
            rng: StdRng::seed_from_u64(seed),
        };
        let server = Arc::new(Self {
            start: Instant::now(),
            scale,
            refusal: WORK.mul_f64(refusal),
            state: Mutex::new(state),
            jobs: Semaphore::new(0),
        });
        for _ in 0..WORKERS * scale {
            let server = server.clone();
            tokio::spawn(async move {
                loop {
                    server.work().await;
                }
            });
        }
        server
    }

    pub(crate) fn set_mode(&self, mode: Mode) {
        self.state().mode = mode;
    }

    pub(crate) fn take_received(&self) -> Vec<Received> {
        std::mem::take(&mut self.state().received)
    }

    pub(crate) async fn respond(&self, client: usize) -> io::Result<Response<()>> {
        let status = match self.receive(client) {
            Mode::Unavailable => {
                sleep(AT_ONCE).await;
                StatusCode::SERVICE_UNAVAILABLE
            }
            Mode::Refusing => {
                sleep(AT_ONCE).await;
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            Mode::Hanging => pending().await,
            Mode::Serving | Mode::Erring(_) => self.queue().await.expect("a worker responds"),
        };
        let mut response = Response::new(());
        *response.status_mut() = status;
        Ok(response)
    }

    fn receive(&self, client: usize) -> Mode {
        let at = self.start.elapsed().as_secs_f64();
        let mut state = self.state();
        state.received.push(Received { client, at });
        state.mode
    }

    fn queue(&self) -> oneshot::Receiver<StatusCode> {
        let (job, response) = oneshot::channel();
        let mut state = self.state();
        if state.accepted.len() < QUEUE * self.scale {
            state.accepted.push_back(job);
        } else {
            state.refused.push_back(job);
        }
        self.jobs.add_permits(1);
        response
    }

    /// Does one job. Refusals go first.
    async fn work(&self) {
        self.jobs.acquire().await.expect("never closed").forget();
        let refused = self.state().refused.pop_front();
        let (job, status) = if let Some(job) = refused {
            sleep(self.refusal).await;
            (job, StatusCode::SERVICE_UNAVAILABLE)
        } else {
            let accepted = self.state().accepted.pop_front();
            sleep(WORK).await;
            (accepted.expect("a job for each permit"), self.outcome())
        };
        // The caller may have cancelled the call.
        job.send(status).ok();
    }

    fn outcome(&self) -> StatusCode {
        let state = &mut *self.state();
        match state.mode {
            Mode::Erring(share) if state.rng.random_bool(share) => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
            _ => StatusCode::OK,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}
