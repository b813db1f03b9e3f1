use crate::error::InvalidConfig;
use crate::name::Name;
use std::fmt;
use std::time::Duration;

/// When a copy of a call is sent.
///
/// ```
/// use buttress::hedge::HedgeAt;
/// use std::time::Duration;
///
/// assert_eq!(HedgeAt::default(), HedgeAt::quantile(0.95));
/// assert_eq!(HedgeAt::after(Duration::from_millis(50)).to_string(), "after 50ms");
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HedgeAt(pub(super) At);

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum At {
    Quantile(f64),
    After(Duration),
}

impl HedgeAt {
    /// When the call has taken longer than this share of the calls before it. The layer learns how long that is.
    #[must_use]
    pub const fn quantile(q: f64) -> Self {
        Self(At::Quantile(q))
    }

    /// This long after the call was first pending.
    #[must_use]
    pub const fn after(delay: Duration) -> Self {
        Self(At::After(delay))
    }
}

impl Default for HedgeAt {
    fn default() -> Self {
        Self::quantile(0.95)
    }
}

impl fmt::Display for HedgeAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            At::Quantile(q) => write!(f, "at quantile {q}"),
            At::After(delay) => write!(f, "after {delay:?}"),
        }
    }
}

/// The settings of a [`HedgeLayer`](super::HedgeLayer). The [module page](super#settings) explains them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HedgeSettings {
    /// When a copy is sent. Default: at the quantile 0.95.
    pub at: HedgeAt,
    /// The copies of a call, besides the call itself: 1 to 3. Default: 1.
    pub hedges: u32,
    /// The name in events and snapshots. Default: none.
    pub name: Name,
}

impl Default for HedgeSettings {
    fn default() -> Self {
        Self {
            at: HedgeAt::default(),
            hedges: 1,
            name: Name::UNNAMED,
        }
    }
}

impl HedgeSettings {
    /// Checks whether a layer can be built with these settings.
    ///
    /// # Errors
    /// Fails if the quantile is not above 0 and below 1, or `hedges` is not 1, 2 or 3.
    pub fn check(&self) -> Result<(), InvalidConfig> {
        if let At::Quantile(q) = self.at.0 {
            if !(q > 0.0 && q < 1.0) {
                return Err(InvalidConfig::new(
                    "at",
                    q,
                    "a quantile above 0 and below 1",
                ));
            }
        }
        if !(1..=3).contains(&self.hedges) {
            return Err(InvalidConfig::new("hedges", self.hedges, "1 to 3"));
        }
        Ok(())
    }
}
