//! One layer or stack, shared by threads that do nothing but call it.

use super::breaker::{failsafe, recloser, seatbelt, tower_resilience};
use super::{
    ASSEMBLED, BUTTRESS, FAILSAFE, GOVERNOR, PLENTY, RECLOSER, SEATBELT, TOWER, TOWER_RESILIENCE,
    ours, rate, stack, timeout,
};
use crate::case::{Case, Contender, Work};
use crate::floor::FLOOR;
use crate::upstream::{AtOnce, PendingOnce, Upstream, yielding};
use failsafe::failure_policy::SuccessRateOverTimeWindow;
use recloser::Recloser;
use tower_resilience_circuitbreaker as resilience;
use tower_resilience_ratelimiter::RateLimiterLayer;

pub const ABOUT: &str = "\n\
Two threads that share nothing make twice as many calls as one thread. If the first lines show less, \
the machine was busy with something else, and the other lines are not reliable.\n";

/// The cases with two threads, in the order of the tables.
pub fn cases() -> impl Iterator<Item = Case> {
    CASES.iter().copied().flat_map(Case::variants)
}

const CASES: &[Case] = &[
    Case::new("bare call, nothing shared", Work::Succeeds, || {
        vec![Contender::shared(FLOOR, || AtOnce)]
    })
    .pending(|| vec![Contender::shared(FLOOR, || PendingOnce(AtOnce))]),
    Case::new(
        "timeout, a hundred tasks yielding to the runtime",
        Work::Succeeds,
        the_timeout,
    ),
    Case::new("the stack of five", Work::Succeeds, || the_stack(AtOnce))
        .pending(|| the_stack(PendingOnce(AtOnce))),
    Case::new(stack::TWO_TIMEOUTS, Work::Succeeds, || two_timeouts(AtOnce))
        .pending(|| two_timeouts(PendingOnce(AtOnce)))
        .without(stack::ONLY_ASSEMBLED),
    Case::new("breaker closed, ok", Work::Succeeds, || the_breaker(AtOnce))
        .pending(|| the_breaker(PendingOnce(AtOnce)))
        .without(&[(TOWER, "has no breaker")]),
    Case::new("rate limit, accepted", Work::Succeeds, || {
        the_rate_limit(AtOnce)
    })
    .pending(|| the_rate_limit(PendingOnce(AtOnce)))
    .without(&[
        (
            TOWER,
            "not `Clone`; inside its `Buffer`, a single task makes all calls",
        ),
        (SEATBELT, "has no rate limit"),
    ]),
];

fn the_timeout() -> Vec<Contender> {
    let upstream = yielding();
    vec![
        Contender::shared_by_tasks(BUTTRESS, || ours::timeout(upstream)),
        Contender::shared_by_tasks(TOWER, || timeout::tower(upstream)),
        Contender::shared_by_tasks(TOWER_RESILIENCE, || timeout::tower_resilience(upstream)),
        Contender::shared_by_tasks(SEATBELT, || timeout::seatbelt(upstream)),
    ]
}

fn the_stack(upstream: impl Upstream) -> Vec<Contender> {
    vec![
        Contender::shared(BUTTRESS, || ours::stack(stack::LIMIT, upstream)),
        Contender::shared(TOWER, || stack::tower(upstream)).note(stack::TOWER_HAS),
        Contender::shared(TOWER_RESILIENCE, || stack::tower_resilience(upstream)),
        Contender::shared(SEATBELT, || stack::seatbelt(upstream)).note(stack::SEATBELT_HAS),
        Contender::shared(ASSEMBLED, || stack::assembled(upstream)).note(stack::ASSEMBLED_OF),
    ]
}

fn two_timeouts(upstream: impl Upstream) -> Vec<Contender> {
    vec![
        Contender::shared(BUTTRESS, || {
            ours::stack_with_two_timeouts(stack::LIMIT, upstream)
        }),
        Contender::shared(ASSEMBLED, || stack::assembled_with_two_timeouts(upstream))
            .note(stack::ASSEMBLED_OF),
    ]
}

fn the_breaker(upstream: impl Upstream) -> Vec<Contender> {
    vec![
        Contender::shared(BUTTRESS, || ours::breaker(upstream)),
        Contender::shared(TOWER_RESILIENCE, || {
            tower_resilience(resilience::CircuitBreakerLayer::standard(), upstream)
        }),
        Contender::shared(SEATBELT, || seatbelt(|breaker| breaker, upstream)),
        Contender::shared(RECLOSER, || recloser(Recloser::custom(), upstream)),
        Contender::shared(FAILSAFE, || {
            failsafe(SuccessRateOverTimeWindow::default(), upstream)
        }),
    ]
}

fn the_rate_limit(upstream: impl Upstream) -> Vec<Contender> {
    vec![
        Contender::shared(BUTTRESS, || ours::rate_limit(upstream)),
        Contender::shared(TOWER_RESILIENCE, || {
            let limit = RateLimiterLayer::per_second(PLENTY as usize);
            rate::tower_resilience(limit, upstream)
        }),
        Contender::shared(GOVERNOR, || rate::governor(rate::plenty(), upstream)),
    ]
}
