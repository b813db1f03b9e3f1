use super::{BUTTRESS, Caller, SEATBELT, TOWER, TOWER_RESILIENCE};
use crate::case::{Case, Contender, Work};
use crate::inner::{AtOnce, Callee, FailsOddCalls, Failure};
use buttress::retry::{Backoff, Cloned};
use buttress::{ErrorLayer, RetryLayer};
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
        Work::Answered,
        with_budget,
    )
    .without(&[(SEATBELT, "has no budget")]),
    Case::new(
        "retry without a budget, first attempt succeeds",
        Work::Answered,
        without_budget,
    ),
    Case::new(
        "retry without a budget, second attempt succeeds, no wait",
        Work::AnsweredAtSecond,
        second_attempt,
    ),
];

fn with_budget() -> Vec<Contender> {
    vec![
        Contender::by_hand(BUTTRESS, buttress(AtOnce)),
        Contender::by_hand(TOWER, tower_with_budget(AtOnce)),
        Contender::by_hand(TOWER_RESILIENCE, tower_resilience_with_budget(AtOnce)),
    ]
}

fn without_budget() -> Vec<Contender> {
    vec![
        Contender::by_hand(BUTTRESS, buttress_without_budget(AtOnce)),
        Contender::by_hand(TOWER, tower(AtOnce)),
        Contender::by_hand(TOWER_RESILIENCE, tower_resilience(AtOnce)),
        Contender::by_hand(SEATBELT, seatbelt(AtOnce)),
    ]
}

fn second_attempt() -> Vec<Contender> {
    vec![
        Contender::by_hand(BUTTRESS, buttress_without_budget(FailsOddCalls)),
        Contender::by_hand(TOWER, tower(FailsOddCalls)),
        Contender::in_runtime(TOWER_RESILIENCE, tower_resilience(FailsOddCalls))
            .note("sleeps for a tick of the timer even if the backoff is zero; run in a runtime"),
        Contender::by_hand(SEATBELT, seatbelt(FailsOddCalls)),
    ]
}

fn buttress(callee: impl Callee) -> impl Caller {
    ServiceBuilder::new()
        .layer(RetryLayer::builder().replay(Cloned).build().expect("valid"))
        .layer(ErrorLayer)
        .service(callee)
}

fn buttress_without_budget(callee: impl Callee) -> impl Caller {
    let retry = RetryLayer::builder()
        .replay(Cloned)
        .no_budget()
        .backoff(Backoff::constant(Duration::ZERO));
    ServiceBuilder::new()
        .layer(retry.build().expect("valid"))
        .layer(ErrorLayer)
        .service(callee)
}

fn tower(callee: impl Callee) -> impl Caller {
    ServiceBuilder::new().retry(Attempts(2)).service(callee)
}

fn tower_with_budget(callee: impl Callee) -> impl Caller {
    ServiceBuilder::new()
        .retry(Budgeted::default())
        .service(callee)
}

fn tower_resilience(callee: impl Callee) -> impl Caller {
    let retry = resilience::RetryLayer::<u64, u64, Failure>::exponential_backoff()
        .fixed_backoff(Duration::ZERO);
    ServiceBuilder::new().layer(retry.build()).service(callee)
}

fn tower_resilience_with_budget(callee: impl Callee) -> impl Caller {
    let retry = resilience::RetryLayer::<u64, u64, Failure>::exponential_backoff()
        .budget(tower_resilience_budget());
    ServiceBuilder::new().layer(retry.build()).service(callee)
}

pub(super) fn tower_resilience_budget() -> Arc<dyn resilience::RetryBudget> {
    let budget = resilience::RetryBudgetBuilder::new()
        .token_bucket()
        .tokens_per_second(10.0)
        .max_tokens(100);
    budget.build().expect("valid")
}

fn seatbelt(callee: impl Callee) -> impl Caller {
    let retry = Retry::layer("retry", &super::seatbelt())
        .clone_input()
        .recovery_with(|result: &Result<u64, Failure>, _| match result {
            Ok(_) => RecoveryInfo::never(),
            Err(_) => RecoveryInfo::retry(),
        })
        .base_delay(Duration::ZERO);
    ServiceBuilder::new().layer(retry).service(callee)
}

/// The policy of the documentation of `tower::retry::Policy`: retries left.
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

/// The policy of the documentation of `tower::retry::budget`.
#[derive(Clone, Default)]
pub(super) struct Budgeted {
    budget: Arc<TpsBudget>,
}

impl<E> Policy<u64, u64, E> for Budgeted {
    type Future = Ready<()>;

    fn retry(&mut self, _: &mut u64, outcome: &mut Result<u64, E>) -> Option<Ready<()>> {
        if outcome.is_ok() {
            self.budget.deposit();
            return None;
        }
        self.budget.withdraw().then(|| ready(()))
    }

    fn clone_request(&mut self, n: &u64) -> Option<u64> {
        Some(*n)
    }
}
