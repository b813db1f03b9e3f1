use crate::error::Rejection;
use crate::event::{Count, Event, Observers};
use crate::name::Name;
use std::time::Duration;

/// Counts and reports the calls that ran out of time.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) name: Name,
    timed_out: Count,
    deadline_passed: Count,
    pub(super) observers: Observers,
}

/// The counters of a [`TimeoutLayer`](super::TimeoutLayer), since the layer was built. They count the calls of all its services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TimeoutSnapshot {
    /// The name of the layer.
    pub name: Name,
    /// The timeout, as configured.
    pub after: Duration,
    /// Calls that ran out of this timeout.
    pub timed_out: u64,
    /// Calls whose own deadline, earlier than this timeout, passed.
    pub deadline_passed: u64,
}

impl Seen {
    pub(super) fn new(name: Name) -> Self {
        Self {
            name,
            timed_out: Count::default(),
            deadline_passed: Count::default(),
            observers: Observers::default(),
        }
    }

    pub(super) fn snapshot(&self, after: Duration) -> TimeoutSnapshot {
        TimeoutSnapshot {
            name: self.name,
            after,
            timed_out: self.timed_out.get(),
            deadline_passed: self.deadline_passed.get(),
        }
    }

    pub(super) fn tell(&self, rejection: Rejection) {
        let name = self.name;
        let event = if let Rejection::TimedOut { after, .. } = rejection {
            self.timed_out.add();
            Event::TimedOut { name, after }
        } else {
            self.deadline_passed.add();
            Event::DeadlinePassed { name }
        };
        self.observers.tell(event);
    }
}
