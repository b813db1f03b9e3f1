use super::{Admission, Admit, Admitted, AtOnce, Look};
use crate::deadline::Deadline;
use crate::error::Rejection;
use std::convert::Infallible;
use std::task::{Context, Poll};

/// Rejects what another admission would reject now, and takes nothing of it.
///
/// For gates above a circuit breaker: an open circuit is heard before a call takes a slot or a turn,
/// and by calls that wait for one.
#[derive(Clone, Copy, Debug)]
pub struct UnlessOpen<A>(
    /// The other admission.
    pub A,
);

/// What gates can heed before they take anything: a [`Circuit`](crate::circuit_breaker::Circuit).
pub trait Opens {
    /// The admission whose rejections are heeded.
    type Admission: Admission;

    /// The admission.
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
