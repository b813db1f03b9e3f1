use super::{
    BUTTRESS, Caller, GOVERNOR, LONG, PLENTY, SEATBELT, TOWER, TOWER_RESILIENCE, after_calls,
};
use crate::case::{Case, Contender, Work};
use crate::glue::Governed;
use crate::inner::{AtOnce, Callee};
use buttress::{ErrorLayer, Quota, RateLimitLayer};
use governor::RateLimiter;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;
use tower::ServiceBuilder;
use tower_resilience_ratelimiter::{RateLimiterConfigBuilder, RateLimiterLayer};

pub const CASES: &[Case] = &[
    Case::new("rate limit, accepted", Work::Answered, accepted).without(&[NOT_SEATBELT]),
    Case::new(
        "rate limit, accepted, shared by clones, in a runtime",
        Work::Answered,
        shared,
    )
    .without(&[NOT_SEATBELT]),
    Case::new("rate limit, rejected", Work::Rejected, rejected).without(&[NOT_SEATBELT]),
];

const NOT_SEATBELT: (&str, &str) = (SEATBELT, "has no rate limit");
const SECOND: Duration = Duration::from_secs(1);

fn accepted() -> Vec<Contender> {
    let tower = ServiceBuilder::new()
        .rate_limit(PLENTY.into(), SECOND)
        .service(AtOnce);
    vec![
        Contender::by_hand(BUTTRESS, buttress(Quota::per_second(PLENTY), AtOnce)),
        Contender::by_hand(TOWER, tower).note("not `Clone`: cannot be shared"),
        Contender::by_hand(
            TOWER_RESILIENCE,
            tower_resilience(RateLimiterLayer::per_second(PLENTY as usize), AtOnce),
        ),
        Contender::by_hand(GOVERNOR, governor(plenty(), AtOnce)),
    ]
}

fn shared() -> Vec<Contender> {
    let tower = ServiceBuilder::new()
        .buffer::<u64>(1024)
        .rate_limit(PLENTY.into(), SECOND)
        .service(AtOnce);
    vec![
        Contender::in_runtime(BUTTRESS, buttress(Quota::per_second(PLENTY), AtOnce)),
        Contender::in_runtime(TOWER, tower).note("behind its `Buffer`, which makes it `Clone`"),
        Contender::in_runtime(
            TOWER_RESILIENCE,
            tower_resilience(RateLimiterLayer::per_second(PLENTY as usize), AtOnce),
        ),
        Contender::in_runtime(GOVERNOR, governor(plenty(), AtOnce)),
    ]
}

/// One call an hour, which has been made.
fn rejected() -> Vec<Contender> {
    let tower = ServiceBuilder::new()
        .load_shed()
        .rate_limit(1, LONG)
        .service(AtOnce);
    let resilience = RateLimiterLayer::per_second(1)
        .refresh_period(LONG)
        .timeout_duration(Duration::ZERO);
    let hourly = governor::Quota::with_period(LONG).expect("above zero");
    vec![
        Contender::by_hand(
            BUTTRESS,
            after_calls(1, buttress(Quota::new(1, LONG), AtOnce)),
        ),
        Contender::by_hand(TOWER, after_calls(1, tower)).note("by its `LoadShed`"),
        Contender::by_hand(
            TOWER_RESILIENCE,
            after_calls(1, tower_resilience(resilience, AtOnce)),
        )
        .note("with a timeout of zero; its default sleeps for 100 ms before it rejects"),
        Contender::by_hand(GOVERNOR, after_calls(1, governor(hourly, AtOnce))),
    ]
}

pub(super) fn buttress(quota: Quota, callee: impl Callee) -> impl Caller {
    ServiceBuilder::new()
        .layer(RateLimitLayer::new(quota))
        .layer(ErrorLayer)
        .service(callee)
}

pub(super) fn tower_resilience(
    limit: RateLimiterConfigBuilder,
    callee: impl Callee,
) -> impl Caller {
    ServiceBuilder::new()
        .layer(limit.build().expect("valid"))
        .service(callee)
}

pub(super) fn governor<S>(quota: governor::Quota, callee: S) -> Governed<S> {
    Governed {
        inner: callee,
        limiter: Arc::new(RateLimiter::direct(quota)),
    }
}

pub(super) fn plenty() -> governor::Quota {
    governor::Quota::per_second(NonZeroU32::new(PLENTY).expect("above zero"))
}
