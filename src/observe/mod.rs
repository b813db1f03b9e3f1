//! A registry of layers, which shows their state as a web page, as Prometheus text and as JSON.
//!
//! Use it to scrape the [counters](crate::event#counters) and the state of all layers of a process. It needs no
//! other crate and no exporter. A layer that you do not register costs nothing, and a layer that you register counts
//! no more than before.
//!
//! ```
//! use buttress::http::stack;
//! use buttress::observe::Registry;
//!
//! let registry = Registry::new();
//! let orders = stack().name("orders").load_shed(64).registered(&registry).build()?;
//!
//! orders.circuit().unwrap().force_open();
//! let text = registry.text();
//! assert!(text.contains("buttress_circuit_state{name=\"orders\",state=\"forced_open\"} 1\n"));
//! assert!(text.contains("buttress_limit{name=\"orders\"} 64\n"));
//! # Ok::<(), buttress::error::InvalidConfig>(())
//! ```
//!
//! # Names
//!
//! The registry keeps weak references: a layer vanishes when its last service and handle are dropped. Each entry has
//! a name of its own, that of the layer or stack. A layer without a name is `unnamed#1`, `unnamed#2` and so on. The
//! second layer `orders` is `orders#2`, with one log line at WARN.
//!
//! # Metrics
//!
//! [`Registry::text`] writes these metrics in the Prometheus text format 0.0.4. Every series is there from the start,
//! with 0. Counters count from the moment that the layer was built.
//!
//! | metric | kind | labels besides `name` | |
//! |---|---|---|---|
//! | `buttress_rejections_total` | counter | `layer`, `error_type` | calls rejected by a layer |
//! | `buttress_retries_total` | counter | `verdict` | retries granted, by the verdict on the attempt before: `transient`, `throttled`, `local` |
//! | `buttress_retry_recovered_total` | counter | | calls that succeeded by a retry |
//! | `buttress_retry_gave_up_total` | counter | `reason` | failed calls that were not retried, by [`GiveUpReason`](crate::event::GiveUpReason) |
//! | `buttress_retry_budget` | gauge | | tokens in the budget |
//! | `buttress_injections_total` | counter | `fault` | faults injected on purpose: `latency`, `latency_before`, `outcome`, `hang` |
//! | `buttress_chaos_on` | gauge | | 1 while faults are injected |
//! | `buttress_hedges_total`, `buttress_hedges_won_total` | counter | | copies of late calls sent, and calls that a copy answered |
//! | `buttress_hedges_denied_total` | counter | `reason` | copies that were due and not sent, by [`HedgeDenied`](crate::event::HedgeDenied) |
//! | `buttress_hedge_delay_seconds` | gauge | | after this time a pending call gets a copy; `NaN` while too few calls were seen |
//! | `buttress_fallbacks_total`, `buttress_fallbacks_failed_total` | counter | | calls that a fallback or a kept response answered, and those for which it returned an error |
//! | `buttress_degraded` | gauge | | 1 if the latest call was answered so |
//! | `buttress_attempts_total` | counter | `outcome` | outcomes that a circuit with a time window counted: `success`, `failure` |
//! | `buttress_circuit_state` | gauge | `state` | 1 for the state of the circuit, 0 for the four others |
//! | `buttress_circuit_transitions_total` | counter | `reason` | by [`TransitionReason`](crate::event::TransitionReason) |
//! | `buttress_circuit_failure_rate`, `buttress_circuit_slow_rate` | gauge | | 0 to 1; `NaN` with fewer calls than `min_calls` |
//! | `buttress_circuit_calls` | gauge | | calls in the window |
//! | `buttress_circuit_probes_total` | counter | | probes sent |
//! | `buttress_in_flight`, `buttress_limit` | gauge | | calls in flight, and how many may be |
//! | `buttress_queue_length` | gauge | `layer` | calls that wait for a slot or a turn |
//! | `buttress_rate_available` | gauge | `quota` (1, 2, …) for several quotas | calls of cost 1 that a rate limit would grant at once |
//! | `buttress_rate_pauses_total` | counter | | pauses that the upstream asked for |
//! | `buttress_uptime_seconds` | gauge | no `name` | seconds since the registry was made |
//! | `buttress_keys` | gauge | | keys of a keyed stack |
//! | `buttress_key_circuits` | gauge | `state` | circuits of a keyed stack, by state |
//! | `buttress_key_circuit_state` | gauge | `key`, `state` | only with [`Registry::add_with_keys`]: 1 for the state of the key's circuit, else 0 |
//!
//! The values of `layer` are `deadline`, `attempt_timeout`, `timeout` (outside a stack), `load_shed`, `rate_limit` and
//! `circuit_breaker`. The values of `error_type` are `timed_out`, `deadline_passed`, `overloaded`, `rate_limited`,
//! `too_costly` and `circuit_open`. A key, path or host is never a label, unless you
//! ask for it with [`Registry::add_with_keys`].
//!
//! # Errors and cancellation
//!
//! None: reading never fails, and takes no lock that a call takes, with two exceptions. The circuits of a keyed stack
//! are counted under the locks of its keys, and a circuit is read under the lock of its transitions.

mod json;
mod names;
mod serve;
mod state;
mod text;

pub use serve::RegistryService;
pub(crate) use state::sealed::{Sealed, SealedKeys};
pub(crate) use state::{KeysState, LayerState, Reader};
pub use state::{Register, RegisterKeys};

use crate::error::InvalidConfig;
use crate::event::{Event, Observe};
use state::{Entry, Past};
use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::time::Instant;

/// Lists layers and shows their state. Clones share the list. The [module](self) has an example.
#[derive(Clone)]
pub struct Registry {
    shared: Arc<Shared>,
}

struct Shared {
    /// Tells one process from another behind the same address.
    instance: u64,
    start: Instant,
    entries: Mutex<Entries>,
    past: Mutex<Ring>,
    /// About how long the next text will be.
    text_len: AtomicUsize,
}

#[derive(Default)]
struct Entries {
    list: Vec<Entry>,
    last_id: u64,
}

#[derive(Default)]
struct Ring {
    events: VecDeque<Past>,
    last_number: u64,
}

/// So many transitions are kept.
const KEPT: usize = 256;

impl Registry {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                instance: rand::random(),
                start: Instant::now(),
                entries: Mutex::default(),
                past: Mutex::default(),
                text_len: AtomicUsize::new(0),
            }),
        }
    }

    /// Lists a handle, a layer or a stack. Adding one twice lists it twice.
    pub fn add(&self, layer: &impl Register) {
        self.list(layer, layer.reader());
    }

    /// Lists a stack per key, and shows the circuits of the first `most` keys by name. The keys become the values of a
    /// label, so do not use it for keys that are secret.
    ///
    /// # Errors
    /// `most` is above 100: each key is five series.
    pub fn add_with_keys(
        &self,
        layer: &impl RegisterKeys,
        most: usize,
    ) -> Result<(), InvalidConfig> {
        if most > 100 {
            return Err(InvalidConfig::new("most", most, "at most 100"));
        }
        self.list(layer, layer.reader_of_keys(most));
        Ok(())
    }

    fn list(&self, layer: &impl Register, reader: Reader) {
        let wanted = layer.wanted_name();
        let name = {
            let mut entries = lock(&self.shared.entries);
            entries.list.retain(Entry::is_alive);
            entries.last_id += 1;
            let name = entries.free_name(wanted.as_str());
            let entry = Entry::new(entries.last_id, name.clone(), reader);
            entries.list.push(entry);
            name
        };
        // After the lock is released: a subscriber may read the registry.
        if wanted.as_str().is_some_and(|wanted| wanted != name) {
            tracing::warn!(
                target: "buttress::observe",
                name = wanted.as_str(), listed_as = name, "name_taken"
            );
        }
        let watch: Arc<dyn Observe> = Arc::new(Watch {
            registry: Arc::downgrade(&self.shared),
            name,
        });
        layer.watch(&watch);
    }

    /// The state of all layers in the Prometheus text format 0.0.4. Serve it with the content type
    /// `text/plain; version=0.0.4`.
    #[must_use]
    pub fn text(&self) -> String {
        let uptime = Instant::now().saturating_duration_since(self.shared.start);
        let capacity = self.shared.text_len.load(Relaxed);
        let text = text::write(uptime.as_secs_f64(), &self.read(), capacity);
        self.shared.text_len.store(text.len() + 256, Relaxed);
        text
    }

    /// The state of all layers and the latest 256 transitions of circuits as a JSON object.
    #[must_use]
    pub fn json(&self) -> String {
        self.write_json(false)
    }

    /// A Tower service for `http::Request`, for any HTTP server. [`RegistryService`] lists its paths.
    ///
    /// ```
    /// use buttress::observe::Registry;
    /// use tower::ServiceExt;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let registry = Registry::new();
    /// let request = http::Request::get("/metrics").body(()).unwrap();
    /// let response = registry.service().oneshot(request).await.unwrap();
    /// assert!(response.body().contains("buttress_uptime_seconds"));
    /// # }
    /// ```
    ///
    /// With axum, mount it with `Router::nest_service("/buttress", registry.service())`, and open `/buttress/`.
    #[must_use]
    pub fn service(&self) -> RegistryService {
        RegistryService::new(self.clone())
    }

    fn instance(&self) -> String {
        format!("{:016x}", self.shared.instance)
    }

    /// The layers of one entry.
    fn layers(&self, id: u64) -> Option<Vec<LayerState>> {
        let entries = lock(&self.shared.entries);
        entries.list.iter().find(|entry| entry.id == id)?.read()
    }

    fn write_json(&self, actions: bool) -> String {
        let entries = self.read();
        let past: Vec<_> = lock(&self.shared.past).events.iter().cloned().collect();
        json::write(
            &self.instance(),
            self.shared.start,
            actions,
            &entries,
            &past,
        )
    }

    fn read(&self) -> Vec<(u64, String, Vec<LayerState>)> {
        let mut found = Vec::new();
        lock(&self.shared.entries).list.retain(|entry| {
            let layers = entry.read();
            let is_alive = layers.is_some();
            found.extend(layers.map(|layers| (entry.id, entry.name.clone(), layers)));
            is_alive
        });
        found
    }
}

impl Entries {
    fn free_name(&self, wanted: Option<&str>) -> String {
        let is_free = |name: &String| self.list.iter().all(|entry| entry.name != *name);
        let numbered = |number: u32| match (wanted, number) {
            (Some(name), 1) => name.to_owned(),
            (Some(name), _) => format!("{name}#{number}"),
            (None, _) => format!("unnamed#{number}"),
        };
        let mut names = (1..).map(numbered);
        names
            .find(is_free)
            .expect("there are more numbers than layers")
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code of others runs under the locks, so their data is whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps the transitions of one entry.
struct Watch {
    registry: Weak<Shared>,
    name: String,
}

impl Observe for Watch {
    fn on_event(&self, event: &Event) {
        let (Event::Transition { .. }, Some(shared)) = (event, self.registry.upgrade()) else {
            return;
        };
        let mut ring = lock(&shared.past);
        ring.last_number += 1;
        let past = Past {
            number: ring.last_number,
            at: Instant::now(),
            upstream: self.name.clone(),
            event: *event,
        };
        if ring.events.len() == KEPT {
            ring.events.pop_front();
        }
        ring.events.push_back(past);
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = lock(&self.shared.entries);
        let names = entries.list.iter().map(|entry| &entry.name);
        f.debug_list().entries(names).finish()
    }
}
