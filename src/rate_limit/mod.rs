//! Keeps calls within a quota.

mod gcra;
mod limiter;
mod quota;
mod service;

pub use limiter::{RateLimiter, Snapshot};
pub use quota::Quota;
pub use service::{Cost, RateLimit, RateLimitBuilder, RateLimitFuture, RateLimitLayer};
