use super::{
    BUTTRESS, GOVERNOR, GOVERNOR_AND_CLOCK, LONG, PLENTY, SEATBELT, TOWER, TOWER_RESILIENCE, ours,
};
use crate::calls::after_calls;
use crate::case::{Case, Contender, Work};
use crate::glue::{Governed, ReadsClock};
use crate::tasks::Called;
use crate::upstream::{AtOnce, PendingOnce, Upstream};
use governor::RateLimiter;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;
use tower::ServiceBuilder;
use tower_resilience_ratelimiter::{RateLimiterConfigBuilder, RateLimiterLayer};

pub const CASES: &[Case] = &[
    Case::new("rate limit, accepted", Work::Succeeds, || accepted(AtOnce))
        .pending(|| accepted(PendingOnce(AtOnce)))
        .without(&[NOT_SEATBELT]),
    Case::new(
        "rate limit, accepted, shared by clones",
        Work::Succeeds,
        || shared(AtOnce),
    )
    .pending(|| shared(PendingOnce(AtOnce)))
    .without(&[NOT_SEATBELT]),
    Case::new("rate limit, rejected", Work::Rejected, rejected).without(&[NOT_SEATBELT]),
];

const NOT_SEATBELT: (&str, &str) = (SEATBELT, "has no rate limit");
const SECOND: Duration = Duration::from_secs(1);

fn accepted(upstream: impl Upstream) -> Vec<Contender> {
    let tower = || {
        ServiceBuilder::new()
            .rate_limit(PLENTY.into(), SECOND)
            .service(upstream)
    };
    vec![
        Contender::new(BUTTRESS, || ours::rate_limit(upstream)),
        Contender::new(TOWER, tower).note("not `Clone`: cannot be shared"),
        Contender::new(TOWER_RESILIENCE, || {
            tower_resilience(RateLimiterLayer::per_second(PLENTY as usize), upstream)
        }),
        Contender::new(GOVERNOR, || governor(plenty(), upstream)),
        Contender::new(GOVERNOR_AND_CLOCK, || {
            ReadsClock(governor(plenty(), upstream))
        }),
    ]
}

/// In tasks only: tower's `Buffer`, which makes its limit `Clone`, needs a running runtime.
fn shared(upstream: impl Upstream) -> Vec<Contender> {
    let tower = || {
        ServiceBuilder::new()
            .buffer::<u64>(1024)
            .rate_limit(PLENTY.into(), SECOND)
            .service(upstream)
    };
    vec![
        Contender::in_tasks_only(BUTTRESS, || ours::rate_limit(upstream)),
        Contender::in_tasks_only(TOWER, tower).note("inside its `Buffer`, which is `Clone`"),
        Contender::in_tasks_only(TOWER_RESILIENCE, || {
            tower_resilience(RateLimiterLayer::per_second(PLENTY as usize), upstream)
        }),
        Contender::in_tasks_only(GOVERNOR, || governor(plenty(), upstream)),
    ]
}

/// One call per hour is allowed, and it has already been made.
fn rejected() -> Vec<Contender> {
    let tower = || {
        let tower = ServiceBuilder::new().load_shed().rate_limit(1, LONG);
        after_calls(1, tower.service(AtOnce))
    };
    let resilience = || {
        let limit = RateLimiterLayer::per_second(1)
            .refresh_period(LONG)
            .timeout_duration(Duration::ZERO);
        after_calls(1, tower_resilience(limit, AtOnce))
    };
    let hourly = governor::Quota::with_period(LONG).expect("above zero");
    vec![
        Contender::new(BUTTRESS, || after_calls(1, ours::rate_limit_of_one(AtOnce))),
        Contender::new(TOWER, tower).note("its `LoadShed` rejects"),
        Contender::new(TOWER_RESILIENCE, resilience).note(
            "with a timeout of zero, because its default sleeps for 100 ms before it rejects",
        ),
        Contender::new(GOVERNOR, || after_calls(1, governor(hourly, AtOnce))),
    ]
}

pub(super) fn tower_resilience(
    limit: RateLimiterConfigBuilder,
    upstream: impl Upstream,
) -> impl Called + Clone {
    ServiceBuilder::new()
        .layer(limit.build().expect("valid"))
        .service(upstream)
}

pub(super) fn governor<S>(quota: governor::Quota, inner: S) -> Governed<S> {
    Governed {
        inner,
        limiter: Arc::new(RateLimiter::direct(quota)),
    }
}

pub(super) fn plenty() -> governor::Quota {
    governor::Quota::per_second(NonZeroU32::new(PLENTY).expect("above zero"))
}
