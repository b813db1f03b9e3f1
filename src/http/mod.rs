//! What HTTP adds: the verdict of a status, `Retry-After`, which requests may be sent twice, and
//! where they carry their deadline.
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
//!
//! # Verdicts
//!
//! What [`StatusClassifier`] says, and why. What a verdict leads to stands at
//! [`Classify`](crate::Classify).
//!
#![doc = include_str!("verdicts.md")]
//!
//! The errors are those of hyper-util and reqwest, with the features of these names. Not all can be
//! told apart: a server that speaks before it is asked, in another protocol than HTTP, looks like a
//! connection that was closed while idle (transient), and a redirect to a scheme that reqwest cannot
//! do like a request for it (ignored).

mod attempt;
#[cfg(feature = "http-body")]
mod body_end;
mod classify;
mod deadline;
#[cfg(feature = "http-body")]
mod drain;
mod fault;
mod head;
mod pause;
mod replay;
#[cfg(feature = "http-body")]
mod replay_body;
mod retry_after;
mod stack;

pub use crate::gate::{CallEnd, UntilHead};
pub use crate::replay::Idempotent;
pub use attempt::Attempt;
#[cfg(feature = "http-body")]
pub use body_end::{HeldBody, UntilBodyEnd};
pub use classify::StatusClassifier;
pub use deadline::{AttemptTimeout, InExtensions};
#[cfg(feature = "http-body")]
pub use drain::{Drain, Draining};
pub use fault::judge_error;
pub use head::ResponseHead;
pub use pause::{On429, PauseOn429, Pauses};
pub use replay::RepeatIf;
#[cfg(feature = "http-body")]
pub use replay_body::{ReplayBody, ReplayBodyLayer, ReplayBodyService};
pub use retry_after::retry_after;
pub use stack::{Part, Stack, StackBuilder, StackLayer, stack};
