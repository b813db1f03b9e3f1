//! Retry, on tokio's paused clock.

#[path = "../support/events.rs"]
mod events;

mod attempts;
mod budget;
mod by_request;
mod cancellation;
mod discard;
mod readiness;
mod rejections;
mod replay;
mod seeing;
mod waits;

use buttress::retry::{Backoff, Budget, Cloned, RetryBuilder, Withdrawal};
use buttress::verdict::RetryAfter;
use buttress::verdict::Sent;
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
/// The resolution of tokio's timers. They are never early.
const TICK: Duration = Duration::from_millis(1);

#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("failed")]
struct Failed(u32);

/// What the upstream does: it responds with a verdict, or it fails.
type Outcome = Result<Verdict, Error<Failed>>;

const GOOD: Outcome = Ok(Verdict::Healthy);
const BAD: Outcome = Ok(Verdict::TRANSIENT);

/// The rejections that guarantee that nothing was sent.
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

/// Follows a script and repeats its last line for ever. Panics if it is called before it is ready.
/// Its clones are not ready.
struct Upstream {
    shared: Arc<Shared>,
    ready: bool,
}

struct Shared {
    script: Vec<Outcome>,
    sent: Mutex<Vec<Instant>>,
}

impl Upstream {
    fn new(script: impl Into<Vec<Outcome>>) -> Self {
        let shared = Shared {
            script: script.into(),
            sent: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
            ready: false,
        }
    }

    /// How many requests it received.
    fn sent(&self) -> usize {
        self.shared.sent.lock().unwrap().len()
    }

    /// The times between the requests.
    fn waits(&self) -> Vec<Duration> {
        let sent = self.shared.sent.lock().unwrap();
        sent.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }

    fn instances(&self) -> usize {
        Arc::strong_count(&self.shared)
    }
}

impl Clone for Upstream {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            ready: false,
        }
    }
}

impl<Req> Service<Req> for Upstream {
    type Response = Verdict;
    type Error = Error<Failed>;
    type Future = Ready<Outcome>;

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

/// Uses the response as the verdict. Errors are transient.
#[derive(Clone)]
struct ResponseIsVerdict;

impl<E> Classify<Verdict, E> for ResponseIsVerdict {
    fn classify(&self, outcome: Result<&Verdict, &E>) -> Verdict {
        outcome.copied().unwrap_or(Verdict::TRANSIENT)
    }
}

/// Three attempts, 50 ms apart.
fn retrying() -> RetryBuilder<ResponseIsVerdict, Cloned> {
    RetryLayer::builder()
        .backoff(Backoff::constant(WAIT))
        .classify(ResponseIsVerdict)
        .replay(Cloned)
}

async fn send(retrying: RetryBuilder<ResponseIsVerdict, Cloned>, upstream: &Upstream) -> Outcome {
    let layer = retrying.build().unwrap();
    layer.layer(upstream.clone()).oneshot(()).await
}

/// How many requests one call sends to an upstream that follows this script.
async fn sends(retrying: RetryBuilder<ResponseIsVerdict, Cloned>, script: &[Outcome]) -> usize {
    let upstream = Upstream::new(script);
    let _outcome = send(retrying, &upstream).await;
    upstream.sent()
}

/// The waits of one call to an upstream that follows this script.
async fn waits(
    retrying: RetryBuilder<ResponseIsVerdict, Cloned>,
    script: &[Outcome],
) -> Vec<Duration> {
    let upstream = Upstream::new(script);
    let _outcome = send(retrying, &upstream).await;
    upstream.waits()
}

async fn time_of(work: impl Future) -> Duration {
    let start = Instant::now();
    work.await;
    start.elapsed()
}

fn transient(retry_after: Duration) -> Verdict {
    Verdict::Transient {
        retry_after: RetryAfter::Delay(retry_after),
        sent: Sent::Unknown,
    }
}

/// Ten tokens at the start. Each deposit adds one; time adds none.
fn ten_tokens() -> Budget {
    let budget = Budget::builder().floor(10).ratio(1.0).reserve(0.0);
    budget.build().unwrap()
}

/// The same with five tokens spent, so that there is room for deposits.
fn five_tokens_of_ten() -> Budget {
    let budget = ten_tokens();
    for _ in 0..5 {
        budget.try_withdraw().unwrap().spend();
    }
    budget
}

/// Spends all tokens that are left, and returns how many there were.
fn drain(budget: &Budget) -> usize {
    iter::from_fn(|| budget.try_withdraw())
        .map(Withdrawal::spend)
        .count()
}

/// A request that cannot be cloned.
struct Upload;

fn never<Req>(_: &Req) -> Option<Req> {
    None
}

type Call = task::Spawn<<MockRetry as Service<()>>::Future>;
type MockRetry = buttress::retry::Retry<Mock<(), ()>, buttress::verdict::Outcome, Cloned>;

/// A call whose first attempt has reached the upstream, and a budget of ten tokens.
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

/// The same, after the first attempt failed: the call waits before its second attempt.
async fn sleeping_call() -> (Call, Handle<(), ()>, Budget) {
    let (service, mut call, mut handle, budget) = call_in_flight().await;
    drop(service);
    assert_pending!(call.poll());
    let ((), send) = handle.next_request().await.unwrap();
    send.send_error("reset");
    assert_pending!(call.poll());
    (call, handle, budget)
}

fn spent() -> RetryBuilder<ResponseIsVerdict, Cloned> {
    let budget = ten_tokens();
    drain(&budget);
    retrying().budget(budget)
}
