use super::admission::Lookup;
use super::keys::Keys;
use super::shard::{Found, Shard};
use crate::error::InvalidConfig;
use crate::event::Count;
use crate::gate::Admission;
use crate::sync::{Mutex, MutexGuard};
use crate::time::{Timeline, nanos};
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::sync::{Arc, PoisonError};
use tokio::time::Instant;

const MAX_SHARDS: usize = 16;

/// Keys that a shard has room for before there is a second one. A hash spreads the keys, so in small
/// shards one would soon be full.
const KEYS_PER_SHARD: usize = 64;

/// A longer key, in bytes, has no state of its own: keys may come from anybody.
const LONGEST: usize = 1_024;

/// Makes the states of a keyed layer, and knows when one can be dropped.
pub trait Make {
    /// What the layer keeps for one key.
    type State: State;
    /// What users get to see of a state.
    type Handle;

    /// The state of a new key. `None`: of the calls without a key.
    fn make(&self, key: Option<&str>) -> Self::State;

    /// The state that new keys share while no known key can be dropped.
    fn overflow(&self) -> Self::State;

    /// Called when a new state can be found by others. Default: does nothing.
    fn made(&self, state: &Self::State) {
        let _ = state;
    }

    /// Whether the state cannot be told from a new one now, and nobody else holds a part of it. `idle`:
    /// there was no call for [`Keys::idle`].
    fn is_like_new(&self, state: &mut Self::State, now: Instant, idle: bool) -> bool;

    /// The handle of a state.
    fn handle(&self, state: &Self::State) -> Self::Handle;
}

/// What a keyed layer keeps for one key.
pub trait State {
    /// Decides about the calls of the key.
    type Admission: Admission;

    /// The admission.
    fn admission(&self) -> &Self::Admission;

    /// Whether a call that may still change the state is in flight. Default: `false`, for a state that an idle
    /// time does not make droppable.
    fn is_in_use(&self) -> bool {
        false
    }
}

/// The states of all keys. The clones of a layer and its services share it.
pub struct Store<M: Make> {
    pub(crate) make: M,
    shards: [Mutex<Shard<M::State>>; MAX_SHARDS],
    /// How many of the shards are used, less one: a power of two less one.
    last_shard: usize,
    /// The state of the calls without a key.
    keyless: Arc<M::State>,
    overflow: Arc<M::State>,
    overflows: Count,
    hasher: RandomState,
    timeline: Timeline,
    /// In nanoseconds.
    idle: u64,
}

impl<M: Make> Store<M> {
    pub(crate) fn new(make: M, keys: Keys) -> Result<Self, InvalidConfig> {
        keys.check()?;
        let shards = 1 << (keys.at_most / KEYS_PER_SHARD).clamp(1, MAX_SHARDS).ilog2();
        let capacity = keys.at_most.div_ceil(shards);
        Ok(Self {
            shards: std::array::from_fn(|_| Mutex::new(Shard::new(capacity))),
            last_shard: shards - 1,
            keyless: Arc::new(make.make(None)),
            overflow: Arc::new(make.overflow()),
            overflows: Count::default(),
            hasher: RandomState::new(),
            timeline: Timeline::start(),
            idle: nanos(keys.idle),
            make,
        })
    }

    /// The state for a call with this key.
    pub(crate) fn find(&self, key: Option<&str>) -> Arc<M::State> {
        let Some(key) = key else {
            return self.keyless.clone();
        };
        if key.len() > LONGEST {
            return self.overflow();
        }
        let hash = self.hash(key);
        let mut shard = self.shard(hash);
        let is_sweep_due = shard.is_sweep_due();
        match shard.find(hash, key) {
            Some(Found::Known(state)) if !is_sweep_due => state,
            known => self.find_rarely(shard, known, (hash, key), is_sweep_due),
        }
    }

    #[cold]
    fn find_rarely(
        &self,
        mut shard: MutexGuard<'_, Shard<M::State>>,
        known: Option<Found<M::State>>,
        (hash, key): (u64, &str),
        is_sweep_due: bool,
    ) -> Arc<M::State> {
        let instant = Instant::now();
        let (now, idle) = (self.timeline.at(instant), self.idle);
        let droppable = |state: &mut M::State, idle| self.make.is_like_new(state, instant, idle);
        // States are made and dropped without the lock: both may run the user's code.
        let swept = if is_sweep_due {
            shard.sweep(now, idle, &droppable)
        } else {
            Vec::new()
        };
        let found = match known {
            Some(found) => found,
            None if shard.has_room(now, idle, &droppable) => Found::New,
            None => Found::Full,
        };
        drop(shard);
        drop(swept);
        let found = match found {
            Found::New => {
                let state = self.make.make(Some(key));
                let mut shard = self.shard(hash);
                let (found, displaced) = shard.insert((hash, key), state, (now, idle), &droppable);
                drop(shard);
                drop(displaced);
                if let Found::Known(state) = &found {
                    self.make.made(state);
                }
                found
            }
            found => found,
        };
        match found {
            Found::Known(state) => state,
            Found::New | Found::Full => self.overflow(),
        }
    }

    fn overflow(&self) -> Arc<M::State> {
        self.overflows.add();
        self.overflow.clone()
    }

    fn hash(&self, key: &str) -> u64 {
        // The bytes alone: a `str` would also hash its end, which only matters in a longer key.
        let mut hasher = self.hasher.build_hasher();
        hasher.write(key.as_bytes());
        hasher.finish()
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, Shard<M::State>> {
        // The map of a shard uses the low bits.
        lock(&self.shards[(hash >> 60) as usize & self.last_shard])
    }

    pub(crate) fn keyless(&self) -> &M::State {
        &self.keyless
    }

    pub(crate) fn capacity(&self) -> usize {
        (self.last_shard + 1).saturating_mul(lock(&self.shards[0]).capacity())
    }

    fn peek(&self, key: &str) -> Option<Arc<M::State>> {
        let hash = self.hash(key);
        self.shard(hash).peek(hash, key).cloned()
    }

    fn forget(&self, key: &str) -> bool {
        let hash = self.hash(key);
        let forgotten = self.shard(hash).forget(hash, key);
        forgotten.is_some()
    }

    fn len(&self) -> usize {
        let lens = self.shards.iter().map(|shard| lock(shard).entries().len());
        lens.sum()
    }

    /// Calls `f` with every key and its state, without a lock.
    pub(crate) fn for_each_state(&self, mut f: impl FnMut(&str, &M::State)) {
        for shard in &self.shards {
            let shard = lock(shard);
            let entries = shard.entries().iter();
            let entries: Vec<_> = entries
                .map(|entry| (entry.key.clone(), entry.state.clone()))
                .collect();
            drop(shard);
            for (key, state) in entries {
                f(&key, &state);
            }
        }
    }

    /// Calls `f` with the states that have no key of their own.
    pub(crate) fn for_the_others(&self, mut f: impl FnMut(&M::State)) {
        f(&self.keyless);
        f(&self.overflow);
    }
}

fn lock<T>(shard: &Mutex<Shard<T>>) -> MutexGuard<'_, Shard<T>> {
    // No code of the user runs under the lock, so its poison can be ignored.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<M: Make> fmt::Debug for Store<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

/// What [`ByKey`] needs of a store, whatever makes its states.
trait Handles<H>: Send + Sync {
    fn get(&self, key: &str) -> Option<H>;
    fn keyless(&self) -> H;
    fn overflow(&self) -> H;
    fn overflows(&self) -> u64;
    fn len(&self) -> usize;
    fn for_each(&self, f: &mut dyn FnMut(&str, &H));
    fn forget(&self, key: &str) -> bool;
}

impl<F, M> Handles<M::Handle> for Lookup<F, M>
where
    F: Send + Sync,
    M: Make + Send + Sync,
    M::State: Send + Sync,
{
    fn get(&self, key: &str) -> Option<M::Handle> {
        let store = &self.store;
        let state = store.peek(key)?;
        Some(store.make.handle(&state))
    }

    fn keyless(&self) -> M::Handle {
        self.store.make.handle(&self.store.keyless)
    }

    fn overflow(&self) -> M::Handle {
        self.store.make.handle(&self.store.overflow)
    }

    fn overflows(&self) -> u64 {
        self.store.overflows.get()
    }

    fn len(&self) -> usize {
        self.store.len()
    }

    fn for_each(&self, f: &mut dyn FnMut(&str, &M::Handle)) {
        let store = &self.store;
        store.for_each_state(|key, state| f(key, &store.make.handle(state)));
    }

    fn forget(&self, key: &str) -> bool {
        self.store.forget(key)
    }
}

/// The handles of a keyed layer, by key: circuits, rate limiters, concurrency limits, or the
/// [parts of a stack](crate::http::KeyedParts). Clones see the same keys.
///
/// ```
/// use buttress::http::Authority;
/// use buttress::{CircuitBreakerLayer, ErrorLayer};
/// use std::convert::Infallible;
/// use tower::{Layer, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let layer = CircuitBreakerLayer::builder().per_key(Authority).build()?;
/// let circuits = layer.by_key();
/// let client = layer.layer(ErrorLayer.layer(service_fn(|_: http::Request<()>| async {
///     Ok::<_, Infallible>(http::Response::new(()))
/// })));
///
/// client.oneshot(http::Request::get("http://orders.internal/7").body(())?).await?;
/// circuits.get("orders.internal").expect("it was called").force_open();
/// circuits.for_each(|key, circuit| println!("{key}: {:?}", circuit.state()));
/// assert!(circuits.get("users.internal").is_none());
/// # Ok(())
/// # }
/// ```
pub struct ByKey<H>(Arc<dyn Handles<H>>);

impl<H> ByKey<H> {
    pub(crate) fn new<F, M>(lookup: Arc<Lookup<F, M>>) -> Self
    where
        F: Send + Sync + 'static,
        M: Make<Handle = H> + Send + Sync + 'static,
        M::State: Send + Sync,
    {
        Self(lookup)
    }

    /// The handle of a key that the layer knows. While you hold a handle, its key is not dropped.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<H> {
        self.0.get(key)
    }

    /// The handle of the calls whose key function returned `None`. They share one state.
    #[must_use]
    pub fn keyless(&self) -> H {
        self.0.keyless()
    }

    /// The handle of the state that new keys share while the layer is full and no key can be dropped.
    #[must_use]
    pub fn overflow(&self) -> H {
        self.0.overflow()
    }

    /// How many calls have used the overflow since the layer was made.
    #[must_use]
    pub fn overflows(&self) -> u64 {
        self.0.overflows()
    }

    /// How many keys the layer knows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the layer knows no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls `f` with each key and its handle, in no order. Keys that come or go meanwhile may be left
    /// out.
    pub fn for_each(&self, mut f: impl FnMut(&str, &H)) {
        self.0.for_each(&mut f);
    }

    /// Drops a key, whatever its state is: the next call with this key finds a closed circuit and a
    /// whole burst. Returns whether the layer knew the key. Calls in flight end with the state that
    /// they began with.
    #[expect(clippy::must_use_candidate, reason = "called for its effect")]
    pub fn forget(&self, key: &str) -> bool {
        self.0.forget(key)
    }
}

impl<H> Clone for ByKey<H> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<H> fmt::Debug for ByKey<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByKey")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, buttress_loom))]
mod models {
    use super::*;
    use loom::thread;

    struct MakeNothing;

    impl State for () {
        type Admission = ();

        fn admission(&self) -> &() {
            self
        }
    }

    impl Make for MakeNothing {
        type State = ();
        type Handle = ();

        fn make(&self, _: Option<&str>) {}
        fn overflow(&self) {}
        fn is_like_new(&self, (): &mut (), _: Instant, _: bool) -> bool {
            true
        }
        fn handle(&self, (): &()) {}
    }

    fn store() -> loom::sync::Arc<Store<MakeNothing>> {
        let store = Store::new(MakeNothing, Keys::at_most(16)).unwrap();
        loom::sync::Arc::new(store)
    }

    #[test]
    fn two_calls_that_miss_a_key_get_one_state() {
        loom::model(|| {
            let store = store();
            let other = store.clone();
            let second = thread::spawn(move || other.find(Some("a")));
            let first = store.find(Some("a"));
            assert!(Arc::ptr_eq(&first, &second.join().unwrap()));
            assert_eq!((store.len(), store.overflows.get()), (1, 0));
        });
    }

    #[test]
    fn a_key_that_is_forgotten_during_a_miss_is_there_once_or_not_at_all() {
        loom::model(|| {
            let store = store();
            let other = store.clone();
            let miss = thread::spawn(move || other.find(Some("a")));
            let forgotten = store.forget("a");
            let state = miss.join().unwrap();
            assert_eq!(store.len(), usize::from(!forgotten));
            let known = store.find(Some("a"));
            assert_eq!(Arc::ptr_eq(&state, &known), !forgotten);
        });
    }
}
