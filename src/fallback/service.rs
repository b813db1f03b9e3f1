use super::answer::{Answer, Failed};
use super::layer::FallbackLayer;
use super::{Mark, POLLED};
use crate::error::{Rejection, StackError};
use crate::replay::Replay;
use crate::verdict::{Classify, judge};
use pin_project_lite::pin_project;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::Instant;
use tower::Service;

/// The service that [`FallbackLayer`] makes.
pub struct Fallback<S, A, C, R, M> {
    inner: S,
    layer: Arc<FallbackLayer<A, C, R, M>>,
}

impl<S, A, C, R, M> Fallback<S, A, C, R, M> {
    pub(super) const fn new(inner: S, layer: Arc<FallbackLayer<A, C, R, M>>) -> Self {
        Self { inner, layer }
    }
}

impl<S: Clone, A, C, R, M> Clone for Fallback<S, A, C, R, M> {
    fn clone(&self) -> Self {
        Self::new(self.inner.clone(), self.layer.clone())
    }
}

impl<S: fmt::Debug, A, C, R, M> fmt::Debug for Fallback<S, A, C, R, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fallback")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl<S, A, C, R, M, Req> Service<Req> for Fallback<S, A, C, R, M>
where
    S: Service<Req>,
    S::Error: StackError,
    A: Answer<Req, S::Response, S::Error>,
    C: Classify<S::Response, S::Error>,
    R: Replay<Req>,
    M: Mark<S::Response>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = FallbackFuture<S, A, C, R, M, Req>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, req: Req) -> Self::Future {
        let copy = self.layer.replay.keep(&req);
        FallbackFuture {
            state: State::First {
                call: self.inner.call(req),
                copy,
            },
            layer: self.layer.clone(),
        }
    }
}

pin_project! {
    /// The future of a [`Fallback`] call.
    ///
    /// It adds a pointer and the copy of the request to the inner future. A call that falls back allocates one box.
    #[must_use = "futures do nothing unless polled"]
    pub struct FallbackFuture<S, A, C, R, M, Req>
    where
        S: Service<Req>,
        A: Answer<Req, S::Response, S::Error>,
    {
        #[pin]
        state: State<S::Future, A::Future, Req>,
        layer: Arc<FallbackLayer<A, C, R, M>>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, G, Req> {
        First {
            #[pin]
            call: F,
            copy: Option<Req>,
        },
        Second { answer: Pin<Box<Second<G>>> },
        Done,
    }
}

pin_project! {
    struct Second<G> {
        #[pin]
        answer: G,
        rejection: Option<Rejection>,
    }
}

impl<S, A, C, R, M, Req> Future for FallbackFuture<S, A, C, R, M, Req>
where
    S: Service<Req>,
    S::Error: StackError,
    A: Answer<Req, S::Response, S::Error>,
    C: Classify<S::Response, S::Error>,
    R: Replay<Req>,
    M: Mark<S::Response>,
{
    type Output = Result<S::Response, S::Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let (mut state, layer) = (this.state, &**this.layer);
        if let StateProj::First { call, copy } = state.as_mut().project() {
            let outcome = ready!(call.poll(cx));
            let verdict = judge(&layer.classify, outcome.as_ref());
            let rejection = outcome.as_ref().err().and_then(StackError::rejection);
            if !(layer.when)(verdict, rejection) {
                layer.seen.well();
                return Poll::Ready(outcome);
            }
            let mut copy = copy.take();
            if A::SENDS {
                let not_sent = rejection.is_some_and(|it| it.was_not_sent());
                copy = copy.filter(|copy| {
                    let deadline = layer.replay.deadline(copy);
                    (not_sent || layer.replay.may_resend(copy, verdict))
                        && !deadline.is_some_and(|it| it.rules_out(Instant::now(), Duration::ZERO))
                        // Asked last: a copy that will be sent may stop the first call from reading its body.
                        && layer.replay.replayable(copy)
                });
            }
            // The first call gives back what it holds below.
            state.set(State::Done);
            let failed = Failed::new(copy, outcome, verdict, rejection);
            let answer = match layer.answer.answer(failed) {
                Ok(answer) => answer,
                Err(outcome) => return Poll::Ready(outcome),
            };
            let answer = Box::pin(Second { answer, rejection });
            state.set(State::Second { answer });
            layer.seen.fell_back(verdict, rejection);
        }
        let StateProj::Second { answer } = state.as_mut().project() else {
            panic!("{POLLED}");
        };
        let second = answer.as_mut().project();
        let mut outcome = ready!(second.answer.poll(cx));
        match &mut outcome {
            Ok(response) => layer.mark.mark(response, *second.rejection),
            Err(_) => layer.seen.failed(),
        }
        state.set(State::Done);
        Poll::Ready(outcome)
    }
}

impl<S, A, C, R, M, Req> fmt::Debug for FallbackFuture<S, A, C, R, M, Req>
where
    S: Service<Req>,
    A: Answer<Req, S::Response, S::Error>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FallbackFuture").finish_non_exhaustive()
    }
}
