use crate::chaos::Chaos;
use crate::circuit_breaker::Circuit;
use crate::event::{CircuitState, Event, Observe};
use crate::fallback::{FallbackLayer, FallbackSnapshot};
use crate::hedge::{HedgeSnapshot, Hedging};
use crate::load_shed::ConcurrencyLimit;
use crate::name::Name;
use crate::rate_limit::{Quotas, RateLimiter};
use crate::retry::{RetryLayer, RetryState};
use crate::timeout::{TimeoutLayer, TimeoutSnapshot};
use std::sync::Arc;
use tokio::time::Instant;

/// What a [`Registry`](super::Registry) can list. You cannot implement it.
///
/// A [`StackLayer`](crate::http::StackLayer) with or without a fallback, `http::Stale` (feature `http-body`), a [`KeyedStackLayer`](crate::http::KeyedStackLayer), a
/// [`RetryLayer`], a [`TimeoutLayer`], a [`FallbackLayer`], and the handles of the other layers: [`Circuit`], [`Hedging`], [`Chaos`], [`Quotas`], [`RateLimiter`] and
/// [`ConcurrencyLimit`].
pub trait Register: sealed::Sealed {}

impl<T: sealed::Sealed> Register for T {}

/// What a [`Registry`](super::Registry) can list with the names of its keys: a
/// [`KeyedStackLayer`](crate::http::KeyedStackLayer). You cannot implement it.
pub trait RegisterKeys: sealed::SealedKeys {}

impl<T: sealed::SealedKeys> RegisterKeys for T {}

/// Reads the layers of an entry, from the outside in. `None` if they were dropped.
pub(crate) type Reader = Box<dyn Fn() -> Option<Vec<LayerState>> + Send + Sync>;

pub(crate) mod sealed {
    use super::{Arc, Name, Observe, Reader};

    pub trait Sealed {
        fn wanted_name(&self) -> Name;
        fn reader(&self) -> Reader;
        fn watch(&self, observer: &Arc<dyn Observe>);
    }

    pub trait SealedKeys: Sealed {
        /// Shows at most so many keys by name.
        fn reader_of_keys(&self, most: usize) -> Reader;
    }
}

pub(super) struct Entry {
    pub(super) id: u64,
    pub(super) name: String,
    reader: Reader,
}

impl Entry {
    pub(super) fn new(id: u64, name: String, reader: Reader) -> Self {
        Self { id, name, reader }
    }

    pub(super) fn read(&self) -> Option<Vec<LayerState>> {
        (self.reader)()
    }

    pub(super) fn is_alive(&self) -> bool {
        self.read().is_some()
    }
}

/// A layer at one moment.
#[derive(Debug)]
pub enum LayerState {
    /// A timeout, with its place: `deadline`, `attempt_timeout` or `timeout`.
    Timeout(&'static str, TimeoutSnapshot),
    Fallback(FallbackSnapshot),
    Hedge(HedgeSnapshot),
    Chaos(Chaos),
    Retry(RetryState),
    LoadShed(ConcurrencyLimit),
    RateLimit(RateLimiter),
    Quotas(QuotasState),
    Circuit(Circuit),
    Keys(KeysState),
}

/// Several quotas. The fields are those of [`QuotasSnapshot`](crate::rate_limit::QuotasSnapshot).
#[derive(Debug)]
pub struct QuotasState {
    pub(crate) available: Vec<u32>,
    pub(crate) waiting: usize,
    pub(crate) rate_limited: u64,
    pub(crate) too_costly: u64,
}

#[derive(Debug)]
pub struct KeysState {
    pub(crate) keys: usize,
    /// How many circuits are in each state, in the order of [`STATES`](crate::event::STATES).
    pub(crate) circuits: [usize; 5],
    /// The keys that are shown by name, with the states of their circuits.
    pub(crate) by_name: Vec<(String, CircuitState)>,
}

/// An event that a registry keeps.
#[derive(Clone)]
pub(super) struct Past {
    pub(super) number: u64,
    pub(super) at: Instant,
    pub(super) upstream: String,
    pub(super) event: Event,
}

impl sealed::Sealed for Circuit {
    fn wanted_name(&self) -> Name {
        self.snapshot().name
    }

    fn reader(&self) -> Reader {
        let weak = self.weak();
        Box::new(move || Some(vec![LayerState::Circuit(weak()?)]))
    }

    fn watch(&self, observer: &Arc<dyn Observe>) {
        self.observers().add(observer.clone());
    }
}

impl sealed::Sealed for Hedging {
    fn wanted_name(&self) -> Name {
        self.snapshot().name
    }

    fn reader(&self) -> Reader {
        let weak = self.weak();
        Box::new(move || Some(vec![LayerState::Hedge(weak()?)]))
    }

    fn watch(&self, observer: &Arc<dyn Observe>) {
        self.observers().add(observer.clone());
    }
}

impl sealed::Sealed for Chaos {
    fn wanted_name(&self) -> Name {
        self.snapshot().name
    }

    fn reader(&self) -> Reader {
        let weak = self.weak();
        Box::new(move || Some(vec![LayerState::Chaos(weak()?)]))
    }

    fn watch(&self, observer: &Arc<dyn Observe>) {
        self.observers().add(observer.clone());
    }
}

impl sealed::Sealed for RateLimiter {
    fn wanted_name(&self) -> Name {
        self.snapshot().name
    }

    fn reader(&self) -> Reader {
        let weak = self.weak();
        Box::new(move || Some(vec![LayerState::RateLimit(weak()?)]))
    }

    fn watch(&self, observer: &Arc<dyn Observe>) {
        self.observers().add(observer.clone());
    }
}

impl<const N: usize> sealed::Sealed for Quotas<N> {
    fn wanted_name(&self) -> Name {
        self.snapshot().name
    }

    fn reader(&self) -> Reader {
        let weak = self.weak();
        Box::new(move || {
            let seen = weak()?;
            Some(vec![LayerState::Quotas(QuotasState {
                available: seen.available.to_vec(),
                waiting: seen.waiting,
                rate_limited: seen.rate_limited,
                too_costly: seen.too_costly,
            })])
        })
    }

    fn watch(&self, observer: &Arc<dyn Observe>) {
        self.observers().add(observer.clone());
    }
}

impl sealed::Sealed for ConcurrencyLimit {
    fn wanted_name(&self) -> Name {
        self.snapshot().name
    }

    fn reader(&self) -> Reader {
        let weak = self.weak();
        Box::new(move || Some(vec![LayerState::LoadShed(weak()?)]))
    }

    fn watch(&self, observer: &Arc<dyn Observe>) {
        self.observers().add(observer.clone());
    }
}

impl<C, R, D> sealed::Sealed for RetryLayer<C, R, D> {
    fn wanted_name(&self) -> Name {
        self.snapshot().name
    }

    fn reader(&self) -> Reader {
        let weak = self.weak();
        Box::new(move || Some(vec![LayerState::Retry(weak()?)]))
    }

    fn watch(&self, observer: &Arc<dyn Observe>) {
        self.observers().add(observer.clone());
    }
}

impl<A, C, R, M> sealed::Sealed for FallbackLayer<A, C, R, M> {
    fn wanted_name(&self) -> Name {
        self.snapshot().name
    }

    fn reader(&self) -> Reader {
        let weak = self.weak();
        Box::new(move || Some(vec![LayerState::Fallback(weak()?)]))
    }

    fn watch(&self, observer: &Arc<dyn Observe>) {
        self.observers().add(observer.clone());
    }
}

impl<K> sealed::Sealed for TimeoutLayer<K> {
    fn wanted_name(&self) -> Name {
        self.snapshot().name
    }

    fn reader(&self) -> Reader {
        let weak = self.weak();
        Box::new(move || Some(vec![LayerState::Timeout("timeout", weak()?)]))
    }

    fn watch(&self, observer: &Arc<dyn Observe>) {
        self.observers().add(observer.clone());
    }
}
