//! Events.

use super::{AFTER, BoxError, in_time, timed};
use crate::events;
use buttress::TimeoutLayer;
use tower::{Layer, ServiceExt, service_fn};
use tower_test::mock::{self};

#[tokio::test(start_paused = true)]
async fn a_call_that_times_out_emits_an_event() {
    let layer = TimeoutLayer::builder(AFTER).name("payments").build();
    let (service, _handle) = mock::pair::<(), ()>();
    let service = layer.unwrap().layer(service);
    assert_eq!(
        events::of(in_time(service.oneshot(()))).await,
        [r#"DEBUG buttress::timeout timed_out name="payments" after_ms=100"#]
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waited_too_long_emits_one_event() {
    let layer = TimeoutLayer::builder(AFTER).name("payments").build();
    let (service, mut handle) = mock::pair::<(), ()>();
    handle.allow(0);
    let service = layer.unwrap().layer(service);
    assert_eq!(
        events::of(in_time(service.oneshot(()))).await,
        [r#"DEBUG buttress::timeout timed_out name="payments" after_ms=100"#]
    );
}

#[tokio::test(start_paused = true)]
async fn the_events_of_a_layer_without_a_name_have_no_name() {
    let (service, _handle) = timed(AFTER);
    assert_eq!(
        events::of(in_time(service.into_inner().oneshot(()))).await,
        ["DEBUG buttress::timeout timed_out after_ms=100"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_with_a_response_emits_no_event() {
    let service = TimeoutLayer::new(AFTER).layer(service_fn(|()| async { Ok::<_, BoxError>(()) }));
    assert_eq!(events::of(in_time(service.oneshot(()))).await, [""; 0]);
}
