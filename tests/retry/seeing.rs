//! Events.

use super::{
    BAD, GOOD, HOUR, SECOND, UNSENT, Upload, Upstream, WAIT, never, retrying, send, spent,
    transient,
};
use crate::events;
use buttress::retry::{Backoff, Jitter};
use buttress::verdict::RetryAfter;
use buttress::{Error, Verdict};
use tower::{Layer, ServiceExt};

#[tokio::test(start_paused = true)]
async fn a_retry_emits_an_event() {
    let upstream = Upstream::new([BAD, GOOD]);
    assert_eq!(
        events::of(send(retrying().name("payments"), &upstream)).await,
        [
            r#"DEBUG buttress::retry retrying name="payments" attempt=1 wait_ms=50 verdict="transient""#
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_retry_of_a_throttled_call_emits_an_event() {
    let upstream = Upstream::new([Ok(Verdict::THROTTLED), GOOD]);
    assert_eq!(
        events::of(send(retrying().name("payments"), &upstream)).await,
        [
            r#"DEBUG buttress::retry retrying name="payments" attempt=1 wait_ms=50 verdict="throttled""#
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn the_event_for_a_retry_has_the_wait_that_the_upstream_asked_for() {
    let upstream = Upstream::new([Ok(transient(3 * SECOND)), GOOD]);
    let events = events::of(send(retrying(), &upstream)).await;
    let wait_ms = events[0].split("wait_ms=").nth(1).unwrap();
    let wait_ms: u64 = wait_ms.split(' ').next().unwrap().parse().unwrap();
    assert!((3_000..=3_750).contains(&wait_ms), "{events:?}");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_out_of_attempts_emits_an_event_after_its_retries() {
    let upstream = Upstream::new([BAD]);
    let backoff = Backoff::exponential(WAIT, SECOND).jitter(Jitter::None);
    let retrying = retrying().backoff(backoff).name("payments");
    assert_eq!(
        events::of(send(retrying, &upstream)).await,
        [
            r#"DEBUG buttress::retry retrying name="payments" attempt=1 wait_ms=50 verdict="transient""#,
            r#"DEBUG buttress::retry retrying name="payments" attempt=2 wait_ms=100 verdict="transient""#,
            r#"DEBUG buttress::retry gave_up name="payments" attempt=3 verdict="transient" reason="attempts""#,
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_cannot_be_repeated_emits_an_event() {
    let retrying = retrying().name("payments").replay(never::<Upload>);
    let service = retrying.build().unwrap().layer(Upstream::new([BAD]));
    assert_eq!(
        events::of(service.oneshot(Upload)).await,
        [
            r#"DEBUG buttress::retry gave_up name="payments" attempt=1 verdict="transient" reason="not_replayable""#
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_would_have_to_wait_too_long_emits_an_event() {
    let retry_after = RetryAfter::Delay(HOUR);
    let upstream = Upstream::new([Ok(Verdict::Throttled { retry_after })]);
    assert_eq!(
        events::of(send(retrying().name("payments"), &upstream)).await,
        [
            r#"DEBUG buttress::retry gave_up name="payments" attempt=1 verdict="throttled" reason="retry_after""#
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_without_a_token_emits_an_event() {
    let upstream = Upstream::new([BAD]);
    assert_eq!(
        events::of(send(spent().name("payments"), &upstream)).await,
        [
            r#"DEBUG buttress::retry gave_up name="payments" attempt=1 verdict="transient" reason="budget""#
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn the_events_of_a_layer_without_a_name_have_no_name() {
    let upstream = Upstream::new([BAD]);
    assert_eq!(
        events::of(send(retrying().attempts(2), &upstream)).await,
        [
            r#"DEBUG buttress::retry retrying attempt=1 wait_ms=50 verdict="transient""#,
            r#"DEBUG buttress::retry gave_up attempt=2 verdict="transient" reason="attempts""#,
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_not_retryable_emits_no_event() {
    let rejected = UNSENT.map(|rejection| Err(Error::Rejected(rejection)));
    let outcomes = [GOOD, Ok(Verdict::Permanent), Ok(Verdict::Ignored)];
    for outcome in outcomes.into_iter().chain(rejected) {
        let upstream = Upstream::new([outcome]);
        assert_eq!(events::of(send(retrying(), &upstream)).await, [""; 0]);
    }
}
