use super::discard::{Discard, Dropped};
use super::policy::{Granted, Policy, Progress};
use super::retrying::{Retrying, Step};
use crate::budget::Budget;
use crate::error::StackError;
use crate::event::GiveUpReason;
use crate::metrics::{Ended, Moment};
use crate::replay::{Idempotent, Replay};
use crate::spare::Spare;
use crate::verdict::{Classify, Outcome, Verdict, judge};
use pin_project_lite::pin_project;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::time::sleep;
use tower::Service;

/// The service that [`RetryLayer`](super::RetryLayer) makes.
pub struct Retry<S, C = Outcome, R = Idempotent, D = Dropped> {
    inner: S,
    /// `None`: every request is sent once, and its outcome is not classified.
    shared: Option<Arc<Shared<S, C, R, D>>>,
}

/// What all clones of a service share. A call clones this reference, not the services below.
pub(super) struct Shared<S, C, R, D> {
    /// The instance that retries clone.
    pub(super) spare: Spare<S>,
    pub(super) policy: Arc<Policy>,
    pub(super) classify: C,
    pub(super) replay: R,
    discard: D,
}

impl<S: Clone, C, R, D> Retry<S, C, R, D> {
    pub(super) fn new(inner: S, policy: Arc<Policy>, classify: C, replay: R, discard: D) -> Self {
        let shared = Shared {
            spare: Spare::new(inner.clone()),
            policy,
            classify,
            replay,
            discard,
        };
        Self {
            inner,
            shared: Some(Arc::new(shared)),
        }
    }

    /// A service that never retries.
    pub(crate) fn off(inner: S) -> Self {
        Self {
            inner,
            shared: None,
        }
    }
}

impl<S, C, R, D> Retry<S, C, R, D> {
    /// Now, if calls are measured.
    pub(super) fn now(&self) -> Moment {
        match &self.shared {
            Some(shared) => shared.policy.meter.begin(),
            None => Moment::default(),
        }
    }
}

impl<S: Clone, C, R, D> Clone for Retry<S, C, R, D> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            shared: self.shared.clone(),
        }
    }
}

impl<S: fmt::Debug, C, R, D> fmt::Debug for Retry<S, C, R, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry")
            .field("inner", &self.inner)
            .field(
                "settings",
                &self.shared.as_ref().map(|shared| &shared.policy.settings),
            )
            .finish_non_exhaustive()
    }
}

impl<S, C, R, D, Req> Service<Req> for Retry<S, C, R, D>
where
    S: Service<Req> + Clone,
    S::Error: StackError,
    C: Classify<S::Response, S::Error>,
    R: Replay<Req>,
    D: Discard<S::Response>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = RetryFuture<S, C, R, Req, D>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, req: Req) -> Self::Future {
        let repeats = |shared: &&Arc<Shared<S, C, R, D>>| shared.policy.settings.attempts > 1;
        let shared = self.shared.as_ref().filter(repeats);
        let copy = shared.and_then(|shared| shared.replay.keep(&req));
        // The readied instance makes the first attempt. Unready clones make the retries.
        RetryFuture {
            state: State::First {
                call: self.inner.call(req),
                copy,
                shared: self.shared.clone(),
            },
        }
    }
}

pin_project! {
    /// The future of a [`Retry`] call.
    ///
    /// It adds a pointer and the copy of the request to the inner future. A call that is retried
    /// allocates one box.
    #[must_use = "futures do nothing unless polled"]
    pub struct RetryFuture<S, C, R, Req, D = Dropped>
    where
        S: Service<Req>,
        D: Discard<S::Response>,
    {
        #[pin]
        state: State<S, C, R, Req, D>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, C, R, Req, D>
    where
        S: Service<Req>,
        D: Discard<S::Response>,
    {
        First {
            #[pin]
            call: S::Future,
            copy: Option<Req>,
            shared: Option<Arc<Shared<S, C, R, D>>>,
        },
        Retrying { retrying: Pin<Box<Retrying<S, C, R, Req, D>>> },
        Done,
    }
}

impl<S, C, R, Req, D> Future for RetryFuture<S, C, R, Req, D>
where
    S: Service<Req> + Clone,
    S::Error: StackError,
    C: Classify<S::Response, S::Error>,
    R: Replay<Req>,
    D: Discard<S::Response>,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_since(&mut Moment::default(), cx)
    }
}

impl<S, C, R, Req, D> RetryFuture<S, C, R, Req, D>
where
    S: Service<Req> + Clone,
    S::Error: StackError,
    C: Classify<S::Response, S::Error>,
    R: Replay<Req>,
    D: Discard<S::Response>,
{
    /// Polls a call that began at `since`, which is taken when the first attempt ends.
    pub(super) fn poll_since(
        self: Pin<&mut Self>,
        since: &mut Moment,
        cx: &mut Context<'_>,
    ) -> Poll<Result<S::Response, S::Error>> {
        let mut state = self.project().state;
        if let StateProj::First { call, copy, shared } = state.as_mut().project() {
            let outcome = ready!(call.poll(cx));
            let Some(shared) = shared else {
                return Poll::Ready(outcome);
            };
            let verdict = judge(&shared.classify, outcome.as_ref());
            let meter = &shared.policy.meter;
            let (since, ended) = (std::mem::take(since), ended(verdict, &outcome));
            if shared.policy.only_measures {
                meter.call_of_one(since, ended);
                return Poll::Ready(outcome);
            }
            let copied = copy.as_ref();
            let budget = copied.and_then(|copy| shared.replay.budget(copy));
            if verdict == Verdict::Healthy {
                meter.call_of_one(since, ended);
                shared.policy.first_success(budget);
                return Poll::Ready(outcome);
            }
            let end = meter.attempt(since, 1, ended);
            let mut progress = shared.policy.begin(copied, &shared.replay);
            let granted = shared.follow_up(&mut progress, &outcome, verdict, copied, budget);
            let Some(granted) = granted else {
                meter.call(since, end, ended);
                return Poll::Ready(outcome);
            };
            let retrying = Retrying {
                since,
                sent: Moment::default(),
                step: shared.wait(outcome, granted),
                service: None,
                budget: budget.cloned(),
                copy: copy.take(),
                progress,
                shared: shared.clone(),
            };
            // This drops the first attempt before the wait, which frees what it held below.
            state.set(State::Retrying {
                retrying: Box::pin(retrying),
            });
        }
        let StateProj::Retrying { retrying } = state.as_mut().project() else {
            panic!("{POLLED}");
        };
        let outcome = ready!(retrying.as_mut().poll(cx));
        state.set(State::Done);
        Poll::Ready(outcome)
    }
}

impl<S, C, R, Req, D> RetryFuture<S, C, R, Req, D>
where
    S: Service<Req>,
    D: Discard<S::Response>,
{
    /// Records a call that was dropped during its first attempt.
    pub(super) fn cancelled(&self, since: Moment) {
        if let State::First {
            shared: Some(shared),
            ..
        } = &self.state
        {
            shared.policy.meter.call_of_one(since, Ended::CANCELLED);
        }
    }
}

impl<S, C, R, D> Shared<S, C, R, D> {
    /// Decides about the next attempt, after any outcome but the success of a first attempt. `None`:
    /// the call ends with this outcome.
    pub(super) fn follow_up<Req, Res, E>(
        &self,
        progress: &mut Progress,
        outcome: &Result<Res, E>,
        verdict: Verdict,
        copy: Option<&Req>,
        budget: Option<&Budget>,
    ) -> Option<Granted>
    where
        R: Replay<Req>,
        E: StackError,
    {
        let Self { policy, replay, .. } = self;
        let rejection = outcome.as_ref().err().and_then(StackError::rejection);
        let granted = policy.after(progress, verdict, rejection, budget, copy, replay)?;
        // Asked last: a copy that will be sent may stop the previous attempt from reading its body.
        if !copy.is_some_and(|copy| replay.replayable(copy)) {
            policy.give_up(progress.attempt, verdict, GiveUpReason::NotReplayable);
            return None;
        }
        policy.retrying(progress.attempt, verdict, granted.wait);
        Some(granted)
    }

    /// Discards an outcome and begins the wait for the next attempt.
    pub(super) fn wait<F, Res, E>(
        &self,
        outcome: Result<Res, E>,
        granted: Granted,
    ) -> Step<F, D::Future>
    where
        D: Discard<Res>,
    {
        Step::Waiting {
            sleep: (!granted.wait.is_zero()).then(|| sleep(granted.wait)),
            // Without a backoff the call yields once, to other tasks and to the timeouts around it.
            yielded: !granted.wait.is_zero(),
            discard: outcome.ok().and_then(|res| self.discard.discard(res)),
            withdrawal: granted.withdrawal,
        }
    }
}

/// How an attempt ended, for metrics.
pub(super) fn ended<Res, E: StackError>(verdict: Verdict, outcome: &Result<Res, E>) -> Ended {
    let rejection = outcome.as_ref().err().and_then(StackError::rejection);
    Ended::with(verdict, rejection)
}

pub(super) const POLLED: &str = "a future must not be polled after it was ready";

impl<S, C, R, Req, D> fmt::Debug for RetryFuture<S, C, R, Req, D>
where
    S: Service<Req>,
    D: Discard<S::Response>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryFuture").finish_non_exhaustive()
    }
}
