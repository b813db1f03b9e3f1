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
//! assert_eq!(service.oneshot(()).await, Err(Error::Rejected(Rejection::TimedOut { after })));
//! # }
//! ```
//!
//! | setting | setter | default |
//! |---|---|---|
//! | the time a call may take, from the first poll that finds it unfinished (from the call, with a carrier), less what its caller waited for readiness | `new`, `builder` | none: it is asked for |
//! | where requests carry their [deadline](crate::deadline) | `deadline` | `()`: nowhere |
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
//! **Timers are kept.** Most calls end before their time is up. The timer that such a call leaves is
//! kept by the thread, still registered, for the next call there that takes about as long, up to a
//! minute: so calls do without the lock that all threads of a runtime share for its timers. The first
//! waits of a thread allocate, as many as it has at once; it keeps 1024 timers of about one length at
//! most. They wake nobody and hold nothing of a call, but their runtime's handle, until the thread
//! works for another runtime or ends. None is kept registered that was made while the clock was
//! paused: a paused clock would run on to where it is due.
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

use crate::classify::ended_by_deadline;
use crate::deadline::{Carrier, Deadline};
use crate::error::{InvalidConfig, Rejection, StackError};
use crate::name::Name;
use crate::time;
use crate::timer::Timer;
use pin_project_lite::pin_project;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use std::{fmt, mem};
use tokio::time::Instant;
use tower::{Layer, Service};
use tracing::Level;

/// Makes [`Timeout`] services. See the [module](self) for what it does.
///
/// It holds no state: every service, and every clone, times its own calls.
#[derive(Clone)]
pub struct TimeoutLayer<D = ()> {
    after: Duration,
    name: Name,
    carrier: D,
}

impl TimeoutLayer {
    /// Calls may take this long.
    #[must_use]
    pub fn new(after: Duration) -> Self {
        Self {
            after,
            name: Name::default(),
            carrier: (),
        }
    }

    /// As [`new`](Self::new), with more to set.
    pub fn builder(after: Duration) -> TimeoutBuilder {
        TimeoutBuilder {
            layer: Self::new(after),
        }
    }
}

impl<D> TimeoutLayer<D> {
    /// With a carrier of deadlines in place of the one it has.
    pub(crate) fn carried_by<L>(self, carrier: L) -> TimeoutLayer<L> {
        TimeoutLayer {
            after: self.after,
            name: self.name,
            carrier,
        }
    }
}

impl<S, D: Clone> Layer<S> for TimeoutLayer<D> {
    type Service = Timeout<S, D>;

    fn layer(&self, inner: S) -> Self::Service {
        Timeout {
            inner,
            layer: self.clone(),
            waited: Waited::Nothing,
            timer: Timer::new(self.after),
        }
    }
}

impl<D> fmt::Debug for TimeoutLayer<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimeoutLayer")
            .field("after", &self.after)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Its settings, for people.
impl<D> fmt::Display for TimeoutLayer<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "timeout{}: {}", self.name, time::Shown(self.after))
    }
}

/// Builds a [`TimeoutLayer`].
#[derive(Clone)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct TimeoutBuilder<D = ()> {
    layer: TimeoutLayer<D>,
}

impl<D> TimeoutBuilder<D> {
    /// Where requests carry their deadline. Default: `()`, nowhere.
    pub fn deadline<L>(self, carrier: L) -> TimeoutBuilder<L> {
        TimeoutBuilder {
            layer: self.layer.carried_by(carrier),
        }
    }

    /// The name in events and `Debug`. Default: none.
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.layer.name = Name::new(name);
        self
    }

    /// The layer.
    ///
    /// # Errors
    /// None today: every duration is valid.
    pub fn build(self) -> Result<TimeoutLayer<D>, InvalidConfig> {
        Ok(self.layer)
    }
}

impl<D> fmt::Debug for TimeoutBuilder<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimeoutBuilder")
            .field("layer", &self.layer)
            .finish()
    }
}

/// The service that [`TimeoutLayer`] makes.
pub struct Timeout<S, D = ()> {
    inner: S,
    layer: TimeoutLayer<D>,
    waited: Waited,
    /// Of the wait for readiness.
    timer: Timer,
}

/// What waiting for readiness has taken so far.
#[derive(Clone, Copy, Debug)]
enum Waited {
    Nothing,
    /// Waiting since then. A call in this state came when the time had run out.
    Since(Instant),
    /// The inner service became ready with this much left.
    Left(Duration),
}

impl<S, D> Timeout<S, D> {
    /// Runs the clock of a wait. Ready once the time has run out.
    fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let after = self.layer.after;
        let now = Instant::now();
        let since = match self.waited {
            Waited::Since(since) if !self.left_behind(now, since) => since,
            _ => {
                self.waited = Waited::Since(now);
                now
            }
        };
        let Some(end) = time::later(since, after) else {
            return Poll::Pending; // longer than the clock can count: never
        };
        self.timer.poll_until(end, now, cx)
    }

    /// Stops the clock of a wait. With nothing left it stays where it is, and the call is rejected.
    #[cold]
    fn end_wait(&mut self, since: Instant) {
        self.timer = Timer::new(self.layer.after);
        let now = Instant::now();
        if self.left_behind(now, since) {
            self.waited = Waited::Nothing;
            return;
        }
        let left = self
            .layer
            .after
            .saturating_sub(now.saturating_duration_since(since));
        if !left.is_zero() {
            self.waited = Waited::Left(left);
        }
    }

    /// Whether a wait ran out so long ago that whoever waited must have left.
    fn left_behind(&self, now: Instant, since: Instant) -> bool {
        let after = self.layer.after;
        now.saturating_duration_since(since).saturating_sub(after) > after
    }
}

impl<S: Clone, D: Clone> Clone for Timeout<S, D> {
    /// The clone has waited for nothing yet.
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            layer: self.layer.clone(),
            waited: Waited::Nothing,
            timer: Timer::new(self.layer.after),
        }
    }
}

impl<S: fmt::Debug, D> fmt::Debug for Timeout<S, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timeout")
            .field("inner", &self.inner)
            .field("layer", &self.layer)
            .field("waited", &self.waited)
            .finish_non_exhaustive()
    }
}

impl<S, D, Req> Service<Req> for Timeout<S, D>
where
    S: Service<Req>,
    S::Error: StackError,
    D: Carrier<Req>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = TimeoutFuture<S::Future>;

    #[inline]
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

    #[inline]
    fn call(&mut self, req: Req) -> Self::Future {
        // Each future is built where it is returned: it holds those of all layers below, and copies
        // add up.
        if D::CARRIES {
            return self.call_by_deadline(req);
        }
        if let Waited::Nothing = self.waited {
            return TimeoutFuture {
                state: State::Calling {
                    call: self.inner.call(req),
                    clock: Clock::Whole,
                    end: self.layer.own_end(),
                },
            };
        }
        let end = self.layer.own_end();
        match mem::replace(&mut self.waited, Waited::Nothing) {
            Waited::Left(left) => TimeoutFuture {
                state: State::Calling {
                    call: self.inner.call(req),
                    clock: Clock::Left(left),
                    end,
                },
            },
            _ => TimeoutFuture {
                state: State::OutOfTime { end },
            },
        }
    }
}

impl<S, D> Timeout<S, D> {
    /// A call whose end must be known before it is made.
    #[inline]
    fn call_by_deadline<Req>(&mut self, mut req: Req) -> TimeoutFuture<S::Future>
    where
        S: Service<Req>,
        D: Carrier<Req>,
    {
        let TimeoutLayer { after, carrier, .. } = &self.layer;
        let mut end = self.layer.own_end();
        let left = match mem::replace(&mut self.waited, Waited::Nothing) {
            Waited::Nothing => *after,
            Waited::Left(left) => left,
            Waited::Since(since) => {
                let own = Deadline::from(since, *after);
                if carrier.get(&req).is_some_and(|found| found < own) {
                    end.after = None;
                }
                return TimeoutFuture {
                    state: State::OutOfTime { end },
                };
            }
        };
        let now = Instant::now();
        let own = Deadline::from(now, left);
        let found = carrier.get(&req).filter(|found| *found < own);
        if let Some(found) = found {
            end.after = None;
            if found.rules_out(now, Duration::ZERO) {
                return TimeoutFuture {
                    state: State::OutOfTime { end },
                };
            }
        } else if own != Deadline::NEVER {
            carrier.set(&mut req, own);
            end.left = true;
        }
        TimeoutFuture {
            state: State::Calling {
                call: self.inner.call(req),
                clock: Clock::until(found.unwrap_or(own).end(now), now),
                end,
            },
        }
    }
}

impl<D> TimeoutLayer<D> {
    #[inline]
    fn own_end(&self) -> End {
        End {
            after: Some(self.after),
            left: false,
            name: self.name.clone(),
        }
    }
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
            clock: Clock,
            end: End,
        },
        OutOfTime { end: End },
        Done,
    }
}

/// What a call that is out of time ends with.
struct End {
    /// The timeout, as configured; `None` if an earlier deadline takes its place.
    after: Option<Duration>,
    /// Whether it was left in the request as its deadline.
    left: bool,
    name: Name,
}

/// The time of a call. It starts at the first pending poll: a call that is ready at once reads no clock.
enum Clock {
    /// The whole timeout is left.
    Whole,
    Left(Duration),
    /// Runs; without an end, for ever.
    Until {
        end: Option<Instant>,
        timer: Timer,
    },
}

impl<F, Res, E> Future for TimeoutFuture<F>
where
    F: Future<Output = Result<Res, E>>,
    E: StackError,
{
    type Output = Result<Res, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        if let StateProj::Calling { call, clock, .. } = state.as_mut().project() {
            // The answer first: when both are due, it wins.
            let answer = call.poll(cx);
            if let Poll::Ready(outcome) = &answer {
                if outcome
                    .as_ref()
                    .is_err_and(|error| ended_by_deadline(error))
                {
                    if let Some(error) = state.as_mut().own_time_out() {
                        return Poll::Ready(Err(error));
                    }
                } else if clock.runs() {
                    // What the call held is free, and the timer wakes nobody any more.
                    state.set(State::Done);
                }
                return answer;
            }
        }
        state.poll_time_out(cx).map(Err)
    }
}

impl<F> State<F> {
    /// Ready with the error of a call that is out of time.
    fn poll_time_out<E: StackError>(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<E> {
        let error = match self.as_mut().project() {
            StateProj::Calling { clock, end, .. } => {
                ready!(clock.poll(end.after, cx));
                end.time_out()
            }
            StateProj::OutOfTime { end } => end.time_out(),
            StateProj::Done => panic!("a future must not be polled after it was ready"),
        };
        // The inner future is dropped before the caller sees the error.
        self.set(State::Done);
        Poll::Ready(error)
    }

    /// The error of a call that a deadline ended, if it is the one that this very timeout set: then
    /// its time has run out.
    #[cold]
    fn own_time_out<E: StackError>(mut self: Pin<&mut Self>) -> Option<E> {
        let StateProj::Calling { clock, end, .. } = self.as_mut().project() else {
            return None;
        };
        if !end.left || !clock.is_due() {
            self.set(State::Done);
            return None;
        }
        let error = end.time_out();
        self.set(State::Done);
        Some(error)
    }
}

impl Clock {
    fn until(end: Option<Instant>, now: Instant) -> Self {
        let length = end.map_or(Duration::MAX, |end| end.saturating_duration_since(now));
        Self::Until {
            end,
            timer: Timer::new(length),
        }
    }

    /// Ready when the call is out of time.
    fn poll(&mut self, whole: Option<Duration>, cx: &mut Context<'_>) -> Poll<()> {
        let left = match self {
            Self::Whole => whole.unwrap_or_default(),
            Self::Left(left) => *left,
            Self::Until { end, timer } => {
                return end.map_or(Poll::Pending, |end| {
                    timer.poll_until(end, Instant::now(), cx)
                });
            }
        };
        if left.is_zero() {
            return Poll::Ready(());
        }
        let now = Instant::now();
        let end = time::later(now, left);
        let timer = Timer::new(left);
        *self = Self::Until { end, timer };
        match (self, end) {
            (Self::Until { timer, .. }, Some(end)) => timer.poll_until(end, now, cx),
            _ => Poll::Pending,
        }
    }

    fn is_due(&self) -> bool {
        matches!(self, Self::Until { end: Some(end), .. } if *end <= Instant::now())
    }

    #[inline]
    fn runs(&self) -> bool {
        matches!(self, Self::Until { .. })
    }
}

impl End {
    #[cold]
    fn time_out<E: StackError>(&self) -> E {
        let Some(after) = self.after else {
            tracing::event!(
                name: "deadline_passed",
                target: "buttress::timeout",
                Level::DEBUG,
                name = self.name.get(),
                "deadline passed"
            );
            return E::reject(Rejection::DeadlinePassed);
        };
        tracing::event!(
            name: "timed_out",
            target: "buttress::timeout",
            Level::DEBUG,
            name = self.name.get(),
            after_ms = time::millis(after),
            "timed out"
        );
        E::reject(Rejection::TimedOut { after })
    }
}

impl<F> fmt::Debug for TimeoutFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimeoutFuture").finish_non_exhaustive()
    }
}
