use super::breaker::{recloser, seatbelt_layer};
use super::rate::{governor, plenty};
use super::retry::{Budgeted, tower_resilience_budget};
use super::{
    ASSEMBLED, ATTEMPT, BUTTRESS, DEADLINE, PLENTY, SEATBELT, TOWER, TOWER_RESILIENCE, ours,
};
use crate::case::{Case, Contender, Sizes, Work};
use crate::tasks::Called;
use crate::upstream::{AtOnce, Failure, HttpRequest, HttpUpstream, PendingOnce, Upstream};
use recloser::Recloser;
use seatbelt::RecoveryInfo;
use seatbelt::retry::Retry;
use seatbelt::timeout::Timeout;
use tower::{BoxError, Service, ServiceBuilder};
use tower_resilience_bulkhead::BulkheadLayer;
use tower_resilience_circuitbreaker as breaker;
use tower_resilience_ratelimiter::RateLimiterLayer;
use tower_resilience_retry as retry;
use tower_resilience_timelimiter::TimeLimiterLayer;

pub const CASES: &[Case] = &[
    Case::new("the stack of five", Work::Succeeds, || one_timeout(AtOnce))
        .pending(|| one_timeout(PendingOnce(AtOnce))),
    Case::new(TWO_TIMEOUTS, Work::Succeeds, || two_timeouts(AtOnce))
        .pending(|| two_timeouts(PendingOnce(AtOnce)))
        .without(ONLY_ASSEMBLED),
    Case::new(
        "the stack of five, a fresh clone per call",
        Work::Succeeds,
        || fresh_clones(AtOnce),
    )
    .pending(|| fresh_clones(PendingOnce(AtOnce))),
    Case::new(
        "the stack of five, two timeouts, a fresh clone per call",
        Work::Succeeds,
        || fresh_clones_with_two_timeouts(AtOnce),
    )
    .pending(|| fresh_clones_with_two_timeouts(PendingOnce(AtOnce)))
    .without(ONLY_ASSEMBLED),
];

pub const TWO_TIMEOUTS: &str = "the stack of five, two timeouts";

/// The contenders whose stacks are not compared with two timeouts.
pub const ONLY_ASSEMBLED: &[(&str, &str)] =
    &[(TOWER, ONLY), (TOWER_RESILIENCE, ONLY), (SEATBELT, ONLY)];
const ONLY: &str = "measured with one timeout only";

pub const TOWER_HAS: &str = "four layers: timeout, retry with `TpsBudget`, load shed, concurrency \
    limit; it has no breaker, and its rate limit is not `Clone` and cannot be below retry";
pub const SEATBELT_HAS: &str = "three layers: retry without a budget, breaker, timeout";
pub const ASSEMBLED_OF: &str = "tower's timeouts, retry with `TpsBudget`, load shed and concurrency limit, \
    governor, recloser, and about a hundred lines of glue";

/// The concurrency limit. It is never reached.
pub const LIMIT: usize = 256;

fn one_timeout(upstream: impl Upstream) -> Vec<Contender> {
    vec![
        Contender::new(BUTTRESS, || ours::stack(LIMIT, upstream)),
        Contender::new(TOWER, || tower(upstream)).note(TOWER_HAS),
        Contender::new(TOWER_RESILIENCE, || tower_resilience(upstream)),
        Contender::new(SEATBELT, || seatbelt(upstream)).note(SEATBELT_HAS),
        Contender::new(ASSEMBLED, || assembled(upstream)).note(ASSEMBLED_OF),
    ]
}

fn two_timeouts(upstream: impl Upstream) -> Vec<Contender> {
    vec![
        Contender::new(BUTTRESS, || ours::stack_with_two_timeouts(LIMIT, upstream)),
        Contender::new(ASSEMBLED, || assembled_with_two_timeouts(upstream)).note(ASSEMBLED_OF),
    ]
}

fn fresh_clones(upstream: impl Upstream) -> Vec<Contender> {
    vec![
        Contender::cloned(BUTTRESS, || ours::stack(LIMIT, upstream)),
        Contender::cloned(TOWER, || tower(upstream)).note(TOWER_HAS),
        Contender::cloned(TOWER_RESILIENCE, || tower_resilience(upstream)),
        Contender::cloned(SEATBELT, || seatbelt(upstream)).note(SEATBELT_HAS),
        Contender::cloned(ASSEMBLED, || assembled(upstream)).note(ASSEMBLED_OF),
    ]
}

fn fresh_clones_with_two_timeouts(upstream: impl Upstream) -> Vec<Contender> {
    vec![
        Contender::cloned(BUTTRESS, || ours::stack_with_two_timeouts(LIMIT, upstream)),
        Contender::cloned(ASSEMBLED, || assembled_with_two_timeouts(upstream)).note(ASSEMBLED_OF),
    ]
}

/// The sizes of both stacks with two timeouts, in bytes.
pub struct StackSizes {
    pub requests: &'static str,
    /// The size of one request.
    pub request: usize,
    pub ours: Sizes,
    pub assembled: Sizes,
}

pub fn sizes() -> [StackSizes; 2] {
    [
        StackSizes {
            requests: "`u64`",
            request: size_of::<u64>(),
            ours: Sizes::of::<u64, _>(&ours::stack_with_two_timeouts(LIMIT, AtOnce)),
            assembled: Sizes::of::<u64, _>(&assembled_with_two_timeouts(AtOnce)),
        },
        StackSizes {
            requests: "`http::Request<Full<Bytes>>`",
            request: size_of::<HttpRequest>(),
            ours: Sizes::of::<HttpRequest, _>(&ours::http_stack(LIMIT)),
            assembled: Sizes::of::<HttpRequest, _>(&assembled_for_http()),
        },
    ]
}

pub fn tower(upstream: impl Upstream) -> impl Called + Clone {
    ServiceBuilder::new()
        .timeout(DEADLINE)
        .retry(Budgeted::default())
        .load_shed()
        .concurrency_limit(LIMIT)
        .service(upstream)
}

pub fn tower_resilience(upstream: impl Upstream) -> impl Called + Clone {
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
        .service(upstream);
    let retry =
        retry::RetryLayer::<u64, u64, _>::exponential_backoff().budget(tower_resilience_budget());
    ServiceBuilder::new()
        .layer(
            TimeLimiterLayer::standard()
                .timeout_duration(DEADLINE)
                .build(),
        )
        .layer(retry.build())
        .service(inner)
}

/// In the order that its documentation recommends.
pub fn seatbelt(upstream: impl Upstream) -> impl Called + Clone {
    let context = super::seatbelt();
    let retry = Retry::layer("retry", &context).clone_input().recovery_with(
        |result: &Result<u64, Failure>, _| match result {
            Ok(_) => RecoveryInfo::never(),
            Err(_) => RecoveryInfo::retry(),
        },
    );
    let timeout = Timeout::layer("timeout", &context)
        .timeout_error(|_| Failure)
        .timeout(DEADLINE);
    ServiceBuilder::new()
        .layer(retry)
        .layer(seatbelt_layer())
        .layer(timeout)
        .service(upstream)
}

macro_rules! assembled {
    ($inner:expr) => {
        ServiceBuilder::new()
            .timeout(DEADLINE)
            .retry(Budgeted::default())
            .load_shed()
            .concurrency_limit(LIMIT)
            .layer_fn(|inner| governor(plenty(), inner))
            .map_err(boxed)
            .layer_fn(|inner| recloser(Recloser::custom(), inner))
            .service($inner)
    };
}

pub fn assembled(upstream: impl Upstream) -> impl Called + Clone {
    assembled!(upstream)
}

/// One timeout for the whole call and one for each attempt, like the stack of buttress.
pub fn assembled_with_two_timeouts(upstream: impl Upstream) -> impl Called + Clone {
    assembled!(ServiceBuilder::new().timeout(ATTEMPT).service(upstream))
}

fn assembled_for_http() -> impl Service<HttpRequest> {
    assembled!(ServiceBuilder::new().timeout(ATTEMPT).service(HttpUpstream))
}

fn boxed<E: Into<BoxError>>(error: recloser::Error<E>) -> BoxError {
    match error {
        recloser::Error::Inner(error) => error.into(),
        recloser::Error::Rejected => BoxError::from("circuit open"),
    }
}
