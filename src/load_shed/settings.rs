use super::slots::MAX_LIMIT;
use crate::error::InvalidConfig;
use crate::name::Name;
use std::time::Duration;

/// The settings of a [`LoadShedLayer`](super::LoadShedLayer) and its [`ConcurrencyLimit`](super::ConcurrencyLimit).
///
/// ```
/// use buttress::load_shed::{ConcurrencyLimit, LoadShedSettings};
/// use std::time::Duration;
///
/// let settings = LoadShedSettings {
///     queue: 16,
///     max_wait: Duration::from_millis(100),
///     ..LoadShedSettings::new(64)
/// };
/// let limit = ConcurrencyLimit::with(settings)?;
/// assert_eq!(limit.to_string(), "load shed: 64 in flight, 16 more wait up to 100ms");
/// # Ok::<(), buttress::error::InvalidConfig>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadShedSettings {
    /// The calls that may be in flight, 0 to 2^24 − 1.
    pub max_in_flight: usize,
    /// The calls that may wait for a slot, 0 to 65 535. Default: 0.
    pub queue: usize,
    /// How long a call may wait for a slot, from the call. Default: zero.
    pub max_wait: Duration,
    /// The name in errors, events, snapshots and `Debug`. Default: none.
    pub name: Name,
}

impl LoadShedSettings {
    /// This many calls may be in flight, and no call waits.
    #[must_use]
    pub const fn new(max_in_flight: usize) -> Self {
        Self {
            max_in_flight,
            queue: 0,
            max_wait: Duration::ZERO,
            name: Name::UNNAMED,
        }
    }

    /// Checks whether a limit can be built with these settings.
    ///
    /// # Errors
    /// Fails if `max_in_flight` is above 2^24 − 1 or `queue` above 65 535.
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
