//! What the run must show. Nothing else in this example depends on it.

use std::time::Duration;

use crate::clients::Kind::{self, Bare, Buttress, Careful, Defaults, Naive};
use crate::figures::{ActFigures, SideFigures};
use crate::scenario::{DEADLINE, Trouble};

/// An act in which the machine stood still for longer says nothing about anybody.
pub const LONGEST_STALL: Duration = Duration::from_millis(250);

#[derive(Clone, Debug)]
pub struct Claim {
    pub text: String,
    /// The figures by which it was judged.
    pub figures: String,
    pub judgement: Judgement,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    Holds,
    Fails,
    /// The machine stood still for too long.
    NotJudged,
}

impl Judgement {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::Fails => "FAILS",
            Self::NotJudged => "not judged",
        }
    }
}

pub fn judge(act: &ActFigures) -> Vec<Claim> {
    let mut claims = Claims {
        trouble: act.act.trouble.name(),
        stall: act.stall,
        list: Vec::new(),
    };
    for side in &act.sides {
        if matches!(side.kind, Defaults | Buttress) {
            of_this_crate(&mut claims, act.act.trouble, side);
        }
    }
    match act.act.trouble {
        Trouble::Overload => overload(&mut claims, act),
        _ => outage(&mut claims, act),
    }
    claims.list
}

struct Claims {
    trouble: &'static str,
    stall: Duration,
    list: Vec<Claim>,
}

impl Claims {
    fn add(&mut self, kind: Kind, claim: &str, holds: bool, figures: String) {
        let judgement = match holds {
            _ if self.stall > LONGEST_STALL => Judgement::NotJudged,
            true => Judgement::Holds,
            false => Judgement::Fails,
        };
        self.list.push(Claim {
            text: format!("{}: {} {claim}", self.trouble, kind.name()),
            figures,
            judgement,
        });
    }

    /// A time may be longer than claimed by the time for which the machine stood still.
    fn within(&mut self, kind: Kind, claim: &str, found: Option<Duration>, limit: Duration) {
        let holds = found.is_some_and(|found| found <= limit + self.stall);
        let figures = match found {
            Some(found) => format!("{found:.2?}"),
            None => "never".into(),
        };
        let claim = format!("{claim} within {limit:?}");
        self.add(kind, &claim, holds, figures);
    }

    fn at_least(&mut self, kind: Kind, claim: &str, found: f64, limit: f64) {
        self.add(kind, claim, found >= limit, format!("{found:.2}"));
    }

    fn at_most(&mut self, kind: Kind, claim: &str, found: f64, limit: f64) {
        self.add(kind, claim, found <= limit, format!("{found:.2}"));
    }
}

fn of_this_crate(claims: &mut Claims, trouble: Trouble, side: &SideFigures) {
    let kind = side.kind;
    let claim = "succeeds in 99.9 % of the calls before the trouble";
    claims.at_least(kind, claim, side.before.success(), 99.9);
    let rejected = side.before.rejected();
    let claim = "rejects nothing before the trouble";
    claims.add(kind, claim, rejected == 0, rejected.to_string());
    claims.within(kind, "ends every call", Some(side.whole.longest), DEADLINE);
    let sends = side.during.sends_per_call();
    claims.at_most(
        kind,
        "sends at most 1.25 times per call during the trouble",
        sends,
        1.25,
    );
    let sends = side.after.sends_per_call();
    claims.at_most(
        kind,
        "sends at most 1.05 times per call after the trouble",
        sends,
        1.05,
    );
    let back = match (trouble, kind) {
        (Trouble::Overload, Buttress) => 2,
        _ => 3,
    };
    claims.within(
        kind,
        "is back to normal",
        side.back,
        Duration::from_secs(back),
    );
}

fn overload(claims: &mut Claims, act: &ActFigures) {
    let [bare, buttress] = [Bare, Buttress].map(|kind| act.side(kind));
    for kind in [Naive, Careful] {
        let late = &act.side(kind).late;
        claims.at_most(
            kind,
            "stays below 50 % long after the trouble",
            late.success(),
            49.99,
        );
        let claim = "still sends 2.5 times per call long after the trouble";
        claims.at_least(kind, claim, late.sends_per_call(), 2.5);
    }
    for kind in [Bare, Naive, Careful] {
        let ahead = buttress.whole.success() - act.side(kind).whole.success();
        let claim = format!(
            "is at least 3 points ahead of {} over the whole run",
            kind.name()
        );
        claims.at_least(Buttress, &claim, ahead, 3.0);
    }
    let behind = bare.whole.success() - act.side(Defaults).whole.success();
    let claim = "is at most 2 points behind bare (less than 0: ahead) over the whole run";
    claims.at_most(Defaults, claim, behind, 2.0);
    let successes = buttress.during.succeeded as f64 / bare.during.succeeded as f64;
    let claim = "has at least 0.95 of the successes of bare during the trouble";
    claims.at_least(Buttress, claim, successes, 0.95);
    let limited = buttress.during.overloaded + buttress.during.rate_limited;
    let open = buttress.during.circuit_open;
    claims.add(
        Buttress,
        "holds the overload by its limits, with its circuits closed",
        limited > 0 && open == 0,
        format!("{limited} rejected by the limits, {open} by the circuits"),
    );
}

fn outage(claims: &mut Claims, act: &ActFigures) {
    let [bare, buttress] = [Bare, Buttress].map(|kind| &act.side(kind).during);
    let opened = act.side(Buttress).all_opened;
    let figures = opened.map_or("never".into(), |opened| format!("after {opened:.2?}"));
    claims.add(
        Buttress,
        "opens all its circuits",
        opened.is_some(),
        figures,
    );
    let calls = buttress.calls;
    let lost = bare.succeeded.saturating_sub(buttress.succeeded);
    claims.add(
        Buttress,
        "succeeds as often as bare during the trouble, but for 1 % of the calls",
        lost * 100 <= calls,
        format!("{} of {calls}, bare {}", buttress.succeeded, bare.succeeded),
    );
    let rejected = buttress.rejected();
    claims.add(
        Buttress,
        "rejects at least half of the calls during the trouble",
        rejected * 2 >= calls,
        format!("{rejected} of {calls}"),
    );
    let wait = (rejected > 0).then_some(buttress.rejected_p50);
    let claim = "tells half of the rejected callers";
    claims.within(Buttress, claim, wait, Duration::from_millis(5));
    if act.act.trouble == Trouble::Failing {
        claims.add(
            Buttress,
            "rejects the calls above the quota by its open circuits, not by the quota",
            buttress.rate_limited == 0 && buttress.circuit_open > 0,
            format!(
                "{} by the quota, {} by the circuits",
                buttress.rate_limited, buttress.circuit_open
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::Figures;
    use crate::scenario::Act;

    /// Figures that keep every claim.
    fn good(act: Act) -> ActFigures {
        let side = |&kind: &Kind| {
            let figures = Figures {
                calls: 1000,
                succeeded: 1000,
                sends: 1000,
                longest: DEADLINE,
                ..Figures::default()
            };
            let mut side = SideFigures {
                kind,
                whole: figures.clone(),
                before: figures.clone(),
                during: figures.clone(),
                after: figures.clone(),
                late: figures,
                wasted: 0.0,
                back: Some(Duration::from_secs(2)),
                opened: None,
                all_opened: Some(Duration::from_secs(1)),
            };
            match kind {
                Naive | Careful => {
                    side.whole.succeeded = 200;
                    side.late.succeeded = 0;
                    side.late.sends = 3000;
                }
                Bare | Defaults => side.whole.succeeded = 960,
                Buttress if act.trouble == Trouble::Overload => side.during.overloaded = 300,
                Buttress => side.during.circuit_open = 600,
            }
            side
        };
        ActFigures {
            sides: act.kinds.iter().map(side).collect(),
            act,
            stall: Duration::from_millis(2),
        }
    }

    fn failing(act: &ActFigures) -> Vec<String> {
        let claims = judge(act).into_iter();
        claims
            .filter(|claim| claim.judgement == Judgement::Fails)
            .map(|claim| claim.text)
            .collect()
    }

    type Break = fn(&mut SideFigures);

    // One case a line.
    #[rustfmt::skip]
    const OVERLOAD: [(Kind, Break, &str); 14] = [
        (Buttress, |s| s.before.succeeded = 998, "buttress succeeds in 99.9 %"),
        (Defaults, |s| s.before.circuit_open = 1, "stack() alone rejects nothing"),
        (Defaults, |s| s.whole.longest *= 2, "stack() alone ends every call"),
        (Buttress, |s| s.during.sends = 1251, "buttress sends at most 1.25"),
        (Buttress, |s| s.after.sends = 1051, "buttress sends at most 1.05"),
        (Buttress, |s| s.back = None, "buttress is back to normal"),
        (Buttress, |s| s.back = Some(Duration::from_millis(2100)), "buttress is back to normal within 2s"),
        (Defaults, |s| s.back = Some(Duration::from_millis(3100)), "stack() alone is back to normal within 3s"),
        (Naive, |s| s.late.succeeded = 500, "naive retry stays below 50 %"),
        (Careful, |s| s.late.sends = 2499, "careful retry still sends 2.5"),
        (Bare, |s| s.whole.succeeded = 971, "buttress is at least 3 points ahead of bare"),
        (Defaults, |s| s.whole.succeeded = 939, "stack() alone is at most 2 points behind"),
        (Buttress, |s| s.during.succeeded = 949, "buttress has at least 0.95"),
        (Buttress, |s| s.during.circuit_open = 1, "buttress holds the overload by its limits"),
    ];

    #[rustfmt::skip]
    const FAILING: [(Kind, Break, &str); 5] = [
        (Buttress, |s| s.all_opened = None, "buttress opens all"),
        (Buttress, |s| s.during.succeeded = 989, "buttress succeeds as often as bare"),
        (Buttress, |s| s.during.circuit_open = 499, "buttress rejects at least half"),
        (Buttress, |s| s.during.rejected_p50 = Duration::from_millis(8), "buttress tells half"),
        (Buttress, |s| s.during.rate_limited = 1, "buttress rejects the calls above the quota"),
    ];

    #[test]
    fn each_claim_can_fail_and_says_which_it_is() {
        let [_, failing_act, _] = Act::outages();
        let overload = OVERLOAD.map(|case| (Act::overload(), case));
        let outage = FAILING.map(|case| (failing_act.clone(), case));
        for (act, (kind, break_it, claim)) in overload.into_iter().chain(outage) {
            let mut figures = good(act);
            assert_eq!(failing(&figures), [""; 0]);
            let side = figures.sides.iter_mut().find(|side| side.kind == kind);
            break_it(side.expect("the act has this kind"));
            let expected = format!("{}: {claim}", figures.act.trouble.name());
            let failing = failing(&figures);
            assert!(
                failing.len() == 1 && failing[0].starts_with(&expected),
                "{claim}: {failing:?}"
            );
        }
    }

    #[test]
    fn an_act_in_which_the_machine_stood_still_is_not_judged() {
        let mut figures = good(Act::overload());
        figures.sides[0].whole.succeeded = 1000;
        figures.stall = LONGEST_STALL + Duration::from_millis(1);
        let claims = judge(&figures);
        assert!(
            claims
                .iter()
                .all(|claim| claim.judgement == Judgement::NotJudged)
        );
    }
}
