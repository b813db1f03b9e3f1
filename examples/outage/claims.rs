//! What the run must show. Each claim is judged on the figures of one phase, so that it can be
//! tested without a run.

use std::time::Duration;

use crate::callee::{DEADLINE, MAX_OPEN_FOR};
use crate::figures::{Figures, PhaseFigures, share};
use crate::script::Condition;
use crate::table::millis;

/// A phase in which the machine stood still for longer says nothing about anybody.
pub const LONGEST_STALL: Duration = Duration::from_millis(250);

#[derive(Clone, Debug)]
pub struct Claim {
    /// What is claimed, of which phase.
    pub text: String,
    /// The numbers that it was judged by.
    pub numbers: String,
    pub judgement: Judgement,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    Holds,
    Fails,
    /// The machine stood still for too long in that phase.
    NotJudged,
}

pub fn judge(phases: &[PhaseFigures]) -> Vec<Claim> {
    phases
        .iter()
        .enumerate()
        .flat_map(|(index, phase)| judge_phase(index, phase))
        .collect()
}

fn judge_phase(index: usize, figures: &PhaseFigures) -> Vec<Claim> {
    let mut claims = Claims {
        place: place(index, figures),
        stall: figures.stall,
        list: Vec::new(),
    };
    every_phase(&mut claims, figures);
    match figures.phase.condition {
        Condition::Healthy => healthy(&mut claims, &figures.buttress),
        Condition::Slow => slow(&mut claims, figures),
        Condition::Recovered => recovered(&mut claims, &figures.buttress),
        Condition::Unavailable => {
            down(&mut claims, figures);
            let naive = figures.naive.sends_per_call();
            claims.add(
                "naive sends at least 2.5 per call",
                naive >= 2.5,
                format!("{naive:.2}"),
            );
            let buttress = &figures.buttress;
            claims.add(
                "above its quota, the open circuit rejects and the quota does not",
                buttress.rate_limited == 0 && buttress.circuit_open > 0,
                format!(
                    "{} by the quota, {} by the circuit",
                    buttress.rate_limited, buttress.circuit_open
                ),
            );
        }
        Condition::Refused => down(&mut claims, figures),
        Condition::Overload => overload(&mut claims, figures),
    }
    claims.list
}

/// The name of a phase; the recovered ones are told apart by their number.
pub fn place(index: usize, figures: &PhaseFigures) -> String {
    format!("{} {}", index + 1, figures.phase.condition.name())
}

/// The claims of one phase.
struct Claims {
    place: String,
    stall: Duration,
    list: Vec<Claim>,
}

impl Claims {
    fn add(&mut self, claim: &str, holds: bool, numbers: String) {
        let judgement = match holds {
            _ if self.stall > LONGEST_STALL => Judgement::NotJudged,
            true => Judgement::Holds,
            false => Judgement::Fails,
        };
        self.list.push(Claim {
            text: format!("{}: {claim}", self.place),
            numbers,
            judgement,
        });
    }

    /// A claim that a time is short, with the machine's own pause allowed on top.
    fn within(&mut self, claim: &str, found: Option<Duration>, limit: Duration) {
        let holds = found.is_some_and(|found| found <= limit + self.stall);
        let found = found.map_or("never".into(), millis);
        let numbers = format!(
            "{found} of {} + a stall of {}",
            millis(limit),
            millis(self.stall)
        );
        self.add(claim, holds, numbers);
    }
}

fn every_phase(claims: &mut Claims, figures: &PhaseFigures) {
    let sends = figures.buttress.sends_per_call();
    claims.add(
        "at most 1.25 sends per call",
        sends <= 1.25,
        format!("{sends:.2}"),
    );
    claims.within(
        "nobody waits beyond the deadline",
        Some(figures.buttress.longest),
        DEADLINE,
    );
}

fn healthy(claims: &mut Claims, buttress: &Figures) {
    let Figures {
        succeeded, calls, ..
    } = *buttress;
    let holds = succeeded * 1000 >= calls * 999;
    claims.add(
        "at least 99.9 % succeed",
        holds,
        format!("{succeeded} of {calls}"),
    );
    let rejected = buttress.rejected();
    claims.add("none is rejected", rejected == 0, rejected.to_string());
}

fn slow(claims: &mut Claims, PhaseFigures { bare, buttress, .. }: &PhaseFigures) {
    claims.add(
        "goodput at least that of bare",
        buttress.succeeded >= bare.succeeded,
        format!("{} calls against {}", buttress.succeeded, bare.succeeded),
    );
}

fn recovered(claims: &mut Claims, buttress: &Figures) {
    let claim = "back to 99 % within the longest open time and one second";
    claims.within(
        claim,
        buttress.recovery,
        MAX_OPEN_FOR + Duration::from_secs(1),
    );
}

fn down(
    claims: &mut Claims,
    PhaseFigures {
        breaker, buttress, ..
    }: &PhaseFigures,
) {
    claims.add(
        "the breaker opens",
        breaker.opened,
        format!("opened: {}", breaker.opened),
    );
    let (rejected, calls) = (buttress.rejected(), buttress.calls);
    let numbers = format!("{rejected} of {calls}");
    claims.add(
        "at least half of the calls are rejected fast",
        rejected * 2 >= calls,
        numbers,
    );
    let median = (rejected > 0).then_some(buttress.rejected_p50);
    claims.within(
        "half of the rejected hear it in 5 ms",
        median,
        Duration::from_millis(5),
    );
}

fn overload(
    claims: &mut Claims,
    PhaseFigures {
        breaker,
        bare,
        buttress,
        ..
    }: &PhaseFigures,
) {
    let goodput = share(buttress.succeeded, bare.succeeded);
    claims.add(
        "goodput at least 0.95 of that of bare",
        goodput >= 0.95,
        format!(
            "{} calls against {}: {goodput:.2}",
            buttress.succeeded, bare.succeeded
        ),
    );
    let others = buttress.rejected() - buttress.shed;
    claims.add(
        "the shed, not the breaker, holds it",
        breaker.stayed_closed && buttress.shed > 0 && others == 0,
        format!(
            "{} shed, {others} rejected otherwise, breaker always closed: {}",
            buttress.shed, breaker.stayed_closed
        ),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::BreakerFigures;
    use crate::script::Script;

    /// Figures of a run that keeps every promise.
    fn good_run() -> Vec<PhaseFigures> {
        let client = Figures {
            calls: 1000,
            succeeded: 1000,
            sends: 1000,
            longest: DEADLINE,
            recovery: Some(Duration::ZERO),
            ..Figures::default()
        };
        let well = |phase| PhaseFigures {
            phase,
            stall: Duration::from_millis(2),
            breaker: BreakerFigures {
                opened: false,
                stayed_closed: true,
            },
            bare: client.clone(),
            naive: client.clone(),
            buttress: client.clone(),
        };
        let mut run: Vec<_> = Script::quick().phases.into_iter().map(well).collect();
        for phase in &mut run {
            match phase.phase.condition {
                Condition::Unavailable | Condition::Refused => {
                    phase.breaker = BreakerFigures {
                        opened: true,
                        stayed_closed: false,
                    };
                    phase.naive.sends = 4000;
                    phase.buttress.circuit_open = 900;
                    phase.buttress.rejected_p50 = Duration::from_millis(1);
                }
                Condition::Overload => phase.buttress.shed = 500,
                _ => {}
            }
        }
        run
    }

    /// The claims that fail when `break_it` is done to the phases of one condition.
    fn failing(condition: Condition, break_it: impl Fn(&mut PhaseFigures)) -> Vec<String> {
        let mut run = good_run();
        run.iter_mut()
            .filter(|phase| phase.phase.condition == condition)
            .for_each(break_it);
        let claims = judge(&run).into_iter();
        claims
            .filter(|claim| claim.judgement == Judgement::Fails)
            .map(|claim| claim.text)
            .collect()
    }

    #[test]
    fn a_good_run_keeps_every_claim() {
        assert!(
            judge(&good_run())
                .iter()
                .all(|claim| claim.judgement == Judgement::Holds)
        );
    }

    use Condition::{Healthy, Overload, Recovered, Refused, Slow, Unavailable};

    type Break = fn(&mut PhaseFigures);

    const BREAKS: [(Condition, Break, &str); 20] = [
        (
            Healthy,
            |p| p.buttress.succeeded = 998,
            "1 healthy: at least 99.9 % succeed",
        ),
        (
            Healthy,
            |p| p.buttress.rate_limited = 1,
            "1 healthy: none is rejected",
        ),
        (
            Healthy,
            |p| p.buttress.sends = 1251,
            "1 healthy: at most 1.25 sends per call",
        ),
        (
            Healthy,
            |p| p.buttress.longest = DEADLINE + p.stall * 2,
            "1 healthy: nobody waits beyond the deadline",
        ),
        (
            Slow,
            |p| p.buttress.succeeded = 999,
            "2 slow: goodput at least that of bare",
        ),
        (
            Recovered,
            |p| p.buttress.recovery = None,
            "3 recovered: back to 99 % within the longest open time and one second",
        ),
        (
            Recovered,
            |p| p.buttress.recovery = Some(Duration::from_millis(3250)),
            "3 recovered: back to 99 % within the longest open time and one second",
        ),
        (
            Unavailable,
            |p| p.breaker.opened = false,
            "4 503: the breaker opens",
        ),
        (
            Unavailable,
            |p| p.buttress.circuit_open = 499,
            "4 503: at least half of the calls are rejected fast",
        ),
        (
            Unavailable,
            |p| p.buttress.rejected_p50 = Duration::from_millis(8),
            "4 503: half of the rejected hear it in 5 ms",
        ),
        (
            Unavailable,
            |p| p.naive.sends = 2499,
            "4 503: naive sends at least 2.5 per call",
        ),
        (
            Unavailable,
            |p| p.buttress.rate_limited = 1,
            "4 503: above its quota, the open circuit rejects and the quota does not",
        ),
        (
            Refused,
            |p| p.breaker.opened = false,
            "6 refused: the breaker opens",
        ),
        (
            Refused,
            |p| p.buttress.circuit_open = 499,
            "6 refused: at least half of the calls are rejected fast",
        ),
        (
            Refused,
            |p| p.buttress.rejected_p50 = Duration::from_millis(8),
            "6 refused: half of the rejected hear it in 5 ms",
        ),
        (
            Refused,
            |p| p.buttress.sends = 1251,
            "6 refused: at most 1.25 sends per call",
        ),
        (
            Overload,
            |p| p.buttress.succeeded = 949,
            "8 overload: goodput at least 0.95 of that of bare",
        ),
        (
            Overload,
            |p| p.breaker.stayed_closed = false,
            "8 overload: the shed, not the breaker, holds it",
        ),
        (
            Overload,
            |p| p.buttress.shed = 0,
            "8 overload: the shed, not the breaker, holds it",
        ),
        (
            Overload,
            |p| p.buttress.circuit_open = 1,
            "8 overload: the shed, not the breaker, holds it",
        ),
    ];

    #[test]
    fn each_claim_can_fail_and_is_named() {
        for (condition, break_it, claim) in BREAKS {
            let failing = failing(condition, break_it);
            assert_eq!(failing.first().map(String::as_str), Some(claim));
        }
    }

    #[test]
    fn one_broken_figure_breaks_one_claim() {
        let failing = failing(Condition::Overload, |phase| phase.buttress.shed = 0);
        assert_eq!(failing.len(), 1);
    }

    #[test]
    fn a_stalled_phase_is_not_judged() {
        let mut run = good_run();
        run[0].buttress.succeeded = 0;
        run[0].stall = Duration::from_millis(251);
        let claims = judge(&run);
        let (stalled, others): (Vec<_>, Vec<_>) = claims
            .iter()
            .partition(|claim| claim.text.starts_with("1 healthy"));
        assert!(
            stalled
                .iter()
                .all(|claim| claim.judgement == Judgement::NotJudged)
        );
        assert!(
            others
                .iter()
                .all(|claim| claim.judgement == Judgement::Holds)
        );
    }
}
