//! Sends again what failed, within a budget.

mod backoff;
mod budget;
mod service;

pub use backoff::{Backoff, Jitter};
pub use budget::{Budget, BudgetBuilder, Withdrawal};
pub use service::{Cloned, Replay, Retry, RetryBuilder, RetryFuture, RetryLayer};
