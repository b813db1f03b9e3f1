use super::queue::{Queue, Ticket};
use super::settings::LoadShedSettings;
use super::slots::{Entry, MAX_LIMIT};
use crate::deadline::Deadline;
use crate::error::{InvalidConfig, Rejected, Rejection};
use crate::event::{Counters, Event, Observe, Observers, OverloadReason, Overloads};
use crate::name::Name;
use crate::time::{Shown, poll_until};
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// A concurrency limit (bulkhead). Clones share it. Works without Tower and without a runtime.
///
/// ```
/// use buttress::load_shed::ConcurrencyLimit;
///
/// let limit = ConcurrencyLimit::new(1);
/// let slot = limit.try_acquire()?;
/// assert!(limit.try_acquire().is_err());
/// drop(slot);
/// assert!(limit.try_acquire().is_ok());
/// # Ok::<(), buttress::error::Rejected>(())
/// ```
#[derive(Clone)]
pub struct ConcurrencyLimit {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Queue,
    max_wait: Duration,
    name: Name,
    rejected: Counters<OverloadReason>,
    observers: Observers,
}

impl ConcurrencyLimit {
    /// A limit of this many slots. Saturates at 2^24 − 1. With 0, every call is rejected.
    #[must_use]
    pub fn new(max_in_flight: usize) -> Self {
        Self::of(LoadShedSettings::new(max_in_flight.min(MAX_LIMIT)))
    }

    /// A limit with these settings.
    ///
    /// # Errors
    /// The errors of [`LoadShedSettings::check`].
    pub fn with(settings: LoadShedSettings) -> Result<Self, InvalidConfig> {
        settings.check()?;
        Ok(Self::of(settings))
    }

    /// The settings must have been checked.
    fn of(settings: LoadShedSettings) -> Self {
        Self::observed(settings, Observers::default())
    }

    pub(super) fn observed(settings: LoadShedSettings, observers: Observers) -> Self {
        let queue = Queue::new(settings.max_in_flight, settings.queue as u16);
        Self {
            shared: Arc::new(Shared {
                queue,
                max_wait: settings.max_wait,
                name: settings.name,
                rejected: Counters::default(),
                observers,
            }),
        }
    }

    /// Takes a slot, and holds it until the [`Slot`] is dropped. Does not wait, and does not overtake
    /// calls that wait.
    ///
    /// # Errors
    /// [`Rejection::Overloaded`] if no slot is free or calls wait.
    pub fn try_acquire(&self) -> Result<Slot, Rejected> {
        self.take().ok_or_else(|| {
            self.shared.rejected.add(OverloadReason::Full);
            Rejected(self.overloaded())
        })
    }

    /// Whether the limit is free and still this one, and nobody else holds it.
    pub(super) fn is_like_new(&mut self, max_in_flight: usize) -> bool {
        let Some(shared) = Arc::get_mut(&mut self.shared) else {
            return false;
        };
        let counts = shared.queue.counts();
        counts.in_flight == 0 && counts.limit as usize == max_in_flight
    }

    /// The slots that are taken now.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.shared.queue.counts().in_flight as usize
    }

    /// Changes the limit. Saturates at 2^24 − 1. If the limit goes below the slots in use, these stay
    /// valid; if it goes up, waiting calls get the new slots.
    pub fn set_limit(&self, max_in_flight: usize) {
        let limit = || self.shared.queue.counts().limit as usize;
        let from = limit();
        self.shared.queue.set_limit(max_in_flight);
        let (name, to) = (self.shared.name, limit());
        if from != to {
            let changed = Event::LimitChanged { name, from, to };
            self.shared.observers.tell(changed);
        }
    }

    /// Finds the handle again, as long as somebody else holds it.
    pub(crate) fn weak(&self) -> impl Fn() -> Option<Self> + Send + Sync + 'static {
        let shared = Arc::downgrade(&self.shared);
        move || {
            let shared = shared.upgrade()?;
            Some(Self { shared })
        }
    }

    pub(crate) fn observers(&self) -> &Observers {
        &self.shared.observers
    }

    /// Counts the events of this limit through the facade `metrics` (feature `metrics`). The
    /// [module `metrics`](crate::metrics) lists the metrics. It cannot be switched off.
    #[cfg(feature = "metrics")]
    pub fn metrics(&self) {
        self.shared
            .observers
            .add(crate::metrics::Events::observer());
    }

    /// Adds an observer of the events of this limit. It cannot be removed.
    pub fn observe(&self, observer: impl Observe + 'static) {
        self.shared.observers.add(Arc::new(observer));
    }

    /// The limit, the slots in use and the waiting calls at one moment, and the rejections so far.
    #[must_use]
    pub fn snapshot(&self) -> LoadShedSnapshot {
        let counts = self.shared.queue.counts();
        LoadShedSnapshot {
            name: self.shared.name,
            limit: counts.limit as usize,
            in_flight: counts.in_flight as usize,
            waiting: usize::from(counts.waiting),
            rejected: (&self.shared.rejected).into(),
        }
    }

    #[inline]
    fn slot(&self) -> Slot {
        Slot {
            shared: self.shared.clone(),
        }
    }

    fn overloaded(&self) -> Rejection {
        Rejection::Overloaded {
            limit: self.shared.queue.counts().limit as usize,
            by: self.shared.name,
        }
    }

    /// Counts and reports a rejected call, and returns its rejection.
    pub(super) fn reject(&self, reason: OverloadReason) -> Rejection {
        self.shared.rejected.add(reason);
        let rejection = self.overloaded();
        if let Rejection::Overloaded { limit, by: name } = rejection {
            self.shared.observers.tell(Event::Overloaded {
                name,
                reason,
                limit,
            });
        }
        rejection
    }

    /// Takes a slot, if one is free and no call waits.
    #[inline]
    pub(super) fn take(&self) -> Option<Slot> {
        self.shared.queue.try_acquire().then(|| self.slot())
    }

    /// Takes a slot or a place in the queue, or says why it cannot.
    pub(super) fn enter(&self, deadline: Option<Deadline>) -> Result<Entered, OverloadReason> {
        // The queue's lock is needed only if calls wait or may have to.
        if let Some(slot) = self.take() {
            return Ok(Entered::Slot(slot));
        }
        if !self.has_queue() {
            return Err(OverloadReason::Full);
        }
        if deadline.is_some_and(|deadline| deadline.remaining().is_zero()) {
            return Err(OverloadReason::Deadline);
        }
        match self.shared.queue.enter() {
            (_, Some(ticket)) => {
                let now = Instant::now();
                let own = Deadline::from(now, self.shared.max_wait);
                let found = deadline.filter(|deadline| *deadline < own);
                Ok(Entered::Queue(Wait {
                    limit: self.clone(),
                    ticket,
                    redeemed: false,
                    since: now,
                    end: found.unwrap_or(own).end(now),
                    timer: None,
                    at_end: if found.is_some() {
                        OverloadReason::Deadline
                    } else {
                        OverloadReason::WaitedTooLong
                    },
                }))
            }
            (Entry::Admitted, None) => Ok(Entered::Slot(self.slot())),
            (_, None) => Err(OverloadReason::Full),
        }
    }

    /// What a call would find now.
    #[inline]
    pub(super) fn occupancy(&self) -> Occupancy {
        let counts = self.shared.queue.counts();
        if counts.in_flight < counts.limit && counts.waiting == 0 {
            Occupancy::Free
        } else if self.has_queue() && counts.waiting < self.shared.queue.len() {
            Occupancy::Queue
        } else {
            Occupancy::Full
        }
    }

    #[inline]
    fn has_queue(&self) -> bool {
        self.shared.queue.len() > 0 && !self.shared.max_wait.is_zero()
    }
}

/// Prints the settings in a readable form.
impl fmt::Display for ConcurrencyLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared {
            queue,
            max_wait,
            name,
            ..
        } = &*self.shared;
        write!(f, "load shed{name}: {} in flight", queue.counts().limit)?;
        if self.has_queue() {
            write!(f, ", {} more wait up to {}", queue.len(), Shown(*max_wait))?;
        }
        Ok(())
    }
}

impl fmt::Debug for ConcurrencyLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let snapshot = self.snapshot();
        f.debug_struct("ConcurrencyLimit")
            .field("name", &snapshot.name)
            .field("limit", &snapshot.limit)
            .field("in_flight", &snapshot.in_flight)
            .field("waiting", &snapshot.waiting)
            .finish()
    }
}

pub(super) enum Occupancy {
    Free,
    Queue,
    Full,
}

pub(super) enum Entered {
    Slot(Slot),
    Queue(Wait),
}

/// A slot of a [`ConcurrencyLimit`]. Dropping it frees the slot.
#[must_use = "dropping a slot gives it back at once"]
pub struct Slot {
    shared: Arc<Shared>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.shared.queue.release();
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot")
            .field("name", &self.shared.name)
            .finish_non_exhaustive()
    }
}

/// A place in the queue. Dropping it gives the place up.
#[derive(Debug)]
pub struct Wait {
    limit: ConcurrencyLimit,
    ticket: Ticket,
    redeemed: bool,
    since: Instant,
    /// `None` if the wait has no end.
    end: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
    at_end: OverloadReason,
}

impl Wait {
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Slot, OverloadReason>> {
        // The slot first: if the slot and the end of the wait come in one poll, the call goes.
        if self
            .limit
            .shared
            .queue
            .poll_turn(self.ticket, cx)
            .is_ready()
        {
            self.redeemed = true;
            let slot = self.limit.slot();
            let Shared {
                name, observers, ..
            } = &*self.limit.shared;
            if !observers.is_empty() {
                let (name, wait) = (*name, self.since.elapsed());
                observers.tell(Event::WaitedForSlot { name, wait });
            }
            return Poll::Ready(Ok(slot));
        }
        let Some(end) = self.end else {
            return Poll::Pending;
        };
        ready!(poll_until(&mut self.timer, end, cx));
        Poll::Ready(Err(self.at_end))
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if !self.redeemed {
            self.limit.shared.queue.leave(self.ticket);
        }
    }
}

/// The state and the counters of a [`ConcurrencyLimit`] at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadShedSnapshot {
    /// The name of the limit.
    pub name: Name,
    /// The calls that may be in flight.
    pub limit: usize,
    /// The calls in flight. For a while after `set_limit` lowered the limit, this can be above it.
    pub in_flight: usize,
    /// The calls that wait in the queue.
    pub waiting: usize,
    /// The calls rejected since the limit was made, by reason.
    pub rejected: Overloads,
}
