use super::gcra::{END, Grant, ORIGIN, Refusal};
use super::lease::LeaseSettings;
use super::leases::LeaseCounts;
use super::ledger::{Ask, Reply};
use super::queue::{Entry, Queue};
use super::quota::Quota;
use super::settings::RateLimitSettings;
use super::visit::{Place, Ticket};
use crate::deadline::Deadline;
use crate::error::{InvalidConfig, Rejected, Rejection};
use crate::event::{Count, Event, Observe, Observers};
use crate::name::Name;
use crate::time::{Shown, Timeline, nanos};
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{Ordering::Acquire, fence};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::runtime::{self, Handle};
use tokio::time::{Instant, Sleep, sleep_until};

/// A rate limiter. Clones share it. Works without Tower; only [`acquire`](Self::acquire) needs a
/// runtime.
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
    /// In nanoseconds.
    max_wait: u64,
    name: Name,
    rate_limited: Count,
    too_costly: Count,
    paused: Count,
    observers: Observers,
}

impl RateLimiter {
    /// A limiter with its whole burst available. [`acquire`](Self::acquire) waits up to 1 s.
    #[must_use]
    pub fn new(quota: Quota) -> Self {
        Self::of(RateLimitSettings::new(quota))
    }

    /// A limiter with these settings.
    ///
    /// # Errors
    /// The errors of [`RateLimitSettings::check`].
    pub fn with(settings: RateLimitSettings) -> Result<Self, InvalidConfig> {
        settings.check()?;
        Ok(Self::of(settings))
    }

    fn of(settings: RateLimitSettings) -> Self {
        Self::observed(settings, Observers::default())
    }

    pub(super) fn observed(settings: RateLimitSettings, observers: Observers) -> Self {
        let queue = Queue::new(settings.quota);
        Self {
            shared: Arc::new(Shared::new(queue, settings, observers)),
        }
    }

    /// A limiter whose turns are leased. `ask` sends a request to the store; it is called without locks.
    pub(crate) fn leased(
        settings: RateLimitSettings,
        leases: LeaseSettings,
        ask: impl Fn(RateLimiter, u64, Ask) + Send + Sync + 'static,
    ) -> Self {
        let shared = Arc::new_cyclic(|shared: &Weak<Shared>| {
            let shared = shared.clone();
            let ask = move |id, request| {
                if let Some(shared) = shared.upgrade() {
                    ask(RateLimiter { shared }, id, request);
                }
            };
            let queue = Queue::leased(settings.quota, leases, Box::new(ask), ORIGIN);
            Shared::new(queue, settings, Observers::default())
        });
        Self { shared }
    }

    /// Brings the answer of the store to a request. Returns whether it makes sense; if not, the request has failed.
    pub(crate) fn answered(&self, id: u64, reply: Reply) -> bool {
        self.shared.queue.answered(id, reply, self.shared.now())
    }

    /// A request to the store has failed. The next may be sent in `wait`.
    pub(crate) fn failed(&self, id: u64, wait: Duration) {
        let now = self.shared.now();
        let again = now.saturating_add(nanos(wait));
        self.shared.queue.failed(id, again, now);
    }

    /// The leases. `None` unless this is the limiter of a fleet.
    pub(crate) fn leases(&self) -> Option<LeaseCounts> {
        self.shared.queue.leases(self.shared.now())
    }

    /// A point on the core's timeline.
    pub(crate) fn instant(&self, at: u64) -> Instant {
        self.shared.timeline.instant(at.saturating_sub(ORIGIN))
    }

    pub(crate) fn name(&self) -> Name {
        self.shared.name
    }

    /// Takes `n` units of the quota if they are available now. Never waits. A request for 0 units
    /// takes nothing, but is refused while the limiter is paused or calls wait.
    ///
    /// # Errors
    /// [`Rejection::RateLimited`] if the units are not available now. Its `retry_after` is the time
    /// until they would be if nobody else calls, or `None` if never. [`Rejection::TooCostly`] if `n`
    /// is above the burst.
    pub fn try_acquire(&self, n: u32) -> Result<(), Rejected> {
        match self.shared.queue.take(n, self.shared.now(), || 0) {
            Ok(_) => Ok(()), // a call that may wait for 0 ns gets no place in the queue
            Err(refusal) => Err(Rejected(self.count(refusal, n))),
        }
    }

    /// Takes `n` units of the quota, and waits for its turn if that comes within `max_wait`. Turns go
    /// to callers in the order of their first polls.
    ///
    /// Dropping the future while it waits gives its place to the callers behind it.
    ///
    /// # Errors
    /// As [`try_acquire`](Self::try_acquire), at once, if the turn would come after `max_wait`. Later,
    /// if the quota changes or the limiter is paused and the turn would now come too late.
    ///
    /// # Panics
    /// If the call has to wait outside a tokio runtime with time enabled.
    pub async fn acquire(&self, n: u32) -> Result<(), Rejected> {
        let taken = self.take(n, None);
        let refused = |refusal| Rejected(self.count(refusal, n));
        if let Taken::Later(mut turn) = taken.map_err(refused)? {
            poll_fn(|cx| turn.poll(cx)).await.map_err(refused)?;
            turn.spend();
        }
        Ok(())
    }

    /// Pauses the limiter until `until`, for an upstream that asks for a pause. After the pause the
    /// burst is empty, so calls go one by one. Waiting calls keep their places; those whose turn would
    /// now come too late are rejected.
    ///
    /// Of two pauses the one that ends later holds; [`resume`](Self::resume) ends it. A pause can be
    /// arbitrarily long: cap a time that comes from a header.
    pub fn pause_until(&self, until: Instant) {
        let until = self.shared.at(until);
        self.shared.queue.pause(until, self.shared.now());
    }

    /// The same as [`pause_until`](Self::pause_until) with a time from now. Counts and reports the pause.
    pub(crate) fn pause_for(&self, pause: Duration) {
        let now = self.shared.now();
        let until = now.saturating_add(nanos(pause));
        self.shared.queue.pause(until, now);
        self.shared.paused.add();
        let name = self.shared.name;
        self.shared.observers.tell(Event::Paused { name, pause });
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

    /// Counts the events of this limiter through the facade `metrics` (feature `metrics`). The
    /// [module `metrics`](crate::metrics) lists the metrics. It cannot be switched off.
    #[cfg(feature = "metrics")]
    pub fn metrics(&self) {
        self.shared
            .observers
            .add(crate::metrics::Events::observer());
    }

    /// Adds an observer of the events of this limiter. It cannot be removed.
    pub fn observe(&self, observer: impl Observe + 'static) {
        self.shared.observers.add(Arc::new(observer));
    }

    /// Ends a pause. Turns that would have been granted without it are granted now, to waiting calls
    /// first.
    pub fn resume(&self) {
        self.shared.queue.resume(self.shared.now());
    }

    /// Changes the quota, rate and burst together. Waiting calls keep their places and get their turns
    /// by the new quota; those whose turn would now come too late are rejected.
    pub fn set_quota(&self, quota: Quota) {
        self.shared.queue.set_quota(quota, self.shared.now());
    }

    /// The quota, the available calls and the waiting calls at one moment, and the rejections so far.
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

    /// Whether the whole burst is available, the quota is still this one, and nobody holds the limiter
    /// besides `holders`.
    pub(super) fn is_like_new(
        &mut self,
        now: Instant,
        holders: usize,
        expected: impl FnOnce() -> Quota,
    ) -> bool {
        let now = self.shared.at(now).min(END);
        // Asked first, because it costs less.
        if !self.shared.queue.is_whole(now) {
            return false;
        }
        if Arc::strong_count(&self.shared) > holders {
            return false;
        }
        // Acquire: what others did with the limiter before they dropped it is seen here. A call that
        // waits holds the limiter, so none does.
        fence(Acquire);
        self.shared.queue.is_whole(now) && self.shared.queue.quota() == expected()
    }

    /// Takes a turn, or a place in the queue if the turn comes within `max_wait` and before the
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
                since: Some(now),
                timer: None,
            }),
        })
    }

    /// Gives back a turn that was granted at once and not used.
    pub(super) fn give_back(&self, grant: Grant) {
        self.shared.queue.give_back(grant, || self.shared.now());
    }

    /// Counts a rejected call, and returns its rejection.
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

    /// Counts and reports a rejected call, and returns its rejection.
    pub(super) fn reject(&self, refusal: Refusal, cost: u32) -> Rejection {
        let rejection = self.count(refusal, cost);
        let name = self.shared.name;
        self.shared.observers.tell(match rejection {
            Rejection::TooCostly { burst, .. } => Event::TooCostly { name, cost, burst },
            _ => Event::RateLimited {
                name,
                cost,
                retry_after: rejection.retry_after(),
            },
        });
        rejection
    }
}

impl Shared {
    fn new(queue: Queue, settings: RateLimitSettings, observers: Observers) -> Self {
        Self {
            queue,
            timeline: Timeline::start(),
            max_wait: nanos(settings.max_wait),
            name: settings.name,
            rate_limited: Count::default(),
            too_costly: Count::default(),
            paused: Count::default(),
            observers,
        }
    }

    /// The time on the core's timeline, which ends after 146 years.
    #[inline]
    fn now(&self) -> u64 {
        self.timeline.now().min(END - ORIGIN) + ORIGIN
    }

    /// Reports a call that got its turn after a wait.
    fn waited(&self, nanos: u64) {
        let (name, wait) = (self.name, Duration::from_nanos(nanos));
        self.observers.tell(Event::WaitedForTurn { name, wait });
    }

    fn at(&self, instant: Instant) -> u64 {
        self.timeline.at(instant).saturating_add(ORIGIN)
    }

    /// The longest wait. A turn at the very time of the deadline is too late.
    fn max_wait(&self, deadline: Option<Deadline>, now: u64) -> u64 {
        let end = deadline.and_then(|deadline| deadline.instant());
        let last_wait = |end| self.at(end).saturating_sub(now).saturating_sub(1);
        self.max_wait.min(end.map_or(u64::MAX, last_wait))
    }
}

/// Prints the settings in a readable form.
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

/// A turn (a permit) that a call waits for, and holds once it has come.
///
/// Dropping it before it is spent gives the place or the turn to the waiting calls.
#[derive(Debug)]
pub struct Turn {
    limiter: RateLimiter,
    /// `None` once the turn is spent, refused, or moved to another `Turn`.
    ticket: Option<Ticket>,
    /// When the wait began. `None` once its end is reported.
    since: Option<u64>,
    timer: Option<Timer>,
}

#[derive(Debug)]
struct Timer {
    sleep: Pin<Box<Sleep>>,
    /// The runtime of the timer.
    runtime: Option<runtime::Id>,
}

impl Turn {
    /// Ready when the turn has come; from then on it is held. Also ready, with an error, when a change
    /// of quota, a pause or late tasks delay the turn too far.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        let ticket = self.ticket.expect(POLLED);
        loop {
            let (shared, waker) = (&*self.limiter.shared, cx.waker().clone());
            // The queue first: a task without cooperative budget cannot poll the timer.
            let now = shared.now();
            match shared.queue.poll(ticket, now, waker) {
                Place::Turn => {
                    if let Some(since) = self.since.take() {
                        // A runtime whose clock is paused may be behind.
                        shared.waited(now.saturating_sub(since));
                    }
                    return Poll::Ready(Ok(()));
                }
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
            // Not a timer of a runtime that the call has left: that runtime may be stuck, may have
            // ended, or may have another clock.
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

    /// Moves a turn that has come into another `Turn`.
    pub(super) fn take(&mut self) -> Self {
        Self {
            limiter: self.limiter.clone(),
            ticket: self.ticket.take(),
            since: None,
            timer: None,
        }
    }

    /// Uses the turn.
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

/// The state and the counters of a [`RateLimiter`] at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RateLimitSnapshot {
    /// The name of the limiter.
    pub name: Name,
    /// The quota in force.
    pub quota: Quota,
    /// The calls of cost 1 that would be granted at once. 0 while calls wait or a pause lasts.
    pub available: u32,
    /// The calls that wait for their turn.
    pub waiting: usize,
    /// The calls rejected since the limiter was made because their turn would come too late.
    pub rate_limited: u64,
    /// The calls rejected since the limiter was made because they cost more than the burst.
    pub too_costly: u64,
    /// How many times an upstream has paused the limiter.
    pub paused: u64,
}
