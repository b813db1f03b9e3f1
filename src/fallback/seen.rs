use crate::error::Rejection;
use crate::event::{Count, Event, Observers};
use crate::name::Name;
use crate::verdict::Verdict;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Counts and reports the calls that the fallback answered.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) name: Name,
    fell_back: Count,
    failed: Count,
    // Relaxed: no other memory depends on it.
    degraded: AtomicBool,
    pub(super) observers: Observers,
}

/// The state and the counters of a [`FallbackLayer`](super::FallbackLayer), since the layer was built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FallbackSnapshot {
    /// The name of the layer.
    pub name: Name,
    /// Whether the latest call was answered by the fallback.
    pub degraded: bool,
    /// Calls for which the fallback was asked.
    pub fell_back: u64,
    /// Of these, the calls for which the fallback returned an error.
    pub failed: u64,
}

impl Seen {
    pub(super) fn new(name: Name) -> Self {
        Self {
            name,
            fell_back: Count::default(),
            failed: Count::default(),
            degraded: AtomicBool::new(false),
            observers: Observers::default(),
        }
    }

    pub(super) fn snapshot(&self) -> FallbackSnapshot {
        FallbackSnapshot {
            name: self.name,
            degraded: self.degraded.load(Relaxed),
            fell_back: self.fell_back.get(),
            failed: self.failed.get(),
        }
    }

    /// A call went well.
    #[inline]
    pub(super) fn well(&self) {
        if self.degraded.load(Relaxed) {
            self.change(false, Event::Restored { name: self.name });
        }
    }

    /// The fallback is asked.
    pub(super) fn fell_back(&self, verdict: Verdict, rejection: Option<Rejection>) {
        let name = self.name;
        self.fell_back.add();
        self.change(true, Event::Degraded { name, verdict });
        self.observers.tell(Event::FellBack {
            name,
            verdict,
            rejection,
        });
    }

    #[cold]
    fn change(&self, to: bool, event: Event) {
        if self.degraded.swap(to, Relaxed) != to {
            self.observers.tell(event);
        }
    }

    pub(super) fn failed(&self) {
        self.failed.add();
    }
}
