use super::quota::Quota;
use crate::error::InvalidConfig;
use crate::name::Name;
use std::time::Duration;

/// The settings of a [`RateLimitLayer`](super::RateLimitLayer) and its
/// [`RateLimiter`](super::RateLimiter).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimitSettings {
    /// How many calls per how long.
    pub quota: Quota,
    /// How long a call may wait for its turn, from the call. Default: 1 s.
    pub max_wait: Duration,
    /// The name in errors, events, snapshots and `Debug`. Default: none.
    pub name: Name,
}

impl RateLimitSettings {
    /// This quota; calls wait up to 1 s for their turn.
    #[must_use]
    pub const fn new(quota: Quota) -> Self {
        Self {
            quota,
            max_wait: Duration::from_secs(1),
            name: Name::UNNAMED,
        }
    }

    /// Whether a limiter can be built with these settings.
    ///
    /// # Errors
    /// None today: every quota and every duration is valid.
    pub fn check(&self) -> Result<(), InvalidConfig> {
        Ok(())
    }
}
