//! Ends calls that take too long, waiting for the inner service included.
//!
//! Use it twice: outermost as the deadline of the whole call, retries and waits included; innermost
//! as the limit of one attempt. Do not use it to bound the reading of a body: a call ends when the
//! response head arrives.
//!
//! ```
//! use buttress::{Error, ErrorLayer, Rejection, TimeoutLayer};
//! use std::{convert::Infallible, future::pending, time::Duration};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
//! let after = Duration::from_millis(20);
//! let service = ServiceBuilder::new()
//!     .layer(TimeoutLayer::new(after))
//!     .layer(ErrorLayer)
//!     .service(service_fn(|()| pending::<Result<(), Infallible>>()));
//!
//! let outcome = service.oneshot(()).await;
//! assert!(matches!(outcome, Err(Error::Rejected(Rejection::TimedOut { .. }))));
//! # }
//! ```
//!
//! | setting | setter | default |
//! |---|---|---|
//! | the time a call may take, from the first poll that finds it unfinished (from the call, with a carrier), less what its caller waited for readiness | `new`, `builder` | required |
//! | where requests carry their [deadline](crate::deadline) | `carrier` | `()`: nowhere |
//! | name in events and `Debug` | `name` | unnamed |
//!
//! `Duration::MAX` never times out; `Duration::ZERO` does at the first poll that is pending or, with a
//! carrier and another timeout below that is given it, at once.
//!
//! **It covers queueing.** While the inner service is not ready the clock runs. Once it is, the
//! call gets what is left, however long it is then kept idle. If the time runs out first,
//! `poll_ready` says ready and the call that follows is rejected, without touching the inner
//! service. Whoever takes over an instance whose caller left gets the whole time if that caller's
//! ran out more than one timeout ago, and what is left of it otherwise; each clone starts afresh.
//! Drop an instance that you stop polling: what it has reserved inside stays reserved until it is
//! polled, called or dropped.
//!
//! **The deadline travels** with the request if the builder is given a carrier, such as
//! [`InExtensions`](crate::http::InExtensions). The timeout leaves its own, unless it finds an earlier
//! one: then it keeps to that, and a call that comes when it has passed is rejected without touching
//! the inner service. So an attempt gets its own timeout or what remains of the whole call,
//! whichever is less, and a caller may give one call less time than the layers do. What has to be
//! left in the request has to be known when it is called, so the clock is read then. The layers that
//! heed a deadline are listed in [`deadline`](crate::deadline).
//!
//! **Which timeout goes where.** They nest, each below the one before it:
//!
//! | it bounds | where it is set | what it should be |
//! |---|---|---|
//! | the whole call, to the response head | outermost: this layer, with a carrier | what the caller can wait: less than its own deadline |
//! | an attempt | innermost: this layer, with the same carrier | above the slowest good answers, such that two fit into the whole call |
//! | waits for a turn or a slot | `max_wait` of rate limit and load shed | a part of an attempt; the deadline cuts them short |
//! | connecting | the client: hyper's `HttpConnector::set_connect_timeout`, reqwest's `connect_timeout` | a few round trips: far less than an attempt, of which it is part |
//! | reading the body | the client or the code that reads: tokio's `timeout` around it, reqwest's `read_timeout` between two reads | by its size; this layer's calls have ended by then |
//! | the server's work | the server, by a layer of its own | less than what its callers wait, or it works for nobody; pass its deadline on to the calls it makes |
//!
//! **Ties.** An answer and the timer due in one poll: the answer. Readiness with no time left: the
//! timeout, since the call could not be waited for.
//!
//! **Cancellation.** Dropping the future drops the inner one. On a timeout the inner future is
//! dropped before the error is returned, so what it held is free when the caller sees the error.
//!
//! **Place.** Outermost and innermost; see the order of layers in the crate's documentation.
//!
//! **Errors.** [`Rejection::TimedOut`], which circuit breaker and retry judge as
//! [`Verdict::Transient`](crate::Verdict::Transient); [`Rejection::DeadlinePassed`] where an earlier
//! deadline of the request's ended the call, which they do not hold against the callee. The inner
//! service's errors pass unchanged, but for a `DeadlinePassed` by the very deadline that this
//! timeout set: that is its own `TimedOut`.
//!
//! **Events**, target `buttress::timeout`, at DEBUG: `timed_out` with `name` and `after_ms`;
//! `deadline_passed` with `name`.
//!
//! Needs a tokio runtime with time enabled once something has to be waited for.

use crate::deadline::{Carrier, Deadline};
use crate::error::{InvalidConfig, Rejection, StackError};
use crate::event::Event;
use crate::name::Name;
use crate::time::{self, nanos};
use crate::verdict::ended_by_deadline;
use pin_project_lite::pin_project;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use std::{fmt, mem};
use tokio::time::{Instant, Sleep, sleep_until};
use tower::{Layer, Service};

/// Makes [`Timeout`] services. See the [module](self) for what it does.
///
/// It holds no state: every service, and every clone, times its own calls.
#[derive(Clone, Copy)]
pub struct TimeoutLayer<K = ()> {
    settings: TimeoutSettings,
    carrier: K,
    /// Whether a timeout that a request carries takes the place of the layer's.
    per_request: bool,
}

/// The settings of a [`TimeoutLayer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeoutSettings {
    /// How long a call may take.
    pub after: Duration,
    /// The name in errors, events and `Debug`.
    pub name: Name,
}

impl TimeoutSettings {
    /// Calls may take this long.
    #[must_use]
    pub const fn new(after: Duration) -> Self {
        Self {
            after,
            name: Name::UNNAMED,
        }
    }

    /// Whether a layer can be built with these settings.
    ///
    /// # Errors
    /// None today: every duration is valid.
    pub fn check(&self) -> Result<(), InvalidConfig> {
        Ok(())
    }
}

impl TimeoutLayer {
    /// Calls may take this long.
    #[must_use]
    pub const fn new(after: Duration) -> Self {
        Self {
            settings: TimeoutSettings::new(after),
            carrier: (),
            per_request: false,
        }
    }

    /// As [`new`](Self::new), with more to set.
    pub const fn builder(after: Duration) -> TimeoutBuilder {
        TimeoutBuilder {
            settings: TimeoutSettings::new(after),
            carrier: (),
            per_request: false,
        }
    }
}

impl<S, K: Clone> Layer<S> for TimeoutLayer<K> {
    type Service = Timeout<S, K>;

    fn layer(&self, inner: S) -> Self::Service {
        Timeout {
            inner,
            layer: self.clone(),
            waited: Waited::Nothing,
            timer: None,
        }
    }
}

impl<K> fmt::Debug for TimeoutLayer<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimeoutLayer")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// Prints the settings, for people.
impl<K> fmt::Display for TimeoutLayer<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TimeoutSettings { after, name } = self.settings;
        write!(f, "timeout{name}: {}", time::Shown(after))
    }
}

/// Builds a [`TimeoutLayer`].
#[derive(Clone, Copy, Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct TimeoutBuilder<K = ()> {
    settings: TimeoutSettings,
    carrier: K,
    per_request: bool,
}

impl<K> TimeoutBuilder<K> {
    /// Where requests carry their deadline. Default: `()`, nowhere.
    pub fn carrier<L>(self, carrier: L) -> TimeoutBuilder<L> {
        TimeoutBuilder {
            settings: self.settings,
            carrier,
            per_request: self.per_request,
        }
    }

    /// Lets a request carry a timeout of its own that takes the place of this one, where the carrier
    /// finds one ([`Carrier::timeout`]). For the timeout of an attempt. Default: off.
    pub fn per_request(mut self) -> Self {
        self.per_request = true;
        self
    }

    /// The name in errors, events and `Debug`. Default: none.
    pub fn name(mut self, name: impl Into<Name>) -> Self {
        self.settings.name = name.into();
        self
    }

    /// Replaces all settings.
    pub fn settings(mut self, settings: TimeoutSettings) -> Self {
        self.settings = settings;
        self
    }

    /// The layer.
    ///
    /// # Errors
    /// None today: every duration is valid.
    pub fn build(self) -> Result<TimeoutLayer<K>, InvalidConfig> {
        self.settings.check()?;
        Ok(TimeoutLayer {
            settings: self.settings,
            carrier: self.carrier,
            per_request: self.per_request,
        })
    }
}

/// The service that [`TimeoutLayer`] makes.
pub struct Timeout<S, K = ()> {
    inner: S,
    layer: TimeoutLayer<K>,
    waited: Waited,
    /// Wakes who waits for readiness.
    timer: Option<Pin<Box<Sleep>>>,
}

/// How long the caller has waited for readiness.
#[derive(Clone, Copy, Debug)]
enum Waited {
    Nothing,
    /// The caller waits since then. A call in this state comes after the time ran out.
    Since(Instant),
    /// The inner service became ready with this much left.
    Left(Duration),
}

impl<S, K> Timeout<S, K> {
    /// Ready once the time has run out.
    fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let now = Instant::now();
        let since = match self.waited {
            Waited::Since(since) if !self.left_behind(now, since) => since,
            _ => {
                self.waited = Waited::Since(now);
                self.timer = None;
                now
            }
        };
        match time::later(since, self.layer.settings.after) {
            Some(end) => time::poll_until(&mut self.timer, end, cx),
            None => Poll::Pending,
        }
    }

    /// Ends a wait. With no time left it stays as it is, and the call is rejected.
    fn end_wait(&mut self, since: Instant) {
        self.timer = None;
        let now = Instant::now();
        if self.left_behind(now, since) {
            self.waited = Waited::Nothing;
            return;
        }
        let waited = now.saturating_duration_since(since);
        let left = self.layer.settings.after.saturating_sub(waited);
        if !left.is_zero() {
            self.waited = Waited::Left(left);
        }
    }

    /// Whether the time ran out so long ago that the caller who waited must have left.
    fn left_behind(&self, now: Instant, since: Instant) -> bool {
        let after = self.layer.settings.after;
        now.saturating_duration_since(since).saturating_sub(after) > after
    }
}

impl<S: Clone, K: Clone> Clone for Timeout<S, K> {
    /// The clone has not waited yet.
    fn clone(&self) -> Self {
        self.layer.layer(self.inner.clone())
    }
}

impl<S: fmt::Debug, K> fmt::Debug for Timeout<S, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timeout")
            .field("inner", &self.inner)
            .field("layer", &self.layer)
            .field("waited", &self.waited)
            .finish_non_exhaustive()
    }
}

impl<S, K, Req> Service<Req> for Timeout<S, K>
where
    S: Service<Req>,
    S::Error: StackError,
    K: Carrier<Req>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = TimeoutFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        match self.inner.poll_ready(cx) {
            Poll::Ready(readied) => {
                if let Waited::Since(since) = self.waited {
                    self.end_wait(since);
                }
                Poll::Ready(readied)
            }
            Poll::Pending => self.poll_wait(cx).map(Ok),
        }
    }

    fn call(&mut self, mut req: Req) -> Self::Future {
        let waited = mem::replace(&mut self.waited, Waited::Nothing);
        let limit = if K::CARRIES {
            self.carried_limit(waited, &mut req)
        } else {
            self.limit(waited)
        };
        match limit {
            Ok(limit) => TimeoutFuture {
                state: State::Calling {
                    call: self.inner.call(req),
                    limit,
                },
            },
            Err(rejection) => TimeoutFuture {
                state: State::OutOfTime { rejection },
            },
        }
    }
}

impl<S, K> Timeout<S, K> {
    /// The limit of a call without a carrier, or why it must not be made.
    fn limit(&self, waited: Waited) -> Result<Limit, Rejection> {
        let TimeoutSettings { after, name: by } = self.layer.settings;
        let length = match waited {
            Waited::Nothing => after,
            Waited::Left(left) => left,
            Waited::Since(_) => return Err(Rejection::TimedOut { after, by }),
        };
        Ok(Limit {
            after: nanos(after),
            by,
            clock: Clock::NotStarted(nanos(length)),
        })
    }

    /// The limit of a call whose request carries its deadline, or why it must not be made.
    fn carried_limit<Req>(&self, waited: Waited, req: &mut Req) -> Result<Limit, Rejection>
    where
        K: Carrier<Req>,
    {
        let TimeoutSettings {
            after: whole,
            name: by,
        } = self.layer.settings;
        let asked = self.layer.carrier.timeout(req);
        let after = asked.filter(|_| self.layer.per_request).unwrap_or(whole);
        let now = Instant::now();
        let own = match waited {
            Waited::Nothing => Deadline::from(now, after),
            // What the wait took is taken off the request's own timeout, too.
            Waited::Left(left) => {
                let waited = whole.saturating_sub(left);
                Deadline::from(now, after.saturating_sub(waited))
            }
            Waited::Since(since) => Deadline::from(since, whole),
        };
        let found = self.layer.carrier.get(req).filter(|found| *found < own);
        if let Some(found) = found {
            if found.rules_out(now, Duration::ZERO) {
                return Err(Rejection::DeadlinePassed { by });
            }
        }
        if let Waited::Since(_) = waited {
            return Err(Rejection::TimedOut { after: whole, by });
        }
        if found.is_none() && own != Deadline::NEVER {
            self.layer.carrier.set(req, own);
        }
        Ok(Limit {
            after: found.map_or(nanos(after), |_| FOUND),
            by,
            clock: match found.unwrap_or(own).end(now) {
                Some(end) => Clock::Carried(end),
                None => Clock::Never,
            },
        })
    }
}

/// In place of a timeout where the request carries an earlier deadline. (A timeout of this length
/// never runs out.)
const FOUND: u64 = u64::MAX;

/// How long a call may take, and who says so.
struct Limit {
    /// The timeout in nanoseconds, or [`FOUND`].
    after: u64,
    by: Name,
    clock: Clock,
}

/// The clock of a call. Without a carrier it starts at the first poll that is pending: a call whose
/// response is there at once reads no clock.
enum Clock {
    /// With so many nanoseconds to run.
    NotStarted(u64),
    /// The request carries this deadline, be it the timeout's own or an earlier one.
    Carried(Instant),
    /// As `Carried`, with a timer that runs.
    CarriedRuns(Pin<Box<Sleep>>),
    Runs(Pin<Box<Sleep>>),
    Never,
}

pin_project! {
    /// The future of a [`Timeout`] call.
    #[must_use = "futures do nothing unless polled"]
    pub struct TimeoutFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F> {
        Calling {
            #[pin]
            call: F,
            limit: Limit,
        },
        OutOfTime { rejection: Rejection },
        Done,
    }
}

impl<F, Res, E> Future for TimeoutFuture<F>
where
    F: Future<Output = Result<Res, E>>,
    E: StackError,
{
    type Output = Result<Res, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        let rejection = match state.as_mut().project() {
            StateProj::Calling { call, limit } => match call.poll(cx) {
                // The response wins when both are due.
                Poll::Ready(outcome) => match outcome {
                    // The inner layers were given this deadline, so its end is this timeout's own.
                    Err(error) if ended_by_deadline(&error) && limit.carried_ran_out() => {
                        limit.rejection()
                    }
                    outcome => {
                        if limit.clock.timer().is_some() {
                            // What the call held is free, and the timer wakes nobody any more.
                            state.set(State::Done);
                        }
                        return Poll::Ready(outcome);
                    }
                },
                Poll::Pending => {
                    ready!(limit.poll(cx));
                    limit.rejection()
                }
            },
            StateProj::OutOfTime { rejection } => *rejection,
            StateProj::Done => panic!("a future must not be polled after it was ready"),
        };
        // The inner future is dropped before the caller sees the error.
        state.set(State::Done);
        tell(rejection);
        Poll::Ready(Err(E::reject(rejection)))
    }
}

impl Limit {
    /// Ready when the call is out of time.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let now = Instant::now();
        let end = match &self.clock {
            Clock::NotStarted(length) => time::later(now, Duration::from_nanos(*length)),
            Clock::Carried(end) => Some(*end),
            Clock::Runs(timer) | Clock::CarriedRuns(timer) => Some(timer.deadline()),
            Clock::Never => None,
        };
        let Some(end) = end else {
            self.clock = Clock::Never;
            return Poll::Pending;
        };
        // By the clock first: a task that has used up its cooperative budget cannot poll a timer,
        // not even to register it.
        if end <= now {
            return Poll::Ready(());
        }
        match self.clock {
            Clock::NotStarted(_) => self.clock = Clock::Runs(Box::pin(sleep_until(end))),
            Clock::Carried(_) => self.clock = Clock::CarriedRuns(Box::pin(sleep_until(end))),
            _ => {}
        }
        match self.clock.timer() {
            Some(timer) => timer.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }

    /// Whether the deadline that this timeout left in the request has passed.
    fn carried_ran_out(&self) -> bool {
        let end = match &self.clock {
            Clock::Carried(end) => *end,
            Clock::CarriedRuns(timer) => timer.deadline(),
            _ => return false,
        };
        self.after != FOUND && end <= Instant::now()
    }

    fn rejection(&self) -> Rejection {
        let by = self.by;
        if self.after == FOUND {
            Rejection::DeadlinePassed { by }
        } else {
            let after = Duration::from_nanos(self.after);
            Rejection::TimedOut { after, by }
        }
    }
}

impl Clock {
    fn timer(&mut self) -> Option<&mut Pin<Box<Sleep>>> {
        match self {
            Self::Runs(timer) | Self::CarriedRuns(timer) => Some(timer),
            _ => None,
        }
    }
}

fn tell(rejection: Rejection) {
    match rejection {
        Rejection::TimedOut { after, by } => Event::TimedOut { name: by, after }.emit(),
        _ => Event::DeadlinePassed {
            name: rejection.by(),
        }
        .emit(),
    }
}

impl<F> fmt::Debug for TimeoutFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimeoutFuture").finish_non_exhaustive()
    }
}
