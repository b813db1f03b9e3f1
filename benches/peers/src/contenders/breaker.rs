use super::{BUTTRESS, FAILSAFE, LONG, RECLOSER, SEATBELT, TOWER, TOWER_RESILIENCE, ours};
use crate::calls::after_calls;
use crate::case::{Case, Contender, Work};
use crate::glue::{Failsafe, Reclosed};
use crate::tasks::Called;
use crate::upstream::{AtOnce, Fails, FailsOddCalls, Failure, PendingOnce, Upstream};
use failsafe::backoff::{constant, exponential};
use failsafe::failure_policy::{
    FailurePolicy, consecutive_failures, success_rate_over_time_window,
};
use recloser::{Recloser, RecloserBuilder};
use seatbelt::RecoveryInfo;
use seatbelt::breaker::{Breaker, BreakerLayer};
use std::time::Duration;
use tower::ServiceBuilder;
use tower_resilience_circuitbreaker as resilience;

pub const CASES: &[Case] = &[
    Case::new("breaker closed, ok, time window", Work::Succeeds, || {
        time_window(AtOnce)
    })
    .pending(|| time_window(PendingOnce(AtOnce)))
    .without(&[
        NOT_TOWER,
        (
            TOWER_RESILIENCE,
            "the cost grows with the calls in the window: see the cases with a filled window",
        ),
        (RECLOSER, "has count windows only"),
    ]),
    Case::new("breaker closed, ok, count window", Work::Succeeds, || {
        count_window(AtOnce)
    })
    .pending(|| count_window(PendingOnce(AtOnce)))
    .without(&[
        NOT_TOWER,
        (SEATBELT, ONLY_TIME),
        (FAILSAFE, "has no count window"),
    ]),
    Case::new(
        "breaker closed, ok, consecutive failures",
        Work::Succeeds,
        || in_a_row(AtOnce),
    )
    .pending(|| in_a_row(PendingOnce(AtOnce)))
    .without(&[
        NOT_TOWER,
        (SEATBELT, ONLY_TIME),
        (RECLOSER, "has count windows only"),
    ]),
    Case::new(
        "breaker closed, every other call fails",
        Work::EveryOtherFails,
        || failing(FailsOddCalls),
    )
    .pending(|| failing(PendingOnce(FailsOddCalls)))
    .without(&[NOT_TOWER]),
    Case::new("breaker open", Work::Rejected, open).without(&[NOT_TOWER]),
];

/// How the cost of a call grows with the number of calls in a time window.
pub const HOLDING: &[Case] = &[
    Case::new(
        "breaker, time window holding 100 calls",
        Work::Succeeds,
        || holding(100, AtOnce),
    )
    .without(&[NOT_TOWER]),
    Case::new(
        "breaker, time window holding 10 000 calls",
        Work::Succeeds,
        || holding(10_000, AtOnce),
    )
    .without(&[NOT_TOWER]),
    Case::new(
        "breaker, time window holding 100 000 calls",
        Work::Succeeds,
        || holding(100_000, AtOnce),
    )
    .without(&[NOT_TOWER]),
];

const NOT_TOWER: (&str, &str) = (TOWER, "has no breaker");
const ONLY_TIME: &str = "has time windows only";

fn time_window(upstream: impl Upstream) -> Vec<Contender> {
    let failsafe = || Failsafe {
        inner: upstream,
        breaker: failsafe::Config::new().build(),
    };
    vec![
        Contender::new(BUTTRESS, || ours::breaker(upstream)),
        Contender::new(SEATBELT, || seatbelt(|breaker| breaker, upstream)),
        Contender::new(FAILSAFE, failsafe),
    ]
}

fn count_window(upstream: impl Upstream) -> Vec<Contender> {
    let resilience = resilience::CircuitBreakerLayer::standard;
    vec![
        Contender::new(BUTTRESS, || ours::breaker_counting(100, upstream)),
        Contender::new(TOWER_RESILIENCE, || {
            tower_resilience(resilience(), upstream)
        }),
        Contender::new(RECLOSER, || recloser(Recloser::custom(), upstream)),
    ]
}

fn in_a_row(upstream: impl Upstream) -> Vec<Contender> {
    let resilience = || resilience::CircuitBreakerLayer::standard().consecutive_failures(5);
    let backoff = || exponential(Duration::from_secs(10), Duration::from_mins(1));
    vec![
        Contender::new(BUTTRESS, || ours::breaker_consecutive(5, upstream)),
        Contender::new(TOWER_RESILIENCE, || {
            tower_resilience(resilience(), upstream)
        }),
        Contender::new(FAILSAFE, || {
            failsafe(consecutive_failures(5, backoff()), upstream)
        }),
    ]
}

/// Half of the calls fail. The threshold is nine in ten, so the circuit stays closed.
fn failing(upstream: impl Upstream) -> Vec<Contender> {
    let resilience = || resilience::CircuitBreakerLayer::standard().failure_rate_threshold(0.9);
    let thirty = Duration::from_secs(30);
    let rate = move || success_rate_over_time_window(0.1, 5, thirty, constant(LONG));
    vec![
        Contender::new(BUTTRESS, || ours::tolerant_breaker(upstream)),
        Contender::new(TOWER_RESILIENCE, || {
            tower_resilience(resilience(), upstream)
        }),
        Contender::new(SEATBELT, || {
            seatbelt(|breaker| breaker.failure_threshold(0.9), upstream)
        }),
        Contender::new(RECLOSER, || {
            recloser(Recloser::custom().error_rate(0.9), upstream)
        }),
        Contender::new(FAILSAFE, || failsafe(rate(), upstream)),
    ]
}

/// The circuits are opened by failing calls.
fn open() -> Vec<Contender> {
    let resilience = || resilience::CircuitBreakerLayer::standard().wait_duration_in_open(LONG);
    let recloser = || recloser(Recloser::custom().open_wait(LONG), Fails);
    let failsafe = || failsafe(consecutive_failures(5, constant(LONG)), Fails);
    let seatbelt = || seatbelt(|breaker| breaker.break_duration(LONG), Fails);
    vec![
        Contender::new(BUTTRESS, || {
            after_calls(300, ours::breaker_open_long(Fails))
        }),
        Contender::new(TOWER_RESILIENCE, || {
            after_calls(300, tower_resilience(resilience(), Fails))
        }),
        Contender::new(SEATBELT, || after_calls(300, seatbelt())),
        Contender::new(RECLOSER, || after_calls(300, recloser())),
        Contender::new(FAILSAFE, || after_calls(300, failsafe())),
    ]
}

/// The window is so long that no call leaves it during the measurement.
fn holding(calls: u64, upstream: impl Upstream) -> Vec<Contender> {
    let resilience = move || {
        let breaker = resilience::CircuitBreakerLayer::standard()
            .sliding_window_type(resilience::SlidingWindowType::TimeBased)
            .sliding_window_duration(LONG);
        tower_resilience(breaker, upstream)
    };
    let seatbelt = move || seatbelt(|breaker| breaker.sampling_duration(LONG), upstream);
    let rate = || success_rate_over_time_window(0.8, 5, LONG, constant(LONG));
    vec![
        Contender::holding(BUTTRESS, calls, move || ours::breaker_long_window(upstream)),
        Contender::holding(TOWER_RESILIENCE, calls, resilience),
        Contender::holding(SEATBELT, calls, seatbelt),
        Contender::holding(FAILSAFE, calls, move || failsafe(rate(), upstream)),
    ]
}

pub(super) fn tower_resilience(
    breaker: resilience::CircuitBreakerConfigBuilder<resilience::DefaultClassifier>,
    upstream: impl Upstream,
) -> impl Called + Clone {
    ServiceBuilder::new()
        .layer(breaker.build().expect("valid"))
        .service(upstream)
}

type SeatbeltLayer = BreakerLayer<u64, Result<u64, Failure>>;

pub(super) fn seatbelt(
    set: impl FnOnce(SeatbeltLayer) -> SeatbeltLayer,
    upstream: impl Upstream,
) -> impl Called + Clone {
    ServiceBuilder::new()
        .layer(set(seatbelt_layer()))
        .service(upstream)
}

pub(super) fn seatbelt_layer() -> SeatbeltLayer {
    Breaker::layer("breaker", &super::seatbelt())
        .recovery_with(|result: &Result<u64, Failure>, _| match result {
            Ok(_) => RecoveryInfo::never(),
            Err(_) => RecoveryInfo::retry(),
        })
        .rejected_input_error(|_, _| Failure)
}

pub(super) fn recloser<S>(breaker: RecloserBuilder, inner: S) -> Reclosed<S> {
    Reclosed {
        inner,
        recloser: breaker.build().into(),
    }
}

pub(super) fn failsafe<P>(policy: P, upstream: impl Upstream) -> impl Called + Clone
where
    P: FailurePolicy + Send + Sync + 'static,
{
    Failsafe {
        inner: upstream,
        breaker: failsafe::Config::new().failure_policy(policy).build(),
    }
}
