use super::{BUTTRESS, DEADLINE, SEATBELT, TOWER, TOWER_RESILIENCE, ours};
use crate::case::{Case, Contender, Work};
use crate::tasks::Called;
use crate::upstream::{AtOnce, Failure, PendingOnce, Upstream, yielding};
use seatbelt::timeout::Timeout;
use tower::ServiceBuilder;
use tower_resilience_timelimiter::TimeLimiterLayer;

pub const CASES: &[Case] = &[
    Case::new("timeout", Work::Succeeds, || made(AtOnce)).pending(|| made(PendingOnce(AtOnce))),
    Case::new("timeout, yielding to the runtime", Work::Succeeds, || {
        made_in_tasks(yielding())
    }),
];

fn made(upstream: impl Upstream) -> Vec<Contender> {
    vec![
        Contender::new(BUTTRESS, || ours::timeout(upstream)),
        Contender::new(TOWER, || tower(upstream)),
        Contender::new(TOWER_RESILIENCE, || tower_resilience(upstream)),
        Contender::new(SEATBELT, || seatbelt(upstream)),
    ]
}

fn made_in_tasks(upstream: impl Upstream) -> Vec<Contender> {
    vec![
        Contender::in_tasks_only(BUTTRESS, || ours::timeout(upstream)),
        Contender::in_tasks_only(TOWER, || tower(upstream)),
        Contender::in_tasks_only(TOWER_RESILIENCE, || tower_resilience(upstream)),
        Contender::in_tasks_only(SEATBELT, || seatbelt(upstream)),
    ]
}

pub(super) fn tower(upstream: impl Upstream) -> impl Called + Clone {
    ServiceBuilder::new().timeout(DEADLINE).service(upstream)
}

pub(super) fn tower_resilience(upstream: impl Upstream) -> impl Called + Clone {
    let timeout = TimeLimiterLayer::standard().timeout_duration(DEADLINE);
    ServiceBuilder::new()
        .layer(timeout.build())
        .service(upstream)
}

pub(super) fn seatbelt(upstream: impl Upstream) -> impl Called + Clone {
    let timeout = Timeout::layer("timeout", &super::seatbelt())
        .timeout_error(|_| Failure)
        .timeout(DEADLINE);
    ServiceBuilder::new().layer(timeout).service(upstream)
}
