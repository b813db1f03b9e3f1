use super::gcra::{END, Grant, ORIGIN, Refusal};
use super::queue::{Entry, Place, Queue, Ticket};
use super::quota::Quota;
use super::settings::RateLimitSettings;
use crate::deadline::Deadline;
use crate::error::{InvalidConfig, Rejected, Rejection};
use crate::event::{Count, Event};
use crate::name::Name;
use crate::time::{Shown, Timeline, nanos};
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::runtime::{self, Handle};
use tokio::time::{Instant, Sleep, sleep_until};

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
    queue: Queue,
    timeline: Timeline,
    /// Nanoseconds.
    max_wait: u64,
    name: Name,
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
                queue: Queue::new(quota),
                timeline: Timeline::start(),
                max_wait: nanos(max_wait),
                name,
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
        match self.shared.queue.take(n, self.shared.now(), || 0) {
            Ok(_) => Ok(()), // nobody waits for no time at all
            Err(refusal) => Err(Rejected(self.count(refusal, n))),
        }
    }

    /// Takes `n` units of the quota, waiting its turn if that comes within the limiter's
    /// `max_wait`. Turns are served in the order in which calls came, by their first polls.
    ///
    /// Dropped while it waits, it gives its place to those behind it.
    ///
    /// # Errors
    /// At once, as [`try_acquire`](Self::try_acquire): nobody waits for a turn that comes too late.
    /// Later, if the quota changes or the limiter is paused and the turn now comes too late.
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

    /// Grants nothing before `until`, for an upstream that asks to be left alone. From then on calls
    /// go one by one, the burst being used up. Calls that wait are served from then on too; those
    /// for which that is too late are rejected. The later of two pauses holds;
    /// [`resume`](Self::resume) ends one. However far away `until` is, it is heeded: cap what comes
    /// from a header.
    pub fn pause_until(&self, until: Instant) {
        let until = self.shared.at(until);
        self.shared.queue.pause(until, self.shared.now());
    }

    /// As [`pause_until`](Self::pause_until), from now; counted and reported.
    pub(crate) fn pause_for(&self, pause: Duration) {
        let now = self.shared.now();
        let until = now.saturating_add(nanos(pause));
        self.shared.queue.pause(until, now);
        self.shared.paused.add();
        let name = self.shared.name;
        Event::Paused { name, pause }.emit();
    }

    /// Ends a pause. What the limiter would have granted but for it, it grants now, first to those
    /// who wait.
    pub fn resume(&self) {
        self.shared.queue.resume(self.shared.now());
    }

    /// Changes the quota, rate and burst together. Calls that wait keep their places and are served
    /// by the new quota; those for which that is too late are rejected.
    pub fn set_quota(&self, quota: Quota) {
        self.shared.queue.set_quota(quota, self.shared.now());
    }

    /// Quota, what is left of the burst, and how many calls wait, at this moment.
    #[must_use]
    pub fn snapshot(&self) -> RateLimitSnapshot {
        let (quota, available, waiting) = self.shared.queue.look(self.shared.now());
        RateLimitSnapshot {
            name: self.shared.name,
            quota,
            available,
            waiting,
            rate_limited: self.shared.rate_limited.get(),
            too_costly: self.shared.too_costly.get(),
            paused: self.shared.paused.get(),
        }
    }

    /// A turn now, or a place in the queue if the turn comes within `max_wait` and before the
    /// deadline.
    #[inline]
    pub(super) fn take(&self, cost: u32, deadline: Option<Deadline>) -> Result<Taken, Refusal> {
        let (shared, now) = (&*self.shared, self.shared.now());
        let max_wait = || shared.max_wait(deadline, now);
        Ok(match shared.queue.take(cost, now, max_wait)? {
            Entry::Now(grant) => Taken::Now(grant),
            Entry::Wait(ticket) => Taken::Later(Turn {
                limiter: self.clone(),
                ticket: Some(ticket),
                timer: None,
            }),
        })
    }

    /// Gives a turn back that was granted at once and not used.
    pub(super) fn give_back(&self, grant: Grant) {
        self.shared.queue.give_back(grant);
    }

    /// The rejection of a call, counted.
    fn count(&self, refusal: Refusal, cost: u32) -> Rejection {
        let by = self.shared.name;
        let retry_after = match refusal {
            Refusal::After(wait) => Some(Duration::from_nanos(wait)),
            Refusal::Never => None,
            Refusal::TooCostly => {
                self.shared.too_costly.add();
                let burst = self.shared.queue.rate().burst;
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
}

impl Shared {
    /// On the core's timeline, which ends after 146 years.
    #[inline]
    fn now(&self) -> u64 {
        self.timeline.now().min(END - ORIGIN) + ORIGIN
    }

    fn at(&self, instant: Instant) -> u64 {
        self.timeline.at(instant).saturating_add(ORIGIN)
    }

    /// The longest wait: a turn that comes with the deadline comes too late.
    fn max_wait(&self, deadline: Option<Deadline>, now: u64) -> u64 {
        let end = deadline.and_then(|deadline| deadline.instant());
        let last_wait = |end| self.at(end).saturating_sub(now).saturating_sub(1);
        self.max_wait.min(end.map_or(u64::MAX, last_wait))
    }
}

/// Its settings, for people.
impl fmt::Display for RateLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quota = self.shared.queue.quota();
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
            .field("waiting", &snapshot.waiting)
            .finish()
    }
}

pub(super) enum Taken {
    Now(Option<Grant>),
    Later(Turn),
}

/// A turn that is waited for, and held once it has come.
///
/// Dropping it before it is spent gives the place, or the turn, to the others.
#[derive(Debug)]
pub struct Turn {
    limiter: RateLimiter,
    /// None once the turn is spent, refused, or taken elsewhere.
    ticket: Option<Ticket>,
    timer: Option<Timer>,
}

#[derive(Debug)]
struct Timer {
    sleep: Pin<Box<Sleep>>,
    /// Where it runs.
    runtime: Option<runtime::Id>,
}

impl Turn {
    /// Ready when the turn has come, and is held from then on; or when a change of quota, a pause
    /// or late tasks put it too far off.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        let ticket = self.ticket.expect(POLLED);
        loop {
            let (shared, waker) = (&*self.limiter.shared, cx.waker().clone());
            // The queue comes before the timer, which a task without budget cannot poll.
            match shared.queue.poll(ticket, shared.now(), waker) {
                Place::Turn => return Poll::Ready(Ok(())),
                Place::Refused(refusal) => {
                    self.ticket = None;
                    return Poll::Ready(Err(refusal));
                }
                Place::Until(at) => {
                    let at = shared.timeline.instant(at.saturating_sub(ORIGIN));
                    ready!(self.poll_timer(at, cx));
                }
            }
        }
    }

    fn poll_timer(&mut self, at: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let here = Handle::try_current().ok().map(|runtime| runtime.id());
        let timer = match &mut self.timer {
            // Not one of a runtime that the call has left: that may be stuck, or have ended, or go by
            // another clock.
            Some(timer)
                if timer.sleep.deadline() == at
                    && !timer.sleep.is_elapsed()
                    && (here.is_none() || here == timer.runtime) =>
            {
                timer
            }
            timer => timer.insert(Timer {
                sleep: Box::pin(sleep_until(at)),
                runtime: here,
            }),
        };
        timer.sleep.as_mut().poll(cx)
    }

    /// Takes a turn that has come elsewhere.
    pub(super) fn take(&mut self) -> Self {
        Self {
            limiter: self.limiter.clone(),
            ticket: self.ticket.take(),
            timer: None,
        }
    }

    /// Uses the turn up.
    pub(super) fn spend(mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.limiter.shared.queue.spend(ticket);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            let shared = &*self.limiter.shared;
            shared.queue.leave(ticket, shared.now());
        }
    }
}

const POLLED: &str = "a future must not be polled after it was ready";

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
    /// How many calls wait for their turn.
    pub waiting: usize,
    /// How many calls were rejected since the limiter was made, because they had no turn in time.
    pub rate_limited: u64,
    /// How many calls were rejected since the limiter was made, because they cost too much.
    pub too_costly: u64,
    /// How often an upstream paused the limiter.
    pub paused: u64,
}
