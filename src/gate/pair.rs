//! Admissions made of other admissions: pairs, options, and `()`.

use super::{Admission, Admit, Admitted, AtOnce, Cloning, Finish, Look, Sent};
use crate::deadline::Deadline;
use crate::error::Rejection;
use crate::verdict::Verdict;
use std::convert::Infallible;
use std::task::{Context, Poll, ready};

/// Combines the `Waits` of a pair: its calls may wait if those of either admission may.
pub trait Or<B> {
    /// [`Cloning`] if either of the two is.
    type Out;
}

impl<B> Or<B> for AtOnce {
    type Out = B;
}

impl<B> Or<B> for Cloning {
    type Out = Self;
}

/// A waiting call of a pair. It waits for the first admission, or it holds the first one's ticket and
/// waits for the second.
#[derive(Debug)]
pub enum EitherWait<A: Admission, B: Admission> {
    /// Waits for the first admission.
    First(A::Wait),
    /// Waits for the second. The ticket is taken when the second admits the call.
    Second(Option<A::Ticket>, B::Wait),
}

impl<A: Admission, B: Admission> Admission for (A, B)
where
    A::Waits: Or<B::Waits>,
{
    type Local = (A::Local, B::Local);
    type Waits = <A::Waits as Or<B::Waits>>::Out;
    type Wait = EitherWait<A, B>;
    type Ticket = (A::Ticket, B::Ticket);
    type Sent = (A::Sent, B::Sent);

    fn poll_look(&self, local: &mut Self::Local, cx: &mut Context<'_>) -> Poll<Look> {
        // The rejection of the inner admission wins.
        let inner = self.1.poll_look(&mut local.1, cx);
        if inner == Poll::Ready(Look::Reject) {
            return inner;
        }
        let outer = ready!(self.0.poll_look(&mut local.0, cx));
        match inner {
            // For the outer admission, a pending inner one is the same as a pending service.
            Poll::Pending if outer == Look::Go && !self.0.rejects_pending(&mut local.0) => {
                Poll::Pending
            }
            Poll::Pending => Poll::Ready(Look::Reject),
            Poll::Ready(inner) if outer == Look::Go => Poll::Ready(inner),
            Poll::Ready(_) => Poll::Ready(outer),
        }
    }

    fn rejects_pending(&self, local: &mut Self::Local) -> bool {
        self.1.rejects_pending(&mut local.1) || self.0.rejects_pending(&mut local.0)
    }

    fn rejects_pending_after(&self, wait: &Self::Wait) -> bool {
        match wait {
            EitherWait::First(wait) => self.0.rejects_pending_after(wait),
            // For the first admission the call left when it began to wait for the second.
            EitherWait::Second(_, wait) => self.1.rejects_pending_after(wait),
        }
    }

    fn refuse(&self, local: &mut Self::Local) -> Option<Rejection> {
        let inner = self.1.refuse(&mut local.1);
        inner.or_else(|| self.0.refuse(&mut local.0))
    }

    fn look(&self) -> Result<(), Rejection> {
        self.1.look()?;
        self.0.look()
    }

    fn poll_rejection(&self, local: &mut Self::Local, cx: &mut Context<'_>) -> Poll<Rejection> {
        match self.1.poll_rejection(&mut local.1, cx) {
            Poll::Pending => self.0.poll_rejection(&mut local.0, cx),
            rejected @ Poll::Ready(_) => rejected,
        }
    }

    fn give_back(&self, (outer, inner): Self::Ticket) {
        self.1.give_back(inner);
        self.0.give_back(outer);
    }

    fn send(&self, (outer, inner): Self::Ticket) -> Result<Self::Sent, Rejection> {
        match self.1.send(inner) {
            Ok(inner) => Ok((self.0.send(outer)?, inner)),
            Err(rejection) => {
                self.0.give_back(outer);
                Err(rejection)
            }
        }
    }
}

impl<A, B, Req> Admit<Req> for (A, B)
where
    A: Admit<Req>,
    B: Admit<Req>,
    A::Waits: Or<B::Waits>,
{
    fn admit(&self, req: &Req, deadline: Option<Deadline>) -> Admitted<Self::Ticket, Self::Wait> {
        match self.0.admit(req, deadline) {
            Admitted::Now(ticket) => self.then(ticket, req, deadline),
            Admitted::Later(wait) => Admitted::Later(EitherWait::First(wait)),
            Admitted::Rejected(rejection) => Admitted::Rejected(rejection),
        }
    }

    fn poll_wait(
        &self,
        wait: &mut Self::Wait,
        req: &Req,
        deadline: Option<Deadline>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Ticket, Rejection>> {
        if let EitherWait::First(first) = wait {
            let outer = match ready!(self.0.poll_wait(first, req, deadline, cx)) {
                Ok(ticket) => ticket,
                Err(rejection) => return Poll::Ready(Err(rejection)),
            };
            match self.then(outer, req, deadline) {
                Admitted::Now(ticket) => return Poll::Ready(Ok(ticket)),
                Admitted::Later(second) => *wait = second,
                Admitted::Rejected(rejection) => return Poll::Ready(Err(rejection)),
            }
        }
        let EitherWait::Second(outer, second) = wait else {
            unreachable!("the call has the first ticket and waits for the second");
        };
        let inner = match ready!(self.1.poll_wait(second, req, deadline, cx)) {
            Ok(ticket) => ticket,
            Err(rejection) => return Poll::Ready(Err(rejection)),
        };
        let outer = outer
            .take()
            .expect("a wait must not be polled after it was ready");
        Poll::Ready(Ok((outer, inner)))
    }
}

trait Then<A: Admission, B: Admission, Req> {
    fn then(
        &self,
        outer: A::Ticket,
        req: &Req,
        deadline: Option<Deadline>,
    ) -> Admitted<(A::Ticket, B::Ticket), EitherWait<A, B>>;
}

impl<A: Admission, B: Admit<Req>, Req> Then<A, B, Req> for (A, B) {
    /// Asks the second admission, for a call that holds the ticket of the first.
    fn then(
        &self,
        outer: A::Ticket,
        req: &Req,
        deadline: Option<Deadline>,
    ) -> Admitted<(A::Ticket, B::Ticket), EitherWait<A, B>> {
        match self.1.admit(req, deadline) {
            Admitted::Now(inner) => Admitted::Now((outer, inner)),
            Admitted::Later(wait) => Admitted::Later(EitherWait::Second(Some(outer), wait)),
            Admitted::Rejected(rejection) => {
                self.0.give_back(outer);
                Admitted::Rejected(rejection)
            }
        }
    }
}

impl<A: Finish, B: Finish> Finish for (A, B) {
    fn finish(&mut self, verdict: Verdict) {
        self.0.finish(verdict);
        self.1.finish(verdict);
    }
}

impl<A: Sent<Res, E>, B: Sent<Res, E>, Res, E> Sent<Res, E> for (A, B) {
    fn enter(&mut self) {
        self.0.enter();
        self.1.enter();
    }

    fn leave(&mut self, pending: bool) {
        self.0.leave(pending);
        self.1.leave(pending);
    }

    fn settle(&mut self, outcome: Result<&Res, &E>, goes_on: bool) {
        self.1.settle(outcome, goes_on);
        self.0.settle(outcome, goes_on);
    }
}

impl<A: Admission> Admission for Option<A> {
    type Local = A::Local;
    type Waits = A::Waits;
    type Wait = A::Wait;
    type Ticket = Option<A::Ticket>;
    type Sent = Option<A::Sent>;

    fn poll_look(&self, local: &mut Self::Local, cx: &mut Context<'_>) -> Poll<Look> {
        match self {
            Some(admission) => admission.poll_look(local, cx),
            None => Poll::Ready(Look::Go),
        }
    }

    fn rejects_pending(&self, local: &mut Self::Local) -> bool {
        let admission = self.as_ref();
        admission.is_some_and(|admission| admission.rejects_pending(local))
    }

    fn rejects_pending_after(&self, wait: &Self::Wait) -> bool {
        let admission = self.as_ref();
        admission.is_some_and(|admission| admission.rejects_pending_after(wait))
    }

    fn refuse(&self, local: &mut Self::Local) -> Option<Rejection> {
        self.as_ref()?.refuse(local)
    }

    fn look(&self) -> Result<(), Rejection> {
        self.as_ref().map_or(Ok(()), Admission::look)
    }

    fn poll_rejection(&self, local: &mut Self::Local, cx: &mut Context<'_>) -> Poll<Rejection> {
        match self {
            Some(admission) => admission.poll_rejection(local, cx),
            None => Poll::Pending,
        }
    }

    fn give_back(&self, ticket: Self::Ticket) {
        if let (Some(admission), Some(ticket)) = (self, ticket) {
            admission.give_back(ticket);
        }
    }

    fn send(&self, ticket: Self::Ticket) -> Result<Self::Sent, Rejection> {
        match (self, ticket) {
            (Some(admission), Some(ticket)) => admission.send(ticket).map(Some),
            _ => Ok(None),
        }
    }
}

impl<A: Admit<Req>, Req> Admit<Req> for Option<A> {
    fn admit(&self, req: &Req, deadline: Option<Deadline>) -> Admitted<Self::Ticket, Self::Wait> {
        let Some(admission) = self else {
            return Admitted::Now(None);
        };
        match admission.admit(req, deadline) {
            Admitted::Now(ticket) => Admitted::Now(Some(ticket)),
            Admitted::Later(wait) => Admitted::Later(wait),
            Admitted::Rejected(rejection) => Admitted::Rejected(rejection),
        }
    }

    fn poll_wait(
        &self,
        wait: &mut Self::Wait,
        req: &Req,
        deadline: Option<Deadline>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Ticket, Rejection>> {
        match self {
            Some(admission) => {
                let polled = admission.poll_wait(wait, req, deadline, cx);
                polled.map(|admitted| admitted.map(Some))
            }
            None => Poll::Ready(Ok(None)),
        }
    }
}

impl<A: Finish> Finish for Option<A> {
    fn finish(&mut self, verdict: Verdict) {
        if let Some(sent) = self {
            sent.finish(verdict);
        }
    }
}

impl<A: Sent<Res, E>, Res, E> Sent<Res, E> for Option<A> {
    fn enter(&mut self) {
        if let Some(sent) = self {
            sent.enter();
        }
    }

    fn leave(&mut self, pending: bool) {
        if let Some(sent) = self {
            sent.leave(pending);
        }
    }

    fn settle(&mut self, outcome: Result<&Res, &E>, goes_on: bool) {
        if let Some(sent) = self {
            sent.settle(outcome, goes_on);
        }
    }
}

impl Admission for () {
    type Local = ();
    type Waits = AtOnce;
    type Wait = Infallible;
    type Ticket = ();
    type Sent = ();

    fn send(&self, (): ()) -> Result<(), Rejection> {
        Ok(())
    }
}

impl<Req> Admit<Req> for () {
    fn admit(&self, _: &Req, _: Option<Deadline>) -> Admitted<(), Infallible> {
        Admitted::Now(())
    }
}

impl Finish for () {}

impl<Res, E> Sent<Res, E> for () {
    fn settle(&mut self, _: Result<&Res, &E>, _: bool) {}
}
