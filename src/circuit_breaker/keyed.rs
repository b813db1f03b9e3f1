//! A circuit for each key.

use super::circuit::Circuit;
use super::layer::{CircuitBreakerBuilder, Guarded};
use super::settings::{CircuitBreakerSettings, WhenOpen};
use crate::error::InvalidConfig;
use crate::event::{Observe, Observers};
use crate::gate::{GateLayer, UntilHead};
use crate::keyed::{ByKey, KeyedBuilder, Lookup, Make, PerKey, State, Store};
use crate::verdict::Outcome;
use std::sync::Arc;
use tokio::time::Instant;

/// Makes circuit breakers that keep a circuit for each key. Built by
/// [`per_key`](CircuitBreakerBuilder::per_key).
pub type KeyedCircuitBreakerLayer<F, C = Outcome, U = UntilHead> =
    GateLayer<PerKey<F, MakeCircuit<C>>, (), U>;

impl<C, U> CircuitBreakerBuilder<C, U> {
    /// Keeps a circuit for each [key](crate::keyed), such as the host of a request.
    pub fn per_key<F>(self, key: F) -> KeyedBuilder<Self, F> {
        KeyedBuilder::new(self, key)
    }
}

impl<F, C: Clone, U> KeyedBuilder<CircuitBreakerBuilder<C, U>, F> {
    /// Builds the layer.
    ///
    /// # Errors
    /// The errors of [`CircuitBreakerSettings::check`]; `when_open` is [`WhenOpen::NotReady`]; `keys`
    /// allows none.
    pub fn build(self) -> Result<KeyedCircuitBreakerLayer<F, C, U>, InvalidConfig> {
        let CircuitBreakerBuilder { settings, gate } = self.each;
        let make = MakeCircuit::new(settings, gate.admission.clone())?;
        let lookup = Lookup::new(self.key, Store::new(make, self.keys)?);
        Ok(gate.map(|_| PerKey::new(lookup)))
    }
}

impl<F, C, U> KeyedCircuitBreakerLayer<F, C, U>
where
    F: Send + Sync + 'static,
    C: Clone + Send + Sync + 'static,
{
    /// Adds an observer of the events of the circuits of all keys. It cannot be removed.
    pub fn observe(&self, observer: impl Observe + 'static) {
        let observers = &self.admission.lookup.store.make.observers;
        observers.add(Arc::new(observer));
    }

    /// The circuits of all keys.
    #[must_use]
    pub fn by_key(&self) -> ByKey<Circuit> {
        ByKey::new(self.admission.lookup.clone())
    }
}

/// Makes the circuits of a keyed layer.
#[derive(Debug)]
pub struct MakeCircuit<C> {
    settings: CircuitBreakerSettings,
    classify: C,
    pub(crate) observers: Observers,
}

impl<C> MakeCircuit<C> {
    pub(crate) fn new(
        settings: CircuitBreakerSettings,
        classify: C,
    ) -> Result<Self, InvalidConfig> {
        settings.check()?;
        if settings.when_open == WhenOpen::NotReady {
            let allowed = "Reject, because only a call has a key";
            return Err(InvalidConfig::new("when_open", settings.when_open, allowed));
        }
        Ok(Self {
            settings,
            classify,
            observers: Observers::default(),
        })
    }

    /// The circuit of one key, with its classifier.
    pub(crate) fn guarded<J>(&self, classify: impl FnOnce(&C) -> J) -> Guarded<J> {
        let circuit = Circuit::observed(self.settings, self.observers.clone());
        let circuit = circuit.expect("the settings were checked");
        Guarded::new(circuit, classify(&self.classify))
    }

    /// A circuit that lets every call through.
    pub(crate) fn closed<J>(&self, classify: impl FnOnce(&C) -> J) -> Guarded<J> {
        let mut settings = self.settings;
        settings.name = settings.name.overflow();
        let circuit =
            Circuit::closed(settings, self.observers.clone()).expect("the settings were checked");
        Guarded::new(circuit, classify(&self.classify))
    }
}

impl<C: Clone> Make for MakeCircuit<C> {
    type State = Guarded<C>;
    type Handle = Circuit;

    fn make(&self, _: Option<&str>) -> Guarded<C> {
        self.guarded(C::clone)
    }

    fn overflow(&self) -> Guarded<C> {
        self.closed(C::clone)
    }

    fn is_like_new(&self, state: &mut Guarded<C>, now: Instant, idle: bool) -> bool {
        state.is_like_new(now, idle)
    }

    fn handle(&self, state: &Guarded<C>) -> Circuit {
        state.circuit().clone()
    }
}

impl<C> State for Guarded<C> {
    type Admission = Self;

    fn admission(&self) -> &Self {
        self
    }

    fn is_in_use(&self) -> bool {
        self.has_calls()
    }
}
