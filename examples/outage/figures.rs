//! From the record to figures. Tables, sentences and claims are made of these alone.

use std::time::Duration;

use buttress::Rejection;

use crate::clients::{Kind, Outcome};
use crate::run::{Call, Record, Side};
use crate::scenario::{Act, CLIENTS, Phase};

/// Back to normal means that this share of the calls succeeds, in per cent ...
const NORMAL: f64 = 99.0;
/// ... over this time.
const NORMAL_FOR: Duration = Duration::from_secs(2);

#[derive(Clone, Debug)]
pub struct ActFigures {
    pub act: Act,
    pub sides: Vec<SideFigures>,
    pub stall: Duration,
}

#[derive(Clone, Debug)]
pub struct SideFigures {
    pub kind: Kind,
    pub whole: Figures,
    pub before: Figures,
    pub during: Figures,
    pub after: Figures,
    /// The calls from [`Act::metastable`] on.
    pub late: Figures,
    /// The share of the workers' time that went into responses that nobody waited for, and into
    /// refusals, in per cent.
    pub wasted: f64,
    /// How long after the trouble the service is back to normal.
    pub back: Option<Duration>,
    /// How long after the trouble's start the first circuit opened, and how long until all were open.
    pub opened: Option<Duration>,
    pub all_opened: Option<Duration>,
}

/// What became of some calls.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    pub calls: usize,
    pub succeeded: usize,
    pub circuit_open: usize,
    pub rate_limited: usize,
    pub overloaded: usize,
    pub sends: u32,
    /// The wait that 99 % of the callers did not exceed.
    pub p99: Duration,
    pub longest: Duration,
    /// The median wait of the rejected callers.
    pub rejected_p50: Duration,
}

impl Figures {
    fn of<'a>(calls: impl Iterator<Item = &'a Call>) -> Self {
        let mut figures = Self::default();
        let (mut waits, mut rejected) = (Vec::new(), Vec::new());
        for call in calls {
            figures.calls += 1;
            figures.sends += call.sends;
            waits.push(call.waited());
            match call.outcome {
                Outcome::Succeeded => figures.succeeded += 1,
                Outcome::Failed | Outcome::TimedOut => {}
                Outcome::Rejected(rejection) => {
                    rejected.push(call.waited());
                    match rejection {
                        Rejection::CircuitOpen { .. } => figures.circuit_open += 1,
                        Rejection::Overloaded { .. } => figures.overloaded += 1,
                        _ => figures.rate_limited += 1,
                    }
                }
            }
        }
        figures.longest = waits.iter().max().copied().unwrap_or_default();
        figures.p99 = percentile(waits, 99);
        figures.rejected_p50 = percentile(rejected, 50);
        figures
    }

    pub fn rejected(&self) -> usize {
        self.circuit_open + self.rate_limited + self.overloaded
    }

    pub fn lost(&self) -> usize {
        self.calls - self.succeeded
    }

    /// In per cent.
    pub fn success(&self) -> f64 {
        percent(self.succeeded, self.calls)
    }

    pub fn sends_per_call(&self) -> f64 {
        f64::from(self.sends) / self.calls as f64
    }
}

pub fn percent(part: usize, whole: usize) -> f64 {
    part as f64 / whole as f64 * 100.0
}

/// The smallest wait that so many per cent of the calls did not exceed.
fn percentile(mut waits: Vec<Duration>, percent: usize) -> Duration {
    waits.sort_unstable();
    let rank = (waits.len() * percent).div_ceil(100).max(1);
    waits.get(rank - 1).copied().unwrap_or_default()
}

impl ActFigures {
    pub fn of(record: &Record) -> Self {
        let sides = record.sides.iter();
        Self {
            act: record.act.clone(),
            sides: sides.map(|side| of_side(&record.act, side)).collect(),
            stall: record.stall,
        }
    }

    pub fn side(&self, kind: Kind) -> &SideFigures {
        let side = self.sides.iter().find(|side| side.kind == kind);
        side.expect("the act has this kind of clients")
    }
}

fn of_side(act: &Act, side: &Side) -> SideFigures {
    let calls = |wanted: &dyn Fn(&Call) -> bool| {
        let judged = side.calls.iter().filter(|call| call.due < act.judged);
        Figures::of(judged.filter(|call| wanted(call)))
    };
    let time = |wanted: fn(bool) -> bool| -> f64 {
        let work = side.work.iter().filter(|work| wanted(work.useful));
        // An empty sum of floats is -0.
        work.fold(0.0, |sum, work| sum + work.took.as_secs_f64())
    };
    let opened = |count: u32| {
        let mut open = side.open.iter().filter(|open| open.from >= act.start);
        let first = open.find(|open| open.count >= count as usize)?;
        Some(first.from.saturating_sub(act.start))
    };
    SideFigures {
        kind: side.kind,
        whole: calls(&|_| true),
        before: calls(&|call| phase(act, call) == Phase::Before),
        during: calls(&|call| phase(act, call) == Phase::During),
        after: calls(&|call| phase(act, call) == Phase::After),
        late: calls(&|call| call.due >= act.metastable),
        wasted: time(|useful| !useful) / time(|_| true) * 100.0,
        back: back(act, &side.calls),
        opened: opened(1),
        all_opened: opened(CLIENTS),
    }
}

/// The phase in which a call was due. The trouble also has the calls that it met in flight.
fn phase(act: &Act, call: &Call) -> Phase {
    match act.phase(call.due) {
        Phase::Before if call.ended >= act.start => Phase::During,
        phase => phase,
    }
}

fn back(act: &Act, calls: &[Call]) -> Option<Duration> {
    let tenths = (0..).map(|tenth| act.end + Duration::from_millis(100) * tenth);
    let mut starts = tenths.take_while(|&start| start + NORMAL_FOR <= act.judged);
    let normal = starts.find(|&start| {
        let window = start..start + NORMAL_FOR;
        let figures = Figures::of(calls.iter().filter(|call| window.contains(&call.due)));
        figures.success() >= NORMAL
    })?;
    Some(normal.saturating_sub(act.end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(due: Duration, outcome: Outcome) -> Call {
        Call {
            due,
            fired: due,
            ended: due + Duration::from_millis(100),
            sends: 1,
            outcome,
        }
    }

    /// A hundred calls a second, which fail for so long after the trouble.
    fn calls(act: &Act, failing_for: Duration) -> Vec<Call> {
        let hundredths = (0..).map(|hundredth| Duration::from_millis(10) * hundredth);
        let due = hundredths.take_while(|&due| due < act.length());
        due.map(|due| match due {
            _ if due < act.start || due >= act.end + failing_for => call(due, Outcome::Succeeded),
            _ => call(due, Outcome::Failed),
        })
        .collect()
    }

    #[test]
    fn back_to_normal_is_the_first_window_with_99_percent() {
        let act = Act::quick_overload();
        let back = |seconds| back(&act, &calls(&act, Duration::from_secs_f64(seconds)));
        assert_eq!(back(0.0), Some(Duration::ZERO));
        assert_eq!(back(1.0), Some(Duration::from_secs(1)));
        assert_eq!(back(10.0), Some(Duration::from_secs(10)));
        assert_eq!(back(10.1), None);
    }

    #[test]
    fn a_call_in_flight_when_the_trouble_starts_belongs_to_the_trouble() {
        let act = Act::quick_overload();
        let millis = Duration::from_millis;
        let phase = |due| phase(&act, &call(millis(due), Outcome::Failed));
        // The trouble lasts from 5 s to 8 s, and each call 100 ms.
        assert_eq!(phase(4899), Phase::Before);
        assert_eq!(phase(4900), Phase::During);
        assert_eq!(phase(7999), Phase::During);
        assert_eq!(phase(8000), Phase::After);
    }

    #[test]
    fn a_percentile_is_the_wait_at_its_rank() {
        let waits = |longest| (1..=longest).map(Duration::from_millis).collect();
        assert_eq!(percentile(waits(200), 50), Duration::from_millis(100));
        assert_eq!(percentile(waits(200), 99), Duration::from_millis(198));
        assert_eq!(percentile(waits(1), 99), Duration::from_millis(1));
        assert_eq!(percentile(waits(0), 99), Duration::ZERO);
    }
}
