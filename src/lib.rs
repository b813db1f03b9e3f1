// The README's first example needs the feature `hyper-util`. Without the feature, doctests leave the
// README out.
#![cfg_attr(
    not(all(doctest, not(feature = "hyper-util"))),
    doc = include_str!("../README.md")
)]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod budget;
mod chance;
pub mod chaos;
pub mod circuit_breaker;
pub mod deadline;
pub mod error;
pub mod event;
pub mod fallback;
pub mod fleet;
pub mod gate;
#[cfg(feature = "http-body")]
pub mod grpc;
pub mod guide;
pub mod hedge;
pub mod http;
pub mod keyed;
pub mod load_shed;
#[cfg(feature = "metrics")]
pub mod metrics;
#[cfg(not(feature = "metrics"))]
#[path = "metrics/off.rs"]
mod metrics;
mod name;
pub mod observe;
pub mod rate_limit;
mod replay;
pub mod retry;
mod secret;
mod spare;
mod sync;
mod time;
pub mod timeout;
pub mod verdict;

pub use chaos::ChaosLayer;
pub use circuit_breaker::CircuitBreakerLayer;
pub use deadline::{Carrier, Deadline};
pub use error::{Error, ErrorLayer, Rejection, StackError};
pub use fallback::FallbackLayer;
pub use hedge::HedgeLayer;
pub use load_shed::LoadShedLayer;
pub use name::Name;
pub use rate_limit::{Cost, Quota, RateLimitLayer};
pub use retry::{Replay, RetryLayer};
pub use timeout::TimeoutLayer;
pub use verdict::{Classify, RetryAfter, Verdict};
