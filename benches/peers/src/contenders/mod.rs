//! Each layer, by everybody who has one, set up as their own documentation does.

pub mod breaker;
pub mod rate;
pub mod retry;
pub mod shared;
pub mod shed;
pub mod stack;
pub mod timeout;

use crate::calls::call_by_hand;
use crate::case::Case;
use crate::inner::Failure;
use seatbelt::ResilienceContext;
use std::sync::OnceLock;
use std::time::Duration;
use tick::Clock;
use tower::Service;

pub const BUTTRESS: &str = "buttress";
pub const TOWER: &str = "tower";
pub const TOWER_RESILIENCE: &str = "tower-resilience";
pub const SEATBELT: &str = "seatbelt";
pub const GOVERNOR: &str = "governor";
pub const RECLOSER: &str = "recloser";
pub const FAILSAFE: &str = "failsafe";
pub const ASSEMBLED: &str = "assembled";

/// The cases of one thread, in the order of the table, but for those of [`breaker::HOLDING`].
pub fn cases() -> impl Iterator<Item = &'static Case> {
    let layers = [
        timeout::CASES,
        retry::CASES,
        breaker::CASES,
        rate::CASES,
        shed::CASES,
        stack::CASES,
    ];
    layers.into_iter().flatten()
}

/// A service that a contender makes.
pub trait Caller: Service<u64, Response = u64, Future: Send> + Clone + Send + 'static {}

impl<S> Caller for S where S: Service<u64, Response = u64, Future: Send> + Clone + Send + 'static {}

/// Longer than anything that is measured.
const LONG: Duration = Duration::from_hours(1);
/// More calls than anybody makes in a second.
const PLENTY: u32 = 1_000_000_000;

/// The service, after so many calls.
fn after_calls<S: Service<u64>>(calls: u64, mut service: S) -> S {
    for n in 0..calls {
        call_by_hand(&mut service, n);
    }
    service
}

/// What seatbelt's layers are made with, all of one clock.
fn seatbelt() -> ResilienceContext<u64, Result<u64, Failure>> {
    static CLOCK: OnceLock<Clock> = OnceLock::new();
    ResilienceContext::new(CLOCK.get_or_init(Clock::new_tokio)).name("peers")
}
