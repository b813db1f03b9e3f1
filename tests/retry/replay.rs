//! Requests that can be repeated, and those that cannot.

use super::{
    Answer, BAD, Callee, Failed, GOOD, TIMED_OUT, Upload, drain, never, retrying, ten_tokens,
};
use buttress::{Error, Verdict};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tower::{Layer, Service, ServiceExt};

/// Whatever an attempt may end in.
const OUTCOMES: [Answer; 6] = [
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
        let callee = Callee::new([outcome]);
        let _answer = layer.layer(callee.clone()).oneshot(Upload).await;
        assert_eq!(callee.sent(), 1, "{outcome:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_outcome_of_a_request_that_cannot_be_repeated_is_returned_unchanged() {
    let layer = retrying().replay(never::<Upload>).build().unwrap();
    for outcome in OUTCOMES {
        let callee = Callee::new([outcome]);
        assert_eq!(layer.layer(callee).oneshot(Upload).await, outcome);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_cannot_be_repeated_costs_no_token() {
    let budget = ten_tokens();
    let retrying = retrying().budget(budget.clone());
    let layer = retrying.replay(never::<Upload>).build().unwrap();
    let _answer = layer.layer(Callee::new([BAD])).oneshot(Upload).await;
    assert_eq!(drain(&budget), 10);
}

#[tokio::test(start_paused = true)]
async fn the_service_is_not_cloned_for_a_request_that_cannot_be_repeated() {
    let layer = retrying().replay(never::<Upload>).build().unwrap();
    let callee = Callee::new([BAD]);
    let mut service = layer.layer(callee.clone());
    let before = callee.instances();
    let _call = service.ready().await.unwrap().call(Upload);
    assert_eq!(callee.instances(), before);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_can_be_repeated_once_is_sent_twice() {
    // The request counts how often it may still be repeated.
    let layer = retrying().replay(|left: &u32| left.checked_sub(1));
    let callee = Callee::new([BAD]);
    let service = layer.attempts(5).build().unwrap().layer(callee.clone());
    let _answer = service.oneshot(1).await;
    assert_eq!(callee.sent(), 2);
}

#[tokio::test(start_paused = true)]
async fn no_copy_is_made_that_could_not_be_sent() {
    let copies = AtomicUsize::new(0);
    let counted = |(): &()| {
        copies.fetch_add(1, Relaxed);
        Some(())
    };
    let layer = retrying().replay(counted).attempts(3).build().unwrap();
    let _answer = layer.layer(Callee::new([BAD])).oneshot(()).await;
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
    let _answer = layer.layer(Callee::new([BAD])).oneshot(()).await;
    assert_eq!(copies.load(Relaxed), 0);
}
