use super::settings::{Delay, Fault, check_share};
use crate::error::InvalidConfig;
use crate::event::{Count, Event, Observe, Observers};
use crate::name::Name;
use crate::time::{Timeline, nanos};
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The handle of a [`ChaosLayer`](super::ChaosLayer): it switches the faults on and off. Clones are the same handle.
///
/// ```
/// use buttress::ChaosLayer;
/// use buttress::chaos::Delay;
/// use std::time::Duration;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// let layer = ChaosLayer::builder()
///     .latency(0.05, Delay::fixed(Duration::from_millis(200)))
///     .build()
///     .unwrap();
/// let chaos = layer.chaos();
/// assert!(!chaos.snapshot().is_on);
///
/// chaos.for_the_next(Duration::from_secs(60));
/// assert!(chaos.snapshot().is_on);
/// tokio::time::sleep(Duration::from_secs(60)).await;
/// assert!(!chaos.snapshot().is_on);
/// # }
/// ```
#[derive(Clone)]
pub struct Chaos {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    /// Until then faults are injected, on the timeline. 0: off.
    until: AtomicU64,
    timeline: Timeline,
    /// The shares of the faults, as the bits of an `f64`.
    shares: [AtomicU64; 4],
    /// The delays of latency and of latency before.
    delays: Mutex<[Delay; 2]>,
    seed: u64,
    calls: AtomicU64,
    max_active: usize,
    active: AtomicUsize,
    injected: [Count; 4],
    name: Name,
    observers: Observers,
}

/// The state and the counters of a [`Chaos`] handle at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChaosSnapshot {
    /// The name of the layer.
    pub name: Name,
    /// Whether faults are injected now.
    pub is_on: bool,
    /// The calls that have a fault and have not ended.
    pub active: usize,
    /// Answers that were delayed.
    pub latency: u64,
    /// Calls that were sent later.
    pub latency_before: u64,
    /// Outcomes that were injected.
    pub outcome: u64,
    /// Calls that never ended.
    pub hang: u64,
}

impl ChaosSnapshot {
    /// The counts with the words of their faults.
    pub(crate) fn by_fault(&self) -> [(&'static str, u64); 4] {
        [
            (Fault::Latency.as_str(), self.latency),
            (Fault::LatencyBefore.as_str(), self.latency_before),
            (Fault::Outcome.as_str(), self.outcome),
            (Fault::Hang.as_str(), self.hang),
        ]
    }
}

/// On for ever.
const FOR_EVER: u64 = u64::MAX;

#[derive(Clone, Copy)]
pub(super) struct Faults {
    pub(super) shares: [f64; 4],
    pub(super) delays: [Delay; 2],
    pub(super) seed: u64,
    pub(super) max_active: usize,
    pub(super) name: Name,
}

/// What is injected into one call.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Plan {
    pub(super) latency: Option<Duration>,
    pub(super) latency_before: Option<Duration>,
    pub(super) outcome: bool,
    pub(super) hang: bool,
}

/// The place of a call among those with a fault.
pub(super) struct Active(Arc<Shared>);

impl Plan {
    pub(super) const fn is_fault(&self) -> bool {
        self.latency.is_some() || self.latency_before.is_some() || self.outcome || self.hang
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Relaxed);
    }
}

impl Chaos {
    pub(super) fn new(faults: Faults) -> Self {
        let Faults {
            shares,
            delays,
            seed,
            max_active,
            name,
        } = faults;
        Self {
            shared: Arc::new(Shared {
                until: AtomicU64::new(0),
                timeline: Timeline::start(),
                shares: shares.map(|share| AtomicU64::new(share.to_bits())),
                delays: Mutex::new(delays),
                seed,
                calls: AtomicU64::new(0),
                max_active,
                active: AtomicUsize::new(0),
                injected: Default::default(),
                name,
                observers: Observers::default(),
            }),
        }
    }

    /// Injects faults from now on.
    pub fn on(&self) {
        self.shared.until.store(FOR_EVER, Relaxed);
        self.switched(true, None);
    }

    /// Injects faults for so long, on tokio's clock. It replaces an earlier end.
    pub fn for_the_next(&self, duration: Duration) {
        let now = self.shared.timeline.now();
        let until = now.saturating_add(nanos(duration)).clamp(1, FOR_EVER - 1);
        self.shared.until.store(until, Relaxed);
        self.switched(true, Some(duration));
    }

    /// Injects no more faults. Calls that are delayed or hang stay so.
    pub fn off(&self) {
        self.shared.until.store(0, Relaxed);
        self.switched(false, None);
    }

    fn switched(&self, on: bool, length: Option<Duration>) {
        let name = self.shared.name;
        let event = if on {
            Event::ChaosOn { name, length }
        } else {
            Event::ChaosOff { name }
        };
        self.shared.observers.tell(event);
    }

    /// Changes the share and the length of delayed answers.
    ///
    /// # Errors
    /// The share is not from 0 to 1, or the delay is not valid.
    pub fn set_latency(&self, share: f64, delay: Delay) -> Result<(), InvalidConfig> {
        self.set_delay(Fault::Latency, share, delay)
    }

    /// Changes the share and the length of delayed sends.
    ///
    /// # Errors
    /// The share is not from 0 to 1, or the delay is not valid.
    pub fn set_latency_before(&self, share: f64, delay: Delay) -> Result<(), InvalidConfig> {
        self.set_delay(Fault::LatencyBefore, share, delay)
    }

    /// Changes the share of injected outcomes. It has no effect on a layer without an outcome.
    ///
    /// # Errors
    /// The share is not from 0 to 1.
    pub fn set_outcome(&self, share: f64) -> Result<(), InvalidConfig> {
        self.set_share(Fault::Outcome, share)
    }

    /// Changes the share of calls that never end.
    ///
    /// # Errors
    /// The share is not from 0 to 1.
    pub fn set_hang(&self, share: f64) -> Result<(), InvalidConfig> {
        self.set_share(Fault::Hang, share)
    }

    fn set_delay(&self, fault: Fault, share: f64, delay: Delay) -> Result<(), InvalidConfig> {
        delay.check(fault.as_str())?;
        check_share(fault.as_str(), share)?;
        self.shared.delays()[fault as usize] = delay;
        self.set_share(fault, share)
    }

    fn set_share(&self, fault: Fault, share: f64) -> Result<(), InvalidConfig> {
        let share = check_share(fault.as_str(), share)?;
        self.shared.shares[fault as usize].store(share.to_bits(), Relaxed);
        Ok(())
    }

    /// The state and the counters.
    #[must_use]
    pub fn snapshot(&self) -> ChaosSnapshot {
        let shared = &*self.shared;
        let [latency, latency_before, outcome, hang] = shared.injected.each_ref().map(Count::get);
        ChaosSnapshot {
            name: shared.name,
            is_on: shared.is_on(),
            active: shared.active.load(Relaxed),
            latency,
            latency_before,
            outcome,
            hang,
        }
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

    pub(crate) fn observers(&self) -> &Observers {
        &self.shared.observers
    }

    /// The handle, as long as another is there.
    pub(crate) fn weak(&self) -> impl Fn() -> Option<Self> + Send + Sync + 'static {
        let shared = Arc::downgrade(&self.shared);
        move || {
            let shared = shared.upgrade()?;
            Some(Self { shared })
        }
    }
}

impl Shared {
    /// Relaxed: what is injected depends on no other memory.
    #[inline]
    pub(super) fn is_on(&self) -> bool {
        let until = self.until.load(Relaxed);
        until != 0 && (until == FOR_EVER || self.is_before(until))
    }

    fn is_before(&self, until: u64) -> bool {
        if self.timeline.now() < until {
            return true;
        }
        // It is over: from now on calls need not read the clock. If this fails, somebody switched it meanwhile.
        let _ = self.until.compare_exchange(until, 0, Relaxed, Relaxed);
        false
    }

    fn delays(&self) -> std::sync::MutexGuard<'_, [Delay; 2]> {
        self.delays.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn share(&self, fault: Fault) -> f64 {
        f64::from_bits(self.shares[fault as usize].load(Relaxed))
    }

    /// What to inject into the next call. `key`: what the draws depend on, in place of the number of the call.
    pub(super) fn plan(&self, key: Option<u64>) -> Plan {
        let call = key.unwrap_or_else(|| self.calls.fetch_add(1, Relaxed));
        let hits = |fault: Fault| fault.hits(self.share(fault), self.seed, call);
        let delay = |fault: Fault| {
            let delay = self.delays()[fault as usize];
            fault.delay(delay, self.seed, call)
        };
        let delay_if_hit = |fault| hits(fault).then(|| delay(fault));
        Plan {
            latency: delay_if_hit(Fault::Latency),
            latency_before: delay_if_hit(Fault::LatencyBefore),
            outcome: hits(Fault::Outcome),
            hang: hits(Fault::Hang),
        }
    }

    /// A place among the active faults, if one is free.
    pub(super) fn activate(self: &Arc<Self>) -> Option<Active> {
        let next = |active: usize| (active < self.max_active).then_some(active + 1);
        let taken = self.active.fetch_update(Relaxed, Relaxed, next);
        taken.is_ok().then(|| Active(self.clone()))
    }

    pub(super) fn injected(&self, fault: Fault, delay: Duration) {
        self.injected[fault as usize].add();
        let name = self.name;
        self.observers.tell(Event::Injected {
            name,
            fault: fault.as_str(),
            delay,
        });
    }
}

/// Prints the faults and whether they are on.
impl fmt::Display for Chaos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.shared.is_on() { "on" } else { "off" };
        write!(f, "chaos{}: {state}", self.shared.name)?;
        let delays = *self.shared.delays();
        for fault in Fault::ALL {
            let share = self.shared.share(fault);
            if share > 0.0 {
                write!(f, ", {} of {share}", fault.as_str())?;
                if let Some(delay) = delays.get(fault as usize) {
                    write!(f, " ({delay})")?;
                }
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Chaos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Chaos").field(&self.snapshot()).finish()
    }
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn once_the_time_is_over_calls_do_not_read_the_clock() {
        let layer = crate::ChaosLayer::builder().hang(1.0).build().unwrap();
        let shared = &layer.chaos().shared;
        layer.chaos().for_the_next(Duration::from_secs(1));
        assert!(shared.is_on());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_ne!(shared.until.load(Relaxed), 0);
        assert!(!shared.is_on());
        assert_eq!(shared.until.load(Relaxed), 0);
    }
}
