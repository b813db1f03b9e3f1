//! Deadlines that travel with the request, on tokio's paused clock.

#[path = "../support/events.rs"]
mod events;

mod limits;
mod retry;
mod stack;
mod timeout;

use Behavior::{Fails, Hangs, Succeeds};
use buttress::http::InExtensions;
use buttress::retry::{Backoff, Jitter};
use buttress::{
    Carrier, Deadline, Error, LoadShedLayer, Name, Rejection, RetryLayer, TimeoutLayer,
};
use http::Request;
use std::future::{Future, pending};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;
use tower::{Service, service_fn};

type Req = Request<()>;
type Outcome = Result<(), Error<&'static str>>;

const NANO: Duration = Duration::from_nanos(1);
const TICK: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);

const PASSED: Outcome = Err(Error::Rejected(Rejection::DeadlinePassed {
    by: Name::UNNAMED,
}));
const FULL: Outcome = Err(Error::Rejected(Rejection::Overloaded {
    limit: 1,
    by: Name::UNNAMED,
}));
const FAILED: Outcome = Err(Error::Service("failed"));

const fn timed_out(after: Duration) -> Outcome {
    Err(Error::Rejected(Rejection::TimedOut {
        after,
        by: Name::UNNAMED,
    }))
}

fn limited(after: Duration) -> Outcome {
    let retry_after = Some(after);
    Err(Error::Rejected(Rejection::RateLimited {
        retry_after,
        by: Name::UNNAMED,
    }))
}

/// A request to which the caller attached a deadline.
fn by(deadline: Deadline) -> Req {
    let mut request = Request::new(());
    InExtensions.set(&mut request, deadline);
    request
}

fn within(time: Duration) -> Req {
    by(Deadline::after(time))
}

fn bare() -> Req {
    Request::new(())
}

/// Behaves as configured, and records the deadline of each request that reaches it.
#[derive(Clone)]
struct Upstream {
    behavior: Behavior,
    seen: Arc<Mutex<Vec<Option<Deadline>>>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Behavior {
    Succeeds,
    Fails,
    Hangs,
}

impl Upstream {
    fn new(behavior: Behavior) -> Self {
        let seen = Arc::default();
        Self { behavior, seen }
    }

    fn seen(&self) -> Vec<Option<Deadline>> {
        self.seen.lock().unwrap().clone()
    }

    fn sent(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    fn service(
        &self,
    ) -> impl Service<Req, Response = (), Error = Error<&'static str>, Future: Send>
    + Clone
    + Send
    + Sync
    + use<> {
        let Self { behavior, seen } = self.clone();
        service_fn(move |request: Req| {
            seen.lock().unwrap().push(InExtensions.get(&request));
            async move {
                match behavior {
                    Succeeds => Ok(()),
                    Fails => FAILED,
                    Hangs => pending().await,
                }
            }
        })
    }
}

fn timeout(after: Duration) -> TimeoutLayer<InExtensions> {
    let builder = TimeoutLayer::builder(after).carrier(InExtensions);
    builder.build().unwrap()
}

/// The outcome of a call and how long it took. A call that never ends fails its test.
async fn ends(call: impl Future<Output = Outcome>) -> (Outcome, Duration) {
    let start = Instant::now();
    let outcome = tokio::time::timeout(HOUR, call).await;
    (outcome.expect("the call never ended"), start.elapsed())
}

/// The latest instant that the clock can represent.
fn last_instant() -> Instant {
    let seconds = (0..64).rev().map(|power| Duration::from_secs(1 << power));
    let nanos = (0..30).rev().map(|power| Duration::from_nanos(1 << power));
    let last = |at: Instant, step| at.checked_add(step).unwrap_or(at);
    seconds.chain(nanos).fold(Instant::now(), last)
}

/// Retries every second, without a limit.
fn retry() -> RetryLayer {
    let backoff = Backoff::constant(SECOND).jitter(Jitter::None);
    let builder = RetryLayer::builder().attempts(u32::MAX).no_budget();
    builder.backoff(backoff).build().unwrap()
}

/// One slot, and a queue in which calls wait for up to a minute.
fn shed() -> LoadShedLayer<InExtensions> {
    let builder = LoadShedLayer::builder(1).queue(9, 60 * SECOND);
    builder.carrier(InExtensions).build().unwrap()
}
