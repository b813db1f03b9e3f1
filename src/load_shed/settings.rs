use super::slots::MAX_LIMIT;
use crate::error::InvalidConfig;
use crate::name::Name;
use std::time::Duration;

/// The settings of a [`LoadShedLayer`](super::LoadShedLayer) and its [`ConcurrencyLimit`](super::ConcurrencyLimit).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadShedSettings {
    /// How many calls may be in flight, 0 to 2^24 − 1.
    pub max_in_flight: usize,
    /// How many calls may wait for a slot, 0 to 65 535. Default: 0.
    pub queue: usize,
    /// How long a call may wait for a slot, from the call. Default: zero.
    pub max_wait: Duration,
    /// The name in errors, events, snapshots and `Debug`. Default: none.
    pub name: Name,
}

impl LoadShedSettings {
    /// At most this many calls in flight; no call waits.
    #[must_use]
    pub const fn new(max_in_flight: usize) -> Self {
        Self {
            max_in_flight,
            queue: 0,
            max_wait: Duration::ZERO,
            name: Name::UNNAMED,
        }
    }

    /// Whether a limit can be built with these settings.
    ///
    /// # Errors
    /// `max_in_flight` above 2^24 − 1, `queue` above 65 535.
    pub fn check(&self) -> Result<(), InvalidConfig> {
        if self.max_in_flight > MAX_LIMIT {
            return Err(InvalidConfig::new(
                "max_in_flight",
                self.max_in_flight,
                "at most 16777215",
            ));
        }
        if self.queue > usize::from(u16::MAX) {
            return Err(InvalidConfig::new("queue", self.queue, "at most 65535"));
        }
        Ok(())
    }
}
