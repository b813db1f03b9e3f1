//! A rate limiter for each key.

use super::layer::{Metered, RateLimitBuilder};
use super::limiter::RateLimiter;
use super::quota::Quota;
use super::settings::RateLimitSettings;
use crate::error::InvalidConfig;
use crate::event::{Observe, Observers};
use crate::gate::GateLayer;
use crate::keyed::{ByKey, KeyedBuilder, Lookup, Make, PerKey, State, Store};
use std::sync::Arc;
use std::sync::{Mutex, PoisonError};
use tokio::time::Instant;

/// Makes rate limits that keep a limiter for each key. Built by
/// [`per_key`](RateLimitBuilder::per_key).
pub type KeyedRateLimitLayer<F, Q = (), W = (), K = (), O = ()> =
    GateLayer<(PerKey<F, MakeLimiter<W, Q>>, O), K>;

/// Returns the quota of a key, if it has one of its own. `()`: no key has.
///
/// Functions and closures implement it. See [`KeyedBuilder`](crate::keyed::KeyedBuilder) for an example.
pub trait QuotaOf {
    /// Whether some key may have a quota of its own.
    const IS_SET: bool = true;

    /// The quota of this key. `None`: the quota of the layer.
    fn quota_of(&self, key: &str) -> Option<Quota>;
}

impl QuotaOf for () {
    const IS_SET: bool = false;

    fn quota_of(&self, _: &str) -> Option<Quota> {
        None
    }
}

impl<Q> QuotaOf for Q
where
    Q: Fn(&str) -> Option<Quota>,
{
    fn quota_of(&self, key: &str) -> Option<Quota> {
        self(key)
    }
}

impl<W, K, O> RateLimitBuilder<W, K, O> {
    /// Keeps a limiter for each [key](crate::keyed), such as the tenant of a request.
    pub fn per_key<F>(self, key: F) -> KeyedBuilder<Self, F> {
        KeyedBuilder::new(self, key)
    }
}

impl<F, W, K, O, Q> KeyedBuilder<RateLimitBuilder<W, K, O>, F, Q> {
    /// Gives some keys a quota of their own. Called once for each new key. Default: all keys have the
    /// quota of the builder.
    pub fn quota_of<P: Fn(&str) -> Option<Quota>>(
        self,
        quota_of: P,
    ) -> KeyedBuilder<RateLimitBuilder<W, K, O>, F, P> {
        self.with_quota_of(quota_of)
    }
}

impl<F, W: Clone, K, O, Q: QuotaOf> KeyedBuilder<RateLimitBuilder<W, K, O>, F, Q> {
    /// Builds the layer.
    ///
    /// # Errors
    /// The errors of [`RateLimitSettings::check`]; `keys` allows none.
    pub fn build(self) -> Result<KeyedRateLimitLayer<F, Q, W, K, O>, InvalidConfig> {
        let RateLimitBuilder { settings, gate } = self.each;
        let make = MakeLimiter::new(settings, gate.admission.0.clone(), self.quota_of)?;
        let lookup = Lookup::new(self.key, Store::new(make, self.keys)?);
        Ok(gate.map(|(_, open)| (PerKey::new(lookup), open)))
    }
}

impl<F, Q, W, K, O> KeyedRateLimitLayer<F, Q, W, K, O>
where
    Q: QuotaOf,
    W: Clone,
{
    /// Changes the quota of all keys, present and new, that have none of their own.
    pub fn set_quota(&self, quota: Quota) {
        let store = &self.admission.0.lookup.store;
        store.make.set_quota(quota);
        let set = |state: &KeptLimiter<W>| store.make.made(state);
        store.for_each_state(|_, state| set(state));
        store.for_the_others(set);
    }

    /// Adds an observer of the events of the limiters of all keys. It cannot be removed.
    pub fn observe(&self, observer: impl Observe + 'static) {
        let observers = &self.admission.0.lookup.store.make.observers;
        observers.add(Arc::new(observer));
    }

    /// The limiters of all keys.
    #[must_use]
    pub fn by_key(&self) -> ByKey<RateLimiter>
    where
        F: Send + Sync + 'static,
        Q: Send + Sync + 'static,
        W: Send + Sync + 'static,
    {
        ByKey::new(self.admission.0.lookup.clone())
    }
}

/// Makes the limiters of a keyed layer.
#[derive(Debug)]
pub struct MakeLimiter<W, Q> {
    settings: RateLimitSettings,
    cost: W,
    quota_of: Q,
    /// The quota of keys that have none of their own.
    default: Mutex<Quota>,
    pub(crate) observers: Observers,
}

impl<W, Q> MakeLimiter<W, Q> {
    pub(crate) fn new(
        settings: RateLimitSettings,
        cost: W,
        quota_of: Q,
    ) -> Result<Self, InvalidConfig> {
        settings.check()?;
        Ok(Self {
            settings,
            cost,
            quota_of,
            default: Mutex::new(settings.quota),
            observers: Observers::default(),
        })
    }

    pub(crate) fn set_quota(&self, quota: Quota) {
        *self.default.lock().unwrap_or_else(PoisonError::into_inner) = quota;
    }

    fn default_quota(&self) -> Quota {
        *self.default.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the quota that holds now. It may have changed since the limiter was made and before others
    /// could find it.
    pub(crate) fn refresh(&self, limiter: &RateLimiter, own: Option<Quota>) {
        while own.is_none() {
            let quota = self.default_quota();
            if limiter.snapshot().quota != quota {
                limiter.set_quota(quota);
            }
            // Another thread may have changed it meanwhile.
            if self.default_quota() == quota {
                break;
            }
        }
    }

    /// Whether nobody can miss the limiter of a key.
    pub(crate) fn is_new(
        &self,
        metered: &mut Metered<W>,
        own: Option<Quota>,
        now: Instant,
        holders: usize,
    ) -> bool {
        metered.is_like_new(now, holders, || own.unwrap_or_else(|| self.default_quota()))
    }

    fn limiter(&self, settings: RateLimitSettings, own: Option<Quota>) -> KeptLimiter<W>
    where
        W: Clone,
    {
        let quota = own.unwrap_or_else(|| self.default_quota());
        let settings = RateLimitSettings { quota, ..settings };
        let limiter = RateLimiter::observed(settings, self.observers.clone());
        KeptLimiter {
            metered: Metered::new(limiter, self.cost.clone()),
            own,
        }
    }
}

/// The limiter of one key.
#[derive(Debug)]
pub struct KeptLimiter<W> {
    pub(crate) metered: Metered<W>,
    /// The quota of this key, if it is not that of the others.
    pub(crate) own: Option<Quota>,
}

impl<W: Clone, Q: QuotaOf> Make for MakeLimiter<W, Q> {
    type State = KeptLimiter<W>;
    type Handle = RateLimiter;

    fn make(&self, key: Option<&str>) -> KeptLimiter<W> {
        let own = key.and_then(|key| self.quota_of.quota_of(key));
        self.limiter(self.settings, own)
    }

    fn overflow(&self) -> KeptLimiter<W> {
        let name = self.settings.name.overflow();
        let settings = RateLimitSettings {
            name,
            ..self.settings
        };
        self.limiter(settings, None)
    }

    fn made(&self, state: &KeptLimiter<W>) {
        self.refresh(state.metered.limiter(), state.own);
    }

    fn is_like_new(&self, state: &mut KeptLimiter<W>, now: Instant, _: bool) -> bool {
        self.is_new(&mut state.metered, state.own, now, 1)
    }

    fn handle(&self, state: &KeptLimiter<W>) -> RateLimiter {
        state.metered.limiter().clone()
    }
}

impl<W: Clone> State for KeptLimiter<W> {
    type Admission = Metered<W>;

    fn admission(&self) -> &Metered<W> {
        &self.metered
    }
}
