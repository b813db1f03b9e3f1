//! What a registry reads of a stack, and the observers of its parts.

use super::keyed::KeyedStackLayer;
use super::layer::StackLayer;
use super::parts::{Each, KeyedParts, MakeParts};
use crate::circuit_breaker::Circuit;
use crate::event::{Observe, Observers, STATES};
use crate::http::Pauses;
use crate::keyed::ByKey;
use crate::load_shed::ConcurrencyLimit;
use crate::name::Name;
use crate::observe::{KeysState, LayerState, Reader, Sealed, SealedKeys};
use crate::rate_limit::{QuotaOf, RateLimiter};
use crate::retry::RetryLayer;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

impl<C, R, K, D, U, W, P: Pauses> StackLayer<C, R, K, D, U, W, P> {
    /// Adds an observer of the events of all parts. It cannot be removed.
    pub fn observe(&self, observer: impl Observe + 'static) {
        let observer: Arc<dyn Observe> = Arc::new(observer);
        self.add(&observer);
    }

    pub(super) fn add(&self, observer: &Arc<dyn Observe>) {
        let parts = [
            Some(self.deadline.observers()),
            self.retrying().map(RetryLayer::observers),
            self.limit().map(ConcurrencyLimit::observers),
            self.limiter().map(RateLimiter::observers),
            self.circuit().map(Circuit::observers),
            Some(self.attempt.observers()),
        ];
        let add = |observers: &Observers| observers.add(observer.clone());
        parts.into_iter().flatten().for_each(add);
    }
}

impl<C, R, K, D, U, W, P: Pauses> Sealed for StackLayer<C, R, K, D, U, W, P> {
    fn wanted_name(&self) -> Name {
        self.deadline.snapshot().name
    }

    fn reader(&self) -> Reader {
        let deadline = self.deadline.weak();
        let retry = self.retrying().map(RetryLayer::weak);
        let limit = self.limit().map(ConcurrencyLimit::weak);
        let limiter = self.limiter().map(RateLimiter::weak);
        let circuit = self.circuit().map(Circuit::weak);
        let attempt = self.attempt.weak();
        Box::new(move || {
            let layers = [
                Some(LayerState::Timeout("deadline", deadline()?)),
                retry
                    .as_ref()
                    .and_then(|retry| retry().map(LayerState::Retry)),
                limit
                    .as_ref()
                    .and_then(|limit| limit().map(LayerState::LoadShed)),
                limiter
                    .as_ref()
                    .and_then(|limiter| limiter().map(LayerState::RateLimit)),
                circuit
                    .as_ref()
                    .and_then(|circuit| circuit().map(LayerState::Circuit)),
                Some(LayerState::Timeout("attempt_timeout", attempt()?)),
            ];
            Some(layers.into_iter().flatten().collect())
        })
    }

    fn watch(&self, observer: &Arc<dyn Observe>) {
        self.add(observer);
    }
}

impl<F, Q, C, R, K, D, U, W, P> KeyedStackLayer<F, Q, C, R, K, D, U, W, P>
where
    C: Clone,
    Q: QuotaOf,
    P: Pauses,
{
    /// Adds an observer of the events of all parts, of all keys. It cannot be removed.
    pub fn observe(&self, observer: impl Observe + 'static) {
        let observer: Arc<dyn Observe> = Arc::new(observer);
        self.add(&observer);
    }

    pub(super) fn add(&self, observer: &Arc<dyn Observe>) {
        let MakeParts {
            limit,
            limiter,
            circuit,
            ..
        } = &self.lookup.store.make;
        let parts = [
            Some(self.deadline.observers()),
            self.retrying().map(RetryLayer::observers),
            limit.as_ref().map(|limit| match limit {
                Each::Own(make) => &make.observers,
                Each::Shared(limit) => limit.observers(),
            }),
            limiter.as_ref().map(|limiter| match limiter {
                Each::Own(make) => &make.observers,
                Each::Shared(limiter) => limiter.observers(),
            }),
            circuit.as_ref().map(|make| &make.observers),
            Some(self.attempt.observers()),
        ];
        let add = |observers: &Observers| observers.add(observer.clone());
        parts.into_iter().flatten().for_each(add);
    }
}

impl<F, Q, C, R, K, D, U, W, P> Sealed for KeyedStackLayer<F, Q, C, R, K, D, U, W, P>
where
    F: Send + Sync + 'static,
    C: Clone + Send + Sync + 'static,
    Q: QuotaOf + Send + Sync + 'static,
    P: Pauses<Classify<C>: Send + Sync> + 'static,
{
    fn wanted_name(&self) -> Name {
        self.deadline.snapshot().name
    }

    fn reader(&self) -> Reader {
        self.reader_of_keys(0)
    }

    fn watch(&self, observer: &Arc<dyn Observe>) {
        self.add(observer);
    }
}

impl<F, Q, C, R, K, D, U, W, P> SealedKeys for KeyedStackLayer<F, Q, C, R, K, D, U, W, P>
where
    Self: Sealed,
    F: Send + Sync + 'static,
    C: Clone + Send + Sync + 'static,
    Q: QuotaOf + Send + Sync + 'static,
    P: Pauses<Classify<C>: Send + Sync> + 'static,
{
    fn reader_of_keys(&self, most: usize) -> Reader {
        let deadline = self.deadline.weak();
        let keys = Arc::downgrade(&self.lookup);
        // The first keys that were seen, so that no more than `most` are ever shown.
        let shown = Mutex::new(BTreeSet::new());
        let retry = self.retrying().map(RetryLayer::weak);
        let attempt = self.attempt.weak();
        Box::new(move || {
            let by_key = ByKey::new(keys.upgrade()?);
            let mut circuits = [0; STATES.len()];
            let mut by_name = Vec::new();
            let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
            by_key.for_each(|key, parts: &KeyedParts| {
                let Some(state) = parts.circuit().map(Circuit::state) else {
                    return;
                };
                if let Some(place) = STATES.iter().position(|known| state == *known) {
                    circuits[place] += 1;
                }
                if shown.contains(key) || (shown.len() < most && shown.insert(key.to_owned())) {
                    by_name.push((key.to_owned(), state));
                }
            });
            let keys = by_key.len();
            let layers = [
                Some(LayerState::Timeout("deadline", deadline()?)),
                retry
                    .as_ref()
                    .and_then(|retry| retry().map(LayerState::Retry)),
                Some(LayerState::Keys(KeysState {
                    keys,
                    circuits,
                    by_name,
                })),
                Some(LayerState::Timeout("attempt_timeout", attempt()?)),
            ];
            Some(layers.into_iter().flatten().collect())
        })
    }
}
