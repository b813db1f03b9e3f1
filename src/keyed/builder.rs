use super::keys::Keys;
use std::fmt;

/// Builds a layer that keeps a state for each key. Made by `per_key` of a builder, which comes after
/// all other settings.
///
/// ```
/// use buttress::http::Authority;
/// use buttress::keyed::Keys;
/// use buttress::{Quota, RateLimitLayer};
///
/// let layer = RateLimitLayer::builder(Quota::per_second(10))
///     .name("hosts")
///     .per_key(Authority)
///     .keys(Keys::at_most(100))
///     .quota_of(|host: &str| (host == "orders.internal").then_some(Quota::per_second(200)))
///     .build()?;
/// assert!(layer.by_key().is_empty());
/// # Ok::<(), buttress::error::InvalidConfig>(())
/// ```
#[derive(Clone)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct KeyedBuilder<B, F, Q = ()> {
    /// The settings of each key.
    pub(crate) each: B,
    pub(crate) key: F,
    pub(crate) keys: Keys,
    pub(crate) quota_of: Q,
}

impl<B, F> KeyedBuilder<B, F> {
    pub(crate) fn new(each: B, key: F) -> Self {
        Self {
            each,
            key,
            keys: Keys::default(),
            quota_of: (),
        }
    }
}

impl<B, F, Q> KeyedBuilder<B, F, Q> {
    /// How many keys the layer keeps, and for how long. Default: 1024 keys, each for 10 minutes after
    /// its last call.
    pub fn keys(mut self, keys: Keys) -> Self {
        self.keys = keys;
        self
    }

    pub(crate) fn with_quota_of<P>(self, quota_of: P) -> KeyedBuilder<B, F, P> {
        KeyedBuilder {
            each: self.each,
            key: self.key,
            keys: self.keys,
            quota_of,
        }
    }
}

impl<B: fmt::Debug, F, Q> fmt::Debug for KeyedBuilder<B, F, Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedBuilder")
            .field("each", &self.each)
            .field("keys", &self.keys)
            .finish_non_exhaustive()
    }
}
