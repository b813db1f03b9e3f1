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

mod classify;
mod deadline;
mod replay;
mod retry_after;

pub use classify::StatusClassifier;
pub use deadline::InExtensions;
pub use replay::Idempotent;
pub use retry_after::retry_after;
