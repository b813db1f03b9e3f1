//! From the record to figures: one set for each phase and client. The table and the claims are made
//! of these alone.

use std::time::Duration;

use buttress::Rejection;
use buttress::circuit_breaker::CircuitState;

use crate::callee::DEADLINE;
use crate::record::{Call, Change, Outcome, Record, Side};
use crate::script::Phase;

/// The grain of time in which recovery is judged and the plots are drawn.
pub const BIN: Duration = Duration::from_millis(250);

#[derive(Clone, Debug)]
pub struct PhaseFigures {
    pub phase: Phase,
    /// The longest that the bare ticker was kept waiting while calls of this phase were out.
    pub stall: Duration,
    pub breaker: BreakerFigures,
    pub bare: Figures,
    pub naive: Figures,
    pub buttress: Figures,
}

#[derive(Clone, Copy, Debug)]
pub struct BreakerFigures {
    /// It went from another state to open within the phase.
    pub opened: bool,
    /// It was closed from the beginning of the phase to its end.
    pub stayed_closed: bool,
}

/// What became of one client's calls in one phase.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    pub calls: usize,
    pub succeeded: usize,
    /// Rejected by the load shed, the breaker and the rate limit: the last attempt was not sent.
    pub shed: usize,
    pub circuit_open: usize,
    pub rate_limited: usize,
    pub sends: usize,
    pub p50: Duration,
    pub p99: Duration,
    /// The longest that the client held a call.
    pub longest: Duration,
    /// The median wait of the rejected calls.
    pub rejected_p50: Duration,
    /// From the start of the phase to the first bin from which every later bin is good.
    pub recovery: Option<Duration>,
}

impl Figures {
    pub fn rejected(&self) -> usize {
        self.shed + self.circuit_open + self.rate_limited
    }

    pub fn sends_per_call(&self) -> f64 {
        share(self.sends, self.calls)
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of one minute")]
pub fn share(part: usize, whole: usize) -> f64 {
    part as f64 / whole as f64
}

pub fn phase_figures(record: &Record) -> Vec<PhaseFigures> {
    let phases = record.script.phases.iter().enumerate();
    phases
        .map(|(index, &phase)| {
            let [bare, naive, buttress] = record
                .sides
                .each_ref()
                .map(|side| figures(side, index, phase));
            PhaseFigures {
                phase,
                stall: stall(record, phase),
                breaker: breaker(&record.breaker, phase),
                bare,
                naive,
                buttress,
            }
        })
        .collect()
}

fn figures(side: &Side, index: usize, phase: Phase) -> Figures {
    let calls: Vec<Call> = side
        .calls
        .iter()
        .filter(|call| call.phase == index)
        .copied()
        .collect();
    let rejected = sorted_waits(&calls, |outcome| matches!(outcome, Outcome::Rejected(_)));
    let waits = sorted_waits(&calls, |_| true);
    let count =
        |wanted: fn(Outcome) -> bool| calls.iter().filter(|call| wanted(call.outcome)).count();
    Figures {
        calls: calls.len(),
        succeeded: count(|outcome| outcome == Outcome::Succeeded),
        shed: count(|outcome| matches!(outcome, Outcome::Rejected(Rejection::Overloaded { .. }))),
        circuit_open: count(|outcome| {
            matches!(outcome, Outcome::Rejected(Rejection::CircuitOpen { .. }))
        }),
        rate_limited: count(|outcome| {
            matches!(
                outcome,
                Outcome::Rejected(Rejection::RateLimited { .. } | Rejection::TooCostly { .. })
            )
        }),
        sends: side.sends.iter().filter(|send| send.phase == index).count(),
        p50: percentile(&waits, 50),
        p99: percentile(&waits, 99),
        longest: calls.iter().map(Call::held).max().unwrap_or_default(),
        rejected_p50: percentile(&rejected, 50),
        recovery: recovery(&calls, phase),
    }
}

fn sorted_waits(calls: &[Call], wanted: fn(Outcome) -> bool) -> Vec<Duration> {
    let calls = calls.iter().filter(|call| wanted(call.outcome));
    let mut waits: Vec<Duration> = calls.map(Call::waited).collect();
    waits.sort_unstable();
    waits
}

/// The smallest wait that at least so many per cent of the calls did not exceed.
pub fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

/// The bin of a time.
pub fn bin(time: Duration) -> usize {
    usize::try_from(time.as_nanos() / BIN.as_nanos()).expect("a run has few bins")
}

/// How many bins cover a length, the last one perhaps in part.
pub fn bins(length: Duration) -> usize {
    bin(length + BIN.saturating_sub(Duration::from_nanos(1)))
}

fn recovery(calls: &[Call], phase: Phase) -> Option<Duration> {
    let mut tally = vec![(0, 0); bins(phase.end.saturating_sub(phase.start))];
    for call in calls {
        let (succeeded, all) = &mut tally[bin(call.due.saturating_sub(phase.start))];
        *all += 1;
        *succeeded += usize::from(call.outcome == Outcome::Succeeded);
    }
    let is_good = |(succeeded, all): &&(usize, usize)| succeeded * 100 >= all * 99;
    let good = tally.iter().rev().take_while(is_good).count();
    let first = u32::try_from(tally.len() - good).expect("a phase has few bins");
    (good > 0).then(|| BIN * first)
}

fn stall(record: &Record, phase: Phase) -> Duration {
    // A call that is due at the end of the phase may be out one deadline longer.
    let end = phase.end + DEADLINE;
    let gaps = record
        .gaps
        .iter()
        .filter(|gap| gap.from < end && gap.to > phase.start);
    gaps.map(|gap| gap.to.saturating_sub(gap.from))
        .max()
        .unwrap_or_default()
}

fn breaker(changes: &[Change], phase: Phase) -> BreakerFigures {
    let before = changes.iter().rfind(|change| change.at < phase.start);
    let mut within = changes
        .iter()
        .filter(|change| (phase.start..phase.end).contains(&change.at));
    BreakerFigures {
        stayed_closed: before.is_none_or(|change| change.to == CircuitState::Closed)
            && within
                .clone()
                .all(|change| change.to == CircuitState::Closed),
        opened: within.any(|change| change.to == CircuitState::Open),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Gap;
    use crate::script::{Condition, Script};

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    const SECOND: Phase = Phase {
        condition: Condition::Recovered,
        start: Duration::from_secs(1),
        end: Duration::from_secs(2),
    };

    /// A hundred calls in each bin of the second, and so many failures in each.
    fn calls(failures: [usize; 4]) -> Vec<Call> {
        let bin = |(bin, failures): (u64, usize)| {
            let due = millis(1000 + 250 * bin);
            let call = Call {
                phase: 0,
                due,
                fired: due,
                ended: due,
                outcome: Outcome::Succeeded,
            };
            let mut calls = vec![call; 100];
            calls[..failures].fill(Call {
                outcome: Outcome::Failed,
                ..call
            });
            calls
        };
        (0..).zip(failures).flat_map(bin).collect()
    }

    #[test]
    fn recovery_is_the_first_bin_after_the_last_bad_one() {
        assert_eq!(recovery(&calls([0, 0, 0, 1]), SECOND), Some(Duration::ZERO));
        assert_eq!(recovery(&calls([0, 2, 0, 0]), SECOND), Some(millis(500)));
        assert_eq!(recovery(&calls([2, 0, 2, 0]), SECOND), Some(millis(750)));
        assert_eq!(recovery(&calls([0, 0, 0, 2]), SECOND), None);
    }

    #[test]
    fn a_percentile_is_the_wait_at_its_rank() {
        let waits: Vec<Duration> = (1..=200).map(millis).collect();
        assert_eq!(percentile(&waits, 50), millis(100));
        assert_eq!(percentile(&waits, 99), millis(198));
        assert_eq!(percentile(&waits[..1], 99), millis(1));
        assert_eq!(percentile(&[], 99), Duration::ZERO);
    }

    #[test]
    fn a_breaker_that_stays_open_did_not_open() {
        let before = Change {
            at: millis(900),
            to: CircuitState::Open,
        };
        let figures = breaker(&[before], SECOND);
        assert!(!figures.opened && !figures.stayed_closed);
        let within = Change {
            at: millis(1500),
            to: CircuitState::Open,
        };
        let figures = breaker(
            &[
                Change {
                    to: CircuitState::Closed,
                    ..before
                },
                within,
            ],
            SECOND,
        );
        assert!(figures.opened && !figures.stayed_closed);
        let after = Change {
            at: millis(2000),
            to: CircuitState::Open,
        };
        let figures = breaker(
            &[
                Change {
                    to: CircuitState::Closed,
                    ..before
                },
                after,
            ],
            SECOND,
        );
        assert!(!figures.opened && figures.stayed_closed);
    }

    #[test]
    fn a_stall_counts_wherever_calls_of_the_phase_are_out() {
        let gap = |from, to| Gap {
            from: millis(from),
            to: millis(to),
        };
        let record = |gap| Record {
            script: Script::quick(),
            sides: [(); 3].map(|()| Side {
                calls: Vec::new(),
                sends: Vec::new(),
                sockets: 0,
            }),
            gaps: vec![gap],
            breaker: Vec::new(),
        };
        assert_eq!(stall(&record(gap(900, 1100)), SECOND), millis(200));
        assert_eq!(stall(&record(gap(2900, 3100)), SECOND), millis(200));
        assert_eq!(stall(&record(gap(800, 1000)), SECOND), Duration::ZERO);
        assert_eq!(stall(&record(gap(3000, 3100)), SECOND), Duration::ZERO);
    }
}
