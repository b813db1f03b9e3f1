use crate::error::InvalidConfig;
use std::time::Duration;

/// How many keys a keyed layer keeps, and for how long.
///
/// ```
/// use buttress::keyed::Keys;
/// use std::time::Duration;
///
/// let keys = Keys::at_most(10_000).idle(Duration::from_secs(60));
/// # let _ = keys;
/// assert_eq!(Keys::default(), Keys::at_most(1024).idle(Duration::from_secs(600)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys {
    pub(crate) at_most: usize,
    pub(crate) idle: Duration,
}

impl Keys {
    /// At most `n` keys. Default: 1024.
    ///
    /// From 128 on, the keys are spread over 2 to 16 parts by a hash, so one part may be full before the
    /// others are. Allow half again as many keys as you expect. `n` is rounded up to a multiple of the
    /// number of parts.
    #[must_use]
    pub const fn at_most(n: usize) -> Self {
        Self {
            at_most: n,
            idle: Duration::from_secs(600),
        }
    }

    /// How long a key may go without a call before its state is dropped, if it can be dropped. The
    /// layer looks at some keys with every 64th call, so it may keep a key for longer. Default: 10
    /// minutes. With `Duration::MAX`, only other keys displace it.
    #[must_use]
    pub const fn idle(mut self, idle: Duration) -> Self {
        self.idle = idle;
        self
    }

    /// # Errors
    /// `at_most` is 0.
    pub(crate) fn check(&self) -> Result<(), InvalidConfig> {
        if self.at_most == 0 {
            return Err(InvalidConfig::new("at_most", 0, "at least 1"));
        }
        Ok(())
    }
}

impl Default for Keys {
    fn default() -> Self {
        Self::at_most(1024)
    }
}
