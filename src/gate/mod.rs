//! The mechanism behind circuit breaker, rate limit and load shed, for layers of your own.
//!
//! All of them do one thing: before a call they say *now*, *later* or *no*; afterwards they learn how
//! the call went. An [`Admission`] makes these decisions. [`Gate`] is the one service around them: it
//! looks at readiness, waits with an unready clone, makes the call, and gives back what a cancelled
//! call held.
//!
//! ```
//! use buttress::gate::{Admission, Admit, Admitted, AtOnce, GateLayer};
//! use buttress::{ErrorLayer, Name, Rejection};
//! use std::convert::Infallible;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! /// Rejects calls whose request is too large.
//! #[derive(Clone)]
//! struct AtMost(usize);
//!
//! impl Admission for AtMost {
//!     type Local = ();
//!     type Waits = AtOnce;
//!     type Wait = Infallible;
//!     type Ticket = ();
//!     type Sent = ();
//!     fn send(&self, (): ()) -> Result<(), Rejection> { Ok(()) }
//! }
//!
//! impl Admit<String> for AtMost {
//!     fn admit(&self, req: &String, _: Option<buttress::Deadline>) -> Admitted<(), Infallible> {
//!         if req.len() <= self.0 {
//!             Admitted::Now(())
//!         } else {
//!             Admitted::Rejected(Rejection::Overloaded { limit: self.0, by: Name::new("size") })
//!         }
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let service = ServiceBuilder::new()
//!     .layer(GateLayer::of(AtMost(3)))
//!     .layer(ErrorLayer)
//!     .service(service_fn(|req: String| async move { Ok::<_, Infallible>(req.len()) }));
//!
//! assert_eq!(service.clone().oneshot("abc".to_owned()).await, Ok(3));
//! assert!(service.oneshot("abcd".to_owned()).await.is_err());
//! # }
//! ```
//!
//! **The life of a call.** `poll_ready` asks [`Admission::poll_look`] and then readies the inner
//! service. `call` asks [`Admission::look`] and [`Admit::admit`]. A call that may go now holds a
//! *ticket* until [`Admission::send`] turns it into what the call holds while it is in flight. A call
//! that must wait is boxed with a clone of the service; it is polled by [`Admit::poll_wait`] until it
//! has its ticket, the clone is readied, and the call is sent. When the response is there,
//! [`Sent::settle`] learns the outcome.
//!
//! **Several admissions in one gate.** A pair `(A, B)` is an admission too: `A` is the outer one. `B`
//! is looked at first, so that the innermost rejection wins and nothing is taken for a call that `B`
//! rejects. `Option<A>` is an admission that may be left out, and `()` admits everything.
//!
//! **How a call can end**, as an admission sees it:
//!
//! | what happened | what is called |
//! |---|---|
//! | there is an outcome, be it a response, an error or a rejection by an inner layer | [`Sent::settle`] |
//! | the inner service panicked | [`Sent::enter`] without [`Sent::leave`], then `Sent` is dropped |
//! | the caller left before the call was sent | the wait is dropped, or [`Admission::give_back`] takes the ticket |
//! | the caller left after the call was sent | `Sent` is dropped |

mod call_end;
mod layer;
mod pair;
mod service;
mod unless_open;
mod unsent;

pub use call_end::{CallEnd, Finish, UntilHead};
pub use layer::GateLayer;
pub use pair::EitherWait;
pub use service::{Gate, GateFuture};
pub use unless_open::{Opens, UnlessOpen};
pub(crate) use unsent::left_waiting;

use crate::deadline::Deadline;
use crate::error::Rejection;
use std::convert::Infallible;
use std::task::{Context, Poll};

/// Decides about calls, apart from what depends on the request ([`Admit`]).
///
/// A clone shares the state of the original: every service of a layer asks the same admission.
pub trait Admission: Clone {
    /// State of one instance of the service. A clone of the service starts with the default.
    type Local: Default;

    /// Whether calls may have to wait: [`Cloning`] if so, [`AtOnce`] if not.
    type Waits;

    /// A place in the queue. Dropping it gives the place up.
    type Wait;

    /// What a call holds that may be sent but is not yet.
    type Ticket;

    /// What a call holds that was sent. Dropped before it is settled, the call was cancelled.
    type Sent;

    /// Asked by `poll_ready`, before the inner service. Must take nothing: a service that is ready may
    /// never be called. Default: calls may go.
    fn poll_look(&self, local: &mut Self::Local, cx: &mut Context<'_>) -> Poll<Look> {
        let _ = (local, cx);
        Poll::Ready(Look::Go)
    }

    /// Asked by `poll_ready` when the inner service is pending. After a `true` the service is ready
    /// and rejects the call, as after [`Look::Reject`]. Default: `false`, the caller waits.
    fn rejects_pending(&self, local: &mut Self::Local) -> bool {
        let _ = local;
        false
    }

    /// Whether `rejects_pending` is also asked of a call that has waited, if the inner service is
    /// pending when its turn has come. Default: `false`, the call waits for the inner service.
    fn rejects_pending_after(&self, wait: &Self::Wait) -> bool {
        let _ = wait;
        false
    }

    /// The rejection of a call that `poll_look` or `rejects_pending` has announced. `None` if it was not
    /// this admission that announced it.
    fn refuse(&self, local: &mut Self::Local) -> Option<Rejection> {
        let _ = local;
        None
    }

    /// Asked before anything is taken for a call. Default: calls may go.
    ///
    /// # Errors
    /// Why the call must not be made.
    fn look(&self) -> Result<(), Rejection> {
        Ok(())
    }

    /// Polled while a call waits. Ready as soon as the call must not be made any more; otherwise the
    /// task is woken when that may have changed. Default: pending for ever.
    fn poll_rejection(&self, local: &mut Self::Local, cx: &mut Context<'_>) -> Poll<Rejection> {
        let _ = (local, cx);
        Poll::Pending
    }

    /// Takes the ticket of a call back that will not be sent. Default: dropping it is enough.
    fn give_back(&self, ticket: Self::Ticket) {
        drop(ticket);
    }

    /// Called right before the inner service is called.
    ///
    /// # Errors
    /// Why the call must not be made.
    fn send(&self, ticket: Self::Ticket) -> Result<Self::Sent, Rejection>;
}

/// Decides about a call by its request.
pub trait Admit<Req>: Admission {
    /// Lets the call go, makes it wait, or rejects it. It must not wait beyond `deadline`.
    fn admit(&self, req: &Req, deadline: Option<Deadline>) -> Admitted<Self::Ticket, Self::Wait>;

    /// Polls a call that waits. Default: for admissions that never make calls wait.
    fn poll_wait(
        &self,
        wait: &mut Self::Wait,
        req: &Req,
        deadline: Option<Deadline>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Ticket, Rejection>> {
        let _ = (wait, req, deadline, cx);
        unreachable!("an admission that makes calls wait must implement `poll_wait`")
    }
}

/// Learns how a call went. See the [module](self) for who calls what.
pub trait Sent<Res, E>: Finish {
    /// The inner service is about to be called or polled.
    fn enter(&mut self) {}

    /// The inner service has returned; the call is in flight if it is `pending`.
    fn leave(&mut self, pending: bool) {
        let _ = pending;
    }

    /// The response or error is there. If `goes_on`, its body is still to be read: `self` is then kept
    /// until [`finish`](Finish::finish) or until the body is dropped. Otherwise it is dropped next.
    fn settle(&mut self, outcome: Result<&Res, &E>, goes_on: bool);
}

/// What [`Admission::poll_look`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// A call may go: the inner service is readied.
    Go,
    /// A call would have to wait: the inner service is not readied.
    Wait,
    /// A call will be rejected: the inner service is not readied.
    Reject,
}

/// What becomes of a call.
#[derive(Debug)]
pub enum Admitted<T, W> {
    /// It goes now.
    Now(T),
    /// It waits.
    Later(W),
    /// It is rejected.
    Rejected(Rejection),
}

/// How a gate treats the inner service `S` when a call has to wait. Implemented by [`AtOnce`] and
/// [`Cloning`].
pub trait Waits<S>: sealed::Sealed {
    /// The instance that a waiting call is sent with.
    type Spare;

    /// A clone that is not ready.
    fn spare(service: &S) -> Self::Spare;

    /// The service of a spare instance.
    fn service(spare: &mut Self::Spare) -> &mut S;

    /// Replaces an instance that will not make the next call by a clone, so that it holds no permit,
    /// and captures none, that it will not use.
    fn renew(service: &mut S);
}

/// Calls never wait, so the inner service need not be `Clone`.
#[derive(Clone, Copy, Debug)]
pub struct AtOnce;

/// Calls may wait, with a clone of the inner service.
#[derive(Clone, Copy, Debug)]
pub struct Cloning;

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::AtOnce {}
    impl Sealed for super::Cloning {}
}

impl<S> Waits<S> for AtOnce {
    type Spare = Infallible;

    fn spare(_: &S) -> Infallible {
        unreachable!("an admission that makes calls wait must be `Cloning`")
    }

    fn service(spare: &mut Infallible) -> &mut S {
        match *spare {}
    }

    fn renew(_: &mut S) {}
}

impl<S: Clone> Waits<S> for Cloning {
    type Spare = S;

    fn spare(service: &S) -> S {
        service.clone()
    }

    fn service(spare: &mut S) -> &mut S {
        spare
    }

    fn renew(service: &mut S) {
        *service = service.clone();
    }
}
