use super::gcra::{Cell, Gcra, Refusal};
use super::quota::{Quota, SharedRate};
use super::settings::RateLimitSettings;
use crate::deadline::Deadline;
use crate::error::{InvalidConfig, Rejected, Rejection};
use crate::event::{Count, Event};
use crate::name::Name;
use crate::time::{Shown, Timeline, nanos, poll_until};
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// A rate limit, shared by all its clones. Usable without Tower; only [`acquire`](Self::acquire)
/// needs a runtime.
///
/// ```
/// use buttress::{Quota, Rejection, rate_limit::RateLimiter};
///
/// let limiter = RateLimiter::new(Quota::per_minute(1));
/// limiter.try_acquire(1)?;
/// let rejected = limiter.try_acquire(1).unwrap_err();
/// let Rejection::RateLimited { retry_after: Some(wait), .. } = rejected.0 else {
///     panic!("{rejected}");
/// };
/// assert!(wait.as_secs() >= 59);
/// # Ok::<(), buttress::error::Rejected>(())
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
    rate_limited: Count,
    too_costly: Count,
    paused: Count,
}

impl RateLimiter {
    /// A limiter with its whole burst at hand. [`acquire`](Self::acquire) waits up to 1 s.
    #[must_use]
    pub fn new(quota: Quota) -> Self {
        Self::of(RateLimitSettings::new(quota))
    }

    /// A limiter with these settings.
    ///
    /// # Errors
    /// As [`RateLimitSettings::check`].
    pub fn with(settings: RateLimitSettings) -> Result<Self, InvalidConfig> {
        settings.check()?;
        Ok(Self::of(settings))
    }

    fn of(settings: RateLimitSettings) -> Self {
        let RateLimitSettings {
            quota,
            max_wait,
            name,
        } = settings;
        Self {
            shared: Arc::new(Shared {
                gcra: Gcra::new(),
                rate: SharedRate::new(quota.rate()),
                timeline: Timeline::start(),
                max_wait: nanos(max_wait),
                name,
                quota: Mutex::new(quota),
                rate_limited: Count::default(),
                too_costly: Count::default(),
                paused: Count::default(),
            }),
        }
    }

    /// Takes `n` units of the quota, now or not at all. 0 takes nothing, and is refused like any
    /// other while a pause lasts or others wait.
    ///
    /// # Errors
    /// [`Rejection::RateLimited`] with how long until it would be granted if nobody else calls;
    /// [`Rejection::TooCostly`] if `n` is above the burst.
    pub fn try_acquire(&self, n: u32) -> Result<(), Rejected> {
        self.take_within(n, |_| 0)
            .map(drop)
            .map_err(|refusal| Rejected(self.count(refusal, n)))
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
    pub async fn acquire(&self, n: u32) -> Result<(), Rejected> {
        let taken = self.take(n, None);
        let refused = |refusal| Rejected(self.count(refusal, n));
        if let Taken::Later(mut turn) = taken.map_err(refused)? {
            poll_fn(|cx| turn.poll(cx)).await.map_err(refused)?;
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

    /// As [`pause_until`](Self::pause_until), from now; counted and reported.
    pub(crate) fn pause_for(&self, pause: Duration) {
        let Shared {
            gcra,
            timeline,
            name,
            paused,
            ..
        } = &*self.shared;
        gcra.pause(timeline.now().saturating_add(nanos(pause)));
        paused.add();
        Event::Paused { name: *name, pause }.emit();
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
    pub fn snapshot(&self) -> RateLimitSnapshot {
        let quota = *self.quota();
        let available = self
            .shared
            .gcra
            .available(quota.rate(), self.shared.timeline.now());
        RateLimitSnapshot {
            name: self.shared.name,
            quota,
            available,
            rate_limited: self.shared.rate_limited.get(),
            too_costly: self.shared.too_costly.get(),
            paused: self.shared.paused.get(),
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
            Taken::Later(self.turn(cell))
        })
    }

    fn turn(&self, cell: Cell) -> Turn {
        Turn {
            limiter: self.clone(),
            cell: Some(cell),
            timer: None,
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

    /// The rejection of a call, counted.
    fn count(&self, refusal: Refusal, cost: u32) -> Rejection {
        let by = self.shared.name;
        let retry_after = match refusal {
            Refusal::After(wait) => Some(Duration::from_nanos(wait)),
            Refusal::Never => None,
            Refusal::TooCostly => {
                self.shared.too_costly.add();
                let burst = self.shared.rate.load().burst;
                return Rejection::TooCostly { cost, burst, by };
            }
        };
        self.shared.rate_limited.add();
        Rejection::RateLimited { retry_after, by }
    }

    /// The rejection of a call, counted and reported.
    pub(super) fn reject(&self, refusal: Refusal, cost: u32) -> Rejection {
        let rejection = self.count(refusal, cost);
        let name = self.shared.name;
        match rejection {
            Rejection::TooCostly { burst, .. } => Event::TooCostly { name, cost, burst }.emit(),
            _ => Event::RateLimited {
                name,
                cost,
                retry_after: rejection.retry_after(),
            }
            .emit(),
        }
        rejection
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
    Later(Turn),
}

/// A turn that lies ahead. Dropping it unspent gives it back if it is the newest.
#[derive(Debug)]
pub struct Turn {
    limiter: RateLimiter,
    cell: Option<Cell>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Turn {
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        if let Some(cell) = self.cell {
            let turn = self.limiter.shared.timeline.instant(cell.turn);
            ready!(poll_until(&mut self.timer, turn, cx));
        }
        Poll::Ready(Ok(()))
    }

    pub(super) fn take(&mut self) -> Self {
        Self {
            limiter: self.limiter.clone(),
            cell: self.cell.take(),
            timer: None,
        }
    }

    pub(super) fn spend(mut self) {
        self.cell = None;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(cell) = self.cell {
            self.limiter.shared.gcra.give_back(cell);
        }
    }
}

/// What a [`RateLimiter`] holds at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RateLimitSnapshot {
    /// The name of the limiter.
    pub name: Name,
    /// The quota in force.
    pub quota: Quota,
    /// How many calls of cost 1 would be granted at once; 0 while calls wait or a pause lasts.
    pub available: u32,
    /// How many calls were rejected since the limiter was made, because they had no turn in time.
    pub rate_limited: u64,
    /// How many calls were rejected since the limiter was made, because they cost too much.
    pub too_costly: u64,
    /// How often an upstream paused the limiter.
    pub paused: u64,
}
