use crate::error::Rejection;
use crate::verdict::Verdict;
use pin_project_lite::pin_project;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tower::Service;

/// A failed call, for the function that answers it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Failed<Req, Res, E> {
    /// A copy of the request, if the replay policy made one.
    pub req: Option<Req>,
    /// How the call ended.
    pub outcome: Result<Res, E>,
    /// The verdict on that.
    pub verdict: Verdict,
    /// The rejection, if a layer of this crate ended the call.
    pub rejection: Option<Rejection>,
}

impl<Req, Res, E> Failed<Req, Res, E> {
    pub(super) const fn new(
        req: Option<Req>,
        outcome: Result<Res, E>,
        verdict: Verdict,
        rejection: Option<Rejection>,
    ) -> Self {
        Self {
            req,
            outcome,
            verdict,
            rejection,
        }
    }
}

/// Answers failed calls. Functions from [`Failed`] to a future implement it, and [`To`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot answer a failed call of a `{Req}`",
    note = "a function must take a `Failed<{Req}, {Res}, {E}>` and return a future of `Result<{Res}, {E}>`",
    note = "a second service must have the request, response and error types of the first, and be `Clone`"
)]
pub trait Answer<Req, Res, E> {
    /// The answer.
    type Future: Future<Output = Result<Res, E>>;

    /// Whether it sends the request again. Then [`Failed::req`] is `None` if the replay policy does not allow that.
    const SENDS: bool;

    /// Begins to answer.
    ///
    /// # Errors
    /// The outcome of the failed call, if there is no other answer.
    fn answer(&self, failed: Failed<Req, Res, E>) -> Result<Self::Future, Result<Res, E>>;
}

impl<A, F, Req, Res, E> Answer<Req, Res, E> for A
where
    A: Fn(Failed<Req, Res, E>) -> F,
    F: Future<Output = Result<Res, E>>,
{
    type Future = F;
    const SENDS: bool = false;

    fn answer(&self, failed: Failed<Req, Res, E>) -> Result<F, Result<Res, E>> {
        Ok(self(failed))
    }
}

/// Sends the request to a second service. [`FallbackLayer::to`](super::FallbackLayer::to) makes it.
#[derive(Clone, Copy, Debug)]
pub struct To<S, B = Last> {
    service: S,
    both: B,
}

impl<S> To<S> {
    pub(super) const fn new(service: S) -> Self {
        Self {
            service,
            both: Last,
        }
    }

    pub(super) fn both<B>(self, both: B) -> To<S, B> {
        To {
            service: self.service,
            both,
        }
    }
}

/// Makes one error of two, if the second service fails too. Functions implement it, and [`Last`].
pub trait Both<E> {
    /// `first`: the error of the failed call, unless it ended with a response.
    fn both(&self, first: Option<E>, second: E) -> E;
}

/// Returns the error of the second service as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Last;

impl<E> Both<E> for Last {
    fn both(&self, _: Option<E>, second: E) -> E {
        second
    }
}

impl<F: Fn(Option<E>, E) -> E, E> Both<E> for F {
    fn both(&self, first: Option<E>, second: E) -> E {
        self(first, second)
    }
}

impl<S, B, Req, Res, E> Answer<Req, Res, E> for To<S, B>
where
    S: Service<Req, Response = Res, Error = E> + Clone,
    B: Both<E> + Clone,
{
    type Future = ToFuture<S, B, Req>;
    const SENDS: bool = true;

    fn answer(&self, failed: Failed<Req, Res, E>) -> Result<Self::Future, Result<Res, E>> {
        let Some(req) = failed.req else {
            return Err(failed.outcome);
        };
        // Drops the response, which may hold a connection or a slot.
        let first = failed.outcome.err();
        let service = self.service.clone();
        Ok(ToFuture {
            step: Step::Readying {
                service,
                req: Some(req),
            },
            first,
            both: self.both.clone(),
        })
    }
}

pin_project! {
    /// The future of [`To`].
    #[must_use = "futures do nothing unless polled"]
    pub struct ToFuture<S, B, Req>
    where
        S: Service<Req>,
    {
        #[pin]
        step: Step<S, S::Future, Req>,
        first: Option<S::Error>,
        both: B,
    }
}

pin_project! {
    #[project = StepProj]
    enum Step<S, F, Req> {
        Readying { service: S, req: Option<Req> },
        Calling {
            #[pin]
            call: F,
        },
    }
}

impl<S, B, Req> Future for ToFuture<S, B, Req>
where
    S: Service<Req>,
    B: Both<S::Error>,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let outcome = loop {
            match this.step.as_mut().project() {
                StepProj::Readying { service, req } => {
                    if let Err(error) = ready!(service.poll_ready(cx)) {
                        break Err(error);
                    }
                    let req = req.take().expect(super::POLLED);
                    let call = service.call(req);
                    this.step.set(Step::Calling { call });
                }
                StepProj::Calling { call } => break ready!(call.poll(cx)),
            }
        };
        let first = this.first.take();
        Poll::Ready(outcome.map_err(|second| this.both.both(first, second)))
    }
}

impl<S: Service<Req>, B, Req> std::fmt::Debug for ToFuture<S, B, Req> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ToFuture").finish_non_exhaustive()
    }
}
