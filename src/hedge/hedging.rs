use super::quantile::{Quantile, SHORTEST};
use super::settings::{At, HedgeSettings};
use crate::budget::{Budget, Withdrawal};
use crate::event::{Count, Counters, Event, HedgeDenials, HedgeDenied, Observe, Observers};
use crate::name::Name;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The handle of a [`HedgeLayer`](super::HedgeLayer): its delay and its counters. Clones are the same handle.
#[derive(Clone)]
pub struct Hedging {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) settings: HedgeSettings,
    /// `None` if the delay is fixed.
    quantile: Option<Quantile>,
    budget: Budget,
    /// Whether successes of this layer earn for the budget.
    earns: bool,
    hedged: Count,
    won: Count,
    denied: Counters<HedgeDenied>,
    observers: Observers,
}

/// The state and the counters of a [`HedgeLayer`](super::HedgeLayer), since the layer was built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HedgeSnapshot {
    /// The name of the layer.
    pub name: Name,
    /// After this time a call that is still pending gets a copy. `None` while the layer has seen too few calls.
    pub delay: Option<Duration>,
    /// Copies that were sent.
    pub hedged: u64,
    /// Calls that a copy answered.
    pub won_by_hedge: u64,
    /// Copies that were due and not sent, by reason.
    pub denied: HedgeDenials,
}

/// How long a call waits for its first copy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Delay {
    pub(super) length: Duration,
    /// Whether a copy may be sent then.
    pub(super) sends: bool,
    /// Whether the call tells something about the quantile when it takes longer than this.
    pub(super) tells: bool,
}

impl Hedging {
    pub(super) fn new(settings: HedgeSettings, budget: Budget, earns: bool) -> Self {
        let quantile = match settings.at.0 {
            At::Quantile(q) => Some(Quantile::new(q)),
            At::After(_) => None,
        };
        Self {
            shared: Arc::new(Shared {
                settings,
                quantile,
                budget,
                earns,
                hedged: Count::default(),
                won: Count::default(),
                denied: Counters::default(),
                observers: Observers::default(),
            }),
        }
    }

    /// The budget that pays for copies.
    #[must_use]
    pub fn budget(&self) -> &Budget {
        &self.shared.budget
    }

    /// The delay now, and the counters.
    #[must_use]
    pub fn snapshot(&self) -> HedgeSnapshot {
        self.shared.snapshot()
    }

    /// Adds an observer of the events of this layer. It cannot be removed.
    pub fn observe(&self, observer: impl Observe + 'static) {
        self.shared.observers.add(Arc::new(observer));
    }

    /// Counts the events of this layer through the facade `metrics` (feature `metrics`). The
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

    /// Reads the handle, as long as another is there.
    pub(crate) fn weak(&self) -> impl Fn() -> Option<HedgeSnapshot> + Send + Sync + 'static {
        let shared = Arc::downgrade(&self.shared);
        move || Some(shared.upgrade()?.snapshot())
    }
}

impl Shared {
    fn snapshot(&self) -> HedgeSnapshot {
        let delay = self.delay(None);
        HedgeSnapshot {
            name: self.settings.name,
            delay: delay.sends.then_some(delay.length),
            hedged: self.hedged.get(),
            won_by_hedge: self.won.get(),
            denied: (&self.denied).into(),
        }
    }

    /// The delay of a call that has so much time left.
    pub(super) fn delay(&self, left: Option<Duration>) -> Delay {
        let (own, sends, learns) = match (&self.quantile, self.settings.at.0) {
            (Some(quantile), _) => {
                let (delay, sends) = quantile.delay();
                (delay, sends, true)
            }
            (None, At::After(delay)) => (delay, true, false),
            (None, At::Quantile(_)) => (SHORTEST, false, false),
        };
        // A copy that could not end before the deadline is of no use: leave it half of the time.
        let length = left.map_or(own, |left| own.min(left / 2));
        Delay {
            length,
            sends,
            tells: learns && length == own,
        }
    }

    /// A first copy ended, or took longer than the delay.
    #[inline]
    pub(super) fn observe(&self, took_longer: bool) {
        if let Some(quantile) = &self.quantile {
            quantile.observe(took_longer);
        }
    }

    /// A call succeeded, without a copy or with one.
    #[inline]
    pub(super) fn earn(&self, hedged: bool) {
        match (self.earns, hedged) {
            (true, false) => self.budget.deposit(),
            (true, true) => self.budget.retry_succeeded(),
            (false, _) => {}
        }
    }

    /// A send failed, and may be repeated.
    pub(super) fn failed(&self) {
        if self.earns {
            self.budget.record_failure();
        }
    }

    pub(super) fn withdraw(&self) -> Option<Withdrawal> {
        self.budget.try_withdraw()
    }

    pub(super) fn hedged(&self, hedge: u32, after: Duration) {
        self.hedged.add();
        let name = self.settings.name;
        self.observers.tell(Event::Hedged { name, hedge, after });
    }

    pub(super) fn won(&self, hedge: u32) {
        self.won.add();
        let name = self.settings.name;
        self.observers.tell(Event::HedgeWon { name, hedge });
    }

    pub(super) fn denied(&self, reason: HedgeDenied) {
        self.denied.add(reason);
        let name = self.settings.name;
        self.observers.tell(Event::HedgeDenied { name, reason });
    }
}

/// Prints the settings in a readable form.
impl fmt::Display for Hedging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let HedgeSettings { at, hedges, name } = self.shared.settings;
        write!(f, "hedge{name}: {hedges} more {at}, {}", self.shared.budget)
    }
}

impl fmt::Debug for Hedging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hedging")
            .field("settings", &self.shared.settings)
            .field("snapshot", &self.snapshot())
            .finish_non_exhaustive()
    }
}
