use super::hedging::Hedging;
use super::race::{Means, Race, Step};
use crate::error::StackError;
use crate::replay::Replay;
use crate::spare::Spare;
use crate::verdict::{Classify, Verdict, judge};
use pin_project_lite::pin_project;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tower::Service;

/// The service that [`HedgeLayer`](super::HedgeLayer) makes.
pub struct Hedge<S, C, R> {
    inner: S,
    common: Arc<Common<S, C, R>>,
}

/// What all clones of a service share.
pub(super) struct Common<S, C, R> {
    /// The instance that copies clone.
    pub(super) spare: Spare<S>,
    pub(super) hedging: Hedging,
    pub(super) classify: C,
    pub(super) replay: R,
}

impl<S: Clone, C, R> Hedge<S, C, R> {
    pub(super) fn new(inner: S, hedging: Hedging, classify: C, replay: R) -> Self {
        let common = Common {
            spare: Spare::new(inner.clone()),
            hedging,
            classify,
            replay,
        };
        Self {
            inner,
            common: Arc::new(common),
        }
    }
}

impl<S: Clone, C, R> Clone for Hedge<S, C, R> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            common: self.common.clone(),
        }
    }
}

impl<S: fmt::Debug, C, R> fmt::Debug for Hedge<S, C, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hedge")
            .field("inner", &self.inner)
            .field("hedging", &self.common.hedging)
            .finish_non_exhaustive()
    }
}

impl<S, C, R, Req> Service<Req> for Hedge<S, C, R>
where
    S: Service<Req> + Clone,
    S::Error: StackError,
    C: Classify<S::Response, S::Error>,
    R: Replay<Req>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = HedgeFuture<S, C, R, Req>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, req: Req) -> Self::Future {
        let copy = self.common.replay.replay(&req);
        HedgeFuture {
            first: First::Calling {
                call: self.inner.call(req),
            },
            copy,
            race: None,
            common: self.common.clone(),
        }
    }
}

pin_project! {
    /// The future of a [`Hedge`] call.
    ///
    /// It adds two pointers and the copy of the request to the inner future. A call that is pending allocates one
    /// box, with its timer, and another for each copy that is sent.
    #[must_use = "futures do nothing unless polled"]
    pub struct HedgeFuture<S, C, R, Req>
    where
        S: Service<Req>,
    {
        #[pin]
        first: First<S::Future>,
        copy: Option<Req>,
        // From the first pending poll on, if the request can be copied.
        race: Option<Pin<Box<Race<S, Req>>>>,
        common: Arc<Common<S, C, R>>,
    }
}

pin_project! {
    #[project = FirstProj]
    enum First<F> {
        Calling {
            #[pin]
            call: F,
        },
        Ended,
    }
}

impl<S, C, R, Req> Future for HedgeFuture<S, C, R, Req>
where
    S: Service<Req> + Clone,
    S::Error: StackError,
    C: Classify<S::Response, S::Error>,
    R: Replay<Req>,
{
    type Output = Result<S::Response, S::Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let shared = &this.common.hedging.shared;
        if let FirstProj::Calling { call } = this.first.as_mut().project() {
            if let Poll::Ready(outcome) = call.poll(cx) {
                this.first.set(First::Ended);
                let verdict = judge(&this.common.classify, outcome.as_ref());
                let rejection = outcome.as_ref().err().and_then(StackError::rejection);
                let is_late = this.race.as_ref().is_some_and(|race| race.is_late());
                if this.copy.is_some() && !is_late && tells(verdict, rejection.is_none()) {
                    shared.observe(false);
                }
                let hedged = this.race.as_ref().is_some_and(|race| race.has_sent());
                let means = Means::of(verdict, rejection);
                if verdict == Verdict::Healthy {
                    shared.earn(hedged);
                } else if means.is_failure_of(verdict) {
                    shared.failed();
                }
                let goes_on = this.copy.is_some() || this.race.is_some();
                if means == Means::End || !goes_on {
                    Race::drop_beaten(this.race);
                    return Poll::Ready(outcome);
                }
                let race = this
                    .race
                    .get_or_insert_with(|| Box::pin(Race::without_timer()));
                race.as_mut().first_failed(outcome, means);
            } else if this.race.is_none() {
                let Some(copy) = this.copy.as_ref() else {
                    return Poll::Pending;
                };
                let deadline = this.common.replay.deadline(copy);
                let left = deadline.map(|deadline| deadline.remaining());
                *this.race = Some(Box::pin(Race::new(shared.delay(left))));
            }
        }
        // Without a race, the call is pending and cannot be copied, or it has ended before.
        let Some(race) = this.race else {
            return match *this.first {
                First::Calling { .. } => Poll::Pending,
                First::Ended => panic!("a future must not be polled after it was ready"),
            };
        };
        let step = ready!(race.as_mut().poll(this.common, this.copy, cx));
        let outcome = match step {
            Step::Won(outcome) => {
                crate::gate::drop_beaten(|| this.first.set(First::Ended));
                outcome
            }
            Step::Lost(outcome) => outcome,
        };
        Race::drop_beaten(this.race);
        Poll::Ready(outcome)
    }
}

/// Whether a call that ended so tells how long a call takes.
const fn tells(verdict: Verdict, was_sent: bool) -> bool {
    was_sent && matches!(verdict, Verdict::Healthy | Verdict::Permanent)
}

impl<S: Service<Req>, C, R, Req> fmt::Debug for HedgeFuture<S, C, R, Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HedgeFuture").finish_non_exhaustive()
    }
}
