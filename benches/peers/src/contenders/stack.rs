use super::breaker::{recloser, seatbelt_layer};
use super::rate::{governor, plenty};
use super::retry::{Budgeted, tower_resilience_budget};
use super::{ASSEMBLED, BUTTRESS, Caller, PLENTY, SEATBELT, TOWER, TOWER_RESILIENCE};
use crate::case::{Case, Contender, Work};
use crate::inner::{AtOnce, Failure};
use buttress::retry::Cloned;
use buttress::{
    CircuitBreakerLayer, ErrorLayer, LoadShedLayer, Quota, RateLimitLayer, RetryLayer, TimeoutLayer,
};
use recloser::Recloser;
use seatbelt::RecoveryInfo;
use seatbelt::retry::Retry;
use seatbelt::timeout::Timeout;
use std::time::Duration;
use tower::{BoxError, ServiceBuilder, ServiceExt};
use tower_resilience_bulkhead::BulkheadLayer;
use tower_resilience_circuitbreaker as breaker;
use tower_resilience_ratelimiter::RateLimiterLayer;
use tower_resilience_retry as retry;
use tower_resilience_timelimiter::TimeLimiterLayer;

pub const CASES: &[Case] = &[
    Case::new("the stack of five", Work::Answered, || {
        vec![
            Contender::by_hand(BUTTRESS, buttress()),
            Contender::by_hand(TOWER, tower()).note(TOWER_HAS),
            Contender::by_hand(TOWER_RESILIENCE, tower_resilience()),
            Contender::by_hand(SEATBELT, seatbelt()).note(SEATBELT_HAS),
            Contender::by_hand(ASSEMBLED, assembled()).note(ASSEMBLED_OF),
        ]
    }),
    Case::new(
        "the stack of five, a fresh clone per call",
        Work::Answered,
        || {
            vec![
                Contender::cloned(BUTTRESS, buttress()),
                Contender::cloned(TOWER, tower()).note(TOWER_HAS),
                Contender::cloned(TOWER_RESILIENCE, tower_resilience()),
                Contender::cloned(SEATBELT, seatbelt()).note(SEATBELT_HAS),
                Contender::cloned(ASSEMBLED, assembled()).note(ASSEMBLED_OF),
            ]
        },
    ),
];

pub const TOWER_HAS: &str = "four layers: no breaker, and its rate limit is not `Clone`, so that \
    it cannot stand below retry; timeout, retry with `TpsBudget`, load shed, limit";
pub const SEATBELT_HAS: &str = "three layers: retry without a budget, breaker, timeout";
pub const ASSEMBLED_OF: &str = "tower's timeout, retry with `TpsBudget`, load shed and limit, \
    governor, recloser, and some hundred lines of glue";

const AFTER: Duration = Duration::from_secs(10);
const LIMIT: usize = 256;

pub fn buttress() -> impl Caller {
    ServiceBuilder::new()
        .layer(TimeoutLayer::new(AFTER))
        .layer(RetryLayer::builder().replay(Cloned).build().expect("valid"))
        .layer(LoadShedLayer::new(LIMIT))
        .layer(RateLimitLayer::new(Quota::per_second(PLENTY)))
        .layer(CircuitBreakerLayer::default())
        .layer(ErrorLayer)
        .service(AtOnce)
}

pub fn tower() -> impl Caller {
    ServiceBuilder::new()
        .timeout(AFTER)
        .retry(Budgeted::default())
        .load_shed()
        .concurrency_limit(LIMIT)
        .service(AtOnce)
}

pub fn tower_resilience() -> impl Caller {
    let shed = BulkheadLayer::builder()
        .max_concurrent_calls(LIMIT)
        .reject_when_full();
    let breaker = breaker::CircuitBreakerLayer::standard();
    let inner = ServiceBuilder::new()
        .layer(shed.build().expect("valid"))
        .layer(
            RateLimiterLayer::per_second(PLENTY as usize)
                .build()
                .expect("valid"),
        )
        .layer(breaker.build().expect("valid"))
        .service(AtOnce);
    let retry =
        retry::RetryLayer::<u64, u64, _>::exponential_backoff().budget(tower_resilience_budget());
    ServiceBuilder::new()
        .layer(TimeLimiterLayer::standard().timeout_duration(AFTER).build())
        .layer(retry.build())
        .service(inner)
}

/// In the order that its documentation recommends.
pub fn seatbelt() -> impl Caller {
    let context = super::seatbelt();
    let retry = Retry::layer("retry", &context).clone_input().recovery_with(
        |result: &Result<u64, Failure>, _| match result {
            Ok(_) => RecoveryInfo::never(),
            Err(_) => RecoveryInfo::retry(),
        },
    );
    let timeout = Timeout::layer("timeout", &context)
        .timeout_error(|_| Failure)
        .timeout(AFTER);
    ServiceBuilder::new()
        .layer(retry)
        .layer(seatbelt_layer())
        .layer(timeout)
        .service(AtOnce)
}

pub fn assembled() -> impl Caller {
    let breaker = recloser(Recloser::custom(), AtOnce).map_err(|error| match error {
        recloser::Error::Inner(error) => BoxError::from(error),
        recloser::Error::Rejected => BoxError::from("circuit open"),
    });
    ServiceBuilder::new()
        .timeout(AFTER)
        .retry(Budgeted::default())
        .load_shed()
        .concurrency_limit(LIMIT)
        .service(governor(plenty(), breaker))
}
