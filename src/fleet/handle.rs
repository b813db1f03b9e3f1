use super::{Ask, Reply, Store, WithoutStore};
use crate::circuit_breaker::{Circuit, CircuitBreakerSettings, CircuitState, Permit};
use crate::error::InvalidConfig;
use crate::event::{Event, drop_panics};
use crate::name::Name;
use crate::rate_limit::{LeaseSettings, Quota, RateLimitSettings, RateLimiter};
use crate::time::nanos;
use crate::verdict::{RetryAfter, Sent, Verdict};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout};

/// The part of one process in the quota of its fleet. Clones share it. The [module](super) explains it.
#[derive(Clone)]
pub struct Fleet {
    limiter: RateLimiter,
    key: Arc<str>,
}

impl Fleet {
    /// A builder for a quota that all processes with the same key share.
    pub fn builder<S: Store>(quota: Quota, store: S) -> FleetBuilder<S> {
        FleetBuilder {
            limit: RateLimitSettings::new(quota),
            store,
            key: String::new(),
            horizon: Duration::from_millis(100),
            store_timeout: Duration::from_millis(50),
            without_store: WithoutStore::EqualShare,
        }
    }

    /// The limiter of this process. Make layers of it: `RateLimitLayer::from(fleet.limiter())`.
    #[must_use]
    pub fn limiter(&self) -> RateLimiter {
        self.limiter.clone()
    }

    /// The leases of this process and the state of the store at one moment.
    #[must_use]
    pub fn snapshot(&self) -> FleetSnapshot {
        let counts = self.limiter.leases().unwrap_or_default();
        let store = match counts.down {
            None => StoreState::Up,
            Some(since) => StoreState::Down {
                since: self.limiter.instant(since),
            },
        };
        FleetSnapshot {
            name: self.limiter.name(),
            store,
            peers: counts.peers,
            level: counts.level,
            held: counts.held,
            leased: counts.leased,
            lapsed: counts.lapsed,
            trips: counts.trips,
            failures: counts.failures,
        }
    }
}

impl fmt::Display for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fleet {:?}, {}", self.key, self.limiter)
    }
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet")
            .field("key", &self.key)
            .field("limiter", &self.limiter)
            .finish()
    }
}

/// Builds a [`Fleet`].
#[derive(Clone)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct FleetBuilder<S> {
    limit: RateLimitSettings,
    store: S,
    key: String,
    horizon: Duration,
    store_timeout: Duration,
    without_store: WithoutStore,
}

impl<S: Store> FleetBuilder<S> {
    /// The name of the quota in the store, without braces. Required.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = key.into();
        self
    }

    /// The longest wait of a call for its turn. Must be the same in all processes. Default: 1 s.
    pub fn max_wait(mut self, max_wait: Duration) -> Self {
        self.limit.max_wait = max_wait;
        self
    }

    /// The name in errors, events, snapshots and `Debug`. Default: the key.
    pub fn name(mut self, name: impl Into<Name>) -> Self {
        self.limit.name = name.into();
        self
    }

    /// The time that a lease covers, 1 ms to 1 min. A longer one makes fewer requests to the store, and a wider bound.
    /// Must be the same in all processes. Default: 100 ms.
    pub fn horizon(mut self, horizon: Duration) -> Self {
        self.horizon = horizon;
        self
    }

    /// The longest wait of a call for one answer of the store, 1 ms to 1 min. Default: 50 ms.
    pub fn store_timeout(mut self, timeout: Duration) -> Self {
        self.store_timeout = timeout;
        self
    }

    /// The part of the quota and of its burst that this process may use while the store does not answer, above 0 and at
    /// most 1. The same as [`without_store`](Self::without_store) with [`WithoutStore::Share`].
    pub fn share(self, share: f64) -> Self {
        self.without_store(WithoutStore::Share(share))
    }

    /// What this process does while the store does not answer. Default: [`WithoutStore::EqualShare`].
    pub fn without_store(mut self, without_store: WithoutStore) -> Self {
        self.without_store = without_store;
        self
    }

    /// Builds the fleet's part in this process. Makes no request: the first call does.
    ///
    /// # Errors
    /// If the key is empty or has braces; if `horizon`, `store_timeout` or `share` is outside its range; if the quota is
    /// one of [`Quota::at_most`]: a fleet keeps to its bound, which is wider.
    pub fn build(self) -> Result<Fleet, InvalidConfig> {
        let Self {
            mut limit,
            store,
            key,
            horizon,
            store_timeout,
            without_store,
        } = self;
        if key.is_empty() || key.contains(['{', '}']) {
            return Err(InvalidConfig::new("key", key, "not empty, without { and }"));
        }
        for (field, time) in [("horizon", horizon), ("store_timeout", store_timeout)] {
            if !(Duration::from_millis(1)..=Duration::from_secs(60)).contains(&time) {
                return Err(InvalidConfig::new(field, time, "from 1 ms to 60 s"));
            }
        }
        if let WithoutStore::Share(share) = without_store {
            if !(share > 0.0 && share <= 1.0) {
                return Err(InvalidConfig::new("share", share, "above 0, at most 1"));
            }
        }
        if limit.quota.is_strict() {
            let allowed = "a quota of `Quota::new`: many processes cannot keep to `at_most`";
            return Err(InvalidConfig::new("quota", limit.quota, allowed));
        }
        limit.name = limit.name.or(Name::new(&key));
        let key: Arc<str> = key.into();
        let ask = Ask {
            process: rand::random(),
            max_wait: limit.max_wait,
            horizon,
            ..Ask::new(&key, limit.quota)
        };
        let settings = LeaseSettings {
            ask,
            timeout: nanos(store_timeout),
            without_store,
        };
        let circuit = Circuit::quiet(CircuitBreakerSettings {
            consecutive_failures: Some(3),
            open_for: Duration::from_secs(1),
            max_open_for: Some(Duration::from_secs(10)),
            probes: 1,
            ..CircuitBreakerSettings::default()
        })?;
        let reported = circuit.clone();
        let asker = Asker {
            store: Arc::new(store),
            circuit,
            runtime: Handle::try_current().ok(),
            timeout: store_timeout,
            again: horizon,
        };
        let ask = move |limiter, id, ask| asker.ask(limiter, id, ask);
        let limiter = RateLimiter::leased(limit, settings, ask);
        report(&reported, &limiter);
        Ok(Fleet { limiter, key })
    }
}

impl<S> fmt::Debug for FleetBuilder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetBuilder")
            .field("key", &self.key)
            .field("limit", &self.limit)
            .field("horizon", &self.horizon)
            .field("store_timeout", &self.store_timeout)
            .field("without_store", &self.without_store)
            .finish_non_exhaustive()
    }
}

/// Reports that the store is down or up again when the circuit opens or closes.
fn report(circuit: &Circuit, limiter: &RateLimiter) {
    let (name, observers) = (limiter.name(), limiter.observers().clone());
    let since = Mutex::new(None::<Instant>);
    circuit.observe(move |event: &Event| {
        let Event::Transition { from, to, .. } = *event else {
            return;
        };
        let mut since = since.lock().unwrap_or_else(PoisonError::into_inner);
        let event = match (from, to) {
            (CircuitState::Closed, CircuitState::Open) => {
                *since = Some(Instant::now());
                Event::StoreDown { name }
            }
            (_, CircuitState::Closed) => Event::StoreUp {
                name,
                down: since.take().map_or(Duration::ZERO, |since| since.elapsed()),
            },
            _ => return,
        };
        drop(since);
        observers.tell(event);
    });
}

/// Sends the requests of one process.
struct Asker<S> {
    store: Arc<S>,
    circuit: Circuit,
    /// The runtime in which the fleet was built, for calls outside of one.
    runtime: Option<Handle>,
    timeout: Duration,
    /// When to ask again after a failure that did not open the circuit.
    again: Duration,
}

impl<S: Store> Asker<S> {
    fn ask(&self, limiter: RateLimiter, id: u64, ask: Ask) {
        let again = self.again;
        let permit = match self.circuit.try_acquire() {
            Ok(permit) => permit,
            Err(rejected) => {
                return limiter.failed(id, rejected.0.retry_after().unwrap_or(again));
            }
        };
        let here = Handle::try_current().ok();
        let Some(runtime) = here.as_ref().or(self.runtime.as_ref()) else {
            return limiter.failed(id, again);
        };
        let request = Request {
            open: Some((permit, limiter, id)),
            circuit: self.circuit.clone(),
            again,
        };
        let (store, wait) = (self.store.clone(), self.timeout);
        runtime.spawn(async move {
            // A request that fails is dropped.
            if let Ok(Ok(reply)) = timeout(wait, store.lease(ask)).await {
                request.answered(reply);
            }
        });
    }
}

/// A request under way. One that is dropped has failed: the store did not answer in time or panicked, or the runtime
/// has ended.
struct Request {
    open: Option<(Permit, RateLimiter, u64)>,
    circuit: Circuit,
    /// When to ask again after a failure that did not open the circuit.
    again: Duration,
}

impl Request {
    fn answered(mut self, reply: Reply) {
        let Some((permit, limiter, id)) = self.open.take() else {
            return;
        };
        if limiter.answered(id, reply) {
            permit.settle(Verdict::Healthy);
        } else {
            self.open = Some((permit, limiter, id));
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if let Some((permit, limiter, id)) = self.open.take() {
            // Observers are told, and may panic.
            drop_panics(|| {
                permit.settle(Verdict::Transient {
                    retry_after: RetryAfter::None,
                    sent: Sent::Unknown,
                });
            });
            let again = self.circuit.snapshot().retry_after.unwrap_or(self.again);
            limiter.failed(id, again);
        }
    }
}

/// The leases of one process and the state of its store at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct FleetSnapshot {
    /// The name of the limiter.
    pub name: Name,
    /// Whether the store answers.
    pub store: StoreState,
    /// The processes that asked lately, when the store last answered.
    pub peers: u32,
    /// The max-min fair level of the fleet in turns per second, when the store last answered. Without the store: the
    /// rate of this process' share.
    pub level: f64,
    /// The turns that are leased and not used.
    pub held: u64,
    /// The turns leased since the fleet was built, also from the share of this process.
    pub leased: u64,
    /// The leased turns that no call used in time.
    pub lapsed: u64,
    /// The requests to the store.
    pub trips: u64,
    /// Those that failed.
    pub failures: u64,
}

/// Whether the store of a fleet answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreState {
    /// The last request was answered, or none was made.
    Up,
    /// The last request failed.
    Down {
        /// When the first request was made that failed.
        since: Instant,
    },
}
