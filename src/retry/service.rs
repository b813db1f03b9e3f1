use super::discard::{Discard, Dropped};
use super::policy::{Granted, Policy, Progress};
use crate::budget::{Budget, Withdrawal};
use crate::error::{Rejection, StackError};
use crate::event::GiveUpReason;
use crate::gate::left_waiting;
use crate::replay::{Idempotent, Replay};
use crate::verdict::{Classify, Outcome, Verdict, judge};
use pin_project_lite::pin_project;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};
use tower::Service;

/// The service that [`RetryLayer`](super::RetryLayer) makes.
pub struct Retry<S, C = Outcome, R = Idempotent, D = Dropped> {
    inner: S,
    /// `None`: every request is sent once, and its outcome is not classified.
    shared: Option<Arc<Shared<S, C, R, D>>>,
}

/// What all clones of a service share. A call clones this reference, not the services below.
struct Shared<S, C, R, D> {
    /// The instance that retries clone. It is never polled, so its clones hold no reservation. The
    /// mutex is there because a service need not be `Sync`. The lock is not held while cloning.
    spare: Mutex<Option<S>>,
    policy: Arc<Policy>,
    classify: C,
    replay: R,
    discard: D,
}

impl<S: Clone, C, R, D> Shared<S, C, R, D> {
    /// An unready clone. `None` while another retry is cloning the spare.
    fn unready(&self) -> Option<S> {
        let service = lock(&self.spare).take();
        let spare = Spare {
            home: &self.spare,
            service,
        };
        spare.service.clone()
    }
}

/// A spare that has been taken out. It goes back even if cloning it panics.
struct Spare<'a, S> {
    home: &'a Mutex<Option<S>>,
    service: Option<S>,
}

impl<S> Drop for Spare<'_, S> {
    fn drop(&mut self) {
        if self.service.is_some() {
            *lock(self.home) = self.service.take();
        }
    }
}

fn lock<S>(spare: &Mutex<Option<S>>) -> MutexGuard<'_, Option<S>> {
    // No code panics under the lock, so its poison can be ignored.
    spare.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: Clone, C, R, D> Retry<S, C, R, D> {
    pub(super) fn new(inner: S, policy: Arc<Policy>, classify: C, replay: R, discard: D) -> Self {
        let shared = Shared {
            spare: Mutex::new(Some(inner.clone())),
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
        let mut state = self.project().state;
        if let StateProj::First { call, copy, shared } = state.as_mut().project() {
            let outcome = ready!(call.poll(cx));
            let Some(shared) = shared else {
                return Poll::Ready(outcome);
            };
            let verdict = judge(&shared.classify, outcome.as_ref());
            let copied = copy.as_ref();
            let budget = copied.and_then(|copy| shared.replay.budget(copy));
            if verdict == Verdict::Healthy {
                shared.policy.first_success(budget);
                return Poll::Ready(outcome);
            }
            let mut progress = shared.policy.begin(copied, &shared.replay);
            let granted = shared.follow_up(&mut progress, &outcome, verdict, copied, budget);
            let Some(granted) = granted else {
                return Poll::Ready(outcome);
            };
            let retrying = Retrying {
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

impl<S, C, R, D> Shared<S, C, R, D> {
    /// Decides about the next attempt, after any outcome but the success of a first attempt. `None`:
    /// the call ends with this outcome.
    fn follow_up<Req, Res, E>(
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
    fn wait<F, Res, E>(&self, outcome: Result<Res, E>, granted: Granted) -> Step<F, D::Future>
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

pin_project! {
    /// A call from its first retry on.
    struct Retrying<S, C, R, Req, D>
    where
        S: Service<Req>,
        D: Discard<S::Response>,
    {
        #[pin]
        step: Step<S::Future, D::Future>,
        // A clone, from the end of the wait until the retry is sent.
        service: Option<S>,
        // The budget of the request, if it is not that of the layer.
        budget: Option<Budget>,
        // The request of the next attempt.
        copy: Option<Req>,
        progress: Progress,
        shared: Arc<Shared<S, C, R, D>>,
    }

    impl<S, C, R, Req, D> PinnedDrop for Retrying<S, C, R, Req, D>
    where
        S: Service<Req>,
        D: Discard<S::Response>,
    {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if left_waiting(|| this.step.set(Step::Done)) {
                this.shared.policy.refund(this.budget.as_ref());
            }
        }
    }
}

pin_project! {
    #[project = StepProj]
    enum Step<F, G> {
        // Waits for all of these. The withdrawal goes back to the budget if the retry is not sent.
        Waiting {
            #[pin]
            sleep: Option<Sleep>,
            yielded: bool,
            #[pin]
            discard: Option<G>,
            withdrawal: Option<Withdrawal>,
        },
        Readying { withdrawal: Option<Withdrawal> },
        Calling {
            #[pin]
            call: F,
        },
        Done,
    }
}

impl<S, C, R, Req, D> Retrying<S, C, R, Req, D>
where
    S: Service<Req> + Clone,
    S::Error: StackError,
    C: Classify<S::Response, S::Error>,
    R: Replay<Req>,
    D: Discard<S::Response>,
{
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<S::Response, S::Error>> {
        loop {
            ready!(self.as_mut().poll_send(cx))?;
            let mut this = self.as_mut().project();
            let StepProj::Calling { call } = this.step.as_mut().project() else {
                panic!("{POLLED}");
            };
            let outcome = ready!(call.poll(cx));
            let shared = &*this.shared;
            let verdict = judge(&shared.classify, outcome.as_ref());
            let copy = this.copy.as_ref();
            let budget = this.budget.as_ref();
            let granted = shared.follow_up(this.progress, &outcome, verdict, copy, budget);
            let Some(granted) = granted else {
                this.step.set(Step::Done);
                return Poll::Ready(outcome);
            };
            this.step.set(shared.wait(outcome, granted));
        }
    }

    /// Waits, readies the service and sends the request. Ready when an attempt is in flight.
    fn poll_send(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        let mut this = self.project();
        let Shared { policy, replay, .. } = &**this.shared;
        let withdrawal = match this.step.as_mut().project() {
            StepProj::Waiting {
                sleep,
                yielded,
                discard,
                withdrawal,
            } => {
                // Both are polled, so that each registers the waker.
                let slept = poll_and_drop(sleep, cx);
                let discarded = poll_and_drop(discard, cx);
                if !std::mem::replace(yielded, true) {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                ready!(slept);
                ready!(discarded);
                withdrawal.take()
            }
            StepProj::Readying { withdrawal } => withdrawal.take(),
            StepProj::Calling { .. } => return Poll::Ready(Ok(())),
            StepProj::Done => panic!("{POLLED}"),
        };
        if this.service.is_none() {
            *this.service = this.shared.unready();
        }
        let Some(service) = this.service else {
            // Another thread is cloning the spare. Try again soon.
            this.step.set(Step::Readying { withdrawal });
            cx.waker().wake_by_ref();
            return Poll::Pending;
        };
        match service.poll_ready(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => {
                drop(withdrawal);
                this.step.set(Step::Done);
                return Poll::Ready(Err(error));
            }
            Poll::Pending => {
                this.step.set(Step::Readying { withdrawal });
                return Poll::Pending;
            }
        }
        let mut req = this.copy.take().expect(POLLED);
        // The deadline may have passed while the service was readied or the response discarded.
        let deadline = replay.deadline(&req);
        if deadline.is_some_and(|deadline| deadline.rules_out(Instant::now(), Duration::ZERO)) {
            drop(withdrawal);
            this.step.set(Step::Done);
            let by = policy.settings.name;
            return Poll::Ready(Err(S::Error::reject(Rejection::DeadlinePassed { by })));
        }
        this.progress.attempt += 1;
        let last = this.progress.attempt >= this.progress.attempts;
        *this.copy = if last { None } else { replay.keep(&req) };
        replay.resend(&mut req, this.progress.attempt);
        // From here on the retry counts as sent.
        if let Some(withdrawal) = withdrawal {
            withdrawal.spend();
        }
        let call = service.call(req);
        // Dropping the instance frees what it still has reserved while the attempt is in flight.
        *this.service = None;
        this.step.set(Step::Calling { call });
        Poll::Ready(Ok(()))
    }
}

/// Polls a future, if there is one, and drops it when it completes.
fn poll_and_drop<F: Future<Output = ()>>(
    mut slot: Pin<&mut Option<F>>,
    cx: &mut Context<'_>,
) -> Poll<()> {
    if let Some(future) = slot.as_mut().as_pin_mut() {
        ready!(future.poll(cx));
        slot.set(None);
    }
    Poll::Ready(())
}

const POLLED: &str = "a future must not be polled after it was ready";

impl<S, C, R, Req, D> fmt::Debug for RetryFuture<S, C, R, Req, D>
where
    S: Service<Req>,
    D: Discard<S::Response>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryFuture").finish_non_exhaustive()
    }
}
