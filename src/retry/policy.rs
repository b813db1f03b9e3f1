//! Decides whether a call is sent again, and when.

use super::settings::RetrySettings;
use crate::budget::{Budget, Withdrawal};
use crate::chance::{Chance, scale};
use crate::error::Rejection;
use crate::event::{Count, Counters, Event, GiveUpReason, GiveUps, Observers, Retries};
use crate::metrics::Meter;
use crate::name::Name;
use crate::replay::Replay;
use crate::time::{TICK, nanos};
use crate::verdict::{RetryAfter, Verdict};
use std::time::Duration;
use tokio::time::Instant;

#[derive(Debug)]
pub(super) struct Policy {
    pub(super) settings: RetrySettings,
    pub(super) budget: Option<Budget>,
    chance: Chance,
    transient: Count,
    throttled: Count,
    local: Count,
    recovered: Count,
    gave_up: Counters<GiveUpReason>,
    pub(super) observers: Observers,
    pub(super) meter: Meter,
    /// Calls are measured, but neither retried nor reported.
    pub(super) only_measures: bool,
}

/// A granted retry. Its token goes back to the budget if the retry is not sent.
pub(super) struct Granted {
    pub(super) wait: Duration,
    pub(super) withdrawal: Option<Withdrawal>,
}

/// How far a call has come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    /// The number of the current attempt, from 1. Between two attempts: the number of the last one.
    pub(super) attempt: u32,
    /// How many attempts the call may have.
    pub(super) attempts: u32,
    /// The last backoff, without the upstream's `retry_after`.
    pub(super) previous: Duration,
}

impl Policy {
    pub(super) fn new(
        settings: RetrySettings,
        budget: Option<Budget>,
        only_measures: bool,
    ) -> Self {
        Self {
            settings,
            budget,
            chance: Chance::new(settings.seed),
            transient: Count::default(),
            throttled: Count::default(),
            local: Count::default(),
            recovered: Count::default(),
            gave_up: Counters::default(),
            observers: Observers::default(),
            meter: Meter::default(),
            only_measures,
        }
    }

    /// The progress of a call whose first attempt did not succeed.
    pub(super) fn begin<Req>(&self, copy: Option<&Req>, replay: &impl Replay<Req>) -> Progress {
        let attempts = copy.and_then(|copy| replay.attempts(copy));
        Progress {
            attempt: 1,
            attempts: attempts.unwrap_or(self.settings.attempts),
            previous: Duration::ZERO,
        }
    }

    /// Records the success of a first attempt. What a successful retry earns is up to the budget.
    #[inline]
    pub(super) fn first_success(&self, budget: Option<&Budget>) {
        if let Some(budget) = self.pays(budget) {
            budget.deposit();
        }
    }

    /// The budget of the request, or else that of the layer.
    fn pays<'a>(&'a self, of_request: Option<&'a Budget>) -> Option<&'a Budget> {
        of_request.or(self.budget.as_ref())
    }

    /// Decides about the next attempt after any other outcome. `None`: the call ends.
    pub(super) fn after<Req>(
        &self,
        progress: &mut Progress,
        verdict: Verdict,
        rejection: Option<Rejection>,
        budget: Option<&Budget>,
        copy: Option<&Req>,
        replay: &impl Replay<Req>,
    ) -> Option<Granted> {
        let budget = self.pays(budget);
        if progress.attempt > 1 {
            // A retry that timed out may have been sent. One that was rejected was not.
            if rejection.is_some_and(|rejection| rejection.was_not_sent()) {
                budget.into_iter().for_each(Budget::refund);
            }
            if verdict == Verdict::Healthy {
                self.recovered.add();
                self.observers.tell(Event::Recovered {
                    name: self.settings.name,
                    attempt: progress.attempt,
                });
                budget.into_iter().for_each(Budget::retry_succeeded);
            }
        }
        let is_failure = match verdict {
            Verdict::Transient { .. } | Verdict::Throttled { .. } => true,
            Verdict::Local => false,
            Verdict::Healthy | Verdict::Permanent | Verdict::Ignored => return None,
        };
        let copy = copy.filter(|copy| replay.may_resend(copy, verdict));
        // After the last attempt there is no copy to ask about.
        if is_failure && (copy.is_some() || progress.attempt >= progress.attempts) {
            budget.into_iter().for_each(Budget::record_failure);
        }
        match self.grant(progress, verdict, budget, copy, replay) {
            Ok(granted) => Some(granted),
            Err(reason) => {
                self.give_up(progress.attempt, verdict, reason);
                None
            }
        }
    }

    /// Grants the next attempt, or says why there is none. `copy`: the request, if it may be sent again.
    fn grant<Req>(
        &self,
        progress: &mut Progress,
        verdict: Verdict,
        budget: Option<&Budget>,
        copy: Option<&Req>,
        replay: &impl Replay<Req>,
    ) -> Result<Granted, GiveUpReason> {
        let asked = match verdict.retry_after() {
            RetryAfter::None => Duration::ZERO,
            RetryAfter::Delay(delay) => delay,
            // The upstream asked for an unknown time, so wait for the longest backoff.
            RetryAfter::Unreadable => self.settings.backoff.cap,
        };
        if progress.attempt >= progress.attempts {
            return Err(GiveUpReason::Attempts);
        }
        let copy = copy.ok_or(GiveUpReason::NotReplayable)?;
        if asked > self.settings.max_retry_after {
            return Err(GiveUpReason::RetryAfter);
        }
        let draw = self.chance.draw();
        let backoff = &self.settings.backoff;
        progress.previous = replay
            .backoff(copy, progress.attempt, draw)
            .unwrap_or_else(|| backoff.wait(progress.attempt, progress.previous, draw));
        let wait = progress.previous.max(spread(asked, draw));
        // A timer may fire one tick late.
        let sent_after = if wait.is_zero() {
            wait
        } else {
            wait.saturating_add(TICK)
        };
        // The deadline is checked before the budget: a retry that would be too late takes no token.
        let deadline = replay.deadline(copy);
        if deadline.is_some_and(|deadline| deadline.rules_out(Instant::now(), sent_after)) {
            return Err(GiveUpReason::Deadline);
        }
        let withdrawal = match budget {
            None => None,
            Some(budget) => Some(budget.try_withdraw().ok_or(GiveUpReason::Budget)?),
        };
        Ok(Granted { wait, withdrawal })
    }

    /// Puts back the token of a retry that was counted as sent, but was not.
    pub(super) fn refund(&self, budget: Option<&Budget>) {
        self.pays(budget).into_iter().for_each(Budget::refund);
    }

    /// Counts and reports a granted retry.
    pub(super) fn retrying(&self, attempt: u32, verdict: Verdict, wait: Duration) {
        match verdict {
            Verdict::Throttled { .. } => self.throttled.add(),
            Verdict::Local => self.local.add(),
            _ => self.transient.add(),
        }
        self.observers.tell(Event::Retrying {
            name: self.settings.name,
            attempt,
            wait,
            verdict,
        });
    }

    pub(super) fn give_up(&self, attempt: u32, verdict: Verdict, reason: GiveUpReason) {
        self.gave_up.add(reason);
        self.observers.tell(Event::GaveUp {
            name: self.settings.name,
            attempt,
            verdict,
            reason,
        });
    }

    pub(super) fn snapshot(&self) -> RetrySnapshot {
        let by_verdict = Retries {
            transient: self.transient.get(),
            throttled: self.throttled.get(),
            local: self.local.get(),
        };
        RetrySnapshot {
            name: self.settings.name,
            retries: by_verdict
                .by_verdict()
                .into_iter()
                .map(|(_, count)| count)
                .sum(),
            by_verdict,
            recovered: self.recovered.get(),
            gave_up: (&self.gave_up).into(),
        }
    }
}

/// A retry layer at one moment, for a registry.
#[derive(Debug)]
pub struct RetryState {
    pub(crate) attempts: u32,
    pub(crate) counts: RetrySnapshot,
    /// The tokens in the budget.
    pub(crate) tokens: Option<f64>,
}

/// Lengthens the wait that the upstream asks for by a random part, at most a quarter and at most 5 s,
/// so that not all callers return at the same moment.
fn spread(asked: Duration, draw: f64) -> Duration {
    let range = (asked / 4).min(Duration::from_secs(5));
    asked.saturating_add(Duration::from_nanos(scale(nanos(range), draw)))
}

/// The counters of a [`RetryLayer`](super::RetryLayer), since the layer was built. They count the
/// calls of all its services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetrySnapshot {
    /// The name of the layer.
    pub name: Name,
    /// Retries that were granted.
    pub retries: u64,
    /// The same, by the verdict on the attempt before.
    pub by_verdict: Retries,
    /// Calls that succeeded by a retry.
    pub recovered: u64,
    /// Failed calls that were not retried although their verdict allowed it, by reason.
    pub gave_up: GiveUps,
}
