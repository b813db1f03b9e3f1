//! Ends calls that take too long. The time that a caller waits for readiness counts too.
//!
//! Use it twice: outermost, to bound the whole call with its retries and waits; and innermost, to
//! bound each attempt. A call ends when the response head arrives, so this layer does not bound the
//! reading of a body.
//!
//! ```
//! use buttress::{Error, ErrorLayer, Rejection, TimeoutLayer};
//! use std::{convert::Infallible, future::pending, time::Duration};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
//! let service = ServiceBuilder::new()
//!     .layer(TimeoutLayer::new(Duration::from_millis(20)))
//!     .layer(ErrorLayer)
//!     .service(service_fn(|()| pending::<Result<(), Infallible>>()));
//!
//! let outcome = service.oneshot(()).await;
//! assert!(matches!(outcome, Err(Error::Rejected(Rejection::TimedOut { .. }))));
//! # }
//! ```
//!
//! # Settings
//!
//! | setting | default | meaning |
//! |---|---|---|
//! | `new`, `builder` | required | the longest time that a call may take |
//! | `carrier` | `()`: none | where requests carry their [deadline](crate::deadline) |
//! | `per_request` | off | whether a request may carry a timeout that replaces this one |
//! | `name` | none | the name in errors, events and `Debug` |
//!
//! # What is measured
//!
//! The clock starts at the first poll that finds the call pending. With a carrier, it starts
//! at `call`. The time that the caller waited in `poll_ready` counts too. The time from readiness to
//! `call` does not. `Duration::MAX` never times out. `Duration::ZERO` times out
//! at the first pending poll, and at once if a timeout below has the same carrier.
//!
//! # Readiness
//!
//! If the time runs out while the inner service is not ready, `poll_ready` returns
//! ready, and the layer rejects the next call without calling the inner service. Each clone starts with
//! the full time. Drop an instance that you stop polling: what it has reserved in the inner service
//! stays reserved until the instance is polled, called or dropped.
//!
//! # Deadlines
//!
//! With a carrier, such as [`InExtensions`](crate::http::InExtensions), the timeout puts
//! its deadline into the request, where the layers below find it. If the request already carries an
//! earlier deadline, the timeout obeys that one. If that deadline has passed, the timeout rejects the
//! call without calling the inner service. [`deadline`](crate::deadline) lists the layers that use a deadline.
//!
//! So an attempt gets its own timeout or the rest of the whole call, whichever is shorter, and a
//! caller can give one call less time than the layers do.
//!
//! **Which timeout goes where**, from the outside in:
//!
//! | it bounds | where it is set | how long it should be |
//! |---|---|---|
//! | the whole call, to the response head | this layer, outermost, with a carrier | less than your own caller waits |
//! | an attempt | this layer, innermost, with the same carrier | longer than the slowest healthy response, and short enough for two attempts in the whole call |
//! | waits for a turn or a slot | `max_wait` of rate limit and load shed | a part of an attempt; the deadline shortens them |
//! | connecting | the client: hyper's `HttpConnector::set_connect_timeout`, reqwest's `connect_timeout` | a few round trips: a small part of an attempt, which includes it |
//! | reading the body | the client or your code: tokio's `timeout`, or reqwest's `read_timeout` between two reads | depends on its size; this layer's calls have ended by then |
//! | the server's work | the server, by a layer of its own | less than its callers wait: nobody reads a later response. Pass the deadline on to the calls that the server makes |
//!
//! # Errors
//!
//! Errors of the inner service pass unchanged, with the exception in the second row.
//!
//! | error | when | verdict |
//! |---|---|---|
//! | [`Rejection::TimedOut`] | the time ran out | [`Transient`](crate::Verdict::Transient) |
//! | [`Rejection::TimedOut`] | an inner layer returned `DeadlinePassed` because of the deadline that this timeout set | [`Transient`](crate::Verdict::Transient) |
//! | [`Rejection::DeadlinePassed`] | an earlier deadline of the request passed | [`Ignored`](crate::Verdict::Ignored): retry gives up, a circuit breaker treats the call as cancelled |
//!
//! If the response and the end of the time come in one poll, the response wins. If the inner service
//! becomes ready when no time is left, the timeout wins.
//!
//! # Cancellation
//!
//! Dropping the future drops the inner future. After a timeout the inner future is
//! dropped before the error is returned: when the caller sees the error, what the call held is free.
//!
//! # Events and counters
//!
//! Target `buttress::timeout`, at DEBUG: `timed_out` with `name` and
//! `after_ms`; `deadline_passed` with `name`. The counters are in [`TimeoutSnapshot`].
//!
//! A call or a caller that waits needs a tokio runtime with time enabled.

mod future;
mod seen;

pub use future::TimeoutFuture;
pub use seen::TimeoutSnapshot;

use crate::deadline::{Carrier, Deadline};
use crate::error::{InvalidConfig, Rejection, StackError};
use crate::event::{Observe, Observers};
use crate::name::Name;
use crate::time::{self, nanos};
use future::{Clock, FOUND, Limit};
use seen::Seen;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use std::{fmt, mem};
use tokio::time::{Instant, Sleep};
use tower::{Layer, Service};

/// Makes [`Timeout`] services. The [module](self) explains what they do.
///
/// Each service and each clone measures its own calls. All of them share the counters of the layer.
///
/// ```
/// use buttress::TimeoutLayer;
/// use std::time::Duration;
///
/// let layer = TimeoutLayer::new(Duration::from_secs(2));
/// assert_eq!(layer.to_string(), "timeout: 2s");
/// ```
#[derive(Clone)]
pub struct TimeoutLayer<K = ()> {
    settings: TimeoutSettings,
    carrier: K,
    /// Whether a timeout in the request replaces this one.
    per_request: bool,
    seen: Arc<Seen>,
}

/// The settings of a [`TimeoutLayer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeoutSettings {
    /// The longest time that a call may take.
    pub after: Duration,
    /// The name in errors, events and `Debug`.
    pub name: Name,
}

impl TimeoutSettings {
    /// A timeout of `after`, without a name.
    #[must_use]
    pub const fn new(after: Duration) -> Self {
        Self {
            after,
            name: Name::UNNAMED,
        }
    }

    /// Checks whether a layer can be built with these settings.
    ///
    /// # Errors
    /// None so far: every duration is valid.
    pub fn check(&self) -> Result<(), InvalidConfig> {
        Ok(())
    }
}

impl TimeoutLayer {
    /// A timeout of `after`. The [module](self) says what it is measured from.
    #[must_use]
    pub fn new(after: Duration) -> Self {
        Self::builder(after).layer()
    }

    /// A builder for a layer with this timeout.
    pub const fn builder(after: Duration) -> TimeoutBuilder {
        TimeoutBuilder {
            settings: TimeoutSettings::new(after),
            carrier: (),
            per_request: false,
        }
    }
}

impl<K> TimeoutLayer<K> {
    /// The counters of all services of this layer, since the layer was built.
    #[must_use]
    pub fn snapshot(&self) -> TimeoutSnapshot {
        self.seen.snapshot(self.settings.after)
    }

    /// Reads the counters, as long as the layer or a service of it is there.
    pub(crate) fn weak(&self) -> impl Fn() -> Option<TimeoutSnapshot> + Send + Sync + 'static {
        let (seen, after) = (Arc::downgrade(&self.seen), self.settings.after);
        move || Some(seen.upgrade()?.snapshot(after))
    }

    pub(crate) fn observers(&self) -> &Observers {
        &self.seen.observers
    }

    /// Counts the events of this layer through the facade `metrics` (feature `metrics`). The
    /// [module `metrics`](crate::metrics) lists the metrics. It cannot be switched off.
    #[cfg(feature = "metrics")]
    pub fn metrics(&self) {
        self.seen.observers.add(crate::metrics::Events::observer());
    }

    /// Adds an observer of the events of all services of this layer. It cannot be removed.
    pub fn observe(&self, observer: impl Observe + 'static) {
        self.seen.observers.add(Arc::new(observer));
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

/// Prints the settings in a readable form.
impl<K> fmt::Display for TimeoutLayer<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TimeoutSettings { after, name } = self.settings;
        write!(f, "timeout{name}: {}", time::Shown(after))
    }
}

/// Builds a [`TimeoutLayer`].
///
/// ```
/// use buttress::{TimeoutLayer, http::InExtensions};
/// use std::time::Duration;
///
/// let layer = TimeoutLayer::builder(Duration::from_secs(10))
///     .carrier(InExtensions)
///     .name("whole call")
///     .build()?;
/// assert_eq!(layer.to_string(), "timeout \"whole call\": 10s");
/// # Ok::<(), buttress::error::InvalidConfig>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct TimeoutBuilder<K = ()> {
    settings: TimeoutSettings,
    carrier: K,
    per_request: bool,
}

impl<K> TimeoutBuilder<K> {
    /// Where requests carry their deadline. Default: `()`, none.
    pub fn carrier<L>(self, carrier: L) -> TimeoutBuilder<L> {
        TimeoutBuilder {
            settings: self.settings,
            carrier,
            per_request: self.per_request,
        }
    }

    /// Lets a request carry a timeout that replaces this one, if the carrier supports that
    /// ([`Carrier::timeout`]). Use it for the attempt timeout. Default: off.
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

    /// Builds the layer.
    ///
    /// # Errors
    /// None so far: every duration is valid.
    pub fn build(self) -> Result<TimeoutLayer<K>, InvalidConfig> {
        self.settings.check()?;
        Ok(self.layer())
    }

    fn layer(self) -> TimeoutLayer<K> {
        TimeoutLayer {
            settings: self.settings,
            carrier: self.carrier,
            per_request: self.per_request,
            seen: Arc::new(Seen::new(self.settings.name)),
        }
    }
}

/// The service that [`TimeoutLayer`] makes.
pub struct Timeout<S, K = ()> {
    inner: S,
    layer: TimeoutLayer<K>,
    waited: Waited,
    /// Wakes a caller that waits for readiness when its time runs out.
    timer: Option<Pin<Box<Sleep>>>,
}

/// How long the caller has waited for readiness.
#[derive(Clone, Copy, Debug)]
enum Waited {
    Nothing,
    /// The caller has waited since then. If a call finds this, the time has run out.
    Since(Instant),
    /// The inner service became ready when this much time was left.
    Left(Duration),
}

impl<S, K> Timeout<S, K> {
    /// Ready when the time has run out.
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

    /// Ends a wait. If no time is left, `waited` stays as it is and the next call is rejected.
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

    /// Whether the time ran out more than one timeout ago. Then the caller that waited has left, and
    /// the one that polls the instance now gets the full time; until then it gets what is left.
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
            Ok(limit) => TimeoutFuture::calling(self.inner.call(req), limit),
            Err(rejection) => TimeoutFuture::out_of_time(rejection, self.layer.seen.clone()),
        }
    }
}

impl<S, K> Timeout<S, K> {
    /// The limit of a call without a carrier, or why the call must not be made.
    fn limit(&self, waited: Waited) -> Result<Limit, Rejection> {
        let TimeoutSettings { after, name: by } = self.layer.settings;
        let length = match waited {
            Waited::Nothing => after,
            Waited::Left(left) => left,
            Waited::Since(_) => return Err(Rejection::TimedOut { after, by }),
        };
        Ok(Limit {
            after: nanos(after),
            seen: self.layer.seen.clone(),
            clock: Clock::NotStarted(nanos(length)),
        })
    }

    /// The limit of a call with a carrier, or why the call must not be made.
    fn carried_limit<Req>(&self, waited: Waited, req: &mut Req) -> Result<Limit, Rejection>
    where
        K: Carrier<Req>,
    {
        let (whole, by) = (self.layer.settings.after, self.layer.settings.name);
        let asked = self.layer.carrier.timeout(req);
        let after = asked.filter(|_| self.layer.per_request).unwrap_or(whole);
        let now = Instant::now();
        let own = match waited {
            Waited::Nothing => Deadline::from(now, after),
            // The wait is subtracted from the request's own timeout too.
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
        // Also one that was found: the carrier may have found it elsewhere than in the request.
        let applies = found.unwrap_or(own);
        if applies != Deadline::NEVER {
            self.layer.carrier.set(req, applies);
        }
        Ok(Limit {
            after: found.map_or(nanos(after), |_| FOUND),
            seen: self.layer.seen.clone(),
            clock: match found.unwrap_or(own).end(now) {
                Some(end) => Clock::Carried(end),
                None => Clock::Never,
            },
        })
    }
}
