use super::{BUTTRESS, SEATBELT, TOWER, TOWER_RESILIENCE, ours};
use crate::case::{Case, Contender, Work};
use crate::tasks::Called;
use crate::upstream::{AtOnce, PendingOnce, Upstream};
use std::task::{Context, Waker};
use tower::ServiceBuilder;
use tower_resilience_bulkhead::BulkheadLayer;

pub const CASES: &[Case] = &[
    Case::new("load shed, accepted", Work::Succeeds, || accepted(AtOnce))
        .pending(|| accepted(PendingOnce(AtOnce)))
        .without(&[NOT_SEATBELT]),
    Case::new("load shed, rejected", Work::Rejected, rejected).without(&[NOT_SEATBELT]),
];

const NOT_SEATBELT: (&str, &str) = (SEATBELT, "has no concurrency limit");

fn accepted(upstream: impl Upstream) -> Vec<Contender> {
    vec![
        Contender::new(BUTTRESS, || ours::load_shed(256, upstream)),
        Contender::new(TOWER, || tower(256, upstream)),
        Contender::new(TOWER_RESILIENCE, || tower_resilience(256, upstream)),
    ]
}

/// One call may be in flight, and one is.
fn rejected() -> Vec<Contender> {
    let upstream = PendingOnce(AtOnce);
    vec![
        Contender::new(BUTTRESS, || full(ours::load_shed(1, upstream))),
        Contender::new(TOWER, || full(tower(1, upstream))),
        Contender::in_tasks_only(TOWER_RESILIENCE, || full(tower_resilience(1, upstream)))
            .note("a rejection sleeps for one tick of the timer, so it needs a runtime"),
    ]
}

/// The service with one call that stays in flight for ever.
fn full<S: Called>(mut service: S) -> S {
    let mut cx = Context::from_waker(Waker::noop());
    assert!(service.poll_ready(&mut cx).is_ready());
    let call: &'static mut _ = Box::leak(Box::new(Box::pin(service.call(0))));
    assert!(call.as_mut().poll(&mut cx).is_pending());
    service
}

fn tower(limit: usize, upstream: impl Upstream) -> impl Called + Clone {
    ServiceBuilder::new()
        .load_shed()
        .concurrency_limit(limit)
        .service(upstream)
}

fn tower_resilience(limit: usize, upstream: impl Upstream) -> impl Called + Clone {
    let bulkhead = BulkheadLayer::builder()
        .max_concurrent_calls(limit)
        .reject_when_full();
    ServiceBuilder::new()
        .layer(bulkhead.build().expect("valid"))
        .service(upstream)
}
