use super::{BUTTRESS, Caller, SEATBELT, TOWER, TOWER_RESILIENCE};
use crate::case::{Case, Contender, Work};
use crate::inner::{AtOnce, Callee, PendingOnce};
use buttress::{ErrorLayer, LoadShedLayer};
use std::task::{Context, Waker};
use tower::{Service, ServiceBuilder};
use tower_resilience_bulkhead::BulkheadLayer;

pub const CASES: &[Case] = &[
    Case::new("load shed, accepted", Work::Answered, accepted).without(&[NOT_SEATBELT]),
    Case::new("load shed, rejected", Work::Rejected, rejected).without(&[NOT_SEATBELT]),
];

const NOT_SEATBELT: (&str, &str) = (SEATBELT, "has no limit of calls in flight");

fn accepted() -> Vec<Contender> {
    vec![
        Contender::by_hand(BUTTRESS, buttress(256, AtOnce)),
        Contender::by_hand(TOWER, tower(256, AtOnce)),
        Contender::by_hand(TOWER_RESILIENCE, tower_resilience(256, AtOnce)),
    ]
}

/// The one call that may be in flight is.
fn rejected() -> Vec<Contender> {
    vec![
        Contender::by_hand(BUTTRESS, full(buttress(1, PendingOnce))),
        Contender::by_hand(TOWER, full(tower(1, PendingOnce))),
        Contender::in_runtime(TOWER_RESILIENCE, full(tower_resilience(1, PendingOnce)))
            .note("a rejection sleeps for a tick of the timer; run in a runtime"),
    ]
}

/// The service with a call of its in flight, for ever.
fn full<S: Service<u64> + 'static>(mut service: S) -> S {
    let mut cx = Context::from_waker(Waker::noop());
    assert!(service.poll_ready(&mut cx).is_ready());
    let call: &'static mut _ = Box::leak(Box::new(Box::pin(service.call(0))));
    assert!(call.as_mut().poll(&mut cx).is_pending());
    service
}

fn buttress(limit: usize, callee: impl Callee) -> impl Caller {
    ServiceBuilder::new()
        .layer(LoadShedLayer::new(limit))
        .layer(ErrorLayer)
        .service(callee)
}

fn tower(limit: usize, callee: impl Callee) -> impl Caller {
    ServiceBuilder::new()
        .load_shed()
        .concurrency_limit(limit)
        .service(callee)
}

fn tower_resilience(limit: usize, callee: impl Callee) -> impl Caller {
    let bulkhead = BulkheadLayer::builder()
        .max_concurrent_calls(limit)
        .reject_when_full();
    ServiceBuilder::new()
        .layer(bulkhead.build().expect("valid"))
        .service(callee)
}
