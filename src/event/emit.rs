use super::{CircuitState, Event};
use crate::time::millis;
use tracing::{Level, event};

impl Event {
    /// Emits the event through `tracing`.
    #[expect(clippy::too_many_lines, reason = "one arm for each event")]
    pub(super) fn emit(self) {
        match self {
            Self::TimedOut { name, after } => event!(
                name: "timed_out", target: "buttress::timeout", Level::DEBUG,
                name = name.as_str(), after_ms = millis(after), "timed_out"
            ),
            Self::DeadlinePassed { name } => event!(
                name: "deadline_passed", target: "buttress::timeout", Level::DEBUG,
                name = name.as_str(), "deadline_passed"
            ),
            Self::Retrying {
                name,
                attempt,
                wait,
                verdict,
            } => event!(
                name: "retrying", target: "buttress::retry", Level::DEBUG,
                name = name.as_str(), attempt, wait_ms = millis(wait), verdict = verdict.as_str(),
                "retrying"
            ),
            Self::GaveUp {
                name,
                attempt,
                verdict,
                reason,
            } => event!(
                name: "gave_up", target: "buttress::retry", Level::DEBUG,
                name = name.as_str(), attempt, verdict = verdict.as_str(),
                reason = reason.as_str(), "gave_up"
            ),
            Self::Transition {
                name,
                from,
                to,
                reason,
                calls,
                failures,
                slow_calls,
            } => {
                macro_rules! changed {
                    ($event:literal, $level:expr) => {
                        event!(
                            name: $event, target: "buttress::circuit_breaker", $level,
                            name = name.as_str(), from = from.as_str(), to = to.as_str(),
                            reason = reason.as_str(), calls, failures, slow_calls, $event
                        )
                    };
                }
                match to {
                    CircuitState::Open | CircuitState::ForcedOpen => {
                        changed!("opened", Level::WARN);
                    }
                    CircuitState::HalfOpen => changed!("half_opened", Level::INFO),
                    CircuitState::Closed | CircuitState::ForcedClosed => {
                        changed!("closed", Level::INFO);
                    }
                }
            }
            Self::CircuitRejected { name, retry_after } => event!(
                name: "rejected", target: "buttress::circuit_breaker", Level::DEBUG,
                name = name.as_str(), retry_after_ms = retry_after.map(millis), "rejected"
            ),
            Self::RateLimited {
                name,
                cost,
                retry_after,
            } => event!(
                name: "rate_limited", target: "buttress::rate_limit", Level::DEBUG,
                name = name.as_str(), cost, retry_after_ms = retry_after.map(millis),
                "rate_limited"
            ),
            Self::TooCostly { name, cost, burst } => event!(
                name: "too_costly", target: "buttress::rate_limit", Level::DEBUG,
                name = name.as_str(), cost, burst, "too_costly"
            ),
            Self::Paused { name, pause } => event!(
                name: "paused", target: "buttress::rate_limit", Level::DEBUG,
                name = name.as_str(), pause_ms = millis(pause), "paused"
            ),
            Self::StoreDown { name } => event!(
                name: "store_down", target: "buttress::rate_limit", Level::WARN,
                name = name.as_str(), "store_down"
            ),
            Self::StoreUp { name, down } => event!(
                name: "store_up", target: "buttress::rate_limit", Level::INFO,
                name = name.as_str(), down_ms = millis(down), "store_up"
            ),
            Self::LimitChanged { name, from, to } => event!(
                name: "limit_changed", target: "buttress::load_shed", Level::INFO,
                name = name.as_str(), from, to, "limit_changed"
            ),
            Self::ChaosOn { name, length } => event!(
                name: "chaos_on", target: "buttress::chaos", Level::WARN,
                name = name.as_str(), for_ms = length.map(millis), "chaos_on"
            ),
            Self::ChaosOff { name } => event!(
                name: "chaos_off", target: "buttress::chaos", Level::INFO,
                name = name.as_str(), "chaos_off"
            ),
            Self::Injected { name, fault, delay } => event!(
                name: "injected", target: "buttress::chaos", Level::INFO,
                name = name.as_str(), fault, delay_ms = millis(delay), "injected"
            ),
            Self::Hedged { name, hedge, after } => event!(
                name: "hedged", target: "buttress::hedge", Level::DEBUG,
                name = name.as_str(), hedge, after_ms = millis(after), "hedged"
            ),
            Self::HedgeWon { name, hedge } => event!(
                name: "hedge_won", target: "buttress::hedge", Level::DEBUG,
                name = name.as_str(), hedge, "hedge_won"
            ),
            Self::HedgeDenied { name, reason } => event!(
                name: "hedge_denied", target: "buttress::hedge", Level::DEBUG,
                name = name.as_str(), reason = reason.as_str(), "hedge_denied"
            ),
            Self::FellBack {
                name,
                verdict,
                rejection,
            } => event!(
                name: "fell_back", target: "buttress::fallback", Level::DEBUG,
                name = name.as_str(), verdict = verdict.as_str(),
                rejected_by = rejection.and_then(|rejection| rejection.by().as_str()), "fell_back"
            ),
            Self::ServedStale { name, verdict, age } => event!(
                name: "served_stale", target: "buttress::fallback", Level::DEBUG,
                name = name.as_str(), verdict = verdict.as_str(), age_ms = millis(age),
                "served_stale"
            ),
            Self::Degraded { name, verdict } => event!(
                name: "degraded", target: "buttress::fallback", Level::INFO,
                name = name.as_str(), verdict = verdict.as_str(), "degraded"
            ),
            Self::Restored { name } => event!(
                name: "restored", target: "buttress::fallback", Level::INFO,
                name = name.as_str(), "restored"
            ),
            // Only for observers: they tell of calls that went well.
            Self::Recovered { .. }
            | Self::ProbeSent { .. }
            | Self::WaitedForTurn { .. }
            | Self::WaitedForSlot { .. } => {}
            Self::Overloaded {
                name,
                reason,
                limit,
            } => event!(
                name: "overloaded", target: "buttress::load_shed", Level::DEBUG,
                name = name.as_str(), reason = reason.as_str(), limit, "overloaded"
            ),
        }
    }
}
