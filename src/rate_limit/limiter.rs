use super::gcra::{Cell, Gcra, Refusal};
use super::quota::{Quota, SharedRate};
use crate::deadline::Deadline;
use crate::error::Rejection;
use crate::name::Name;
use crate::time::{Shown, Timeline, millis, nanos};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};
use tracing::Level;

/// A rate limit, shared by all its clones. Usable without Tower; only [`acquire`](Self::acquire)
/// needs a runtime.
///
/// ```
/// use buttress::{Quota, Rejection, rate_limit::RateLimiter};
///
/// let limiter = RateLimiter::new(Quota::per_minute(1));
/// limiter.try_acquire(1)?;
/// let Err(Rejection::RateLimited { retry_after: Some(wait) }) = limiter.try_acquire(1) else {
///     panic!("granted twice");
/// };
/// assert!(wait.as_secs() >= 59);
/// # Ok::<(), Rejection>(())
/// ```
#[derive(Clone)]
pub struct RateLimiter {
    shared: Arc<Shared>,
}

struct Shared {
    gcra: Gcra,
    rate: SharedRate,
    timeline: Timeline,
    /// Nanoseconds.
    max_wait: u64,
    name: Name,
    /// Never locked by a call.
    quota: Mutex<Quota>,
}

impl RateLimiter {
    /// The longest wait for a turn, unless set otherwise.
    pub(super) const MAX_WAIT: Duration = Duration::from_secs(1);

    /// A limiter with its whole burst at hand. [`acquire`](Self::acquire) waits up to 1 s.
    #[must_use]
    pub fn new(quota: Quota) -> Self {
        Self::with(quota, Self::MAX_WAIT, Name::default())
    }

    pub(super) fn with(quota: Quota, max_wait: Duration, name: Name) -> Self {
        Self {
            shared: Arc::new(Shared {
                gcra: Gcra::new(),
                rate: SharedRate::new(quota.rate()),
                timeline: Timeline::start(),
                max_wait: nanos(max_wait),
                name,
                quota: Mutex::new(quota),
            }),
        }
    }

    /// Takes `n` units of the quota, now or not at all. 0 takes nothing, and is refused like any
    /// other while a pause lasts or others wait.
    ///
    /// # Errors
    /// [`Rejection::RateLimited`] with how long until it would be granted if nobody else calls;
    /// [`Rejection::TooCostly`] if `n` is above the burst.
    pub fn try_acquire(&self, n: u32) -> Result<(), Rejection> {
        self.take_within(n, |_| 0)
            .map(drop)
            .map_err(|refusal| self.rejection(refusal, n))
    }

    /// Takes `n` units of the quota, waiting its turn if that comes within the limiter's
    /// `max_wait`. Turns are served in the order in which they were taken, at the first poll.
    ///
    /// Dropped while it waits, it gives its turn back if it is the newest; an older one is lost, as
    /// handing it out again would exceed the quota.
    ///
    /// # Errors
    /// At once, as [`try_acquire`](Self::try_acquire): nobody waits for what comes too late.
    ///
    /// # Panics
    /// If it has to wait outside a tokio runtime with time enabled.
    pub async fn acquire(&self, n: u32) -> Result<(), Rejection> {
        let taken = self
            .take(n, None)
            .map_err(|refusal| self.rejection(refusal, n))?;
        if let Taken::Later(cell) = taken {
            let turn = self.turn(cell);
            sleep_until(turn.comes_at()).await;
            turn.spend();
        }
        Ok(())
    }

    /// Grants nothing before `until`, for a callee that asks to be left alone. From then on calls
    /// go one by one, the burst being used up. Calls that wait already keep their turns. The
    /// later of two pauses holds; [`resume`](Self::resume) ends one. However far away `until` is, it is
    /// heeded: cap what comes from a header.
    pub fn pause_until(&self, until: Instant) {
        self.shared.gcra.pause(self.shared.timeline.at(until));
    }

    /// As [`pause_until`](Self::pause_until), from now and told of.
    pub(super) fn pause_for(&self, pause: Duration) {
        let Shared {
            gcra,
            timeline,
            name,
            ..
        } = &*self.shared;
        gcra.pause(timeline.now().saturating_add(nanos(pause)));
        tracing::event!(
            name: "paused",
            target: "buttress::rate_limit",
            Level::DEBUG,
            name = name.get(),
            pause_ms = millis(pause),
            "paused"
        );
    }

    /// Ends a pause. What the limiter would have granted but for it, it grants now.
    pub fn resume(&self) {
        self.shared.gcra.resume();
    }

    /// Changes the quota, rate and burst together. Calls that wait already keep their turns.
    pub fn set_quota(&self, quota: Quota) {
        // One at a time, so that the last of two changes is the last in both places.
        let mut current = self.quota();
        *current = quota;
        self.shared.rate.store(quota.rate());
    }

    /// Quota and what is left of the burst at this moment.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let quota = *self.quota();
        let available = self
            .shared
            .gcra
            .available(quota.rate(), self.shared.timeline.now());
        Snapshot {
            name: self.shared.name.clone(),
            quota,
            available,
        }
    }

    /// A turn now, or later within `max_wait` and before the deadline.
    #[inline]
    pub(super) fn take(&self, cost: u32, deadline: Option<Deadline>) -> Result<Taken, Refusal> {
        let max_wait = self.shared.max_wait;
        let (cell, now) = self.take_within(cost, |now| match deadline {
            None => max_wait,
            Some(deadline) => max_wait.min(self.last_wait(deadline, now)),
        })?;
        Ok(if cell.turn <= now {
            Taken::Now
        } else {
            Taken::Later(cell)
        })
    }

    #[cold]
    pub(super) fn turn(&self, cell: Cell) -> Turn {
        Turn {
            limiter: self.clone(),
            cell,
            spent: false,
        }
    }

    #[inline]
    fn take_within(
        &self,
        cost: u32,
        max_wait: impl FnOnce(u64) -> u64,
    ) -> Result<(Cell, u64), Refusal> {
        let (now, rate) = (self.shared.timeline.now(), self.shared.rate.load());
        self.shared
            .gcra
            .take(rate, cost, now, max_wait(now))
            .map(|cell| (cell, now))
    }

    /// The longest wait that ends before the deadline: a turn that comes with it comes too late.
    fn last_wait(&self, deadline: Deadline, now: u64) -> u64 {
        let end = deadline.instant().map(|end| self.shared.timeline.at(end));
        end.map_or(u64::MAX, |end| end.saturating_sub(now).saturating_sub(1))
    }

    fn rejection(&self, refusal: Refusal, cost: u32) -> Rejection {
        match refusal {
            Refusal::After(wait) => Rejection::RateLimited {
                retry_after: Some(Duration::from_nanos(wait)),
            },
            Refusal::Never => Rejection::RateLimited { retry_after: None },
            Refusal::TooCostly => Rejection::TooCostly {
                cost,
                burst: self.burst(),
            },
        }
    }

    #[cold]
    pub(super) fn burst(&self) -> u32 {
        self.shared.rate.load().burst
    }

    /// Tells of the rejection of a call.
    #[cold]
    pub(super) fn tell_of_rejection(&self, refusal: Refusal, cost: u32) {
        let rejection = self.rejection(refusal, cost);
        let name = self.shared.name.get();
        match rejection {
            Rejection::TooCostly { burst, .. } => tracing::event!(
                name: "too_costly",
                target: "buttress::rate_limit",
                Level::DEBUG,
                name,
                cost,
                burst,
                "too costly"
            ),
            Rejection::RateLimited { retry_after } => tracing::event!(
                name: "rate_limited",
                target: "buttress::rate_limit",
                Level::DEBUG,
                name,
                cost,
                retry_after_ms = retry_after.map(millis),
                "rate limited"
            ),
            _ => {}
        }
    }

    fn quota(&self) -> MutexGuard<'_, Quota> {
        // Nothing panics under the lock; a poisoned one is as good as new.
        self.shared
            .quota
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Its settings, for people.
impl fmt::Display for RateLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quota = *self.quota();
        let max_wait = Shown(Duration::from_nanos(self.shared.max_wait));
        write!(
            f,
            "rate limit{}: {quota}, waits up to {max_wait}",
            self.shared.name
        )
    }
}

impl fmt::Debug for RateLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let snapshot = self.snapshot();
        f.debug_struct("RateLimiter")
            .field("name", &snapshot.name)
            .field("quota", &snapshot.quota)
            .field("available", &snapshot.available)
            .finish()
    }
}

pub(super) enum Taken {
    Now,
    Later(Cell),
}

/// A turn that lies ahead. Dropping it unspent gives it back if it is the newest.
pub(super) struct Turn {
    limiter: RateLimiter,
    cell: Cell,
    spent: bool,
}

impl Turn {
    pub(super) fn comes_at(&self) -> Instant {
        self.limiter.shared.timeline.instant(self.cell.turn)
    }

    pub(super) fn spend(mut self) {
        self.spent = true;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.spent {
            self.limiter.shared.gcra.give_back(self.cell);
        }
    }
}

/// What a [`RateLimiter`] holds, as it was at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    name: Name,
    /// The quota in force.
    pub quota: Quota,
    /// How many calls of cost 1 would be granted at once; 0 while calls wait or a pause lasts.
    pub available: u32,
}

impl Snapshot {
    /// The name given to the layer.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.get()
    }
}
