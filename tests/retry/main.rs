//! What `Retry` promises, on tokio's paused clock.

#[path = "../support/events.rs"]
mod events;

mod attempts;
mod budget;
mod cancellation;
mod discard;
mod readiness;
mod rejections;
mod replay;
mod seeing;
mod waits;

use buttress::retry::{Backoff, Budget, Cloned, RetryBuilder, Withdrawal};
use buttress::verdict::RetryAfter;
use buttress::{Classify, Error, Name, Rejection, RetryLayer, Verdict};
use std::fmt::Debug;
use std::future::{Ready, ready};
use std::iter;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;
use tokio_test::{assert_pending, task};
use tower::{Layer, Service, ServiceExt};
use tower_test::mock::{self, Handle, Mock};

const WAIT: Duration = Duration::from_millis(50);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
/// The resolution of tokio's timers, which are never early.
const TICK: Duration = Duration::from_millis(1);

#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("failed")]
struct Failed(u32);

/// What a callee does: answers with the verdict on itself, or fails.
type Answer = Result<Verdict, Error<Failed>>;

const GOOD: Answer = Ok(Verdict::Healthy);
const BAD: Answer = Ok(Verdict::TRANSIENT);

/// The rejections after which nothing was sent.
const UNSENT: [Rejection; 4] = [
    Rejection::CircuitOpen {
        retry_after: None,
        by: Name::UNNAMED,
    },
    Rejection::RateLimited {
        retry_after: None,
        by: Name::UNNAMED,
    },
    Rejection::TooCostly {
        cost: 2,
        burst: 1,
        by: Name::UNNAMED,
    },
    Rejection::Overloaded {
        limit: 1,
        by: Name::UNNAMED,
    },
];
const TIMED_OUT: Rejection = Rejection::TimedOut {
    after: SECOND,
    by: Name::UNNAMED,
};

/// Answers by a script, the last line of it for ever. Panics if it is called without being ready,
/// and its clones start unready.
struct Callee {
    shared: Arc<Shared>,
    ready: bool,
}

struct Shared {
    script: Vec<Answer>,
    sent: Mutex<Vec<Instant>>,
}

impl Callee {
    fn new(script: impl Into<Vec<Answer>>) -> Self {
        let shared = Shared {
            script: script.into(),
            sent: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
            ready: false,
        }
    }

    /// How often it was sent something.
    fn sent(&self) -> usize {
        self.shared.sent.lock().unwrap().len()
    }

    /// The times between what it was sent.
    fn waits(&self) -> Vec<Duration> {
        let sent = self.shared.sent.lock().unwrap();
        sent.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }

    fn instances(&self) -> usize {
        Arc::strong_count(&self.shared)
    }
}

impl Clone for Callee {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            ready: false,
        }
    }
}

impl<Req> Service<Req> for Callee {
    type Response = Verdict;
    type Error = Error<Failed>;
    type Future = Ready<Answer>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Req) -> Self::Future {
        assert!(self.ready, "called while not ready");
        self.ready = false;
        let mut sent = self.shared.sent.lock().unwrap();
        sent.push(Instant::now());
        let last = self.shared.script.len() - 1;
        ready(self.shared.script[last.min(sent.len() - 1)])
    }
}

/// Takes an answer at its word; an error is transient.
#[derive(Clone)]
struct AsAnswered;

impl<E> Classify<Verdict, E> for AsAnswered {
    fn classify(&self, outcome: Result<&Verdict, &E>) -> Verdict {
        outcome.copied().unwrap_or(Verdict::TRANSIENT)
    }
}

/// Three attempts, half a tenth of a second apart.
fn retrying() -> RetryBuilder<AsAnswered, Cloned> {
    RetryLayer::builder()
        .backoff(Backoff::constant(WAIT))
        .classify(AsAnswered)
        .replay(Cloned)
}

async fn send(retrying: RetryBuilder<AsAnswered, Cloned>, callee: &Callee) -> Answer {
    let layer = retrying.build().unwrap();
    layer.layer(callee.clone()).oneshot(()).await
}

/// How often a call is sent to a callee of this script.
async fn sends(retrying: RetryBuilder<AsAnswered, Cloned>, script: &[Answer]) -> usize {
    let callee = Callee::new(script);
    let _answer = send(retrying, &callee).await;
    callee.sent()
}

/// The waits of a call to a callee of this script.
async fn waits(retrying: RetryBuilder<AsAnswered, Cloned>, script: &[Answer]) -> Vec<Duration> {
    let callee = Callee::new(script);
    let _answer = send(retrying, &callee).await;
    callee.waits()
}

async fn time_of(work: impl Future) -> Duration {
    let start = Instant::now();
    work.await;
    start.elapsed()
}

fn transient(retry_after: Duration) -> Verdict {
    Verdict::Transient {
        retry_after: RetryAfter::Delay(retry_after),
    }
}

/// Ten tokens at the start; none comes by itself, one for each deposit.
fn ten_tokens() -> Budget {
    let budget = Budget::builder().floor(10).ratio(1.0).reserve(0.0);
    budget.build().unwrap()
}

/// The same, half spent, so that what comes back or in has room.
fn five_tokens_of_ten() -> Budget {
    let budget = ten_tokens();
    for _ in 0..5 {
        budget.try_withdraw().unwrap().spend();
    }
    budget
}

/// Spends what is left, to count it.
fn drain(budget: &Budget) -> usize {
    iter::from_fn(|| budget.try_withdraw())
        .map(Withdrawal::spend)
        .count()
}

/// Cannot be cloned.
struct Upload;

fn never<Req>(_: &Req) -> Option<Req> {
    None
}

type Call = task::Spawn<<MockRetry as Service<()>>::Future>;
type MockRetry = buttress::retry::Retry<Mock<(), ()>, buttress::verdict::Outcome, Cloned>;

/// A call whose first attempt is in the callee's hands, with a budget of ten tokens.
async fn call_in_flight() -> (MockRetry, Call, Handle<(), ()>, Budget) {
    let (service, handle) = mock::pair();
    let budget = ten_tokens();
    let layer = RetryLayer::builder()
        .backoff(Backoff::constant(WAIT))
        .budget(budget.clone())
        .replay(Cloned);
    let mut service = layer.build().unwrap().layer(service);
    let call = task::spawn(service.ready().await.unwrap().call(()));
    (service, call, handle, budget)
}

/// The same, with the first attempt failed and the second waited for.
async fn sleeping_call() -> (Call, Handle<(), ()>, Budget) {
    let (service, mut call, mut handle, budget) = call_in_flight().await;
    drop(service);
    assert_pending!(call.poll());
    let ((), send) = handle.next_request().await.unwrap();
    send.send_error("reset");
    assert_pending!(call.poll());
    (call, handle, budget)
}

fn spent() -> RetryBuilder<AsAnswered, Cloned> {
    let budget = ten_tokens();
    drain(&budget);
    retrying().budget(budget)
}
