//! What HTTP adds: the verdict of a status, `Retry-After`, and which requests may be sent twice.
//!
//! Import the items, not the module, whose name is that of the `http` crate:
//!
//! ```
//! use buttress::RetryLayer;
//! use buttress::http::{Idempotent, StatusClassifier};
//!
//! let layer =
//!     RetryLayer::builder().classify(StatusClassifier::default()).replay(Idempotent).build()?;
//! # Ok::<(), buttress::error::InvalidConfig>(())
//! ```
//!
//! The feature `http-body` brings `ReplayBodyLayer`, with which requests whose bodies are not `Clone`
//! can be sent again, and `Drain`, which reads responses that are thrown away to their end, so that
//! their connections can be used again.

mod attempt;
mod classify;
#[cfg(feature = "http-body")]
mod drain;
mod replay;
#[cfg(feature = "http-body")]
mod replay_body;
mod retry_after;

pub use attempt::Attempt;
pub use classify::StatusClassifier;
#[cfg(feature = "http-body")]
pub use drain::{Drain, Draining};
pub use replay::{Idempotent, RepeatIf};
#[cfg(feature = "http-body")]
pub use replay_body::{ReplayBody, ReplayBodyLayer, ReplayBodyService};
pub use retry_after::retry_after;
