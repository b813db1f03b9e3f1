//! A stack by key looks the key up once per call. What it finds travels with the request.

use super::admission::{self, Key, KeyedTicket, KeyedWait, Lookup};
use super::store::{Make, State};
use crate::budget::Budget;
use crate::deadline::{Carrier, Deadline};
use crate::error::Rejection;
use crate::gate::{Admission, Admit, Admitted};
use crate::replay::Replay;
use crate::verdict::Verdict;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tower::Service;

/// A request with the state of its key.
#[derive(Debug)]
pub struct Keyed<Req, T> {
    /// `None` in a copy that cannot be sent. Such a copy still tells the budget of its key.
    req: Option<Req>,
    state: Arc<T>,
}

impl<Req, T> Keyed<Req, T> {
    fn req(&self) -> &Req {
        self.req.as_ref().expect(SENT)
    }
}

const SENT: &str = "a copy without a request is not sent";

/// Finds the state for each request, and calls the inner service with both.
#[derive(Debug)]
pub struct Route<S, F, M: Make> {
    inner: S,
    lookup: Arc<Lookup<F, M>>,
}

impl<S, F, M: Make> Route<S, F, M> {
    pub(crate) fn new(inner: S, lookup: Arc<Lookup<F, M>>) -> Self {
        Self { inner, lookup }
    }
}

impl<S: Clone, F, M: Make> Clone for Route<S, F, M> {
    fn clone(&self) -> Self {
        Self::new(self.inner.clone(), self.lookup.clone())
    }
}

impl<S, F, M, Req> Service<Req> for Route<S, F, M>
where
    S: Service<Keyed<Req, M::State>>,
    F: Key<Req>,
    M: Make,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, req: Req) -> S::Future {
        let state = self.lookup.find(&req);
        let req = Some(req);
        self.inner.call(Keyed { req, state })
    }
}

/// Calls the inner service with the request alone.
#[derive(Clone, Debug)]
pub struct Unkeyed<S>(pub(crate) S);

impl<S, T, Req> Service<Keyed<Req, T>> for Unkeyed<S>
where
    S: Service<Req>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, keyed: Keyed<Req, T>) -> S::Future {
        self.0.call(keyed.req.expect(SENT))
    }
}

/// The admission of the key that travels with the request.
pub struct OfRequest<T>(PhantomData<fn() -> T>);

impl<T> OfRequest<T> {
    pub(crate) const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<T> Clone for OfRequest<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for OfRequest<T> {}

impl<T> fmt::Debug for OfRequest<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OfRequest")
    }
}

impl<T: State> Admission for OfRequest<T> {
    type Local = ();
    type Waits = <T::Admission as Admission>::Waits;
    type Wait = Box<KeyedWait<T>>;
    type Ticket = KeyedTicket<T>;
    type Sent = <T::Admission as Admission>::Sent;

    fn give_back(&self, ticket: Self::Ticket) {
        ticket.give_back();
    }

    fn send(&self, ticket: Self::Ticket) -> Result<Self::Sent, Rejection> {
        ticket.send()
    }
}

impl<T, Req> Admit<Keyed<Req, T>> for OfRequest<T>
where
    T: State<Admission: Admit<Req>>,
{
    fn admit(
        &self,
        keyed: &Keyed<Req, T>,
        deadline: Option<Deadline>,
    ) -> Admitted<Self::Ticket, Self::Wait> {
        admission::admit(keyed.state.clone(), keyed.req(), deadline)
    }

    fn poll_wait(
        &self,
        wait: &mut Self::Wait,
        keyed: &Keyed<Req, T>,
        deadline: Option<Deadline>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Ticket, Rejection>> {
        admission::poll_wait(wait, keyed.req(), deadline, cx)
    }
}

/// Applies a carrier or a replay policy to the request itself.
#[derive(Clone, Debug)]
pub struct Inside<P>(pub(crate) P);

impl<K, T, Req> Carrier<Keyed<Req, T>> for Inside<K>
where
    K: Carrier<Req>,
{
    const CARRIES: bool = K::CARRIES;

    fn get(&self, keyed: &Keyed<Req, T>) -> Option<Deadline> {
        self.0.get(keyed.req())
    }

    fn set(&self, keyed: &mut Keyed<Req, T>, deadline: Deadline) {
        self.0.set(keyed.req.as_mut().expect(SENT), deadline);
    }

    fn timeout(&self, keyed: &Keyed<Req, T>) -> Option<Duration> {
        self.0.timeout(keyed.req())
    }
}

/// A state that has the retry budget of its key.
pub trait Budgeted {
    /// The budget, unless the layer's own is to be used.
    fn budget(&self) -> Option<&Budget>;
}

impl<R, T, Req> Replay<Keyed<Req, T>> for Inside<R>
where
    R: Replay<Req>,
    T: Budgeted,
{
    fn replay(&self, keyed: &Keyed<Req, T>) -> Option<Keyed<Req, T>> {
        let req = Some(self.0.replay(keyed.req())?);
        let state = keyed.state.clone();
        Some(Keyed { req, state })
    }

    fn keep(&self, keyed: &Keyed<Req, T>) -> Option<Keyed<Req, T>> {
        // Also without a copy: the success of the call earns for the budget of its key.
        Some(Keyed {
            req: self.0.keep(keyed.req()),
            state: keyed.state.clone(),
        })
    }

    fn may_resend(&self, copy: &Keyed<Req, T>, verdict: Verdict) -> bool {
        let req = copy.req.as_ref();
        req.is_some_and(|req| self.0.may_resend(req, verdict))
    }

    fn budget<'a>(&self, copy: &'a Keyed<Req, T>) -> Option<&'a Budget> {
        let of_policy = copy.req.as_ref().and_then(|req| self.0.budget(req));
        of_policy.or_else(|| copy.state.budget())
    }

    fn attempts(&self, copy: &Keyed<Req, T>) -> Option<u32> {
        self.0.attempts(copy.req.as_ref()?)
    }

    fn backoff(&self, copy: &Keyed<Req, T>, retry: u32, draw: f64) -> Option<Duration> {
        self.0.backoff(copy.req.as_ref()?, retry, draw)
    }

    fn deadline(&self, copy: &Keyed<Req, T>) -> Option<Deadline> {
        self.0.deadline(copy.req.as_ref()?)
    }

    fn replayable(&self, copy: &Keyed<Req, T>) -> bool {
        self.0.replayable(copy.req())
    }

    fn resend(&self, copy: &mut Keyed<Req, T>, attempt: u32) {
        self.0.resend(copy.req.as_mut().expect(SENT), attempt);
    }
}
