//! Fallback, hedging and chaos, in a call that needs none of them.

use super::{BUTTRESS, LONG, SEATBELT, TOWER_RESILIENCE, ours};
use crate::case::{Case, Contender, Work};
use crate::tasks::Called;
use crate::upstream::{AtOnce, Failure, PendingOnce, Upstream};
use seatbelt::RecoveryInfo;
use seatbelt::chaos::injection::Injection;
use seatbelt::fallback::Fallback;
use seatbelt::hedging::Hedging;
use tower::ServiceBuilder;

pub const CASES: &[Case] = &[
    Case::new("fallback, not needed", Work::Succeeds, || fallback(AtOnce))
        .pending(|| fallback(PendingOnce(AtOnce))),
    Case::new("hedging, not needed", Work::Succeeds, || hedge(AtOnce))
        .pending(|| hedge(PendingOnce(AtOnce))),
    Case::new("chaos, off", Work::Succeeds, || chaos(AtOnce))
        .pending(|| chaos(PendingOnce(AtOnce))),
];

fn fallback(upstream: impl Upstream) -> Vec<Contender> {
    vec![
        Contender::new(BUTTRESS, || ours::fallback(upstream)),
        Contender::new(TOWER_RESILIENCE, || fallback_of_tower_resilience(upstream)),
        Contender::new(SEATBELT, || fallback_of_seatbelt(upstream)),
    ]
}

fn hedge(upstream: impl Upstream) -> Vec<Contender> {
    vec![
        Contender::in_tasks_only(BUTTRESS, || ours::hedge(upstream)),
        Contender::in_tasks_only(TOWER_RESILIENCE, || hedge_of_tower_resilience(upstream))
            .note("a fixed delay and no budget"),
        Contender::in_tasks_only(SEATBELT, || hedge_of_seatbelt(upstream))
            .note("a fixed delay and no budget"),
    ]
}

fn chaos(upstream: impl Upstream) -> Vec<Contender> {
    vec![
        Contender::new(BUTTRESS, || ours::chaos(upstream)),
        Contender::new(TOWER_RESILIENCE, || chaos_of_tower_resilience(upstream))
            .note("has no switch: the rate is 0"),
        Contender::new(SEATBELT, || chaos_of_seatbelt(upstream))
            .note("has no switch: the rate is 0"),
    ]
}

fn fallback_of_tower_resilience(upstream: impl Upstream) -> impl Called + Clone {
    use tower_resilience_fallback::FallbackLayer;
    ServiceBuilder::new()
        .layer(FallbackLayer::<u64, u64, Failure>::value(7))
        .service(upstream)
}

fn fallback_of_seatbelt(upstream: impl Upstream) -> impl Called + Clone {
    let fallback = Fallback::layer("fallback", &super::seatbelt())
        .should_fallback(|outcome: &Result<u64, Failure>| outcome.is_err())
        .fallback(|_, _| Ok(7));
    ServiceBuilder::new().layer(fallback).service(upstream)
}

fn hedge_of_tower_resilience(upstream: impl Upstream) -> impl Called + Clone {
    use tower_resilience_hedge::HedgeLayer;
    let hedge = HedgeLayer::builder().delay(LONG).max_hedged_attempts(2);
    ServiceBuilder::new().layer(hedge.build()).service(upstream)
}

fn hedge_of_seatbelt(upstream: impl Upstream) -> impl Called + Clone {
    let hedge = Hedging::layer("hedging", &super::seatbelt())
        .clone_input()
        .recovery_with(|outcome: &Result<u64, Failure>, _| match outcome {
            Ok(_) => RecoveryInfo::never(),
            Err(_) => RecoveryInfo::retry(),
        })
        .hedging_delay(LONG);
    ServiceBuilder::new().layer(hedge).service(upstream)
}

fn chaos_of_tower_resilience(upstream: impl Upstream) -> impl Called + Clone {
    use tower_resilience_chaos::ChaosLayer;
    let chaos = ChaosLayer::builder().latency_rate(0.0);
    ServiceBuilder::new().layer(chaos.build()).service(upstream)
}

fn chaos_of_seatbelt(upstream: impl Upstream) -> impl Called + Clone {
    let chaos = Injection::layer("injection", &super::seatbelt())
        .rate(0.0)
        .output_with(|_, _| Err(Failure));
    ServiceBuilder::new().layer(chaos).service(upstream)
}
