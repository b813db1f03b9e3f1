use super::{Admission, Admit, Admitted, CallEnd, Look, Sent, UntilHead, Waits, unsent};
use crate::deadline::{Carrier, Deadline};
use crate::error::{Rejection, StackError};
use pin_project_lite::pin_project;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::{fmt, mem};
use tower::Service;

/// A service that asks an [`Admission`] before each call, and reports to it how the call went.
///
/// [`GateLayer`](super::GateLayer) makes it, as do the layers of circuit breaker, rate limit and load
/// shed.
pub struct Gate<S, A: Admission, K = (), U = UntilHead> {
    inner: S,
    admission: A,
    carrier: K,
    local: A::Local,
    ready: Readiness,
    until: PhantomData<fn() -> U>,
}

impl<S, A: Admission, K, U> Gate<S, A, K, U> {
    pub(crate) fn new(inner: S, admission: A, carrier: K) -> Self {
        Self {
            inner,
            admission,
            carrier,
            local: A::Local::default(),
            ready: Readiness::Unpolled,
            until: PhantomData,
        }
    }
}

/// What the latest `poll_ready` found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Readiness {
    Unpolled,
    /// The inner service is ready.
    Ready,
    /// The inner service was not readied, but the call may wait.
    Waiting,
    /// The call is rejected, even if something has changed since.
    Rejecting,
}

impl<S: Clone, A: Admission, K: Clone, U> Clone for Gate<S, A, K, U> {
    /// The clone is not ready.
    fn clone(&self) -> Self {
        let admission = self.admission.clone();
        Self::new(self.inner.clone(), admission, self.carrier.clone())
    }
}

impl<S: fmt::Debug, A: Admission + fmt::Debug, K, U> fmt::Debug for Gate<S, A, K, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate")
            .field("inner", &self.inner)
            .field("admission", &self.admission)
            .field("ready", &self.ready)
            .finish_non_exhaustive()
    }
}

impl<S, A, K, U, Req> Service<Req> for Gate<S, A, K, U>
where
    S: Service<Req>,
    S::Error: StackError,
    A: Admit<Req>,
    A::Waits: Waits<S>,
    A::Sent: Sent<S::Response, S::Error>,
    K: Carrier<Req>,
    U: CallEnd<S::Response>,
{
    type Response = U::Response<A::Sent>;
    type Error = S::Error;
    type Future = GateFuture<S, A, Req, U>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.ready = Readiness::Unpolled;
        self.ready = match ready!(self.admission.poll_look(&mut self.local, cx)) {
            Look::Go => match self.inner.poll_ready(cx) {
                Poll::Ready(readied) => {
                    readied?;
                    Readiness::Ready
                }
                Poll::Pending if self.admission.rejects_pending(&mut self.local) => {
                    // This instance may be in the queue of an inner service. It would get the next permit
                    // there and not use it.
                    A::Waits::renew(&mut self.inner);
                    Readiness::Rejecting
                }
                Poll::Pending => return Poll::Pending,
            },
            Look::Wait => Readiness::Waiting,
            Look::Reject => Readiness::Rejecting,
        };
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, req: Req) -> Self::Future {
        let ready = mem::replace(&mut self.ready, Readiness::Unpolled);
        match ready {
            Readiness::Unpolled => panic!("poll_ready must be called before call"),
            Readiness::Rejecting => {
                let refused = self.admission.refuse(&mut self.local);
                GateFuture::rejected(refused.expect(NOT_REFUSED))
            }
            Readiness::Ready | Readiness::Waiting => {
                let deadline = self.carrier.get(&req);
                if let Err(rejection) = self.admission.look() {
                    return GateFuture::rejected(rejection);
                }
                let stage = match self.admission.admit(&req, deadline) {
                    Admitted::Now(ticket) if ready == Readiness::Ready => {
                        return match self.admission.send(ticket) {
                            Ok(sent) => GateFuture::calling(&mut self.inner, req, sent),
                            Err(rejection) => GateFuture::rejected(rejection),
                        };
                    }
                    Admitted::Now(ticket) => Stage::Readying {
                        ticket,
                        may_reject: true,
                    },
                    Admitted::Later(wait) => Stage::Queued(wait),
                    Admitted::Rejected(rejection) => return GateFuture::rejected(rejection),
                };
                let service = A::Waits::spare(&self.inner);
                if ready == Readiness::Ready {
                    // Frees what this instance has reserved: otherwise the call might wait for a permit
                    // that its own service holds.
                    A::Waits::renew(&mut self.inner);
                }
                let waiting = Waiting {
                    stage: Some(stage),
                    admission: self.admission.clone(),
                    local: A::Local::default(),
                    service,
                    req: Some(req),
                    deadline,
                };
                GateFuture {
                    state: State::Rare {
                        rare: Rare::Waiting(Box::new(waiting)),
                    },
                    until: PhantomData,
                }
            }
        }
    }
}

pin_project! {
    /// The future of a [`Gate`] call.
    ///
    /// It is little larger than the future of the inner service, because a call that waits is boxed.
    #[must_use = "futures do nothing unless polled"]
    pub struct GateFuture<S, A, Req, U = UntilHead>
    where
        S: Service<Req>,
        A: Admission,
        A::Waits: Waits<S>,
    {
        #[pin]
        state: State<S, A, Req>,
        until: PhantomData<fn() -> U>,
    }
}

pin_project! {
    #[project = StateProj]
    #[project_replace = StateOwned]
    enum State<S, A, Req>
    where
        S: Service<Req>,
        A: Admission,
        A::Waits: Waits<S>,
    {
        // Fields are dropped in this order: the inner future before what the call holds.
        Calling {
            #[pin]
            call: S::Future,
            sent: A::Sent,
        },
        // One variant for all rare states: often a null pointer is enough to tell the two variants apart.
        Rare { rare: Rare<S, A, Req> },
    }
}

enum Rare<S, A, Req>
where
    A: Admission,
    A::Waits: Waits<S>,
{
    Waiting(Box<Waiting<S, A, Req>>),
    Rejected(Rejection),
    Done,
}

impl<S, A, Req, U> GateFuture<S, A, Req, U>
where
    S: Service<Req>,
    A: Admission,
    A::Waits: Waits<S>,
{
    fn rejected(rejection: Rejection) -> Self {
        Self {
            state: State::Rare {
                rare: Rare::Rejected(rejection),
            },
            until: PhantomData,
        }
    }

    fn calling(service: &mut S, req: Req, sent: A::Sent) -> Self
    where
        A::Sent: Sent<S::Response, S::Error>,
    {
        Self {
            state: State::calling(service, req, sent),
            until: PhantomData,
        }
    }
}

impl<S, A, Req> State<S, A, Req>
where
    S: Service<Req>,
    A: Admission,
    A::Waits: Waits<S>,
    A::Sent: Sent<S::Response, S::Error>,
{
    fn calling(service: &mut S, req: Req, mut sent: A::Sent) -> Self {
        sent.enter();
        let call = service.call(req);
        sent.leave(false);
        Self::Calling { call, sent }
    }
}

impl<S, A, Req, U> Future for GateFuture<S, A, Req, U>
where
    S: Service<Req>,
    S::Error: StackError,
    A: Admit<Req>,
    A::Waits: Waits<S>,
    A::Sent: Sent<S::Response, S::Error>,
    U: CallEnd<S::Response>,
{
    type Output = Result<U::Response<A::Sent>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        if let StateProj::Rare { rare } = state.as_mut().project() {
            let next = match rare {
                Rare::Waiting(waiting) => ready!(waiting.poll(cx)),
                Rare::Rejected(rejection) => Err(S::Error::reject(*rejection)),
                Rare::Done => panic!("{POLLED}"),
            };
            match next {
                Ok(next) => state.set(next),
                Err(error) => {
                    state.set(State::Rare { rare: Rare::Done });
                    return Poll::Ready(Err(error));
                }
            }
        }
        let StateProj::Calling { call, sent } = state.as_mut().project() else {
            panic!("{POLLED}");
        };
        sent.enter();
        let polled = call.poll(cx);
        sent.leave(polled.is_pending());
        let outcome = ready!(polled);
        // Drop the inner future before the slot or permit of this call is free.
        let StateOwned::Calling { mut sent, .. } =
            state.project_replace(State::Rare { rare: Rare::Done })
        else {
            panic!("{POLLED}");
        };
        let goes_on = outcome.as_ref().is_ok_and(U::goes_on);
        sent.settle(outcome.as_ref(), goes_on);
        let held = if goes_on { Some(sent) } else { None };
        Poll::Ready(outcome.map(|res| U::hold(res, held)))
    }
}

/// A call that waits.
struct Waiting<S, A, Req>
where
    A: Admission,
    A::Waits: Waits<S>,
{
    /// `None` once the call is sent.
    stage: Option<Stage<A>>,
    admission: A,
    local: A::Local,
    service: <A::Waits as Waits<S>>::Spare,
    req: Option<Req>,
    deadline: Option<Deadline>,
}

enum Stage<A: Admission> {
    Queued(A::Wait),
    /// The call has its ticket. The service is not ready yet.
    Readying {
        ticket: A::Ticket,
        /// Whether a pending service may be a reason to reject the call.
        may_reject: bool,
    },
}

impl<S, A, Req> Waiting<S, A, Req>
where
    S: Service<Req>,
    S::Error: StackError,
    A: Admit<Req>,
    A::Waits: Waits<S>,
    A::Sent: Sent<S::Response, S::Error>,
{
    /// Ready when the call is sent or rejected.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<State<S, A, Req>, S::Error>> {
        // A rejection wins over a ticket that is ready.
        let rejection = match self.admission.poll_rejection(&mut self.local, cx) {
            Poll::Ready(rejection) => rejection,
            Poll::Pending => match ready!(self.poll_send(cx)) {
                Ok(Ok(next)) => return Poll::Ready(Ok(next)),
                Ok(Err(rejection)) => rejection,
                Err(error) => return Poll::Ready(Err(error)),
            },
        };
        Poll::Ready(Err(S::Error::reject(rejection)))
    }

    #[expect(
        clippy::type_complexity,
        reason = "a call, a rejection, or an error of `poll_ready`"
    )]
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Result<State<S, A, Req>, Rejection>, S::Error>> {
        if let Some(Stage::Queued(wait)) = &mut self.stage {
            let req = self.req.as_ref().expect(POLLED);
            match ready!(self.admission.poll_wait(wait, req, self.deadline, cx)) {
                Ok(ticket) => {
                    let may_reject = self.admission.rejects_pending_after(wait);
                    self.stage = Some(Stage::Readying { ticket, may_reject });
                }
                Err(rejection) => return Poll::Ready(Ok(Err(rejection))),
            }
        }
        let service = A::Waits::service(&mut self.service);
        match service.poll_ready(cx) {
            Poll::Ready(readied) => readied?,
            Poll::Pending if self.rejects_pending() => {
                let refused = self.admission.refuse(&mut self.local);
                let rejection = refused.expect(NOT_REFUSED);
                return Poll::Ready(Ok(Err(rejection)));
            }
            Poll::Pending => return Poll::Pending,
        }
        let (Some(Stage::Readying { ticket, .. }), Some(req)) =
            (self.stage.take(), self.req.take())
        else {
            panic!("{POLLED}");
        };
        let sent = self.admission.send(ticket);
        Poll::Ready(Ok(sent.map(|sent| State::calling(service, req, sent))))
    }

    /// Whether the call is rejected because it has its ticket but the service is pending.
    fn rejects_pending(&mut self) -> bool {
        let may_reject = matches!(
            self.stage,
            Some(Stage::Readying {
                may_reject: true,
                ..
            })
        );
        may_reject && self.admission.rejects_pending(&mut self.local)
    }
}

impl<S, A, Req> Drop for Waiting<S, A, Req>
where
    A: Admission,
    A::Waits: Waits<S>,
{
    fn drop(&mut self) {
        match self.stage.take() {
            Some(Stage::Readying { ticket, .. }) => self.admission.give_back(ticket),
            Some(Stage::Queued(wait)) => drop(wait),
            None => return,
        }
        unsent::note();
    }
}

const POLLED: &str = "a future must not be polled after it was ready";

const NOT_REFUSED: &str = "an admission that announces a rejection must return it from `refuse`";

impl<S, A, Req, U> fmt::Debug for GateFuture<S, A, Req, U>
where
    S: Service<Req>,
    A: Admission,
    A::Waits: Waits<S>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GateFuture").finish_non_exhaustive()
    }
}
