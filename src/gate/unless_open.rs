use super::{Admission, Admit, Admitted, AtOnce, Look};
use crate::deadline::Deadline;
use crate::error::Rejection;
use std::convert::Infallible;
use std::task::{Context, Poll};
/// Rejects calls that another admission would reject now. Takes nothing of the other admission.
///
/// Use it in a gate above a circuit breaker. While the circuit is open, a call is rejected before it
/// takes a slot or a turn. When the circuit opens, the calls that wait for one are rejected too.
#[derive(Clone, Copy, Debug)]
pub struct UnlessOpen<A>(
    /// The other admission.
    pub A,
);

/// What `unless_open` of load shed and rate limit accepts: a
/// [`Circuit`](crate::circuit_breaker::Circuit).
pub trait Opens {
    /// The admission whose rejections count.
    type Admission: Admission;

    /// Returns the admission.
    fn admission(&self) -> Self::Admission;
}

impl<A: Admission> Admission for UnlessOpen<A> {
    type Local = A::Local;
    type Waits = AtOnce;
    type Wait = Infallible;
    type Ticket = ();
    type Sent = ();

    fn poll_look(&self, local: &mut A::Local, cx: &mut Context<'_>) -> Poll<Look> {
        self.0.poll_look(local, cx)
    }

    fn refuse(&self, local: &mut A::Local) -> Option<Rejection> {
        self.0.refuse(local)
    }

    fn look(&self) -> Result<(), Rejection> {
        self.0.look()
    }

    fn poll_rejection(&self, local: &mut A::Local, cx: &mut Context<'_>) -> Poll<Rejection> {
        self.0.poll_rejection(local, cx)
    }

    fn send(&self, (): ()) -> Result<(), Rejection> {
        Ok(())
    }
}

impl<A: Admission, Req> Admit<Req> for UnlessOpen<A> {
    fn admit(&self, _: &Req, _: Option<Deadline>) -> Admitted<(), Infallible> {
        Admitted::Now(())
    }
}
