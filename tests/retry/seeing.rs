//! The events.

use super::{
    BAD, Callee, GOOD, HOUR, SECOND, UNSENT, Upload, WAIT, never, retrying, send, spent, transient,
};
use crate::events;
use buttress::retry::{Backoff, Jitter};
use buttress::verdict::RetryAfter;
use buttress::{Error, Verdict};
use tower::{Layer, ServiceExt};

#[tokio::test(start_paused = true)]
async fn a_retry_says_so() {
    let callee = Callee::new([BAD, GOOD]);
    assert_eq!(
        events::of(send(retrying().name("payments"), &callee)).await,
        [
            r#"DEBUG buttress::retry retrying name="payments" attempt=1 wait_ms=50 verdict="transient""#
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_retry_of_a_throttled_call_says_so() {
    let callee = Callee::new([Ok(Verdict::THROTTLED), GOOD]);
    assert_eq!(
        events::of(send(retrying().name("payments"), &callee)).await,
        [
            r#"DEBUG buttress::retry retrying name="payments" attempt=1 wait_ms=50 verdict="throttled""#
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_retry_says_how_long_it_waits_for_what_the_callee_asked() {
    let callee = Callee::new([Ok(transient(3 * SECOND)), GOOD]);
    let events = events::of(send(retrying(), &callee)).await;
    let wait_ms = events[0].split("wait_ms=").nth(1).unwrap();
    let wait_ms: u64 = wait_ms.split(' ').next().unwrap().parse().unwrap();
    assert!((3_000..=3_750).contains(&wait_ms), "{events:?}");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_out_of_attempts_says_so_after_its_retries() {
    let callee = Callee::new([BAD]);
    let backoff = Backoff::exponential(WAIT, SECOND).jitter(Jitter::None);
    let retrying = retrying().backoff(backoff).name("payments");
    assert_eq!(
        events::of(send(retrying, &callee)).await,
        [
            r#"DEBUG buttress::retry retrying name="payments" attempt=1 wait_ms=50 verdict="transient""#,
            r#"DEBUG buttress::retry retrying name="payments" attempt=2 wait_ms=100 verdict="transient""#,
            r#"DEBUG buttress::retry gave_up name="payments" attempt=3 verdict="transient" reason="attempts""#,
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_cannot_be_repeated_says_so() {
    let retrying = retrying().name("payments").replay(never::<Upload>);
    let service = retrying.build().unwrap().layer(Callee::new([BAD]));
    assert_eq!(
        events::of(service.oneshot(Upload)).await,
        [
            r#"DEBUG buttress::retry gave_up name="payments" attempt=1 verdict="transient" reason="not_replayable""#
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_would_have_to_wait_for_too_long_says_so() {
    let retry_after = RetryAfter::Delay(HOUR);
    let callee = Callee::new([Ok(Verdict::Throttled { retry_after })]);
    assert_eq!(
        events::of(send(retrying().name("payments"), &callee)).await,
        [
            r#"DEBUG buttress::retry gave_up name="payments" attempt=1 verdict="throttled" reason="retry_after""#
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_finds_no_token_says_so() {
    let callee = Callee::new([BAD]);
    assert_eq!(
        events::of(send(spent().name("payments"), &callee)).await,
        [
            r#"DEBUG buttress::retry gave_up name="payments" attempt=1 verdict="transient" reason="budget""#
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_layer_without_a_name_gives_none_in_its_events() {
    let callee = Callee::new([BAD]);
    assert_eq!(
        events::of(send(retrying().attempts(2), &callee)).await,
        [
            r#"DEBUG buttress::retry retrying attempt=1 wait_ms=50 verdict="transient""#,
            r#"DEBUG buttress::retry gave_up attempt=2 verdict="transient" reason="attempts""#,
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn what_no_retry_mends_says_nothing() {
    let rejected = UNSENT.map(|rejection| Err(Error::Rejected(rejection)));
    let answers = [GOOD, Ok(Verdict::Permanent), Ok(Verdict::Ignored)];
    for answer in answers.into_iter().chain(rejected) {
        let callee = Callee::new([answer]);
        assert_eq!(events::of(send(retrying(), &callee)).await, [""; 0]);
    }
}
