//! Each layer of each library that has one, set up as its documentation shows.

pub mod breaker;
pub mod degrade;
pub mod ours;
pub mod rate;
pub mod retry;
pub mod shared;
pub mod shed;
pub mod stack;
pub mod timeout;

use crate::case::Case;
use crate::upstream::Failure;
use seatbelt::ResilienceContext;
use std::time::Duration;
use tick::Clock;

pub const BUTTRESS: &str = "buttress";
pub const TOWER: &str = "tower";
pub const TOWER_RESILIENCE: &str = "tower-resilience";
pub const SEATBELT: &str = "seatbelt";
pub const GOVERNOR: &str = "governor";
pub const GOVERNOR_AND_CLOCK: &str = "governor and a clock read";
pub const RECLOSER: &str = "recloser";
pub const FAILSAFE: &str = "failsafe";
pub const ASSEMBLED: &str = "assembled";

/// All cases on one thread except [`breaker::HOLDING`], in the order of the tables.
pub fn cases() -> impl Iterator<Item = Case> {
    let layers = [
        timeout::CASES,
        retry::CASES,
        breaker::CASES,
        rate::CASES,
        shed::CASES,
        degrade::CASES,
        stack::CASES,
    ];
    layers
        .into_iter()
        .flatten()
        .copied()
        .flat_map(Case::variants)
}

/// The timeouts of the whole call and of one attempt. They never fire.
const DEADLINE: Duration = Duration::from_secs(10);
const ATTEMPT: Duration = Duration::from_secs(2);
/// Longer than any measurement.
const LONG: Duration = Duration::from_hours(1);
/// More calls per second than any contender can make.
const PLENTY: u32 = 1_000_000_000;

/// The context of seatbelt's layers. Its clock belongs to the current runtime.
fn seatbelt() -> ResilienceContext<u64, Result<u64, Failure>> {
    ResilienceContext::new(Clock::new_tokio()).name("peers")
}
