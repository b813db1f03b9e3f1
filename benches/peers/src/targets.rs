//! What must be reached, and what is aimed at, with the ratios of this run.

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
    /// Our time by theirs.
    Time(&'static str),
    /// Our throughput by theirs, on two threads that share one service. At least.
    Throughput(&'static str),
    /// Of our future.
    Bytes,
    /// Of our call.
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
        "stack of five, two timeouts, by assembled",
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
        "load shed accepted, by tower",
        "load shed, accepted",
        Time(TOWER),
        1.8,
        None,
    ),
    target(
        "load shed rejected, by tower",
        "load shed, rejected",
        Time(TOWER),
        1.5,
        Some(1.2),
    ),
    target(
        "breaker, count window, by recloser",
        "breaker closed, ok, count window",
        Time(RECLOSER),
        1.6,
        Some(1.3),
    ),
    target(
        "breaker, time window, by seatbelt",
        "breaker closed, ok, time window",
        Time(SEATBELT),
        0.5,
        Some(0.3),
    ),
    target(
        "rate limit accepted, by governor and a clock read",
        "rate limit, accepted",
        Time(GOVERNOR_AND_CLOCK),
        1.2,
        Some(1.1),
    ),
    target("timeout, by tower", "timeout", Time(TOWER), 0.3, Some(0.2)),
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
        "retry with a budget, by tower with a budget",
        "retry with a budget, first attempt succeeds",
        Time(TOWER),
        0.45,
        Some(0.3),
    ),
    target(
        "bytes of the stack's future, requests of 8 bytes",
        stack::TWO_TIMEOUTS,
        Bytes,
        176.0,
        Some(128.0),
    ),
    target(
        "two threads that share the stack, together, by assembled",
        stack::TWO_TIMEOUTS,
        Throughput(ASSEMBLED),
        1.5,
        Some(2.0),
    ),
    target(
        "allocations of the stack, a call that does not wait",
        stack::TWO_TIMEOUTS,
        Allocations,
        0.0,
        None,
    ),
];

/// The table, of the cases that were measured. Nothing if there are none.
pub fn table(rows: &[Row], shared: &[Row]) -> Option<String> {
    let lines: String = TARGETS
        .iter()
        .filter_map(|target| line(target, rows, shared))
        .collect();
    let head = "| what | ours | theirs | must | aim | in a task | on the current thread | by hand \
                | reached |\n|---|---|---|---|---|---|---|---|---|\n";
    let about = "\nOurs and theirs are medians in a task: nanoseconds per call, or million calls per \
                 second in all. The other columns are ratios of this run, ours by theirs, for each \
                 way to call. What is reached is judged in a task alone.\n";
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

/// Ours alone.
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
            Some(aim) if within(aim) => "aim",
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
