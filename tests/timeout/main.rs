//! Timeout, on tokio's paused clock.

#[path = "../support/events.rs"]
mod events;

mod calls;
mod extremes;
mod seeing;
mod tasks;
mod waiting;

use buttress::timeout::Timeout;
use buttress::{Name, Rejection, StackError, TimeoutLayer};
use std::fmt::Debug;
use std::time::Duration;
use tokio::time::Instant;
use tokio_test::assert_pending;
use tower_test::mock::{self, Handle, Mock, Spawn};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

const AFTER: Duration = Duration::from_millis(100);
const HOUR: Duration = Duration::from_secs(3_600);

const TIMED_OUT: Option<Rejection> = Some(Rejection::TimedOut {
    after: AFTER,
    by: Name::UNNAMED,
});

type Timed = Spawn<Timeout<Mock<(), &'static str>>>;

/// A mock below a timeout. It is ready unless the handle says otherwise.
fn timed(after: Duration) -> (Timed, Handle<(), &'static str>) {
    mock::spawn_layer(TimeoutLayer::new(after))
}

/// The same after one pending `poll_ready`, which starts the timeout.
fn timed_and_waiting() -> (Timed, Handle<(), &'static str>) {
    let (mut service, mut handle) = timed(AFTER);
    handle.allow(0);
    assert_pending!(service.poll_ready());
    (service, handle)
}

/// Fails the test if the timeout never fires. Otherwise the test would hang.
async fn in_time<F: Future>(work: F) -> F::Output {
    let ended = tokio::time::timeout(HOUR, work).await;
    ended.expect("no timeout came")
}

async fn time_of(work: impl Future) -> Duration {
    let start = Instant::now();
    in_time(work).await;
    start.elapsed()
}

fn rejection<Res: Debug>(outcome: Result<Res, BoxError>) -> Option<Rejection> {
    outcome.unwrap_err().rejection()
}
