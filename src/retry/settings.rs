use super::backoff::Backoff;
use crate::error::InvalidConfig;
use crate::name::Name;
use std::time::Duration;

/// The settings of a [`RetryLayer`](super::RetryLayer), but for its budget.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetrySettings {
    /// How often a call is sent in all, the first attempt included. At least 1. Default: 3.
    pub attempts: u32,
    /// How long to wait before each retry. Default: exponential from 50 ms to 5 s, full jitter.
    pub backoff: Backoff,
    /// The longest wait that the upstream may ask for. Default: 60 s.
    pub max_retry_after: Duration,
    /// Makes the waits repeatable. Default: random.
    pub seed: Option<u64>,
    /// The name in events and `Debug`. Default: none.
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
    /// Whether a layer can be built with these settings.
    ///
    /// # Errors
    /// No attempts; a backoff whose base is above its cap, or whose factor is below 1 or not finite.
    pub fn check(&self) -> Result<(), InvalidConfig> {
        if self.attempts == 0 {
            return Err(InvalidConfig::new("attempts", 0, "at least 1"));
        }
        self.backoff.check()
    }
}
