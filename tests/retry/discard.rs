//! Discarded responses.

use super::{BAD, GOOD, HOUR, SECOND, TICK, Upstream, WAIT, retrying};
use buttress::retry::{Backoff, Discard};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::join;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tower::{Layer, ServiceExt};

/// A `Discard` that waits until it is notified.
#[derive(Clone, Default)]
struct UntilTold(Arc<Notify>);

impl<Res> Discard<Res> for UntilTold {
    type Future = Pin<Box<dyn Future<Output = ()> + Send>>;

    fn discard(&self, _: Res) -> Option<Self::Future> {
        let told = self.0.clone();
        Some(Box::pin(async move { told.notified().await }))
    }
}

/// The time between two attempts if discarding the first response takes `time`.
async fn wait_with_discard_of(time: Duration, backoff: Duration) -> Duration {
    let told = UntilTold::default();
    let retrying = retrying().backoff(Backoff::constant(backoff));
    let layer = retrying.discard(told.clone()).build().unwrap();
    let upstream = Upstream::new([BAD, GOOD]);
    let call = layer.layer(upstream.clone()).oneshot(());
    let tell = async {
        sleep(time).await;
        told.0.notify_one();
    };
    join!(call, tell).0.unwrap();
    upstream.waits()[0]
}

#[tokio::test(start_paused = true)]
async fn an_attempt_waits_until_the_previous_response_is_discarded() {
    for backoff in [Duration::ZERO, WAIT] {
        let wait = wait_with_discard_of(SECOND, backoff).await;
        assert!((SECOND..=SECOND + TICK).contains(&wait), "{wait:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_waits_for_its_backoff_if_the_response_is_discarded_earlier() {
    let wait = wait_with_discard_of(WAIT / 2, WAIT).await;
    assert!((WAIT..=WAIT + TICK).contains(&wait), "{wait:?}");
}

#[tokio::test(start_paused = true)]
async fn the_last_response_is_not_discarded() {
    let layer = retrying().attempts(1).discard(UntilTold::default());
    let call = layer
        .build()
        .unwrap()
        .layer(Upstream::new([BAD]))
        .oneshot(());
    assert_eq!(timeout(HOUR, call).await, Ok(BAD));
}
