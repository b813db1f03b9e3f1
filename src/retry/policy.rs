//! Whether a call is sent again, and when.

use super::settings::RetrySettings;
use crate::budget::{Budget, Withdrawal};
use crate::chance::{Chance, scale};
use crate::deadline::Deadline;
use crate::error::Rejection;
use crate::event::{Count, Counters, Event, GiveUpReason, GiveUps};
use crate::name::Name;
use crate::time::{TICK, nanos};
use crate::verdict::{RetryAfter, Verdict};
use std::time::Duration;
use tokio::time::Instant;

#[derive(Debug)]
pub(super) struct Policy {
    pub(super) settings: RetrySettings,
    pub(super) budget: Option<Budget>,
    chance: Chance,
    retries: Count,
    recovered: Count,
    gave_up: Counters<GiveUpReason>,
}

/// A retry that is granted. What it took from the budget goes back if it is not sent.
pub(super) struct Granted {
    pub(super) wait: Duration,
    pub(super) withdrawal: Option<Withdrawal>,
}

/// How far a call is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    /// The attempt that is under way or was last, from 1.
    pub(super) attempt: u32,
    /// The last backoff.
    pub(super) previous: Duration,
}

impl Policy {
    pub(super) fn new(settings: RetrySettings, budget: Option<Budget>) -> Self {
        Self {
            settings,
            budget,
            chance: Chance::new(settings.seed),
            retries: Count::default(),
            recovered: Count::default(),
            gave_up: Counters::default(),
        }
    }

    /// A first attempt succeeded. A retry that succeeds earns nothing, or retries would pay for
    /// themselves.
    #[inline]
    pub(super) fn first_success(&self) {
        if let Some(budget) = &self.budget {
            budget.deposit();
        }
    }

    /// What comes after any other outcome: the next attempt, or none.
    pub(super) fn after(
        &self,
        progress: &mut Progress,
        verdict: Verdict,
        rejection: Option<Rejection>,
        copied: bool,
        deadline: impl FnOnce() -> Option<Deadline>,
    ) -> Option<Granted> {
        if progress.attempt > 1 {
            // A retry that ran out of time may have been sent; one that was rejected was not.
            if rejection.is_some_and(|rejection| rejection.was_not_sent()) {
                self.refund();
            }
            if verdict == Verdict::Healthy {
                self.recovered.add();
            }
        }
        if !matches!(
            verdict,
            Verdict::Transient { .. } | Verdict::Throttled { .. } | Verdict::Local
        ) {
            return None;
        }
        match self.grant(progress, verdict, copied, deadline) {
            Ok(granted) => Some(granted),
            Err(reason) => {
                self.give_up(progress.attempt, verdict, reason);
                None
            }
        }
    }

    /// The next attempt, or why there is none.
    fn grant(
        &self,
        progress: &mut Progress,
        verdict: Verdict,
        copied: bool,
        deadline: impl FnOnce() -> Option<Deadline>,
    ) -> Result<Granted, GiveUpReason> {
        let asked = match verdict.retry_after() {
            RetryAfter::None => Duration::ZERO,
            RetryAfter::Delay(delay) => delay,
            // Never sooner than what the upstream may have asked for: the longest backoff.
            RetryAfter::Unreadable => self.settings.backoff.cap,
        };
        if progress.attempt >= self.settings.attempts {
            return Err(GiveUpReason::Attempts);
        }
        if !copied {
            return Err(GiveUpReason::NotReplayable);
        }
        if asked > self.settings.max_retry_after {
            return Err(GiveUpReason::RetryAfter);
        }
        let draw = self.chance.draw();
        let backoff = &self.settings.backoff;
        progress.previous = backoff.wait(progress.attempt, progress.previous, draw);
        let wait = progress.previous.max(spread(asked, draw));
        // A timer may be a tick late.
        let sent_after = if wait.is_zero() {
            wait
        } else {
            wait.saturating_add(TICK)
        };
        // Before the budget: a retry that cannot be sent in time takes no token from others.
        if deadline().is_some_and(|deadline| deadline.rules_out(Instant::now(), sent_after)) {
            return Err(GiveUpReason::Deadline);
        }
        let withdrawal = match &self.budget {
            None => None,
            Some(budget) => Some(budget.try_withdraw().ok_or(GiveUpReason::Budget)?),
        };
        Ok(Granted { wait, withdrawal })
    }

    /// Puts a token back that was spent on a retry which was not sent after all.
    pub(super) fn refund(&self) {
        self.budget.iter().for_each(Budget::refund);
    }

    /// Counts and reports a retry that will be sent.
    pub(super) fn retrying(&self, attempt: u32, verdict: Verdict, wait: Duration) {
        self.retries.add();
        Event::Retrying {
            name: self.settings.name,
            attempt,
            wait,
            verdict,
        }
        .emit();
    }

    pub(super) fn give_up(&self, attempt: u32, verdict: Verdict, reason: GiveUpReason) {
        self.gave_up.add(reason);
        Event::GaveUp {
            name: self.settings.name,
            attempt,
            verdict,
            reason,
        }
        .emit();
    }

    pub(super) fn snapshot(&self) -> RetrySnapshot {
        RetrySnapshot {
            name: self.settings.name,
            retries: self.retries.get(),
            recovered: self.recovered.get(),
            gave_up: (&self.gave_up).into(),
        }
    }
}

/// What the upstream asks for, never cut short, and up to a quarter more (5 s at most), so that not
/// all its callers come back at once.
fn spread(asked: Duration, draw: f64) -> Duration {
    let range = (asked / 4).min(Duration::from_secs(5));
    asked.saturating_add(Duration::from_nanos(scale(nanos(range), draw)))
}

/// What the services of a [`RetryLayer`](super::RetryLayer) did since the layer was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetrySnapshot {
    /// The name of the layer.
    pub name: Name,
    /// How many retries were granted.
    pub retries: u64,
    /// How many calls succeeded by a retry.
    pub recovered: u64,
    /// How many failed calls were not sent again.
    pub gave_up: GiveUps,
}
