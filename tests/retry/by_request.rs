//! Attempts and backoff that a policy chooses for a request.

use super::{BAD, HOUR, SECOND, TICK, Upstream, retrying};
use buttress::http::InExtensions;
use buttress::retry::Within;
use buttress::{Replay, Verdict};
use http::Request;
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tower::{Layer, ServiceExt};

#[derive(Clone, Copy, Default)]
struct Wishes {
    attempts: Option<u32>,
    /// Times the number of the retry.
    wait: Option<Duration>,
}

type Wished = Request<Wishes>;

/// What each request wishes.
#[derive(Clone, Copy)]
struct AsWished;

impl Replay<Wished> for AsWished {
    fn replay(&self, request: &Wished) -> Option<Wished> {
        Some(request.clone())
    }

    fn may_resend(&self, _: &Wished, verdict: Verdict) -> bool {
        verdict == Verdict::TRANSIENT
    }

    fn attempts(&self, copy: &Wished) -> Option<u32> {
        copy.body().attempts
    }

    fn backoff(&self, copy: &Wished, retry: u32, draw: f64) -> Option<Duration> {
        assert!((0.0..1.0).contains(&draw));
        copy.body().wait.map(|wait| wait.saturating_mul(retry))
    }
}

fn with(attempts: impl Into<Option<u32>>, wait: impl Into<Option<Duration>>) -> Wished {
    let (attempts, wait) = (attempts.into(), wait.into());
    Request::new(Wishes { attempts, wait })
}

#[tokio::test(start_paused = true)]
async fn a_request_has_as_many_attempts_as_its_policy_says() {
    for (of_layer, wished, sent) in [
        (3, None, 3),
        (3, Some(0), 1),
        (3, Some(1), 1),
        (3, Some(2), 2),
        (3, Some(7), 7),
        (1, Some(7), 1), // such a layer does not ask
    ] {
        let upstream = Upstream::new([BAD]);
        let layer = retrying().attempts(of_layer).replay(AsWished);
        let layer = layer.no_budget().build().unwrap();
        let service = layer.layer(upstream.clone());
        let _outcome = service.oneshot(with(wished, Duration::ZERO)).await;
        assert_eq!(upstream.sent(), sent, "{of_layer} {wished:?}");
        assert_eq!(layer.snapshot().gave_up.attempts, 1);
        assert_eq!(layer.snapshot().gave_up.not_replayable, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_as_long_as_its_policy_says() {
    // A policy that wraps another asks it.
    let policy = Within::new(AsWished, InExtensions);
    let layer = retrying().replay(policy).no_budget().build().unwrap();
    let service = layer.layer(Upstream::new([BAD]));
    let start = Instant::now();
    let _outcome = service.oneshot(with(4, SECOND)).await;
    let late = start.elapsed().checked_sub(6 * SECOND).unwrap(); // 1 + 2 + 3
    assert!(late <= 3 * TICK, "{late:?}");
}

#[tokio::test(start_paused = true)]
async fn a_request_may_wish_to_wait_for_ever() {
    let layer = retrying().replay(AsWished).build().unwrap();
    let tokens = layer.budget().unwrap().tokens();
    let service = layer.layer(Upstream::new([BAD]));
    let call = service.oneshot(with(None, Duration::MAX));
    assert!(timeout(HOUR, call).await.is_err());
    assert!(layer.budget().unwrap().tokens() >= tokens);
}
