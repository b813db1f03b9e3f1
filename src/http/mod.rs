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

//! # Verdicts
//!
//! What [`StatusClassifier`] says, and why. What a verdict leads to stands at
//! [`Classify`](crate::Classify).
//!
#![doc = include_str!("verdicts.md")]
//!
//! The errors are those of hyper-util and reqwest, with the features of these names.

mod call_end;
mod classify;
mod deadline;
mod fault;
mod head;
mod maybe;
mod replay;
mod retry_after;
mod stack;

pub use call_end::{CallEnd, Guard, UntilHead};
#[cfg(feature = "http-body")]
pub use call_end::{HeldBody, UntilBodyEnd};
pub use classify::StatusClassifier;
pub use deadline::InExtensions;
pub use fault::judge_error;
pub use head::ResponseHead;
pub use replay::Idempotent;
pub use retry_after::retry_after;
pub use stack::{Stack, StackBuilder, StackLayer, stack};
