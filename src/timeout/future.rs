use super::seen::Seen;
use crate::error::{Rejection, StackError};
use crate::time;
use crate::verdict::ended_by_deadline;
use pin_project_lite::pin_project;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};

/// Stands for a timeout if the request carries an earlier deadline. (No real timeout has this value:
/// it would never run out.)
pub(super) const FOUND: u64 = u64::MAX;

/// How long a call may take, and who counts it if it takes longer.
pub(super) struct Limit {
    /// The timeout in nanoseconds, or [`FOUND`].
    pub(super) after: u64,
    pub(super) seen: Arc<Seen>,
    pub(super) clock: Clock,
}

/// The clock of a call. Without a carrier it starts at the first pending poll: a call that responds at
/// once does not read the clock.
pub(super) enum Clock {
    /// This many nanoseconds are left.
    NotStarted(u64),
    /// The request carries this deadline: the timeout's own or an earlier one. It is put into the
    /// request at `call`, so the clock is read then.
    Carried(Instant),
    /// The same as `Carried`, with a running timer.
    CarriedRuns(Pin<Box<Sleep>>),
    Runs(Pin<Box<Sleep>>),
    Never,
}

pin_project! {
    /// The future of a [`Timeout`](super::Timeout) call.
    #[must_use = "futures do nothing unless polled"]
    pub struct TimeoutFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F> {
        Calling {
            #[pin]
            call: F,
            limit: Limit,
        },
        OutOfTime { rejection: Rejection, seen: Arc<Seen> },
        Done,
    }
}

impl<F> TimeoutFuture<F> {
    pub(super) fn calling(call: F, limit: Limit) -> Self {
        Self {
            state: State::Calling { call, limit },
        }
    }

    pub(super) fn out_of_time(rejection: Rejection, seen: Arc<Seen>) -> Self {
        Self {
            state: State::OutOfTime { rejection, seen },
        }
    }
}

impl<F, Res, E> Future for TimeoutFuture<F>
where
    F: Future<Output = Result<Res, E>>,
    E: StackError,
{
    type Output = Result<Res, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        let (rejection, seen) = match state.as_mut().project() {
            StateProj::Calling { call, limit } => match call.poll(cx) {
                // If both are due, the response wins.
                Poll::Ready(outcome) => match outcome {
                    // This timeout gave the inner layers its deadline, so the end of it is a timeout.
                    Err(error) if ended_by_deadline(&error) && limit.carried_ran_out() => {
                        (limit.rejection(), limit.seen.clone())
                    }
                    outcome => {
                        if limit.clock.timer().is_some() {
                            // Frees what the inner future holds, and stops the timer.
                            state.set(State::Done);
                        }
                        return Poll::Ready(outcome);
                    }
                },
                Poll::Pending => {
                    ready!(limit.poll(cx));
                    (limit.rejection(), limit.seen.clone())
                }
            },
            StateProj::OutOfTime { rejection, seen } => (*rejection, seen.clone()),
            StateProj::Done => panic!("a future must not be polled after it was ready"),
        };
        // Drop the inner future before the caller sees the error.
        state.set(State::Done);
        seen.tell(rejection);
        Poll::Ready(Err(E::reject(rejection)))
    }
}

impl Limit {
    /// Ready when the call has run out of time.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let now = Instant::now();
        let end = match &self.clock {
            Clock::NotStarted(length) => time::later(now, Duration::from_nanos(*length)),
            Clock::Carried(end) => Some(*end),
            Clock::Runs(timer) | Clock::CarriedRuns(timer) => Some(timer.deadline()),
            Clock::Never => None,
        };
        let Some(end) = end else {
            self.clock = Clock::Never;
            return Poll::Pending;
        };
        // Compare with the clock first: a task without cooperative budget cannot poll a timer, not
        // even to register it.
        if end <= now {
            return Poll::Ready(());
        }
        match self.clock {
            Clock::NotStarted(_) => self.clock = Clock::Runs(Box::pin(sleep_until(end))),
            Clock::Carried(_) => self.clock = Clock::CarriedRuns(Box::pin(sleep_until(end))),
            _ => {}
        }
        match self.clock.timer() {
            Some(timer) => timer.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }

    /// Whether the deadline has passed that this timeout put into the request.
    fn carried_ran_out(&self) -> bool {
        let end = match &self.clock {
            Clock::Carried(end) => *end,
            Clock::CarriedRuns(timer) => timer.deadline(),
            _ => return false,
        };
        self.after != FOUND && end <= Instant::now()
    }

    fn rejection(&self) -> Rejection {
        let by = self.seen.name;
        if self.after == FOUND {
            Rejection::DeadlinePassed { by }
        } else {
            let after = Duration::from_nanos(self.after);
            Rejection::TimedOut { after, by }
        }
    }
}

impl Clock {
    fn timer(&mut self) -> Option<&mut Pin<Box<Sleep>>> {
        match self {
            Self::Runs(timer) | Self::CarriedRuns(timer) => Some(timer),
            _ => None,
        }
    }
}

impl<F> fmt::Debug for TimeoutFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimeoutFuture").finish_non_exhaustive()
    }
}
