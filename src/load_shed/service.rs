use super::limiter::{Entry, MAX_LIMIT};
use super::queue::{Queue, Ticket};
use crate::deadline::{Carrier, Deadline};
use crate::error::{InvalidConfig, Rejection, StackError};
use crate::held::{Held, Keep, Kept};
use crate::http::{CallEnd, UntilHead};
use crate::name::Name;
use crate::time::{Shown, poll_until};
use pin_project_lite::pin_project;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::thread::LocalKey;
use std::time::Duration;
use std::{fmt, mem};
use tokio::time::{Instant, Sleep};
use tower::{Layer, Service};
use tracing::Level;

/// Makes [`LoadShed`] services that share one limit. See the [module](super) for what it does.
///
/// The limit is made with the layer: every service that the layer makes, and every clone of the
/// layer and of its services, counts against the same one. Applying the layer is cheap.
#[derive(Clone)]
pub struct LoadShedLayer<D = (), U = UntilHead> {
    limit: InFlightLimit,
    carrier: D,
    until: U,
}

impl LoadShedLayer {
    /// At most this many calls in flight; the rest is rejected at once. Saturates at 2^24 − 1; 0
    /// rejects everything.
    #[must_use]
    pub fn new(max_in_flight: usize) -> Self {
        Self {
            limit: InFlightLimit::new(max_in_flight),
            carrier: (),
            until: UntilHead,
        }
    }

    /// As [`new`](Self::new), with more to set.
    pub fn builder(max_in_flight: usize) -> LoadShedBuilder {
        LoadShedBuilder {
            max_in_flight,
            queue: 0,
            max_wait: Duration::ZERO,
            carrier: (),
            name: Name::default(),
        }
    }
}

impl<D, U> LoadShedLayer<D, U> {
    /// When a call is over, and its slot free: [`UntilHead`] unless set; with the feature `http-body`
    /// a call can last until the end of its response's body.
    #[must_use]
    pub fn until<V>(self, until: V) -> LoadShedLayer<D, V> {
        LoadShedLayer {
            limit: self.limit,
            carrier: self.carrier,
            until,
        }
    }

    /// With a carrier of deadlines in place of the one it has.
    pub(crate) fn carried_by<L>(self, carrier: L) -> LoadShedLayer<L, U> {
        LoadShedLayer {
            limit: self.limit,
            carrier,
            until: self.until,
        }
    }

    /// The limit that all services of this layer share.
    #[must_use]
    pub fn limit(&self) -> &InFlightLimit {
        &self.limit
    }
}

impl<S, D: Clone, U: Clone> Layer<S> for LoadShedLayer<D, U> {
    type Service = LoadShed<S, D, U>;

    fn layer(&self, inner: S) -> Self::Service {
        LoadShed {
            inner,
            limit: self.limit.clone(),
            carrier: self.carrier.clone(),
            until: self.until.clone(),
            ready: Readiness::Unpolled,
        }
    }
}

/// As [`LoadShedLayer::new`].
impl From<usize> for LoadShedLayer {
    fn from(max_in_flight: usize) -> Self {
        Self::new(max_in_flight)
    }
}

/// Its settings, for people.
impl<D, U> fmt::Display for LoadShedLayer<D, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared {
            queue,
            max_wait,
            name,
        } = &*self.limit.shared;
        write!(f, "load shed{name}: {} in flight", queue.counts().limit)?;
        match queue.len() {
            0 => Ok(()),
            _ if max_wait.is_zero() => Ok(()),
            len => write!(f, ", {len} more wait up to {}", Shown(*max_wait)),
        }
    }
}

impl<D, U> fmt::Debug for LoadShedLayer<D, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadShedLayer")
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

/// Builds a [`LoadShedLayer`].
#[derive(Clone)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct LoadShedBuilder<D = ()> {
    max_in_flight: usize,
    queue: usize,
    max_wait: Duration,
    carrier: D,
    name: Name,
}

impl<D> LoadShedBuilder<D> {
    /// Lets up to `len` calls wait their turn, in order of arrival, each for `max_wait` at most
    /// from its call. Default: none waits.
    pub fn queue(mut self, len: usize, max_wait: Duration) -> Self {
        self.queue = len;
        self.max_wait = max_wait;
        self
    }

    /// Where calls carry their deadline. They wait in the queue to there at most. Default: `()`,
    /// nowhere.
    pub fn deadline<L>(self, carrier: L) -> LoadShedBuilder<L> {
        LoadShedBuilder {
            max_in_flight: self.max_in_flight,
            queue: self.queue,
            max_wait: self.max_wait,
            carrier,
            name: self.name,
        }
    }

    /// The name in events, snapshots and `Debug`. Default: none.
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = Name::new(name);
        self
    }

    /// The layer, with a limit of its own.
    ///
    /// # Errors
    /// `max_in_flight` above 2^24 − 1, `queue` above 65 535.
    pub fn build(self) -> Result<LoadShedLayer<D>, InvalidConfig> {
        if self.max_in_flight > MAX_LIMIT {
            return Err(InvalidConfig::new(
                "max_in_flight",
                self.max_in_flight,
                "at most 16777215",
            ));
        }
        let len = u16::try_from(self.queue)
            .map_err(|_| InvalidConfig::new("queue", self.queue, "at most 65535"))?;
        let queue = Queue::new(self.max_in_flight, len);
        let shared = Shared {
            queue,
            max_wait: self.max_wait,
            name: self.name,
        };
        Ok(LoadShedLayer {
            limit: InFlightLimit {
                shared: Arc::new(shared),
            },
            carrier: self.carrier,
            until: UntilHead,
        })
    }
}

impl<D> fmt::Debug for LoadShedBuilder<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadShedBuilder")
            .field("max_in_flight", &self.max_in_flight)
            .field("queue", &self.queue)
            .field("max_wait", &self.max_wait)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A limit on calls in flight, shared by all its clones. Usable without Tower and without a
/// runtime.
///
/// ```
/// use buttress::{Rejection, load_shed::InFlightLimit};
///
/// let limit = InFlightLimit::new(1);
/// let slot = limit.try_acquire()?;
/// assert_eq!(limit.try_acquire().unwrap_err(), Rejection::Overloaded { limit: 1 });
/// drop(slot);
/// assert_eq!(limit.in_flight(), 0);
/// # Ok::<(), Rejection>(())
/// ```
#[derive(Clone)]
pub struct InFlightLimit {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    queue: Queue,
    max_wait: Duration,
    name: Name,
}

impl Keep for Shared {
    fn kept() -> &'static LocalKey<Kept<Self>> {
        thread_local!(static KEPT: Kept<Shared> = Kept::new());
        &KEPT
    }
}

impl InFlightLimit {
    /// At most this many slots. Saturates at 2^24 − 1; 0 grants none.
    #[must_use]
    pub fn new(max_in_flight: usize) -> Self {
        let queue = Queue::new(max_in_flight, 0);
        let shared = Shared {
            queue,
            max_wait: Duration::ZERO,
            name: Name::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Takes a slot, held until the [`Slot`] is dropped. Never waits, and never overtakes a caller
    /// that does.
    ///
    /// # Errors
    /// [`Rejection::Overloaded`] if no slot is free.
    pub fn try_acquire(&self) -> Result<Slot, Rejection> {
        if self.shared.queue.try_acquire() {
            Ok(self.slot())
        } else {
            Err(self.overloaded())
        }
    }

    /// How many slots are taken.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.shared.queue.counts().in_flight as usize
    }

    /// Changes the limit, saturating at 2^24 − 1. Slots already taken above it stay valid; a raised
    /// limit lets waiting calls go.
    pub fn set_limit(&self, max_in_flight: usize) {
        self.shared.queue.set_limit(max_in_flight);
    }

    /// Limit, slots taken and calls waiting, as they were at one moment.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let counts = self.shared.queue.counts();
        Snapshot {
            name: self.shared.name.clone(),
            limit: counts.limit as usize,
            in_flight: counts.in_flight as usize,
            waiting: usize::from(counts.waiting),
        }
    }

    #[inline]
    fn slot(&self) -> Slot {
        Slot {
            shared: Held::of(&self.shared),
        }
    }

    fn overloaded(&self) -> Rejection {
        Rejection::Overloaded {
            limit: self.shared.queue.counts().limit as usize,
        }
    }

    /// A slot, if one is free and nobody waits.
    #[inline]
    fn take(&self) -> Option<Slot> {
        self.shared.queue.try_acquire().then(|| self.slot())
    }

    /// A slot, a place in the queue, or neither.
    #[cold]
    fn enter(&self, deadline: Option<Deadline>) -> Turn {
        // Without the queue's lock where nobody waits, and none where nobody may.
        if let Some(slot) = self.take() {
            return Turn::Now(slot);
        }
        if self.shared.queue.len() == 0 || self.shared.max_wait.is_zero() {
            return Turn::None(FULL);
        }
        if deadline.is_some_and(|deadline| deadline.remaining().is_zero()) {
            return Turn::None(DEADLINE);
        }
        match self.shared.queue.enter() {
            (_, Some(ticket)) => {
                let now = Instant::now();
                let own = Deadline::from(now, self.shared.max_wait);
                let found = deadline.filter(|deadline| *deadline < own);
                let wait = Wait {
                    limit: self.clone(),
                    ticket,
                    redeemed: false,
                    to_deadline: found.is_some(),
                };
                Turn::Later(wait, found.unwrap_or(own).end(now))
            }
            (Entry::Admitted, None) => Turn::Now(self.slot()),
            (_, None) => Turn::None(FULL),
        }
    }

    /// What a call that came now would find.
    #[inline]
    fn occupancy(&self) -> Occupancy {
        let counts = self.shared.queue.counts();
        if counts.in_flight < counts.limit && counts.waiting == 0 {
            Occupancy::Free
        } else if counts.waiting < self.shared.queue.len() && !self.shared.max_wait.is_zero() {
            Occupancy::Queue
        } else {
            Occupancy::Full
        }
    }
}

impl Shared {
    /// Tells of a rejection; gives the limit for it.
    #[cold]
    fn reject(&self, reason: &'static str) -> usize {
        let limit = self.queue.counts().limit;
        tracing::event!(
            name: "overloaded",
            target: "buttress::load_shed",
            Level::DEBUG,
            name = self.name.get(),
            reason,
            limit,
            "overloaded"
        );
        limit as usize
    }
}

impl fmt::Debug for InFlightLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let snapshot = self.snapshot();
        f.debug_struct("InFlightLimit")
            .field("name", &snapshot.name)
            .field("limit", &snapshot.limit)
            .field("in_flight", &snapshot.in_flight)
            .field("waiting", &snapshot.waiting)
            .finish()
    }
}

enum Occupancy {
    Free,
    Queue,
    Full,
}

enum Turn {
    Now(Slot),
    /// With the end of the wait; `None` never ends.
    Later(Wait, Option<Instant>),
    /// Why not.
    None(&'static str),
}

/// A slot of an [`InFlightLimit`]. Dropping it gives the slot back.
#[derive(Debug)]
#[must_use = "dropping a slot gives it back at once"]
pub struct Slot {
    shared: Held<Shared>,
}

impl Drop for Slot {
    #[inline]
    fn drop(&mut self) {
        if self.shared.is_taken() {
            return;
        }
        self.shared.queue.release();
    }
}

impl Slot {
    /// The slot, for somebody else to give back; what is left in its place is none.
    fn take(&mut self) -> Self {
        Self {
            shared: self.shared.take(),
        }
    }
}

/// A place in the queue. Dropping it gives the place up.
struct Wait {
    limit: InFlightLimit,
    ticket: Ticket,
    redeemed: bool,
    /// Whether it ends with the call's deadline, before `max_wait` is over.
    to_deadline: bool,
}

impl Wait {
    fn poll_slot(&mut self, cx: &Context<'_>) -> Poll<Slot> {
        ready!(self.limit.shared.queue.poll_turn(self.ticket, cx));
        self.redeemed = true;
        Poll::Ready(self.limit.slot())
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if !self.redeemed {
            self.limit.shared.queue.leave(self.ticket);
        }
    }
}

/// What an [`InFlightLimit`] holds, as it was at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    name: Name,
    /// How many calls may be in flight.
    pub limit: usize,
    /// How many are; above the limit for a while after it was lowered.
    pub in_flight: usize,
    /// How many wait in the queue.
    pub waiting: usize,
}

impl Snapshot {
    /// The name given to the layer.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.get()
    }
}

/// The service that [`LoadShedLayer`] makes.
pub struct LoadShed<S, D = (), U = UntilHead> {
    inner: S,
    limit: InFlightLimit,
    carrier: D,
    until: U,
    ready: Readiness,
}

#[derive(Clone, Copy, Debug)]
enum Readiness {
    Unpolled,
    /// Why the call will be rejected: the inner service was not readied.
    Rejecting(&'static str),
    /// The inner service was not readied, but the call may wait for a slot.
    Queueing,
    Ready,
}

impl<S: Clone, D: Clone, U: Clone> Clone for LoadShed<S, D, U> {
    /// The clone is not ready.
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            limit: self.limit.clone(),
            carrier: self.carrier.clone(),
            until: self.until.clone(),
            ready: Readiness::Unpolled,
        }
    }
}

impl<S: fmt::Debug, D, U> fmt::Debug for LoadShed<S, D, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadShed")
            .field("inner", &self.inner)
            .field("limit", &self.limit)
            .field("ready", &self.ready)
            .finish_non_exhaustive()
    }
}

impl<S, D, U, Req> Service<Req> for LoadShed<S, D, U>
where
    S: Service<Req> + Clone,
    S::Error: StackError,
    D: Carrier<Req>,
    U: CallEnd<S::Response>,
{
    type Response = U::Response<Slot>;
    type Error = S::Error;
    type Future = LoadShedFuture<S, Req, U>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.ready = match self.limit.occupancy() {
            Occupancy::Full => Readiness::Rejecting(FULL),
            Occupancy::Queue => Readiness::Queueing,
            Occupancy::Free => match self.inner.poll_ready(cx) {
                Poll::Ready(Ok(())) => Readiness::Ready,
                Poll::Ready(Err(error)) => {
                    self.ready = Readiness::Unpolled;
                    return Poll::Ready(Err(error));
                }
                Poll::Pending => {
                    // This instance must not stand in line inside and capture what is freed next:
                    // it will not be polled when that happens.
                    self.inner = self.inner.clone();
                    Readiness::Rejecting(NOT_READY)
                }
            },
        };
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn call(&mut self, req: Req) -> Self::Future {
        // The future is built right here, of words: were it made by a function that is not inlined,
        // it would be in memory, and copied from there each time it is moved.
        let ready = mem::replace(&mut self.ready, Readiness::Unpolled);
        if let Readiness::Ready = ready {
            if let Some(slot) = self.limit.take() {
                return LoadShedFuture {
                    state: State::Calling {
                        call: self.inner.call(req),
                        slot,
                    },
                    until: PhantomData,
                };
            }
        }
        let turn = match ready {
            Readiness::Unpolled => panic!("poll_ready must be called before call"),
            Readiness::Rejecting(reason) => Turn::None(reason),
            Readiness::Queueing | Readiness::Ready => self.limit.enter(self.carrier.get(&req)),
        };
        let state = match turn {
            // A slot that was freed in between.
            Turn::Now(slot) if matches!(ready, Readiness::Ready) => State::Calling {
                call: self.inner.call(req),
                slot,
            },
            // The readied instance, if any, stays with the caller.
            Turn::Now(slot) => State::Readying {
                next: Some((self.inner.clone(), req, slot)),
            },
            Turn::Later(wait, end) => State::Waiting {
                wait,
                end,
                sleep: None,
                next: Some((self.inner.clone(), req)),
            },
            Turn::None(reason) => State::Rejected {
                limit: self.limit.shared.reject(reason),
            },
        };
        LoadShedFuture {
            state,
            until: PhantomData,
        }
    }
}

fn overloaded<E: StackError>(limit: usize) -> E {
    E::reject(Rejection::Overloaded { limit })
}

const FULL: &str = "full";
const NOT_READY: &str = "inner_not_ready";
const WAITED: &str = "waited_too_long";
const DEADLINE: &str = "deadline";

pin_project! {
    /// The future of a [`LoadShed`] call.
    #[must_use = "futures do nothing unless polled"]
    pub struct LoadShedFuture<S, Req, U = UntilHead>
    where
        S: Service<Req>,
    {
        #[pin]
        state: State<S, Req>,
        until: PhantomData<fn() -> U>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, Req>
    where
        S: Service<Req>,
    {
        Waiting {
            wait: Wait,
            end: Option<Instant>,
            #[pin]
            sleep: Option<Sleep>,
            next: Option<(S, Req)>,
        },
        Readying { next: Option<(S, Req, Slot)> },
        // The slot comes last, and so outlives the call when both are dropped.
        Calling {
            #[pin]
            call: S::Future,
            slot: Slot,
        },
        Rejected { limit: usize },
        Done,
    }
}

impl<S, Req, U> Future for LoadShedFuture<S, Req, U>
where
    S: Service<Req>,
    S::Error: StackError,
    U: CallEnd<S::Response>,
{
    type Output = Result<U::Response<Slot>, S::Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        let mut held = None;
        let answer = loop {
            match state.as_mut().project() {
                StateProj::Calling { call, slot } => {
                    let answer = ready!(call.poll(cx));
                    if answer.as_ref().is_ok_and(U::goes_on) {
                        held = Some(slot.take());
                    }
                    break answer;
                }
                StateProj::Rejected { limit } => return Poll::Ready(Err(overloaded(*limit))),
                _ => {
                    if let Err(error) = ready!(state.as_mut().poll_turn(cx)) {
                        break Err(error);
                    }
                }
            }
        };
        // Before the caller sees the answer: the slot is free by then.
        state.set(State::Done);
        Poll::Ready(answer.map(|res| U::hold(res, held)))
    }
}

impl<S, Req> State<S, Req>
where
    S: Service<Req>,
    S::Error: StackError,
{
    /// Takes a call that does not go at once one state further.
    #[cold]
    fn poll_turn(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        let next = match self.as_mut().project() {
            // The slot first: when the turn and the end of the wait have both come, it wins.
            StateProj::Waiting {
                wait,
                end,
                sleep,
                next,
            } => match wait.poll_slot(cx) {
                Poll::Ready(slot) => {
                    let (service, req) = next.take().expect(POLLED);
                    State::Readying {
                        next: Some((service, req, slot)),
                    }
                }
                Poll::Pending => {
                    // None: the clock cannot count as far, so the wait never ends.
                    let Some(end) = end else { return Poll::Pending };
                    ready!(poll_until(sleep, *end, cx));
                    let reason = if wait.to_deadline { DEADLINE } else { WAITED };
                    return Poll::Ready(Err(overloaded(wait.limit.shared.reject(reason))));
                }
            },
            StateProj::Readying { next } => {
                let (mut service, req, slot) = next.take().expect(POLLED);
                match service.poll_ready(cx) {
                    Poll::Ready(Ok(())) => State::Calling {
                        call: service.call(req),
                        slot,
                    },
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {
                        return Poll::Ready(Err(overloaded(slot.shared.reject(NOT_READY))));
                    }
                }
            }
            StateProj::Calling { .. } | StateProj::Rejected { .. } | StateProj::Done => {
                panic!("{POLLED}")
            }
        };
        self.set(next);
        Poll::Ready(Ok(()))
    }
}

const POLLED: &str = "a future must not be polled after it was ready";

impl<S: Service<Req>, Req, U> fmt::Debug for LoadShedFuture<S, Req, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadShedFuture").finish_non_exhaustive()
    }
}
