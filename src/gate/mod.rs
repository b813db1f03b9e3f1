//! The service behind circuit breaker, rate limit and load shed, for layers of your own.
//!
//! Use it for a layer that decides before each call whether the call may go *now*, goes *later*, or is
//! *rejected*, and that may want to know afterwards how the call went. You implement an
//! [`Admission`], which makes these decisions. [`Gate`] does the rest: it handles readiness, lets
//! calls wait, sends them, and gives back what a cancelled call holds. It does not change requests
//! or responses and does not send a call twice: write such layers directly on [`tower::Service`].
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
//! | setting of [`GateLayer`] | default | meaning |
//! |---|---|---|
//! | `of` | required | the admission |
//! | `carrier` | `()`: none | where requests carry their [deadline](crate::deadline) |
//! | `until` | [`UntilHead`] | when a call ends: with the response head, or with `UntilBodyEnd` (feature `http-body`) |
//!
//! # The life of a call
//!
//!
//! 1. `poll_ready` asks [`Admission::poll_look`], and then readies the inner service.
//! 2. `call` asks [`Admission::look`] and [`Admit::admit`]. A call that may go now gets a *ticket*.
//!    A call that must wait is boxed, with an unready clone of the inner service. It polls
//!    [`Admit::poll_wait`] until it has its ticket, and then readies the clone.
//! 3. [`Admission::send`] exchanges the ticket for what the call holds while it is in flight, and
//!    the inner service is called.
//! 4. [`Sent::settle`] gets the outcome.
//!
//! # Several admissions in one gate
//!
//! A pair `(A, B)` is an admission too; `A` is the outer one. The
//! gate looks at `B` first: the rejection of the inner admission wins, and a call that `B` rejects
//! takes nothing of `A`. `Option<A>` is an admission that may be absent. `()` admits everything.
//!
//! # Errors
//!
//! The rejections that the admission returns. Errors of the inner service pass unchanged.
//!
//! **Cancellation and other ends of a call**, as the admission sees them:
//!
//! | what happened | what the gate does |
//! |---|---|
//! | the inner service returned a response, an error, or the rejection of an inner layer | calls [`Sent::settle`] |
//! | the inner service panicked | calls [`Sent::enter`] without [`Sent::leave`], and drops the `Sent` |
//! | the call was cancelled before it was sent | drops the wait, or calls [`Admission::give_back`] with the ticket |
//! | the call was cancelled after it was sent | drops the `Sent` |
//!
//! # Events and counters
//!
//! None of its own: an admission reports its rejections itself.

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
pub(crate) use unsent::{also_left_waiting, drop_beaten, is_beaten, left_waiting};

use crate::deadline::Deadline;
use crate::error::Rejection;
use std::convert::Infallible;
use std::task::{Context, Poll};

/// Decides about calls: the part that does not depend on the request. [`Admit`] is the other part.
/// The [module](self) has an example.
///
/// A clone shares the state of the original: all services of a layer ask the same admission.
pub trait Admission: Clone {
    /// State of one service instance. A clone of the service starts with the default.
    type Local: Default;

    /// Whether calls may have to wait: [`Cloning`] if they may, [`AtOnce`] if not.
    type Waits;

    /// A place in the queue. Dropping it gives the place up.
    type Wait;

    /// What a call holds from its admission until it is sent.
    type Ticket;

    /// What a call holds after it was sent. If it is dropped before it is settled, the call was
    /// cancelled.
    type Sent;

    /// Called by `poll_ready` before it readies the inner service. Must take nothing, because a ready
    /// service may never be called. Default: calls may go.
    fn poll_look(&self, local: &mut Self::Local, cx: &mut Context<'_>) -> Poll<Look> {
        let _ = (local, cx);
        Poll::Ready(Look::Go)
    }

    /// Called by `poll_ready` if the inner service is pending. `true` means that the gate is ready and
    /// rejects the call, as after [`Look::Reject`]. Default: `false`, the caller waits.
    fn rejects_pending(&self, local: &mut Self::Local) -> bool {
        let _ = local;
        false
    }

    /// Whether the gate also asks `rejects_pending` when a call that has waited gets its ticket and
    /// the inner service is pending. Default: `false`, the call waits for the inner service.
    fn rejects_pending_after(&self, wait: &Self::Wait) -> bool {
        let _ = wait;
        false
    }

    /// The rejection of a call that `poll_look` or `rejects_pending` has announced. `None` if another
    /// admission announced it. Default: `None`.
    fn refuse(&self, local: &mut Self::Local) -> Option<Rejection> {
        let _ = local;
        None
    }

    /// Called by `call` before anything is taken for the call. Default: calls may go.
    ///
    /// # Errors
    /// Returns the rejection if the call must not be made.
    fn look(&self) -> Result<(), Rejection> {
        Ok(())
    }

    /// Polled while a call waits. Ready when the call must not be made any more. While pending, it
    /// must wake the task when that may have changed. Default: always pending.
    fn poll_rejection(&self, local: &mut Self::Local, cx: &mut Context<'_>) -> Poll<Rejection> {
        let _ = (local, cx);
        Poll::Pending
    }

    /// Takes back the ticket of a call that will not be sent. Default: drops it.
    fn give_back(&self, ticket: Self::Ticket) {
        drop(ticket);
    }

    /// Called right before the inner service is called.
    ///
    /// # Errors
    /// Returns the rejection if the call must not be made.
    fn send(&self, ticket: Self::Ticket) -> Result<Self::Sent, Rejection>;
}

/// Decides about a call by its request. The [module](self) has an example.
pub trait Admit<Req>: Admission {
    /// Lets the call go, makes it wait, or rejects it. A call must not wait beyond `deadline`.
    fn admit(&self, req: &Req, deadline: Option<Deadline>) -> Admitted<Self::Ticket, Self::Wait>;

    /// Polls a call that waits. Default: panics, for admissions that never make calls wait.
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

/// Learns how a call went. The [module](self) lists when each method is called.
pub trait Sent<Res, E>: Finish {
    /// Called before the inner service is called or polled.
    fn enter(&mut self) {}

    /// Called after the inner service has returned. If `pending`, the call is in flight.
    fn leave(&mut self, pending: bool) {
        let _ = pending;
    }

    /// Called with the outcome. If `goes_on`, the response still has a body to read, and the gate keeps
    /// `self` until [`finish`](Finish::finish) or until the body is dropped. Otherwise it drops `self`
    /// right after this.
    fn settle(&mut self, outcome: Result<&Res, &E>, goes_on: bool);
}

/// What [`Admission::poll_look`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// A call may go: the gate readies the inner service.
    Go,
    /// A call would have to wait: the gate does not ready the inner service.
    Wait,
    /// A call will be rejected: the gate does not ready the inner service.
    Reject,
}

/// What [`Admit::admit`] decided.
#[derive(Debug)]
pub enum Admitted<T, W> {
    /// The call goes now, with this ticket.
    Now(T),
    /// The call waits.
    Later(W),
    /// The call is rejected.
    Rejected(Rejection),
}

/// What a gate does with the inner service `S` when a call has to wait. [`AtOnce`] and [`Cloning`]
/// implement it.
pub trait Waits<S>: sealed::Sealed {
    /// The instance that sends a waiting call.
    type Spare;

    /// An unready clone.
    fn spare(service: &S) -> Self::Spare;

    /// The service in a spare instance.
    fn service(spare: &mut Self::Spare) -> &mut S;

    /// Replaces an instance that will not make the next call by a clone. So the instance does not
    /// keep or take a permit of an inner service that it will not use.
    fn renew(service: &mut S);
}

/// Calls never wait, so the inner service need not be `Clone`.
#[derive(Clone, Copy, Debug)]
pub struct AtOnce;

/// Calls may wait. Each waiting call has a clone of the inner service.
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
