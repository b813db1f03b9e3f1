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
//! What [`StatusClassifier`] says, and why. [`Classify`](crate::Classify) says what a verdict leads
//! to.
//!
#![doc = include_str!("verdicts.md")]
//!
//! The errors are those of hyper, hyper-util and reqwest. A feature makes a client's errors known to
//! the compiler, and never changes a verdict: see [`ClientError`]. Some errors cannot be told apart. A
//! server that speaks another protocol than HTTP, before it is asked, looks like a connection that
//! was closed while idle (transient). A redirect to a scheme that reqwest cannot use looks like a
//! request for it (ignored).

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
pub use fault::{ClientError, judge_error};
pub use head::ResponseHead;
pub use pause::{On429, PauseOn429, Pauses};
pub use replay::RepeatIf;
#[cfg(feature = "http-body")]
pub use replay_body::{ReplayBody, ReplayBodyLayer, ReplayBodyService};
pub use retry_after::retry_after;
pub use stack::{Part, Stack, StackBuilder, StackLayer, stack};
