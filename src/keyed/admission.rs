use super::store::{Make, State, Store};
use crate::deadline::Deadline;
use crate::error::Rejection;
use crate::gate::{Admission, Admit, Admitted};
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// Returns the key of a request: a host, a tenant, a route. [`Authority`](crate::http::Authority)
/// returns the host and port.
///
/// A named function with explicit types is a key too. Closures are not: the compiler does not see that
/// what they return borrows from the request.
///
/// ```
/// use buttress::{Quota, RateLimitLayer};
/// use http::Request;
/// use std::borrow::Cow;
///
/// fn tenant<B>(request: &Request<B>) -> Option<Cow<'_, str>> {
///     request.headers().get("tenant")?.to_str().ok().map(Cow::Borrowed)
/// }
///
/// let layer = RateLimitLayer::builder(Quota::per_second(10)).per_key(tenant::<String>).build()?;
/// # let _ = layer;
/// # Ok::<(), buttress::error::InvalidConfig>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no key of a `{Req}`",
    note = "a key is a function `fn(&{Req}) -> Option<Cow<'_, str>>`, or `http::Authority` for HTTP requests"
)]
pub trait Key<Req> {
    /// The key. `None` if the request has none: all such requests share one state.
    fn key<'a>(&self, req: &'a Req) -> Option<Cow<'a, str>>;
}

impl<F, Req> Key<Req> for F
where
    F: for<'a> Fn(&'a Req) -> Option<Cow<'a, str>>,
{
    fn key<'a>(&self, req: &'a Req) -> Option<Cow<'a, str>> {
        self(req)
    }
}

/// The states of all keys, and how to find the key of a request.
pub struct Lookup<F, M: Make> {
    key: F,
    pub(crate) store: Store<M>,
}

impl<F, M: Make> Lookup<F, M> {
    pub(crate) fn new(key: F, store: Store<M>) -> Self {
        Self { key, store }
    }

    pub(crate) fn find<Req>(&self, req: &Req) -> Arc<M::State>
    where
        F: Key<Req>,
    {
        self.store.find(self.key.key(req).as_deref())
    }
}

impl<F, M: Make> fmt::Debug for Lookup<F, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.fmt(f)
    }
}

/// The admission of a layer that keeps a state for each key.
///
/// Only `call` knows the request and so its key. Until then the gate passes on the readiness of the
/// inner service.
pub struct PerKey<F, M: Make> {
    pub(crate) lookup: Arc<Lookup<F, M>>,
}

impl<F, M: Make> PerKey<F, M> {
    pub(crate) fn new(lookup: Lookup<F, M>) -> Self {
        let lookup = Arc::new(lookup);
        Self { lookup }
    }
}

impl<F, M: Make> Clone for PerKey<F, M> {
    fn clone(&self) -> Self {
        let lookup = self.lookup.clone();
        Self { lookup }
    }
}

impl<F, M: Make> fmt::Debug for PerKey<F, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lookup.fmt(f)
    }
}

/// A waiting call, with the state of its key.
pub struct KeyedWait<T: State> {
    state: Arc<T>,
    local: <T::Admission as Admission>::Local,
    wait: <T::Admission as Admission>::Wait,
}

/// The ticket of a call, with the state of its key.
pub struct KeyedTicket<T: State> {
    state: Arc<T>,
    ticket: <T::Admission as Admission>::Ticket,
}

impl<T: State> fmt::Debug for KeyedWait<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedWait").finish_non_exhaustive()
    }
}

impl<T: State> fmt::Debug for KeyedTicket<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedTicket").finish_non_exhaustive()
    }
}

impl<T: State> KeyedTicket<T> {
    pub(super) fn send(self) -> Result<<T::Admission as Admission>::Sent, Rejection> {
        self.state.admission().send(self.ticket)
    }

    pub(super) fn give_back(self) {
        self.state.admission().give_back(self.ticket);
    }
}

pub(super) fn admit<T, Req>(
    state: Arc<T>,
    req: &Req,
    deadline: Option<Deadline>,
) -> Admitted<KeyedTicket<T>, Box<KeyedWait<T>>>
where
    T: State<Admission: Admit<Req>>,
{
    let admission = state.admission();
    if let Err(rejection) = admission.look() {
        return Admitted::Rejected(rejection);
    }
    match admission.admit(req, deadline) {
        Admitted::Now(ticket) => Admitted::Now(KeyedTicket { state, ticket }),
        // Boxed, so that the tickets of all other calls are moved in few words.
        Admitted::Later(wait) => Admitted::Later(Box::new(KeyedWait {
            state,
            local: Default::default(),
            wait,
        })),
        Admitted::Rejected(rejection) => Admitted::Rejected(rejection),
    }
}

pub(super) fn poll_wait<T, Req>(
    waiting: &mut KeyedWait<T>,
    req: &Req,
    deadline: Option<Deadline>,
    cx: &mut Context<'_>,
) -> Poll<Result<KeyedTicket<T>, Rejection>>
where
    T: State<Admission: Admit<Req>>,
{
    let KeyedWait { state, local, wait } = waiting;
    let admission = state.admission();
    if let Poll::Ready(rejection) = admission.poll_rejection(local, cx) {
        return Poll::Ready(Err(rejection));
    }
    let waited = ready!(admission.poll_wait(wait, req, deadline, cx));
    Poll::Ready(waited.map(|ticket| KeyedTicket {
        state: state.clone(),
        ticket,
    }))
}

impl<F, M: Make> Admission for PerKey<F, M> {
    type Local = ();
    type Waits = <<M::State as State>::Admission as Admission>::Waits;
    type Wait = Box<KeyedWait<M::State>>;
    type Ticket = KeyedTicket<M::State>;
    type Sent = <<M::State as State>::Admission as Admission>::Sent;

    fn give_back(&self, ticket: Self::Ticket) {
        ticket.give_back();
    }

    fn send(&self, ticket: Self::Ticket) -> Result<Self::Sent, Rejection> {
        ticket.send()
    }
}

impl<F, M, Req> Admit<Req> for PerKey<F, M>
where
    F: Key<Req>,
    M: Make<State: State<Admission: Admit<Req>>>,
{
    fn admit(&self, req: &Req, deadline: Option<Deadline>) -> Admitted<Self::Ticket, Self::Wait> {
        admit(self.lookup.find(req), req, deadline)
    }

    fn poll_wait(
        &self,
        wait: &mut Self::Wait,
        req: &Req,
        deadline: Option<Deadline>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Ticket, Rejection>> {
        poll_wait(wait, req, deadline, cx)
    }
}
