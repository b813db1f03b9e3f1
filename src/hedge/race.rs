//! A call that is late, and its copies.

use super::hedging::Delay;
use super::service::Common;
use crate::budget::{Budget, Withdrawal};
use crate::error::{Rejection, StackError};
use crate::event::HedgeDenied;
use crate::gate;
use crate::replay::Replay;
use crate::verdict::{Classify, RetryAfter, Verdict, judge};
use pin_project_lite::pin_project;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};
use tower::Service;

/// What the outcome of one copy means for the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Means {
    /// It is the answer.
    End,
    /// Another copy may do better, and may be sent.
    Fail,
    /// Another copy may do better, but no more are sent.
    Stop,
}

impl Means {
    pub(super) fn of(verdict: Verdict, rejection: Option<Rejection>) -> Self {
        match rejection {
            Some(Rejection::DeadlinePassed { .. }) => return Self::End,
            // Its verdict is transient.
            Some(Rejection::TimedOut { .. }) | None => {}
            Some(_) => return Self::Stop,
        }
        match verdict {
            Verdict::Healthy | Verdict::Permanent | Verdict::Ignored => Self::End,
            Verdict::Transient {
                retry_after: RetryAfter::None,
                ..
            } => Self::Fail,
            Verdict::Transient { .. } | Verdict::Throttled { .. } | Verdict::Local => Self::Stop,
        }
    }
}

impl Means {
    /// Whether the upstream failed, by the rule of gRPC's budget.
    pub(super) const fn is_failure_of(self, verdict: Verdict) -> bool {
        !matches!(self, Self::End)
            && matches!(
                verdict,
                Verdict::Transient { .. } | Verdict::Throttled { .. }
            )
    }
}

/// How the race ended.
pub(super) enum Step<T> {
    /// A copy has the answer.
    Won(T),
    /// All have failed. The outcome of the first copy.
    Lost(T),
}

pin_project! {
    pub(super) struct Race<S, Req>
    where
        S: Service<Req>,
    {
        // Until the next copy is due.
        #[pin]
        timer: Option<Sleep>,
        began: Option<Instant>,
        delay: Delay,
        // Whether the first copy has taken longer than the delay.
        late: bool,
        // Whether no more copies are sent.
        stopped: bool,
        sent: u32,
        copies: Vec<Pin<Box<Copy<S, Req>>>>,
        // The outcome of the first copy, once it has failed.
        first: Option<Result<S::Response, S::Error>>,
        // Whether the next copy is due at once, because one has failed.
        due: bool,
    }
}

pin_project! {
    struct Copy<S, Req>
    where
        S: Service<Req>,
    {
        number: u32,
        #[pin]
        stage: Stage<S, S::Future, Req>,
        // Gets the token back if the copy was not sent after all.
        budget: Budget,
    }

    impl<S, Req> PinnedDrop for Copy<S, Req>
    where
        S: Service<Req>,
    {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if gate::also_left_waiting(|| this.stage.set(Stage::Done)) {
                this.budget.refund();
            }
        }
    }
}

pin_project! {
    #[project = StageProj]
    enum Stage<S, F, Req> {
        // Nothing is reserved before a copy is due. The withdrawal goes back to the budget if it is not sent.
        Readying { service: Option<S>, req: Option<Req>, withdrawal: Option<Withdrawal> },
        Calling {
            #[pin]
            call: F,
        },
        Done,
    }
}

impl<S: Service<Req>, Req> Race<S, Req> {
    pub(super) fn new(delay: Delay) -> Self {
        let now = Instant::now();
        let end = crate::time::later(now, delay.length);
        Self {
            timer: end.map(sleep_until),
            began: Some(now),
            ..Self::with(delay)
        }
    }

    /// The race of a call that failed before it was pending.
    pub(super) fn without_timer() -> Self {
        Self::with(Delay {
            length: Duration::ZERO,
            sends: true,
            tells: false,
        })
    }

    const fn with(delay: Delay) -> Self {
        Self {
            timer: None,
            began: None,
            delay,
            late: false,
            stopped: false,
            sent: 0,
            copies: Vec::new(),
            first: None,
            due: false,
        }
    }

    pub(super) const fn is_late(&self) -> bool {
        self.late
    }

    pub(super) const fn has_sent(&self) -> bool {
        self.sent > 0
    }

    /// Drops the copies that lost. Their age does not count against the upstream.
    pub(super) fn drop_beaten(race: &mut Option<Pin<Box<Self>>>) {
        if race.is_some() {
            gate::drop_beaten(|| *race = None);
        }
    }

    pub(super) fn first_failed(
        self: Pin<&mut Self>,
        outcome: Result<S::Response, S::Error>,
        means: Means,
    ) {
        let this = self.project();
        *this.first = Some(outcome);
        *this.stopped |= means == Means::Stop;
        *this.due = true;
    }
}

type Outcome<S, Req> = Result<<S as Service<Req>>::Response, <S as Service<Req>>::Error>;

impl<S, Req> Race<S, Req>
where
    S: Service<Req> + Clone,
    S::Error: StackError,
{
    /// Ready when a copy has the answer, or when all have failed.
    pub(super) fn poll<C, R>(
        mut self: Pin<&mut Self>,
        common: &Common<S, C, R>,
        request: &mut Option<Req>,
        cx: &mut Context<'_>,
    ) -> Poll<Step<Outcome<S, Req>>>
    where
        C: Classify<S::Response, S::Error>,
        R: Replay<Req>,
    {
        loop {
            self.as_mut().poll_timer(common, cx);
            if std::mem::take(self.as_mut().project().due) {
                self.as_mut().send(common, request);
                // The timer of the next copy registers its waker.
                self.as_mut().poll_timer(common, cx);
            }
            let this = self.as_mut().project();
            let mut at = 0;
            while let Some(copy) = this.copies.get_mut(at) {
                let Poll::Ready(outcome) = copy.as_mut().poll(common, *this.began, cx) else {
                    at += 1;
                    continue;
                };
                let copy = this.copies.swap_remove(at);
                let verdict = judge(&common.classify, outcome.as_ref());
                let rejection = outcome.as_ref().err().and_then(StackError::rejection);
                if rejection.is_some_and(|rejection| rejection.was_not_sent()) {
                    copy.budget.refund();
                }
                let means = Means::of(verdict, rejection);
                let shared = &common.hedging.shared;
                if verdict == Verdict::Healthy {
                    shared.earn(true);
                } else if means.is_failure_of(verdict) {
                    shared.failed();
                }
                if means == Means::End && rejection.is_none() {
                    shared.won(copy.number);
                    return Poll::Ready(Step::Won(outcome));
                }
                // A copy that was rejected has no answer, whatever the reason.
                *this.stopped |= means != Means::Fail;
                *this.due = true;
            }
            if *this.due && !*this.stopped {
                continue;
            }
            if this.copies.is_empty() {
                if let Some(outcome) = this.first.take() {
                    return Poll::Ready(Step::Lost(outcome));
                }
            }
            return Poll::Pending;
        }
    }

    /// Notes that the first copy is late, and that a copy is due.
    fn poll_timer<C, R>(self: Pin<&mut Self>, common: &Common<S, C, R>, cx: &mut Context<'_>) {
        let mut this = self.project();
        let Some(timer) = this.timer.as_mut().as_pin_mut() else {
            return;
        };
        // Compare with the clock first: a task without cooperative budget cannot poll a timer.
        if timer.deadline() > Instant::now() && timer.poll(cx).is_pending() {
            return;
        }
        this.timer.set(None);
        if !std::mem::replace(this.late, true) && this.delay.tells && this.first.is_none() {
            common.hedging.shared.observe(true);
        }
        *this.due |= this.delay.sends;
    }

    /// Sends a copy, if one may be sent.
    fn send<C, R>(self: Pin<&mut Self>, common: &Common<S, C, R>, request: &mut Option<Req>)
    where
        R: Replay<Req>,
    {
        let mut this = self.project();
        let (shared, replay) = (&common.hedging.shared, &common.replay);
        let hedges = shared.settings.hedges;
        if *this.stopped || *this.sent >= hedges {
            return;
        }
        let now = Instant::now();
        let deadline = request.as_ref().and_then(|copy| replay.deadline(copy));
        if deadline.is_some_and(|deadline| deadline.rules_out(now, Duration::ZERO)) {
            *this.stopped = true;
            return;
        }
        // Asked last: a copy that will be sent may stop the first from reading its body.
        let withdrawal = shared.withdraw();
        if withdrawal.is_none() {
            shared.denied(HedgeDenied::Budget);
            return;
        }
        let Some(mut req) = request.take().filter(|copy| replay.replayable(copy)) else {
            *this.stopped = true;
            drop(withdrawal);
            shared.denied(HedgeDenied::NotReplayable);
            return;
        };
        *this.sent += 1;
        let number = *this.sent;
        if number < hedges {
            *request = replay.replay(&req);
            let next = crate::time::later(now, this.delay.length);
            this.timer.set(next.map(sleep_until));
        }
        replay.resend(&mut req, number + 1);
        this.copies.push(Box::pin(Copy {
            number,
            budget: common.hedging.budget().clone(),
            stage: Stage::Readying {
                service: None,
                req: Some(req),
                withdrawal,
            },
        }));
    }
}

impl<S, Req> Copy<S, Req>
where
    S: Service<Req> + Clone,
{
    /// Readies a clone, sends the request, and waits for its outcome.
    fn poll<C, R>(
        self: Pin<&mut Self>,
        common: &Common<S, C, R>,
        began: Option<Instant>,
        cx: &mut Context<'_>,
    ) -> Poll<Outcome<S, Req>> {
        let mut this = self.project();
        if let StageProj::Readying {
            service,
            req,
            withdrawal,
        } = this.stage.as_mut().project()
        {
            if service.is_none() {
                *service = common.spare.unready();
            }
            let Some(service) = service else {
                // Another thread is cloning. Try again soon.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            };
            ready!(service.poll_ready(cx))?;
            // From here on the copy counts as sent.
            if let Some(withdrawal) = withdrawal.take() {
                withdrawal.spend();
            }
            let req = req.take().expect("a copy is sent once");
            let call = service.call(req);
            this.stage.set(Stage::Calling { call });
            let after = began.map_or(Duration::ZERO, |began| began.elapsed());
            common.hedging.shared.hedged(*this.number, after);
        }
        match this.stage.project() {
            StageProj::Calling { call } => call.poll(cx),
            StageProj::Readying { .. } | StageProj::Done => unreachable!("it was sent"),
        }
    }
}
