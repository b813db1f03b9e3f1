use super::breaker::{Mark, Pass, Settled, Told};
use super::circuit::Shared;
use crate::error::StackError;
use crate::gate::{Finish, Sent};
use crate::time::nanos;
use crate::verdict::{Classify, Verdict, ended_by_deadline, judge};
use std::sync::Arc;
use std::{fmt, mem};

/// The right to make one call, to be spent with the verdict on it.
///
/// Dropped unspent, the call was cancelled: that is ignored if it was in flight for less than
/// `abandoned_after`, and counts as a failure otherwise. A permit of an epoch that is over, because
/// the circuit changed meanwhile, changes nothing.
#[must_use = "a permit that is dropped counts as a cancelled call"]
pub struct Permit {
    shared: Arc<Shared>,
    call: Call,
}

/// A call that was let through. Whoever holds one must spend or abandon it.
#[derive(Debug)]
pub(super) struct Call {
    /// When the call was first in flight, or [`NOT_YET`].
    since: u64,
    pub(super) pass: Pass,
    stage: Stage,
}

/// Who has the call. Whoever has it when its permit is dropped has panicked, or left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The caller.
    Idle,
    /// The inner service.
    AtWork,
    /// The classifier, whose panic says nothing about the upstream.
    Judged,
    /// Nobody any more.
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

    /// Spends the call. Only the first verdict counts.
    #[inline]
    fn spend(&mut self, verdict: Verdict, shared: &Shared) {
        if mem::replace(&mut self.stage, Stage::Settled) == Stage::Settled {
            return;
        }
        let mark = match verdict {
            Verdict::Healthy => Mark::Good,
            Verdict::Transient { retry_after } => Mark::Bad {
                hint: retry_after.delay().map_or(0, nanos),
            },
            Verdict::Permanent => Mark::Bad { hint: 0 },
            Verdict::Throttled { .. } | Verdict::Local | Verdict::Ignored => Mark::None,
        };
        shared.after(shared.breaker.settle(self.pass, mark, self.since(), shared));
    }

    /// The permit is dropped.
    #[inline]
    fn end(&mut self, shared: &Shared) {
        if self.stage != Stage::Settled {
            self.abandon(shared);
        }
    }

    /// The call ended without an outcome: its caller left, or it panicked.
    fn abandon(&mut self, shared: &Shared) {
        // First, as what follows runs wakers, which may panic: it must not be done again then.
        let settled: Settled = match mem::replace(&mut self.stage, Stage::Settled) {
            Stage::Settled => return,
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
        shared.after(settled);
    }

    #[inline]
    fn since(&self) -> Option<u64> {
        (self.since != NOT_YET).then_some(self.since)
    }

    /// The call is in flight from now, unless it has been.
    fn in_flight(&mut self, shared: &Shared) {
        if self.since == NOT_YET {
            self.since = shared.now();
        }
    }

    /// A probe is settled by its head, or a long body would hold its place. If that closed the circuit,
    /// the call goes on as any other; otherwise its body no longer counts.
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

    /// Learns the outcome. If the call `goes_on`, a success by its head alone is none yet.
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
            // The caller had no more time for the call: as if it had left.
            (Err(error), Verdict::Ignored) if ended_by_deadline(error) => self.abandon(shared),
            _ => self.spend(verdict, shared),
        }
    }
}

impl Permit {
    pub(super) fn new(shared: Arc<Shared>, call: Call) -> Self {
        Self { shared, call }
    }

    /// Spends the permit.
    pub fn settle(mut self, verdict: Verdict) {
        self.call.spend(verdict, &self.shared);
    }

    pub(super) fn in_flight(&mut self) {
        self.call.in_flight(&self.shared);
    }

    /// The call, for somebody else to spend.
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

/// A circuit and the classifier of its calls.
#[derive(Debug)]
pub(super) struct Judge<C> {
    pub(super) circuit: super::Circuit,
    pub(super) classify: C,
}

/// A permit with the classifier that judges its call.
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
