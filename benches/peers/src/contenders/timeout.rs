use super::{BUTTRESS, Caller, SEATBELT, TOWER, TOWER_RESILIENCE};
use crate::case::{Case, Contender, Work};
use crate::inner::{AtOnce, Callee, Failure, PendingOnce, yielding};
use buttress::{ErrorLayer, TimeoutLayer};
use seatbelt::timeout::Timeout;
use std::time::Duration;
use tower::ServiceBuilder;
use tower_resilience_timelimiter::TimeLimiterLayer;

pub const CASES: &[Case] = &[
    Case::new("timeout, ready at once", Work::Answered, || by_hand(AtOnce)),
    Case::new("timeout, pending once", Work::Answered, || {
        by_hand(PendingOnce)
    }),
    Case::new("timeout, yielding to the runtime", Work::Answered, || {
        in_runtime(&yielding())
    }),
];

const AFTER: Duration = Duration::from_secs(10);

fn by_hand(callee: impl Callee) -> Vec<Contender> {
    vec![
        Contender::by_hand(BUTTRESS, buttress(callee.clone())),
        Contender::by_hand(TOWER, tower(callee.clone())),
        Contender::by_hand(TOWER_RESILIENCE, tower_resilience(callee.clone())),
        Contender::by_hand(SEATBELT, seatbelt(callee)),
    ]
}

fn in_runtime(callee: &impl Callee) -> Vec<Contender> {
    vec![
        Contender::in_runtime(BUTTRESS, buttress(callee.clone())),
        Contender::in_runtime(TOWER, tower(callee.clone())),
        Contender::in_runtime(TOWER_RESILIENCE, tower_resilience(callee.clone())),
        Contender::in_runtime(SEATBELT, seatbelt(callee.clone())),
    ]
}

pub fn buttress(callee: impl Callee) -> impl Caller {
    ServiceBuilder::new()
        .layer(TimeoutLayer::new(AFTER))
        .layer(ErrorLayer)
        .service(callee)
}

pub fn tower(callee: impl Callee) -> impl Caller {
    ServiceBuilder::new().timeout(AFTER).service(callee)
}

pub fn tower_resilience(callee: impl Callee) -> impl Caller {
    let timeout = TimeLimiterLayer::standard().timeout_duration(AFTER);
    ServiceBuilder::new().layer(timeout.build()).service(callee)
}

pub fn seatbelt(callee: impl Callee) -> impl Caller {
    let timeout = Timeout::layer("timeout", &super::seatbelt())
        .timeout_error(|_| Failure)
        .timeout(AFTER);
    ServiceBuilder::new().layer(timeout).service(callee)
}
