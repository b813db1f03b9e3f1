use super::gcra::Refusal;
use super::limiter::{RateLimiter, Taken, Turn};
use super::quota::Quota;
use crate::deadline::Carrier;
use crate::error::{InvalidConfig, Rejection, StackError};
use crate::name::Name;
use crate::time::poll_until;
use pin_project_lite::pin_project;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::Sleep;
use tower::{Layer, Service};

/// What a call costs, in units of the quota.
///
/// `()` is the cost of 1 for every call; functions and closures are costs too:
///
/// ```
/// use buttress::{Quota, RateLimitLayer};
///
/// fn batch(items: &Vec<u64>) -> u32 { u32::try_from(items.len()).unwrap_or(u32::MAX) }
///
/// let layer = RateLimitLayer::builder(Quota::per_second(100)).cost(batch).build()?;
/// # Ok::<(), buttress::error::InvalidConfig>(())
/// ```
pub trait Cost<Req> {
    /// The cost of one call. 0 is free.
    fn cost(&self, req: &Req) -> u32;
}

impl<Req> Cost<Req> for () {
    fn cost(&self, _: &Req) -> u32 {
        1
    }
}

impl<K, Req> Cost<Req> for K
where
    K: Fn(&Req) -> u32,
{
    fn cost(&self, req: &Req) -> u32 {
        self(req)
    }
}

/// Makes [`RateLimit`] services that share one limiter. See the [module](super) for what it does.
///
/// The limiter is made with the layer: every service that the layer makes, and every clone of the
/// layer and of its services, draws on the same quota. Applying the layer is cheap.
#[derive(Clone)]
pub struct RateLimitLayer<K = (), D = ()> {
    limiter: RateLimiter,
    cost: K,
    carrier: D,
}

impl RateLimitLayer {
    /// Every call costs 1 and waits up to 1 s for its turn.
    #[must_use]
    pub fn new(quota: Quota) -> Self {
        Self {
            limiter: RateLimiter::new(quota),
            cost: (),
            carrier: (),
        }
    }

    /// As [`new`](Self::new), with more to set.
    pub fn builder(quota: Quota) -> RateLimitBuilder {
        RateLimitBuilder {
            quota,
            max_wait: RateLimiter::MAX_WAIT,
            cost: (),
            carrier: (),
            name: Name::default(),
        }
    }
}

impl<K, D> RateLimitLayer<K, D> {
    /// With a carrier of deadlines in place of the one it has.
    pub(crate) fn carried_by<L>(self, carrier: L) -> RateLimitLayer<K, L> {
        RateLimitLayer {
            limiter: self.limiter,
            cost: self.cost,
            carrier,
        }
    }

    /// The limiter that all services of this layer share.
    #[must_use]
    pub fn limiter(&self) -> &RateLimiter {
        &self.limiter
    }
}

impl<S, K: Clone, D: Clone> Layer<S> for RateLimitLayer<K, D> {
    type Service = RateLimit<S, K, D>;

    fn layer(&self, inner: S) -> Self::Service {
        RateLimit {
            inner,
            limiter: self.limiter.clone(),
            cost: self.cost.clone(),
            carrier: self.carrier.clone(),
        }
    }
}

impl<K, D> fmt::Debug for RateLimitLayer<K, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitLayer")
            .field("limiter", &self.limiter)
            .finish_non_exhaustive()
    }
}

/// As [`RateLimitLayer::new`].
impl From<Quota> for RateLimitLayer {
    fn from(quota: Quota) -> Self {
        Self::new(quota)
    }
}

/// Its settings, for people.
impl<K, D> fmt::Display for RateLimitLayer<K, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.limiter, f)
    }
}

/// Builds a [`RateLimitLayer`].
#[derive(Clone)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct RateLimitBuilder<K = (), D = ()> {
    quota: Quota,
    max_wait: Duration,
    cost: K,
    carrier: D,
    name: Name,
}

impl<K, D> RateLimitBuilder<K, D> {
    /// How long a call may wait for its turn, from its call; one whose turn comes later is
    /// rejected at once. Default: 1 s. Zero never waits.
    pub fn max_wait(mut self, max_wait: Duration) -> Self {
        self.max_wait = max_wait;
        self
    }

    /// What calls cost, in units of the quota. Default: `()`, 1 each.
    pub fn cost<L>(self, cost: L) -> RateLimitBuilder<L, D> {
        RateLimitBuilder {
            quota: self.quota,
            max_wait: self.max_wait,
            cost,
            carrier: self.carrier,
            name: self.name,
        }
    }

    /// Where calls carry their deadline. One whose turn does not come before it is rejected at
    /// once. Default: `()`, nowhere.
    pub fn deadline<L>(self, carrier: L) -> RateLimitBuilder<K, L> {
        RateLimitBuilder {
            quota: self.quota,
            max_wait: self.max_wait,
            cost: self.cost,
            carrier,
            name: self.name,
        }
    }

    /// The name in events, snapshots and `Debug`. Default: none.
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = Name::new(name);
        self
    }

    /// The layer, with a limiter of its own.
    ///
    /// # Errors
    /// None today: every quota and every duration is valid.
    pub fn build(self) -> Result<RateLimitLayer<K, D>, InvalidConfig> {
        let limiter = RateLimiter::with(self.quota, self.max_wait, self.name);
        Ok(RateLimitLayer {
            limiter,
            cost: self.cost,
            carrier: self.carrier,
        })
    }
}

impl<K, D> fmt::Debug for RateLimitBuilder<K, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitBuilder")
            .field("quota", &self.quota)
            .field("max_wait", &self.max_wait)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// The service that [`RateLimitLayer`] makes.
#[derive(Clone)]
pub struct RateLimit<S, K = (), D = ()> {
    inner: S,
    limiter: RateLimiter,
    cost: K,
    carrier: D,
}

impl<S, K, D, Req> Service<Req> for RateLimit<S, K, D>
where
    S: Service<Req> + Clone,
    S::Error: StackError,
    K: Cost<Req>,
    D: Carrier<Req>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = RateLimitFuture<S, Req>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // Not asked whether there is a turn: that would cost a clock, and say nothing of the call.
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, req: Req) -> Self::Future {
        let cost = self.cost.cost(&req);
        match self.limiter.take(cost, self.carrier.get(&req)) {
            Ok(Taken::Now) => RateLimitFuture {
                state: State::Calling {
                    call: self.inner.call(req),
                },
            },
            // The readied instance stays with the caller; a wait must hold nothing.
            Ok(Taken::Later(cell)) => {
                let next = Some((self.limiter.turn(cell), self.inner.clone(), req));
                RateLimitFuture {
                    state: State::Waiting { sleep: None, next },
                }
            }
            Err(refusal) => {
                self.limiter.tell_of_rejection(refusal, cost);
                let state = match refusal {
                    Refusal::After(wait) => State::TooEarly { wait },
                    Refusal::Never => State::TooEarly { wait: u64::MAX },
                    Refusal::TooCostly => State::TooCostly {
                        cost,
                        burst: self.limiter.burst(),
                    },
                };
                RateLimitFuture { state }
            }
        }
    }
}

impl<S: fmt::Debug, K, D> fmt::Debug for RateLimit<S, K, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimit")
            .field("inner", &self.inner)
            .field("limiter", &self.limiter)
            .finish_non_exhaustive()
    }
}

pin_project! {
    /// The future of a [`RateLimit`] call.
    #[must_use = "futures do nothing unless polled"]
    pub struct RateLimitFuture<S, Req>
    where
        S: Service<Req>,
    {
        #[pin]
        state: State<S, Req>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, Req>
    where
        S: Service<Req>,
    {
        Waiting {
            #[pin]
            sleep: Option<Sleep>,
            next: Option<(Turn, S, Req)>,
        },
        // The turn is held until the call is made: given up while readying, it may still go back.
        Readying { next: Option<(Turn, S, Req)> },
        Calling {
            #[pin]
            call: S::Future,
        },
        // Rejections, in a word each: a `Rejection` is three, and copied with the future.
        // Nanoseconds until the turn, all ones for never.
        TooEarly { wait: u64 },
        TooCostly { cost: u32, burst: u32 },
        Done,
    }
}

impl<S, Req> Future for RateLimitFuture<S, Req>
where
    S: Service<Req>,
    S::Error: StackError,
{
    type Output = Result<S::Response, S::Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        // Apart, and first: it is most calls, and its future is often built right before.
        if let StateProj::Calling { call } = state.as_mut().project() {
            return call.poll(cx);
        }
        loop {
            match state.as_mut().project() {
                StateProj::Calling { call } => return call.poll(cx),
                StateProj::TooEarly { wait } => {
                    let retry_after = (*wait < u64::MAX).then(|| Duration::from_nanos(*wait));
                    let rejection = Rejection::RateLimited { retry_after };
                    return Poll::Ready(Err(S::Error::reject(rejection)));
                }
                StateProj::TooCostly { cost, burst } => {
                    let (cost, burst) = (*cost, *burst);
                    let rejection = Rejection::TooCostly { cost, burst };
                    return Poll::Ready(Err(S::Error::reject(rejection)));
                }
                _ => ready!(state.as_mut().poll_turn(cx))?,
            }
        }
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
            StateProj::Waiting { sleep, next } => {
                let (turn, ..) = next.as_ref().expect(POLLED);
                ready!(poll_until(sleep, turn.comes_at(), cx));
                State::Readying { next: next.take() }
            }
            StateProj::Readying { next } => {
                let (_, service, _) = next.as_mut().expect(POLLED);
                if let Err(error) = ready!(service.poll_ready(cx)) {
                    self.set(State::Done);
                    return Poll::Ready(Err(error));
                }
                let (turn, mut service, req) = next.take().expect(POLLED);
                turn.spend();
                State::Calling {
                    call: service.call(req),
                }
            }
            StateProj::Calling { .. }
            | StateProj::TooEarly { .. }
            | StateProj::TooCostly { .. }
            | StateProj::Done => panic!("{POLLED}"),
        };
        self.set(next);
        Poll::Ready(Ok(()))
    }
}

const POLLED: &str = "a future must not be polled after it was ready";

impl<S: Service<Req>, Req> fmt::Debug for RateLimitFuture<S, Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitFuture").finish_non_exhaustive()
    }
}
