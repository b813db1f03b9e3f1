//! Each layer, by everybody who has one, set up as their own documentation does.

pub mod breaker;
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

/// The cases of one thread, in the order of the table, but for those of [`breaker::HOLDING`].
pub fn cases() -> impl Iterator<Item = Case> {
    let layers = [
        timeout::CASES,
        retry::CASES,
        breaker::CASES,
        rate::CASES,
        shed::CASES,
        stack::CASES,
    ];
    layers
        .into_iter()
        .flatten()
        .copied()
        .flat_map(Case::variants)
}

/// Of the whole call, and of one attempt. Never reached.
const DEADLINE: Duration = Duration::from_secs(10);
const ATTEMPT: Duration = Duration::from_secs(2);
/// Longer than anything that is measured.
const LONG: Duration = Duration::from_hours(1);
/// More calls than anybody makes in a second.
const PLENTY: u32 = 1_000_000_000;

/// What seatbelt's layers are made with. Its clock belongs to the current runtime.
fn seatbelt() -> ResilienceContext<u64, Result<u64, Failure>> {
    ResilienceContext::new(Clock::new_tokio()).name("peers")
}
