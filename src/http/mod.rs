//! What HTTP adds: the verdict of a status, `Retry-After`, and which requests may be sent twice.

mod classify;
mod replay;
mod retry_after;

pub use classify::StatusClassifier;
pub use replay::Idempotent;
pub use retry_after::retry_after;
