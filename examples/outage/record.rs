//! What is written down while the outage runs. Everything is judged and drawn from this afterwards.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use buttress::Rejection;
use buttress::circuit_breaker::CircuitState;
use tokio::time::Instant;

use crate::script::Script;

/// The three clients, in the order of every table.
pub const CLIENTS: [&str; 3] = ["bare", "naive", "buttress"];

/// What a caller got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Succeeded,
    /// An answer that is no success, or no answer at all.
    Failed,
    /// The caller's time was up.
    TimedOut,
    /// One of our own layers said no. `TimedOut` is never in here.
    Rejected(Rejection),
}

/// One call of one client.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// The phase in which it was due.
    pub phase: usize,
    /// When it was due; a call that the machine fired late was due all the same.
    pub due: Duration,
    /// When the client got it.
    pub fired: Duration,
    /// When its outcome was known.
    pub ended: Duration,
    pub outcome: Outcome,
}

impl Call {
    /// What the caller waited, lateness of the machine and all.
    pub fn waited(&self) -> Duration {
        self.ended.saturating_sub(self.due)
    }

    /// How long the client had it, which is all that the client can answer for.
    pub fn held(&self) -> Duration {
        self.ended.saturating_sub(self.fired)
    }
}

/// One request that reached the server, or one connection that it refused.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    pub at: Duration,
    /// The phase of the call behind it.
    pub phase: usize,
}

/// A list that many tasks append to, each entry with the time of the run.
#[derive(Debug)]
pub struct Log<T> {
    start: Instant,
    entries: Mutex<Vec<T>>,
}

impl<T> Log<T> {
    pub fn new(start: Instant) -> Self {
        Self {
            start,
            entries: Mutex::new(Vec::new()),
        }
    }

    /// The time of the run.
    pub fn now(&self) -> Duration {
        self.start.elapsed()
    }

    pub fn push(&self, entry: T) {
        self.entries().push(entry);
    }

    pub fn entries(&self) -> MutexGuard<'_, Vec<T>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn take(&self) -> Vec<T> {
        std::mem::take(&mut *self.entries())
    }
}

/// All that was written down about one client and its server.
#[derive(Debug)]
pub struct Side {
    pub calls: Vec<Call>,
    pub sends: Vec<Sent>,
    /// The most connections held at once.
    pub sockets: usize,
}

/// A moment at which the breaker was seen in another state than before.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    pub at: Duration,
    pub to: CircuitState,
}

/// From one tick of the bare ticker to the next.
#[derive(Clone, Copy, Debug)]
pub struct Gap {
    pub from: Duration,
    pub to: Duration,
}

/// All that was written down in one run.
#[derive(Debug)]
pub struct Record {
    pub script: Script,
    /// In the order of [`CLIENTS`].
    pub sides: [Side; 3],
    pub gaps: Vec<Gap>,
    pub breaker: Vec<Change>,
}
