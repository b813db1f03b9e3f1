use super::{BUTTRESS, SEATBELT, TOWER, TOWER_RESILIENCE, ours};
use crate::case::{Case, Contender, Work};
use crate::tasks::Called;
use crate::upstream::{AtOnce, FailsOddCalls, Failure, PendingOnce, Upstream};
use seatbelt::RecoveryInfo;
use seatbelt::retry::Retry;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::time::Duration;
use tower::ServiceBuilder;
use tower::retry::Policy;
use tower::retry::budget::{Budget, TpsBudget};
use tower_resilience_retry as resilience;

pub const CASES: &[Case] = &[
    Case::new(
        "retry with a budget, first attempt succeeds",
        Work::Succeeds,
        || with_budget(AtOnce),
    )
    .pending(|| with_budget(PendingOnce(AtOnce)))
    .without(&[(SEATBELT, "has no budget")]),
    Case::new(
        "retry without a budget, first attempt succeeds",
        Work::Succeeds,
        || without_budget(AtOnce),
    )
    .pending(|| without_budget(PendingOnce(AtOnce))),
    Case::new(
        "retry without a budget, second attempt succeeds, no wait",
        Work::SucceedsAtSecond,
        || second_attempt(FailsOddCalls),
    )
    .pending(|| second_attempt(PendingOnce(FailsOddCalls))),
];

fn with_budget(upstream: impl Upstream) -> Vec<Contender> {
    vec![
        Contender::new(BUTTRESS, || ours::retry(upstream)),
        Contender::new(TOWER, || tower_with_budget(upstream)),
        Contender::new(TOWER_RESILIENCE, || tower_resilience_with_budget(upstream)),
    ]
}

fn without_budget(upstream: impl Upstream) -> Vec<Contender> {
    vec![
        Contender::new(BUTTRESS, || ours::retry_without_budget(upstream)),
        Contender::new(TOWER, || tower(upstream)),
        Contender::new(TOWER_RESILIENCE, || tower_resilience(upstream)),
        Contender::new(SEATBELT, || seatbelt(upstream)),
    ]
}

fn second_attempt(upstream: impl Upstream) -> Vec<Contender> {
    vec![
        Contender::new(BUTTRESS, || ours::retry_without_budget(upstream)),
        Contender::new(TOWER, || tower(upstream)),
        Contender::in_tasks_only(TOWER_RESILIENCE, || tower_resilience(upstream)).note(
            "sleeps for one tick of the timer even if the backoff is zero, so it needs a runtime",
        ),
        Contender::new(SEATBELT, || seatbelt(upstream)),
    ]
}

fn tower(upstream: impl Upstream) -> impl Called + Clone {
    ServiceBuilder::new().retry(Attempts(2)).service(upstream)
}

fn tower_with_budget(upstream: impl Upstream) -> impl Called + Clone {
    ServiceBuilder::new()
        .retry(Budgeted::default())
        .service(upstream)
}

fn tower_resilience(upstream: impl Upstream) -> impl Called + Clone {
    let retry = resilience::RetryLayer::<u64, u64, Failure>::exponential_backoff()
        .fixed_backoff(Duration::ZERO);
    ServiceBuilder::new().layer(retry.build()).service(upstream)
}

fn tower_resilience_with_budget(upstream: impl Upstream) -> impl Called + Clone {
    let retry = resilience::RetryLayer::<u64, u64, Failure>::exponential_backoff()
        .budget(tower_resilience_budget());
    ServiceBuilder::new().layer(retry.build()).service(upstream)
}

pub(super) fn tower_resilience_budget() -> Arc<dyn resilience::RetryBudget> {
    let budget = resilience::RetryBudgetBuilder::new()
        .token_bucket()
        .tokens_per_second(10.0)
        .max_tokens(100);
    budget.build().expect("valid")
}

fn seatbelt(upstream: impl Upstream) -> impl Called + Clone {
    let retry = Retry::layer("retry", &super::seatbelt())
        .clone_input()
        .recovery_with(|result: &Result<u64, Failure>, _| match result {
            Ok(_) => RecoveryInfo::never(),
            Err(_) => RecoveryInfo::retry(),
        })
        .base_delay(Duration::ZERO);
    ServiceBuilder::new().layer(retry).service(upstream)
}

/// Counts the retries that are left, as the documentation of `tower::retry::Policy` does.
#[derive(Clone)]
struct Attempts(usize);

impl<E> Policy<u64, u64, E> for Attempts {
    type Future = Ready<()>;

    fn retry(&mut self, _: &mut u64, outcome: &mut Result<u64, E>) -> Option<Ready<()>> {
        if outcome.is_ok() || self.0 == 0 {
            return None;
        }
        self.0 -= 1;
        Some(ready(()))
    }

    fn clone_request(&mut self, n: &u64) -> Option<u64> {
        Some(*n)
    }
}

/// Uses a budget, as the documentation of `tower::retry::budget` does.
#[derive(Clone, Default)]
pub(super) struct Budgeted {
    budget: Arc<TpsBudget>,
}

impl<Req: Clone, Res, E> Policy<Req, Res, E> for Budgeted {
    type Future = Ready<()>;

    fn retry(&mut self, _: &mut Req, outcome: &mut Result<Res, E>) -> Option<Ready<()>> {
        if outcome.is_ok() {
            self.budget.deposit();
            return None;
        }
        self.budget.withdraw().then(|| ready(()))
    }

    fn clone_request(&mut self, request: &Req) -> Option<Req> {
        Some(request.clone())
    }
}
