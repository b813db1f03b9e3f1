//! A call from its first retry on.

use super::discard::Discard;
use super::policy::Progress;
use super::service::{POLLED, Shared, ended};
use crate::budget::{Budget, Withdrawal};
use crate::error::{Rejection, StackError};
use crate::gate::left_waiting;
use crate::metrics::{Ended, Moment};
use crate::replay::Replay;
use crate::verdict::{Classify, judge};
use pin_project_lite::pin_project;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep};
use tower::Service;

pin_project! {
    /// A call from its first retry on.
    pub(super) struct Retrying<S, C, R, Req, D>
    where
        S: Service<Req>,
        D: Discard<S::Response>,
    {
        #[pin]
        pub(super) step: Step<S::Future, D::Future>,
        // A clone, from the end of the wait until the retry is sent.
        pub(super) service: Option<S>,
        // The budget of the request, if it is not that of the layer.
        pub(super) budget: Option<Budget>,
        // The request of the next attempt.
        pub(super) copy: Option<Req>,
        pub(super) progress: Progress,
        pub(super) shared: Arc<Shared<S, C, R, D>>,
        // When the call began, until it has ended.
        pub(super) since: Moment,
        // When the attempt in flight was sent.
        pub(super) sent: Moment,
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
            if this.since.is_some() {
                let meter = &this.shared.policy.meter;
                meter.attempt(*this.sent, this.progress.attempt, Ended::CANCELLED);
                meter.call(*this.since, meter.begin(), Ended::CANCELLED);
            }
        }
    }
}

pin_project! {
    #[project = StepProj]
    pub(super) enum Step<F, G> {
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
    pub(super) fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<S::Response, S::Error>> {
        loop {
            if let Err(error) = ready!(self.as_mut().poll_send(cx)) {
                let outcome = Err(error);
                let this = self.as_mut().project();
                let meter = &this.shared.policy.meter;
                let verdict = judge(&this.shared.classify, outcome.as_ref());
                let since = std::mem::take(this.since);
                meter.call(since, meter.begin(), ended(verdict, &outcome));
                return Poll::Ready(outcome);
            }
            let mut this = self.as_mut().project();
            let StepProj::Calling { call } = this.step.as_mut().project() else {
                panic!("{POLLED}");
            };
            let outcome = ready!(call.poll(cx));
            let shared = &*this.shared;
            let verdict = judge(&shared.classify, outcome.as_ref());
            let (meter, ended) = (&shared.policy.meter, ended(verdict, &outcome));
            let sent = std::mem::take(this.sent);
            let end = meter.attempt(sent, this.progress.attempt, ended);
            let copy = this.copy.as_ref();
            let budget = this.budget.as_ref();
            let granted = shared.follow_up(this.progress, &outcome, verdict, copy, budget);
            let Some(granted) = granted else {
                meter.call(std::mem::take(this.since), end, ended);
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
            *this.service = this.shared.spare.unready();
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
        *this.sent = policy.meter.begin();
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
