//! A concurrency limit for each key.

use super::layer::LoadShedBuilder;
use super::limit::ConcurrencyLimit;
use super::settings::LoadShedSettings;
use crate::error::InvalidConfig;
use crate::event::{Observe, Observers};
use crate::gate::{GateLayer, UntilHead};
use crate::keyed::{ByKey, KeyedBuilder, Lookup, Make, PerKey, State, Store};
use std::sync::Arc;
use tokio::time::Instant;

/// Makes load sheds that keep a limit for each key. Built by [`per_key`](LoadShedBuilder::per_key).
pub type KeyedLoadShedLayer<F, K = (), U = UntilHead, O = ()> =
    GateLayer<(PerKey<F, MakeLimit>, O), K, U>;

impl<K, U, O> LoadShedBuilder<K, U, O> {
    /// Keeps a limit for each [key](crate::keyed), such as the host of a request.
    pub fn per_key<F>(self, key: F) -> KeyedBuilder<Self, F> {
        KeyedBuilder::new(self, key)
    }
}

impl<F, K, U, O> KeyedBuilder<LoadShedBuilder<K, U, O>, F> {
    /// Builds the layer.
    ///
    /// # Errors
    /// The errors of [`LoadShedSettings::check`]; `keys` allows none.
    pub fn build(self) -> Result<KeyedLoadShedLayer<F, K, U, O>, InvalidConfig> {
        let LoadShedBuilder { settings, gate } = self.each;
        let make = MakeLimit::new(settings)?;
        let lookup = Lookup::new(self.key, Store::new(make, self.keys)?);
        Ok(gate.map(|open| (PerKey::new(lookup), open)))
    }
}

impl<F: Send + Sync + 'static, K, U, O> KeyedLoadShedLayer<F, K, U, O> {
    /// Adds an observer of the events of the limits of all keys. It cannot be removed.
    pub fn observe(&self, observer: impl Observe + 'static) {
        let observers = &self.admission.0.lookup.store.make.observers;
        observers.add(Arc::new(observer));
    }

    /// The limits of all keys.
    #[must_use]
    pub fn by_key(&self) -> ByKey<ConcurrencyLimit> {
        ByKey::new(self.admission.0.lookup.clone())
    }
}

/// Makes the limits of a keyed layer.
#[derive(Debug)]
pub struct MakeLimit {
    settings: LoadShedSettings,
    pub(crate) observers: Observers,
}

impl MakeLimit {
    pub(crate) fn new(settings: LoadShedSettings) -> Result<Self, InvalidConfig> {
        settings.check()?;
        Ok(Self {
            settings,
            observers: Observers::default(),
        })
    }
}

impl Make for MakeLimit {
    type State = ConcurrencyLimit;
    type Handle = ConcurrencyLimit;

    fn make(&self, _: Option<&str>) -> ConcurrencyLimit {
        ConcurrencyLimit::observed(self.settings, self.observers.clone())
    }

    fn overflow(&self) -> ConcurrencyLimit {
        let name = self.settings.name.overflow();
        let settings = LoadShedSettings {
            name,
            ..self.settings
        };
        ConcurrencyLimit::observed(settings, self.observers.clone())
    }

    fn is_like_new(&self, limit: &mut ConcurrencyLimit, _: Instant, _: bool) -> bool {
        limit.is_like_new(self.settings.max_in_flight)
    }

    fn handle(&self, limit: &ConcurrencyLimit) -> ConcurrencyLimit {
        limit.clone()
    }
}

impl State for ConcurrencyLimit {
    type Admission = Self;

    fn admission(&self) -> &Self {
        self
    }
}
