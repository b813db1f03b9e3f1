//! One layer, shared by threads that do nothing but call.

use super::breaker::{buttress, failsafe, recloser, seatbelt, tower_resilience};
use super::{
    ASSEMBLED, BUTTRESS, FAILSAFE, GOVERNOR, PLENTY, RECLOSER, SEATBELT, TOWER, TOWER_RESILIENCE,
    rate, stack, timeout,
};
use crate::case::Contender;
use crate::floor::FLOOR;
use crate::inner::{AtOnce, yielding};
use buttress::{CircuitBreakerLayer, Quota};
use failsafe::failure_policy::SuccessRateOverTimeWindow;
use recloser::Recloser;
use tower_resilience_circuitbreaker as resilience;
use tower_resilience_ratelimiter::RateLimiterLayer;

/// Made for any number of threads.
pub struct SharedCase {
    pub name: &'static str,
    pub contenders: fn(usize) -> Vec<Contender>,
    /// Who does not take part, and why.
    pub absent: &'static [(&'static str, &'static str)],
}

pub const ABOUT: &str = "\n\
Two threads that share nothing do twice what one does. Where the first lines say less, the machine \
was busy with something else, and the others mean little.\n";

pub const CASES: &[SharedCase] = &[
    SharedCase {
        name: "bare call, nothing shared",
        contenders: |threads| vec![Contender::threads(FLOOR, threads, AtOnce)],
        absent: &[],
    },
    SharedCase {
        name: "timeout, a hundred tasks yielding to the runtime",
        contenders: the_timeout,
        absent: &[],
    },
    SharedCase {
        name: "the stack of five",
        contenders: the_stack,
        absent: &[],
    },
    SharedCase {
        name: "breaker closed, ok",
        contenders: the_breaker,
        absent: &[(TOWER, "has no breaker")],
    },
    SharedCase {
        name: "rate limit, accepted",
        contenders: the_rate_limit,
        absent: &[
            (
                TOWER,
                "not `Clone`; behind its `Buffer` one task makes all calls",
            ),
            (SEATBELT, "has no rate limit"),
        ],
    },
];

fn the_timeout(threads: usize) -> Vec<Contender> {
    let callee = yielding();
    vec![
        Contender::tasks(BUTTRESS, threads, timeout::buttress(callee.clone())),
        Contender::tasks(TOWER, threads, timeout::tower(callee.clone())),
        Contender::tasks(
            TOWER_RESILIENCE,
            threads,
            timeout::tower_resilience(callee.clone()),
        ),
        Contender::tasks(SEATBELT, threads, timeout::seatbelt(callee)),
    ]
}

fn the_stack(threads: usize) -> Vec<Contender> {
    vec![
        Contender::threads(BUTTRESS, threads, stack::buttress()),
        Contender::threads(TOWER, threads, stack::tower()).note(stack::TOWER_HAS),
        Contender::threads(TOWER_RESILIENCE, threads, stack::tower_resilience()),
        Contender::threads(SEATBELT, threads, stack::seatbelt()).note(stack::SEATBELT_HAS),
        Contender::threads(ASSEMBLED, threads, stack::assembled()).note(stack::ASSEMBLED_OF),
    ]
}

fn the_breaker(threads: usize) -> Vec<Contender> {
    let resilience = resilience::CircuitBreakerLayer::standard();
    let rate = SuccessRateOverTimeWindow::default();
    vec![
        Contender::threads(
            BUTTRESS,
            threads,
            buttress(CircuitBreakerLayer::builder(), AtOnce),
        ),
        Contender::threads(
            TOWER_RESILIENCE,
            threads,
            tower_resilience(resilience, AtOnce),
        ),
        Contender::threads(SEATBELT, threads, seatbelt(|breaker| breaker, AtOnce)),
        Contender::threads(RECLOSER, threads, recloser(Recloser::custom(), AtOnce)),
        Contender::threads(FAILSAFE, threads, failsafe(rate, AtOnce)),
    ]
}

fn the_rate_limit(threads: usize) -> Vec<Contender> {
    let ours = rate::buttress(Quota::per_second(PLENTY), AtOnce);
    let resilience = RateLimiterLayer::per_second(PLENTY as usize);
    vec![
        Contender::threads(BUTTRESS, threads, ours),
        Contender::threads(
            TOWER_RESILIENCE,
            threads,
            rate::tower_resilience(resilience, AtOnce),
        ),
        Contender::threads(GOVERNOR, threads, rate::governor(rate::plenty(), AtOnce)),
    ]
}
