use super::breaker::{Mark, Pass, Settled, Told};
use super::circuit::Shared;
use crate::error::StackError;
use crate::gate::{Finish, Sent, is_beaten};
use crate::time::nanos;
use crate::verdict::{Classify, Verdict, ended_by_deadline, judge};
use std::sync::Arc;
use std::{fmt, mem};

/// The right to make one call. Report the outcome by [`settle`](Self::settle).
///
/// Dropping a permit means that the call was cancelled. A cancelled call counts as failed if the
/// permit was held for at least `abandoned_after`, and as nothing otherwise. A permit has no effect
/// if the circuit has changed its state since the permit was taken.
///
/// ```
/// use buttress::{Verdict, circuit_breaker::Circuit};
///
/// let circuit = Circuit::builder().build()?;
/// let permit = circuit.try_acquire()?;
/// // ... make the call ...
/// permit.settle(Verdict::TRANSIENT);
/// assert_eq!(circuit.snapshot().failures, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a permit that is dropped counts as a cancelled call"]
pub struct Permit {
    shared: Arc<Shared>,
    call: Call,
}

/// A call that was let through. Its holder must settle or abandon it.
#[derive(Debug)]
pub(super) struct Call {
    /// When the call came in flight: at its first pending poll, or at `try_acquire`. Before that,
    /// [`NOT_YET`].
    since: u64,
    pub(super) pass: Pass,
    stage: Stage,
}

/// Which code runs for the call. This tells what it means if the permit is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The caller's: a drop means that the caller cancelled the call.
    Idle,
    /// The inner service's: a drop means that it panicked.
    AtWork,
    /// The classifier's: a drop means that it panicked, which says nothing about the upstream.
    Judged,
    /// None: the call is settled.
    Settled,
}

const NOT_YET: u64 = u64::MAX;

impl Call {
    pub(super) fn new(pass: Pass) -> Self {
        Self {
            since: NOT_YET,
            pass,
            stage: Stage::Idle,
        }
    }

    /// Settles the call by a verdict. Only the first verdict counts.
    #[inline]
    fn spend(&mut self, verdict: Verdict, shared: &Shared) {
        if mem::replace(&mut self.stage, Stage::Settled) == Stage::Settled {
            return;
        }
        let mark = match verdict {
            Verdict::Healthy => Mark::Good,
            Verdict::Transient { retry_after, .. } => Mark::Bad {
                hint: retry_after.delay().map_or(0, nanos),
            },
            Verdict::Permanent => Mark::Bad { hint: 0 },
            Verdict::Throttled { .. } | Verdict::Local | Verdict::Ignored => Mark::None,
        };
        shared.after(shared.breaker.settle(self.pass, mark, self.since(), shared));
    }

    /// Called when the permit is dropped.
    #[inline]
    fn end(&mut self, shared: &Shared) {
        if self.stage != Stage::Settled {
            self.abandon(shared);
        }
    }

    /// The call ended without an outcome: its caller cancelled it, or it panicked.
    fn abandon(&mut self, shared: &Shared) {
        // Replace the stage first: what follows runs wakers, which may panic, and the drop that then
        // follows must not settle the call again.
        let settled: Settled = match mem::replace(&mut self.stage, Stage::Settled) {
            Stage::Settled => return,
            // A call that was beaten was not slow enough to fail: another copy was faster.
            Stage::Idle if is_beaten() => {
                shared
                    .breaker
                    .settle(self.pass, Mark::None, self.since(), shared)
            }
            Stage::Judged => shared
                .breaker
                .settle(self.pass, Mark::None, self.since(), shared),
            stage => {
                let panicked = stage == Stage::AtWork;
                shared
                    .breaker
                    .abandon(self.pass, panicked, self.since(), shared)
            }
        };
        shared.after_drop(settled);
    }

    #[inline]
    fn since(&self) -> Option<u64> {
        (self.since != NOT_YET).then_some(self.since)
    }

    /// The call is in flight from now on, unless it was already.
    fn in_flight(&mut self, shared: &Shared) {
        if self.since == NOT_YET {
            self.since = shared.now();
        }
    }

    /// Settles a probe when its head arrives: otherwise a long body would keep the probe. If that
    /// closes the circuit, the call continues as any other; if not, its body no longer counts.
    fn settle_head(&mut self, shared: &Shared) {
        let settled = shared
            .breaker
            .settle(self.pass, Mark::Good, self.since(), shared);
        match shared.breaker.renew(self.pass) {
            Some(renewed) => self.pass = renewed,
            None => self.stage = Stage::Settled,
        }
        shared.after(settled);
    }

    /// Settles the call by its outcome. If `goes_on`, a healthy head does not settle it yet.
    fn learn<C, Res, E>(
        &mut self,
        classify: &C,
        outcome: Result<&Res, &E>,
        goes_on: bool,
        shared: &Shared,
    ) where
        C: Classify<Res, E>,
        E: StackError,
    {
        self.stage = Stage::Judged;
        let verdict = judge(classify, outcome);
        self.stage = Stage::Idle;
        match (outcome, verdict) {
            (Ok(_), Verdict::Healthy) if goes_on => {
                self.in_flight(shared);
                if self.pass.is_probe() {
                    self.settle_head(shared);
                }
            }
            // A deadline ended the call: the same as if its caller had cancelled it.
            (Err(error), Verdict::Ignored) if ended_by_deadline(error) => self.abandon(shared),
            _ => self.spend(verdict, shared),
        }
    }
}

impl Permit {
    pub(super) fn new(shared: Arc<Shared>, call: Call) -> Self {
        Self { shared, call }
    }

    /// Reports how the call went.
    pub fn settle(mut self, verdict: Verdict) {
        self.call.spend(verdict, &self.shared);
    }

    pub(super) fn in_flight(&mut self) {
        self.call.in_flight(&self.shared);
    }

    /// Takes the call out, for another owner to settle.
    pub(super) fn into_call(mut self) -> Call {
        let settled = Call {
            stage: Stage::Settled,
            ..self.call
        };
        mem::replace(&mut self.call, settled)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.call.end(&self.shared);
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("name", &self.shared.name)
            .field("probe", &self.call.pass.is_probe())
            .finish_non_exhaustive()
    }
}

/// A circuit with the classifier of its calls.
#[derive(Debug)]
pub(super) struct Judge<C> {
    pub(super) circuit: super::Circuit,
    pub(super) classify: C,
}

/// A permit with the classifier that judges its call's outcome.
pub struct Judged<C> {
    judge: Arc<Judge<C>>,
    call: Call,
}

impl<C> Judged<C> {
    pub(super) fn new(judge: Arc<Judge<C>>, call: Call) -> Self {
        Self { judge, call }
    }
}

impl<C> Drop for Judged<C> {
    fn drop(&mut self) {
        self.call.end(&self.judge.circuit.shared);
    }
}

impl<C> Finish for Judged<C> {
    fn finish(&mut self, verdict: Verdict) {
        self.call.spend(verdict, &self.judge.circuit.shared);
    }
}

impl<C: Classify<Res, E>, Res, E: StackError> Sent<Res, E> for Judged<C> {
    fn enter(&mut self) {
        self.call.stage = Stage::AtWork;
    }

    fn leave(&mut self, pending: bool) {
        self.call.stage = Stage::Idle;
        if pending {
            self.call.in_flight(&self.judge.circuit.shared);
        }
    }

    fn settle(&mut self, outcome: Result<&Res, &E>, goes_on: bool) {
        let Judge { circuit, classify } = &*self.judge;
        self.call.learn(classify, outcome, goes_on, &circuit.shared);
    }
}

impl<C> fmt::Debug for Judged<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Judged")
            .field("call", &self.call)
            .finish_non_exhaustive()
    }
}
