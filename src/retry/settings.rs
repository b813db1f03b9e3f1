use super::backoff::Backoff;
use crate::error::InvalidConfig;
use crate::name::Name;
use std::time::Duration;

/// The settings of a [`RetryLayer`](super::RetryLayer), without its budget and its policies.
///
/// ```
/// use buttress::RetryLayer;
/// use buttress::retry::RetrySettings;
///
/// let settings = RetrySettings { attempts: 5, ..RetrySettings::default() };
/// settings.check()?;
/// let layer = RetryLayer::builder().settings(settings).build()?;
/// assert!(layer.to_string().contains("5 attempts"));
/// # Ok::<(), buttress::error::InvalidConfig>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetrySettings {
    /// How many times one call is sent at most, the first attempt included. At least 1. Default: 3.
    pub attempts: u32,
    /// How long to wait before each retry, from the end of the failed attempt. Default: exponential
    /// from 50 ms to 5 s, with full jitter.
    pub backoff: Backoff,
    /// The longest wait (`Retry-After`) that the upstream may ask for. If it asks for more, the call
    /// is not retried. Default: 60 s.
    pub max_retry_after: Duration,
    /// Seeds the random part of the waits, so that a test can repeat them. Default: a random seed.
    pub seed: Option<u64>,
    /// The name in errors, events, snapshots and `Debug`. Default: none.
    pub name: Name,
}

impl Default for RetrySettings {
    fn default() -> Self {
        Self {
            attempts: 3,
            backoff: Backoff::exponential(Duration::from_millis(50), Duration::from_secs(5)),
            max_retry_after: Duration::from_secs(60),
            seed: None,
            name: Name::UNNAMED,
        }
    }
}

impl RetrySettings {
    /// Checks whether a layer can be built with these settings.
    ///
    /// # Errors
    /// `attempts` is 0; the base of `backoff` is above its cap; the factor of `backoff` is below 1 or
    /// not finite.
    pub fn check(&self) -> Result<(), InvalidConfig> {
        if self.attempts == 0 {
            return Err(InvalidConfig::new("attempts", 0, "at least 1"));
        }
        self.backoff.check()
    }
}
