use super::quota::Quota;
use crate::error::InvalidConfig;
use crate::name::Name;
use std::time::Duration;

/// The settings of a [`RateLimitLayer`](super::RateLimitLayer) and its
/// [`RateLimiter`](super::RateLimiter).
///
/// ```
/// use buttress::{Quota, rate_limit::{RateLimitSettings, RateLimiter}};
/// use std::time::Duration;
///
/// let settings = RateLimitSettings {
///     max_wait: Duration::ZERO,
///     ..RateLimitSettings::new(Quota::per_second(200))
/// };
/// let limiter = RateLimiter::with(settings)?;
/// assert_eq!(limiter.snapshot().available, 20); // the burst
/// # Ok::<(), buttress::error::InvalidConfig>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimitSettings {
    /// The calls per time, and the burst.
    pub quota: Quota,
    /// The longest wait for a turn, from the call. Default: 1 s.
    pub max_wait: Duration,
    /// The name in errors, events, snapshots and `Debug`. Default: none.
    pub name: Name,
}

impl RateLimitSettings {
    /// This quota, and waits of up to 1 s.
    #[must_use]
    pub const fn new(quota: Quota) -> Self {
        Self {
            quota,
            max_wait: Duration::from_secs(1),
            name: Name::UNNAMED,
        }
    }

    /// Checks whether a limiter can be built with these settings.
    ///
    /// # Errors
    /// None so far: every quota and every duration is valid.
    pub fn check(&self) -> Result<(), InvalidConfig> {
        Ok(())
    }
}
