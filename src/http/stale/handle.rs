use super::rules::Key;
use super::store::{Kept, Store};
use crate::event::{Count, Event, Observe, Observers};
use crate::fallback::FallbackSnapshot;
use crate::name::Name;
use crate::observe::{LayerState, Reader, Sealed};
use crate::verdict::Verdict;
use http::HeaderMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The handle of a [`StaleLayer`](super::StaleLayer): what it keeps, and its counters. Clones are the same handle.
#[derive(Clone)]
pub struct Stale {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) keep: usize,
    pub(super) max_body: usize,
    pub(super) stale_for: Duration,
    pub(super) authorized: bool,
    pub(super) name: Name,
    store: Mutex<Store>,
    kept: Count,
    served: Count,
    // Relaxed: no other memory depends on it.
    degraded: AtomicBool,
    observers: Observers,
}

/// The state and the counters of a [`Stale`] handle at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StaleSnapshot {
    /// The name of the layer.
    pub name: Name,
    /// The responses that are kept.
    pub entries: usize,
    /// The bytes of their bodies.
    pub bytes: usize,
    /// Whether the latest call was answered by a kept response.
    pub degraded: bool,
    /// Responses that were kept so far.
    pub kept: u64,
    /// Calls that were answered by a kept response.
    pub served: u64,
}

impl Stale {
    pub(super) fn new(
        (keep, max_body): (usize, usize),
        stale_for: Duration,
        authorized: bool,
        name: Name,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                keep,
                max_body,
                stale_for,
                authorized,
                name,
                store: Mutex::default(),
                kept: Count::default(),
                served: Count::default(),
                degraded: AtomicBool::new(false),
                observers: Observers::default(),
            }),
        }
    }

    /// The state and the counters.
    #[must_use]
    pub fn snapshot(&self) -> StaleSnapshot {
        let shared = &*self.shared;
        let (entries, bytes) = {
            let store = shared.store();
            (store.len(), store.bytes())
        };
        StaleSnapshot {
            name: shared.name,
            entries,
            bytes,
            degraded: shared.degraded.load(Relaxed),
            kept: shared.kept.get(),
            served: shared.served.get(),
        }
    }

    /// Forgets all responses.
    pub fn clear(&self) {
        self.shared.store().clear();
    }

    /// Adds an observer of the events of this handle. It cannot be removed.
    pub fn observe(&self, observer: impl Observe + 'static) {
        self.shared.observers.add(Arc::new(observer));
    }

    /// Counts the events of this handle through the facade `metrics` (feature `metrics`). The
    /// [module `metrics`](crate::metrics) lists the metrics. It cannot be switched off.
    #[cfg(feature = "metrics")]
    pub fn metrics(&self) {
        self.shared
            .observers
            .add(crate::metrics::Events::observer());
    }
}

impl Shared {
    fn store(&self) -> MutexGuard<'_, Store> {
        // No code of others runs under the lock, so its data is whole.
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn keep(&self, key: Key, kept: Kept) {
        self.kept.add();
        self.store().put(key, kept, self.keep);
    }

    pub(super) fn forget(&self, key: &Key) {
        self.store().remove(key);
    }

    /// A request has changed the resource.
    pub(super) fn forget_all(&self, key: Key) {
        if self.authorized {
            self.store().remove_all(&key);
        } else {
            self.store().remove(&key.without_credentials());
        }
    }

    /// A response that may be served now.
    pub(super) fn find(&self, key: &Key, asked: &HeaderMap) -> Option<Arc<Kept>> {
        let kept = self.store().get(key)?;
        let is_usable = kept.at.elapsed() < kept.usable;
        (is_usable && super::rules::matches(&kept.varied, asked)).then_some(kept)
    }

    /// A call went well.
    pub(super) fn well(&self) {
        if self.degraded.load(Relaxed) && self.degraded.swap(false, Relaxed) {
            self.observers.tell(Event::Restored { name: self.name });
        }
    }

    pub(super) fn served(&self, verdict: Verdict, age: Duration) {
        let name = self.name;
        self.served.add();
        if !self.degraded.swap(true, Relaxed) {
            self.observers.tell(Event::Degraded { name, verdict });
        }
        self.observers
            .tell(Event::ServedStale { name, verdict, age });
    }
}

impl Sealed for Stale {
    fn wanted_name(&self) -> Name {
        self.shared.name
    }

    fn reader(&self) -> Reader {
        let shared = Arc::downgrade(&self.shared);
        Box::new(move || {
            let shared = shared.upgrade()?;
            Some(vec![LayerState::Fallback(FallbackSnapshot {
                name: shared.name,
                degraded: shared.degraded.load(Relaxed),
                fell_back: shared.served.get(),
                failed: 0,
            })])
        })
    }

    fn watch(&self, observer: &Arc<dyn Observe>) {
        self.shared.observers.add(observer.clone());
    }
}

impl fmt::Debug for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stale").field(&self.snapshot()).finish()
    }
}
