//! Requests that can be repeated, and requests that cannot.

use super::{
    BAD, Failed, GOOD, Outcome, TIMED_OUT, Upload, Upstream, drain, never, retrying, ten_tokens,
};
use buttress::{Error, Verdict};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tower::{Layer, Service, ServiceExt};

/// All outcomes of an attempt.
const OUTCOMES: [Outcome; 6] = [
    GOOD,
    BAD,
    Ok(Verdict::THROTTLED),
    Ok(Verdict::Permanent),
    Err(Error::Service(Failed(0))),
    Err(Error::Rejected(TIMED_OUT)),
];

#[tokio::test(start_paused = true)]
async fn a_request_that_cannot_be_repeated_is_sent_once() {
    let layer = retrying().replay(never::<Upload>).build().unwrap();
    for outcome in OUTCOMES {
        let upstream = Upstream::new([outcome]);
        let _outcome = layer.layer(upstream.clone()).oneshot(Upload).await;
        assert_eq!(upstream.sent(), 1, "{outcome:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_outcome_of_a_request_that_cannot_be_repeated_is_returned_unchanged() {
    let layer = retrying().replay(never::<Upload>).build().unwrap();
    for outcome in OUTCOMES {
        let upstream = Upstream::new([outcome]);
        assert_eq!(layer.layer(upstream).oneshot(Upload).await, outcome);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_cannot_be_repeated_costs_no_token() {
    let budget = ten_tokens();
    let retrying = retrying().budget(budget.clone());
    let layer = retrying.replay(never::<Upload>).build().unwrap();
    let _outcome = layer.layer(Upstream::new([BAD])).oneshot(Upload).await;
    assert_eq!(drain(&budget), 10);
}

#[tokio::test(start_paused = true)]
async fn the_service_is_not_cloned_for_a_request_that_cannot_be_repeated() {
    let layer = retrying().replay(never::<Upload>).build().unwrap();
    let upstream = Upstream::new([BAD]);
    let mut service = layer.layer(upstream.clone());
    let before = upstream.instances();
    let _call = service.ready().await.unwrap().call(Upload);
    assert_eq!(upstream.instances(), before);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_can_be_repeated_once_is_sent_twice() {
    // The request is a count of how many more times it may be copied.
    let layer = retrying().replay(|left: &u32| left.checked_sub(1));
    let upstream = Upstream::new([BAD]);
    let service = layer.attempts(5).build().unwrap().layer(upstream.clone());
    let _outcome = service.oneshot(1).await;
    assert_eq!(upstream.sent(), 2);
}

#[tokio::test(start_paused = true)]
async fn no_copy_is_made_that_could_not_be_sent() {
    let copies = AtomicUsize::new(0);
    let counted = |(): &()| {
        copies.fetch_add(1, Relaxed);
        Some(())
    };
    let layer = retrying().replay(counted).attempts(3).build().unwrap();
    let _outcome = layer.layer(Upstream::new([BAD])).oneshot(()).await;
    assert_eq!(copies.load(Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn one_attempt_needs_no_copy() {
    let copies = AtomicUsize::new(0);
    let counted = |(): &()| {
        copies.fetch_add(1, Relaxed);
        Some(())
    };
    let layer = retrying().replay(counted).attempts(1).build().unwrap();
    let _outcome = layer.layer(Upstream::new([BAD])).oneshot(()).await;
    assert_eq!(copies.load(Relaxed), 0);
}
