use super::{
    BUTTRESS, Caller, FAILSAFE, LONG, RECLOSER, SEATBELT, TOWER, TOWER_RESILIENCE, after_calls,
};
use crate::case::{Case, Contender, Work};
use crate::glue::{Failsafe, Reclosed};
use crate::inner::{AtOnce, Callee, Fails, FailsOddCalls, Failure};
use buttress::circuit_breaker::{CircuitBreakerBuilder, Window};
use buttress::{CircuitBreakerLayer, ErrorLayer};
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
    Case::new(
        "breaker closed, ok, time window",
        Work::Answered,
        time_window,
    )
    .without(&[
        NOT_TOWER,
        (
            TOWER_RESILIENCE,
            "a call costs more the more calls the window holds: see the cases that hold some",
        ),
        (RECLOSER, "counts calls"),
    ]),
    Case::new(
        "breaker closed, ok, count window",
        Work::Answered,
        count_window,
    )
    .without(&[
        NOT_TOWER,
        (SEATBELT, ONLY_TIME),
        (FAILSAFE, "has no count window"),
    ]),
    Case::new(
        "breaker closed, ok, consecutive failures",
        Work::Answered,
        in_a_row,
    )
    .without(&[NOT_TOWER, (SEATBELT, ONLY_TIME), (RECLOSER, "counts calls")]),
    Case::new(
        "breaker closed, every other call fails",
        Work::EveryOtherFails,
        failing,
    )
    .without(&[NOT_TOWER]),
    Case::new("breaker open", Work::Rejected, open).without(&[NOT_TOWER]),
];

/// How the cost of a call grows with those that a time window holds.
pub const HOLDING: &[Case] = &[
    Case::new(
        "breaker, time window holding 100 calls",
        Work::Answered,
        || holding(100),
    )
    .without(&[NOT_TOWER]),
    Case::new(
        "breaker, time window holding 10 000 calls",
        Work::Answered,
        || holding(10_000),
    )
    .without(&[NOT_TOWER]),
    Case::new(
        "breaker, time window holding 100 000 calls",
        Work::Answered,
        || holding(100_000),
    )
    .without(&[NOT_TOWER]),
];

const NOT_TOWER: (&str, &str) = (TOWER, "has no breaker");
const ONLY_TIME: &str = "has time windows only";

fn time_window() -> Vec<Contender> {
    let failsafe = Failsafe {
        inner: AtOnce,
        breaker: failsafe::Config::new().build(),
    };
    vec![
        Contender::by_hand(BUTTRESS, buttress(CircuitBreakerLayer::builder(), AtOnce)),
        Contender::by_hand(SEATBELT, seatbelt(|breaker| breaker, AtOnce)),
        Contender::by_hand(FAILSAFE, failsafe),
    ]
}

fn count_window() -> Vec<Contender> {
    let ours = CircuitBreakerLayer::builder().window(Window::count(100));
    let resilience = resilience::CircuitBreakerLayer::standard();
    vec![
        Contender::by_hand(BUTTRESS, buttress(ours, AtOnce)),
        Contender::by_hand(TOWER_RESILIENCE, tower_resilience(resilience, AtOnce)),
        Contender::by_hand(RECLOSER, recloser(Recloser::custom(), AtOnce)),
    ]
}

fn in_a_row() -> Vec<Contender> {
    let ours = CircuitBreakerLayer::builder().consecutive_failures(5);
    let resilience = resilience::CircuitBreakerLayer::standard().consecutive_failures(5);
    let backoff = exponential(Duration::from_secs(10), Duration::from_mins(1));
    vec![
        Contender::by_hand(BUTTRESS, buttress(ours, AtOnce)),
        Contender::by_hand(TOWER_RESILIENCE, tower_resilience(resilience, AtOnce)),
        Contender::by_hand(FAILSAFE, failsafe(consecutive_failures(5, backoff), AtOnce)),
    ]
}

/// Half of the calls fail, and nine in ten would have to.
fn failing() -> Vec<Contender> {
    let ours = CircuitBreakerLayer::builder().failure_rate(0.9);
    let resilience = resilience::CircuitBreakerLayer::standard().failure_rate_threshold(0.9);
    let seatbelt = seatbelt(|breaker| breaker.failure_threshold(0.9), FailsOddCalls);
    let recloser = recloser(Recloser::custom().error_rate(0.9), FailsOddCalls);
    let thirty = Duration::from_secs(30);
    let rate = success_rate_over_time_window(0.1, 5, thirty, constant(LONG));
    vec![
        Contender::by_hand(BUTTRESS, buttress(ours, FailsOddCalls)),
        Contender::by_hand(
            TOWER_RESILIENCE,
            tower_resilience(resilience, FailsOddCalls),
        ),
        Contender::by_hand(SEATBELT, seatbelt),
        Contender::by_hand(RECLOSER, recloser),
        Contender::by_hand(FAILSAFE, failsafe(rate, FailsOddCalls)),
    ]
}

/// Opened by calls that fail.
fn open() -> Vec<Contender> {
    let ours = CircuitBreakerLayer::builder().open_for(LONG);
    let resilience = resilience::CircuitBreakerLayer::standard().wait_duration_in_open(LONG);
    let seatbelt = seatbelt(|breaker| breaker.break_duration(LONG), Fails);
    let recloser = recloser(Recloser::custom().open_wait(LONG), Fails);
    let failsafe = failsafe(consecutive_failures(5, constant(LONG)), Fails);
    vec![
        Contender::by_hand(BUTTRESS, after_calls(300, buttress(ours, Fails))),
        Contender::by_hand(
            TOWER_RESILIENCE,
            after_calls(300, tower_resilience(resilience, Fails)),
        ),
        Contender::by_hand(SEATBELT, after_calls(300, seatbelt)),
        Contender::by_hand(RECLOSER, after_calls(300, recloser)),
        Contender::by_hand(FAILSAFE, after_calls(300, failsafe)),
    ]
}

/// The window is so long that the calls stay in it while they are measured.
fn holding(calls: u64) -> Vec<Contender> {
    let ours = move || {
        let ours = CircuitBreakerLayer::builder().window(Window::time(LONG));
        after_calls(calls, buttress(ours, AtOnce))
    };
    let resilience = move || {
        let breaker = resilience::CircuitBreakerLayer::standard()
            .sliding_window_type(resilience::SlidingWindowType::TimeBased)
            .sliding_window_duration(LONG);
        after_calls(calls, tower_resilience(breaker, AtOnce))
    };
    let seatbelt = move || {
        let breaker = seatbelt(|breaker| breaker.sampling_duration(LONG), AtOnce);
        after_calls(calls, breaker)
    };
    let failsafe = move || {
        let rate = success_rate_over_time_window(0.8, 5, LONG, constant(LONG));
        after_calls(calls, failsafe(rate, AtOnce))
    };
    vec![
        Contender::holding(BUTTRESS, calls, ours),
        Contender::holding(TOWER_RESILIENCE, calls, resilience),
        Contender::holding(SEATBELT, calls, seatbelt),
        Contender::holding(FAILSAFE, calls, failsafe),
    ]
}

pub(super) fn buttress(breaker: CircuitBreakerBuilder, callee: impl Callee) -> impl Caller {
    ServiceBuilder::new()
        .layer(breaker.build().expect("valid"))
        .layer(ErrorLayer)
        .service(callee)
}

pub(super) fn tower_resilience(
    breaker: resilience::CircuitBreakerConfigBuilder<resilience::DefaultClassifier>,
    callee: impl Callee,
) -> impl Caller {
    ServiceBuilder::new()
        .layer(breaker.build().expect("valid"))
        .service(callee)
}

type SeatbeltLayer = BreakerLayer<u64, Result<u64, Failure>>;

pub(super) fn seatbelt(
    set: impl FnOnce(SeatbeltLayer) -> SeatbeltLayer,
    callee: impl Callee,
) -> impl Caller {
    ServiceBuilder::new()
        .layer(set(seatbelt_layer()))
        .service(callee)
}

pub(super) fn seatbelt_layer() -> SeatbeltLayer {
    Breaker::layer("breaker", &super::seatbelt())
        .recovery_with(|result: &Result<u64, Failure>, _| match result {
            Ok(_) => RecoveryInfo::never(),
            Err(_) => RecoveryInfo::retry(),
        })
        .rejected_input_error(|_, _| Failure)
}

pub(super) fn recloser<S: Callee>(breaker: RecloserBuilder, callee: S) -> Reclosed<S> {
    Reclosed {
        inner: callee,
        recloser: breaker.build().into(),
    }
}

pub(super) fn failsafe<P>(policy: P, callee: impl Callee) -> impl Caller
where
    P: FailurePolicy + Send + Sync + 'static,
{
    Failsafe {
        inner: callee,
        breaker: failsafe::Config::new().failure_policy(policy).build(),
    }
}
