//! The targets, and whether this run met them.

use crate::case::Way;
use crate::contenders::{
    ASSEMBLED, BUTTRESS, GOVERNOR_AND_CLOCK, RECLOSER, SEATBELT, TOWER, stack,
};
use crate::report::{Row, number, throughput};
use std::fmt::Write as _;

/// One row of the table.
struct Target {
    what: &'static str,
    case: &'static str,
    quantity: Quantity,
    must: f64,
    aim: Option<f64>,
}

enum Quantity {
    /// The time of buttress divided by the time of this contender.
    Time(&'static str),
    /// The throughput of buttress divided by that of this contender, on two threads that share one
    /// service. The bounds are minima.
    Throughput(&'static str),
    /// The size of the future of buttress.
    Bytes,
    /// The allocations of a call through buttress.
    Allocations,
}
use Quantity::{Allocations, Bytes, Throughput, Time};

const fn target(
    what: &'static str,
    case: &'static str,
    quantity: Quantity,
    must: f64,
    aim: Option<f64>,
) -> Target {
    Target {
        what,
        case,
        quantity,
        must,
        aim,
    }
}

const TARGETS: &[Target] = &[
    target(
        "stack of five, two timeouts: buttress / assembled",
        stack::TWO_TIMEOUTS,
        Time(ASSEMBLED),
        1.15,
        Some(0.95),
    ),
    target(
        "the same, pending once",
        "the stack of five, two timeouts, pending once",
        Time(ASSEMBLED),
        1.55,
        Some(1.25),
    ),
    target(
        "load shed accepted: buttress / tower",
        "load shed, accepted",
        Time(TOWER),
        1.8,
        None,
    ),
    target(
        "load shed rejected: buttress / tower",
        "load shed, rejected",
        Time(TOWER),
        1.5,
        Some(1.2),
    ),
    target(
        "breaker, count window: buttress / recloser",
        "breaker closed, ok, count window",
        Time(RECLOSER),
        1.6,
        Some(1.3),
    ),
    target(
        "breaker, time window: buttress / seatbelt",
        "breaker closed, ok, time window",
        Time(SEATBELT),
        0.5,
        Some(0.3),
    ),
    target(
        "rate limit accepted: buttress / governor and a clock read",
        "rate limit, accepted",
        Time(GOVERNOR_AND_CLOCK),
        1.2,
        Some(1.1),
    ),
    target(
        "timeout: buttress / tower",
        "timeout",
        Time(TOWER),
        0.3,
        Some(0.2),
    ),
    target(
        "the same, pending once",
        "timeout, pending once",
        Time(TOWER),
        1.2,
        Some(1.0),
    ),
    target(
        "the same, yielding to the runtime",
        "timeout, yielding to the runtime",
        Time(TOWER),
        1.1,
        Some(1.0),
    ),
    target(
        "retry with a budget: buttress / tower with a budget",
        "retry with a budget, first attempt succeeds",
        Time(TOWER),
        0.45,
        Some(0.3),
    ),
    target(
        "size of the stack's future in bytes, requests of 8 bytes",
        stack::TWO_TIMEOUTS,
        Bytes,
        176.0,
        Some(128.0),
    ),
    target(
        "throughput of two threads that share the stack: buttress / assembled",
        stack::TWO_TIMEOUTS,
        Throughput(ASSEMBLED),
        1.5,
        Some(2.0),
    ),
    target(
        "allocations per call that does not wait, through the stack",
        stack::TWO_TIMEOUTS,
        Allocations,
        0.0,
        None,
    ),
];

/// The table of the targets whose cases were measured, or `None` if there are none.
pub fn table(rows: &[Row], shared: &[Row]) -> Option<String> {
    let lines: String = TARGETS
        .iter()
        .filter_map(|target| line(target, rows, shared))
        .collect();
    let head = "| what | buttress | peer | bound | goal | in a task | on the current thread | by hand \
                | met |\n|---|---|---|---|---|---|---|---|---|\n";
    let about = "\nThe columns buttress and peer are medians in a task, in nanoseconds per call or in \
                 millions of calls per second. The next columns are ratios, buttress / peer, for each \
                 way to call. Only the ratio in a task decides whether a target is met.\n";
    (!lines.is_empty()).then(|| format!("{head}{lines}{about}"))
}

fn line(target: &Target, rows: &[Row], shared: &[Row]) -> Option<String> {
    let rows = match target.quantity {
        Throughput(_) => shared,
        _ => rows,
    };
    let row = rows.iter().find(|row| row.case == target.case)?;
    let ours = row.cell(BUTTRESS)?;
    let (value, cells) = match target.quantity {
        Time(theirs) => {
            let theirs = row.cell(theirs)?;
            let [task, current, hand] = [Way::Task, Way::CurrentThread, Way::Hand]
                .map(|way| Some(ours.median(way)? / theirs.median(way)?));
            let (our_time, their_time) = (ours.median(Way::Task)?, theirs.median(Way::Task)?);
            let [task, current, hand, must, aim] =
                [task, current, hand, Some(target.must), target.aim].map(ratio);
            let cells = [
                number(our_time),
                number(their_time),
                bounded("≤", &must),
                bounded("≤", &aim),
                format!("**{task}**"),
                current,
                hand,
            ];
            (our_time / their_time, cells)
        }
        Throughput(theirs) => {
            let theirs = row.cell(theirs)?;
            let [tasks, hand] = [Way::Workers(2), Way::Threads(2)]
                .map(|way| Some(theirs.median(way)? / ours.median(way)?));
            let medians = [ours, theirs].map(|cell| cell.median(Way::Workers(2)));
            let [our, their] = medians.map(|median| {
                median.map_or_else(none, |median| format!("{:.2}", throughput(median)))
            });
            let value = tasks?;
            let [tasks, hand, must, aim] = [tasks, hand, Some(target.must), target.aim].map(ratio);
            let cells = [
                our,
                their,
                bounded("≥", &must),
                bounded("≥", &aim),
                format!("**{tasks}**"),
                none(),
                hand,
            ];
            (value, cells)
        }
        Bytes => absolute(target, ours.sizes?.future as f64),
        Allocations => absolute(target, ours.blocks?),
    };
    let cells = cells.join(" | ");
    Some(format!(
        "| {} | {cells} | {} |\n",
        target.what,
        target.reached(value)
    ))
}

/// The cells of a target that is not a ratio.
fn absolute(target: &Target, ours: f64) -> (f64, [String; 7]) {
    let aim = target.aim.map_or_else(none, |aim| aim.to_string());
    let must = target.must.to_string();
    let cells = [
        format!("**{ours}**"),
        none(),
        bounded("≤", &must),
        bounded("≤", &aim),
        none(),
        none(),
        none(),
    ];
    (ours, cells)
}

impl Target {
    fn reached(&self, value: f64) -> &'static str {
        let within = |bound: f64| match self.quantity {
            Throughput(_) => value >= bound,
            _ => value <= bound,
        };
        match self.aim {
            Some(aim) if within(aim) => "goal",
            _ if within(self.must) => "yes",
            _ => "**no**",
        }
    }
}

fn none() -> String {
    "–".to_owned()
}

fn ratio(ratio: Option<f64>) -> String {
    ratio.map_or_else(none, |ratio| format!("{ratio:.2}"))
}

fn bounded(sign: &str, bound: &str) -> String {
    if bound == none() {
        return none();
    }
    let mut text = String::new();
    let _ = write!(text, "{sign} {bound}");
    text
}
