use super::core::{Core, Found, Refused};
use crate::deadline::Deadline;
use crate::error::{InvalidConfig, Rejected, Rejection};
use crate::event::{Count, Event, Observe, Observers};
use crate::name::Name;
use crate::rate_limit::gcra::{END, ORIGIN};
use crate::rate_limit::{Quota, RateLimitSettings};
use crate::time::{Shown, Timeline, nanos};
use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::time::{Sleep, sleep_until};

/// Several quotas that every call takes from at once: requests *and* tokens per minute. Clones are the same quotas.
///
/// A call takes from all quotas at the same moment, or waits, or is rejected. Calls wait in order of arrival. `N` is
/// the number of quotas, and a call has a cost for each.
///
/// ```
/// use buttress::Quota;
/// use buttress::rate_limit::Quotas;
/// use std::time::Duration;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// let minute = Duration::from_secs(60);
/// let requests = Quota::new(60, minute).burst(10);
/// let tokens = Quota::new(90_000, minute).burst(9_000);
/// let quotas = Quotas::builder([requests, tokens]).name("llm").build().unwrap();
///
/// // An estimate of the tokens. What the call really cost is known afterwards.
/// let charge = quotas.acquire([1, 4_000]).await.unwrap();
/// charge.settle([1, 2_500]);
/// assert_eq!(quotas.snapshot().available, [9, 6_500]);
/// # }
/// ```
#[derive(Clone)]
pub struct Quotas<const N: usize> {
    shared: Arc<Shared<N>>,
}

struct Shared<const N: usize> {
    state: Mutex<State<N>>,
    quotas: [Quota; N],
    timeline: Timeline,
    max_wait: u64,
    name: Name,
    rate_limited: Count,
    too_costly: Count,
    observers: Observers,
}

struct State<const N: usize> {
    core: Core<N>,
    /// Of the waiting calls.
    wakers: HashMap<u64, Waker>,
}

/// Builds [`Quotas`].
#[derive(Clone, Copy, Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct QuotasBuilder<const N: usize> {
    quotas: [Quota; N],
    max_wait: Duration,
    name: Name,
}

impl<const N: usize> QuotasBuilder<N> {
    /// How long a call may wait for its turn. Default: 1 s.
    pub fn max_wait(mut self, max_wait: Duration) -> Self {
        self.max_wait = max_wait;
        self
    }

    /// The name in errors, events and snapshots. Default: none.
    pub fn name(mut self, name: impl Into<Name>) -> Self {
        self.name = name.into();
        self
    }

    /// Builds the quotas.
    ///
    /// # Errors
    /// The errors of [`RateLimitSettings::check`](crate::rate_limit::RateLimitSettings::check), for each quota.
    pub fn build(self) -> Result<Quotas<N>, InvalidConfig> {
        for quota in self.quotas {
            RateLimitSettings::new(quota).check()?;
        }
        Ok(Quotas {
            shared: Arc::new(Shared {
                state: Mutex::new(State {
                    core: Core::new(self.quotas.map(Quota::rate)),
                    wakers: HashMap::new(),
                }),
                quotas: self.quotas,
                timeline: Timeline::start(),
                max_wait: nanos(self.max_wait),
                name: self.name,
                rate_limited: Count::default(),
                too_costly: Count::default(),
                observers: Observers::default(),
            }),
        })
    }
}

/// The state and the counters of [`Quotas`] at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QuotasSnapshot<const N: usize> {
    /// The name of the quotas.
    pub name: Name,
    /// The calls of cost 1 that each quota would grant at once.
    pub available: [u32; N],
    /// The calls that wait for their turn.
    pub waiting: usize,
    /// The calls rejected because their turn would come too late.
    pub rate_limited: u64,
    /// The calls rejected because they cost more than a burst.
    pub too_costly: u64,
}

impl<const N: usize> Quotas<N> {
    /// A builder with the default settings.
    pub const fn builder(quotas: [Quota; N]) -> QuotasBuilder<N> {
        QuotasBuilder {
            quotas,
            max_wait: Duration::from_secs(1),
            name: Name::UNNAMED,
        }
    }

    /// Takes these costs, without waiting.
    ///
    /// # Errors
    /// [`Rejection::RateLimited`] if a quota has no room or calls wait; [`Rejection::TooCostly`] if a cost is above the
    /// burst of its quota.
    pub fn try_acquire(&self, costs: [u32; N]) -> Result<Charge<N>, Rejected> {
        match self.enter(costs, 0, None) {
            Ok(Entered::Now(charge)) => Ok(charge),
            // Nobody can wait for no time.
            Ok(Entered::Later(_)) => Err(Rejected(self.count(Refused::Late(None), costs))),
            Err(refused) => Err(Rejected(self.count(refused, costs))),
        }
    }

    /// Takes these costs, and waits for its turn. Dropping the future gives the place up.
    ///
    /// # Errors
    /// As [`try_acquire`](Self::try_acquire); [`Rejection::RateLimited`] also if the turn would come later than
    /// `max_wait`.
    pub async fn acquire(&self, costs: [u32; N]) -> Result<Charge<N>, Rejected> {
        let refused = |refused| Rejected(self.count(refused, costs));
        match self
            .enter(costs, self.shared.max_wait, None)
            .map_err(refused)?
        {
            Entered::Now(charge) => Ok(charge),
            Entered::Later(mut place) => poll_fn(|cx| place.poll(cx)).await.map_err(refused),
        }
    }

    /// What is available, how many calls wait, and the rejections so far.
    #[must_use]
    pub fn snapshot(&self) -> QuotasSnapshot<N> {
        let shared = &*self.shared;
        let now = shared.now();
        let (available, waiting) =
            shared.with(|state| (state.core.available(now), state.core.waiting()));
        QuotasSnapshot {
            name: shared.name,
            available: if waiting == 0 { available } else { [0; N] },
            waiting,
            rate_limited: shared.rate_limited.get(),
            too_costly: shared.too_costly.get(),
        }
    }

    /// Adds an observer of the events of these quotas. It cannot be removed.
    pub fn observe(&self, observer: impl Observe + 'static) {
        self.shared.observers.add(Arc::new(observer));
    }

    /// Counts the events of these quotas through the facade `metrics` (feature `metrics`). The
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
    pub(crate) fn weak(&self) -> impl Fn() -> Option<QuotasSnapshot<N>> + Send + Sync + 'static {
        let shared = Arc::downgrade(&self.shared);
        move || {
            let shared = shared.upgrade()?;
            Some(Self { shared }.snapshot())
        }
    }

    pub(super) fn enter_by(
        &self,
        costs: [u32; N],
        deadline: Option<Deadline>,
    ) -> Result<Entered<N>, Rejection> {
        let entered = self.enter(costs, self.shared.max_wait, deadline);
        entered.map_err(|refused| self.reject(refused, costs))
    }

    fn enter(
        &self,
        costs: [u32; N],
        max_wait: u64,
        deadline: Option<Deadline>,
    ) -> Result<Entered<N>, Refused> {
        let now = self.shared.now();
        let mut latest = now.saturating_add(max_wait).min(END);
        if let Some(end) = deadline.and_then(|deadline| deadline.instant()) {
            // A turn at the very time of the deadline is too late.
            let end = self.shared.timeline.at(end).saturating_add(ORIGIN);
            latest = latest.min(end.saturating_sub(1));
        }
        let (number, found) = self
            .shared
            .with(|state| state.core.enter(costs, now, latest))?;
        let quotas = self.clone();
        Ok(match found {
            Found::Turn(_) => Entered::Now(Charge {
                quotas,
                costs,
                number: Some(number),
            }),
            _ => Entered::Later(Place {
                quotas,
                costs,
                number: Some(number),
                since: now,
                timer: None,
            }),
        })
    }

    fn count(&self, refused: Refused, costs: [u32; N]) -> Rejection {
        let by = self.shared.name;
        match refused {
            Refused::TooCostly(at) => {
                self.shared.too_costly.add();
                let burst = self.shared.quotas[at].rate().burst;
                Rejection::TooCostly {
                    cost: costs[at],
                    burst,
                    by,
                }
            }
            Refused::Late(wait) => {
                self.shared.rate_limited.add();
                let retry_after = wait.map(Duration::from_nanos);
                Rejection::RateLimited { retry_after, by }
            }
        }
    }

    /// Counts and reports a rejected call.
    pub(super) fn reject(&self, refused: Refused, costs: [u32; N]) -> Rejection {
        let rejection = self.count(refused, costs);
        let name = self.shared.name;
        self.shared.observers.tell(match rejection {
            Rejection::TooCostly { cost, burst, .. } => Event::TooCostly { name, cost, burst },
            _ => Event::RateLimited {
                name,
                cost: costs.into_iter().max().unwrap_or(0),
                retry_after: rejection.retry_after(),
            },
        });
        rejection
    }
}

pub(super) enum Entered<const N: usize> {
    Now(Charge<N>),
    Later(Place<N>),
}

impl<const N: usize> Shared<N> {
    fn now(&self) -> u64 {
        self.timeline.now().min(END - ORIGIN) + ORIGIN
    }

    /// Changes the state, and then wakes the calls that this concerns.
    fn with<T>(&self, act: impl FnOnce(&mut State<N>) -> T) -> T {
        let (result, woken) = {
            // Nothing panics under the lock, so a poisoned lock still guards valid data.
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let result = act(&mut state);
            let woken = state.core.woken().into_iter();
            let woken: Vec<_> = woken
                .filter_map(|call| state.wakers.remove(&call))
                .collect();
            (result, woken)
        };
        // Outside the lock: a waker is code of others.
        woken.into_iter().for_each(Waker::wake);
        result
    }
}

/// What a call took from [`Quotas`]. Dropping it leaves that as it is.
#[derive(Debug)]
pub struct Charge<const N: usize> {
    quotas: Quotas<N>,
    costs: [u32; N],
    /// `None` once it is settled.
    number: Option<u64>,
}

impl<const N: usize> Charge<N> {
    /// What was taken.
    #[must_use]
    pub const fn costs(&self) -> [u32; N] {
        self.costs
    }

    /// Corrects the costs, once they are known.
    ///
    /// What the call cost more is taken now: later calls wait for it. What it cost less is given back, except for what
    /// the quota would have lost anyway because it had all of its burst in the meantime. So the bound of each quota
    /// holds for what calls really cost, except for what they cost more than was taken.
    pub fn settle(mut self, real: [u32; N]) {
        self.close(real);
    }

    fn close(&mut self, real: [u32; N]) {
        if let Some(number) = self.number.take() {
            let shared = &*self.quotas.shared;
            let (costs, now) = (self.costs, shared.now());
            shared.with(|state| state.core.settle(number, costs, real, now));
        }
    }
}

impl<const N: usize> Drop for Charge<N> {
    fn drop(&mut self) {
        self.close(self.costs);
    }
}

/// A place in the queue. Dropping it gives the place up.
#[derive(Debug)]
pub struct Place<const N: usize> {
    quotas: Quotas<N>,
    pub(super) costs: [u32; N],
    /// `None` once the turn has come or is refused.
    number: Option<u64>,
    since: u64,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<const N: usize> Place<N> {
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Charge<N>, Refused>> {
        let number = self.number.expect(POLLED);
        loop {
            let shared = &*self.quotas.shared;
            let (now, waker) = (shared.now(), cx.waker().clone());
            let (found, _replaced) = shared.with(|state| {
                // Before the core is asked, so that this does not wake its own task.
                let replaced = state.wakers.remove(&number);
                let found = state.core.poll(number, now);
                if matches!(found, Found::Until(_)) {
                    state.wakers.insert(number, waker);
                }
                (found, replaced)
            });
            match found {
                Found::Until(at) => {
                    let at = shared.timeline.instant(at.saturating_sub(ORIGIN));
                    if self
                        .timer
                        .as_ref()
                        .is_none_or(|timer| timer.deadline() != at)
                    {
                        self.timer = Some(Box::pin(sleep_until(at)));
                    }
                    let timer = self.timer.as_mut().expect("it was set");
                    // Compare with the clock first: a task without cooperative budget cannot poll a timer.
                    if at > tokio::time::Instant::now() {
                        ready!(timer.as_mut().poll(cx));
                    }
                }
                Found::Turn(_) => {
                    self.number = None;
                    let wait = Duration::from_nanos(now.saturating_sub(self.since));
                    let name = shared.name;
                    let charge = Charge {
                        quotas: self.quotas.clone(),
                        costs: self.costs,
                        number: Some(number),
                    };
                    shared.observers.tell(Event::WaitedForTurn { name, wait });
                    return Poll::Ready(Ok(charge));
                }
                Found::Refused(refused) => {
                    self.number = None;
                    return Poll::Ready(Err(refused));
                }
            }
        }
    }
}

impl<const N: usize> Drop for Place<N> {
    fn drop(&mut self) {
        let Some(number) = self.number.take() else {
            return;
        };
        let shared = &*self.quotas.shared;
        let now = shared.now();
        let _removed = shared.with(|state| {
            state.core.leave(number, now);
            state.wakers.remove(&number)
        });
    }
}

const POLLED: &str = "a future must not be polled after it was ready";

/// Prints the quotas.
impl<const N: usize> fmt::Display for Quotas<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "quotas{}:", self.shared.name)?;
        for quota in &self.shared.quotas {
            write!(f, " {quota};")?;
        }
        let max_wait = Shown(Duration::from_nanos(self.shared.max_wait));
        write!(f, " waits up to {max_wait}")
    }
}

impl<const N: usize> fmt::Debug for Quotas<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Quotas").field(&self.snapshot()).finish()
    }
}
